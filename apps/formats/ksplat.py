"""Gaussians in .ksplat files: sections of fixed records, positions in blocks of 256 neighbours.

Source: mkkellogg/GaussianSplats3D, src/loaders/SplatBuffer.js; specification. Colours are bytes,
harmonics go to degree 2.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from polyfield.apps.formats.splat_values import (
    BYTE_LOGITS,
    SplatFile,
    check_count,
    log_scales_of,
    mapped,
    pieces,
    splats_of,
)
from polyfield.cuda.errors import InputError
from polyfield.fields.splats import CONSTANT

HIGHEST_DEGREE = 2
_HEADER, _SECTION = 4096, 1024  # bytes
_CENTER = 12
_RANGES = (1, 32767, 32767)  # of positions in a block, where a file does not say it
_EXPECTED = "a .ksplat file of version 0.1 or later"


@dataclass(frozen=True)
class _Section:
    name: str
    count: int
    """Gaussians that are there, of the `room` that there is."""
    room: int
    bucket_size: int
    buckets: int
    stored: int
    """Bytes of each bucket."""
    block: float
    reach: int
    full: int
    partial: int
    degree: int
    begin: int


def looks_like_ksplat(content: bytes | memoryview) -> bool:
    """Whether the first bytes may be such a file's: version 0.1 or later, at least one section."""
    return len(content) >= 12 and content[0] == 0 and content[1] >= 1 and any(content[4:8])


def read_ksplat(path: Path, where: str) -> SplatFile:
    """The Gaussians of a .ksplat file of any compression level, section by section.

    InputError, which begins with `where`, for another file, and for counts that it does not hold.
    """
    content = mapped(path, where, _EXPECTED)
    if len(content) < _HEADER or not looks_like_ksplat(content):
        raise InputError(where, f"{len(content)} bytes that begin otherwise", _EXPECTED)
    # How many sections were loaded, at 8, may be 0: those that are not have no Gaussians.
    sections, stated, level = struct.unpack("<IxxxxxxxxIH", content[4:22])
    if level > 2:
        raise InputError(f"{where}: compression level", str(level), "0, 1 or 2")
    if not 1 <= sections <= (len(content) - _HEADER) // _SECTION:
        got = f"{sections} in {len(content)} bytes"
        raise InputError(f"{where}: sections", got, "as many as the file holds")
    low, high = struct.unpack("<ff", content[36:44])
    ends = (low, high) if low or high else (-1.5, 1.5)
    begin, found = _HEADER + _SECTION * sections, []
    for number in range(sections):
        section, begin = _section(content, number, begin, level, where)
        found.append(section)
    degree = max(section.degree for section in found)
    count = sum(section.count for section in found)
    check_count(where, count, degree)
    means = np.empty((count, 3), np.float32)
    scales = np.empty((count, 3), np.float32)
    turns, logits = np.empty((count, 4), np.float32), np.empty(count, np.float32)
    harmonics = np.zeros((count, (degree + 1) ** 2, 3), np.float32)
    at = 0
    for section in found:
        table, centers, bucket_of = _table(content, section, level)
        for rows in pieces(section.count):
            part, to = table[rows], slice(at + rows.start, at + rows.stop)
            means[to], scales[to] = part["mean"], log_scales_of(part["scale"])
            if level:
                step = np.float32(section.block / 2 / section.reach)
                means[to] = (means[to] - section.reach) * step + centers[bucket_of(rows)]
            turns[to], logits[to] = part["turn"], BYTE_LOGITS[part["rgba"][:, 3]]
            harmonics[to, 0] = (part["rgba"][:, :3] / np.float32(255) - 0.5) / CONSTANT
            sh = part["sh"].astype(np.float32)
            if level == 2:
                sh *= np.float32((ends[1] - ends[0]) / 255)
                sh += np.float32(ends[0])
            for band in range(1, section.degree + 1):
                first, last = band**2, (band + 1) ** 2
                by_channel = sh[:, 3 * (first - 1) : 3 * (last - 1)].reshape(len(sh), 3, -1)
                harmonics[to, first:last] = by_channel.transpose(0, 2, 1)
        at += section.count
    notes = [] if count == stated else [f"warning: it states {stated} Gaussians and has {count}"]
    form = f".ksplat of level {level}"
    return SplatFile(splats_of(means, scales, turns, logits, harmonics), form, notes=tuple(notes))


