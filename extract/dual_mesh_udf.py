"""Open, layered and branching surfaces from unsigned distances: DualMesh-UDF."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from polyfield.cuda.errors import InputError
from polyfield.cuda.tangent_planes import NONE, Placement, place_vertices
from polyfield.extract.dual_faces import EdgeFilter, oriented, quads, triangles
from polyfield.extract.mesh import Mesh
from polyfield.extract.unsigned_samples import (
    Domain,
    Samples,
    WithGradient,
    lattice_samples,
    number_of,
    octree_leaves,
)

MOST_DEPTH = 10
SCALE, SHIFT = 1.01, (0.011, 0.013, 0.017)  # of the lattice: no face of an object lies on it
SAME = 1e-7  # between two vertices that are one
MIXED = 0x9E3779B97F4A7C15 - (1 << 64)  # an odd number whose bits are well mixed
WIDE = 0.1  # of a cell's edge: what a vertex may be off its planes


@dataclass(frozen=True)
class DualMeshOptions:
    """What is taken for the surface; lengths in halves of the cube's side.

    depth: of the octree, 2^depth cells a side. margin: added to what the octree's test allows,
    for errors of the field. near: samples nearer to the surface have no reliable gradient. foot: a
    sample whose foot is that far from the surface, or farther, counts for nothing; the first thing
    to raise (to 5 times the noise) where a noisy field leaves holes. edge_filter: which edges may
    have a face, see `quads`. strict: as the authors' code, without the mends: the lattice is not
    moved off the axes of the cube, and faces are not turned to agree.
    """

    depth: int = 7
    margin: float = 0.002
    near: float = 0.002
    foot: float = 0.002
    placement: Placement = Placement()
    edge_filter: EdgeFilter = "robust"
    strict: bool = False


@dataclass(frozen=True)
class DualMeshReport:
    """How it went. Distances in sides of the unit cube."""

    leaves: int
    without_vertex: int
    """Leaves that no vertex was found for."""
    queries: tuple[int, int]
    """Points that the field was asked for, with the gradient and without."""
    reliable: float
    """Share of the samples that count."""
    foot_distance: float
    """Median of what the field says at the feet of all samples: 0 for a field without error."""
    unresolved: float
    """Share of vertices farther than a tenth of a cell from their planes: layers too close."""
    reason: str
    """Why there is no surface; "" where there is one."""


class DualMesh(NamedTuple):
    """A mesh in the unit cube, the kind of each vertex (see tangent_planes), and how it went."""

    mesh: Mesh
    kind: Int64[Tensor, " v"]
    report: DualMeshReport


def unsigned_mesh(
    distance: Callable[[Tensor], Tensor],
    options: DualMeshOptions | None = None,
    with_gradient: WithGradient | None = None,
    device: torch.device | str = "cpu",
) -> DualMesh:
    """The surface distance = 0 of distances that are never below 0: open where it ends.

    distance maps points float32 [n, 3] of the unit cube, at most CHUNK at once, to [n], in sides of
    the cube. with_gradient gives the gradient [n, 3] as well, torch's own where it is not given.
    Never looks for zeros: planes tangent to the surface, seen from a little away, are put together
    in each small cell. Where nothing is found the mesh is empty and the report says why. Raises
    InputError for a depth out of range and a field that is NaN.
    Source: DualMesh-UDF (arXiv:2309.08878).
    """
    options = options or DualMeshOptions()
    if not 2 <= options.depth <= MOST_DEPTH:
        raise InputError("unsigned_mesh: depth", str(options.depth), f"2 to {MOST_DEPTH}")
    place = torch.device(device)
    scale, shift = (1.0, (0.0, 0.0, 0.0)) if options.strict else (SCALE, SHIFT)
    domain = Domain(
        distance, with_gradient or _by_torch(distance), options.depth, scale, shift, [0, 0]
    )
    leaves, known = octree_leaves(domain, options.margin, options.strict, place)
    if bool(known[1].isnan().any()):
        raise InputError("unsigned_mesh", "NaN", "distances", "The field has diverged.")
    if not len(leaves):
        least = float(known[1].min()) / 2
        reason = f"no distance below what a cell allows: the smallest found is {least:.3g}"
        return _nothing(domain, 0, None, reason, place)
    samples = lattice_samples(domain, leaves, known, options.near, options.foot)
    if bool(samples.distance.isnan().any() | samples.foot_distance.isnan().any()):
        raise InputError("unsigned_mesh", "NaN", "distances", "The field has diverged.")
    cells = domain.cells
    rows = samples.rows_of_leaves(leaves, 2 * cells + 1)
    vertices = place_vertices(
        domain.lattice(2 * leaves),
        domain.edge,
        samples.foot,
        samples.gradient,
        samples.reliable,
        rows,
        options.placement,
    )
    found = quads(leaves, vertices, samples, cells, options.edge_filter)
    faces = triangles(found, vertices, mended=not options.strict)
    if not len(faces):
        return _nothing(domain, len(leaves), samples, _why(samples, options), place)
    number = _merged(vertices.position)
    faces = number[faces]
    faces = faces[(faces != faces.roll(1, 1)).all(1)]
    if not options.strict:
        faces = oriented(vertices.position, faces)
    used = faces.unique()
    renumbered = torch.zeros(len(leaves), dtype=torch.int64, device=place)
    renumbered[used] = torch.arange(len(used), device=place)
    mesh = Mesh(domain.to_unit(vertices.position[used]).float(), renumbered[faces])
    has = vertices.kind != NONE
    wide = vertices.residual[has] > WIDE * domain.edge
    report = _report(
        domain, len(leaves), samples, int((~has).sum()), float(wide.double().mean()), ""
    )
    return DualMesh(mesh, vertices.kind[used], report)


def _by_torch(distance: Callable[[Tensor], Tensor]) -> WithGradient:
    def with_gradient(x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            value = distance(x)
            (slope,) = torch.autograd.grad(value.sum(), x)
        return value.detach(), slope

    return with_gradient


def _merged(position: Float64[Tensor, "n 3"]) -> Int64[Tensor, " n"]:
    """Of each vertex, the first of those that are the same, within SAME."""
    number = torch.arange(len(position), device=position.device)
    # By two grids: a pair on a border of the one lies within a cell of the other, or nearly all do.
    for shift in (0.0, 0.5):
        cell = (position / SAME + shift).floor().long()
        _, group = number_of(cell, MIXED).unique(return_inverse=True)
        first = torch.full_like(number, len(number)).scatter_reduce(0, group, number, "amin")[group]
        # Cells far apart may have one number, the product of a mixing that overflows.
        near = (cell == cell[first]).all(1)
        number = torch.where(near, number[first], number)
    return number


def _why(samples: Samples, options: DualMeshOptions) -> str:
    if bool(samples.reliable.any()):
        return "tangent planes were found, but no four neighbouring cells agree on a face"
    at_feet = float(samples.foot_distance.median()) / 2
    return (
        f"no sample is reliable: at the feet of tangent planes the field says {at_feet:.3g} in the "
        f"median, and {options.foot / 2:.3g} is allowed; raise foot"
    )


def _nothing(
    domain: Domain, leaves: int, samples: Samples | None, reason: str, device: torch.device
) -> DualMesh:
    none = torch.zeros(0, 3, device=device)
    report = _report(domain, leaves, samples, leaves, 0.0, reason)
    return DualMesh(Mesh(none, none.long()), none.long()[:, 0], report)


def _report(
    domain: Domain,
    leaves: int,
    samples: Samples | None,
    without: int,
    unresolved: float,
    reason: str,
) -> DualMeshReport:
    known = samples is not None and len(samples.number) > 0
    scale = domain.scale / 2
    return DualMeshReport(
        leaves=leaves,
        without_vertex=without,
        queries=(domain.queries[0], domain.queries[1]),
        reliable=float(samples.reliable.double().mean()) if samples is not None and known else 0.0,
        foot_distance=float(samples.foot_distance.median()) * scale
        if samples is not None and known
        else 0.0,
        unresolved=unresolved,
        reason=reason,
    )
