"""What all splat files share: what a reader hands on, and what their numbers mean."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from polyfield.apps.files import open_plain
from polyfield.apps.memory import machine_bytes
from polyfield.cuda.errors import InputError
from polyfield.fields.splats import LARGEST_LOG_SCALE, Splats

World = Literal["right-down-forward", "z-up"]
"""How a user's frame stands: as SfM leaves it, y down and z forward, or with +z up."""

LEAST_SCALE = 1e-20  # that a logarithm is taken of
FLAT_LOG_SCALE = float(np.float32(math.log(1e-6)))  # across a disc of 2D Gaussian Splatting
MOST_SPLATS = 200_000_000
MOST_BYTES = 1 << 34  # of a model in memory, or half of what the machine has
_LEAST_OPACITY = 1e-6  # so that a logit of 0 or 1 is a number, and comes back to the same byte
PIECE = 1 << 14  # rows that are worked on at once: they stay in the cache


@dataclass(frozen=True, eq=False)
class SplatFile:
    """Gaussians with what their file says of itself."""

    splats: Splats
    form: str
    """Format and version, for people."""
    frame: str = "RDF"
    """Where +x, +y and +z of the numbers point: see `turned` of fields.splats."""
    states_frame: bool = True
    """Whether the file, or else its format beyond doubt, says so."""
    world: World = "right-down-forward"
    """Of the frame that the numbers lie in, or lie in once they are turned out of `frame`."""
    notes: tuple[str, ...] = ()
    """What was found or adjusted; what looks wrong begins with "warning: "."""


def mapped(path: Path, where: str, expected: str) -> memoryview:
    """The bytes of a file, of which only those that are looked at take memory.

    InputError, which begins with `where`, where it cannot be read.
    """
    try:
        with open_plain(path) as file:
            if not os.fstat(file.fileno()).st_size:
                return memoryview(b"")
            return np.memmap(file, np.uint8, "r").data
    except OSError as error:
        got = f"cannot be read ({error.strerror or error})"
        raise InputError(where, got, expected) from error


def check_count(where: str, count: int, degree: int) -> None:
    """InputError for no Gaussians, or more than MOST_SPLATS or the memory can take."""
    if not 1 <= count <= MOST_SPLATS:
        raise InputError(where, f"{count} Gaussians", f"1 to {MOST_SPLATS:,}")
    needed = 4 * count * (11 + 3 * (degree + 1) ** 2)
    most = min(MOST_BYTES, machine_bytes() // 2)
    if needed > most:
        raise InputError(where, f"{count} Gaussians, {needed} bytes", f"at most {most} bytes")


def pieces(count: int) -> Iterator[slice]:
    """Rows 0 to count, PIECE at a time."""
    return (slice(at, min(at + PIECE, count)) for at in range(0, count, PIECE))


def in_pieces(count: int, width: int, of: Callable[[slice], np.ndarray]) -> np.ndarray:
    """Float32 [count, width], filled with what `of` gives for each piece of the rows."""
    found = np.empty((count, width), np.float32)
    for rows in pieces(count):
        found[rows] = of(rows)
    return found


def splats_of(
    means: Float32[np.ndarray, "n 3"],
    log_scales: Float32[np.ndarray, "n 3"],
    quaternions: Float32[np.ndarray, "n 4"],
    opacity_logits: Float32[np.ndarray, " n"],
    harmonics: Float32[np.ndarray, "n k 3"],
    antialiased: bool = False,
) -> Splats:
    """The Gaussians of numpy's arrays, whose memory they share."""
    return Splats(
        torch.from_numpy(means),
        torch.from_numpy(log_scales),
        torch.from_numpy(quaternions),
        torch.from_numpy(opacity_logits),
        torch.from_numpy(harmonics),
        antialiased,
    )


def array_of(values: Tensor) -> np.ndarray:
    """A tensor as an array of float32."""
    return values.detach().cpu().float().numpy()


def logits_of(opacity: np.ndarray) -> np.ndarray:
    """ln(p / (1 - p)) in float32, of p moved into [1e-6, 1 - 1e-6] first."""
    p = np.clip(opacity.astype(np.float64), _LEAST_OPACITY, 1 - _LEAST_OPACITY)
    return (np.log(p) - np.log1p(-p)).astype(np.float32)


BYTE_LOGITS: Float32[np.ndarray, " 256"] = logits_of(np.arange(256) / 255)
"""Of opacities that a byte holds."""


def opacities_of(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-logit)), in the type of the logits."""
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-logits))


def rounded_bytes(values: np.ndarray) -> np.ndarray:
    """The nearest of 0 to 255, halves upwards, NaN to 0."""
    return np.floor(np.nan_to_num(np.clip(values, 0, 255)).astype(np.float64) + 0.5).astype("u1")


def log_scales_of(scales: np.ndarray) -> np.ndarray:
    """ln of standard deviations in float32; of what is not positive, that of LEAST_SCALE or so."""
    with np.errstate(invalid="ignore"):
        logs = np.log(np.maximum(scales.astype(np.float64), LEAST_SCALE))
    return np.maximum(logs, -LARGEST_LOG_SCALE).astype(np.float32)


def three_and_largest(three: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """Unit quaternions [n, 4] of three components in their order, and where the largest belongs."""
    left = np.sqrt(np.maximum(0, 1 - (three * three).sum(1)))
    found = np.empty((len(three), 4), three.dtype)
    for place in range(4):
        rows = largest == place
        found[rows, place] = left[rows]
        found[rows, :place] = three[rows, :place]
        found[rows, place + 1 :] = three[rows, place:]
    return found


def largest_and_three(quaternions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The others of each quaternion [n, 4], made of unit length, and where its largest stands.

    With the sign for which the largest is positive; of two as large, the first. The inverse of
    `three_and_largest`.
    """
    length = np.sqrt((quaternions * quaternions).sum(1, keepdims=True))
    unit = quaternions / np.maximum(length, np.finfo(quaternions.dtype).tiny)
    largest = np.abs(unit).argmax(1)
    sign = np.where(np.take_along_axis(unit, largest[:, None], 1) < 0, -1, 1)
    unit = (unit * sign).astype(quaternions.dtype)
    three = np.empty((len(unit), 3), unit.dtype)
    for place in range(4):
        rows = largest == place
        three[rows] = np.delete(unit[rows], place, 1)
    return three, largest


def in_space_order(means: Float32[np.ndarray, "n 3"]) -> Int64[np.ndarray, " n"]:
    """An order in which neighbours in space follow each other: that of Morton, in 2^21 cells."""
    low = means.min(0).astype(np.float64)
    extent = max(float((means.max(0) - low).max()), 1e-30)
    cells = ((means - low) / extent * ((1 << 21) - 1)).astype(np.uint64)
    code = np.zeros(len(means), np.uint64)
    for axis in range(3):
        code |= _spread(cells[:, axis]) << np.uint64(axis)
    return np.argsort(code, kind="stable").astype(np.int64)


def _spread(cells: np.ndarray) -> np.ndarray:
    """Bits 0 to 20 three apart."""
    for shift, mask in (
        (32, 0x1F00000000FFFF),
        (16, 0x1F0000FF0000FF),
        (8, 0x100F00F00F00F00F),
        (4, 0x10C30C30C30C30C3),
        (2, 0x1249249249249249),
    ):
        cells = (cells | cells << np.uint64(shift)) & np.uint64(mask)
    return cells
