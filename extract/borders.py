"""A closed surface cut into regions: the borders between them, and the faces of its dual."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

SAME_CELL = 6  # the direction of what lies within a cell


class Borders(NamedTuple):
    """The edges of triangles between two regions, once for each side, with that region on its left.

    Seen from outside, a region's borders run around it counter-clockwise.
    """

    region: Int64[Tensor, " n"]
    twin: Int64[Tensor, " n"]
    """The other side of the same edge."""
    following: Int64[Tensor, " n"]
    """The next border of the same region, which begins where this one ends."""
    origin: Int64[Tensor, " n"]
    """The vertex where it begins."""
    direction: Int64[Tensor, " n"]
    """Of the cells' face that it lies on, seen from its region: 2 * axis, + 1 for the upper one."""


def triangle_borders(
    faces: Int64[Tensor, "f 3"], cell: Int64[Tensor, "f 3"], vertices: int
) -> Borders:
    """All edges of a closed surface of so many vertices: each triangle is a region in its cell.

    Cells of neighbours are the same one or share a face.
    """
    begin, end = faces.reshape(-1), faces.roll(-1, 1).reshape(-1)
    pairs = (torch.minimum(begin, end) * vertices + torch.maximum(begin, end)).argsort(stable=True)
    twin = torch.empty_like(begin)
    twin[pairs[0::2]], twin[pairs[1::2]] = pairs[1::2], pairs[0::2]
    side = torch.arange(len(begin), device=faces.device)
    region = side // 3
    following = torch.where(side % 3 == 2, side - 2, side + 1)
    step = cell[region[twin]] - cell[region]
    axis = step.abs().argmax(1)
    direction = 2 * axis + (step.sum(1) > 0)
    direction = torch.where((step == 0).all(1), SAME_CELL, direction)
    return Borders(region, twin, following, begin, direction)


def coarser(borders: Borders, label: Int64[Tensor, " regions"]) -> Borders:
    """What is left of them where all regions of one label are one region of that number."""
    region = label[borders.region]
    kept = region != region[borders.twin]
    following = borders.following
    while True:  # around a vertex, until there is a border again
        stuck = torch.nonzero(kept & ~kept[following])[:, 0]
        if not len(stuck):
            break
        following = following.index_copy(
            0, stuck, borders.following[borders.twin[following[stuck]]]
        )
    number = kept.cumsum(0) - 1
    return Borders(
        region[kept],
        number[borders.twin[kept]],
        number[following[kept]],
        borders.origin[kept],
        borders.direction[kept],
    )


def euler_numbers(
    borders: Borders, euler: Int64[Tensor, " regions"], label: Int64[Tensor, " regions"], count: int
) -> Int64[Tensor, " {count}"]:
    """Of the regions that `coarser` makes, so many of them, from those of what they are made of."""
    region = label[borders.region]
    gone = region == region[borders.twin]
    total = euler.new_zeros(count).index_add(0, label, euler)
    total -= torch.bincount(region[gone], minlength=count) // 2
    if not bool(gone.any()):
        return total
    # A vertex all of whose borders are gone lies within a region: it is common to all its parts.
    vertices = int(borders.origin.max()) + 1
    of_vertex = torch.full((vertices,), -1, dtype=torch.int64, device=region.device)
    of_vertex[borders.origin[gone]] = region[gone]
    of_vertex[borders.origin[~gone]] = -1
    return total + torch.bincount(of_vertex[of_vertex >= 0], minlength=count)


def simple_discs(borders: Borders, euler: Int64[Tensor, " regions"]) -> Bool[Tensor, " regions"]:
    """Those that are discs and leave their cell by three of its faces or more, once by each.

    Two such regions share one row of edges at most, as do one and a triangle within a cell: the
    dual of a surface that consists of them is a manifold of the surface's topology.
    Source: Schaefer, Ju and Warren, Manifold dual contouring (2007).
    """
    turning = borders.direction != borders.direction[borders.following]
    turns = torch.bincount(borders.region[turning], minlength=len(euler))
    left_by = torch.zeros(len(euler), SAME_CELL + 1, dtype=torch.bool, device=euler.device)
    left_by[borders.region, borders.direction] = True
    return (euler == 1) & (turns == left_by.sum(1)) & (turns >= 3)


def borders_on_one_face(borders: Borders) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]:
    """Pairs of borders by which a region leaves a face of its cell twice."""
    key = borders.region * (SAME_CELL + 1) + borders.direction
    order = key.argsort(stable=True)
    again = torch.nonzero(key[order[1:]] == key[order[:-1]])[:, 0]
    return order[again], order[again + 1]


def connected(borders: Borders, joined: Bool[Tensor, " n"], regions: int) -> Int64[Tensor, " r"]:
    """Numbers of groups, of all regions: those across joined borders, or through others, agree."""
    root = torch.arange(regions, device=borders.region.device)
    one, other = borders.region[joined], borders.region[borders.twin[joined]]
    while True:
        a, b = root[one], root[other]
        least = torch.minimum(a, b)
        if torch.equal(a, least) and torch.equal(b, least):
            return root.unique(return_inverse=True)[1]
        root = root.scatter_reduce(0, a, least, "amin").scatter_reduce(0, b, least, "amin")
        while not torch.equal(shorter := root[root], root):
            root = shorter


class Polygons(NamedTuple):
    """The dual of a surface in regions: around each vertex where three or more of them meet."""

    three: Int64[Tensor, "t 3"]
    """Regions, counter-clockwise seen from outside."""
    center_of_three: Int64[Tensor, " t"]
    """The vertex."""
    four: Int64[Tensor, "q 4"]
    center_of_four: Int64[Tensor, " q"]
    sides: Int64[Tensor, "s 2"]
    """Of polygons of more corners: two regions, one after the other."""
    center_of_side: Int64[Tensor, " s"]


def dual_polygons(borders: Borders) -> Polygons:
    """Each region's vertex is a corner once, at most, of each polygon."""
    before = torch.empty_like(borders.following)
    before[borders.following] = torch.arange(len(before), device=before.device)
    turned = borders.twin[before]  # about its origin, counter-clockwise, to the next region
    meeting = torch.bincount(borders.origin)
    order = torch.arange(len(before), device=before.device)
    first = torch.full_like(meeting, len(order)).scatter_reduce(0, borders.origin, order, "amin")
    first, meeting = first[borders.origin] == order, meeting[borders.origin]

    def ring(corners: int) -> tuple[Tensor, Tensor]:
        at = order[first & (meeting == corners)]
        center, found = borders.origin[at], []
        for _ in range(corners):
            found.append(borders.region[at])
            at = turned[at]
        return torch.stack(found, 1), center

    many = order[meeting > 4]
    sides = torch.stack([borders.region[many], borders.region[turned[many]]], 1)
    return Polygons(*ring(3), *ring(4), sides, borders.origin[many])
