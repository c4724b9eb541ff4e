"""Points in PLY files: positions, with colours where there are any."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from polyfield.apps.files import MOST_TEXT_BYTES, open_plain, replacing
from polyfield.apps.formats.json_fields import LARGEST
from polyfield.apps.formats.ply_elements import ORDERS, TYPES
from polyfield.cuda.errors import InputError

_WANTED, _NORMAL = {"x", "y", "z", "red", "green", "blue"}, {"nx", "ny", "nz"}
_LONGEST_HEADER = _LONGEST_LINE = 1 << 16
_ROWS = 1 << 14  # of a text, read at once
_MOST_POINTS, _MOST_BYTES = 1 << 24, 1 << 32  # ten times what a sparse cloud has
_EXPECTED = "a PLY of points: vertices first, with x, y, z and no lists"


@dataclass(frozen=True, eq=False)
class Points:
    """Points with sRGB colours, if they have any, in the frame of whoever has them."""

    position: Float64[Tensor, "n 3"]
    color: UInt8[Tensor, "n 3"] | None
    normal: Float64[Tensor, "n 3"] | None = None
    """As the file has them, of any length."""


@dataclass(frozen=True)
class _Header:
    order: str
    """Of bytes, as numpy writes it; empty for text."""
    count: int
    names: tuple[str, ...]
    types: tuple[str, ...]


def read_points(path: Path, where: str, normals: bool = False) -> Points:
    """The vertices of a PLY, text or binary, with their colours where red, green, blue are uint8.

    normals: with nx, ny, nz, where it has them.

    No count is believed that the file cannot hold. InputError, beginning with `where`, for another
    file, one that is cut off, and positions that are not finite or beyond LARGEST.
    """
    try:
        with open_plain(path) as file:
            header = _header(file, where)
            kept = _WANTED | (_NORMAL if normals else set())
            table = (
                _binary(file, header, where) if header.order else _text(file, header, where, kept)
            )
    except OSError as error:
        raise InputError(where, f"cannot be read ({error.strerror})", _EXPECTED) from error
    # Column by column: of whole columns in float64 each takes many times what a byte takes.
    position = torch.empty(len(table), 3, dtype=torch.float64)
    for column, axis in enumerate("xyz"):
        position[:, column] = torch.from_numpy(table[axis].astype(np.float64))
    # NaN compares as false.
    inside = torch.stack([(position[:, column].abs() <= LARGEST) for column in range(3)]).all(0)
    if bad := (~inside).nonzero()[:1, 0].tolist():
        got = f"position {tuple(position[bad[0]].tolist())}"
        raise InputError(f"{where}: point {bad[0]}", got, f"finite numbers, at most {LARGEST:g}")
    kinds = dict(zip(header.names, header.types, strict=True))
    color = None
    if all(kinds.get(name) == "u1" for name in ("red", "green", "blue")):
        channels = [table[name].astype(np.uint8) for name in ("red", "green", "blue")]
        color = torch.from_numpy(np.stack(channels, 1))
    normal = None
    if normals and kinds.keys() >= _NORMAL:
        columns = [table[name].astype(np.float64) for name in ("nx", "ny", "nz")]
        normal = torch.from_numpy(np.stack(columns, 1))
    return Points(position, color, normal)


def has_faces(path: Path) -> bool:
    """Whether the header of a PLY promises faces; true of what is none, or cannot be read."""
    try:
        with open_plain(path) as file:
            head = file.read(_LONGEST_HEADER).partition(b"end_header")[0]
    except OSError:
        return True
    counts = re.findall(rb"(?m)^element\s+(?:face|tristrips)\s+(\d+)", head)
    return not head.startswith(b"ply") or any(count.strip(b"0") for count in counts)


def write_points(path: Path, points: Points) -> None:
    """Write a binary PLY, positions in float64, that `read_points` reads to the last digit.

    InputError where the file cannot be written.
    """
    form = [(axis, "<f8") for axis in "xyz"]
    if points.color is not None:
        form += [(name, "u1") for name in ("red", "green", "blue")]
    table = np.empty(len(points.position), form)
    for column, axis in enumerate("xyz"):
        table[axis] = points.position[:, column].cpu().numpy()
    if points.color is not None:
        for column, name in enumerate(("red", "green", "blue")):
            table[name] = points.color[:, column].cpu().numpy()
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(table)}"]
    lines += [f"property {'double' if kind == '<f8' else 'uchar'} {name}" for name, kind in form]
    with replacing(path) as file:
        file.write(("\n".join([*lines, "end_header"]) + "\n").encode())
        file.write(table.tobytes())


def _header(file: BinaryIO, where: str) -> _Header:
    order, count, element, read = None, -1, "", 0
    names: list[str] = []
    types: list[str] = []
    for number in range(_LONGEST_HEADER):
        line = file.readline(_LONGEST_HEADER)
        read += len(line)
        words = line.decode("latin-1").split()
        at = f"{where}: line {number + 1}"
        if number == 0 and words != ["ply"]:
            raise InputError(where, "no PLY", _EXPECTED)
        if not line.endswith(b"\n") or read > _LONGEST_HEADER:
            raise InputError(where, "no end of its header", _EXPECTED)
        if words[:1] == ["end_header"]:
            break
        if words[:1] == ["format"]:
            order = ORDERS.get(words[1] if len(words) > 1 else "")
        elif words[:1] == ["element"]:
            if count < 0 and (len(words) != 3 or words[1] != "vertex"):
                raise InputError(at, f"{line[:80]!r}", _EXPECTED)
            element = words[1] if len(words) > 1 else ""
            if count < 0:
                digits = words[2].isascii() and words[2].isdigit() and len(words[2]) < 16
                count = int(words[2]) if digits else -1
                if not digits:
                    raise InputError(at, f"{words[2][:40]!r} vertices", "a whole number")
        elif words[:1] == ["property"] and element == "vertex":
            if len(words) != 3 or words[1] not in TYPES or words[2] in names:
                raise InputError(at, f"{line[:80]!r}", _EXPECTED)
            types.append(TYPES[words[1]])
            names.append(words[2])
    if count > _MOST_POINTS:
        raise InputError(where, f"{count} vertices", f"at most {_MOST_POINTS:,}")
    if order is None or count < 0 or not {"x", "y", "z"} <= set(names):
        raise InputError(where, "a header without format or vertices", _EXPECTED)
    return _Header(order, count, tuple(names), tuple(types))


def _binary(file: BinaryIO, header: _Header, where: str) -> np.ndarray:
    form = np.dtype(
        [(n, header.order + t) for n, t in zip(header.names, header.types, strict=True)]
    )
    left = os.fstat(file.fileno()).st_size - file.tell()
    if header.count * form.itemsize > left:
        got = f"{header.count} vertices of {form.itemsize} bytes in {left}"
        raise InputError(where, got, "what the file holds", "Copy it again.")
    if header.count * form.itemsize > _MOST_BYTES:
        raise InputError(where, f"{left} bytes", f"at most {_MOST_BYTES:,}")
    if not header.count:
        return np.empty(0, form)
    # Mapped: only the columns that are wanted take memory.
    return np.memmap(file, form, "r", file.tell(), (header.count,))


def _text(file: BinaryIO, header: _Header, where: str, kept: set[str]) -> np.ndarray:
    left = os.fstat(file.fileno()).st_size - file.tell()
    if not header.count:
        return np.empty(0, [(name, "f8") for name in header.names])
    # A number and what parts it from the next.
    if header.count * 2 * len(header.names) > left + 1:
        got = f"{header.count} vertices in {left} bytes"
        raise InputError(where, got, "what the file holds", "Copy it again.")
    if left > MOST_TEXT_BYTES:
        raise InputError(where, f"{left} bytes of text", f"at most {MOST_TEXT_BYTES:,}, or binary")
    wanted = [name for name in header.names if name in kept]
    kinds = dict(zip(header.names, header.types, strict=True))
    form = [(name, "u1" if kinds[name] == "u1" else "f8") for name in wanted]
    table = np.empty(header.count, form)
    lines = iter(lambda: file.readline(_LONGEST_LINE), b"")
    for first in range(0, header.count, _ROWS):
        last = min(first + _ROWS, header.count)
        rows = _rows(lines, last - first, header, where)
        for name, column in zip(header.names, rows.T, strict=True):
            if kinds[name] == "u1" and not ((column >= 0) & (column <= 255)).all():
                raise InputError(where, f"{name} beyond 0 to 255", _EXPECTED)
            if name in wanted:
                table[name][first:last] = column
    return table


def _rows(lines: Iterator[bytes], count: int, header: _Header, where: str) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numpy's, that there is nothing to read
            rows = np.loadtxt(lines, np.float64, comments=None, max_rows=count, ndmin=2)
    except (ValueError, UnicodeDecodeError, OverflowError) as error:
        raise InputError(where, f"no table of numbers ({str(error)[:80]})", _EXPECTED) from error
    if rows.shape != (count, len(header.names)):
        got = f"{rows.shape[0]} rows of {rows.shape[1]} numbers"
        raise InputError(where, got, f"{header.count} rows of {len(header.names)}")
    return rows
