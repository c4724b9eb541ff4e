"""Fewer faces: the shape of a mesh in as many triangles as are asked for."""

from __future__ import annotations

import torch

from polyfield.cuda.errors import InputError, MissingExtraError
from polyfield.extract.mesh import Mesh


def simplified(mesh: Mesh, faces: int) -> Mesh:
    """The mesh in about that many faces, edges collapsed where its shape changes least.

    Without colours and normals, which belong to its old vertices. A mesh of fewer faces stays as it
    is. Edges on a rim stay, so an open mesh may keep more faces than asked for. Raises InputError
    for fewer than 4 faces, MissingExtraError without the package for it. Source: Garland and
    Heckbert, Surface simplification using quadric error metrics (1997).
    """
    if faces < 4:
        raise InputError("simplified: faces", str(faces), "at least 4")
    plain = Mesh(mesh.vertices, mesh.faces)
    if len(mesh.faces) <= faces:
        return plain
    try:
        import fast_simplification
    except ImportError as error:
        purpose = "A mesh of fewer faces"
        raise MissingExtraError("fast-simplification", "surfaces", purpose) from error
    vertices, left = fast_simplification.simplify(
        mesh.vertices.cpu().numpy(),
        mesh.faces.cpu().numpy().astype("int32"),
        target_count=faces,
        preserve_border=True,
    )[:2]
    found = Mesh(torch.from_numpy(vertices).float(), torch.from_numpy(left).long())
    flat = found.face_vectors().norm(dim=1) <= 0
    found = found.with_faces(~flat) if bool(flat.any()) else found
    return Mesh(found.vertices.to(mesh.vertices.device), found.faces.to(mesh.faces.device))
