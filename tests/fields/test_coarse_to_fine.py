"""Levels of a hash grid that open one after the other: what is seen, what learns, how fine."""

import pytest
import torch

from polyfield.cuda.errors import InputError
from polyfield.fields.coarse_to_fine import FIRST, CoarseToFine
from polyfield.fields.field import Encoding, Gradual
from polyfield.fields.hash_grid import HashGrid
from polyfield.fields.optimiser import FieldOptimiser
from polyfield.fields.radiance import Radiance
from polyfield.fields.table import FIELDS
from polyfield.fields.tri_plane import tri_plane_field

LEVELS, FEATURES, STEPS = 5, 2, 30
X = torch.rand(200, 3, generator=torch.Generator().manual_seed(0))


def made():
    """A grid of cells of 1/4, 1/8, ... 1/64, whose features are large enough to be told from 0."""
    random = torch.Generator().manual_seed(1)
    grid = HashGrid(LEVELS, FEATURES, 12, 4, 64, smoothstep=True, generator=random)
    with torch.no_grad():
        grid.table.mul_(1e4)
    return grid, CoarseToFine(grid, STEPS)


def columns(features):
    return features.view(len(features), LEVELS, FEATURES)


def test_it_begins_with_the_coarsest_levels_and_ends_as_the_grid_itself():
    grid, opening = made()
    assert isinstance(opening, Encoding) and isinstance(opening, Gradual)
    first = columns(opening(X))
    assert torch.equal(first[:, :FIRST], columns(grid(X))[:, :FIRST])
    assert not first[:, FIRST:].any() and first.shape[1] == LEVELS
    for step in (STEPS, 10 * STEPS):
        opening.at_step(step)
        assert torch.equal(opening(X), grid(X))


def test_levels_open_one_after_the_other_and_smoothly():
    grid, opening = made()
    whole, last = columns(grid(X)), torch.zeros(LEVELS)
    for step in range(STEPS + 1):
        opening.at_step(step)
        share = (columns(opening(X)) / whole).nanmedian(0).values
        assert torch.allclose(share[:, 0], share[:, 1])
        weights = share[:, 0]
        assert (weights >= last - 1e-6).all()  # what is open stays open
        between = (weights > 1e-6) & (weights < 1 - 1e-6)
        assert int(between.sum()) <= 1
        assert (weights - last)[FIRST:].max() < 0.2
        last = weights
    opening.at_step(STEPS // 3)  # one of the three others
    assert float(opening.opened) == FIRST + 1


def test_how_much_is_open_depends_on_the_step_alone_and_lies_in_checkpoints():
    _, opening = made()
    _, other = made()
    for step in (5, 20, 11):
        opening.at_step(step)
    other.at_step(11)
    assert torch.equal(opening(X), other(X))
    _, loaded = made()
    loaded.load_state_dict(opening.state_dict())
    assert torch.equal(loaded(X), opening(X)) and loaded.cell == opening.cell


def test_a_closed_level_does_not_learn():
    grid, opening = made()
    field = Radiance(opening, 16)
    optimiser = FieldOptimiser(field)
    assert list(optimiser.tables) == ["encoding.grid"]
    before = grid.table.detach().clone()
    for step in range(3):
        optimiser.clear()
        field.features(X).square().sum().backward()
        optimiser.step(step, 1.0)
    moved = (grid.table != before).any(1)
    for level in range(LEVELS):
        first, last = grid.layout.offsets[level : level + 2]
        assert bool(moved[first:last].any()) == (level < FIRST)


def test_its_cell_is_that_of_the_finest_open_level():
    _, opening = made()
    for step, side in ((0, 8), (10, 16), (20, 32), (30, 64), (5, 8 * 2**0.5)):
        opening.at_step(step)
        # So many nodes a side; of the last, half a level on, by the logarithm.
        assert opening.cell == pytest.approx(1 / (side - 1), rel=1e-5)
        assert opening.share == pytest.approx(7 / (side - 1), rel=1e-5)


def test_a_grid_of_one_level_has_nothing_to_open():
    grid = HashGrid(1, 2, 10, 8, 8)
    opening = CoarseToFine(grid, 5)
    assert torch.equal(opening(X), grid(X))
    assert opening.cell == pytest.approx(1 / 7) and opening.share == 1


def test_what_has_no_levels_and_no_steps_are_refused():
    planes = tri_plane_field(FIELDS["tri-plane"].arguments.fitted(32, 1 << 12)).encoding
    with pytest.raises(InputError, match="--coarse-to-fine"):
        CoarseToFine(planes, 10)
    with pytest.raises(InputError, match="0 steps"):
        CoarseToFine(made()[0], 0)