def _record(level: int, degree: int) -> np.dtype:
    kinds = (("<f4", "<f4", "<f4"), ("<u2", "<f2", "<f2"), ("<u2", "<f2", "u1"))
    position, number, sh = kinds[level]
    return np.dtype(
        [
            ("mean", position, 3),
            ("scale", number, 3),
            ("turn", number, 4),
            ("rgba", "u1", 4),
            ("sh", sh, (3 * ((degree + 1) ** 2 - 1),)),
        ]
    )


def _section(
    content: memoryview, number: int, begin: int, level: int, where: str
) -> tuple[_Section, int]:
    """What the header of a section says, and where the next one's data begin."""
    name = f"{where}: section {number}"
    head = content[_HEADER + _SECTION * number :][:42]
    count, room, bucket_size, buckets = struct.unpack("<IIII", head[:16])
    (block,) = struct.unpack("<f", head[16:20])
    stored, reach, _, full, partial, degree = struct.unpack("<HxxIIIIH", head[20:42])
    if degree > HIGHEST_DEGREE:
        raise InputError(f"{name}: degree of harmonics", str(degree), f"0 to {HIGHEST_DEGREE}")
    if level and stored != _CENTER and buckets:
        raise InputError(f"{name}: bytes of a bucket", str(stored), f"{_CENTER}")
    record = _record(level, degree).itemsize
    needed = 4 * partial + stored * buckets + record * room
    if count > room or needed > len(content) - begin:
        got = f"{count} of {room} Gaussians, {buckets} buckets in {len(content) - begin} bytes"
        raise InputError(name, got, f"{needed} bytes for them", "Copy it again.")
    if level and (full + partial > buckets or full * bucket_size > room or not np.isfinite(block)):
        got = f"{full} full buckets of {bucket_size}, {partial} others, of {buckets}"
        raise InputError(name, got, f"no more than {room} Gaussians, in blocks of a size")
    reach = reach or _RANGES[level]
    section = _Section(
        name, count, room, bucket_size, buckets, stored, block, reach, full, partial, degree, begin
    )
    if level:
        lengths = np.frombuffer(content, "<u4", partial, begin)
        if count > full * bucket_size + int(lengths.sum(dtype=np.uint64)):
            got = f"{count} Gaussians in buckets of fewer"
            raise InputError(name, got, "buckets that hold them")
    return section, begin + needed


def _table(
    content: memoryview, section: _Section, level: int
) -> tuple[np.ndarray, np.ndarray, Callable[[slice], np.ndarray]]:
    """The records, the centres of the buckets, and which of them rows belong to."""
    lengths = np.frombuffer(content, "<u4", section.partial, section.begin)
    at = section.begin + 4 * section.partial
    centers = np.frombuffer(content, "<f4", 3 * section.buckets if level else 0, at).reshape(-1, 3)
    at += section.stored * section.buckets
    table = np.frombuffer(content, _record(level, section.degree), section.count, at)
    whole = section.full * section.bucket_size
    ends = np.cumsum(lengths, dtype=np.uint64)

    def bucket_of(rows: slice) -> np.ndarray:
        row = np.arange(rows.start, rows.stop)
        later = np.searchsorted(ends, np.maximum(row - whole, 0).astype(np.uint64), side="right")
        return np.where(row < whole, row // max(section.bucket_size, 1), section.full + later)

    return table, centers, bucket_of
