"""Tensors in files of torch.save, older or newer: nothing in them runs or is taken on trust."""

from __future__ import annotations

import io
import pickletools
import zipfile
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from polyfield.apps.files import open_plain
from polyfield.cuda.errors import InputError

_MOST_PICKLED = 1 << 16  # bytes of the description of all tensors; ten times what VGG16 takes
_MOST_ENTRIES = 1000
_SMALL = 1 << 16  # of a count, whatever the file's size
_PICKLES = 5  # of an older file: its number, its version, its machine, the tensors, their keys
_MAGIC = 0x1950A86A20F9469CFC6C
# What torch itself writes of a dictionary of tensors.
_STEPS = {
    "PROTO", "FRAME", "MARK", "STOP", "MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET",
    "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE",
    "SHORT_BINUNICODE", "GLOBAL", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1",
    "TUPLE2", "TUPLE3", "SETITEM", "SETITEMS", "APPEND", "APPENDS", "REDUCE", "BUILD", "BINPERSID",
}  # fmt: skip
_NAMES = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    *(f"torch {kind}Storage" for kind in ("Double", "Float", "Half", "BFloat16", "Long", "Int")),
}
_EXPECTED = "tensors that torch.save wrote"


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors by their names, on the CPU; what has no name, or is no tensor, is left out.

    The file's description of them is walked through first, for torch's reader believes sizes, and
    takes minutes over some names. InputError, naming the file, where it holds anything else.
    """
    try:
        with open_plain(path) as file:
            _check(file, max(file.seek(0, 2), _SMALL))
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the bytes lead zipfile, pickletools and torch to
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise InputError(str(path), f"cannot be read ({reason})", _EXPECTED) from error
    if not isinstance(found, dict):
        raise InputError(str(path), f"a {type(found).__name__}", _EXPECTED)
    return {
        name: tensor
        for name, tensor in found.items()
        if isinstance(name, str) and isinstance(tensor, Tensor)
    }


def _check(file: BinaryIO, most: int) -> None:
    """ValueError for a description that torch.save does not write, or counts above `most`."""
    file.seek(0)
    start = file.read(_MOST_PICKLED)
    if not start.startswith(b"PK"):
        content = io.BytesIO(start)
        _check_steps(content, _MAGIC)
        for _ in range(_PICKLES - 1):
            _check_steps(content, most)
        return
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if len(entries) > _MOST_ENTRIES or any(e.compress_type for e in entries):
            raise ValueError("packed in a way that torch does not write")
        if sum(max(e.file_size, e.compress_size) for e in entries) > most:
            raise ValueError("entries that are larger than the file")
        described = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
        if len(described) != 1 or described[0].file_size > _MOST_PICKLED:
            raise ValueError("no description of tensors")
        _check_steps(io.BytesIO(archive.read(described[0])), most)


def _check_steps(content: io.BytesIO, most: int) -> None:
    """Walk to the end of one pickle, in which no number is above `most`."""
    for step, value, _ in pickletools.genops(content):
        if step.name not in _STEPS:
            raise ValueError(f"a step {step.name} in it")
        if step.name == "GLOBAL" and value not in _NAMES:
            raise ValueError(f"it names {str(value)[:60]!r}")
        if isinstance(value, int) and not 0 <= value <= most:
            raise ValueError(f"it counts {str(value)[:30]}")
