"""Depth maps of many views fused into one distance, and its surface: for fields that are soft."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn.functional import pad

from polyfield.cuda.errors import InputError
from polyfield.extract.marching_cubes import marching_cubes
from polyfield.extract.mesh import Mesh
from polyfield.extract.visibility import Project

BAND = 3.0  # cells, in front of what a view shows and behind it, that it says something of
MOST_RESOLUTION = 512
LEAST = 1e-3  # weight of a view that grazes what it shows
NODES = 1 << 20  # looked at at once


def fused_mesh(
    project: Project, depth_maps: Float[Tensor, "views height width"], resolution: int
) -> Mesh:
    """The closed surface of what depth maps show, in the unit cube, resolution cells a side.

    project, depth_maps: as `seen_in_depth_maps` takes them; along rays or the forward axis alike.
    Where a map is infinite its ray is empty. Space that no view sees counts as solid: what bounds
    it and was not seen either is for `seen_faces` to take away. Raises InputError for a resolution
    below 2 or above MOST_RESOLUTION.
    Source: Curless and Levoy, A volumetric method for building complex models from range images
    (1996), weights the squared cosine between a view and the surface.
    """
    if not 2 <= resolution <= MOST_RESOLUTION:
        raise InputError("fused_mesh: resolution", str(resolution), f"2 to {MOST_RESOLUTION}")
    values = fused_distances(project, depth_maps, resolution, BAND / resolution)
    inside = -values
    for side in (0, -1):  # the surface closes on the cube's border
        inside[side], inside[:, side], inside[:, :, side] = -1e-30, -1e-30, -1e-30
    vertices, faces = marching_cubes(inside, 0.0)
    return Mesh((vertices.double() / resolution).float(), faces)


def fused_distances(
    project: Project,
    depth_maps: Float[Tensor, "views height width"],
    resolution: int,
    band: float,
) -> Float32[Tensor, "nx ny nz"]:
    """The mean over views of how far nodes lie before what they show: 1 at `band` and beyond.

    Views count by the squared cosine of the angle at which they meet what they show. Nodes 0 to
    resolution of the unit cube, along each axis. Views say nothing of what lies more than the band
    behind what they show; of what all are silent of, the mean is -1. The order of the views does
    not matter.
    """
    device = depth_maps.device
    ticks = torch.arange(resolution + 1, device=device) / resolution
    total = torch.zeros((resolution + 1,) * 3, device=device)
    slab = max(1, NODES // (resolution + 1) ** 2)
    for begin in range(0, resolution + 1, slab):
        x = torch.cartesian_prod(ticks[begin : begin + slab], ticks, ticks)
        sums = torch.zeros(len(x), dtype=torch.float64, device=device)
        count = torch.zeros_like(sums)
        for view in range(len(depth_maps)):
            said, distance, weight = _said(project, depth_maps, view, x, band)
            sums[said] += (weight * distance).double()
            count[said] += weight.double()
        mean = torch.where(count > 0, (sums / count.clamp_min(LEAST)).float(), -1.0)
        total[begin : begin + slab] = mean.view(-1, resolution + 1, resolution + 1)
    return total


def _said(
    project: Project, depth_maps: Tensor, view: int, x: Tensor, band: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Which points a view says something of, what, and with what weight."""
    _, height, width = depth_maps.shape
    pixels, depth = project(torch.full((len(x),), view, device=x.device), x)
    within = (pixels >= 0).all(1) & (pixels < pixels.new_tensor([width, height])).all(1)
    shown = torch.nonzero(within & (depth > 0))[:, 0]
    found, step = _looked_up(depth_maps[view], pixels[shown], band)
    ahead = found - depth[shown]
    near = ahead >= -band
    # Across a pixel, which is depth / focal wide, a surface that is met at 45 degrees goes as deep.
    steep = step * _focal(project, view, x.device) / depth[shown]
    weight = (1 / (1 + steep.square())).clamp(min=LEAST)
    return shown[near], (ahead[near] / band).clamp(max=1), weight[near]


def _focal(project: Project, view: int, device: torch.device) -> Tensor:
    """About how many pixels a thing has that is as wide as it is far: in the cube's middle."""
    away = torch.cat([torch.zeros(1, 3), 1e-2 * torch.eye(3)]).to(device)
    pixels, depth = project(torch.full((4,), view, device=device), 0.5 + away)
    # Of three steps along the axes, two parts in three lie across the view.
    spread = (pixels[1:] - pixels[:1]).square().sum() / (2 * 1e-4)
    return spread.sqrt() * depth[0].abs()


def _looked_up(depth: Tensor, pixels: Tensor, band: float) -> tuple[Tensor, Tensor]:
    """Between the middles of pixels, or that of the nearest where a step of the depth runs by.

    A depth that lies between those of two things is one of neither. And how much depths differ
    around: infinitely at an outline, and not at all where all of it is infinite.
    """
    corners, shares = around_pixels(depth, pixels)
    least, most = corners.amin(1), corners.amax(1)
    smooth = (most - least < band) & most.isfinite()
    nearest = corners.gather(1, shares.argmax(1, keepdim=True))[:, 0]
    between = (corners.where(corners.isfinite(), 0.0) * shares).sum(1)
    step = torch.where(least.isinf(), 0.0, most - least)
    return torch.where(smooth, between, nearest), step


def around_pixels(
    depth: Float[Tensor, "height width"], pixels: Float[Tensor, "n 2"]
) -> tuple[Float[Tensor, "n 4"], Float[Tensor, "n 4"]]:
    """Of places in a map, what the four pixels around them hold, and the bilinear share of each."""
    height, width = depth.shape
    padded = pad(depth[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    place = pixels + 0.5  # in the padded map, from the middle of its first pixel
    low = place.floor().long()
    part = place - low
    x, y = low[:, 0].clamp(0, width), low[:, 1].clamp(0, height)
    corners = torch.stack([padded[y + j, x + i] for j in (0, 1) for i in (0, 1)], 1)
    across, down = part.unbind(1)
    shares = torch.stack(
        [(1 - across) * (1 - down), across * (1 - down), (1 - across) * down, across * down], 1
    )
    return corners, shares
