"""Where along rays something is that they show: what is worth more looks than the rest of space."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor

from polyfield.cuda.composite import composite
from polyfield.fields.field import RadianceField
from polyfield.render.cameras import Cameras
from polyfield.render.learning import density_in_pieces
from polyfield.render.occupancy import OccupancyGrid
from polyfield.render.volume import Sampling, march_rays

LEAST = 0.02  # of a ray's light, that comes from such a point
RAYS = 1 << 17  # that points are gathered from
AT_ONCE = 1 << 12


class HeavyPoints(NamedTuple):
    """Points that rays show, in the unit cube, and the ways that they are seen from."""

    x: Float[Tensor, "n 3"]
    directions: Float[Tensor, "n 3"]


@torch.no_grad()
def heavy_points(
    field: RadianceField,
    grid: OccupancyGrid,
    cameras: Cameras,
    frames: Int64[Tensor, " f"],
    sampling: Sampling,
    seed: int,
    rays: int = RAYS,
) -> HeavyPoints:
    """Samples that show, of so many random rays of some cameras, which are in the unit cube.

    A function of the seed; none where the field shows nothing.
    """
    random = Generator().manual_seed(seed)
    found: list[HeavyPoints] = []
    for stream, first in enumerate(range(0, rays, AT_ONCE)):
        count = min(AT_ONCE, rays - first)
        frame = frames[torch.randint(len(frames), (count,), generator=random)]
        place = torch.rand(count, 2, generator=random).to(cameras.focal)
        frame = frame.to(cameras.focal.device)
        size = torch.stack([cameras.width[frame], cameras.height[frame]], 1)
        origins, directions = cameras.rays(frame, place * size)
        samples = march_rays(grid, origins, directions, sampling, seed, stream, True)
        density = density_in_pieces(field, samples.position)
        nothing = samples.position[:, :0]
        weights = composite(density, samples.length, nothing, samples.ray_offsets).weights
        heavy = weights > LEAST
        found.append(HeavyPoints(samples.position[heavy], directions[samples.ray[heavy].long()]))
    return HeavyPoints(*(torch.cat(part) for part in zip(*found, strict=True)))
