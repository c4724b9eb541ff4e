"""Clone, split, prune, reset: which, when, how many, and what of them goes on."""

import math

import pytest
import torch
from growing_gaussians import (
    at,
    carried,
    numbers,
    optimised,
    pulled,
    resumed,
    same,
    whole_state,
)

from polyfield.cuda.errors import InputError
from polyfield.fields.clone_and_split import CloneAndSplit


def means_of(gaussians):
    return gaussians.means.detach()


def origins(gaussians):
    """The x of each, which is the row it had."""
    return means_of(gaussians)[:, 0].tolist()


def test_small_ones_are_cloned_large_ones_split_and_faint_ones_go():
    widths = [0.0099, 0.0099, 0.0101, 0.005, 0.005, 0.2]
    opacities = torch.tensor([0.5, 0.6, 0.7, 0.0049, 0.0051, 0.8])
    gaussians, optimiser = optimised(widths, opacities)
    before = numbers(gaussians)
    strategy = CloneAndSplit(optimiser, 100)
    pulled(strategy, [1.99e-4, 2.01e-4, 2.01e-4, 9e-4, 1e-4, 1e-4])
    assert strategy.refine(at(600)) == {"cloned": 1, "split": 1, "pruned": 1}
    # Those that stay, the clone, and the children of number 2.
    assert origins(gaussians)[:5] == [0, 1, 4, 5, 1]
    rows = torch.tensor([0, 1, 4, 5, 1, 2, 2])
    after = numbers(gaussians)
    for name in ("quaternions", "opacity_logits", "harmonics"):
        assert torch.equal(after[name], before[name][rows]), name
    for name in ("means", "log_scales"):
        assert torch.equal(after[name][:5], before[name][rows[:5]]), name
    narrower = before["log_scales"][rows[5:]] - math.log(1.6)
    torch.testing.assert_close(after["log_scales"][5:], narrower)
    away = after["means"][5:] - before["means"][2]
    assert (away.norm(dim=1) > 0).all() and not torch.equal(*away)
    assert carried(optimiser) == [1, 2, 5, 6, 0, 0, 0]
    assert all(parameter.requires_grad for parameter in gaussians.parameters())


def test_it_is_the_mean_length_of_slopes_over_the_views_that_see_it():
    gaussians, optimiser = optimised([0.005] * 6)
    strategy = CloneAndSplit(optimiser, 100)
    first = [[2.5, 0], [1.5, 0], [2.1, 0], [1.3, 1.6], [1.2, 1.2]]
    strategy.observe(torch.arange(5), 1e-4 * torch.tensor(first), None)
    second = [[-2.5, 0], [1.5, 0], [-1.3, -1.6], [1.2, 1.2]]
    strategy.observe(torch.tensor([0, 1, 3, 4]), 1e-4 * torch.tensor(second), None)
    # 0 is pulled to two sides, 2 is seen once, 3 is long across; 1 and 4 are short, 5 unseen.
    assert strategy.refine(at(600))["cloned"] == 3
    assert origins(gaussians)[6:] == [0, 2, 3]


def test_statistics_begin_anew_after_a_change():
    gaussians, optimiser = optimised([0.005, 0.02, 0.005])
    strategy = CloneAndSplit(optimiser, 100)
    pulled(strategy, [3e-4, 3e-4, 1e-4])
    strategy.refine(at(600))
    state = strategy.state()
    assert all(len(kept) == len(gaussians) == 5 and not kept.any() for kept in state.values())
    pulled(strategy, [1e-4] * 5)  # with what was before it would be enough
    assert strategy.refine(at(700)) == {"cloned": 0, "split": 0, "pruned": 0}


def test_absolute_slopes_split_and_signed_ones_clone():
    """From a tenth of the width."""
    gaussians, optimiser = optimised([0.0009, 0.0009, 0.0011, 0.0011, 0.0011])
    strategy = CloneAndSplit(optimiser, 100, absolute=True)
    assert strategy.absolute and not CloneAndSplit(optimiser, 100).absolute
    signed = [2.01e-4, 1.99e-4, 9e-4, 0.0, 0.0]
    pulled(strategy, signed, [0.0, 9e-3, 3.99e-4, 4.01e-4, 3.99e-4])
    assert strategy.refine(at(600)) == {"cloned": 1, "split": 1, "pruned": 0}
    assert carried(optimiser) == [1, 2, 3, 5, 0, 0, 0] and origins(gaussians)[4] == 0


def test_absolute_slopes_are_asked_for_where_they_are_wanted():
    _, optimiser = optimised([0.005])
    strategy = CloneAndSplit(optimiser, 100, absolute=True)
    with pytest.raises(InputError, match="absolute"):
        pulled(strategy, [1e-3])
    assert not any(kept.any() for kept in strategy.state().values())


