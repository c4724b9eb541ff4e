"""PLY as a format of tables: any elements, of scalars in any order, binary of either order or text.

Source: Turk's description of PLY (1994), and what writers of points and Gaussians make of it.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import BinaryIO, Literal

import numpy as np

from polyfield.apps.files import MOST_TEXT_BYTES
from polyfield.cuda.errors import InputError

TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}
ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_LONGEST_HEADER = 1 << 17
_MOST_DIGITS = 18
_MOST_PROPERTIES = 1024
_MOST_LISTS = 1 << 20  # rows of lists that are stepped over one by one
_NUMBERS = 1 << 18  # of a text, read at once


@dataclass(frozen=True)
class Element:
    """One table: its rows, and name and type of each column."""

    name: str
    count: int
    columns: tuple[tuple[str, str], ...] = ()
    """Types as numpy has them; "count>entry" of a list."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns, in their order."""
        return tuple(name for name, _ in self.columns)


@dataclass(frozen=True)
class PlyHeader:
    """What a PLY says before its data."""

    order: str
    """Of bytes, as numpy writes it; empty for text."""
    elements: tuple[Element, ...]
    comments: tuple[str, ...]
    begin: int
    """Where the data begin, in bytes."""

    def element(self, name: str) -> Element | None:
        """The element of that name, if it is there."""
        return next((element for element in self.elements if element.name == name), None)


def read_header(file: BinaryIO, where: str) -> PlyHeader:
    """The header at the beginning of a file. InputError, which names the line, for another."""
    order: str | None = None
    elements: list[Element] = []
    comments: list[str] = []
    read = 0
    for number in range(_LONGEST_HEADER):
        line = file.readline(_LONGEST_HEADER)
        read += len(line)
        words = line.decode("latin-1").split()
        at = f"{where}: line {number + 1}"
        if number == 0 and words != ["ply"]:
            raise InputError(where, "no PLY", "a file that begins with a line `ply`")
        if not line.endswith(b"\n") or read > _LONGEST_HEADER:
            got = f"no end of its header in {read} bytes"
            raise InputError(where, got, f"a line `end_header` within {_LONGEST_HEADER:,}")
        match words:
            case ["end_header"]:
                break
            case ["format", form, *_]:
                order = ORDERS.get(form)
                if order is None:
                    raise InputError(at, f"format {form[:40]!r}", " or ".join(ORDERS))
            case ["comment" | "obj_info", *_]:
                comments.append(line.decode("latin-1").strip().partition(" ")[2].strip())
            case ["element", name, count]:
                elements.append(Element(name, _count(at, count)))
                if sum(element.name == name for element in elements) > 1:
                    raise InputError(at, f"a second element {name[:40]!r}", "one of each name")
            case ["property", *rest] if elements:
                elements[-1] = _with_column(at, elements[-1], rest)
            case ["ply"] | []:
                pass
            case _:
                raise InputError(at, f"{line[:80]!r}", "format, comment, element or property")
    if order is None:
        raise InputError(where, "a header without a line `format`", " or ".join(ORDERS))
    return PlyHeader(order, tuple(elements), tuple(comments), read)


