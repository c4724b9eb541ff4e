"""One vertex in each cell from the tangent planes around it: flat, on a crease, or in a corner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

PLANE, EDGE, CORNER, NONE = 0, 1, 2, 3
LEAST = 3  # planes that make a vertex
EXACT, ROOM = 1e-5, 1e-4  # of a cell's edge, beyond it: what still counts as inside
WIDER = (1e-4, 0.02, 0.07, 0.12, 0.17, 0.22, 0.27)  # where feet may lie, at the second attempt
PARALLEL = 1e-4
CELLS = 1 << 13  # solved at once


@dataclass(frozen=True)
class Placement:
    """How far beyond its cell, in edges, a vertex of each kind may lie, and what counts as flat.

    cutoff: of singular values, in parts of the largest: below it planes do not differ.
    """

    corner_factor: float = 1.0
    edge_factor: float = 1.0
    plane_factor: float = 0.15
    cutoff: float = 0.08


class Vertices(NamedTuple):
    """Of each cell, a vertex, its kind, and the direction of the surface there.

    direction: of PLANE the normal, of EDGE along the crease, else 0. residual: root of the mean
    square distance to its planes.
    """

    position: Float64[Tensor, "n 3"]
    kind: Int64[Tensor, " n"]
    direction: Float64[Tensor, "n 3"]
    residual: Float64[Tensor, " n"]


def place_vertices(
    low: Float64[Tensor, "n 3"],
    edge: float,
    foot: Float64[Tensor, "n 27 3"],
    normal: Float64[Tensor, "n 27 3"],
    reliable: Bool[Tensor, "n 27"],
    placement: Placement,
) -> Vertices:
    """A vertex for each cell by rank-aware least squares over tangent planes, NONE where none fits.

    low: corner of each cell of that edge. foot, normal: planes, of which `reliable` count; a plane
    and its mirror image are the same. Source: DualMesh-UDF (arXiv:2309.08878), section 3.3, and
    its authors' code for the second attempt.
    """
    columns = low.split(CELLS), foot.split(CELLS), normal.split(CELLS), reliable.split(CELLS)
    parts = [_place(*part, edge, placement) for part in zip(*columns, strict=True)]
    return Vertices(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _place(
    low: Tensor, foot: Tensor, normal: Tensor, reliable: Tensor, edge: float, placement: Placement
) -> Vertices:
    within = reliable & _inside(foot, low[:, None], edge, 0.01)
    count = within.sum(1, keepdim=True)
    origin = (foot * within[..., None]).sum(1) / count.clamp_min(1)
    origin = torch.where(count > 0, origin, low + edge / 2)
    first = _solve(low, edge, origin, foot, normal, reliable, placement)
    few = reliable.sum(1) < LEAST
    again = few | (first.kind == NONE)
    kept = torch.zeros_like(reliable)
    wanted = again.clone()
    for factor in WIDER:
        near = reliable & _inside(foot, low[:, None], edge, factor)
        enough = wanted & (near.sum(1) >= LEAST)
        kept[enough] = near[enough]
        wanted &= ~enough
    second = _solve(low, edge, origin, foot, normal, kept, placement)
    room = torch.where(second.kind == CORNER, EXACT, ROOM)
    fits = (second.kind != NONE) & ~wanted & again
    fits &= _inside(second.position, low, edge, room[:, None])
    kind = torch.where(again, torch.where(fits, second.kind, NONE), first.kind)
    taken = again[:, None]
    return Vertices(
        torch.where(taken, second.position, first.position),
        kind,
        torch.where(taken, second.direction, first.direction),
        torch.where(again, second.residual, first.residual),
    )


def _solve(
    low: Tensor,
    edge: float,
    origin: Tensor,
    foot: Tensor,
    normal: Tensor,
    kept: Tensor,
    placement: Placement,
) -> Vertices:
    planes = normal * kept[..., None]
    offset = (planes * (foot - origin[:, None])).sum(2)
    gram = planes.mT @ planes
    values, vectors = torch.linalg.eigh(gram)  # ascending; columns
    values = values.clamp_min(0)
    # Singular values are roots of these.
    holds = values > placement.cutoff**2 * values[:, 2:]
    right = (planes * offset[..., None]).sum(1)
    along = (vectors * right[:, :, None]).sum(1)
    moved = torch.where(holds, along / values.clamp_min(1e-300), 0.0)
    solved = origin + (vectors * moved[:, None]).sum(2)
    kind = torch.where(~holds[:, 1], PLANE, torch.where(~holds[:, 0], EDGE, CORNER))
    flat, crease = vectors[:, :, 2], vectors[:, :, 0]
    on_plane, plane_fits = _mean_on_plane(low, edge, solved, flat, placement.plane_factor)
    on_line, line_fits = _mean_on_line(low, edge, solved, crease, placement.edge_factor)
    corner_fits = _inside(solved, low, edge, placement.corner_factor)
    is_plane, is_edge = (kind == PLANE)[:, None], (kind == EDGE)[:, None]
    position = torch.where(is_plane, on_plane, torch.where(is_edge, on_line, solved))
    fits = torch.where(kind == PLANE, plane_fits, torch.where(kind == EDGE, line_fits, corner_fits))
    fits &= kept.sum(1) >= LEAST
    direction = torch.where(is_plane, flat, torch.where(is_edge, crease, 0.0))
    off = (planes * (foot - position[:, None])).sum(2)
    residual = (off.square().sum(1) / kept.sum(1).clamp_min(1)).sqrt()
    return Vertices(position, torch.where(fits, kind, NONE), direction, residual)


def _inside(x: Tensor, low: Tensor, edge: float, factor: float | Tensor) -> Tensor:
    """Whether points lie within cells grown by so many edges on every side."""
    room = factor * edge
    return ((x > low - room) & (x < low + edge + room)).all(-1)


def _mean_of_inside(
    points: Tensor, there: Tensor, low: Tensor, edge: float, factor: float
) -> tuple[Tensor, Tensor]:
    """The mean of those points [n, k, 3] in their cell; if none is, of those somewhat beyond."""
    exact = there & _inside(points, low[:, None], edge, EXACT)
    wide = there & _inside(points, low[:, None], edge, factor)
    chosen = torch.where(exact.any(1, keepdim=True), exact, wide)
    mean = torch.where(chosen[..., None], points, 0.0).sum(1)
    return mean / chosen.sum(1, keepdim=True).clamp_min(1), chosen.any(1)


def _mean_on_line(
    low: Tensor, edge: float, base: Tensor, direction: Tensor, factor: float
) -> tuple[Tensor, Tensor]:
    """Of where a line meets the planes of a cell's six sides."""
    sides = torch.stack([low, low + edge], 2)  # [n, axis, side]
    runs = direction.abs() >= PARALLEL
    t = (sides - base[:, :, None]) / torch.where(runs, direction, 1.0)[:, :, None]
    points = base[:, None, None] + t[..., None] * direction[:, None, None]
    there = runs[:, :, None].expand_as(t)
    return _mean_of_inside(points.flatten(1, 2), there.flatten(1), low, edge, factor)


def _mean_on_plane(
    low: Tensor, edge: float, base: Tensor, normal: Tensor, factor: float
) -> tuple[Tensor, Tensor]:
    """Of where a plane meets the lines through a cell's twelve edges."""
    found, there = [], []
    for axis in range(3):
        one, other = (axis + 1) % 3, (axis + 2) % 3
        runs = normal[:, axis].abs() >= PARALLEL
        for corner in range(4):
            start = low.clone()
            start[:, one] += edge * (corner & 1)
            start[:, other] += edge * (corner >> 1)
            height = ((base - start) * normal).sum(1)
            t = height / torch.where(runs, normal[:, axis], 1.0)
            start[:, axis] += t
            found.append(start)
            there.append(runs)
    return _mean_of_inside(torch.stack(found, 1), torch.stack(there, 1), low, edge, factor)
