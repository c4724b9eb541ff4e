"""What training minimises: colour errors a ray, and what else is asked of its weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from polyfield.cuda.march import Samples
from polyfield.render.distortion import distortion

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


def ray_loss(
    target: Float[Tensor, "rays 3"],
    kind: LossKind,
    rays_per_pixel: int = 1,
    distortion_weight: float = 0.0,
) -> RayLoss:
    """What training minimises: `color_error`, and the mean distortion times its weight.

    Distances are taken in sides of the unit cube.
    """
    color_loss = color_error(kind, rays_per_pixel)

    def loss(
        color: Float[Tensor, "rays 3"], weights: Float[Tensor, " samples"], samples: Samples
    ) -> Float[Tensor, ""]:
        error = color_loss(color, target)
        if not distortion_weight:
            return error
        spread = distortion(weights, samples.distance, samples.length, samples.ray_offsets)
        return error + distortion_weight * spread.mean()

    return loss
