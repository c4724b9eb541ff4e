"""Dual contouring: a surface with its edges and corners, from a field's values and gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Float64, Int32, Int64
from torch import Tensor
from torch.nn.functional import normalize

from polyfield.cuda.errors import InputError
from polyfield.extract.blocks import CHUNK, placed_lattice_mesh
from polyfield.extract.borders import (
    SAME_CELL,
    Borders,
    Polygons,
    borders_on_one_face,
    coarser,
    connected,
    dual_polygons,
    euler_numbers,
    simple_discs,
    triangle_borders,
)
from polyfield.extract.clustering import Tangents, clusters
from polyfield.extract.marching_cubes import distance_lattice
from polyfield.extract.mesh import Mesh
from polyfield.extract.quadrics import least, quadrics

FARTHEST = 1.5  # cells from the mean of its crossings, that a vertex may lie
BISECTIONS = 8  # of each crossed edge: gradients are read there

Distance = Callable[[Float[Tensor, "n 3"]], Float[Tensor, " n"]]
Gradient = Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n 3"]]


def dual_contour(
    distance: Distance,
    gradient: Gradient,
    resolution: int,
    steepest: float | None = None,
    memory_bytes: int = 1 << 28,
    device: torch.device | str = "cpu",
    tolerance: float = 0.0,
) -> Mesh:
    """The closed surface distance = 0 in the unit cube, below 0 inside, sharp where it is.

    distance maps points float32 [n, 3] of the cube, at most CHUNK at once, to [n], in sides of the
    cube, and gradient, which is asked of points of the surface alone, to [n, 3]; resolution,
    steepest, memory_bytes as `distance_mesh`, whose mesh this is the dual of: a vertex for each
    patch of it in a cell, where the planes tangent at the patch's crossed edges meet, in the sense
    of least squares; a face about each crossed edge. Of a patch that is not a disc, or that has two
    borders in common with another, each triangle has a vertex. Two sheets in one cell stay apart,
    and whatever the field, the mesh is a manifold of the topology that `distance_mesh` gives.
    tolerance, in sides of the cube: patches whose planes, all of them, come as near as that to one
    vertex share it, see `clustered`; 0: none do. Raises InputError as `distance_mesh`, and for a
    tolerance below 0 or not finite. Source: Ju et al., Dual contouring of Hermite data (2002);
    Schaefer, Ju and Warren, Manifold dual contouring (2007).
    """
    if not 0 <= tolerance < float("inf"):
        raise InputError("dual_contour: tolerance", str(tolerance), "0 or above, finite")
    lattice = distance_lattice(distance, resolution, steepest)
    mesh, place = placed_lattice_mesh(lattice, memory_bytes, BISECTIONS, torch.device(device))
    if not len(mesh.faces):
        return mesh
    cell = cells_of_triangles(mesh.faces, place)
    edges = triangle_borders(mesh.faces, cell, len(mesh.vertices))
    patch = connected(edges, edges.direction == SAME_CELL, len(cell))
    count = int(patch.max()) + 1
    euler = euler_numbers(edges, torch.ones_like(patch), patch, count)
    borders = coarser(edges, patch)
    slopes = [gradient(part).detach() for part in mesh.vertices.split(CHUNK)]
    normals = normalize(torch.cat(slopes).double(), dim=1)
    points = mesh.vertices.double() * resolution
    # Each region begins one border at each of its crossings.
    tangents = Tangents(points[borders.origin], normals[borders.origin], borders.region)
    planes = quadrics(*tangents, count)
    of_patch = cell.new_empty(count, 3).index_copy(0, patch, cell)
    tree = clusters(
        borders, of_patch, euler, planes, least(planes, _near), tangents, tolerance * resolution
    )
    # Of patches that are not simple, triangles may need vertices of their own.
    split = torch.nonzero(~simple_discs(borders, euler)[patch])[:, 0]
    own = torch.arange(len(split), device=patch.device)
    corners = mesh.faces[split].reshape(-1)
    alone = quadrics(points[corners], normals[corners], own.repeat_interleave(3), len(split))
    # Vertices: of clusters, the first of which are patches; of triangles; the middles of fans.
    nodes, where = len(tree.vertex), torch.cat([tree.vertex, least(alone, _near), points])
    refused = torch.zeros(nodes, dtype=torch.bool, device=patch.device)
    apart, twice = euler != 1, borders_on_one_face(borders)
    while True:
        node = tree.largest(refused)
        apart = _apart(borders, twice, node, apart)
        label = node[patch]
        label[split] = torch.where(
            apart[patch[split]] & (label[split] < count), nodes + own, label[split]
        )
        polygons = dual_polygons(coarser(edges, label))
        faces, crossing = _triangles(polygons, nodes, nodes + len(split), where, normals)
        folded = faces[(_facing(where[faces]) * normals[crossing]).sum(1) < 0]
        folded = folded[(folded >= count) & (folded < nodes)]
        if not len(folded):
            break
        refused[folded] = True
    kept = torch.ones_like(crossing, dtype=torch.bool)
    return Mesh((where / resolution).float(), faces).with_faces(kept)


def _apart(
    borders: Borders,
    twice: tuple[Tensor, Tensor],
    node: Int64[Tensor, " patches"],
    apart: Bool[Tensor, " patches"],
) -> Bool[Tensor, " patches"]:
    """Patches of which each triangle has a vertex: those that were, and one more of each two
    neighbours that share two borders, which would otherwise be one edge of four faces.
    """
    one, other = twice
    here = borders.region[one]
    there, beyond = borders.region[borders.twin[one]], borders.region[borders.twin[other]]
    clustered = node[there] != there
    shared = (node[there] == node[beyond]) & (clustered | ~apart[there])
    # Of two patches the first one.
    found = shared & (node[here] == here) & (clustered | apart[here] | (here < there))
    return apart.index_fill(0, here[found], True)


def cells_of_triangles(
    faces: Int64[Tensor, "f 3"], place: Int32[Tensor, "v 3"]
) -> Int64[Tensor, "f 3"]:
    """The cell that each triangle of `placed_lattice_mesh` lies in: none lies in a cell's face."""
    corners = place[faces]
    return ((corners.amin(1) + corners.amax(1)) // 4).long()


def _near(place: Float64[Tensor, "n 3"], mean: Float64[Tensor, "n 3"]) -> Tensor:
    return (place - mean).norm(dim=1) <= FARTHEST


def _facing(corners: Float64[Tensor, "n 3 3"]) -> Float64[Tensor, "n 3"]:
    a, b, c = corners.unbind(1)
    return normalize(torch.linalg.cross(b - a, c - a), dim=1)


def _triangles(
    polygons: Polygons,
    triangles: int,
    fans: int,
    where: Float64[Tensor, "v 3"],
    normals: Float64[Tensor, "crossings 3"],
) -> tuple[Int64[Tensor, "f 3"], Int64[Tensor, " f"]]:
    """Polygons cut up, and of each triangle the crossing that it belongs to.

    Those of more than four corners, and of four where one is that of a triangle, which begin at
    `triangles`, become fans about their crossing: a diagonal might be there already. The crossings
    begin at `fans`.
    """
    four, center = polygons.four, polygons.center_of_four
    fanned = (four >= triangles).any(1)
    sides = torch.stack([four[fanned], four[fanned].roll(-1, 1)], 2).view(-1, 2)
    sides = torch.cat([sides, polygons.sides])
    middle = torch.cat([center[fanned].repeat_interleave(4), polygons.center_of_side])
    four, center = four[~fanned], center[~fanned]
    faces = torch.cat(
        [
            polygons.three,
            _halves(four, where, normals[center]),
            torch.cat([sides, fans + middle[:, None]], 1),
        ]
    )
    return faces, torch.cat([polygons.center_of_three, center, center, middle])


def _halves(
    ring: Int64[Tensor, "q 4"], where: Float64[Tensor, "v 3"], outward: Float64[Tensor, "q 3"]
) -> Int64[Tensor, "f 3"]:
    """Two triangles a quad, by the diagonal whose triangles face most as the field does there."""

    def least_facing(one: list[int], two: list[int]) -> Tensor:
        both = [(_facing(where[ring[:, corners]]) * outward).sum(1) for corners in (one, two)]
        return torch.minimum(*both)

    chosen = least_facing([1, 2, 3], [1, 3, 0]) > least_facing([0, 1, 2], [0, 2, 3])
    one = torch.where(chosen[:, None], ring[:, [1, 2, 3]], ring[:, [0, 1, 2]])
    two = torch.where(chosen[:, None], ring[:, [1, 3, 0]], ring[:, [0, 2, 3]])
    return torch.cat([one, two])
