"""Files that are whole or not there, and their refusals in one sentence."""

import dataclasses
import errno
import json
import math
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from polyfield.cuda.errors import InputError

PARTIAL = ".partial"  # ends the name of a file that is still being written

MOST_TEXT_BYTES = 1 << 27  # of JSON that is read: fifty times what a large scene needs

# What Python's objects take, at most, by the marks in the text that begin them.
_OBJECT_BYTES = {b"{": 80, b":": 110, b"[": 104, b",": 40, b"\\u": 84}
_SPARE_OBJECT_BYTES = 1 << 24

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def refusal(path: Path, error: OSError) -> InputError:
    """The sentence for a file that the system does not let us write."""
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        return InputError(
            str(path),
            f"the disk has no room for it ({reason})",
            "room to write it",
            "What was written before is intact; free some space or choose another folder.",
        )
    return InputError(
        str(path), f"cannot be written ({reason})", "a place that this user may write to"
    )


def make_folder(path: Path) -> None:
    """Make a folder and those above it, where they are missing. InputError where it cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refusal(path, error) from error


def open_plain(path: Path) -> BinaryIO:
    """A file to read bytes from. OSError, whose strerror says why, where it is none.

    Pipes and devices are refused, without waiting for them: reading them may never end.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "no plain file", str(path))
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_plain(path: Path, most: int | None = None) -> bytes:
    """What a file of at most so many bytes holds, MOST_TEXT_BYTES unless told.

    OSError as open_plain, and for a larger one.
    """
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > (MOST_TEXT_BYTES if most is None else most):
            raise OSError(errno.EFBIG, f"{size} bytes are too many", str(path))
        return file.read(size)


def parse_json(content: bytes) -> Any:
    """The value in a JSON text, in UTF-8. ValueError or RecursionError where it is none.

    ValueError as well for a text that `check_objects` refuses.
    """
    check_objects(content)
    return json.loads(content.decode("utf-8-sig"))


def check_objects(content: bytes) -> None:
    """ValueError for a JSON text whose objects would take many times its bytes.

    A megabyte of brackets makes a hundred of lists, and no file that says anything is brackets.
    """
    taken = sum(content.count(mark) * size for mark, size in _OBJECT_BYTES.items())
    if taken > 5 * len(content) + _SPARE_OBJECT_BYTES:
        raise ValueError(f"its brackets and commas would take {taken >> 20} MiB")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a loss of power."""
    if os.name == "nt":  # Windows opens no folders, and orders renames by itself
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system without this notion
            raise
    finally:
        os.close(handle)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary file that takes the place of `path` when the block ends, whole and on the disk.

    It is written under another name in the same folder, flushed, synced and renamed. After an
    error of any kind it is removed and the file that stood at `path` is untouched.
    Raises InputError where the system refuses (no room, read-only, no such folder).
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        # Without a number it is not the system's: encoders raise OSError for their own faults.
        if isinstance(error, OSError) and error.errno is not None:
            raise refusal(path, error) from error
        raise


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to write into that appears at `path`, absent or empty, when the block ends.

    Until then it has another name beside it. After an error of any kind nothing is left of it, nor
    of folders above that had to be made. Raises InputError where the system refuses.
    """
    made = [above for above in path.parents if not above.exists()]
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if os.name == "nt" and path.exists():
            path.rmdir()
        os.rename(temporary, path)  # which takes an empty folder's place, and no other's
        sync_folder(path.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        for above in made:
            with suppress(OSError):
                above.rmdir()
        if isinstance(error, OSError) and error.errno is not None:
            raise refusal(path, error) from error
        raise


def remove_partial(folder: Path) -> None:
    """Clear away what a killed writer left behind; only for whoever alone writes in `folder`."""
    for path in folder.glob(f".*{PARTIAL}"):
        path.unlink(missing_ok=True)


def plain(value: object) -> object:
    """What JSON can hold of a result: dataclasses as objects, paths as text.

    Numbers that JSON does not know (infinity, NaN) become null. One-element tensors and arrays
    become numbers, larger ones lists. Raises TypeError for anything else.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: plain(getattr(value, name)) for name in names}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    raise TypeError(f"a {type(value).__name__} has no form in JSON")


def write_json(path: Path, value: object) -> None:
    """`plain(value)` as indented JSON, atomic; straight through where `path` is a device or pipe.

    Raises InputError where the system refuses.
    """
    text = json.dumps(plain(value), indent=2, allow_nan=False) + "\n"
    stream = str(path).startswith(("/dev/stdout", "/dev/stderr", "/dev/fd/"))
    if stream or (path.exists() and not path.is_file()):
        # A rename would put a plain file in the place of the device.
        try:
            path.write_text(text)
        except OSError as error:
            raise refusal(path, error) from error
        return
    with replacing(Path(os.path.realpath(path))) as file:
        file.write(text.encode())
