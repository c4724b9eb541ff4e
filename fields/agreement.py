"""The number of Gaussians as several photographs agree on it."""

from __future__ import annotations

import torch
from torch import Tensor

from polyfield.fields.clone_and_split import WIDE
from polyfield.fields.densification import Moment, taken
from polyfield.fields.gaussian_growth import Changes, change, due, largest, note
from polyfield.fields.gaussians import DEAD, GaussianOptimiser

LOOKS = 8  # photographs a change, each of which costs about a step; FastGS takes ten
PULLED = 1e-4  # half of what is enough where nobody else is asked
WRONG = 0.3  # of its light; by chance it is as much as there are wrong pixels, one in ten or so
TOGETHER = 2  # photographs: what is wrong in one alone can be that one's, as a passer-by is
MOSTLY = 0.5  # of those that show it
SEVERAL = 3  # photographs, which are enough to say that it is hidden or next to transparent
NOTHING = 0.01  # pixels of light: as the smallest dot has, at an opacity of 0.01


class Agreement:
    """Gaussians become two where several views are wrong at once, and go where none needs them.

    At each change some photographs are looked at. A Gaussian is cloned or split, by its size, if in
    at least half of those that show it, and in two, three tenths of its light fall on wrong pixels.
    That much says where the model is wrong, but not that more Gaussians would mend it: colours that
    are not yet learned are wrong as well. So the mean slope has to be at least a half of what
    `CloneAndSplit` asks for; a half, as what one view alone pulls at is out. Where more are wanted
    than `most` in all, those with the most light on wrong pixels win. What is in the frame of three
    photographs and brings none of them a hundredth of a pixel of light goes, as does what is
    transparent.

    No opacity is ever reset: that is to find what is not needed, which the photographs tell, and a
    reset costs steps to recover from, the dearer where there are few. Statistics begin anew after
    each change. Source: the idea of FastGS (arXiv:2511.04283), which counts wrong pixels in
    footprints; here it is light, so that what is hidden behind others is not blamed.
    """

    absolute = False

    def __init__(self, optimiser: GaussianOptimiser, most: int):
        self.optimiser, self.most = optimiser, most
        self.sums = self._none_yet()

    def _none_yet(self) -> dict[str, Tensor]:
        like = self.optimiser.gaussians.opacity_logits.detach()
        return {"views": torch.zeros_like(like), "slopes": torch.zeros_like(like)}

    def pull(self) -> None:
        """Nothing."""

    def observe(self, rows: Tensor, slopes: Tensor, absolute: Tensor | None) -> None:
        """As the protocol says."""
        note(self.sums["slopes"], rows, slopes)
        self.sums["views"][rows] += 1

    def refine(self, now: Moment) -> dict[str, int]:
        """As the protocol says."""
        if not due(now):
            return {}
        found = change(self.optimiser, self._decided(now), now.random)
        self.sums = self._none_yet()
        return found

    def _decided(self, now: Moment) -> Changes:
        gaussians = self.optimiser.gaussians
        framed, shown, against, brightest, blame = torch.zeros(
            5, len(gaussians), device=gaussians.means.device
        )
        # Not without gradients: shares of light are some, of an image's to its channels.
        for rows, weight, wrong in now.looks(LOOKS, now.random):
            visible = weight > NOTHING
            framed[rows] += 1
            shown[rows] += visible.float()
            against[rows] += (visible & (wrong >= WRONG * weight)).float()
            brightest[rows] = torch.maximum(brightest[rows], weight)
            blame[rows] += wrong
        pruned = gaussians.opacity_logits.detach().sigmoid() < DEAD
        pruned |= (framed >= SEVERAL) & (brightest <= NOTHING)
        pulled = self.sums["slopes"] / self.sums["views"].clamp_min(1) >= PULLED
        agreed = (against >= TOGETHER) & (against >= MOSTLY * shown)
        room = self.most - len(gaussians) + int(pruned.sum())
        chosen = largest(pulled & agreed & ~pruned, blame, room)
        size = gaussians.log_scales.detach().exp().amax(1)
        wide = size > WIDE * self.optimiser.extent
        return Changes(chosen & ~wide, chosen & wide, pruned)

    def state(self) -> dict[str, Tensor]:
        """Since the last change, of each Gaussian: its views, and the sum of lengths of slopes."""
        return {name: tensor.clone() for name, tensor in self.sums.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """As the protocol says; after the Gaussians themselves, which say how many rows."""
        self.sums = taken(tensors, self._none_yet())