def _count(at: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise InputError(at, f"{text[:40]!r} rows", f"a whole number of {_MOST_DIGITS} digits")
    return int(text)


def _with_column(at: str, element: Element, words: list[str]) -> Element:
    match words:
        case [kind, name] if kind in TYPES:
            column = (name, TYPES[kind])
        case ["list", count, entry, name] if count in TYPES and entry in TYPES:
            column = (name, f"{TYPES[count]}>{TYPES[entry]}")
        case _:
            got = " ".join(["property", *words])[:80]
            raise InputError(at, repr(got), "a type of PLY and a name")
    if column[0] in element.names:
        raise InputError(at, f"a second property {column[0][:40]!r}", "one of each name")
    if len(element.columns) == _MOST_PROPERTIES:
        raise InputError(at, "one property more", f"at most {_MOST_PROPERTIES:,} of an element")
    return Element(element.name, element.count, (*element.columns, column))


def check_size(file: BinaryIO, header: PlyHeader, where: str) -> int:
    """Bytes beyond those that the header states, if no lists leave that open: then 0.

    InputError where the file holds fewer. Nothing is allocated before.
    """
    left = os.fstat(file.fileno()).st_size - header.begin
    needed, exact = 0, bool(header.order)
    for element in header.elements:
        for _, kind in element.columns:
            exact = exact and ">" not in kind
            # Of a list its count; of a number in a text a digit and what parts it from the next.
            size = np.dtype(kind.split(">")[0]).itemsize if header.order else 2
            needed += element.count * size
    if needed > left + (not header.order):
        counts = ", ".join(f"{each.count} {each.name[:40]}" for each in header.elements)
        got = f"{counts} in {left} bytes"
        raise InputError(where, got, f"{needed} bytes for them", "Copy it again.")
    if not header.order and left > MOST_TEXT_BYTES:
        raise InputError(where, f"{left} bytes of text", f"at most {MOST_TEXT_BYTES:,}, or binary")
    return left - needed if exact else 0


def read_table(file: BinaryIO, header: PlyHeader, name: str, where: str) -> np.ndarray:
    """The rows of one element, as a structured array: mapped from the file, or parsed from text.

    Call check_size before. InputError where the element has lists, or the text is no table.
    """
    element = header.element(name)
    if element is None or any(">" in kind for _, kind in element.columns):
        raise InputError(f"{where}: element {name}", "missing, or of lists", "a table of numbers")
    file.seek(header.begin)
    for before in header.elements[: header.elements.index(element)]:
        _step_over(file, header, before, where)
    form = np.dtype([(column, header.order + kind) for column, kind in element.columns])
    if not element.count or not form.itemsize:
        return np.zeros(element.count if form.itemsize else 0, form)
    if not header.order:
        return _text(file, element, form, where)
    left = os.fstat(file.fileno()).st_size - file.tell()
    if element.count * form.itemsize > left:  # after lists
        got = f"{element.count} rows of {form.itemsize} bytes in {left}"
        raise InputError(f"{where}: element {name}", got, "what the file holds", "Copy it again.")
    # Mapped: only what is read takes memory.
    return np.memmap(file, form, "r", file.tell(), (element.count,))


def _step_over(file: BinaryIO, header: PlyHeader, element: Element, where: str) -> None:
    lists = any(">" in kind for _, kind in element.columns)
    if (lists or not header.order) and element.count > _MOST_LISTS:
        got = f"{element.count} rows of element {element.name[:40]}"
        raise InputError(where, got, f"at most {_MOST_LISTS:,} before those that are wanted")
    if not header.order:
        for _ in range(element.count):
            file.readline(MOST_TEXT_BYTES)
        return
    if not lists:
        size = sum(np.dtype(kind).itemsize for _, kind in element.columns)
        file.seek(element.count * size, os.SEEK_CUR)
        return
    order: Literal["little", "big"] = "little" if header.order == "<" else "big"
    for _ in range(element.count):
        for _, kind in element.columns:
            count, _, entry = kind.partition(">")
            if not entry:
                file.seek(np.dtype(count).itemsize, os.SEEK_CUR)
                continue
            held = file.read(np.dtype(count).itemsize)
            length = int.from_bytes(held, order, signed=count.startswith("i"))
            if length < 0 or count.startswith("f") or not held:
                got = f"a list of {length} in element {element.name[:40]}"
                raise InputError(where, got, "lists of 0 or more, within the file")
            file.seek(length * np.dtype(entry).itemsize, os.SEEK_CUR)


def _text(file: BinaryIO, element: Element, form: np.dtype, where: str) -> np.ndarray:
    at = f"{where}: element {element.name}"
    table = np.empty(element.count, form)
    lines = iter(lambda: file.readline(_LONGEST_HEADER), b"")
    step = max(1, _NUMBERS // len(element.columns))
    for first in range(0, element.count, step):
        last = min(first + step, element.count)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of numpy's, that there is nothing to read
                rows = np.loadtxt(lines, np.float64, comments=None, max_rows=last - first, ndmin=2)
        except (ValueError, UnicodeDecodeError, OverflowError) as error:
            got = f"no table of numbers ({str(error)[:80]})"
            raise InputError(at, got, f"{len(element.columns)} numbers a line") from error
        if rows.shape != (last - first, len(element.columns)):
            got = f"{rows.shape[0]} rows of {rows.shape[1]} numbers from row {first}"
            raise InputError(at, got, f"{last - first} rows of {len(element.columns)}")
        for (name, kind), column in zip(element.columns, rows.T, strict=True):
            if kind[0] != "f":
                limits = np.iinfo(kind)
                if not ((column >= limits.min) & (column <= limits.max)).all():
                    raise InputError(f"{at}.{name}", "beyond its type", f"numbers of {kind}")
            with np.errstate(over="ignore"):
                table[name][first:last] = column
    return table


def columns(table: np.ndarray, names: list[str], rows: slice) -> np.ndarray:
    """Some columns of some rows as float32 [rows, names], what is too large as infinity."""
    part = table[rows]
    found = np.empty((len(part), len(names)), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for place, name in enumerate(names):
            found[:, place] = part[name]
    return found
