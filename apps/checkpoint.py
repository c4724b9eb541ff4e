"""Checkpoints: one safetensors file with JSON metadata, written whole, read without trust.

The file is plain safetensors (header length, JSON header, data), so any reader of that format opens
it. Its metadata has one key, "polyfield": JSON text with the format version, a CRC-32 over metadata
and tensors, and the caller's metadata. Nothing in it names code.
"""

import json
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from polyfield.apps.files import (
    MOST_TEXT_BYTES,
    check_objects,
    open_plain,
    parse_json,
    replacing,
)
from polyfield.apps.formats.json_fields import shown
from polyfield.cuda.errors import InputError

FORMAT_VERSION = 1
KEY = "polyfield"

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_NAME = re.compile(r"step_(\d+)\.safetensors")


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was found and read."""

    path: Path
    step: int
    tensors: dict[str, Tensor]
    metadata: dict
    damaged: tuple[str, ...] = ()
    """One sentence for each newer checkpoint that could not be read and was passed over."""


def write(path: Path, tensors: dict[str, Tensor], metadata: dict) -> None:
    """Put a checkpoint at `path`, whole and on the disk, or leave what stood there untouched.

    Any device, any layout; values that are not finite are kept as they are. `metadata` is what JSON
    can hold, without NaN or infinity (ValueError, TypeError otherwise).
    Raises InputError where the disk is full or the folder cannot be written, or for a dtype that
    the format does not know.
    """
    # The widest numbers first: every tensor then starts at a multiple of its own number's size.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    host = {name: tensors[name].detach().cpu().contiguous() for name in order}
    metadata = json.loads(json.dumps(metadata, allow_nan=False))
    envelope = {
        "format_version": FORMAT_VERSION,
        "crc32": _checksum(host, metadata),
        "metadata": metadata,
    }
    header: dict[str, object] = {"__metadata__": {KEY: json.dumps(envelope)}}
    end = 0
    for name, tensor in host.items():
        begin, end = end, end + tensor.numel() * tensor.element_size()
        if tensor.dtype not in _DTYPES or name == "__metadata__":
            known = ", ".join(str(dtype) for dtype in _DTYPES)
            raise InputError(str(path), f"tensor {name!r} is {tensor.dtype}", f"one of {known}")
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for tensor in host.values():
            file.write(_data(tensor))


def read(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Tensors, on the CPU, and metadata of a checkpoint, exactly as they were given to `write`.

    Executes nothing and allocates no more than the file holds. Raises InputError, which names the
    file, where it is missing, truncated, damaged, another program's, or of an unknown version.
    """
    where = str(path)
    if not path.is_file():
        raise InputError(where, "is no file", "a checkpoint")
    try:
        _check_header(path)
        with safe_open(path, framework="pt") as file:
            envelope = _envelope(where, (file.metadata() or {}).get(KEY))
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        metadata, expected = envelope["metadata"], envelope["crc32"]
        whole = isinstance(metadata, dict) and _checksum(tensors, metadata) == expected
    except InputError:
        raise
    # The bytes are anybody's, and between them safetensors, json and torch refuse with a dozen
    # types of exception; each means the same to the reader.
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(where, f"cannot be read ({reason})", "a whole checkpoint") from error
    if not whole:
        raise InputError(where, "its checksum does not fit its content", "an undamaged checkpoint")
    return tensors, metadata


def step_path(folder: Path, step: int) -> Path:
    """Where the checkpoint after `step` steps lies in a run's folder of checkpoints."""
    return folder / f"step_{step:08d}.safetensors"


def steps_in(folder: Path) -> dict[int, Path]:
    """The checkpoints of a folder by their step, oldest first, unread. Empty if there is none."""
    found = {
        int(match[1]): path
        for path in folder.glob("*")
        if (match := _NAME.fullmatch(path.name)) and path.is_file()
    }
    return dict(sorted(found.items()))


def latest(folder: Path) -> Saved | None:
    """The newest checkpoint of a folder that can be read; None where there is none at all.

    Damaged newer ones are passed over and named in the result. Raises InputError where there are
    checkpoints and none can be read.
    """
    damaged: list[str] = []
    for step, path in reversed(steps_in(folder).items()):
        try:
            tensors, metadata = read(path)
        except InputError as error:
            damaged.append(str(error))
            continue
        return Saved(path, step, tensors, metadata, tuple(damaged))
    if damaged:
        raise InputError(
            str(folder),
            f"no checkpoint can be read ({damaged[0]})",
            "at least one whole checkpoint",
        )
    return None


def _check_header(path: Path) -> None:
    """ValueError for a header that takes many times its bytes, such as one of a million tensors."""
    with open_plain(path) as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > min(MOST_TEXT_BYTES, path.stat().st_size):
            raise ValueError(f"its header is of {length} bytes")
        check_objects(file.read(length))


def _envelope(where: str, text: str | None) -> dict:
    if text is None:
        raise InputError(
            where,
            f"is a safetensors file without the metadata {KEY!r}",
            "a checkpoint that polyfield wrote",
        )
    envelope = parse_json(text.encode())
    version = envelope.get("format_version") if isinstance(envelope, dict) else None
    if type(version) is not int or version != FORMAT_VERSION:
        raise InputError(
            where,
            f"format version {shown(version)}",
            f"version {FORMAT_VERSION}",
            "Read it with the version of polyfield that wrote it.",
        )
    return envelope


def _data(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _checksum(tensors: dict[str, Tensor], metadata: dict) -> int:
    crc = zlib.crc32(json.dumps(metadata, sort_keys=True, allow_nan=False).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        crc = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), crc)
        crc = zlib.crc32(_data(tensor), crc)
    return crc
