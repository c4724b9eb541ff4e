"""The edit of rows that is common to what clones and splits, and who wins where room is short."""

import pytest
import torch
from growing_gaussians import at, carried, optimised
from splat_models import covariances

from polyfield.fields.gaussian_growth import Changes, change, due, largest


def chosen(n, *rows):
    """A mask."""
    found = torch.zeros(n, dtype=torch.bool)
    found[list(rows)] = True
    return found


def test_those_that_stay_come_first_then_clones_then_children():
    gaussians, optimiser = optimised([0.02] * 7)
    changes = Changes(chosen(7, 5, 1), chosen(7, 6, 0), chosen(7, 3))
    counts = change(optimiser, changes, torch.Generator().manual_seed(0))
    assert counts == {"cloned": 2, "split": 2, "pruned": 1}
    assert carried(optimiser) == [2, 3, 5, 6, 0, 0, 0, 0, 0, 0]
    harmonics = optimised([0.02] * 7)[0].harmonics.detach()
    rows = [1, 2, 4, 5, 1, 5, 0, 6, 0, 6]
    assert torch.equal(gaussians.harmonics.detach(), harmonics[rows])
    assert gaussians.means.detach()[:6, 0].tolist() == rows[:6]


def test_children_lie_where_their_parent_s_density_draws_them():
    n = 20_000
    gaussians, optimiser = optimised(torch.full((n,), 0.02))
    with torch.no_grad():
        gaussians.quaternions.copy_(torch.tensor([0.9, 0.3, -0.2, 0.5]).expand(n, 4))
        gaussians.means[:, 1:] = torch.tensor([5.0, -7.0])
    before, wanted = gaussians.means.detach().clone(), covariances(gaussians.splats)[0]
    every = torch.ones(n, dtype=torch.bool)
    change(optimiser, Changes(~every, every, ~every), torch.Generator().manual_seed(0))
    pairs = (gaussians.means.detach().view(2, n, 3) - before).double()
    found = (pairs[:, :, :, None] * pairs[:, :, None]).mean((0, 1))
    largest = wanted.diagonal().max()
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.03 * largest.item())
    assert pairs.mean((0, 1)).abs().max() < 0.02 * largest.sqrt()
    together = (pairs[0][:, :, None] * pairs[1][:, None]).mean(0)
    assert together.abs().max() < 0.03 * largest
    narrower = covariances(gaussians.splats)[0]
    torch.testing.assert_close(narrower, wanted / 1.6**2, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("room", [-3, 0, 1, 4, 5000, 20_000])
def test_as_many_win_as_there_is_room_for(room):
    """By what they are worth, of equals those of the lower rows; what is not wanted never."""
    random = torch.Generator().manual_seed(0)
    wanted = torch.rand(9000, generator=random) < 0.7
    worth = torch.randint(0, 5, (9000,), generator=random).float()
    order = sorted(torch.nonzero(wanted)[:, 0].tolist(), key=lambda row: -worth[row])
    found = largest(wanted, worth, room)
    assert torch.nonzero(found)[:, 0].tolist() == sorted(order[: max(0, room)])


@pytest.mark.parametrize(
    ("step", "planned", "so"),
    [
        (500, 30_000, False),  # it is after it that it begins
        (600, 30_000, True),
        (650, 30_000, False),
        (14_900, 30_000, True),
        (15_000, 30_000, False),
        (50, 3001, False),
        (50, 2999, True),
        (0, 100, False),
    ],
)
def test_it_is_due_between_a_sixtieth_and_a_half_of_training(step, planned, so):
    assert due(at(step, planned)) == so
