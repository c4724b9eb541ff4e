"""`polyfield export`: what a run has learned as a mesh in the user's frame."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tyro.conf import Positional

from polyfield.apps.device import choose_device
from polyfield.apps.formats.mesh_files import write_mesh
from polyfield.apps.trained import Trained, load, orbit_camera
from polyfield.extract.density_surface import extract_surface, surface_level
from polyfield.extract.mesh import Mesh

RAYS = 4096  # that decide the level


@dataclass(frozen=True)
class Export:
    """Write what a run has learned as a mesh."""

    run: Positional[Path]
    """Folder that `polyfield train` wrote."""
    out: Path
    """mesh.ply or mesh.glb."""
    resolution: int = 256
    """Lattice points a side of the field's cube."""
    level: float | None = None
    """Density at the surface, per side of the cube. The default follows from median depths."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:<number>."""


@dataclass(frozen=True)
class ExportResult:
    """What was written."""

    file: str
    vertices: int
    faces: int
    level: float


def export(options: Export) -> ExportResult:
    """Extract the surface of a run and write it. Prints nothing.

    InputError if this is no run, the suffix is unknown, or the field holds no surface.
    """
    device = choose_device(options.device)
    mesh, level = surface_of(load(options.run, device), options.resolution, options.level)
    write_mesh(options.out, mesh)
    return ExportResult(str(options.out), len(mesh.vertices), len(mesh.faces), level)


@torch.no_grad()
def surface_of(
    trained: Trained, resolution: int = 256, level: float | None = None
) -> tuple[Mesh, float]:
    """The mesh of a field in the user's frame, and the density it was cut at."""
    field, grid = trained.field, trained.grid
    device = grid.bits.device
    levels, side = grid.levels, grid.resolution
    powers = torch.arange(8, dtype=torch.uint8, device=device)
    on = ((grid.bits[:, None] >> powers) & 1).bool().reshape(levels, side, side, side)

    def occupied(x: Tensor) -> Tensor:
        reach = (x - 0.5).abs().amax(1).clamp_min(1e-9)
        level_of = (torch.log2(2 * reach) + levels - 1).ceil().clamp(0, levels - 1)
        local = (x - 0.5) * 2 ** (levels - 1 - level_of)[:, None] + 0.5
        cell = (local * side).long().clamp(0, side - 1)
        return on[level_of.long(), cell[:, 2], cell[:, 1], cell[:, 0]]

    def density(x: Tensor) -> Tensor:
        inside = ((x >= 0) & (x <= 1)).all(1)
        return torch.where(occupied(x) & inside, field.density(x.contiguous())[0], 0.0)

    def color(x: Tensor, directions: Tensor) -> Tensor:
        harmonics = field.encode_directions(directions.contiguous())
        return field.color(field.density(x.contiguous())[1], harmonics)

    if level is None:
        origins, directions = _training_rays(trained, device)
        level = surface_level(density, origins, directions)
    mesh = extract_surface(
        density, color, trained.to_field, level, resolution=resolution, device=device
    )
    return mesh, level


def _training_rays(trained: Trained, device: torch.device) -> tuple[Tensor, Tensor]:
    poses = torch.tensor(trained.settings.orbit["camera_to_world"])
    width, height = trained.settings.orbit["size"]
    cameras = orbit_camera(trained.settings, poses, (width, height)).to(device)
    random = torch.Generator().manual_seed(0)
    which = torch.randint(len(poses), (RAYS,), generator=random)
    pixels = torch.rand(RAYS, 2, generator=random) * torch.tensor([width, height])
    return cameras.rays(which.to(device), pixels.to(device))


def summary(result: ExportResult) -> str:
    """What was written."""
    return f"wrote {result.file}: {result.vertices:,} vertices, {result.faces:,} faces"
