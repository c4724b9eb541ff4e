"""The surface of what was learned of a mesh."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from polyfield.apps.fitted import Fitted, load_fitted
from polyfield.cuda.errors import InputError
from polyfield.extract.dual_contouring import dual_contour
from polyfield.extract.dual_mesh_udf import MOST_DEPTH, DualMeshOptions, unsigned_mesh
from polyfield.extract.floaters import remove_floaters
from polyfield.extract.marching_cubes import distance_mesh
from polyfield.extract.mesh import Mesh
from polyfield.fields.similarity import Similarity

RESOLUTION = 256  # where nobody says; without a sign, which takes longer, half of it
OFF = 0.15  # of a cell: how far a learned distance may lead past the surface
STEEPEST = 2.0  # that learned distances change, where those of a mesh change by 1


def surface_mesh(
    fitted: Fitted, resolution: int, sharp: bool = False, tolerance: float = 0.0
) -> Mesh:
    """Where the distance is 0, or inside begins, in the mesh's own frame.

    Cells a side of the cube: resolution; without a sign, the power of 2 next to it. sharp: with
    edges and corners, of what has an inside; then a tolerance, in the mesh's unit, as
    `dual_contour`. InputError where there is no surface, or of an image or a film.
    """
    settings = fitted.settings
    if settings.kind != "distance":
        got = f"a fitted {settings.kind}"
        raise InputError(settings.signal, got, "distances, which have a surface")
    to_field = Similarity.from_json(settings.to_field or {})
    if settings.target != "udf":
        mesh, reason = _closed_surface(fitted, resolution, sharp, tolerance * to_field.scale)
    elif sharp:
        raise InputError("--sharp", "distances without a sign", "distances with one")
    else:
        mesh, reason = _open_surface(fitted, resolution)
    if len(mesh.faces):
        # Where flat parts have few faces, their number says nothing.
        mesh = remove_floaters(mesh, by_area=tolerance > 0)
    if not len(mesh.faces):
        raise InputError("the field", reason, "a surface", "Give it more steps.")
    return replace(mesh, normals=mesh.vertex_normals()).transformed(to_field.inverse())


def load_surface(path: Path, device: torch.device) -> tuple[Mesh, Fitted]:
    """The surface of a fit, in the mesh's own frame, and the fit.

    InputError for the fit of an image or a film, or as `load_fitted` and `surface_mesh`.
    """
    fitted = load_fitted(path, device)
    kind, target = fitted.settings.kind, fitted.settings.target
    if kind != "distance":
        got = f"a fitted {kind}, which has no surface"
        expected = "a fit of a mesh, a run of `polyfield train`, or Gaussians"
        raise InputError(str(path), got, expected)
    return surface_mesh(fitted, RESOLUTION // (2 if target == "udf" else 1)), fitted


def _closed_surface(
    fitted: Fitted, resolution: int, sharp: bool, tolerance: float
) -> tuple[Mesh, str]:
    logits = fitted.settings.target == "occupancy"  # which are above 0 inside
    sign, steepest = (-1.0, None) if logits else (1.0, STEEPEST)

    def distance(x: Tensor) -> Tensor:
        return sign * fitted.values(x)[:, 0]

    if sharp:
        mesh = dual_contour(
            distance,
            lambda x: sign * fitted.slope(x),
            resolution,
            steepest,
            tolerance=tolerance,
        )
    else:
        mesh = distance_mesh(distance, resolution, steepest)
    return mesh, "nothing is inside"


def _open_surface(fitted: Fitted, resolution: int) -> tuple[Mesh, str]:
    """And why it is empty, if it is."""

    def with_gradient(x: Tensor) -> tuple[Tensor, Tensor]:
        return fitted.values(x)[:, 0], fitted.slope(x)

    depth = min(MOST_DEPTH, max(2, round(math.log2(resolution))))
    # Learned distances are less exact the farther from the surface, as samples of large cells lie;
    # and learned slopes are too noisy for the wider of the filters.
    foot = max(DualMeshOptions.foot, OFF * 2 / 2**depth)
    options = DualMeshOptions(depth, foot=foot, edge_filter="smooth")
    found = unsigned_mesh(lambda x: fitted.values(x)[:, 0], options, with_gradient)
    return found.mesh, found.report.reason
