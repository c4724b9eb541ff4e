"""A triangle mesh and what every mesh operation needs of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor
from torch.nn.functional import normalize

from polyfield.cuda.errors import InputError
from polyfield.fields.similarity import Similarity


@dataclass(frozen=True, eq=False)
class Mesh:
    """Triangles over shared vertices, counter-clockwise seen from outside.

    vertices float32 in the frame its maker names, faces indices into them, colors sRGB in [0, 1]
    a vertex, normals unit and outward a vertex. Raises InputError for an index out of range.
    """

    vertices: Float32[Tensor, "v 3"]
    faces: Int64[Tensor, "f 3"]
    colors: Float[Tensor, "v 3"] | None = None
    normals: Float[Tensor, "v 3"] | None = None

    def __post_init__(self) -> None:
        count = len(self.vertices)
        if len(self.faces) and not 0 <= int(self.faces.min()) <= int(self.faces.max()) < count:
            got = f"indices from {int(self.faces.min())} to {int(self.faces.max())}"
            raise InputError("Mesh: faces", got, f"0 to {count - 1}, one of the {count} vertices")

    def transformed(self, similarity: Similarity) -> Mesh:
        """The mesh in the similarity's target frame; normals turn and keep their length."""
        normals = self.normals
        if normals is not None:
            rotation = similarity.rotation.to(normals.device)
            normals = (normals.double() @ rotation.T).to(normals.dtype)
        return replace(self, vertices=similarity.apply(self.vertices), normals=normals)

    def with_faces(self, keep: Bool[Tensor, " f"]) -> Mesh:
        """Only the faces marked, in order, and only the vertices that they use, in order."""
        faces = self.faces[keep]
        used = torch.zeros(len(self.vertices), dtype=torch.bool, device=faces.device)
        used[faces.reshape(-1)] = True
        number = used.cumsum(0) - 1
        return Mesh(
            self.vertices[used],
            number[faces],
            None if self.colors is None else self.colors[used],
            None if self.normals is None else self.normals[used],
        )

    def face_vectors(self) -> Float[Tensor, "f 3"]:
        """Outward normal of each face, in float64, as long as the face's area."""
        a, b, c = self.vertices.double()[self.faces].unbind(1)
        return torch.linalg.cross(b - a, c - a) / 2

    def vertex_normals(self) -> Float32[Tensor, "v 3"]:
        """Unit outward normals: the area-weighted mean over each vertex's faces, else zero.

        Weighted by area, not by angle: slivers of an extracted surface have arbitrary normals.
        """
        total = torch.zeros_like(self.vertices, dtype=torch.float64)
        total.index_add_(0, self.faces.T.reshape(-1), self.face_vectors().repeat(3, 1))
        # eps far below the smallest area of a sensible face: 1e-12 would swallow fine meshes.
        return normalize(total, dim=1, eps=1e-60).float()

    def diagonal(self) -> float:
        """Length of the bounding box's diagonal; 0 for an empty mesh."""
        if not len(self.vertices):
            return 0.0
        return float((self.vertices.amax(0) - self.vertices.amin(0)).double().norm())