def test_those_pulled_most_win_where_there_is_no_room_for_all():
    """Of equals the first. What goes leaves room in the same change."""
    opacities = torch.tensor([0.5, 0.5, 0.5, 0.001, 0.5, 0.5])
    gaussians, optimiser = optimised([0.005, 0.02, 0.005, 0.02, 0.005, 0.02], opacities)
    strategy = CloneAndSplit(optimiser, 8)
    pulled(strategy, [4e-4, 3e-4, 3e-4, 9e-4, 5e-4, 3e-4])
    assert strategy.refine(at(600)) == {"cloned": 2, "split": 1, "pruned": 1}
    assert len(gaussians) == 8 and carried(optimiser) == [1, 3, 5, 6, 0, 0, 0, 0]
    assert origins(gaussians)[4:6] == [0, 4]


def test_what_is_pulled_is_measured_by_its_threshold():
    _, optimiser = optimised([0.0005, 0.0020])
    strategy = CloneAndSplit(optimiser, 3, absolute=True)
    pulled(strategy, [3e-4, 0.0], [0.0, 5e-4])
    assert strategy.refine(at(600)) == {"cloned": 1, "split": 0, "pruned": 0}


@pytest.mark.parametrize("most", [0, 3, 4])
def test_more_than_may_be_are_left_but_not_added_to(most):
    gaussians, optimiser = optimised([0.005, 0.02, 0.005, 0.02])
    strategy = CloneAndSplit(optimiser, most)
    pulled(strategy, [1e-3] * 4)
    assert strategy.refine(at(600)) == {"cloned": 0, "split": 0, "pruned": 0}
    assert len(gaussians) == 4


@pytest.mark.parametrize(
    ("step", "most", "split", "pruned", "left"),
    [
        (3000, 10, 2, 0, [1, 2, 3, 0, 0, 0, 0]),
        (3100, 10, 1, 2, [1, 2, 0, 0]),  # children of 0.159 are 0.099 wide, of 0.161 too wide
        (3100, 3, 0, 3, [1, 2]),  # no room for them
    ],
)
def test_what_is_too_wide_goes_after_the_first_reset(step, most, split, pruned, left):
    _, optimiser = optimised([0.005, 0.099, 0.101, 0.159, 0.161])
    strategy = CloneAndSplit(optimiser, most)
    pulled(strategy, [0.0, 0.0, 0.0, 1e-3, 2e-3])
    optimiser.forget = lambda name: None  # moments tell the rows
    counts = strategy.refine(at(step))
    assert (counts["split"], counts["pruned"]) == (split, pruned)
    assert carried(optimiser) == left


