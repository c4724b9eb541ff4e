"""The surface of distances that were learned."""

from __future__ import annotations

from dataclasses import replace

from polyfield.apps.fitted import Fitted
from polyfield.cuda.errors import InputError
from polyfield.extract.floaters import remove_floaters
from polyfield.extract.marching_cubes import distance_mesh
from polyfield.extract.mesh import Mesh
from polyfield.fields.similarity import Similarity

STEEPEST = 2.0  # that learned distances change, where those of a mesh change by 1


def surface_mesh(fitted: Fitted, resolution: int) -> Mesh:
    """Where the distance is 0, in the mesh's own frame. InputError where it is so
    nowhere, or of an image or a film."""
    if fitted.settings.kind != "distance":
        got = f"a fitted {fitted.settings.kind}"
        raise InputError(fitted.settings.signal, got, "distances, which have a surface")
    to_field = Similarity.from_json(fitted.settings.to_field or {})
    mesh = distance_mesh(lambda x: fitted.values(x)[:, 0], resolution, STEEPEST)
    if len(mesh.faces):
        mesh = remove_floaters(mesh)
    if not len(mesh.faces):
        got = "no distance below 0"
        raise InputError("the field", got, "a surface", "Give it more steps.")
    return replace(mesh, normals=mesh.vertex_normals()).transformed(to_field.inverse())
