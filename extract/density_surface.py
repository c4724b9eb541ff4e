"""From a density field to a coloured mesh in the user's frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polyfield.cuda.errors import InputError
from polyfield.extract.floaters import remove_floaters
from polyfield.extract.level import median_depth_level, median_depths
from polyfield.extract.marching_cubes import CHUNK, density_mesh
from polyfield.extract.mesh import Mesh
from polyfield.fields.similarity import Similarity


def surface_level(
    density: Callable[[Float[Tensor, "n 3"]], Float[Tensor, " n"]],
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    samples: int = 512,
) -> float:
    """median_depth_level where no renderer's median depths are at hand: they are found first.

    Rays in the field's frame, unit directions, from the training views. density as rendered: 0
    where rays skip. Raises InputError as median_depth_level does.
    """
    depth, opacity = median_depths(density, origins, directions, samples)
    return median_depth_level(density, origins, directions, depth, opacity)


def extract_surface(
    density: Callable[[Float[Tensor, "n 3"]], Float[Tensor, " n"]],
    color: Callable[[Float[Tensor, "n 3"], Float[Tensor, "n 3"]], Float[Tensor, "n 3"]],
    to_field: Similarity,
    level: float,
    *,
    resolution: int = 256,
    occupied: Bool[Tensor, "gx gy gz"] | None = None,
    visible: Callable[[Float[Tensor, "n 3"]], Bool[Tensor, " n"]] | None = None,
    memory_bytes: int = 1 << 28,
    device: torch.device | str = "cpu",
) -> Mesh:
    """The surface density = level with colours and normals, in the frame that to_field comes from.

    density and color(points, directions) work in the field's unit cube; each vertex is looked at
    along its inward normal. visible tests points of that cube (unseen surfaces go, which opens the
    mesh); components too small to be the object go in any case. The rest as in density_mesh and
    remove_floaters. Raises InputError where density never exceeds the level.
    """
    mesh = density_mesh(density, resolution, level, occupied, memory_bytes, device=device)
    if not len(mesh.faces):
        got = f"no density above {level:g} on a lattice of {resolution}^3"
        raise InputError("extract_surface", got, "a surface", "Lower the level or train longer.")
    mesh = remove_floaters(mesh, visible)
    if not len(mesh.faces):
        got = "no face that any camera sees"
        raise InputError("extract_surface", got, "a visible surface", "Check the depth maps.")
    return painted(mesh, color, mesh.vertex_normals()).transformed(to_field.inverse())


@torch.no_grad()
def painted(
    mesh: Mesh,
    color: Callable[[Float[Tensor, "n 3"], Float[Tensor, "n 3"]], Float[Tensor, "n 3"]],
    normals: Float[Tensor, "v 3"],
) -> Mesh:
    """The mesh with these normals, and the colour of each vertex seen along its inward one."""
    colors = [
        color(points, -outward).clamp(0, 1).float()
        for points, outward in zip(mesh.vertices.split(CHUNK), normals.split(CHUNK), strict=True)
    ]
    return replace(mesh, colors=torch.cat(colors), normals=normals)
