"""Gaussians in SPZ files: fixed-point positions, bytes, and quaternions without their largest.

Source: Niantic's spz; specification. The format's frame is right, up, back ("RUB") unless a file
says another; half of its writers leave right, down, front in it and say nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from polyfield.apps.formats.splat_values import (
    BYTE_LOGITS,
    SplatFile,
    array_of,
    in_pieces,
    largest_and_three,
    mapped,
    opacities_of,
    pieces,
    rounded_bytes,
    splats_of,
    three_and_largest,
)
from polyfield.apps.formats.spz_container import SpzHeader, packed_v3, packed_v4, unpack
from polyfield.cuda.errors import InputError
from polyfield.fields.splats import Splats

FRAME = "RUB"
VERSIONS = (3, 4)
_COLOR = np.float32(0.15 * 255)  # steps of a byte a unit of the constant harmonic
_HALF = np.float32(np.sqrt(0.5))
_LARGEST_MAGNITUDE = 511
_MOST_POSITION = (1 << 23) - 1
_USUAL_BITS = 12  # of a position's fraction; some readers take no other
_BUCKETS = (8, 16)  # bytes of a step of harmonics: of degree 1, and above


def read_spz(path: Path, where: str) -> SplatFile:
    """The Gaussians of an SPZ file of version 1 to 4, quantised as it has them, in its frame.

    InputError, which begins with `where`, for another file or one that is cut off.
    """
    return splats_of_spz(mapped(path, where, "an SPZ file"), where)


def splats_of_spz(content: bytes | memoryview, where: str) -> SplatFile:
    """As `read_spz`, of the bytes of a file."""
    unpacked = unpack(content, where)
    header = unpacked.header
    n, k = header.count, (header.degree + 1) ** 2
    position, alpha, color, scale, rotation, sh = (
        np.frombuffer(block, np.uint8).reshape(n, -1) if len(block) else np.empty((n, 0), np.uint8)
        for block in unpacked.blocks
    )

    def harmonics_of(rows: slice) -> np.ndarray:
        constant = (color[rows] / np.float32(255) - np.float32(0.5)) / np.float32(0.15)
        return np.concatenate([constant, (sh[rows] - np.float32(128)) / np.float32(128)], 1)

    turns = _short_quaternions if header.version < 3 else _quaternions
    splats = splats_of(
        in_pieces(n, 3, lambda rows: _positions(position[rows], header)),
        in_pieces(n, 3, lambda rows: scale[rows] / np.float32(16) - np.float32(10)),
        in_pieces(n, 4, lambda rows: turns(rotation[rows])),
        BYTE_LOGITS[alpha[:, 0]],
        in_pieces(n, 3 * k, harmonics_of).reshape(n, k, 3),
        header.antialiased,
    )
    form = f"SPZ of version {header.version} ({header.fractional_bits} fractional bits)"
    stated = unpacked.frame is not None
    return SplatFile(splats, form, unpacked.frame or FRAME, stated, notes=unpacked.notes)


def spz_bytes(splats: Splats, version: int = 3, state_frame: bool | None = None) -> bytes:
    """The file of Gaussians that lie in the format's frame, right, up, back.

    version: 3, which most programs read, or 4. state_frame: write the extension that says the
    frame; the default does in version 4. Errors: positions 2^-13, more where they are beyond 2048,
    log-scales 1/32 within -10 to 5.94, opacity 1/510, colours 1/273 within -0.44 to 1.44, rotations
    a quarter of a degree, harmonics 0.035 (degree 1) and 0.066 within -1 to 0.99. InputError for
    another version, an extension in version 3, and positions beyond 2^23.
    """
    if version not in VERSIONS or (state_frame and version == 3):
        got = f"{version}, frame stated: {state_frame}"
        raise InputError("SPZ version", got, "3, or 4, which can state its frame")
    bits = fractional_bits(splats)
    means, turns = array_of(splats.means), array_of(splats.quaternions)
    harmonics = array_of(splats.harmonics)
    steps = means.astype(np.float64) * 2**bits
    fixed = (np.sign(steps) * np.floor(np.abs(steps) + 0.5)).astype("<i4")
    # In float32, as the format's own library: now and then float64 rounds to another byte.
    alpha = opacities_of(array_of(splats.opacity_logits)) * np.float32(255)
    color = harmonics[:, 0] * _COLOR + np.float32(127.5)
    scale = (array_of(splats.log_scales) + np.float32(10)) * np.float32(16)
    blocks = [
        fixed.view(np.uint8).reshape(-1, 3, 4)[:, :, :3].tobytes(),
        rounded_bytes(alpha).tobytes(),
        rounded_bytes(color).tobytes(),
        rounded_bytes(scale).tobytes(),
        _rotation_words(turns).astype("<u4").tobytes(),
        b"".join(_harmonic_bytes(harmonics[rows, 1:]) for rows in pieces(splats.count)),
    ]
    header = SpzHeader(version, splats.count, splats.degree, bits, splats.antialiased)
    if version == 3:
        return packed_v3(header, blocks)
    return packed_v4(header, blocks, FRAME if state_frame is not False else None)


def fractional_bits(splats: Splats) -> int:
    """Bits behind the point that leave room for the largest position; InputError for none."""
    largest = float(splats.means.abs().max())
    for bits in range(_USUAL_BITS, -1, -1):
        if np.floor(largest * 2**bits + 0.5) <= _MOST_POSITION:
            return bits
    raise InputError("SPZ", f"a position of {largest:g}", f"at most {_MOST_POSITION}")


def clipped(splats: Splats) -> int:
    """How many Gaussians have a number that the bytes of an SPZ cannot reach."""
    scale, dc, rest = splats.log_scales, splats.harmonics[:, 0], splats.harmonics[:, 1:]
    ends = [(scale, -10.03125, 5.96875), (dc, -3.3464, 3.3464), (rest.flatten(1), -1.04, 1.04)]
    beyond = [((values < low) | (values > high)).any(1) for values, low, high in ends]
    return int((beyond[0] | beyond[1] | beyond[2]).sum())


def _positions(packed: np.ndarray, header: SpzHeader) -> np.ndarray:
    if header.version == 1:
        return np.ascontiguousarray(packed).view("<f2").astype(np.float32)
    low, middle, high = packed.reshape(-1, 3, 3).astype(np.int32).transpose(2, 0, 1)
    signed = (low << 8 | middle << 16 | high << 24) >> 8
    return signed.astype(np.float32) / np.float32(2**header.fractional_bits)


def _short_quaternions(packed: np.ndarray) -> np.ndarray:
    """Of versions 1 and 2: x, y and z in a byte each, w the positive rest."""
    vector = packed / np.float32(127.5) - np.float32(1)
    w = np.sqrt(np.maximum(0, 1 - (vector * vector).sum(1, keepdims=True)))
    both = np.concatenate([w, vector], 1)
    return both / np.sqrt((both * both).sum(1, keepdims=True))


def _quaternions(packed: np.ndarray) -> np.ndarray:
    """Of two bits that name the largest of x, y, z, w, and ten, sign first, for each other."""
    words = np.ascontiguousarray(packed).view("<u4")[:, 0].astype(np.uint32)
    codes = np.stack([words >> place & 1023 for place in (20, 10, 0)], 1)
    three = (codes & 511) * (_HALF / _LARGEST_MAGNITUDE)
    three = np.where(codes >> 9, -three, three).astype(np.float32)
    return three_and_largest(three, words >> 30)[:, [3, 0, 1, 2]]


def _rotation_words(quaternions: np.ndarray) -> np.ndarray:
    three, largest = largest_and_three(quaternions[:, [1, 2, 3, 0]])
    size = np.floor(np.abs(three) * (_LARGEST_MAGNITUDE / _HALF) + np.float32(0.5))
    codes = np.minimum(size, _LARGEST_MAGNITUDE).astype(np.uint32)
    codes |= np.signbit(three).astype(np.uint32) << 9
    return largest.astype(np.uint32) << 30 | codes[:, 0] << 20 | codes[:, 1] << 10 | codes[:, 2]


def _harmonic_bytes(harmonics: np.ndarray) -> bytes:
    steps = np.clip(harmonics.astype(np.float64) * 128, -1024, 1024)
    codes = (np.sign(steps) * np.floor(np.abs(steps) + 0.5)).astype(np.int32) + 128
    bucket = np.full(harmonics.shape[1], _BUCKETS[1], np.int32)
    bucket[:3] = _BUCKETS[0]
    codes = (codes + bucket[:, None] // 2) // bucket[:, None] * bucket[:, None]
    return np.clip(codes, 0, 255).astype(np.uint8).tobytes()
