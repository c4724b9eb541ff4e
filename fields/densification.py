"""How the number of Gaussians follows what they have to show: one interface, and relocation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor

from polyfield.cuda.errors import InputError
from polyfield.fields.gaussians import GaussianOptimiser, relocate, shake

FIRST, LAST = 0.02, 0.8  # of training, between which it happens
GROWN = 0.45  # of training, when their number is what it may be at most
QUIET = 0.9  # of training, after which nothing is moved about
SOONEST = 50  # steps between two changes
CHANGES = 300  # of a long run
OPACITY_PULL, WIDTH_PULL = 0.01, 0.01


class Look(NamedTuple):
    """What one photograph says of the Gaussians in it."""

    rows: Int64[Tensor, " v"]
    """Which they are."""
    weight: Float[Tensor, " v"]
    """Of each, its share of the light of a pixel, summed over pixels."""
    wrong: Float[Tensor, " v"]
    """The same over the pixels where the view is wrong."""


Looks = Callable[[int, Generator], Iterator[Look]]
"""Of so many photographs, drawn by the generator."""


class Moment(NamedTuple):
    """Where training is."""

    step: int
    """Done by now, this one included."""
    planned: int
    random: Generator
    """Of this step alone."""
    looks: Looks

    @property
    def progress(self) -> float:
        """From 0 to 1."""
        return self.step / self.planned


@runtime_checkable
class Densification(Protocol):
    """A way to have more Gaussians where they are missed and fewer where they are not."""

    absolute: bool
    """Whether it wants absolute gradients, see `splat_raster`."""

    def pull(self) -> None:
        """Adds to the gradients those of what it wants of the Gaussians, after the images'."""
        ...

    def observe(
        self,
        rows: Int64[Tensor, " v"],
        slopes: Float[Tensor, "v 2"],
        absolute: Float[Tensor, "v 2"] | None,
    ) -> None:
        """Takes note of a view, before the optimiser's step.

        slopes: of the loss by means on the sensor, in halves of its sides, so that they do not
        depend on its pixels; absolute: the same of absolute gradients.
        """
        ...

    def refine(self, now: Moment) -> dict[str, int]:
        """What there is to do after a step, most often nothing; how many Gaussians it was to."""
        ...

    def state(self) -> dict[str, Tensor]:
        """All that it remembers; finite."""
        ...

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Takes on what `state` returned, exactly; InputError for another's. Copied."""
        ...


def every(planned: int) -> int:
    """Steps between two changes of a run of so many."""
    return max(SOONEST, planned // CHANGES)


def taken(found: dict[str, Tensor], like: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of what was remembered, where `like` is, which says what there is to remember.

    Raises InputError for other names, shapes or types, and for numbers that are not finite or are
    below 0: all here are counts and sums of lengths.
    """
    for name in sorted(found.keys() | like.keys()):
        wanted = _form(like[name]) if name in like else "no such tensor"
        got = _form(found[name]) if name in found else "missing"
        if got == wanted and not bool((found[name].isfinite() & (found[name] >= 0)).all()):
            got, wanted = "numbers that are negative or none", "finite ones from 0"
        if got != wanted:
            raise InputError(f"densification: tensor {name[:80]!r}", got, wanted)
    return {name: found[name].to(tensor.device, copy=True) for name, tensor in like.items()}


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"


class Relocation:
    """What has given up moves to where others are, which also multiply, up to a fixed number.

    `most` Gaussians at the most, which they are before half of training has passed. What is nearly
    transparent is moved about.
    Source: 3D Gaussian splatting as MCMC (arXiv:2404.09591).
    """

    absolute = False

    def __init__(self, optimiser: GaussianOptimiser, most: int):
        self.optimiser, self.most = optimiser, most
        self.begun = len(optimiser.gaussians)

    @torch.no_grad()
    def pull(self) -> None:
        """Towards less opacity and less width, in the unit of the source's scenes."""
        gaussians = self.optimiser.gaussians
        n = max(1, len(gaussians))
        opacity = gaussians.opacity_logits.detach().sigmoid()
        by_width = WIDTH_PULL / (3 * n * self.optimiser.unit)
        pulls = (
            (gaussians.opacity_logits, opacity * (1 - opacity), OPACITY_PULL / n),
            (gaussians.log_scales, gaussians.log_scales.detach().exp(), by_width),
        )
        for parameter, slope, weight in pulls:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad.add_(slope, alpha=weight)

    def observe(self, rows: Tensor, slopes: Tensor, absolute: Tensor | None) -> None:
        """Nothing: opacities say all."""

    def refine(self, now: Moment) -> dict[str, int]:
        """As the protocol says."""
        found: dict[str, int] = {}
        if FIRST <= now.progress <= LAST and now.step % every(now.planned) == 0:
            changes = max(1.0, (GROWN - FIRST) * now.planned / every(now.planned))
            growth = max(0.0, (self.most / max(1, self.begun)) ** (1 / changes) - 1)
            found = relocate(self.optimiser, self.most, growth, now.random)
        if now.progress <= QUIET:
            shake(self.optimiser, now.progress, now.random)
        return found

    def state(self) -> dict[str, Tensor]:
        """How many they were at the beginning."""
        return {"begun": torch.tensor([self.begun])}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """As the protocol says."""
        self.begun = int(taken(tensors, self.state())["begun"])
