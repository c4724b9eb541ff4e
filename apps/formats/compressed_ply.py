"""PlayCanvas' compressed PLY: 256 Gaussians a chunk, 16 bytes each between the chunk's bounds.

Source: readers and writers of splat-transform, whose decoding of harmonics is taken where programs
differ; specification. Harmonics, if any, are one byte a coefficient, channel by channel.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from polyfield.apps.files import open_plain
from polyfield.apps.formats.ply_elements import (
    PlyHeader,
    check_size,
    columns,
    read_header,
    read_table,
)
from polyfield.apps.formats.splat_values import (
    BYTE_LOGITS,
    SplatFile,
    array_of,
    check_count,
    in_space_order,
    largest_and_three,
    opacities_of,
    pieces,
    splats_of,
    three_and_largest,
)
from polyfield.cuda.errors import InputError
from polyfield.fields.splats import CONSTANT, Splats

HIGHEST_DEGREE = 3
_CHUNK = 256
_PACKED = [f"packed_{what}" for what in ("position", "rotation", "scale", "color")]
_BOUNDS = [
    [f"{end}_{prefix}{axis}" for end in ("min", "max") for axis in axes]
    for prefix, axes in (("", "xyz"), ("scale_", "xyz"), ("", "rgb"))
]
_FIELDS = ((11, 21), (10, 11), (11, 0))  # bits and place of x, y and z in a word
_COLORS = ((8, 24), (8, 16), (8, 8), (8, 0))
_LEAST_EXTENT = 1e-5  # below which bounds are one value
_LARGEST_SCALE = 20.0  # in the bounds
_SH_RANGE = 8.0  # from end to end
_EXPECTED = "a PLY with elements chunk, vertex and perhaps sh, as PlayCanvas packs Gaussians"


def read_compressed_ply(path: Path, where: str) -> SplatFile:
    """The Gaussians of a compressed PLY, in the file's order, quantised as it has them.

    Chunks may lack bounds of colours (older files); an element sh may be empty. InputError, which
    begins with `where`, for another file, one that is cut off, and counts that do not agree.
    """
    try:
        with open_plain(path) as file:
            header = read_header(file, where)
            count, held = _checked(header, where)
            beyond = check_size(file, header, where)
            chunks = read_table(file, header, "chunk", where)
            packed = read_table(file, header, "vertex", where)
            sh = read_table(file, header, "sh", where) if held else None
    except OSError as error:
        got = f"cannot be read ({error.strerror or error})"
        raise InputError(where, got, _EXPECTED) from error
    spans = [set(names) <= set(chunks.dtype.names or ()) for names in _BOUNDS]
    bounds = [
        columns(chunks, names, slice(None)).reshape(-1, 2, 3) if there else None
        for names, there in zip(_BOUNDS, spans, strict=True)
    ]
    k = 1 + held // 3
    means, scales = np.empty((count, 3), np.float32), np.empty((count, 3), np.float32)
    turns, logits = np.empty((count, 4), np.float32), np.empty(count, np.float32)
    harmonics = np.empty((count, k, 3), np.float32)
    for rows in pieces(count):
        position, rotation, scale, color = (
            packed[name][rows].astype(np.uint32) for name in _PACKED
        )
        chunk = np.arange(rows.start, rows.stop) // _CHUNK
        means[rows] = _within(_unpacked(position, _FIELDS), bounds[0], chunk)
        scales[rows] = _within(_unpacked(scale, _FIELDS), bounds[1], chunk)
        turns[rows] = _quaternions(rotation)
        shown = _within(_unpacked(color, _COLORS[:3]), bounds[2], chunk)
        harmonics[rows, 0] = (shown - 0.5) / CONSTANT
        logits[rows] = BYTE_LOGITS[color & 255]
    if sh is not None:
        rest = [f"f_rest_{i}" for i in range(held)]
        for rows in pieces(count):
            found = _coefficients(columns(sh, rest, rows)).reshape(-1, 3, k - 1)
            harmonics[rows, 1:] = found.transpose(0, 2, 1)
    mode = any(comment.lower() == "splatrendermode: mip" for comment in header.comments)
    splats = splats_of(means, scales, turns, logits, harmonics, mode)
    notes = [f"warning: {beyond} bytes follow what its header states"] if beyond else []
    return SplatFile(splats, "compressed PLY of PlayCanvas", notes=tuple(notes))


def compressed_ply_bytes(splats: Splats, sort: bool = True) -> Iterator[bytes]:
    """The file, piece by piece: neighbours in space share a chunk, unless sort is False.

    Error: of positions and log-scales extent of the chunk / 4094 (y: / 2046), of colours / 510, of
    opacities 1/510, of rotations 0.23 degrees, of harmonics 1/64 within +-4. Bands beyond 3 have no
    place.
    """
    means, harmonics = array_of(splats.means), array_of(splats.harmonics)
    order = in_space_order(means) if sort else np.arange(len(means))
    count, k = len(means), min(harmonics.shape[1], (HIGHEST_DEGREE + 1) ** 2)
    shown = harmonics[:, 0] * np.float32(CONSTANT) + np.float32(0.5)
    scales = np.clip(array_of(splats.log_scales), -_LARGEST_SCALE, _LARGEST_SCALE)
    bounds, words = [], []
    for values, fields in ((means, _FIELDS), (scales, _FIELDS), (shown, _COLORS)):
        low, high, share = _bounded(values[order])
        bounds += [low, high]
        words.append(_packed(share, fields))
    opacity = opacities_of(array_of(splats.opacity_logits)[order])
    words[2] |= _packed(opacity[:, None], _COLORS[3:])
    words.insert(1, _rotation_words(array_of(splats.quaternions)[order]))
    chunks = np.concatenate(bounds, 1)
    lines = ["ply", "format binary_little_endian 1.0"]
    lines += ["comment SplatRenderMode: mip"] if splats.antialiased else []
    lines.append(f"element chunk {len(chunks)}")
    lines += [f"property float {name}" for names in _BOUNDS for name in names]
    lines.append(f"element vertex {count}")
    lines += [f"property uint {name}" for name in _PACKED]
    if k > 1:
        lines.append(f"element sh {count}")
        lines += [f"property uchar f_rest_{i}" for i in range(3 * (k - 1))]
    yield ("\n".join([*lines, "end_header"]) + "\n").encode()
    yield chunks.astype("<f4").tobytes()
    yield np.stack(words, 1).astype("<u4").tobytes()
    for rows in pieces(count) if k > 1 else ():
        by_channel = harmonics[order[rows], 1:k].transpose(0, 2, 1)
        codes = np.trunc(256 * (by_channel / _SH_RANGE + 0.5))
        yield np.clip(codes, 0, 255).astype("u1").tobytes()


def _checked(header: PlyHeader, where: str) -> tuple[int, int]:
    """Gaussians, and coefficients of each beyond the first."""
    vertex, chunk, sh = (header.element(name) for name in ("vertex", "chunk", "sh"))
    if vertex is None or chunk is None or not set(_PACKED) <= set(vertex.names):
        raise InputError(where, "no packed vertices and chunks", _EXPECTED)
    for element, kind, names in (
        (chunk, "f4", _BOUNDS[0] + _BOUNDS[1]),
        (vertex, "u4", _PACKED),
    ):
        wrong = [name for name in names if dict(element.columns).get(name) != kind]
        if wrong:
            got = f"element {element.name} without {wrong[0]} of type {kind}"
            raise InputError(where, got, _EXPECTED)
    held = 0 if sh is None else len(sh.columns)
    rest = [(f"f_rest_{i}", "u1") for i in range(held)]
    if sh is not None and (held not in (0, 9, 24, 45) or sorted(sh.columns) != sorted(rest)):
        got = f"element sh of {held} properties"
        raise InputError(where, got, "0, 9, 24 or 45 bytes f_rest_*, numbered from 0")
    check_count(where, vertex.count, {0: 0, 9: 1, 24: 2, 45: 3}[held])
    wanted = -(-vertex.count // _CHUNK)
    if chunk.count != wanted or (sh is not None and sh.count != vertex.count):
        got = f"{chunk.count} chunks, {vertex.count} vertices"
        got += "" if sh is None else f", {sh.count} rows of sh"
        raise InputError(where, got, f"{wanted} chunks, and rows of sh as many as vertices")
    return vertex.count, held


def _unpacked(words: np.ndarray, fields: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Numbers from 0 to 1 in the bits of words, in float64, as the format's own program."""
    parts = [(words >> place & ((1 << bits) - 1)) / ((1 << bits) - 1) for bits, place in fields]
    return np.stack(parts, 1)


