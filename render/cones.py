"""What a sample stands for: a piece of its ray, or of the cone behind a pixel."""

from __future__ import annotations

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.cuda.march import Samples
from polyfield.fields.field import ConeField, RadianceField

DISC = 2 / 12**0.5  # radius of the disc that spreads like a pixel of side 1


def pixel_radius(focal: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
    """Radius of the cone behind a pixel, at distance 1: of a camera's middle, focal in pixels.

    Of the disc whose variance is the pixel's. Source: mip-NeRF (arXiv:2103.13415), section 3.1.
    """
    return DISC / focal.prod(1).sqrt()


def frustum_moments(
    begin: Float[Tensor, " n"], end: Float[Tensor, " n"], radius: Float[Tensor, " n"] | float
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Mean distance, its variance, and the variance across the axis, of pieces of cones.

    A piece lies between two distances 0 <= begin < end from the tip, and is radius * distance wide.
    In a form that keeps all digits for thin pieces. Source: mip-NeRF (arXiv:2103.13415), eq. 7.
    """
    middle, half = 0.5 * (begin + end), 0.5 * (end - begin)
    m, h = middle.square(), half.square()
    total = (3 * m + h).clamp_min(torch.finfo(m.dtype).tiny)
    mean = middle + 2 * middle * h / total
    along = h / 3 - (4 / 15) * h.square() * (12 * m - h) / total.square()
    across = radius**2 * (m / 4 + (5 / 12) * h - (4 / 15) * h.square() / total)
    return mean, along, across


def with_extents(
    samples: Samples,
    directions: Float[Tensor, "rays 3"],
    radius: Float[Tensor, " rays"] | float,
    pieces: bool,
) -> Samples:
    """The samples with what they stand for: halves of pieces of rays, or `through_cones`."""
    if not pieces:
        return through_cones(samples, directions, radius)
    half = 0.5 * samples.length[:, None]
    return samples._replace(extent=half * directions[samples.ray.long()])


def through_cones(
    samples: Samples,
    directions: Float[Tensor, "rays 3"],
    radius: Float[Tensor, " rays"] | float,
) -> Samples:
    """The samples with the variance of the pieces of cones that they stand for, about its mean.

    directions: unit. radius: of each ray's cone at distance 1; as a number 0 leaves lines as they
    are. Positions move to the mean of their
    piece, distances stay. What a piece's covariance says between two axes is left out, as in the
    source: mip-NeRF (arXiv:2103.13415), eq. 8 and 16.
    """
    if not isinstance(radius, Tensor) and not radius:
        return samples
    ray = samples.ray.long()
    direction = directions[ray]
    half = 0.5 * samples.length
    begin = (samples.distance - half).clamp_min(0)
    if isinstance(radius, Tensor):
        radius = radius[ray]
    mean, along, across = frustum_moments(begin, samples.distance + half, radius)
    square = direction.square()
    return samples._replace(
        position=samples.position + (mean - samples.distance)[:, None] * direction,
        extent=along[:, None] * square + across[:, None] * (1 - square).clamp_min(0),
    )


def density_of(
    field: RadianceField, x: Float[Tensor, "n 3"], extent: Float[Tensor, "n 3"] | None
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n k"]]:
    """The field's density at each sample, and the features that `color` takes.

    Its mean over what a sample stands for, where that is known: of a ConeField, or a PieceField.
    """
    return field.density(x) if extent is None else cast(ConeField, field).density(x, extent)
