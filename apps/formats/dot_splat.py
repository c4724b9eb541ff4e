"""Gaussians in .splat files: 32 bytes each, no header, colours as bytes and no view dependence.

Source: antimatter15/splat, convert.py; specification. Nothing in the file says what it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from polyfield.apps.formats.splat_values import (
    BYTE_LOGITS,
    SplatFile,
    array_of,
    check_count,
    in_pieces,
    log_scales_of,
    mapped,
    opacities_of,
    pieces,
    rounded_bytes,
    splats_of,
)
from polyfield.cuda.errors import InputError
from polyfield.fields.splats import CONSTANT, Splats

_ROW = np.dtype([("mean", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("turn", "u1", 4)])
_LARGEST_SCALE = 1e6
_TELLING = 1000  # rows from which the lengths of quaternions show how they were rounded
_UNIT = 0.01  # that a quaternion of bytes may be off its unit length
_EXPECTED = "a .splat file: 32 bytes a Gaussian"


def read_dot_splat(path: Path, where: str) -> SplatFile:
    """The Gaussians of a .splat file, in its order, with quaternions as long as their bytes.

    Bytes of quaternions are (b - 128) / 128, or half a step less where their lengths tell that the
    writer cut off in place of rounding. InputError, which begins with `where`, for a length that is
    no multiple of 32, and for numbers that show another kind of file.
    """
    content = mapped(path, where, _EXPECTED)
    count, left = divmod(len(content), _ROW.itemsize)
    if left:
        raise InputError(where, f"{len(content)} bytes", _EXPECTED, "Copy it again.")
    check_count(where, count, 0)
    rows = np.frombuffer(content, _ROW)
    means, scales = rows["mean"].astype(np.float32), rows["scale"].astype(np.float32)
    sound = np.isfinite(means).all(1) & (scales >= 0).all(1) & (scales <= _LARGEST_SCALE).all(1)
    if not sound.all():
        index = int(np.argmin(sound))
        got = f"position {means[index].tolist()}, scale {scales[index].tolist()}"
        raise InputError(
            f"{where}: Gaussian {index}", got, f"finite, scales 0 to {_LARGEST_SCALE:g}"
        )
    middle = _middle(rows["turn"])
    splats = splats_of(
        means,
        log_scales_of(scales),
        in_pieces(count, 4, lambda some: (rows["turn"][some] - middle) / np.float32(128)),
        BYTE_LOGITS[rows["rgba"][:, 3]],
        in_pieces(
            count, 3, lambda some: (rows["rgba"][some, :3] / np.float32(255) - 0.5) / CONSTANT
        ).reshape(count, 1, 3),
    )
    cut = () if middle == 128 else ("its quaternions were cut off, not rounded",)
    return SplatFile(splats, ".splat", notes=cut)


def dot_splat_bytes(splats: Splats) -> Iterator[bytes]:
    """The file, piece by piece. Errors: opacity, colour in [0, 1] 1/510, rotation 0.9 degrees."""
    means, scales = array_of(splats.means), array_of(splats.log_scales)
    turns, logits = array_of(splats.quaternions), array_of(splats.opacity_logits)
    constant = array_of(splats.harmonics[:, 0])
    for rows in pieces(splats.count):
        table = np.empty(rows.stop - rows.start, _ROW)
        table["mean"] = means[rows]
        table["scale"] = np.exp(scales[rows].astype(np.float64))
        color = 255 * (0.5 + CONSTANT * constant[rows].astype(np.float64))
        table["rgba"][:, :3] = rounded_bytes(color)
        table["rgba"][:, 3] = rounded_bytes(255 * opacities_of(logits[rows].astype(np.float64)))
        turn = turns[rows].astype(np.float64)
        length = np.sqrt((turn * turn).sum(1, keepdims=True))
        # What was read from bytes goes back to the same bytes.
        turn = np.where(np.abs(length - 1) < _UNIT, turn, turn / np.maximum(length, 1e-30))
        table["turn"] = rounded_bytes(128 * turn + 128)
        yield table.tobytes()


def lit_beyond(splats: Splats) -> int:
    """How many Gaussians have a colour below 0 or above 1, which bytes cannot hold."""
    shown = 0.5 + CONSTANT * splats.harmonics[:, 0]
    return int(((shown < -1 / 510) | (shown > 1 + 1 / 510)).any(1).sum())


def _middle(codes: np.ndarray) -> np.float32:
    """The byte of 0: the one of two for which quaternions are nearer to unit length."""
    inner = codes[((codes > 0) & (codes < 255)).all(1)].astype(np.float32)
    off = {
        middle: float(np.abs(np.sqrt((((inner - middle) / 128) ** 2).sum(1)) - 1).mean())
        for middle in (128.0, 127.5)
        if len(inner) >= _TELLING
    }
    return np.float32(min(off, key=lambda middle: off[middle], default=128.0))
