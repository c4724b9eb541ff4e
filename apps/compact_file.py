"""A field in few bytes: halves of numbers, their bytes apart, packed by zstd.

zstd(safetensors). Every tensor of floats is one of bytes there: the high bytes of all its halves,
which hold sign and exponent and so repeat themselves, and then the low ones. What halves cannot
hold stays as it is. The metadata is one JSON text under "polyfield", with the tensors' shapes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from pathlib import Path

import torch
import zstandard
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from polyfield.apps.files import check_objects, parse_json, read_plain, replacing
from polyfield.apps.formats.json_fields import Fields
from polyfield.cuda.errors import InputError
from polyfield.fields.field import Part
from polyfield.fields.optimiser import rate_factors

SUFFIX = ".safetensors.zst"
KEY = "polyfield"
VERSION = 1
LEVEL = 19
MOST_PACKED, MOST_BYTES = 1 << 28, 1 << 31  # of a file, and of what it unpacks to
MOST_RATIO = 1 << 8  # of unpacked bytes to packed ones: a field is no desert
_PIECE = 1 << 10  # bytes unpacked at once: they may hold thousands of times as many
_EXPECTED = "a field that `polyfield fit` packed"


def write_compact(
    path: Path, tensors: dict[str, Tensor], metadata: dict, exact: Collection[str] = ()
) -> int:
    """Writes the file, whole or not at all; its bytes.

    Floats lose all but eleven bits of their precision, those of the tensors named in `exact` none.
    Raises InputError where the system refuses.
    """
    halves: dict[str, list[int]] = {}
    packed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        half = tensor.half() if tensor.is_floating_point() else tensor
        halved = tensor.is_floating_point() and name not in exact
        if not halved or not bool(half.isfinite().all()):
            packed[name] = tensor
            continue
        halves[name] = list(tensor.shape)
        # Little-endian: the second byte of a half is the high one.
        packed[name] = half.reshape(-1, 1).view(torch.uint8).flip(1).T.contiguous()
    text = json.dumps({"version": VERSION, "halves": halves, "metadata": metadata})
    content = save_tensors(packed, {KEY: text})
    content = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).compress(content)
    with replacing(path) as file:
        file.write(content)
    return len(content)


def placed_tensors(part: Part) -> set[str]:
    """Names of what is placed in a field, centres of kernels or waves, released or not.

    It goes through sines of thousands: halves would spoil it.
    """
    learned = {name for name, _ in part.named_parameters()}
    return (part.state_dict().keys() - learned) | rate_factors(part).keys()


def read_compact(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Tensors, in float32 where they were halves, and metadata.

    Executes nothing and takes no more memory than the file's header states, at most 2 GiB. Raises
    InputError, which names the file, for what `write_compact` did not write.
    """
    where = str(path)
    try:
        packed = read_plain(path, MOST_PACKED)
        size = zstandard.get_frame_parameters(packed).content_size
        if not 0 < size <= min(MOST_BYTES, MOST_RATIO * len(packed)):
            raise ValueError(f"it says that it unpacks to {size} bytes")
        content = _unpacked_bytes(packed, size)
        del packed
        length = int.from_bytes(content[:8], "little")
        if length > len(content):
            raise ValueError("its header is cut off")
        check_objects(content[8 : 8 + length])
        header = parse_json(content[8 : 8 + length])
        values = parse_json(header["__metadata__"][KEY].encode())
        found = Fields(f"{where}:", values)
        found.whole("version", VERSION, VERSION)
        halves = found.part("halves").values
        tensors = {
            name: _unpacked(tensor, halves[name]) if name in halves else tensor
            for name, tensor in load_tensors(content).items()
        }
        return tensors, found.part("metadata").values
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(where, "no such file", _EXPECTED) from error
    # As of checkpoints: the bytes are anybody's, and a dozen types of exception mean one thing.
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(where, f"cannot be read ({reason})", _EXPECTED) from error


def _unpacked_bytes(packed: bytes, size: int) -> bytes:
    """What the file holds, as it comes: a header that lies takes no memory."""
    content, reader = bytearray(), zstandard.ZstdDecompressor().decompressobj()
    for begin in range(0, len(packed), _PIECE):
        content += reader.decompress(packed[begin : begin + _PIECE])
        if len(content) > size:
            raise ValueError(f"it unpacks to more than the {size} bytes that it says")
        if reader.eof and begin + _PIECE < len(packed):
            raise ValueError("more bytes follow than it has")
    if len(content) != size or not reader.eof:
        raise ValueError(f"it unpacks to {len(content)} of {size} bytes")
    return bytes(content)


def _unpacked(planes: Tensor, shape: list[int]) -> Tensor:
    count = math.prod(shape)
    if planes.dtype != torch.uint8 or planes.shape != (2, count) or min(shape, default=1) < 0:
        raise ValueError("a tensor is not of the shape that it says")
    halves = planes.T.flip(1).reshape(-1).clone().view(torch.float16)
    return halves.float().reshape(shape)
