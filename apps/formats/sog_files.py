"""The files of a SOG: in a folder or zipped, found by plain names, and their pixels."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from polyfield.apps.files import open_plain, parse_json, read_plain
from polyfield.apps.formats.json_fields import Fields
from polyfield.apps.formats.splat_values import MOST_BYTES
from polyfield.cuda.errors import InputError

META = "meta.json"
_MOST_META = 1 << 24  # bytes
_PIXEL_BYTES = 16  # of a picture's file: four times what no packing takes
_MOST_SIDE = 16383  # of a WebP
_SPARE_PIXELS = 1 << 20  # of an image, beside four for each that is used
_DEFLATE = 1032  # bytes that deflate makes of one, at most
_DIRECTORY = 1 << 16  # bytes of a zip's: a SOG has eight files
_END, _END_BYTES, _WIDE_END = b"PK\x05\x06", 22, b"PK\x06\x07"
_EXPECTED = "a SOG: meta.json with its images, in a folder or zipped"

Files = Callable[[str, int], bytes]
"""What is in the file of a name, of so many bytes at most; InputError where it is not there."""


@contextmanager
def open_files(path: Path, where: str) -> Iterator[Files]:
    """The files beside a meta.json, in a folder, or in a zip. InputError where there are none."""
    if path.is_dir() or path.name == META:
        yield _in_folder(path if path.is_dir() else path.parent, where)
        return
    try:
        file = open_plain(path)
    except OSError as error:
        got = f"cannot be read ({error.strerror or error})"
        raise InputError(where, got, _EXPECTED) from error
    with file:
        yield _in_zip(file, where)


def read_meta(files: Files, where: str) -> Fields:
    """The object in meta.json."""
    name, content = f"{where}/{META}", files(META, _MOST_META)
    try:
        values = parse_json(content)
    except (ValueError, RecursionError) as error:
        raise InputError(name, f"not JSON ({error or type(error).__name__})", _EXPECTED) from error
    if not isinstance(values, dict):
        raise InputError(name, "JSON, but no object", _EXPECTED)
    return Fields(f"{name}:", values)


def check_name(name: object, where: str) -> str:
    """A name that leads nowhere else; InputError for any other."""
    if isinstance(name, str) and name.isprintable() and name not in ("", ".", ".."):
        if len(name) < 256 and not any(mark in name for mark in "/\\:"):
            return name
    raise InputError(where, f"file {str(name)[:80]!r}", "a plain name beside meta.json")


def pixels(
    content: bytes, where: str, fits: Callable[[int, int], bool], expected: str
) -> UInt8[np.ndarray, "height width 4"]:
    """RGBA of an image whose width and height fit, which is asked before anything is decoded."""
    try:
        with Image.open(io.BytesIO(content), formats=("WEBP", "PNG")) as image:
            width, height = image.size
            if max(width, height) > _MOST_SIDE or not fits(width, height):
                raise InputError(where, f"{width}x{height} pixels", expected)
            # Opaque ones come back without alpha.
            return np.array(image.convert("RGBA"))
    except InputError:
        raise
    except Exception as error:  # Pillow's readers raise whatever their bytes lead them to
        got = f"its pixels do not decode ({str(error) or type(error).__name__})"
        raise InputError(where, got, "a WebP without loss") from error


def of_splats(files: Files, name: str, where: str, count: int) -> UInt8[np.ndarray, "count 4"]:
    """The first `count` pixels of a picture, row by row."""

    def fits(width: int, height: int) -> bool:
        return count <= width * height <= 4 * count + _SPARE_PIXELS

    expected = f"at least {count}, and not many more"
    content = files(name, _PIXEL_BYTES * count + _SPARE_PIXELS)
    return pixels(content, f"{where}/{name}", fits, expected).reshape(-1, 4)[:count]


def _in_folder(folder: Path, where: str) -> Files:
    def read(name: str, most: int) -> bytes:
        try:
            return read_plain(folder / check_name(name, where), most)
        except OSError as error:
            got = f"cannot be read ({error.strerror or error})"
            raise InputError(f"{where}/{name}", got, _EXPECTED) from error

    return read


def _in_zip(content: BinaryIO, where: str) -> Files:
    # Python's objects take many times the bytes of a directory.
    length = content.seek(0, 2)
    content.seek(max(0, length - _END_BYTES - 0xFFFF))
    tail = content.read()
    end = tail.rfind(_END)
    size = int.from_bytes(tail[end + 12 : end + 16], "little")
    if end < 0 or size > _DIRECTORY or _WIDE_END in tail[max(0, end - 20) : end]:
        got = "no zip, or one with a long directory"
        raise InputError(where, got, _EXPECTED, "Copy it again.")
    try:
        archive = zipfile.ZipFile(content)
        entries = {entry.filename: entry for entry in archive.infolist()}
    except Exception as error:  # zipfile raises whatever the bytes lead it to
        got = f"no zip that can be read ({str(error) or type(error).__name__})"
        raise InputError(where, got, _EXPECTED) from error
    total = sum(entry.file_size for entry in entries.values())
    if total > min(MOST_BYTES, _DEFLATE * length):
        got = f"files of {total} bytes in {length}"
        raise InputError(where, got, "what it can hold", "Copy it again.")

    def read(name: str, most: int) -> bytes:
        at, entry = f"{where}/{name}", entries.get(check_name(name, where))
        if entry is None:
            raise InputError(at, "missing", _EXPECTED)
        if entry.file_size > most:
            raise InputError(at, f"{entry.file_size} bytes", f"at most {most:,}")
        try:
            with archive.open(entry) as file:
                found = file.read(entry.file_size + 1)
        except Exception as error:
            got = f"cannot be unpacked ({str(error) or type(error).__name__})"
            raise InputError(at, got, _EXPECTED, "Copy it again.") from error
        if len(found) != entry.file_size:
            raise InputError(at, f"{len(found)} bytes", f"{entry.file_size}", "Copy it again.")
        return found

    return read
