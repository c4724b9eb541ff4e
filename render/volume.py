"""Volume rendering of rays: march through occupied space, ask the field, composite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.cuda.composite import composite, visible_samples
from polyfield.cuda.march import Samples, march
from polyfield.cuda.radiance import NO_EDGE, faded
from polyfield.fields import fused_rays
from polyfield.fields.appearance import rows_of
from polyfield.fields.field import RadianceField
from polyfield.render.cones import density_of, with_extents
from polyfield.render.learning import learn_samples
from polyfield.render.losses import HUBER_EDGE, LossKind, Measured, ray_loss
from polyfield.render.occupancy import OccupancyGrid
from polyfield.render.packed import keep_samples

STOP = 1e-4  # transmittance below which nothing more reaches the eye


@dataclass(frozen=True)
class Sampling:
    """How rays are cut into samples, lengths in sides of the field's unit cube.

    step: of samples in the finest grid; cone: growth of the step with distance (0: constant); near:
    where rays begin; limit: samples a ray at most; fade: distance up to which gradients are scaled
    down in training, see `faded` (0: nowhere); pixel: radius of the cone behind a pixel at distance
    1, of all rays or of each, for fields that are seen through cones (0: rays are lines); pieces:
    the field knows its density over the piece of the ray that a sample stands for.
    """

    step: float
    cone: float
    near: float
    limit: int = 1024
    fade: float = 0.0
    pixel: float | Float[Tensor, " rays"] = 0.0
    pieces: bool = False


class Rendered(NamedTuple):
    """What rays see. Depth is the mean distance along the ray, in the unit cube; 0 for nothing."""

    color: Float[Tensor, "rays 3"]
    opacity: Float[Tensor, " rays"]
    depth: Float[Tensor, " rays"]
    samples_marched: int
    samples_shaded: int


def march_rays(
    grid: OccupancyGrid,
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    sampling: Sampling,
    seed: int,
    stream: int,
    jitter: bool,
) -> Samples:
    """Samples of the occupied cells along each ray."""
    samples = march(
        origins,
        directions,
        grid.bits,
        grid.levels,
        grid.resolution,
        sampling.step,
        sampling.cone,
        sampling.near,
        sampling.limit,
        seed,
        stream,
        jitter,
    )
    return with_extents(samples, directions, sampling.pixel, sampling.pieces)


def render_rays(
    field: RadianceField,
    grid: OccupancyGrid,
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    background: Float[Tensor, "rays 3"],
    sampling: Sampling,
    *,
    seed: int = 0,
    stream: int = 0,
    jitter: bool = False,
) -> Rendered:
    """What the field shows along rays of the unit cube, on a background; differentiable.

    directions unit. A first look at the density, without gradient, drops samples behind full
    opacity; only what can be seen is shaded. jitter: one random shift of each ray's samples, a
    function of (seed, stream, ray). Source: NeRF (arXiv:2003.08934), eq. 3.
    """
    samples = march_rays(grid, origins, directions, sampling, seed, stream, jitter)
    marched = len(samples.distance)
    with torch.no_grad():
        density, _ = density_of(field, samples.position, samples.extent)
        kept = visible_samples(density, samples.length, samples.ray_offsets, STOP)
    samples = keep_samples(samples, kept)
    density, features = density_of(field, samples.position, samples.extent)
    harmonics = rows_of(field.encode_directions(directions), samples.ray)
    color = field.color(features, harmonics)
    density, color = faded(density, color, samples.distance, sampling.fade)
    values = torch.cat([color, samples.distance[:, None]], 1)
    out = composite(density, samples.length, values, samples.ray_offsets)
    seen = out.values[:, :3] + (1 - out.opacity)[:, None] * background
    depth = out.values[:, 3] / out.opacity.clamp_min(1e-6)
    return Rendered(seen, out.opacity, depth, marched, len(samples.distance))


def learn_rays(
    field: RadianceField,
    grid: OccupancyGrid,
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    background: Float[Tensor, "rays 3"],
    target: Float[Tensor, "rays 3"],
    sampling: Sampling,
    *,
    seed: int = 0,
    stream: int = 0,
    rays_per_pixel: int = 1,
    loss_kind: LossKind = "squared",
    distortion_weight: float = 0.0,
    measured: Measured | None = None,
    thin: bool = False,
) -> tuple[Rendered, Float[Tensor, ""]]:
    """What the field shows along jittered rays, and its mean colour loss against `target`.

    loss_kind: `squared_error` or `huber` of render/losses.py. rays_per_pixel: so many rays, one
    after the other, share a pixel: their mean is compared, and targets repeat. distortion_weight:
    of `distortion`. measured: what is known of how far rays go, see `distance_error`. thin: learn
    from those samples alone that matter, see `worth_learning`, unless the field is made for one
    pass of a kernel, whose reference learns from all of them too.
    Gradients of the loss are left with the field's parameters, as its backward pass would. A field
    that has a kernel of its own for all but measured distances takes that.
    """
    samples = march_rays(grid, origins, directions, sampling, seed, stream, True)
    fused = fused_rays.fused_field(field) if measured is None else None
    if fused is None:
        loss_of = ray_loss(target, loss_kind, rays_per_pixel, distortion_weight, measured)
        thinned = thin and not fused_rays.made_for_one_pass(field)
        draw = (seed, stream) if thinned else None
        learned = learn_samples(
            field, samples, directions, background, loss_of, STOP, sampling.fade, draw
        )
        counts = len(samples.distance), int(learned.visible.sum())
        return Rendered(*learned[:3], *counts), learned.loss
    view, loss = fused_rays.learn_rays(
        fused, samples, directions, background, target, STOP,
        HUBER_EDGE if loss_kind == "huber" else NO_EDGE, rays_per_pixel,
        sampling.fade, distortion_weight,
    )  # fmt: skip
    return Rendered(*view[:3], len(samples.distance), int(view.visible.sum())), loss
