"""Images of a field seen by a camera."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.fields.field import RadianceField
from polyfield.render.cameras import Cameras
from polyfield.render.occupancy import OccupancyGrid
from polyfield.render.volume import Sampling, ray_batches, render_rays


class View(NamedTuple):
    """One rendered image: colour in [0, 1], opacity, depth along the ray in the unit cube."""

    color: Float[Tensor, "height width 3"]
    opacity: Float[Tensor, "height width"]
    depth: Float[Tensor, "height width"]


def subpixel_offsets(count: int) -> Float[Tensor, "count 2"]:
    """Where in a pixel its rays go through, 0 to 1.

    The centre for 1, a stratified grid for a square number, else the R2 low-discrepancy sequence.
    """
    side = round(count**0.5)
    if side * side == count:
        ticks = (torch.arange(side) + 0.5) / side
        return torch.cartesian_prod(ticks, ticks).reshape(-1, 2)
    index = torch.arange(count, dtype=torch.float64)[:, None]
    steps = torch.tensor([[0.7548776662466927, 0.5698402909980532]], dtype=torch.float64)
    return (0.5 + index * steps).remainder(1).float()


@torch.no_grad()
def render_view(
    field: RadianceField,
    grid: OccupancyGrid,
    cameras: Cameras,
    index: int,
    background: tuple[float, float, float],
    sampling: Sampling,
    *,
    samples_per_pixel: int = 1,
    memory_bytes: int = 1 << 28,
) -> View:
    """The image of camera `index` (cameras in the unit cube), in batches within memory_bytes."""
    width, height = int(cameras.width[index]), int(cameras.height[index])
    device = grid.bits.device
    behind = torch.tensor(background, device=device)
    color = torch.zeros(height * width, 3, device=device)
    opacity = torch.zeros(height * width, device=device)
    depth = torch.zeros(height * width, device=device)
    offsets = subpixel_offsets(samples_per_pixel).to(device)
    for part in ray_batches(width * height, memory_bytes):
        part = part.to(device)
        corner = torch.stack([part % width, part // width], 1).float()
        for offset in offsets:
            origins, directions = cameras.rays(torch.full_like(part, index), corner + offset)
            seen = render_rays(
                field, grid, origins, directions, behind.expand(len(part), 3), sampling
            )
            color[part] += seen.color / samples_per_pixel
            opacity[part] += seen.opacity / samples_per_pixel
            depth[part] += seen.depth * seen.opacity / samples_per_pixel
    depth = depth / opacity.clamp_min(1e-6)
    return View(
        color.clamp(0, 1).reshape(height, width, 3),
        opacity.reshape(height, width),
        depth.reshape(height, width),
    )
