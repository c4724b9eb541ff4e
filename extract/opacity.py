"""The opacity of points, seen from all cameras: the surface of what hides half of all light."""

from __future__ import annotations

from math import log

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from polyfield.cuda.errors import InputError
from polyfield.cuda.march import Samples
from polyfield.extract.fusion import BAND, MOST_RESOLUTION, NODES, around_pixels
from polyfield.extract.marching_cubes import marching_cubes
from polyfield.extract.mesh import Mesh
from polyfield.extract.visibility import Project

LOOKS = 2  # views that must show a place before it can be opaque


def half_depths(density: Float[Tensor, " samples"], samples: Samples) -> Float[Tensor, " rays"]:
    """Where each ray has lost half of its light: its median depth; infinity: nowhere.

    density: of each sample, per side of the cube. Optical depth is linear within a sample's piece.
    """
    # In float64: the difference of two large float32 sums has no digits left.
    depth = (density * samples.length).double()
    running = torch.cat([depth.new_zeros(1), depth.cumsum(0)])
    offsets = samples.ray_offsets.long()
    half = running[offsets[:-1]] + log(2)
    if not len(depth):
        return half.new_full((len(half),), torch.inf).float()
    at = torch.searchsorted(running[1:], half)
    there = at < offsets[1:]
    at = at.clamp(max=len(depth) - 1)
    part = (half - running[at]) / depth[at].clamp_min(1e-300)
    found = samples.distance[at].double() + (part - 0.5) * samples.length[at]
    return torch.where(there, found, torch.inf).float()


def opacity_mesh(
    project: Project, half_depth_maps: Float[Tensor, "views height width"], resolution: int
) -> Mesh:
    """The closed surface opacity = 1/2 in the unit cube, resolution cells a side.

    The opacity of a point is the least, over the views that show its place, of what their rays to
    it have lost on the way. half_depth_maps: of each pixel `half_depths` along its ray; project as
    `seen_in_depth_maps`, with depth along rays. What fewer than LOOKS views show the place of
    counts as empty: else what lies in the shadow of one of them would be solid. Raises InputError
    for a resolution below 2 or above MOST_RESOLUTION.
    Source: Yu, Sattler and Geiger, Gaussian opacity fields (arXiv:2404.10772), of any density.
    """
    if not 2 <= resolution <= MOST_RESOLUTION:
        raise InputError("opacity_mesh: resolution", str(resolution), f"2 to {MOST_RESOLUTION}")
    inside = -least_hidden(project, half_depth_maps, resolution, BAND / resolution)
    for side in (0, -1):  # the surface closes on the cube's border
        inside[side], inside[:, side], inside[:, :, side] = -1e-30, -1e-30, -1e-30
    vertices, faces = marching_cubes(inside, 0.0)
    return Mesh((vertices.double() / resolution).float(), faces)


def least_hidden(
    project: Project,
    half_depth_maps: Float[Tensor, "views height width"],
    resolution: int,
    band: float,
) -> Float32[Tensor, "nx ny nz"]:
    """How far nodes lie before half of the light of a ray is lost, in the view where it is most.

    In bands, from -1 to 1, of nodes 0 to resolution of the unit cube along each axis. Where this is
    0 opacity is 1/2, above it is less: but distances change evenly through a wall, and opacity
    jumps, so that cells are cut in the right place.
    """
    device = half_depth_maps.device
    _, height, width = half_depth_maps.shape
    ticks = torch.arange(resolution + 1, device=device) / resolution
    most = torch.full((resolution + 1,) * 3, -1.0, device=device)
    shows = torch.zeros_like(most, dtype=torch.int16)
    slab = max(1, NODES // (resolution + 1) ** 2)
    for begin in range(0, resolution + 1, slab):
        x = torch.cartesian_prod(ticks[begin : begin + slab], ticks, ticks)
        found = most[begin : begin + slab].view(-1)
        looks = shows[begin : begin + slab].view(-1)
        for view, map_ in enumerate(half_depth_maps):
            open_ = torch.nonzero(found < 1)[:, 0]
            at = x[open_]
            pixels, depth = project(torch.full((len(at),), view, device=device), at)
            shown = (pixels >= 0).all(1) & (pixels < pixels.new_tensor([width, height])).all(1)
            shown &= depth > 0
            ahead = _ahead(map_, pixels[shown], depth[shown], band)
            looks[open_[shown]] += 1
            found[open_[shown]] = torch.maximum(found[open_[shown]], ahead)
    return torch.where(shows < LOOKS, 1.0, most)


def _ahead(map_: Tensor, pixels: Tensor, depth: Tensor, band: float) -> Tensor:
    """How far places lie before what a map shows, in bands: between the middles of its pixels.

    Where a step runs by, whether a ray misses what the nearer side of it shows the map does not
    say. If it said so, it would be one view's word against all others', and those that meet the
    surface head on know.
    """
    corners, shares = around_pixels(map_, pixels)
    least = corners.amin(1)
    smooth = corners.amax(1) - least < band  # not so where one or all are infinite
    between = (corners.where(corners.isfinite(), 0.0) * shares).sum(1)
    return ((torch.where(smooth, between, least) - depth) / band).clamp(-1, 1)
