"""Gaussians in a row and moments of training, for the tests of how their number changes."""

import torch

from polyfield.fields.densification import Moment
from polyfield.fields.gaussians import GaussianOptimiser, GaussianRates, Gaussians
from polyfield.fields.splats import Splats

EXTENT = 2.0  # not 1: lengths are parts of it


def optimised(widths, opacities=0.5):
    """One at each x = 0, 1, ..., as wide as parts of the extent; each moment is its row's number.

    Counted from 1, so that what is carried and what is not can be told apart.
    """
    widths = torch.as_tensor(widths)
    n, random = len(widths), torch.Generator().manual_seed(0)
    means = torch.zeros(n, 3)
    means[:, 0] = torch.arange(n)
    # Widest along y, by less along the others: it is the largest that counts.
    scales = EXTENT * widths[:, None] * torch.tensor([0.3, 1.0, 0.5])
    splats = Splats(
        means,
        scales.log(),
        torch.randn(n, 4, generator=random),
        torch.as_tensor(opacities).expand(n).logit().clone(),
        torch.randn(n, 4, 3, generator=random),
    )
    gaussians = Gaussians(splats)
    optimiser = GaussianOptimiser(gaussians, GaussianRates(), EXTENT)
    for moment in optimiser.moments.values():
        moment += torch.arange(1.0, n + 1).view(-1, *[1] * (moment.dim() - 1))
    return gaussians, optimiser


def no_looks(count, random):
    """For what asks for none."""
    raise AssertionError("photographs were asked for")


def at(step, planned=30_000, looks=no_looks, seed=None):
    """The moment after a step."""
    random = torch.Generator().manual_seed(step if seed is None else seed)
    return Moment(step, planned, random, looks)


def pulled(strategy, lengths, absolute=None):
    """A view of all rows, in which their slopes are so long."""

    def along(values):
        values = torch.as_tensor(values)
        return torch.stack([torch.zeros_like(values), -values], 1)

    rows = torch.arange(len(lengths))
    strategy.observe(rows, along(lengths), None if absolute is None else along(absolute))


def numbers(gaussians):
    """All of them, as they are now."""
    return {name: getattr(gaussians, name).detach().clone() for name in gaussians.NAMES}


def same(one, other):
    """Whether tensors by name are equal, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def whole_state(optimiser, strategy):
    """Copies of all that the next step depends on."""
    moments = {name: moment.clone() for name, moment in optimiser.moments.items()}
    return numbers(optimiser.gaussians), moments, strategy.state()


def resumed(saved, like, make):
    """Another optimiser, and a strategy that `make` builds for it, both where `saved` was left."""
    found, moments, remembered = saved
    splats = Splats(*(found[name] for name in Gaussians.NAMES))
    optimiser = GaussianOptimiser(Gaussians(splats), GaussianRates(), like.extent)
    optimiser.moments = {name: moment.clone() for name, moment in moments.items()}
    strategy = make(optimiser)
    strategy.restore(remembered)
    return optimiser, strategy


def carried(optimiser):
    """Of each row, the number in its moments, the same in all of them; 0 for those begun anew."""
    n = len(optimiser.gaussians)
    rows = [moment.reshape(n, -1) for moment in optimiser.moments.values()]
    every = torch.cat(rows, 1)
    assert torch.equal(every, every[:, :1].expand_as(every))
    return every[:, 0].int().tolist()
