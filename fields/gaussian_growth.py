"""What ways to clone, split and leave out Gaussians have in common."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor

from polyfield.cuda.rotations import matrices
from polyfield.fields.densification import Moment, every
from polyfield.fields.gaussians import GaussianOptimiser

FIRST, LAST = 500 / 30_000, 15_000 / 30_000  # of training, between which it happens
NARROWER = 1.6  # times, a child than its parent: four fifths of a half


class Changes(NamedTuple):
    """What is to become of each Gaussian; at most one of the three."""

    cloned: Bool[Tensor, " n"]
    split: Bool[Tensor, " n"]
    pruned: Bool[Tensor, " n"]


def due(now: Moment) -> bool:
    """Whether Gaussians are cloned, split and left out after this step."""
    return FIRST < now.progress < LAST and now.step % every(now.planned) == 0


def note(
    sums: Float[Tensor, " n"], rows: Int64[Tensor, " v"], slopes: Float[Tensor, "v 2"]
) -> None:
    """Adds the lengths of a view's slopes to the sums of the Gaussians in it, in place."""
    sums[rows] += slopes.detach().norm(dim=1)  # a row is there once


def largest(
    wanted: Bool[Tensor, " n"], worth: Float[Tensor, " n"], room: int
) -> Bool[Tensor, " n"]:
    """Of what is wanted, as many as there is room for: those worth most; of equals the first."""
    rows = torch.nonzero(wanted)[:, 0]
    order = worth[rows].argsort(descending=True, stable=True)
    found = torch.zeros_like(wanted)
    found[rows[order[: max(0, room)]]] = True
    return found


@torch.no_grad()
def change(optimiser: GaussianOptimiser, changes: Changes, generator: Generator) -> dict[str, int]:
    """Does it: first those that stay, in their order, then clones, then children.

    A clone is a copy. Two children lie where their parent's own density draws them, narrower by
    NARROWER, else like it, and the parent goes. Moments of clones and children begin anew, those of
    the rest are carried along. Returns how many were "cloned", "split" and "pruned".
    Source: 3D Gaussian splatting (arXiv:2308.04079), section 5.
    """
    stay, cloned, split = (
        torch.nonzero(mask)[:, 0]
        for mask in (~(changes.split | changes.pruned), changes.cloned, changes.split)
    )
    rows = torch.cat([stay, cloned, split, split])
    number = torch.arange(len(rows), device=rows.device)
    optimiser.take(rows, number >= len(stay))
    gaussians, first = optimiser.gaussians, len(stay) + len(cloned)
    means = gaussians.means.detach()[first:]
    widths = gaussians.log_scales.detach()[first:]
    noise = torch.randn(means.shape, generator=generator).to(means)
    axes = matrices(gaussians.quaternions.detach()[first:])
    means += (axes @ (widths.exp() * noise)[:, :, None])[..., 0]
    widths -= math.log(NARROWER)
    pruned = int(changes.pruned.sum())
    return {"cloned": len(cloned), "split": len(split), "pruned": pruned}
