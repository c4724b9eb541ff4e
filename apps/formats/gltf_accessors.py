"""A .glb taken apart: its document, its buffer, and the numbers that accessors describe.

Source: glTF 2.0, sections 3.6 (accessors) and 4.4 (GLB). Nothing outside of the file is opened.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from polyfield.apps.files import parse_json
from polyfield.apps.formats.json_fields import Fields
from polyfield.cuda.errors import InputError

_TYPES = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
_MOST = 1 << 40
_EXPECTED = "a .glb of glTF 2.0 with its data inside"


@dataclass(frozen=True)
class Glb:
    """The JSON document of a .glb and the bytes of its buffer."""

    where: str
    document: Fields
    binary: memoryview


def parse_glb(content: bytes | memoryview, where: str) -> Glb:
    """Takes the chunks apart. InputError for another file and for chunks that end beyond it."""
    if len(content) < 20 or content[:4] != b"glTF":
        raise InputError(where, f"it begins with {bytes(content[:4])!r}", _EXPECTED)
    version, total = struct.unpack("<II", content[4:12])
    if version != 2 or not 20 <= total <= len(content):
        got = f"version {version}, {total} bytes of {len(content)}"
        raise InputError(where, got, _EXPECTED, "Copy it again.")
    chunks: dict[bytes, memoryview] = {}
    view, at = memoryview(content)[:total], 12
    while at + 8 <= total:
        length, kind = struct.unpack("<I4s", view[at : at + 8])
        if length > total - at - 8:
            got = f"a chunk of {length} bytes at {at} of {total}"
            raise InputError(where, got, "chunks within the file", "Copy it again.")
        chunks.setdefault(kind, view[at + 8 : at + 8 + length])
        at += 8 + length + -length % 4
    try:
        document = parse_json(bytes(chunks[b"JSON"]))
    except (KeyError, ValueError, RecursionError) as error:
        raise InputError(where, f"no JSON in it ({error})"[:200], _EXPECTED) from error
    if not isinstance(document, dict):
        raise InputError(where, "JSON, but no object", _EXPECTED)
    return Glb(where, Fields(f"{where}:", document), chunks.get(b"BIN\0", memoryview(b"")))


def entry(fields: Fields, key: str, index: object) -> Fields:
    """The object that stands at an index of the array under `key`; InputError for none."""
    items = fields.items(key) or []
    if type(index) is not int or not 0 <= index < len(items):
        got = f"{str(index)[:40]} of {len(items)}"
        raise InputError(fields.name(key), got, "an index of what is there")
    return Fields(fields.where, {f"{key}[{index}]": items[index]}).part(f"{key}[{index}]")


def buffer_view(glb: Glb, index: object) -> tuple[memoryview, int]:
    """The bytes of a buffer view, and its stride, 0 where it has none."""
    view = entry(glb.document, "bufferViews", index)
    buffer = entry(glb.document, "buffers", view.values.get("buffer"))
    if "uri" in buffer:
        raise buffer.refuse("uri", "the buffer of the .glb itself")
    start = view.whole("byteOffset", 0, _MOST) if "byteOffset" in view else 0
    length = view.whole("byteLength", 1, _MOST)
    if length > len(glb.binary) - start:
        got = f"{length} bytes from {start} of {len(glb.binary)}"
        raise InputError(view.name("byteLength"), got, "within its buffer", "Copy it again.")
    stride = view.whole("byteStride", 4, 252) if "byteStride" in view else 0
    return glb.binary[start : start + length], stride


def accessor_count(glb: Glb, index: object) -> int:
    """How many elements an accessor has."""
    return entry(glb.document, "accessors", index).whole("count", 1, _MOST)


def accessor_values(
    glb: Glb, index: object, width: int, count: int
) -> Float32[np.ndarray, "count width"]:
    """The numbers of an accessor of `count` elements, normalised integers as what they mean.

    Zeros where it has no buffer view; `sparse` entries are put in. InputError for another type or
    count, and for elements that lie beyond their bytes.
    """
    accessor = entry(glb.document, "accessors", index)
    kind = accessor.whole("componentType", 5120, 5126)
    if accessor.text("type") not in _WIDTHS or _WIDTHS[str(accessor.text("type"))] != width:
        names = [name for name, wide in _WIDTHS.items() if wide == width]
        raise accessor.refuse("type", " or ".join(names))
    if kind not in _TYPES:
        raise accessor.refuse("componentType", "a type of glTF's")
    form, normalised = np.dtype(_TYPES[kind]), accessor.flag("normalized")
    accessor.whole("count", count, count)
    found = np.zeros((count, width), np.float32)
    if "bufferView" in accessor:
        found[:] = _numbers(_elements(glb, accessor, form, width, count), normalised)
    if "sparse" in accessor:
        sparse = accessor.part("sparse")
        some = sparse.whole("count", 1, count)
        indices, values = sparse.part("indices"), sparse.part("values")
        if indices.values.get("componentType") not in (5121, 5123, 5125):
            raise indices.refuse("componentType", "an unsigned integer's")
        places = np.dtype(_TYPES[indices.values["componentType"]])
        rows = _elements(glb, indices, places, 1, some)[:, 0].astype(np.int64)
        if rows.max() >= count:
            got = f"element {int(rows.max())} of {count}"
            raise InputError(indices.where, got, "elements that are there")
        found[rows] = _numbers(_elements(glb, values, form, width, some), normalised)
    return found


def _elements(glb: Glb, fields: Fields, form: np.dtype, width: int, count: int) -> np.ndarray:
    """[count, width], a view of the buffer's bytes."""
    data, stride = buffer_view(glb, fields.values.get("bufferView"))
    offset = fields.whole("byteOffset", 0, _MOST) if "byteOffset" in fields else 0
    size = form.itemsize * width
    stride = stride or size
    if stride < size or offset + stride * (count - 1) + size > len(data):
        got = f"{count} elements, {stride} bytes apart, from {offset} in {len(data)}"
        raise InputError(fields.where, got, "elements within their buffer view")
    raw = np.frombuffer(data, np.uint8)[offset:]
    shape, strides = (count, width), (stride, form.itemsize)
    return np.ndarray(shape, form, raw, 0, strides)


def _numbers(values: np.ndarray, normalised: bool) -> np.ndarray:
    if not normalised or values.dtype.kind == "f":
        return values
    most = np.iinfo(values.dtype).max
    return np.maximum(values.astype(np.float32) / np.float32(most), -1)
