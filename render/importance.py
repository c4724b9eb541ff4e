"""Samples where the field's own weights lie: even intervals first, then their inverse transform."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from polyfield.cuda.box import intersect_box
from polyfield.cuda.counter_random import random_unit
from polyfield.cuda.march import Samples
from polyfield.fields.field import RadianceField
from polyfield.render.cones import with_extents
from polyfield.render.learning import density_in_pieces, learn_samples
from polyfield.render.losses import RayLoss
from polyfield.render.packed import interval_samples
from polyfield.render.volume import STOP, Rendered, Sampling

COARSE_LOSS = 0.1  # of the first round's colours: it only has to say where to look
PADDING = 0.01  # of an interval's weight: every place keeps some chance
NEAREST = 1e-3  # sides of the unit cube: where 1 / distance begins
EVEN, WEIGHTED = 0, 1 << 28  # two rounds' random numbers of one step and ray


@dataclass(frozen=True)
class Importance:
    """Intervals a ray: even ones, and those that follow the weights found in them.

    disparity: even in 1 / distance, for what reaches far beyond what is looked at.
    """

    coarse: int = 64
    fine: int = 64
    disparity: bool = False


@dataclass(frozen=True, eq=False)
class Spans:
    """Where rays run through the unit cube: only those that do, and where s = 0 and 1 lie."""

    hit: Bool[Tensor, " rays"]
    near: Float[Tensor, "hits 1"]
    far: Float[Tensor, "hits 1"]
    disparity: bool

    @property
    def rays(self) -> Int[Tensor, " hits"]:
        """Numbers of the rays that run through."""
        return torch.nonzero(self.hit)[:, 0]

    def distance(self, s: Float[Tensor, "hits edges"]) -> Float[Tensor, "hits edges"]:
        """From s in [0, 1] to the distance along the ray, in sides of the unit cube."""
        if not self.disparity:
            return self.near + s * (self.far - self.near)
        return 1 / ((1 - s) / self.near + s / self.far)


def spans_of_rays(
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    near: float,
    disparity: bool,
) -> Spans:
    """From `near`, or the entry into the unit cube if that is farther, to the exit."""
    cube = origins.new_zeros(3), origins.new_ones(3)
    begin, end = intersect_box(origins, directions, *cube)
    begin = begin.clamp_min(max(near, NEAREST) if disparity else near)
    hit = (begin < end) & end.isfinite()
    return Spans(hit, begin[hit, None], end[hit, None], disparity)


def even_edges(
    rays: Int[Tensor, " hits"], count: int, seed: int, stream: int, jitter: bool
) -> Float[Tensor, "hits {count}+1"]:
    """Edges of `count` intervals that fill [0, 1], each row's own.

    With jitter every inner edge is moved by at most half an interval, a function of
    (seed, stream, ray). Source: mip-NeRF (arXiv:2103.13415).
    """
    return _strata(rays, count, seed, stream, EVEN, jitter)


def weighted_edges(
    edges: Float[Tensor, "hits edges"],
    weights: Float[Tensor, "hits intervals"],
    rays: Int[Tensor, " hits"],
    count: int,
    seed: int,
    stream: int,
    jitter: bool,
    padding: float = PADDING,
) -> Float[Tensor, "hits {count}+1"]:
    """Edges of `count` intervals, ascending, each holding as much of the histogram's weight.

    The histogram: weights >= 0, to which `padding` is added, between ascending edges, constant in
    each. One without any weight counts as even. Without padding its empty ends are left out.
    With jitter as `even_edges`. Not differentiable.
    Source: NeRF (arXiv:2003.08934), section 5.2: inverse transform sampling.
    """
    edges, padded = edges.detach(), weights.detach() + padding
    total = padded.sum(1, keepdim=True)
    share = torch.where(total > 0, padded / total, 1 / weights.shape[1])
    below = torch.cat([torch.zeros_like(total), share.cumsum(1)], 1).clamp_max(1)
    wanted = _strata(rays, count, seed, stream, WEIGHTED, jitter).to(edges)
    # From the right: where several intervals begin at the same share, all but the last are empty.
    index = torch.searchsorted(below, wanted, right=True) - 1
    end_of_weight = weights.shape[1] - 1 - (padded.flip(1) > 0).int().argmax(1, keepdim=True)
    index = torch.minimum(index.clamp_min(0), end_of_weight)
    low, high = below.gather(1, index), below.gather(1, index + 1)
    within = ((wanted - low) / (high - low)).nan_to_num(0.0, 0.0, 0.0)
    begin, end = edges.gather(1, index), edges.gather(1, index + 1)
    return torch.minimum(begin + within * (end - begin), end)


def blurred(weights: Float[Tensor, "hits intervals"]) -> Float[Tensor, "hits intervals"]:
    """Each weight's neighbourhood: what an interval's middle just misses is looked for beside it.

    The larger of two neighbours at each edge, then the mean of an interval's two edges.
    Source: mip-NeRF (arXiv:2103.13415), eq. 18.
    """
    beside = torch.cat([weights[:, :1], weights, weights[:, -1:]], 1)
    at_edge = torch.maximum(beside[:, 1:], beside[:, :-1])
    return 0.5 * (at_edge[:, 1:] + at_edge[:, :-1])


def interval_weights(
    density: Float[Tensor, "hits intervals"], lengths: Float[Tensor, "hits intervals"]
) -> Float[Tensor, "hits intervals"]:
    """Of each interval in what its ray shows. Differentiable in the density."""
    depth = density * lengths
    before = torch.cat([torch.zeros_like(depth[:, :1]), depth.cumsum(1)[:, :-1]], 1)
    return torch.exp(-before) * -torch.expm1(-depth)


def importance_samples(
    field: RadianceField,
    guide: Importance,
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    near: float,
    seed: int = 0,
    stream: int = 0,
    jitter: bool = False,
    pixel: float | Float[Tensor, " rays"] = 0.0,
    pieces: bool = False,
) -> Samples:
    """Samples of the second round: intervals that follow the field's weights along each ray.

    directions: unit. pixel, pieces: as `Sampling`. A function of (seed, stream, ray) with jitter.
    Not differentiable.
    """
    spans = spans_of_rays(origins, directions, near, guide.disparity)
    edges = even_edges(spans.rays, guide.coarse, seed, stream, jitter)
    coarse = interval_samples(origins, directions, spans.hit, spans.distance(edges))
    coarse = with_extents(coarse, directions, pixel, pieces)
    density = density_in_pieces(field, coarse.position, coarse.extent)
    shape = len(edges), guide.coarse
    weights = blurred(interval_weights(density.view(shape), coarse.length.view(shape)))
    fine = weighted_edges(edges, weights, spans.rays, guide.fine, seed, stream, jitter)
    samples = interval_samples(origins, directions, spans.hit, spans.distance(fine))
    return with_extents(samples, directions, pixel, pieces)


def learn_importance(
    field: RadianceField,
    guide: Importance,
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    background: Float[Tensor, "rays 3"],
    loss_of: RayLoss,
    sampling: Sampling,
    seed: int,
    stream: int,
    thin: bool = False,
) -> tuple[Rendered, Float[Tensor, ""]]:
    """What the field shows by the second round, and its loss; the first round's counts a tenth.

    Gradients are left with the field's parameters. thin: as `volume.learn_rays`. One field serves
    both rounds, as in mip-NeRF (arXiv:2103.13415).
    """
    spans = spans_of_rays(origins, directions, sampling.near, guide.disparity)
    draw = (seed, stream) if thin else None
    edges = even_edges(spans.rays, guide.coarse, seed, stream, True)
    coarse = interval_samples(origins, directions, spans.hit, spans.distance(edges))
    coarse = with_extents(coarse, directions, sampling.pixel, sampling.pieces)
    first = learn_samples(
        field,
        coarse,
        directions,
        background,
        lambda *shown: COARSE_LOSS * loss_of(*shown),
        STOP,
        sampling.fade,
        draw,
    )
    weights = blurred(first.weights.view(len(edges), guide.coarse))
    inner = weighted_edges(edges, weights, spans.rays, guide.fine, seed, stream, True)
    fine = interval_samples(origins, directions, spans.hit, spans.distance(inner))
    fine = with_extents(fine, directions, sampling.pixel, sampling.pieces)
    second = learn_samples(field, fine, directions, background, loss_of, STOP, sampling.fade, draw)
    marched = len(coarse.distance) + len(fine.distance)
    shaded = int(first.visible.sum()) + int(second.visible.sum())
    return Rendered(*second[:3], marched, shaded), second.loss


def _strata(
    rays: Tensor, count: int, seed: int, stream: int, offset: int, jitter: bool
) -> Float[Tensor, "hits edges"]:
    number = torch.arange(count + 1, device=rays.device)
    place = number.float().expand(len(rays), -1)
    if jitter:
        drawn = random_unit(seed, stream, (offset + rays[:, None] * (count + 1) + number).view(-1))
        shift = drawn.to(rays.device).view(len(rays), count + 1) - 0.5
        inner = (number > 0) & (number < count)
        place = place + shift * inner
    return place / count
