"""Where a mesh runs through itself: faces that cross others with which they share no vertex."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from polyfield.extract.mesh import Mesh

MOST_CELLS = 64  # of the grid, that a face lies in; larger ones are compared with all others
PAIRS = 1 << 20  # compared at once


def crossed_faces(mesh: Mesh, faces: Int64[Tensor, " n"]) -> Bool[Tensor, " n"]:
    """Of these faces of a mesh, which cross another face that shares no vertex with them.

    Exact up to rounding in float64, but for faces that lie in one plane or only touch: they count
    as not crossing. Faces are found by a grid of cells about as large as they are.
    """
    corners = mesh.vertices.double()[mesh.faces]
    crossed = torch.zeros(len(faces), dtype=torch.bool, device=faces.device)
    for row, other in _neighbours(corners, faces):
        mine = faces[row]
        apart = (mesh.faces[mine][:, :, None] != mesh.faces[other][:, None, :]).all(2).all(1)
        a, b = corners[mine[apart]], corners[other[apart]]
        crossed[row[apart][_cross(a, b) | _cross(b, a)]] = True
    return crossed


def _neighbours(
    corners: Float64[Tensor, "f 3 3"], faces: Int64[Tensor, " n"]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs (row of faces, other face) whose boxes overlap, PAIRS at a time at most."""
    low, high = corners.amin(1), corners.amax(1)
    extent = (high - low).amax(1)
    size = max(2 * float(extent.median()), 1e-5 * float((high.amax(0) - low.amin(0)).max()), 1e-300)
    origin = low.amin(0)
    first, last = (((end - origin) / size).floor().long() for end in (low, high))
    cells = (last - first + 1).prod(1)
    small = cells <= MOST_CELLS
    sides = last.amax(0) + 2
    every = torch.arange(len(corners), device=corners.device)
    held, cell = _cells(every[small], first, last, sides)
    order = cell.argsort()
    held, cell = held[order], cell[order]
    asked, at = _cells(faces[small[faces]], first, last, sides)
    row_of = torch.full((len(corners),), -1, dtype=torch.int64, device=corners.device)
    row_of[faces] = torch.arange(len(faces), device=corners.device)
    begin, end = torch.searchsorted(cell, at), torch.searchsorted(cell, at, right=True)
    count = end - begin
    for some in _runs(count, PAIRS):
        repeat = count[some]
        mine = asked[some].repeat_interleave(repeat)
        within = torch.arange(len(mine), device=mine.device)
        within = within - (repeat.cumsum(0) - repeat).repeat_interleave(repeat)
        other = held[begin[some].repeat_interleave(repeat) + within]
        yield from _overlapping(row_of, low, high, mine, other)
    # Large faces, on either side, against everything.
    large = every[~small]
    for face in large.tolist():
        alone = every.new_full((len(corners),), face)
        yield from _overlapping(row_of, low, high, faces, alone[: len(faces)])
        if row_of[face] >= 0:
            yield from _overlapping(row_of, low, high, alone, every)


def _cells(
    faces: Int64[Tensor, " n"], first: Tensor, last: Tensor, sides: Tensor
) -> tuple[Tensor, Tensor]:
    """Every cell of a grid that the boxes of faces lie in, with the face."""
    span = last[faces] - first[faces] + 1
    count = span.prod(1)
    face = faces.repeat_interleave(count)
    number = torch.arange(len(face), device=faces.device)
    number = number - (count.cumsum(0) - count).repeat_interleave(count)
    span = span.repeat_interleave(count, 0)
    x, y = number // (span[:, 1] * span[:, 2]), number // span[:, 2] % span[:, 1]
    at = first[face] + torch.stack([x, y, number % span[:, 2]], 1)
    return face, (at[:, 0] * sides[1] + at[:, 1]) * sides[2] + at[:, 2]


def _runs(count: Tensor, most: int) -> list[slice]:
    """Slices of counts whose sums are at most `most`, or of a single one."""
    total, runs, begin = count.cumsum(0), [], 0
    while begin < len(count):
        before = int(total[begin - 1]) if begin else 0
        end = int(torch.searchsorted(total, before + most, right=True))
        end = max(end, begin + 1)
        runs.append(slice(begin, end))
        begin = end
    return runs


def _overlapping(
    row_of: Tensor, low: Tensor, high: Tensor, mine: Tensor, other: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Those pairs whose boxes meet."""
    for part in range(0, len(mine), PAIRS):
        a, b = mine[part : part + PAIRS], other[part : part + PAIRS]
        meet = ((low[a] <= high[b]) & (low[b] <= high[a])).all(1) & (a != b)
        if bool(meet.any()):
            yield row_of[a[meet]], b[meet]


def _cross(a: Float64[Tensor, "n 3 3"], b: Float64[Tensor, "n 3 3"]) -> Bool[Tensor, " n"]:
    """Whether an edge of triangle a runs through triangle b."""
    normal = torch.linalg.cross(b[:, 1] - b[:, 0], b[:, 2] - b[:, 0])
    height = ((a - b[:, :1]) * normal[:, None]).sum(2)
    crossed = torch.zeros(len(a), dtype=torch.bool, device=a.device)
    for i in range(3):
        j = (i + 1) % 3
        above, below = height[:, i], height[:, j]
        through = above * below < 0
        t = above / (above - below).where(through, 1.0)
        point = a[:, i] + t[:, None] * (a[:, j] - a[:, i])
        inside = through
        for k in range(3):
            edge = b[:, (k + 1) % 3] - b[:, k]
            turn = torch.linalg.cross(edge, point - b[:, k])
            inside = inside & ((turn * normal).sum(1) > 0)
        crossed |= inside
    return crossed
