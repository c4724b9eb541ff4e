"""What a density field shows no camera: loose bits in the air and surfaces inside the solid."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from polyfield.extract.mesh import Mesh

CHUNK = 1 << 16  # points asked for at once


def face_components(faces: Int64[Tensor, "f 3"]) -> Int64[Tensor, " f"]:
    """The component of each face: faces that share vertices, directly or through others, agree.

    A component's number is its smallest vertex index.
    """
    if not len(faces):
        return faces.new_zeros(0)
    root = torch.arange(int(faces.max()) + 1, device=faces.device)
    while True:
        of_corners = root[faces]
        least = of_corners.amin(1, keepdim=True).expand(-1, 3)
        if torch.equal(of_corners, least):
            return least[:, 0].contiguous()
        # Roots take the least number that any of their faces has seen, then everyone follows its
        # root to the end: long chains close in logarithmically many rounds.
        root.scatter_reduce_(0, of_corners.reshape(-1), least.reshape(-1), "amin")
        while not torch.equal(shorter := root[root], root):
            root = shorter


def large_components(
    mesh: Mesh, face_share: float = 0.005, diagonal_share: float = 0.05, by_area: bool = False
) -> Bool[Tensor, " f"]:
    """Faces of components with at least face_share of all faces and a large enough extent.

    Large enough: the diagonal of the component's bounding box is at least diagonal_share of the
    whole mesh's. The component with the most faces always stays. by_area: faces count by their
    areas, for meshes whose faces are of many sizes.
    """
    if not len(mesh.faces):
        return torch.zeros(0, dtype=torch.bool, device=mesh.faces.device)
    _, component, size = face_components(mesh.faces).unique(return_inverse=True, return_counts=True)
    corners = mesh.vertices[mesh.faces].reshape(-1, 3)
    index = component.repeat_interleave(3)[:, None].expand(-1, 3)
    low = corners.new_full((len(size), 3), torch.inf).scatter_reduce_(0, index, corners, "amin")
    high = corners.new_full((len(size), 3), -torch.inf).scatter_reduce_(0, index, corners, "amax")
    extent = (high - low).norm(dim=1)
    whole = (high.amax(0) - low.amin(0)).norm()
    if by_area:
        size = torch.zeros_like(size, dtype=torch.float64)
        size = size.index_add(0, component, mesh.face_vectors().norm(dim=1))
    keep = (size >= face_share * float(size.sum())) & (extent >= diagonal_share * whole)
    keep[size.argmax()] = True
    return keep[component]


def seen_faces(
    mesh: Mesh,
    visible: Callable[[Float[Tensor, "n 3"]], Bool[Tensor, " n"]],
    rings: int = 5,
) -> Bool[Tensor, " f"]:
    """Faces with a visible vertex, and `rings` rows of faces around them.

    visible maps points in the mesh's frame, at most CHUNK at once, to whether any camera sees them.
    The rings keep small gaps in what the cameras saw from opening the surface.
    """
    chunks = [visible(part) for part in mesh.vertices.split(CHUNK)] if len(mesh.vertices) else []
    seen = torch.cat(chunks) if chunks else mesh.faces.new_zeros(0, dtype=torch.bool)
    for ring in range(rings + 1):
        keep = seen[mesh.faces].any(1)
        if ring < rings:
            seen = seen.clone()
            seen[mesh.faces[keep].reshape(-1)] = True
    return keep


def seen_components(
    mesh: Mesh,
    visible: Callable[[Float[Tensor, "n 3"]], Bool[Tensor, " n"]],
    share: float = 0.02,
) -> Bool[Tensor, " f"]:
    """Faces of components of whose vertices at least that share is visible: all or none of each."""
    if not len(mesh.faces):
        return torch.zeros(0, dtype=torch.bool, device=mesh.faces.device)
    seen = torch.cat([visible(part) for part in mesh.vertices.split(CHUNK)])
    _, component = face_components(mesh.faces).unique(return_inverse=True)
    of_vertex = component.new_zeros(len(mesh.vertices))
    of_vertex[mesh.faces.reshape(-1)] = component.repeat_interleave(3)
    used = torch.zeros(len(mesh.vertices), dtype=torch.bool, device=seen.device)
    used[mesh.faces.reshape(-1)] = True
    parts = int(component.max()) + 1
    total = torch.bincount(of_vertex[used], minlength=parts)
    return (torch.bincount(of_vertex[used & seen], minlength=parts) >= share * total)[component]


def remove_floaters(
    mesh: Mesh,
    visible: Callable[[Float[Tensor, "n 3"]], Bool[Tensor, " n"]] | None = None,
    *,
    face_share: float = 0.005,
    diagonal_share: float = 0.05,
    rings: int = 5,
    by_area: bool = False,
) -> Mesh:
    """The mesh without what no camera sees (where visible is given) and without small components.

    Unseen faces go first, so that what is left of an unseen body counts as small. Removing them
    opens the surface; leave visible out for a closed one. Shares: see large_components.
    """
    if visible is not None:
        mesh = mesh.with_faces(seen_faces(mesh, visible, rings))
    return mesh.with_faces(large_components(mesh, face_share, diagonal_share, by_area))
