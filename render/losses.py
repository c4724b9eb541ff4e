"""What training minimises: colour errors a ray, and what else is asked of its weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.cuda.distortion import distortion
from polyfield.cuda.march import Samples

LossKind = Literal["squared", "huber"]
RayLoss = Callable[[Float[Tensor, "rays 3"], Float[Tensor, " samples"], Samples], Float[Tensor, ""]]
"""Of the rays' colours, of the weights of the samples that can be seen, and of these samples."""

HUBER_EDGE = 0.1  # where the square ends and the straight line begins


def squared_error(
    prediction: Float[Tensor, "rays channels"], target: Float[Tensor, "rays channels"]
) -> Float[Tensor, " rays"]:
    """Squared difference, mean over the channels of each ray. Gradient 2 d / channels."""
    return (prediction - target).square().mean(1)


def huber(
    prediction: Float[Tensor, "rays channels"], target: Float[Tensor, "rays channels"]
) -> Float[Tensor, " rays"]:
    """Square near zero, straight line beyond: an outlier pulls with a bounded force.

    With d = prediction - target: d^2 where |d| <= 0.1, else (|d| - 0.05) / 5; mean over channels of
    each ray. Gradient 2 d / channels, beyond 0.1 sign(d) / 5 / channels; value and gradient are
    continuous. Near zero it is the squared error, so printed values read as such.
    Source: instant-ngp (arXiv:2201.05989), whose Huber loss of edge 0.1 is divided by 5.
    """
    size = (prediction - target).abs()
    inside = size.clamp(max=HUBER_EDGE)
    # Two smooth parts instead of a choice: at the edge the second has value and slope zero.
    return (inside.square() + 2 * HUBER_EDGE * (size - inside)).mean(1)


ColorError = Callable[[Float[Tensor, "rays 3"], Float[Tensor, "rays 3"]], Float[Tensor, ""]]
"""Of the rays' colours and of those they should have."""


def color_error(kind: LossKind, rays_per_pixel: int = 1) -> ColorError:
    """The mean colour error of pixels.

    rays_per_pixel: so many rays, one after the other, share a pixel: their mean is compared, and
    targets repeat.
    """

    def error(color: Float[Tensor, "rays 3"], target: Float[Tensor, "rays 3"]) -> Float[Tensor, ""]:
        means = [t.view(-1, rays_per_pixel, 3).mean(1) for t in (color, target)]
        return (huber if kind == "huber" else squared_error)(*means).mean()

    return error


@dataclass(frozen=True, eq=False)
class Measured:
    """How far rays go, in sides of the unit cube, 0 where nobody knows; and how much it counts."""

    distance: Float[Tensor, " rays"]
    weight: float


def distance_error(
    weights: Float[Tensor, " samples"], samples: Samples, distance: Float[Tensor, " rays"]
) -> Float[Tensor, ""]:
    """How far from the measured distance rays end, as a share of it; the mean over measured rays.

    The expected |t - distance| / distance, where light that passes everything misses by all of it:
    so weight gathers at what was measured, instead of lying on both sides of it.
    """
    known = distance > 0
    far = distance.where(known, 1.0)
    ray = samples.ray.long()
    off = weights * ((samples.distance - far[ray]).abs() / far[ray] - 1)
    error = 1 + torch.zeros_like(far).index_add(0, ray, off)
    return error[known].sum() / known.sum().clamp(min=1)


def ray_loss(
    target: Float[Tensor, "rays 3"],
    kind: LossKind,
    rays_per_pixel: int = 1,
    distortion_weight: float = 0.0,
    measured: Measured | None = None,
) -> RayLoss:
    """What training minimises: `color_error`, the mean distortion and `distance_error`, weighted.

    Distances are taken in sides of the unit cube.
    """
    color_loss = color_error(kind, rays_per_pixel)

    def loss(
        color: Float[Tensor, "rays 3"], weights: Float[Tensor, " samples"], samples: Samples
    ) -> Float[Tensor, ""]:
        error = color_loss(color, target)
        if distortion_weight:
            spread = distortion(weights, samples.distance, samples.length, samples.ray_offsets)
            error = error + distortion_weight * spread.mean()
        if measured is not None:
            error = error + measured.weight * distance_error(weights, samples, measured.distance)
        return error

    return loss
