"""Dual contouring: a surface with its edges and corners, from a field's values and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.nn.functional import normalize

from polyfield.extract.blocks import CHUNK
from polyfield.extract.marching_cubes import distance_mesh
from polyfield.extract.mesh import Mesh

SMALLEST = 0.1  # singular value, of the largest, that still says where a vertex lies
FARTHEST = 1.5  # cells from the mean of its crossings, that a vertex may lie
BISECTIONS = 8  # of each crossed edge: gradients are read there
ON_LATTICE = 1e-4  # of a cell: a crossing lies on its edge but for rounding

Distance = Callable[[Float[Tensor, "n 3"]], Float[Tensor, " n"]]
Gradient = Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n 3"]]


class Loops(NamedTuple):
    """The curves in which the surface leaves each cell: which crossed edges belong to which."""

    cell: Int64[Tensor, "loops 3"]
    crossing: Int64[Tensor, " members"]
    """A vertex of the marching-cubes mesh, which lies on an edge of the lattice."""
    loop: Int64[Tensor, " members"]


def dual_contour(
    distance: Distance,
    gradient: Gradient,
    resolution: int,
    steepest: float | None = None,
    memory_bytes: int = 1 << 28,
    device: torch.device | str = "cpu",
) -> Mesh:
    """The closed surface distance = 0 in the unit cube, below 0 inside, sharp where it is.

    distance maps points float32 [n, 3] of the cube, at most CHUNK at once, to [n], in sides of the
    cube, and gradient, which is asked of vertices alone, to [n, 3]; resolution, steepest,
    memory_bytes as `distance_mesh`. A cell has a vertex for each loop in which the surface leaves
    it, where the planes tangent at the loop's crossed edges meet, in the sense of least squares; a
    face joins the four about each crossed edge. So two sheets in one cell stay apart; where both
    parts of a cell's face belong to one loop on both sides, an edge keeps four faces. Raises
    InputError as `distance_mesh`. Source: Ju et al., Dual contouring of Hermite data (2002); loops
    as in Schaefer et al., Manifold dual contouring (2007).
    """
    mesh = distance_mesh(distance, resolution, steepest, memory_bytes, BISECTIONS, device)
    if not len(mesh.faces):
        return mesh
    loops = loops_of_cells(mesh, resolution)
    points = mesh.vertices
    slopes = torch.cat([gradient(part).detach() for part in points.split(CHUNK)])
    normals = normalize(slopes.double(), dim=1)
    where = place_vertices(loops, points.double() * resolution, normals)
    quads = _quads(mesh, loops, normals, distance, resolution)
    faces = _split(quads, where, normals)
    return _compact(Mesh((where / resolution).float(), faces))


def loops_of_cells(mesh: Mesh, resolution: int) -> Loops:
    """From the triangles of marching cubes, each of which lies in one cell of the lattice."""
    middle = mesh.vertices[mesh.faces].double().mean(1) * resolution
    cell = middle.floor().long().clamp(0, resolution - 1)
    number = (cell[:, 0] * resolution + cell[:, 1]) * resolution + cell[:, 2]
    ends = torch.stack([mesh.faces, mesh.faces.roll(-1, 1)], 2).view(-1, 2).sort(1).values
    rows = torch.cat([number.repeat_interleave(3)[:, None], ends], 1)
    # What bounds a cell's triangles comes once there, what lies between two of them twice.
    edges, count = rows.unique(dim=0, return_counts=True)
    edges = edges[count == 1]
    members = torch.cat([edges[:, [0, 1]], edges[:, [0, 2]]])
    nodes, index = members.unique(dim=0, return_inverse=True)
    first, second = index.chunk(2)
    label = torch.arange(len(nodes), device=nodes.device)
    while True:  # a loop has twelve members at most
        least = label.scatter_reduce(0, first, label[second], "amin")
        least = least.scatter_reduce(0, second, least[first], "amin")
        if torch.equal(least, label):
            break
        label = least
    leaders, loop = label.unique(return_inverse=True)
    of_loop = nodes[leaders, 0]
    place = torch.stack(
        [of_loop // resolution**2, of_loop // resolution % resolution, of_loop % resolution], 1
    )
    return Loops(place, nodes[:, 1], loop)


def place_vertices(
    loops: Loops, points: Float64[Tensor, "v 3"], normals: Float64[Tensor, "v 3"]
) -> Float64[Tensor, "loops 3"]:
    """Where the tangent planes of each loop's crossings meet, in cells.

    About the crossings' mean, in the directions in which planes say enough: fewer of them where the
    vertex would lie far from the loop.
    """
    count = torch.bincount(loops.loop, minlength=len(loops.cell)).double()[:, None]

    def summed(values: Tensor) -> Tensor:
        total = values.new_zeros(len(loops.cell), *values.shape[1:])
        return total.index_add(0, loops.loop, values)

    p, n = points[loops.crossing], normals[loops.crossing]
    mean = summed(p) / count
    height = (n * (p - mean[loops.loop])).sum(1)
    gram = summed(n[:, :, None] * n[:, None, :])
    pull = summed(n * height[:, None])
    values, axes = torch.linalg.eigh(gram)  # ascending
    along = (axes.mT @ pull[:, :, None])[..., 0]
    found = mean.clone()
    unsettled = torch.ones(len(mean), dtype=torch.bool, device=mean.device)
    for most in (3, 2, 1):
        told = values > (SMALLEST**2) * values[:, 2:]
        told[:, : 3 - most] = False
        step = torch.where(told, along / values.clamp_min(1e-30), 0.0)
        moved = (axes @ step[:, :, None])[..., 0]
        fits = unsettled & (moved.norm(dim=1) <= FARTHEST)
        found[fits] = (mean + moved)[fits]
        unsettled &= ~fits
    return found


def _quads(
    mesh: Mesh,
    loops: Loops,
    normals: Tensor,
    distance: Callable[[Tensor], Tensor],
    resolution: int,
) -> tuple[Int64[Tensor, "quads 4"], Int64[Tensor, " quads"]]:
    """The four loops about each crossed edge, counter-clockwise seen from outside; the crossing."""
    point = mesh.vertices.double() * resolution
    off = (point - point.round()).abs()
    axis = off.argmax(1)
    on_edge = off.sort(1).values[:, 1] < ON_LATTICE
    lower = point.floor().long()
    other = torch.arange(3, device=axis.device) != axis[:, None]
    lower = torch.where(other, point.round().long(), lower)
    # Of each member its cell, seen from its edge: 0 or 1 back along the two axes across.
    of = loops.crossing
    keep = on_edge[of]
    of, loop = of[keep], loops.loop[keep]
    one, two = (axis + 1) % 3, (axis + 2) % 3
    back = lower[of] - loops.cell[loop]
    corner = 2 * back.gather(1, one[of, None])[:, 0] + back.gather(1, two[of, None])[:, 0]
    table = torch.full((len(point), 4), -1, dtype=torch.int64, device=axis.device)
    table[of, corner] = loop
    crossing = torch.nonzero((table >= 0).all(1))[:, 0]
    ring = table[crossing][:, [3, 1, 0, 2]]  # cells at (-, -), (+, -), (+, +), (-, +)
    start = lower[crossing]
    inside = torch.cat(
        [distance(part) for part in (start.double() / resolution).float().split(CHUNK)]
    )
    border = ((start <= 0) | (start >= resolution)).any(1)
    solid_below = (inside < 0) & ~border
    return torch.where(solid_below[:, None], ring, ring.flip(1)), crossing


def _split(
    quads: tuple[Tensor, Tensor], where: Float64[Tensor, "loops 3"], normals: Tensor
) -> Int64[Tensor, "f 3"]:
    """Two triangles a quad, by the diagonal whose triangles face most as the field does there."""
    ring, crossing = quads
    outward = normals[crossing]

    def facing(corners: list[int]) -> Tensor:
        a, b, c = where[ring[:, corners]].unbind(1)
        return (normalize(torch.linalg.cross(b - a, c - a), dim=1) * outward).sum(1)

    first = torch.minimum(facing([0, 1, 2]), facing([0, 2, 3]))
    second = torch.minimum(facing([1, 2, 3]), facing([1, 3, 0]))
    chosen = (second > first)[:, None]
    one = torch.where(chosen, ring[:, [1, 2, 3]], ring[:, [0, 1, 2]])
    two = torch.where(chosen, ring[:, [1, 3, 0]], ring[:, [0, 2, 3]])
    return torch.cat([one, two])


def _compact(mesh: Mesh) -> Mesh:
    distinct = (mesh.faces != mesh.faces.roll(1, 1)).all(1)
    return mesh.with_faces(distinct)
