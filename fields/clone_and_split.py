"""The number of Gaussians as 3D Gaussian splatting and AbsGS have it: cloned, split, pruned."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from polyfield.cuda.errors import InputError
from polyfield.fields.densification import Moment, every, taken
from polyfield.fields.gaussian_growth import (
    FIRST,
    LAST,
    NARROWER,
    Changes,
    change,
    due,
    largest,
    note,
)
from polyfield.fields.gaussians import DEAD, GaussianOptimiser

PULLED = 2e-4  # mean length of slopes, from which a Gaussian is too few
PULLED_APART = 4e-4  # the same of absolute ones, which are larger
WIDE, WIDE_ABSOLUTE = 0.01, 0.001  # of the extent, above which it is split rather than cloned
WIDEST = 0.1  # of the extent, after the first reset
RESETS = 10  # in a run, were densification to go on to its end
FADED = 0.01  # an opacity


class CloneAndSplit:
    """What the loss pulls about becomes two; what is transparent or too wide goes.

    Where the mean over views of the slope is large, small Gaussians are cloned and large ones
    split; absolute: those are found by the absolute slopes instead, from a tenth of the width. All
    is decided before anything changes, and statistics begin anew after it. `most` Gaussians at the
    most: where more are wanted, those win whose statistic is the most times its threshold.

    At each tenth of the run, but for the last change, a reset dims whatever is more opaque to 0.01,
    so that what no image needs is not raised again and goes. Images fall by decibels at once and
    are learned again; at 0.01 a Gaussian is drawn within 1.4 standard deviations only, and one with
    no pixel there never has a gradient again: it stays as it is, too opaque to go. A run of few
    steps has as many resets as a long one, and fewer steps after each: under 1000 every other
    change is followed by one. white: the background, on which there is one more at the beginning.

    Raises InputError where absolute slopes are wanted and none are given.
    Source: 3D Gaussian splatting (arXiv:2308.04079), AbsGS (arXiv:2404.10484).
    """

    def __init__(
        self,
        optimiser: GaussianOptimiser,
        most: int,
        *,
        absolute: bool = False,
        white: bool = False,
    ):
        self.optimiser, self.most = optimiser, most
        self.absolute, self.white = absolute, white
        self.sums = self._none_yet()

    def _none_yet(self) -> dict[str, Tensor]:
        names = ("views", "slopes", "absolute") if self.absolute else ("views", "slopes")
        return {
            n: torch.zeros_like(self.optimiser.gaussians.opacity_logits.detach()) for n in names
        }

    def pull(self) -> None:
        """Nothing."""

    def observe(self, rows: Tensor, slopes: Tensor, absolute: Tensor | None) -> None:
        """As the protocol says."""
        if self.absolute:
            if absolute is None:
                raise InputError("CloneAndSplit", "no absolute slopes", "those of each view")
            note(self.sums["absolute"], rows, absolute)
        note(self.sums["slopes"], rows, slopes)
        self.sums["views"][rows] += 1

    @torch.no_grad()
    def refine(self, now: Moment) -> dict[str, int]:
        """As the protocol says."""
        found: dict[str, int] = {}
        period = every(now.planned)
        tenths, before = RESETS * now.step // now.planned, RESETS * (now.step - period)
        if due(now):
            # Widths count from the change after the first reset.
            changes = self._decided(sized=before >= now.planned)
            found = change(self.optimiser, changes, now.random)
            self.sums = self._none_yet()
        dims = due(now) and tenths > before // now.planned
        dims |= self.white and now.step == round(FIRST * now.planned)
        if dims and now.step + period < LAST * now.planned:
            found["dimmed"] = self._dim()
        return found

    def _decided(self, sized: bool) -> Changes:
        gaussians, extent = self.optimiser.gaussians, self.optimiser.extent
        size = gaussians.log_scales.detach().exp().amax(1)
        views = self.sums["views"].clamp_min(1)
        wide = size > (WIDE_ABSOLUTE if self.absolute else WIDE) * extent
        worth = self.sums["slopes"] / views / PULLED
        if self.absolute:
            worth = torch.where(wide, self.sums["absolute"] / views / PULLED_APART, worth)
        wanted = worth >= 1
        pruned = gaussians.opacity_logits.detach().sigmoid() < DEAD
        if sized:
            # As wide as it is after its split, which the source does first.
            pruned |= torch.where(wanted & wide, size / NARROWER, size) > WIDEST * extent
        room = self.most - len(gaussians) + int(pruned.sum())
        chosen = largest(wanted & ~pruned, worth, room)
        if sized:
            pruned |= ~chosen & (size > WIDEST * extent)
        return Changes(chosen & ~wide, chosen & wide, pruned)

    def _dim(self) -> int:
        logits = self.optimiser.gaussians.opacity_logits.detach()
        most = math.log(FADED / (1 - FADED))
        count = int((logits > most).sum())
        logits.clamp_(max=most)
        self.optimiser.forget("opacity_logits")
        return count

    def state(self) -> dict[str, Tensor]:
        """Since the last change, of each Gaussian: its views, and sums of lengths of slopes."""
        return {name: tensor.clone() for name, tensor in self.sums.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """As the protocol says; after the Gaussians themselves, which say how many rows."""
        self.sums = taken(tensors, self._none_yet())