@pytest.mark.parametrize("planned", [600, 2000, 3000, 30_000])
def test_it_happens_between_a_sixtieth_and_a_half_of_training(planned):
    _, optimiser = optimised([0.005])
    strategy = CloneAndSplit(optimiser, 10)
    steps = range(planned + 1) if planned < 30_000 else range(0, planned + 1, 50)
    changes = [step for step in steps if "cloned" in strategy.refine(at(step, planned))]
    period = max(50, planned // 300)
    span = range(0, planned, period)
    assert changes == [step for step in span if planned / 60 < step < planned / 2]


@pytest.mark.parametrize(
    ("planned", "white", "resets"),
    [
        (30_000, False, [3000, 6000, 9000, 12_000]),
        (30_000, True, [500, 3000, 6000, 9000, 12_000]),
        (2000, False, [200, 400, 600, 800]),
        (2000, True, [33, 200, 400, 600, 800]),
        (1900, False, [200, 400, 600, 800]),
        (600, False, [100, 150, 200]),  # not at 250: training is to recover before the end
        (110, True, [2]),
        (40, True, []),
    ],
)
def test_opacities_are_reset_at_each_tenth_of_training_but_the_last(planned, white, resets):
    """And never before the first step."""
    gaussians, optimiser = optimised([0.005])
    strategy = CloneAndSplit(optimiser, 10, white=white)
    found = []
    for step in range(0, planned + 1, 1 if planned < 30_000 else 50):
        with torch.no_grad():
            gaussians.opacity_logits.fill_(1.0)
        counts = strategy.refine(at(step, planned))
        if "dimmed" in counts:
            found.append(step)
        assert ("dimmed" in counts) == (gaussians.opacity_logits.item() != 1)
    assert found == resets


def test_a_reset_dims_what_is_bright_and_forgets_moments_of_opacity_alone():
    opacities = torch.tensor([0.9, 0.02, 0.008, 0.5])
    gaussians, optimiser = optimised([0.005] * 4, opacities)
    before = numbers(gaussians)
    strategy = CloneAndSplit(optimiser, 10)
    pulled(strategy, [0.0, 0.0, 0.0, 1e-3])
    counts = strategy.refine(at(3000))
    assert counts == {"cloned": 1, "split": 0, "pruned": 0, "dimmed": 4}
    found = gaussians.opacity_logits.detach()
    wanted = torch.tensor([0.01, 0.01, 0.008, 0.01, 0.01])
    torch.testing.assert_close(found.sigmoid(), wanted, rtol=1e-5, atol=0)
    assert found[2] == before["opacity_logits"][2]
    for name, moment in optimiser.moments.items():
        rows = moment.reshape(5, -1).amax(1).tolist()
        assert rows == ([0] * 5 if "opacity" in name else [1, 2, 3, 4, 0]), name
    for name in ("means", "log_scales", "quaternions", "harmonics"):
        assert torch.equal(getattr(gaussians, name).detach()[:4], before[name])


def test_children_are_a_function_of_the_moment_s_generator():
    results = []
    for seed in (3, 3, 4):
        gaussians, optimiser = optimised([0.02] * 5)
        strategy = CloneAndSplit(optimiser, 20)
        pulled(strategy, [1e-3] * 5)
        strategy.refine(at(600, seed=seed))
        results.append(means_of(gaussians))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_none_may_be_left():
    gaussians, optimiser = optimised([0.005] * 3, 0.001)
    strategy = CloneAndSplit(optimiser, 20, absolute=True)
    assert strategy.refine(at(600)) == {"cloned": 0, "split": 0, "pruned": 3}
    pulled(strategy, torch.zeros(0), torch.zeros(0))
    assert strategy.refine(at(3000)) == {"cloned": 0, "split": 0, "pruned": 0, "dimmed": 0}
    assert len(gaussians) == 0 and gaussians.harmonics.shape == (0, 4, 3)


def train(optimiser, strategy, steps, planned=3000):
    """Views of some of the Gaussians with slopes about the thresholds, and changes."""
    for step in steps:
        random = torch.Generator().manual_seed(10_000 + step)
        n = len(optimiser.gaussians)
        rows = torch.nonzero(torch.rand(n, generator=random) < 0.6)[:, 0]
        slopes = 2e-4 * torch.randn(len(rows), 2, generator=random)
        strategy.observe(rows, slopes, 2 * slopes.abs() if strategy.absolute else None)
        strategy.refine(at(step, planned))


@pytest.mark.parametrize("absolute", [False, True])
def test_training_goes_on_where_it_was_left(absolute):
    def make(optimiser):
        return CloneAndSplit(optimiser, 200, absolute=absolute)

    _, optimiser = optimised(torch.linspace(0.0004, 0.02, 40))
    strategy = make(optimiser)
    train(optimiser, strategy, range(120, 173))
    saved = whole_state(optimiser, strategy)
    again, other = resumed(saved, optimiser, make)
    forgetful, newborn = resumed((*saved[:2], make(again).state()), optimiser, make)
    assert saved[2]["slopes"].any() and len(again.gaussians) > 40
    for one, two in [(optimiser, strategy), (again, other), (forgetful, newborn)]:
        train(one, two, range(173, 402))
    ends = [whole_state(*pair) for pair in [(optimiser, strategy), (again, other)]]
    assert all(same(one, two) for one, two in zip(*ends, strict=True))
    assert not same(numbers(forgetful.gaussians), ends[0][0])


def test_what_is_restored_is_a_copy_and_so_is_the_state():
    _, optimiser = optimised([0.005] * 3)
    strategy = CloneAndSplit(optimiser, 10)
    given = {"views": torch.ones(3), "slopes": torch.full((3,), 0.5)}
    strategy.restore(given)
    found = strategy.state()
    assert same(found, given)
    pulled(strategy, [1.0] * 3)
    assert given["views"].tolist() == found["views"].tolist() == [1, 1, 1]
    assert strategy.state()["slopes"].tolist() == [1.5] * 3


@pytest.mark.parametrize(
    "change",
    [
        {"views": None},
        {"absolute": torch.zeros(3)},
        {"views": torch.zeros(4)},
        {"slopes": torch.zeros(3, 1)},
        {"slopes": torch.zeros(3, dtype=torch.float64)},
        {"views": torch.zeros(3, dtype=torch.int64)},
        {"slopes": torch.tensor([0.0, math.nan, 1.0])},
        {"slopes": torch.tensor([0.0, math.inf, 1.0])},
        {"views": torch.tensor([0.0, -1.0, 1.0])},
    ],
)
def test_a_state_of_another_is_refused_and_leaves_its_own(change):
    _, optimiser = optimised([0.005] * 3)
    strategy = CloneAndSplit(optimiser, 10)
    pulled(strategy, [1e-4, 2e-4, 3e-4])
    before = strategy.state()
    wrong = {
        k: v for k, v in ({k: v + 1 for k, v in before.items()} | change).items() if v is not None
    }
    with pytest.raises(InputError, match=next(iter(change))):
        strategy.restore(wrong)
    assert same(strategy.state(), before)


def test_rows_of_a_state_are_those_of_the_gaussians_at_hand():
    _, optimiser = optimised([0.005] * 3)
    strategy = CloneAndSplit(optimiser, 10)
    old = strategy.state()
    optimiser.take(torch.tensor([0, 1, 2, 2]), torch.zeros(4, dtype=torch.bool))
    with pytest.raises(InputError, match=r"shape \(3,\).*shape \(4,\)"):
        strategy.restore(old)
    strategy.restore({"views": torch.ones(4), "slopes": torch.ones(4)})


def test_nothing_pulls_at_the_gaussians():
    gaussians, optimiser = optimised([0.005])
    CloneAndSplit(optimiser, 10).pull()
    assert all(parameter.grad is None for parameter in gaussians.parameters())
