"""OBJ meshes: vertices and faces of a text, colours and normals where each vertex has one."""

from __future__ import annotations

import io
from array import array

import numpy as np
import torch
from torch import Tensor

from polyfield.extract.mesh import Mesh

_MOST_CORNERS = 63
_MOST_LINE = 1 << 12  # bytes


def parse_obj(content: bytes) -> Mesh:
    """All faces as triangles, polygons as fans; ValueError for another text.

    Colours are the three numbers behind a vertex's place, in [0, 1]. Normals are kept where each
    corner names that of its vertex's own number. Materials, texture places, groups and curves are
    passed over, and no file that it names is opened.
    """
    places, colors, normals = array("d"), array("d"), array("d")
    corners, own = array("q"), True
    file = io.BytesIO(content)
    while line := file.readline(_MOST_LINE):
        words = line.partition(b"#")[0].split()
        kind = words[0] if words else b""
        if kind == b"v":
            numbers = [float(word) for word in words[1:8]]
            if len(numbers) < 3:
                raise ValueError("a vertex of fewer than three numbers")
            places.extend(numbers[:3])
            if len(numbers) >= 6:
                colors.extend(numbers[3:6])
        elif kind == b"vn":
            normals.extend(float(word) for word in words[1:4])
        elif kind == b"f":
            if not 3 <= len(words) - 1 <= _MOST_CORNERS:
                raise ValueError(f"a face of {len(words) - 1} corners")
            face = []
            for word in words[1:]:
                vertex, _, rest = word.partition(b"/")
                face.append(_index(vertex, len(places) // 3))
                normal = rest.partition(b"/")[2]
                own = own and bool(normal) and _index(normal, len(normals) // 3) == face[-1]
            for second, third in zip(face[1:], face[2:], strict=False):
                corners.extend((face[0], second, third))
    return Mesh(
        _rows(places).float(),
        _rows(corners),
        _rows(colors).float() if len(colors) == len(places) > 0 else None,
        _rows(normals).float() if own and len(normals) == len(places) > 0 else None,
    )


def _index(word: bytes, count: int) -> int:
    """From 1 on, or back from the last one so far; Mesh refuses what is out of range."""
    number = int(word)
    if number == 0:
        raise ValueError("a corner of number 0")
    return number - 1 if number > 0 else count + number


def _rows(numbers: array) -> Tensor:
    kind = np.float64 if numbers.typecode == "d" else np.int64
    return torch.from_numpy(np.array(numbers, dtype=kind)).view(-1, 3)
