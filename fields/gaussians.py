"""Gaussians that learn: a field of explicit blobs, and how their number stays within a budget."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Generator, Tensor, nn

from polyfield.cuda.errors import InputError
from polyfield.cuda.nearest import center_tree, nearest
from polyfield.cuda.splat_shake import DEAD, splat_shake_
from polyfield.cuda.table_adam import row_adam_
from polyfield.fields.splats import CONSTANT, Splats

GAUSSIANS = "gaussians"  # their name among the kinds of fields, though no point has a density
SMALLEST = 1e-7  # mean squared distance to neighbours
MOST_COPIES = 51
SHAKEN = 5e5  # of the rate of means, for what is all but transparent
USUAL_EXTENT = 5.0  # of the scenes that constants with a length in them were found for


@dataclass(frozen=True)
class GaussianRates:
    """Of Adam, for each kind of number; that of means in sides of the scene's extent.

    As in 3D Gaussian splatting (arXiv:2308.04079): means fall to a hundredth.
    """

    means: float = 1.6e-4
    log_scales: float = 5e-3
    quaternions: float = 1e-3
    opacity_logits: float = 5e-2
    constant: float = 2.5e-3
    bands: float = 1.25e-4


@dataclass(frozen=True)
class GaussianArguments:
    """Sizes of a field of Gaussians."""

    splats: int = 30_000
    """At most."""
    degree: int = 2
    """Of the harmonics of their colours, 0 to 3."""

    @property
    def parameters(self) -> int:
        """Numbers of all of them."""
        return self.splats * (11 + 3 * (self.degree + 1) ** 2)


class Gaussians(nn.Module):
    """n Gaussians as parameters, the numbers of `Splats`. They may be replaced by more or fewer."""

    means: nn.Parameter
    log_scales: nn.Parameter
    quaternions: nn.Parameter
    opacity_logits: nn.Parameter
    harmonics: nn.Parameter
    NAMES = "means", "log_scales", "quaternions", "opacity_logits", "harmonics"

    def __init__(self, splats: Splats):
        super().__init__()
        self.antialiased = splats.antialiased
        for name in self.NAMES:
            setattr(self, name, nn.Parameter(getattr(splats, name).clone().contiguous()))

    def __len__(self) -> int:
        return len(self.means)

    @property
    def splats(self) -> Splats:
        """As they are now: no copies."""
        numbers = [getattr(self, name).detach() for name in self.NAMES]
        means, log_scales, quaternions, opacity_logits, harmonics = numbers
        return Splats(means, log_scales, quaternions, opacity_logits, harmonics, self.antialiased)


def gaussians_at(
    points: Float[Tensor, "n 3"],
    colors: Float[Tensor, "n 3"],
    degree: int = 3,
    opacity: float = 0.1,
    shrink: float = 1.0,
) -> Splats:
    """Round Gaussians at points, as wide as the root mean square way to their three neighbours.

    colors in [0, 1]; shrink: times that width. Raises InputError for fewer than four points, or a
    degree that is not 0 to 3. Source: 3D Gaussian splatting (arXiv:2308.04079).
    """
    if len(points) < 4 or not 0 <= degree <= 3:
        raise InputError("gaussians_at", f"{len(points)} points, degree {degree}", "4 points, 0-3")
    rows = nearest(points, center_tree(points), 4).long()
    away = (points[rows[:, 1:]] - points[:, None]).square().sum(2).mean(1)
    width = away.clamp_min(SMALLEST).sqrt() * shrink
    harmonics = points.new_zeros(len(points), (degree + 1) ** 2, 3)
    harmonics[:, 0] = (colors - 0.5) / CONSTANT
    turns = points.new_zeros(len(points), 4)
    turns[:, 0] = 1
    logit = math.log(opacity / (1 - opacity))
    log_scales = width.log()[:, None].expand(-1, 3).clone()
    return Splats(points, log_scales, turns, points.new_full((len(points),), logit), harmonics)


class GaussianOptimiser:
    """Adam for Gaussians, whose moments follow them when they are moved, copied or left out."""

    def __init__(self, gaussians: Gaussians, rates: GaussianRates, extent: float):
        self.gaussians, self.rates, self.extent = gaussians, rates, extent
        self.moments = {
            f"{name}.{kind}": torch.zeros_like(getattr(gaussians, name))
            for name in gaussians.NAMES
            for kind in ("first", "second")
        }

    @property
    def unit(self) -> float:
        """What is one unit of length in a scene of USUAL_EXTENT, as long as it is here."""
        return self.extent / USUAL_EXTENT

    def rate_of_means(self, progress: float) -> float:
        """From its beginning to a hundredth of it, evenly by its logarithm; in units of space."""
        return self.rates.means * self.extent * 0.01**progress

    @torch.no_grad()
    def step(self, number: int, progress: float, factor: float = 1.0) -> None:
        """One step of Adam, from number 1, from the gradients, which it clears.

        progress: from 0 to 1 through training; factor: times every rate.
        """
        for name in self.gaussians.NAMES:
            parameter = getattr(self.gaussians, name)
            if parameter.grad is None:
                continue
            n = len(parameter)
            if n:
                value, grad, first, second = (
                    tensor.view(n, -1)
                    for tensor in (
                        parameter.detach(),
                        parameter.grad.contiguous(),
                        self.moments[f"{name}.first"],
                        self.moments[f"{name}.second"],
                    )
                )
                rates = factor * self._rates(name, progress, value.shape[1])
                row_adam_(value, grad, first, second, rates, number)
            parameter.grad = None

    def _rates(self, name: str, progress: float, width: int) -> Tensor:
        device = self.gaussians.means.device
        if name == "means":
            return torch.full((width,), self.rate_of_means(progress), device=device)
        if name != "harmonics":
            return torch.full((width,), getattr(self.rates, name), device=device)
        found = torch.full((width,), self.rates.bands, device=device)
        found[:3] = self.rates.constant
        return found

    @torch.no_grad()
    def take(self, rows: Int64[Tensor, " m"], forgotten: Bool[Tensor, " m"]) -> None:
        """Leaves the Gaussians of those rows, in their order, also twice; moments follow.

        forgotten: whose moments begin anew.
        """
        for name in self.gaussians.NAMES:
            old = getattr(self.gaussians, name)
            setattr(self.gaussians, name, nn.Parameter(old.detach()[rows].contiguous()))
            for kind in ("first", "second"):
                moment = self.moments[f"{name}.{kind}"][rows]
                moment[forgotten] = 0
                self.moments[f"{name}.{kind}"] = moment.contiguous()

    def forget(self, name: str) -> None:
        """Moments of one kind of number begin anew, of every Gaussian."""
        for kind in ("first", "second"):
            self.moments[f"{name}.{kind}"].zero_()


@torch.no_grad()
def relocate(
    optimiser: GaussianOptimiser, most: int, growth: float, generator: Generator
) -> dict[str, int]:
    """Those that gave up become copies of others, and some copies are added, `most` in all at most.

    Drawn by opacity; what is copied and its copies share its opacity and width so that together
    they look as it did along a line through its middle. growth: added, as a part of how many there
    are, rounded up. Returns how many were "moved" and "added". Moments of what changed begin anew.
    Source: 3D Gaussian splatting as MCMC (arXiv:2404.09591), section 4 and equation 9.
    """
    gaussians = optimiser.gaussians
    n = len(gaussians)
    opacity = gaussians.opacity_logits.detach().sigmoid().double()
    dead = torch.nonzero(opacity <= DEAD)[:, 0]
    alive = torch.nonzero(opacity > DEAD)[:, 0]
    if not len(alive):
        return {"moved": 0, "added": 0}
    more = min(max(0, most - n), math.ceil(growth * n))
    source = alive[:0]
    if len(dead) + more:
        weights = opacity[alive].cpu()
        drawn = torch.multinomial(weights, len(dead) + more, replacement=True, generator=generator)
        source = alive[drawn.to(alive.device)]
    copies = torch.bincount(source, minlength=n) + 1
    shared, shrink = split_evenly(opacity, copies.clamp_max(MOST_COPIES))
    touched = copies > 1
    changed = gaussians.opacity_logits.detach()
    changed[touched] = shared[touched].logit().to(changed)
    scales = gaussians.log_scales.detach()
    scales[touched] += shrink[touched].log()[:, None].to(scales)
    rows = torch.arange(n, device=alive.device)
    rows[dead] = source[: len(dead)]
    rows = torch.cat([rows, source[len(dead) :]])
    forgotten = touched[rows]
    optimiser.take(rows, forgotten)
    return {"moved": len(dead), "added": more}


def split_evenly(
    opacity: Float64[Tensor, " n"], copies: Int64[Tensor, " n"]
) -> tuple[Float64[Tensor, " n"], Float64[Tensor, " n"]]:
    """The opacity of each of so many coinciding Gaussians, and how much narrower they are.

    So that light at their middle and along a line through it is as that of one. copies: 1 to 51.
    Source: arXiv:2404.09591, equation 9; the double sum there is one over binomials of n.
    """
    each = 1 - (1 - opacity) ** (1 / copies.double())
    each = each.clamp(DEAD, 1 - 1e-6)
    k = torch.arange(MOST_COPIES, dtype=torch.float64, device=opacity.device)
    n = copies.double()[:, None]
    within = k < n
    chosen = torch.where(within, n - k, torch.ones_like(n))
    log_choices = (
        torch.lgamma(n + 1) - torch.lgamma(k + 2) - torch.lgamma(chosen)
    )  # of k + 1 among n
    term = log_choices + (k + 1) * each[:, None].log() - 0.5 * (k + 1).log()
    total = torch.where(within, (-1.0) ** k * term.exp(), torch.zeros_like(term)).sum(1)
    shrink = torch.where(copies > 1, opacity / total, torch.ones_like(total))
    return torch.where(copies > 1, each, opacity), shrink


def shake(optimiser: GaussianOptimiser, progress: float, generator: Generator) -> None:
    """Moves what is all but transparent about, within its own ellipsoid: it explores.

    As far in a scene of any size, beside its extent, as the source has it in one of USUAL_EXTENT.
    Source: 3D Gaussian splatting as MCMC (arXiv:2404.09591), equation 8.
    """
    gaussians = optimiser.gaussians
    reach = SHAKEN * optimiser.rate_of_means(progress) / optimiser.unit**2
    seed = int(torch.randint(2**32, (), generator=generator))
    means, log_scales, quaternions, opacity_logits, _ = (
        getattr(gaussians, name).detach() for name in gaussians.NAMES
    )
    splat_shake_(means, log_scales, quaternions, opacity_logits, reach, seed)
