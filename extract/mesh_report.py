"""What is good and bad about a mesh: counts that a user of it would ask for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from polyfield.extract.floaters import face_components
from polyfield.extract.mesh import Mesh
from polyfield.extract.mesh_checks import edge_numbers, enclosed_volume
from polyfield.extract.self_intersections import crossed_faces

SAMPLED = 20_000  # faces that are looked at for crossings
FLAT = 1e-12  # area, in squares of the diagonal, below which a face has none
OPENINGS = 8  # of which it is said where they are


@dataclass(frozen=True)
class Opening:
    """A closed row of edges with one face each: where a surface ends."""

    center: tuple[float, float, float]
    """Mean of its vertices, in the mesh's frame."""
    edges: int
    length: float


@dataclass(frozen=True)
class MeshReport:
    """Counts of a mesh; lengths, areas and volumes in its own unit."""

    vertices: int
    faces: int
    components: int
    """Of faces that share vertices."""
    euler: int
    watertight: bool
    """Every edge has two faces, which run along it in opposite directions."""
    boundary_edges: int
    """Edges with one face."""
    openings: tuple[Opening, ...]
    """The longest of the loops of these."""
    boundary_loops: int
    non_manifold_edges: int
    """With more than two faces."""
    turned_edges: int
    """With two faces that run along it in one direction: neighbours disagree on the outside."""
    non_manifold_vertices: int
    """Whose faces are more than one fan."""
    flat_faces: int
    doubled_faces: int
    unused_vertices: int
    crossing_faces: int
    """Of the sampled ones, those that run through another face."""
    sampled_faces: int
    area: float
    volume: float
    """Enclosed; of a mesh that is not watertight a number without meaning."""


@torch.no_grad()
def mesh_report(mesh: Mesh, seed: int = 0) -> MeshReport:
    """Everything but a comparison, for which see `compare_meshes`. A function of (mesh, seed)."""
    faces = mesh.faces
    directed = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    ordered = directed.sort(1).values
    edges, number, count = edge_numbers(ordered).unique(return_inverse=True, return_counts=True)
    forward = torch.zeros(len(edges), dtype=torch.int64, device=faces.device)
    forward.index_add_(0, number, (directed[:, 0] < directed[:, 1]).long())
    turned = (count == 2) & (forward != 1)
    rim = directed[count[number] == 1]
    loops = boundary_loops(rim)
    area = mesh.face_vectors().norm(dim=1)
    diagonal = mesh.diagonal()
    random = torch.Generator().manual_seed(seed)
    sampled = torch.randperm(len(faces), generator=random)[:SAMPLED].to(faces.device)
    openings = sorted((_opening(mesh, loop) for loop in loops), key=lambda each: -each.length)
    return MeshReport(
        vertices=len(mesh.vertices),
        faces=len(faces),
        components=len(face_components(faces).unique()),
        euler=len(faces.unique()) - len(edges) + len(faces),
        watertight=bool(len(faces)) and bool(((count == 2) & ~turned).all()),
        boundary_edges=int((count == 1).sum()),
        openings=tuple(openings[:OPENINGS]),
        boundary_loops=len(loops),
        non_manifold_edges=int((count > 2).sum()),
        turned_edges=int(turned.sum()),
        non_manifold_vertices=_pinched(faces),
        flat_faces=int((area <= FLAT * diagonal**2).sum()),
        doubled_faces=len(faces) - _distinct(faces.sort(1).values),
        unused_vertices=len(mesh.vertices) - len(faces.unique()),
        crossing_faces=int(crossed_faces(mesh, sampled).sum()) if len(sampled) else 0,
        sampled_faces=len(sampled),
        area=float(area.sum()),
        volume=enclosed_volume(mesh.vertices, faces),
    )


def boundary_loops(rim: Int64[Tensor, "edges 2"]) -> list[list[int]]:
    """The closed rows of vertices that directed edges with one face make up.

    Where several meet in a vertex each goes on with any edge that is left; a row that ends nowhere,
    as where neighbours disagree on the outside, counts as one all the same.
    """
    following: dict[int, list[int]] = {}
    for begin, end in rim.tolist():
        following.setdefault(begin, []).append(end)
    loops = []
    while following:
        at = next(iter(following))
        loop = []
        while at in following:
            loop.append(at)
            ends = following[at]
            after = ends.pop()
            if not ends:
                del following[at]
            at = after
        loops.append(loop)
    return loops


def _opening(mesh: Mesh, loop: list[int]) -> Opening:
    points = mesh.vertices[torch.tensor(loop, device=mesh.vertices.device)].double()
    x, y, z = points.mean(0).tolist()
    length = float((points - points.roll(-1, 0)).norm(dim=1).sum())
    return Opening((x, y, z), len(loop), length)


def _pinched(faces: Int64[Tensor, "f 3"]) -> int:
    """Vertices at which the faces make more than one fan.

    About a vertex its faces hang together by the edges that they share there: corners, one a face
    and vertex, take the least number among those they share an edge with, until nothing changes.
    """
    if not len(faces):
        return 0
    corner = torch.arange(faces.numel(), device=faces.device).view(-1, 3)
    label = corner.reshape(-1).clone()
    # Of every face's corner at v, the two edges v-w there: (v, w) names what corners may share.
    at = faces.repeat_interleave(2, 1).reshape(-1)
    to = faces[:, [1, 2, 2, 0, 0, 1]].reshape(-1)
    mine = corner.repeat_interleave(2, 1).reshape(-1)
    _, edge = edge_numbers(torch.stack([at, to], 1)).unique(return_inverse=True)
    while True:
        least = torch.full((int(edge.max()) + 1,), len(label), device=faces.device)
        least.scatter_reduce_(0, edge, label[mine], "amin")
        new = label.scatter_reduce(0, mine, least[edge], "amin")
        new = new[new]
        if torch.equal(new, label):
            break
        label = new
    root = label.unique()  # one for each fan: the corner whose number it took
    _, count = faces.reshape(-1)[root].unique(return_counts=True)
    return int((count > 1).sum())


def _distinct(rows: Int64[Tensor, "n 3"]) -> int:
    """How many different ones there are."""
    if not len(rows):
        return 0
    _, pair = edge_numbers(rows[:, :2].contiguous()).unique(return_inverse=True)
    return len(edge_numbers(torch.stack([pair, rows[:, 2]], 1)).unique())
