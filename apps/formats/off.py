"""OFF meshes: counts, vertices and faces as lines of numbers."""

from __future__ import annotations

import io
from array import array
from collections.abc import Iterator

import numpy as np
import torch

from polyfield.extract.mesh import Mesh

_MOST_CORNERS = 63
_MOST_LINE = 1 << 12  # bytes


def parse_off(content: bytes) -> Mesh:
    """The mesh, faces as triangles, polygons as fans; ValueError for another text.

    What stands behind a vertex's place or a face's corners on its line, a colour, is passed over.
    """
    lines = _lines(content)
    words = next(lines, [])
    if words[:1] != [b"OFF"]:
        raise ValueError("it does not begin with OFF")
    counts = words[1:] or next(lines, [])
    if len(counts) < 2:
        raise ValueError("its counts are missing")
    vertices, faces = int(counts[0]), int(counts[1])
    if vertices < 0 or faces < 0 or 2 * (vertices + faces) > len(content):
        raise ValueError(f"{vertices} vertices and {faces} faces are more than it holds")
    places, corners = array("d"), array("q")
    for number in range(vertices):
        words = next(lines, [])
        if len(words) < 3:
            raise ValueError(f"vertex {number} is none")
        places.extend(float(word) for word in words[:3])
    for number in range(faces):
        words = next(lines, [])
        count = int(words[0]) if words else 0
        if not 3 <= count <= _MOST_CORNERS or len(words) <= count:
            raise ValueError(f"face {number} is none")
        first, *others = (int(word) for word in words[1 : count + 1])
        for second, third in zip(others, others[1:], strict=False):
            corners.extend((first, second, third))
    points = torch.from_numpy(np.array(places, dtype=np.float32)).view(-1, 3)
    return Mesh(points, torch.from_numpy(np.array(corners, dtype=np.int64)).view(-1, 3))


def _lines(content: bytes) -> Iterator[list[bytes]]:
    """The words of each line that has any, comments left out, one line after the other."""
    file = io.BytesIO(content)
    while line := file.readline(_MOST_LINE):
        if words := line.partition(b"#")[0].split():
            yield words
