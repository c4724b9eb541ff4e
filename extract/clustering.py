"""Fewer vertices where a surface is flat: regions of small cells put together in an octree."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from polyfield.extract.borders import (
    Borders,
    coarser,
    connected,
    euler_numbers,
    simple_discs,
)
from polyfield.extract.quadrics import Quadrics, least, merged

BEYOND = 0.1  # of its cell's side, that a cluster's vertex may lie outside of it


class Tangents(NamedTuple):
    """Points of a surface, unit normals there, and the region that each belongs to."""

    point: Float64[Tensor, "n 3"]
    normal: Float64[Tensor, "n 3"]
    region: Int64[Tensor, " n"]


class Clusters(NamedTuple):
    """A tree: first the regions, then what they may be put together to, level by level.

    With one more, the parent of those that have none.
    """

    parent: Int64[Tensor, " nodes"]
    levels: tuple[int, ...]
    """Where each begins, and where the last one ends."""
    allowed: Bool[Tensor, " nodes"]
    vertex: Float64[Tensor, "nodes 3"]

    def largest(self, refused: Bool[Tensor, " nodes"]) -> Int64[Tensor, " regions"]:
        """Of each region the largest cluster that is allowed and not refused; else itself."""
        found = torch.full((len(self.parent) + 1,), -1, device=self.parent.device)
        number = torch.arange(len(self.parent), device=self.parent.device)
        own = torch.where(self.allowed & ~refused, number, -1)
        for begin, end in zip(self.levels[-2::-1], self.levels[:0:-1], strict=True):
            above = found[self.parent[begin:end]]
            found[begin:end] = torch.where(above >= 0, above, own[begin:end])
        regions = number[: self.levels[1]]
        return torch.where(found[regions] >= 0, found[regions], regions)


def clusters(
    borders: Borders,
    cell: Int64[Tensor, "regions 3"],
    euler: Int64[Tensor, " regions"],
    planes: Quadrics,
    vertex: Float64[Tensor, "regions 3"],
    tangents: Tangents,
    tolerance: float,
) -> Clusters:
    """What one vertex may stand for: whatever lies near all planes that are tangent to it.

    Regions of eight cells of the lattice, then of eight such cubes, and so on, make a cluster where
    they touch. It is allowed where none of its planes is farther from its vertex than the
    tolerance, where that lies within its cube, and where it is a disc that leaves the cube as
    `simple_discs` has it. borders: between regions, each of which has a vertex and lies in a cell.
    All in cells. Tolerance 0 allows none; a larger one all that a smaller one does.
    Source: Schaefer, Ju and Warren, Manifold dual contouring (2007); the largest distance in place
    of the sum of squares, which grows with the number of planes.
    """
    label = torch.arange(len(cell), device=cell.device)
    parents, vertices = [], [vertex]
    allowed = [torch.ones_like(label, dtype=torch.bool)]
    levels = [0, len(cell)]
    side = 1
    while len(borders.region) and tolerance > 0:
        side *= 2
        cell = cell // 2
        near = (cell[borders.region] == cell[borders.region[borders.twin]]).all(1)
        group = connected(borders, near, len(cell))
        count = int(group.max()) + 1
        euler = euler_numbers(borders, euler, group, count)
        borders, planes = coarser(borders, group), merged(planes, group, count)
        cell = cell.new_empty(count, 3).index_copy(0, group, cell)
        label = group[label]

        def fits(place: Tensor, _mean: Tensor, cell: Tensor = cell, side: int = side) -> Tensor:
            beside = place / side - cell
            return ((beside >= -BEYOND) & (beside <= 1 + BEYOND)).all(1)

        place = least(planes, fits)  # or the mean of points of the cube, which is within it
        possible = simple_discs(borders, euler)
        far = _farthest(place, tangents, label, possible)
        parents.append(levels[-1] + group)
        vertices.append(place)
        allowed.append(possible & (far <= tolerance))
        levels.append(levels[-1] + count)
    rootless = torch.full((levels[-1] - levels[-2],), levels[-1], device=label.device)
    return Clusters(
        torch.cat([*parents, rootless]), tuple(levels), torch.cat(allowed), torch.cat(vertices)
    )


def _farthest(
    place: Float64[Tensor, "clusters 3"], tangents: Tangents, label: Tensor, asked: Tensor
) -> Float64[Tensor, " clusters"]:
    """How far the vertex of each cluster is from any of its planes; 0 of those not asked for."""
    of = label[tangents.region]
    kept = asked[of]
    of = of[kept]
    height = (tangents.normal[kept] * (place[of] - tangents.point[kept])).sum(1).abs()
    return height.new_zeros(len(place)).scatter_reduce(0, of, height, "amax")
