"""Where samples lie along rays: in occupied cells, where the field's weights do, or as proposed."""

from __future__ import annotations

import math
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from polyfield.cuda.march import Samples
from polyfield.fields.field import RadianceField
from polyfield.render import volume
from polyfield.render.importance import Importance, importance_samples, learn_importance
from polyfield.render.losses import LossKind, Measured, ray_loss
from polyfield.render.occupancy import OccupancyGrid
from polyfield.render.proposal import Proposal, learn_proposal, proposal_samples
from polyfield.render.volume import Rendered, Sampling, march_rays

SamplerKind = Literal["occupancy", "importance", "proposal"]
Guide = OccupancyGrid | Importance | Proposal


def place_samples(
    field: RadianceField,
    guide: Guide,
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    sampling: Sampling,
) -> Samples:
    """The samples that a view is made of, without jitter. Not differentiable."""
    near, pixel, pieces = sampling.near, sampling.pixel, sampling.pieces
    if isinstance(guide, Importance):
        return importance_samples(
            field, guide, origins, directions, near, pixel=pixel, pieces=pieces
        )
    if isinstance(guide, Proposal):
        return proposal_samples(guide, origins, directions, near, pixel, pieces)
    return march_rays(guide, origins, directions, sampling, 0, 0, False)


def most_samples_of_a_ray(guide: Guide, sampling: Sampling) -> int:
    """How many `place_samples` gives a ray at most, counting those that only guide it."""
    if isinstance(guide, OccupancyGrid):
        # Steps never shrink, so the diagonal of the outermost grid bounds them.
        return min(sampling.limit, math.ceil(3**0.5 / sampling.step) + 2)
    return guide.coarse + guide.fine


def learn_rays(
    field: RadianceField,
    guide: Guide,
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    background: Float[Tensor, "rays 3"],
    target: Float[Tensor, "rays 3"],
    sampling: Sampling,
    *,
    seed: int,
    stream: int,
    rays_per_pixel: int = 1,
    loss_kind: LossKind = "squared",
    distortion_weight: float = 0.0,
    measured: Measured | None = None,
    thin: bool = False,
) -> tuple[Rendered, Float[Tensor, ""]]:
    """What the field shows along jittered rays, and its loss, as `volume.learn_rays` says.

    A proposal learns with it; stream: the step.
    """
    if isinstance(guide, OccupancyGrid):
        return volume.learn_rays(
            field,
            guide,
            origins,
            directions,
            background,
            target,
            sampling,
            seed=seed,
            stream=stream,
            rays_per_pixel=rays_per_pixel,
            loss_kind=loss_kind,
            distortion_weight=distortion_weight,
            measured=measured,
            thin=thin,
        )
    loss_of = ray_loss(target, loss_kind, rays_per_pixel, distortion_weight, measured)
    rays = origins, directions, background
    if isinstance(guide, Importance):
        return learn_importance(field, guide, *rays, loss_of, sampling, seed, stream, thin)
    return learn_proposal(field, guide, *rays, loss_of, sampling, seed, stream, thin)
