"""At which density a density field's surface lies, from where rays lose half their light."""

from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.cuda.box import intersect_box
from polyfield.cuda.errors import InputError

CHUNK = 1 << 16  # points that a density is asked for at once


class MedianDepth(NamedTuple):
    """Where the transmittance of rays falls to 1/2 (infinity: never), and their opacity."""

    depth: Float[Tensor, " rays"]
    opacity: Float[Tensor, " rays"]


def median_depth_level(
    density: Callable[[Float[Tensor, "n 3"]], Float[Tensor, " n"]],
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    median_depth: Float[Tensor, " rays"],
    opacity: Float[Tensor, " rays"] | None = None,
    samples: int = 64,
) -> float:
    """The level whose surface lies where rays lose half their light, as the median over rays.

    density, per unit length, in the unit cube that holds the field; origins, unit directions and
    median_depth (to transmittance 1/2, where finite) in its frame. Rays with opacity of at most 0.9
    do not count. A few thousand rays of the training views are plenty. Raises InputError where no
    ray counts, or where the field is empty in front of what they hit.

    The level sought is the one where (first depth with density >= level) - median_depth has median
    zero. That depth is at most the median depth exactly where the largest density up to there
    reaches the level, so the level is the median over rays of that largest density: found directly,
    with no search, and in the unit of density, whatever the scale.
    """
    counted = median_depth.isfinite()
    if opacity is not None:
        counted &= opacity > 0.9
    start, end = _in_unit_cube(origins, directions)
    counted &= (median_depth >= start) & (median_depth <= end + 1e-4)
    if not bool(counted.any()):
        expected = "a ray in the unit cube with a finite median depth and an opacity above 0.9"
        raise InputError(
            "median_depth_level", f"none among {len(counted)} rays", expected, "Train for longer."
        )
    # Samples crowd before the median depth: a wall is thin, and what lies far before it was passed
    # with half the light left.
    share = torch.linspace(0, 1, samples, device=origins.device) ** 2
    start, stop = start[counted], median_depth[counted]
    depth = stop[:, None] - (stop - start)[:, None] * share
    values = _along(density, origins[counted], directions[counted], depth)
    level = float(values.amax(1).median())
    if not level > 0:
        got = f"density {level} before the median depth"
        raise InputError("median_depth_level", got, "a positive density in most rays")
    return level


def median_depths(
    density: Callable[[Float[Tensor, "n 3"]], Float[Tensor, " n"]],
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    samples: int = 512,
) -> MedianDepth:
    """Median depth and opacity of rays through the unit cube, by equal sections of each ray.

    The density of a section is that of its middle. Rays that miss the cube have opacity 0.
    """
    start, end = _in_unit_cube(origins, directions)
    section = (end - start).clamp(min=0) / samples
    middle = (torch.arange(samples, device=origins.device) + 0.5) * section[:, None]
    values = _along(density, origins, directions, start[:, None] + middle)
    behind = (values * section[:, None]).cumsum(1)
    # Optical depth is linear within a section, so its median point is found exactly there.
    first = (behind < log(2)).sum(1)
    hit = first < samples
    row = first.clamp(max=samples - 1)[:, None]
    over = (behind.gather(1, row) - log(2)) / values.gather(1, row)
    depth = start + (first + 1) * section - over[:, 0]
    return MedianDepth(depth.where(hit, depth.new_tensor(torch.inf)), -torch.expm1(-behind[:, -1]))


def _in_unit_cube(origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    return intersect_box(origins, directions, origins.new_zeros(3), origins.new_ones(3))


def _along(
    density: Callable[[Tensor], Tensor], origins: Tensor, directions: Tensor, depth: Tensor
) -> Tensor:
    rays = max(1, CHUNK // depth.shape[1])
    parts = []
    with torch.no_grad():
        for o, d, t in zip(
            origins.split(rays), directions.split(rays), depth.split(rays), strict=True
        ):
            points = o[:, None] + t[..., None] * d[:, None]
            parts.append(density(points.reshape(-1, 3)).reshape(t.shape))
    return torch.cat(parts)
