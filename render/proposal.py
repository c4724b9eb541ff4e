"""Samples where a small network proposes, which learns where the field's weights lie."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.cuda.march import Samples
from polyfield.fields.field import RadianceField
from polyfield.fields.proposal import ProposalNetwork
from polyfield.render.cones import with_extents
from polyfield.render.importance import (
    Spans,
    even_edges,
    interval_weights,
    spans_of_rays,
    weighted_edges,
)
from polyfield.render.learning import learn_samples
from polyfield.render.losses import RayLoss
from polyfield.render.packed import interval_samples
from polyfield.render.volume import STOP, Rendered, Sampling

ANNEAL_STEPS, ANNEAL_BEND = 1000, 10.0
RAREST_UPDATE = 5  # steps between two updates of a proposal that has settled


@dataclass(frozen=True, eq=False)
class Proposal:
    """Intervals a ray: even ones that the network is asked about, and those that it proposes.

    disparity: even in 1 / distance, for what reaches far beyond what is looked at.
    """

    network: ProposalNetwork
    coarse: int = 96
    fine: int = 48
    disparity: bool = False


def annealing(step: int) -> float:
    """The power that proposed weights are taken to: 0 samples evenly, 1 trusts the proposal.

    Source: mip-NeRF 360 (arXiv:2111.12077), eq. 18, with its slope of 10.
    """
    x = min(1.0, step / ANNEAL_STEPS)
    return ANNEAL_BEND * x / ((ANNEAL_BEND - 1) * x + 1)


def updates(step: int) -> bool:
    """Whether the proposal learns in this step: in each at first, later in every fifth."""
    return step % min(RAREST_UPDATE, 1 + step // ANNEAL_STEPS) == 0


def interlevel_loss(
    edges: Float[Tensor, "rays edges"],
    weights: Float[Tensor, "rays intervals"],
    proposal_edges: Float[Tensor, "rays bounds"],
    proposal_weights: Float[Tensor, "rays proposed"],
) -> Float[Tensor, "rays intervals"]:
    """How far each weight exceeds the proposed weights of all intervals that overlap its own.

    max(0, w - W)^2 / (w + 1e-7): 0 where the proposal is a coarsening of the weights. An interval
    that only touches does not overlap. Edges ascend. Differentiable in proposal_weights alone.
    Source: mip-NeRF 360 (arXiv:2111.12077), eq. 12 and 13.
    """
    edges, weights = edges.detach().contiguous(), weights.detach()
    bounds = proposal_edges.detach().contiguous()
    most = bounds.shape[1] - 1
    total = torch.cat([torch.zeros_like(weights[:, :1]), proposal_weights.cumsum(1)], 1)
    first = (torch.searchsorted(bounds, edges[:, :-1].contiguous(), right=True) - 1).clamp(0, most)
    last = torch.searchsorted(bounds, edges[:, 1:].contiguous()).clamp(0, most)
    bound = total.gather(1, last) - total.gather(1, first)
    return (weights - bound).clamp_min(0).square() / (weights + 1e-7)


def proposal_samples(
    guide: Proposal,
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    near: float,
    pixel: float | Float[Tensor, " rays"] = 0.0,
    pieces: bool = False,
) -> Samples:
    """Samples along each ray where the network proposes, without jitter. Not differentiable.

    directions: unit. pixel, pieces: as `Sampling`.
    """
    spans = spans_of_rays(origins, directions, near, guide.disparity)
    edges = even_edges(spans.rays, guide.coarse, 0, 0, False)
    with torch.no_grad():
        weights = _proposed(guide, spans, origins, directions, edges)
    fine = weighted_edges(edges, weights, spans.rays, guide.fine, 0, 0, False)
    samples = interval_samples(origins, directions, spans.hit, spans.distance(fine))
    return with_extents(samples, directions, pixel, pieces)


def learn_proposal(
    field: RadianceField,
    guide: Proposal,
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    background: Float[Tensor, "rays 3"],
    loss_of: RayLoss,
    sampling: Sampling,
    seed: int,
    step: int,
    thin: bool = False,
) -> tuple[Rendered, Float[Tensor, ""]]:
    """What the field shows by the proposed samples, and its loss.

    Gradients are left with the field's parameters and, in steps that it learns in, with the
    proposal's: each learns from its own loss alone. A function of (seed, step). thin: as
    `volume.learn_rays`.
    """
    spans = spans_of_rays(origins, directions, sampling.near, guide.disparity)
    edges = even_edges(spans.rays, guide.coarse, seed, step, True)
    learns = updates(step)
    with torch.set_grad_enabled(learns):
        proposed = _proposed(guide, spans, origins, directions, edges)
    trusted = proposed.detach() ** annealing(step)
    inner = weighted_edges(edges, trusted, spans.rays, guide.fine, seed, step, True)
    fine = interval_samples(origins, directions, spans.hit, spans.distance(inner))
    fine = with_extents(fine, directions, sampling.pixel, sampling.pieces)
    draw = (seed, step) if thin else None
    learned = learn_samples(field, fine, directions, background, loss_of, STOP, sampling.fade, draw)
    if learns and len(edges):
        weights = learned.weights.view(len(edges), guide.fine)
        interlevel_loss(inner, weights, edges, proposed).sum(1).mean().backward()
    marched, shaded = len(fine.distance), int(learned.visible.sum())
    return Rendered(*learned[:3], marched, shaded), learned.loss


def _proposed(
    guide: Proposal, spans: Spans, origins: Tensor, directions: Tensor, edges: Tensor
) -> Tensor:
    coarse = interval_samples(origins, directions, spans.hit, spans.distance(edges))
    shape = len(edges), guide.coarse
    density = guide.network.density(coarse.position)
    return interval_weights(density.view(shape), coarse.length.view(shape))
