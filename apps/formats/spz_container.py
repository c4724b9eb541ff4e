"""What SPZ packs its numbers in: a gzip stream (versions 1 to 3), or zstd frames (4).

Source: Niantic's spz, src/cc/load-spz.cc and extensions/README.md; specification.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass

import zstandard

from polyfield.apps.formats.splat_values import check_count
from polyfield.cuda.errors import InputError
from polyfield.fields.splats import HIGHEST_DEGREE

MAGIC = b"NGSP"
GZIP = b"\x1f\x8b"
FRAMES = (
    "LDB", "RDB", "LUB", "RUB", "LDF", "RDF", "LUF", "RUF",
    "LFD", "RFD", "LFU", "RFU", "LBD", "RBD", "LBU", "RBU",
)  # fmt: skip
"""Coordinate systems 1 to 16 of the extension: where x, y and z point."""

_ANTIALIASED, _EXTENSIONS, _LOD = 0x1, 0x2, 0x80  # flags
_COORDINATES, _CAMERA = 0xADBE0003, 0xADBE0002
_EXTENSION_BYTES = {_COORDINATES: 4, _CAMERA: 12}
_LONG_HEADER = 32
_STEP = _MOST_TAIL = 1 << 20
_PACKED = 1 << 16  # bytes of a gzip stream that are unpacked at once
_DEFLATE = 1032  # bytes that deflate makes of one, at most
_MOST_FRACTION = 30
_MOST_WINDOW = 1 << 27  # of a zstd frame that says what it holds; less of others
_LEVEL, _ZSTD_LEVEL = 9, 12
_EXPECTED = "an SPZ file of version 1 to 4"


@dataclass(frozen=True)
class SpzHeader:
    """What the first 16 bytes say."""

    version: int
    count: int
    degree: int
    fractional_bits: int
    antialiased: bool

    @property
    def sizes(self) -> tuple[int, ...]:
        """Bytes of positions, opacities, colours, scales, rotations and harmonics."""
        each = (6 if self.version == 1 else 9, 1, 3, 3, 3 if self.version < 3 else 4)
        return tuple(self.count * n for n in (*each, 3 * ((self.degree + 1) ** 2 - 1)))


@dataclass(frozen=True)
class Unpacked:
    """The numbers of an SPZ file as it packs them."""

    header: SpzHeader
    blocks: tuple[memoryview, ...]
    """As `SpzHeader.sizes` has them."""
    frame: str | None
    """One of FRAMES, where the file says it."""
    notes: tuple[str, ...]


def unpack(content: bytes | memoryview, where: str) -> Unpacked:
    """The blocks of an SPZ file of any version.

    Lengths are compared with what the file can hold before anything is unpacked, and what is
    unpacked comes a megabyte at a time. InputError, which begins with `where`, for what is none, is
    cut off, or contradicts itself.
    """
    if content[:4] == MAGIC:
        header, flags = _header(content, where)
        if header.version == 4:
            return _unpack_frames(content, header, flags, where)
        notes = [f"warning: an SPZ of version {header.version} that is not packed"]
        payload = bytearray(content[: 16 + sum(header.sizes)])
        rest = bytes(content[len(payload) : len(payload) + _MOST_TAIL])
        return _cut(payload, rest, header, flags, notes, where)
    if content[:2] != GZIP:
        raise InputError(where, f"it begins with {bytes(content[:4])!r}", _EXPECTED)
    stream = _Inflating(content)
    try:
        payload = stream.read(16)
        header, flags = _header(bytes(payload), where)
        total = 16 + sum(header.sizes)
        if total > _DEFLATE * len(content) + 64:
            got = f"{header.count} Gaussians in {len(content)} bytes"
            raise InputError(where, got, "what the file can hold", "Copy it again.")
        payload += stream.read(total - 16)
        rest = bytes(stream.read(_MOST_TAIL))
    except zlib.error as error:
        raise InputError(where, f"no sound gzip stream ({error})", _EXPECTED) from error
    return _cut(payload, rest, header, flags, [], where)


def packed_v3(header: SpzHeader, blocks: list[bytes]) -> bytes:
    """A file of version 3; the same bytes each time."""
    return gzip.compress(b"".join([_header_bytes(header, 0, 0), *blocks]), _LEVEL, mtime=0)


def packed_v4(header: SpzHeader, blocks: list[bytes], frame: str | None) -> bytes:
    """A file of version 4, which says its frame unless that is None."""
    extension = b""
    if frame is not None:
        extension = struct.pack("<III", _COORDINATES, 4, FRAMES.index(frame) + 1)
    held = [block for block in blocks if block]
    pack = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_content_size=True)
    frames = [pack.compress(block) for block in held]
    flags = _EXTENSIONS if extension else 0
    head = _header_bytes(header, flags, len(held))
    head += struct.pack("<I12x", _LONG_HEADER + len(extension)) + extension
    sizes = zip(frames, held, strict=True)
    table = b"".join(struct.pack("<QQ", len(frame), len(block)) for frame, block in sizes)
    return b"".join([head, table, *frames])


def _header_bytes(header: SpzHeader, flags: int, last: int) -> bytes:
    flags |= _ANTIALIASED if header.antialiased else 0
    few = (header.degree, header.fractional_bits, flags, last)
    return MAGIC + struct.pack("<IIBBBB", header.version, header.count, *few)


def _header(head: bytes | memoryview, where: str) -> tuple[SpzHeader, int]:
    if len(head) < 16 or head[:4] != MAGIC:
        raise InputError(where, "no header of SPZ", _EXPECTED)
    version, count, degree, fraction, flags, _ = struct.unpack("<IIBBBB", head[4:16])
    if not 1 <= version <= 4:
        raise InputError(f"{where}: version", str(version), "1 to 4")
    if degree > HIGHEST_DEGREE:
        raise InputError(f"{where}: degree of harmonics", str(degree), f"0 to {HIGHEST_DEGREE}")
    if fraction > _MOST_FRACTION:
        raise InputError(f"{where}: fractional bits", str(fraction), f"0 to {_MOST_FRACTION}")
    if flags & _LOD:
        raise InputError(f"{where}: flags", f"{flags:#x}, a tree of Spark's", "none of 0x80")
    check_count(where, count, degree)
    return SpzHeader(version, count, degree, fraction, bool(flags & _ANTIALIASED)), flags


class _Inflating:
    """A gzip member that is unpacked as far as it is read. zlib.error where it is none."""

    def __init__(self, content: bytes | memoryview):
        self._stream, self._content = zlib.decompressobj(31), memoryview(content)
        self._at, self._waiting = 0, b""

    def read(self, most: int) -> bytearray:
        """The next bytes: fewer where the member ends, or the file."""
        found = bytearray()
        while len(found) < most and not self._stream.eof:
            # A little at a time: zlib copies what it is given and does not need yet.
            if not self._waiting:
                self._waiting = bytes(self._content[self._at : self._at + _PACKED])
                self._at += _PACKED
            ended = not self._waiting
            more = self._stream.decompress(self._waiting, min(most - len(found), _STEP))
            self._waiting = self._stream.unconsumed_tail
            found += more
            if ended and not more:
                break
        return found


def _cut(
    payload: bytearray, rest: bytes, header: SpzHeader, flags: int, notes: list[str], where: str
) -> Unpacked:
    total = 16 + sum(header.sizes)
    if len(payload) < total:
        got = f"{len(payload)} bytes of {header.count} Gaussians"
        raise InputError(where, got, f"{total}", "Copy it again.")
    if header.version == 1 and rest:
        # Some library wrote positions of version 2 under a header of version 1.
        raise InputError(where, "version 1 with more bytes than it has", "positions of 16 bits")
    frame = None
    if flags & _EXTENSIONS:
        frame = _frame(rest, where)
    elif rest:
        notes.append(f"warning: {len(rest)} bytes or more follow the Gaussians")
    view, at, blocks = memoryview(payload), 16, []
    for size in header.sizes:
        blocks.append(view[at : at + size])
        at += size
    return Unpacked(header, tuple(blocks), frame, tuple(notes))


def _unpack_frames(
    content: bytes | memoryview, header: SpzHeader, flags: int, where: str
) -> Unpacked:
    wanted = [size for size in header.sizes if size]
    if len(content) < _LONG_HEADER:
        raise InputError(where, f"{len(content)} bytes", "a header of 32", "Copy it again.")
    streams, table = content[15], int.from_bytes(content[16:20], "little")
    if streams != len(wanted):
        raise InputError(
            f"{where}: streams", str(streams), f"{len(wanted)} of degree {header.degree}"
        )
    at = table + 16 * streams
    if not _LONG_HEADER <= table <= len(content) - 16 * streams:
        got = f"at byte {table} of {len(content)}"
        raise InputError(f"{where}: table of contents", got, "within the file")
    frame = _frame(content[_LONG_HEADER:table], where) if flags & _EXTENSIONS else None
    blocks, view = [], memoryview(content)
    for index, expected in enumerate(wanted):
        packed, size = struct.unpack("<QQ", content[table + 16 * index : table + 16 * index + 16])
        name = f"{where}: stream {index}"
        if size != expected:
            raise InputError(name, f"{size} bytes when unpacked", f"{expected}")
        if packed > len(content) - at:
            got = f"{packed} bytes from byte {at} of {len(content)}"
            raise InputError(name, got, "within the file", "Copy it again.")
        blocks.append(memoryview(_frame_content(view[at : at + packed], expected, name)))
        at += packed
    if at != len(content):
        got = f"{len(content) - at} bytes follow the last stream"
        raise InputError(where, got, "a file that ends with it")
    blocks += [memoryview(b"")] * (len(header.sizes) - len(wanted))
    return Unpacked(header, tuple(blocks), frame, ())


def _frame_content(packed: memoryview, expected: int, where: str) -> bytearray:
    """What one zstd frame holds; python-zstandard's own limit does not bind where it is stated."""
    try:
        stated = zstandard.get_frame_parameters(packed)
        known = stated.content_size != zstandard.CONTENTSIZE_UNKNOWN
        if known and stated.content_size != expected:
            raise InputError(where, f"a frame of {stated.content_size} bytes", f"{expected}")
        if stated.window_size > (_MOST_WINDOW if known else _MOST_WINDOW >> 4):
            got = f"a window of {stated.window_size} bytes"
            raise InputError(where, got, f"at most {_MOST_WINDOW if known else _MOST_WINDOW >> 4}")
        found = bytearray()
        with zstandard.ZstdDecompressor(max_window_size=_MOST_WINDOW).stream_reader(packed) as file:
            while len(found) <= expected:
                more = file.read(min(_STEP, expected + 1 - len(found)))
                if not more:
                    break
                found += more
    except zstandard.ZstdError as error:
        raise InputError(where, f"no sound zstd frame ({error})", "one") from error
    if len(found) != expected:
        raise InputError(where, f"{len(found)} bytes or more", f"{expected}", "Copy it again.")
    return found


def _frame(records: bytes | memoryview, where: str) -> str | None:
    """The frame that extensions state, if one does; those that nobody knows are passed over."""
    frame, at = None, 0
    while at < len(records):
        name = f"{where}: extension at {at}"
        if len(records) - at < 8:
            raise InputError(name, f"{len(records) - at} bytes", "8 of its head")
        kind, length = struct.unpack("<II", records[at : at + 8])
        at += 8
        if length > len(records) - at or length != _EXTENSION_BYTES.get(kind, length):
            got = f"{length} bytes of kind {kind:#x}"
            raise InputError(name, got, "its length, within the file")
        if kind == _COORDINATES:
            number = int.from_bytes(records[at : at + 4], "little")
            if number > len(FRAMES):
                raise InputError(name, f"coordinate system {number}", f"0 to {len(FRAMES)}")
            frame = FRAMES[number - 1] if number else None
        at += length
    return frame
