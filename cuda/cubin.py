"""What a cubin says about its kernels: parameters, registers, memory. A small reader of its ELF.

NVIDIA documents the sections by name only; the records of `.nv.info` are read as cuobjdump and the
public disassemblers show them, and whatever is not needed is passed over.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from polyfield.cuda.errors import InputError
from polyfield.cuda.kernel import Kernel

# Records of .nv.info: a form, a kind, then a value whose size follows from the form.
_SIZED_FORM = 4
_FRAME_SIZE, _PARAMETER, _REGISTERS = 0x11, 0x17, 0x2F


@dataclass(frozen=True)
class Parameter:
    """One parameter of an entry point: bytes from the start of the parameters, and its size."""

    offset: int
    size: int


@dataclass(frozen=True)
class EntryPoint:
    """A kernel as it was compiled, for one thread (registers, stack) and one block (shared).

    parameters: in order. stack: bytes of local memory that arrays and spilled registers take.
    shared: bytes of static shared memory; sm_90 and newer add 1024 for themselves.
    """

    parameters: tuple[Parameter, ...]
    registers: int
    stack: int
    shared: int


def read_entry_point(image: bytes, name: str) -> EntryPoint:
    """Reads one entry point of a cubin. Raises InputError where the image is none or lacks it."""
    sections = _sections(image)
    text = sections.get(f".text.{name}")
    if text is None or f".nv.info.{name}" not in sections or ".nv.info" not in sections:
        raise InputError("cubin", f"sections {sorted(sections)}", f"those of an entry point {name}")
    symbol = text.info & 0xFFFFFF  # the symbol's number; above it older images keep registers
    numbers = {_REGISTERS: 0, _FRAME_SIZE: 0}
    for kind, value in _records(sections[".nv.info"].content):
        if kind in numbers:
            of, number = struct.unpack("<II", value)
            if of == symbol:
                numbers[kind] = number
    found = {}
    for kind, value in _records(sections[f".nv.info.{name}"].content):
        if kind == _PARAMETER:
            _, ordinal, offset, packed = struct.unpack("<IHHI", value)
            found[ordinal] = Parameter(offset, packed >> 18)
    shared = sections.get(f".nv.shared.{name}")
    return EntryPoint(
        tuple(found[ordinal] for ordinal in sorted(found)),
        numbers[_REGISTERS],
        numbers[_FRAME_SIZE],
        shared.size if shared else 0,
    )


def packed_arguments(kernel: Kernel) -> tuple[Parameter, ...]:
    """What an entry point has to take: the members that Python packs, in order."""
    members = [getattr(kernel.structure, field.name) for field in kernel.fields]
    return tuple(Parameter(member.offset, member.size) for member in members)


@dataclass(frozen=True)
class _Section:
    content: bytes
    size: int
    info: int


def _sections(image: bytes) -> dict[str, _Section]:
    if image[:6] != b"\x7fELF\x02\x01":
        raise InputError("cubin", f"starts with {image[:6]!r}", "a 64-bit little-endian ELF file")
    (table,) = struct.unpack_from("<Q", image, 40)
    width, count, names = struct.unpack_from("<HHH", image, 58)
    headers = [struct.unpack_from("<IIQQQQIIQQ", image, table + width * i) for i in range(count)]
    start = headers[names][4]
    found = {}
    for name, kind, _, _, offset, size, _, info, _, _ in headers:
        end = image.index(b"\0", start + name)
        takes_no_space = kind == 8  # SHT_NOBITS
        content = b"" if takes_no_space else image[offset : offset + size]
        found[image[start + name : end].decode()] = _Section(content, size, info)
    return found


def _records(content: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while at + 4 <= len(content):
        form, kind, size = struct.unpack_from("<BBH", content, at)
        at += 4
        if form == _SIZED_FORM:
            found.append((kind, content[at : at + size]))
            at += size
    return found
