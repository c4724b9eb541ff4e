"""Learning from samples along rays: looked at whole, differentiated piece by piece in the cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polyfield.cuda.composite import composite, visible_samples
from polyfield.cuda.counter_random import random_unit
from polyfield.cuda.march import Samples
from polyfield.cuda.radiance import faded
from polyfield.fields.appearance import rows_of
from polyfield.fields.field import RadianceField
from polyfield.render.cones import density_of
from polyfield.render.losses import RayLoss
from polyfield.render.packed import keep_samples, runs_of_rays, some_rays

LOOK = {"cpu": 1 << 14, "cuda": 1 << 20}  # samples that are looked at at once, without gradient
PIECE = {"cpu": 1 << 12, "cuda": 1 << 17}  # those whose hidden values are alive at once

THINNING = 1 << 29  # where its random numbers begin, apart from those of rays


class Learned(NamedTuple):
    """What rays show, and what it was worth."""

    color: Float[Tensor, "rays 3"]
    opacity: Float[Tensor, " rays"]
    depth: Float[Tensor, " rays"]
    visible: Bool[Tensor, " samples"]
    """Samples that light still reached; only they were shaded."""
    weights: Float[Tensor, " samples"]
    """Of each sample in what its ray shows; 0 where it cannot be seen."""
    loss: Float[Tensor, ""]


def learn_samples(
    field: RadianceField,
    samples: Samples,
    directions: Float[Tensor, "rays 3"],
    background: Float[Tensor, "rays 3"],
    loss_of: RayLoss,
    stop: float,
    fade: float = 0.0,
    thin: tuple[int, int] | None = None,
) -> Learned:
    """What the field shows by these samples; gradients of the loss are left with its parameters.

    directions: unit. Samples behind a transmittance of `stop` are left out; gradients of those
    nearer than `fade` are scaled down, see `faded`. The field is asked twice: without gradient for
    everything, then, once it is known what the loss wants of each sample, once more for its own
    gradients. Hidden values never exist for more than a piece of the samples, and none for those
    that cannot be seen. thin: (seed, stream) of the numbers that decide which samples the field
    learns from, see `worth_learning`; all of them if None.
    """
    piece = PIECE[samples.distance.device.type]
    with torch.no_grad():
        harmonics = field.encode_directions(directions)
        looks = [
            _look(field, some_rays(samples, first, last), harmonics[first:last], stop)
            for first, last in runs_of_rays(samples, LOOK[samples.distance.device.type])
        ]
        density, color, visible = (torch.cat(found) for found in zip(*looks, strict=True))
        seen = keep_samples(samples, visible)
    density.requires_grad_()
    color.requires_grad_()
    near_density, near_color = faded(density, color, seen.distance, fade)
    out = composite(
        near_density,
        seen.length,
        torch.cat([near_color, seen.distance[:, None]], 1),
        seen.ray_offsets,
    )
    shown = out.values[:, :3] + (1 - out.opacity)[:, None] * background
    loss = loss_of(shown, out.weights, seen)
    if len(seen.distance):
        wanted = torch.autograd.grad(loss, (density, color))
        if thin is not None:
            of_density, of_color = wanted
            kept, factor = worth_learning(density.detach(), of_density, of_color, *thin)
            seen = keep_samples(seen, kept)
            wanted = of_density[kept] * factor, of_color[kept] * factor[:, None]
        _learn(field, seen, directions, wanted, piece)
    weights = torch.zeros_like(samples.distance)
    weights[visible] = out.weights.detach()
    depth = out.values[:, 3] / out.opacity.clamp_min(1e-6)
    return Learned(
        shown.detach(), out.opacity.detach(), depth.detach(), visible, weights, loss.detach()
    )


def worth_learning(
    density: Float[Tensor, " samples"],
    of_density: Float[Tensor, " samples"],
    of_color: Float[Tensor, "samples 3"],
    seed: int,
    stream: int,
) -> tuple[Bool[Tensor, " samples"], Float[Tensor, " kept"]]:
    """Which samples to learn from, and what their gradients are multiplied by to stand for all.

    of_density, of_color: the loss's gradients. A sample whose gradient, to the logarithm of its
    density and to its colour, is above the mean stays as it is; a lesser one stays with the
    probability of its share, and then counts for as many as it stands for. So the expected
    gradient is the whole one, at a fraction of the cost: most samples hang in nearly empty space.
    A function of (seed, stream).
    """
    pull = (density * of_density).abs() + of_color.abs().sum(1)
    chance = (pull / pull.mean()).clamp_max(1)
    number = torch.arange(len(pull), device=pull.device) + THINNING
    kept = random_unit(seed, stream, number).to(pull) < chance
    return kept, 1 / chance[kept]


def density_in_pieces(
    field: RadianceField,
    x: Float[Tensor, "samples 3"],
    extent: Float[Tensor, "samples 3"] | None = None,
) -> Float[Tensor, " samples"]:
    """The field's density at any number of points, or in what they stand for, without gradient."""
    parts = _split(PIECE[x.device.type], x, extent)
    with torch.no_grad():
        return torch.cat([density_of(field, *part)[0] for part in parts])


def _look(
    field: RadianceField, samples: Samples, harmonics: Tensor, stop: float
) -> tuple[Tensor, Tensor, Tensor]:
    density, features = density_of(field, samples.position, samples.extent)
    visible = visible_samples(density, samples.length, samples.ray_offsets, stop)
    color = field.color(features[visible], harmonics[samples.ray[visible].long()])
    return density[visible], color, visible


def _learn(
    field: RadianceField,
    samples: Samples,
    directions: Tensor,
    wanted: tuple[Tensor, ...],
    piece: int,
) -> None:
    if not len(samples.distance):
        return
    parts = _split(piece, samples.position, samples.extent, samples.ray.long(), *wanted)
    for x, extent, ray, of_density, of_color in parts:
        with torch.enable_grad():
            density, features = density_of(field, x, extent)
            harmonics = rows_of(field.encode_directions(directions), ray)
            color = field.color(features, harmonics)
        torch.autograd.backward([density, color], [of_density, of_color])


def _split(piece: int, *columns: Tensor | None) -> Iterator[tuple[Any, ...]]:
    """So many rows of all columns at a time; None of one that is not there."""
    rows = next(len(column) for column in columns if column is not None)
    for begin in range(0, max(rows, 1), piece):
        yield tuple(None if c is None else c[begin : begin + piece] for c in columns)
