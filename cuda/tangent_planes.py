"""Tangent planes of an unsigned distance: the vertex that a cell's make, and faces that go with it.

One vertex a cell: flat, on a crease, or in a corner. Source: DualMesh-UDF (arXiv:2309.08878).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from polyfield.cuda.backend import backend_of
from polyfield.cuda.kernel import constant, kernel, launch

PLANE, EDGE, CORNER, NONE = 0, 1, 2, 3
LEAST = 3  # planes that make a vertex
EXACT, ROOM = 1e-5, 1e-4  # of a cell's edge, beyond it: what still counts as inside
WIDER = (1e-4, 0.02, 0.07, 0.12, 0.17, 0.22, 0.27)  # where feet may lie, at the second attempt
PARALLEL = 1e-4
CELLS = 1 << 13  # solved at once
FLAT = 0.25  # least to largest singular value of four corners, below which they lie in a plane
PLANE_COSINE, EDGE_COSINE = 0.85, 0.5


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
    foot: Float64[Tensor, "planes 3"],
    normal: Float64[Tensor, "planes 3"],
    reliable: Bool[Tensor, " planes"],
    rows: Int64[Tensor, "n 27"],
    placement: Placement,
) -> Vertices:
    """A vertex for each cell by rank-aware least squares over tangent planes, NONE where none fits.

    low: corner of each cell of that edge. foot, normal: planes, of which `reliable` count; a plane
    and its mirror image are the same. rows: of the 27 that each cell sees. Of a cell of kind NONE
    the rest says nothing. Source: DualMesh-UDF (arXiv:2309.08878), section 3.3, and its authors'
    code for the second attempt.
    """
    if backend_of(low.device) == "reference":
        return place_vertices_reference(low, edge, foot, normal, reliable, rows, placement)
    found = Vertices(
        torch.empty_like(low),
        rows.new_empty(len(low)),
        torch.empty_like(low),
        low.new_empty(len(low)),
    )
    inputs = [tensor.contiguous() for tensor in (low, foot, normal, reliable, rows)]
    factors = placement.corner_factor, placement.edge_factor, placement.plane_factor
    body = kernel("tangent_planes", "PlaneVertices")
    sizes = len(low), edge, *factors, placement.cutoff
    launch(body, (_tiles(low), 1), *inputs, *found, *sizes)
    return found


def place_vertices_reference(
    low: Float64[Tensor, "n 3"],
    edge: float,
    foot: Float64[Tensor, "planes 3"],
    normal: Float64[Tensor, "planes 3"],
    reliable: Bool[Tensor, " planes"],
    rows: Int64[Tensor, "n 27"],
    placement: Placement,
) -> Vertices:
    """The specification in plain torch."""
    parts = []
    for some, seen in zip(low.split(CELLS), rows.split(CELLS), strict=True):
        columns = foot[seen], normal[seen], reliable[seen]
        parts.append(_place(some, *columns, edge, placement))
    return Vertices(*(torch.cat(column) for column in zip(*parts, strict=True)))


def quads_that_go(
    quad: Int64[Tensor, "n 4"], vertices: Vertices
) -> tuple[Bool[Tensor, " n"], Bool[Tensor, " n"]]:
    """Which quads go with their vertices, and whether their diagonal begins at the first corner.

    Four corners in a plane: normals must be near its own, creases must lie in it. Others: every
    corner on a flat part must have its triangle, and creases run along the diagonal.
    Source: DualMesh-UDF (arXiv:2309.08878), section 3.4, and its authors' code.
    """
    if backend_of(quad.device) == "reference":
        return quads_that_go_reference(quad, vertices)
    keep, first = (torch.empty(len(quad), dtype=torch.bool, device=quad.device) for _ in range(2))
    columns = quad, vertices.position, vertices.direction, vertices.kind
    inputs = [tensor.contiguous() for tensor in columns]
    sizes = len(quad), FLAT, PLANE_COSINE, EDGE_COSINE
    launch(kernel("tangent_planes", "PlaneQuads"), (_tiles(quad), 1), *inputs, keep, first, *sizes)
    return keep, first


def quads_that_go_reference(
    quad: Int64[Tensor, "n 4"], vertices: Vertices
) -> tuple[Bool[Tensor, " n"], Bool[Tensor, " n"]]:
    """The specification in plain torch."""
    if not len(quad):
        return quad.new_zeros(0, dtype=torch.bool), quad.new_zeros(0, dtype=torch.bool)
    corner, kind, direction = (
        column[quad] for column in (vertices.position, vertices.kind, vertices.direction)
    )
    plane, edge = kind == PLANE, kind == EDGE
    off = corner - corner.mean(1, keepdim=True)
    values, axes = torch.linalg.eigh(off.mT @ off)
    values = values.clamp_min(0).sqrt()
    coplanar = values[:, 0] < FLAT * values[:, 2]
    along = (direction * axes[:, None, :, 0]).sum(2).abs()
    goes = ~((plane & (along < PLANE_COSINE)) | (edge & (along > EDGE_COSINE))).any(1)
    # Not in a plane: the normal of each corner's own triangle.
    after, before = corner.roll(-1, 1), corner.roll(1, 1)
    own = torch.linalg.cross(after - corner, before - corner)
    own = torch.nn.functional.normalize(own, dim=2, eps=1e-300)
    agrees = ~(plane & ((direction * own).sum(2).abs() < PLANE_COSINE)).any(1)
    opposite = ~(plane[:, :2] | plane[:, 2:]).all(1) & (plane.sum(1) <= 2)
    # The diagonal from corner 0 to 2, where a flat corner is 1 or 3, or both creases are.
    any_plane = plane.any(1)
    odd_plane = plane[:, 1] | plane[:, 3]
    first = torch.where(any_plane, odd_plane, edge[:, 0] & edge[:, 2])
    first = torch.where(coplanar, True, first)
    return torch.where(coplanar, goes, agrees & opposite), first


def _tiles(rows: Tensor) -> int:
    return -(-len(rows) // constant("tangent_planes", "PLANES_CELLS"))


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