def _packed(shares: np.ndarray, fields: tuple[tuple[int, int], ...]) -> np.ndarray:
    """The inverse of `_unpacked`, to the nearest; fields beyond the columns stay 0."""
    words = np.zeros(len(shares), np.uint32)
    for (bits, place), share in zip(fields, shares.T, strict=False):
        most = (1 << bits) - 1
        codes = np.floor(np.clip(share, 0, 1) * most + 0.5).astype(np.uint32)
        words |= np.minimum(codes, most) << place
    return words


def _within(shares: np.ndarray, bounds: np.ndarray | None, chunk: np.ndarray) -> np.ndarray:
    if bounds is None:
        return shares
    low, high = bounds[chunk, 0], bounds[chunk, 1]
    with np.errstate(invalid="ignore", over="ignore"):
        return low * (1 - shares) + high * shares


def _bounded(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Least and largest of each chunk, and where each row lies between them, from 0 to 1."""
    starts = np.arange(0, len(values), _CHUNK)
    low, high = (np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts))
    start = np.repeat(low, _CHUNK, 0)[: len(values)].astype(np.float64)
    extent = np.repeat(high, _CHUNK, 0)[: len(values)] - start
    share = np.where(extent < _LEAST_EXTENT, 0, (values - start) / np.maximum(extent, 1e-30))
    return low, high, share


def _quaternions(words: np.ndarray) -> np.ndarray:
    """(w, x, y, z) of two bits that name the largest, and ten for each of the others."""
    codes = np.stack([words >> place & 1023 for place in (20, 10, 0)], 1)
    three = (codes / np.float32(1023) - np.float32(0.5)) * np.float32(np.sqrt(2))
    return three_and_largest(three, words >> 30)


def _rotation_words(quaternions: np.ndarray) -> np.ndarray:
    three, largest = largest_and_three(quaternions)
    share = three * np.float32(np.sqrt(0.5)) + np.float32(0.5)
    return _packed(share, ((10, 20), (10, 10), (10, 0))) | largest.astype(np.uint32) << 30


def _coefficients(codes: np.ndarray) -> np.ndarray:
    """Of bytes: the middle of each one's cell, the ends at the ends."""
    share = np.where(codes == 255, 1, np.where(codes == 0, 0, (codes + 0.5) / 256))
    return (_SH_RANGE * (share - 0.5)).astype(np.float32)
