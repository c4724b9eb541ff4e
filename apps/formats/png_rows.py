"""PNG written a few rows at a time, so that an image of any size needs no memory for itself."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
from jaxtyping import UInt8, UInt16

from polyfield.cuda.errors import InputError

Rows = UInt8[np.ndarray, "rows width *channels"] | UInt16[np.ndarray, "rows width *channels"]

_COLOR_TYPES = {1: 0, 3: 2}
_UP = b"\2"  # each row is stored as its difference to the row above


@contextmanager
def png_rows(
    file: BinaryIO, width: int, height: int, channels: int = 3, bits: int = 8
) -> Iterator[Callable[[Rows], None]]:
    """A function that takes an image's next rows, from top to bottom, and writes them as PNG.

    Rows are [rows, width, 3], or [rows, width] where channels is 1; uint8 or, where bits is 16,
    uint16. The block ends the file. Raises InputError for rows of another form, or more or fewer of
    them than height.
    Source: Portable Network Graphics, third edition (W3C, 2025).
    """
    compressor = zlib.compressobj(6)
    above = np.zeros(width * channels * bits // 8, np.uint8)
    written = 0

    def write(rows: Rows) -> None:
        nonlocal above, written
        shape = (width,) if channels == 1 else (width, channels)
        if rows.shape[1:] != shape or rows.dtype.itemsize * 8 != bits:
            got = f"{rows.dtype} of shape {rows.shape}"
            raise InputError("PNG rows", got, f"{bits} bits, (any, {', '.join(map(str, shape))})")
        raw = rows.astype(rows.dtype.newbyteorder(">")).reshape(len(rows), -1).view(np.uint8)
        for row in raw:
            _chunk(file, b"IDAT", compressor.compress(_UP + (row - above).tobytes()))
            above = row
        written += len(rows)

    file.write(b"\x89PNG\r\n\x1a\n")
    header = struct.pack(">IIBBBBB", width, height, bits, _COLOR_TYPES[channels], 0, 0, 0)
    _chunk(file, b"IHDR", header)
    yield write
    if written != height:
        raise InputError("PNG", f"{written} rows", f"{height}")
    _chunk(file, b"IDAT", compressor.flush())
    _chunk(file, b"IEND", b"")


def _chunk(file: BinaryIO, kind: bytes, content: bytes) -> None:
    if not content and kind == b"IDAT":  # the compressor keeps what is too little to write
        return
    checksum = zlib.crc32(kind + content)
    file.write(struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum))
