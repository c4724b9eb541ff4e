"""Occupancy of Gaussians: nothing that rays would see is missing, and space is empty elsewhere."""

import torch

from polyfield.fields.splat_field import SplatField
from polyfield.fields.splats import Splats
from polyfield.render.splat_grid import splat_grid

STEP = 0.004


def scattered(n, width, seed=0, opacity=3.0, spread=0.3, reach=1.0):
    random = torch.Generator().manual_seed(seed)
    means = 0.5 + reach * (torch.rand(n, 3, generator=random) - 0.5)
    scales = torch.full((n, 3), width).log() + spread * torch.randn(n, 3, generator=random)
    turns = torch.randn(n, 4, generator=random)
    return Splats(means, scales, turns, torch.full((n,), opacity), torch.zeros(n, 1, 3))


def test_tiny_ones_are_not_missed():
    """A hundredth of a cell wide: random points of cells would not find them."""
    tiny = scattered(200, 0.0004)
    grid = splat_grid(SplatField(tiny), 1, 32, STEP)
    assert grid.holds(tiny.means).all()
    assert grid.occupied < 0.02


def test_long_ones_are_on_along_their_length():
    needle = scattered(1, 0.001, spread=0.0)
    needle.means[:] = 0.5
    needle.quaternions[:] = torch.tensor([1.0, 0, 0, 0])
    needle.log_scales[0, 2] = torch.tensor(0.02).log()
    grid = splat_grid(SplatField(needle), 1, 64, STEP)
    along = torch.full((61, 3), 0.5)
    along[:, 2] += torch.linspace(-0.03, 0.03, 61)
    assert grid.holds(along)[::30].all() and grid.holds(along).float().mean() > 0.5


def test_where_samples_show_something_cells_are_on():
    field = SplatField(scattered(300, 0.03, opacity=1.0))
    grid = splat_grid(field, 1, 32, STEP)
    x = torch.rand(30000, 3, generator=torch.Generator().manual_seed(5))
    shows = field.density(x)[0] * STEP > 0.02
    assert shows.float().mean() > 0.03
    assert grid.holds(x)[shows].float().mean() > 0.97
    assert 0.1 < grid.occupied < 0.9


def test_every_level_has_its_part():
    lost = scattered(60, 0.003, reach=0.4)
    lost.means[::2] = 0.5 + (lost.means[::2] - 0.5).sign() * 0.4
    grid = splat_grid(SplatField(lost), 2, 32, STEP)
    assert grid.levels == 2 and grid.holds(lost.means).all()
    # What lies in the finest cube is on in the coarser one as well, for longer samples.
    long = torch.full((60,), 1.0)
    assert grid.holds(lost.means, long).all()
    assert grid.occupied < 0.01


def test_nothing_is_nowhere():
    grid = splat_grid(SplatField(scattered(0, 0.1)), 1, 32, STEP)
    assert not grid.holds(torch.rand(1000, 3)).any()
