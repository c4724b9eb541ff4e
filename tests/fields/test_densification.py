"""Relocation over a whole training: how many, when, what it pulls at, and where it goes on."""

import pytest
import torch
from growing_gaussians import at, numbers, optimised, resumed, same, whole_state

from polyfield.cuda.errors import InputError
from polyfield.fields.densification import Relocation, every


def crowd(n=60, seed=0):
    """Of opacities from nearly none to nearly all."""
    random = torch.Generator().manual_seed(seed)
    widths = 0.002 + 0.01 * torch.rand(n, generator=random)
    return optimised(widths, 0.001 + 0.95 * torch.rand(n, generator=random))


def make(most):
    return lambda optimiser: Relocation(optimiser, most)


@pytest.mark.parametrize(
    ("planned", "steps"), [(100, 50), (14_999, 50), (15_300, 51), (30_000, 100)]
)
def test_changes_are_a_three_hundredth_of_a_long_run_apart(planned, steps):
    assert every(planned) == steps


@pytest.mark.parametrize(("begun", "most"), [(60, 300), (60, 63), (400, 4000)])
@pytest.mark.parametrize(("planned", "period"), [(2000, 50), (30_000, 100)])
def test_the_cap_is_reached_before_half_of_training_and_never_passed(begun, most, planned, period):
    """Evenly by the logarithm, so late enough: not by a few large changes at the beginning."""
    gaussians, optimiser = crowd(begun)
    strategy, counts = Relocation(optimiser, most), []
    for step in range(period, planned + 1, period):
        strategy.refine(at(step, planned))
        counts.append(len(gaussians))
    assert max(counts) == counts[-1] == most and counts == sorted(counts)
    assert (counts.index(most) + 1) * period <= 0.45 * planned
    half = next(i + 1 for i, count in enumerate(counts) if count**2 >= begun * most)
    if begun == 400:  # where a part of one more, each time, is little
        assert (counts.index(most) + 1) * period > 0.42 * planned
        assert half * period / planned == pytest.approx((0.02 + 0.45) / 2, abs=0.025)


def test_it_changes_between_a_fiftieth_and_four_fifths_and_shakes_until_nine_tenths():
    gaussians, optimiser = crowd()
    strategy = Relocation(optimiser, 70)
    changed, shaken, relocated = set(), set(), set()
    for step in range(1, 1001):
        with torch.no_grad():
            gaussians.opacity_logits[0] = -7.0  # there is always one that gave up
        before = numbers(gaussians)
        if strategy.refine(at(step, 1000)):
            relocated.add(step)
        after = numbers(gaussians)
        if not torch.equal(before["means"], after["means"]):
            shaken.add(step)
        del before["means"], after["means"]
        if not same(before, after):
            changed.add(step)
    assert changed == relocated == set(range(50, 801, 50))
    assert shaken == set(range(1, 901))


def test_it_begins_after_a_fiftieth():
    _, optimiser = crowd()
    strategy = Relocation(optimiser, 70)
    assert not strategy.refine(at(50, 2600)) and strategy.refine(at(50, 2500))


def test_it_pulls_towards_less_opacity_and_width_in_units_of_the_scene():
    gaussians, optimiser = crowd()
    gaussians.log_scales.grad = torch.full_like(gaussians.log_scales, 1e-5)  # the images'
    Relocation(optimiser, 70).pull()
    opacity, width = gaussians.opacity_logits.sigmoid(), gaussians.log_scales.exp()
    loss = 0.01 * opacity.mean() + 0.01 * width.mean() / optimiser.unit
    inputs = gaussians.opacity_logits, gaussians.log_scales
    to_logits, to_scales = torch.autograd.grad(loss, inputs)
    close = {"rtol": 1e-5, "atol": 1e-12}
    torch.testing.assert_close(gaussians.opacity_logits.grad, to_logits, **close)
    torch.testing.assert_close(gaussians.log_scales.grad, 1e-5 + to_scales, **close)
    for name in ("means", "quaternions", "harmonics"):
        assert getattr(gaussians, name).grad is None


def test_none_are_pulled_at_nothing():
    gaussians, optimiser = optimised(torch.zeros(0))
    Relocation(optimiser, 70).pull()
    assert gaussians.opacity_logits.grad.shape == (0,)


def train(optimiser, strategy, steps, planned=1000, seeds=0):
    for step in steps:
        strategy.observe(torch.arange(0), torch.zeros(0, 2), None)
        strategy.pull()
        optimiser.step(step, step / planned)
        strategy.refine(at(step, planned, seed=seeds + step))


def test_training_is_a_function_of_its_seeds():
    ends = []
    for seeds in (0, 0, 1000):
        _, optimiser = crowd(30)
        strategy = Relocation(optimiser, 90)
        train(optimiser, strategy, range(1, 301), seeds=seeds)
        ends.append(whole_state(optimiser, strategy))
    assert all(same(one, two) for one, two in zip(*ends[:2], strict=True))
    assert not same(ends[0][0], ends[2][0])


def test_who_moves_where_is_drawn_by_the_moment_s_generator():
    found = []
    for seed in (1, 1, 2):
        gaussians, optimiser = crowd(30)
        Relocation(optimiser, 90).refine(at(50, 1000, seed=seed))
        found.append(gaussians.harmonics.detach())
    assert torch.equal(*found[:2]) and not torch.equal(*found[1:])


def test_training_goes_on_where_it_was_left():
    """At the pace at which it began, not at one from how many they are by then."""
    _, optimiser = crowd(30)
    strategy = Relocation(optimiser, 200)
    train(optimiser, strategy, range(1, 230))
    saved = whole_state(optimiser, strategy)
    again, other = resumed(saved, optimiser, make(200))
    assert len(again.gaussians) > 30 and strategy.state()["begun"].tolist() == [30]
    newborn = resumed((*saved[:2], make(200)(again).state()), optimiser, make(200))
    for one, two in [(optimiser, strategy), (again, other), newborn]:
        train(one, two, range(230, 401))
    ends = [whole_state(*pair) for pair in [(optimiser, strategy), (again, other)]]
    assert all(same(one, two) for one, two in zip(*ends, strict=True))
    assert len(newborn[0].gaussians) != len(again.gaussians)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"begun": torch.tensor([3]), "more": torch.tensor([3])},
        {"began": torch.tensor([3])},
        {"begun": torch.tensor(3)},
        {"begun": torch.tensor([3, 3])},
        {"begun": torch.zeros(0, dtype=torch.int64)},
        {"begun": torch.tensor([3.0])},
        {"begun": torch.tensor([3], dtype=torch.int32)},
        {"begun": torch.tensor([-1])},
    ],
)
def test_a_state_that_is_none_is_refused_and_leaves_its_own(wrong):
    _, optimiser = crowd(7)
    strategy = Relocation(optimiser, 70)
    with pytest.raises(InputError, match="densification: tensor"):
        strategy.restore(wrong)
    assert strategy.state()["begun"].tolist() == [7]
    strategy.restore({"begun": torch.tensor([0])})
    assert strategy.begun == 0
