"""Gaussians that learn: where they begin, how they step, and what relocation leaves as it was."""

import math
from dataclasses import replace

import pytest
import torch

from polyfield.cuda.errors import InputError
from polyfield.fields.gaussians import (
    DEAD,
    GaussianOptimiser,
    GaussianRates,
    Gaussians,
    gaussians_at,
    relocate,
    shake,
    split_evenly,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def crowd(n=60, seed=0, opacity=0.5):
    points = torch.rand(n, 3, generator=generator(seed))
    return gaussians_at(points, torch.rand(n, 3, generator=generator(seed + 1)), 1, opacity)


def apart(one, other):
    return (one[:, None] - other).norm(dim=2)


def optimised(n=60, opacity=0.5, extent=5.0):
    gaussians = Gaussians(crowd(n, opacity=opacity))
    return gaussians, GaussianOptimiser(gaussians, GaussianRates(), extent)


def test_they_begin_as_wide_as_the_way_to_their_neighbours():
    ticks = torch.arange(5.0)
    points = torch.cartesian_prod(ticks, ticks, ticks)
    found = gaussians_at(points, torch.full((125, 3), 0.7), degree=2, opacity=0.3, shrink=0.5)
    inner = ((points > 0) & (points < 4)).all(1)
    torch.testing.assert_close(found.log_scales[inner].exp(), torch.full((27, 3), 0.5))
    assert found.opacity_logits.sigmoid().unique().tolist() == pytest.approx([0.3])
    torch.testing.assert_close(0.5 + 0.28209479 * found.harmonics[:, 0], torch.full((125, 3), 0.7))
    assert found.degree == 2 and not found.harmonics[:, 1:].any()


@pytest.mark.parametrize(("count", "degree"), [(3, 0), (9, 4), (9, -1)])
def test_what_makes_none_is_refused(count, degree):
    with pytest.raises(InputError, match="gaussians_at"):
        gaussians_at(torch.rand(count, 3), torch.rand(count, 3), degree)


def test_what_they_are_now_is_theirs_without_a_copy():
    start = replace(crowd(), antialiased=True)
    gaussians = Gaussians(start)
    with torch.no_grad():
        gaussians.means += 1
    found = gaussians.splats
    assert found.antialiased and found.degree == 1 and found.count == 60
    assert torch.equal(found.means, start.means + 1) and not found.means.requires_grad
    assert found.harmonics.data_ptr() == gaussians.harmonics.data_ptr()


def test_kinds_of_numbers_step_at_rates_of_their_own():
    """The first step of Adam is as long as the rate."""
    gaussians, optimiser = optimised(extent=3.0)
    before = {name: getattr(gaussians, name).detach().clone() for name in gaussians.NAMES}
    for name in gaussians.NAMES:
        parameter = getattr(gaussians, name)
        parameter.grad = torch.ones_like(parameter)
    optimiser.step(1, progress=0.5, factor=2.0)
    rates = GaussianRates()
    moved = {name: before[name] - getattr(gaussians, name).detach() for name in before}
    expected = {
        "means": 3.0 * rates.means * 0.1,
        "log_scales": rates.log_scales,
        "quaternions": rates.quaternions,
        "opacity_logits": rates.opacity_logits,
    }
    for name, rate in expected.items():
        assert moved[name].mean().item() == pytest.approx(2 * rate, rel=1e-2)
    harmonics = moved["harmonics"].mean((0, 2)).tolist()
    assert harmonics == pytest.approx([2 * rates.constant, *[2 * rates.bands] * 3], rel=1e-2)
    assert all(getattr(gaussians, name).grad is None for name in gaussians.NAMES)


def test_what_no_view_saw_is_left_alone():
    gaussians, optimiser = optimised()
    before = gaussians.means.detach().clone()
    gaussians.means.grad = torch.zeros_like(before)
    gaussians.means.grad[7] = 1
    optimiser.step(1, 0.0)
    changed = (gaussians.means.detach() != before).any(1)
    assert changed.nonzero()[:, 0].tolist() == [7]


def test_moments_follow_their_gaussians():
    gaussians, optimiser = optimised(8)
    for key, moment in optimiser.moments.items():
        moment += torch.arange(8.0).view(-1, *[1] * (moment.dim() - 1)) + 1
        assert moment.any(), key
    rows = torch.tensor([3, 3, 0, 7])
    before = gaussians.means.detach()[rows]
    optimiser.take(rows, torch.tensor([False, True, False, False]))
    assert len(gaussians) == 4 and torch.equal(gaussians.means.detach(), before)
    for moment in optimiser.moments.values():
        assert moment.view(4, -1).amax(1).tolist() == [4, 0, 1, 8]
    assert all(parameter.requires_grad for parameter in gaussians.parameters())


@pytest.mark.parametrize(
    ("opacity", "copies", "each", "shrink"),
    [(0.5, 2, 0.29289, 0.95215), (0.9, 7, 0.28031, 0.78441), (0.99, 51, 0.08634, 0.64212)],
)
def test_shares_are_those_of_the_source(opacity, copies, each, shrink):
    found = split_evenly(torch.tensor([opacity]).double(), torch.tensor([copies]))
    assert found[0].item() == pytest.approx(each, abs=1e-5)
    assert found[1].item() == pytest.approx(shrink, abs=1e-5)


@pytest.mark.parametrize("copies", [1, 2, 3, 10, 51])
def test_copies_look_together_as_one_did(copies):
    """At the middle, and along a line through it, by a sum over points of it."""
    opacity = torch.tensor([0.05, 0.4, 0.8, 0.98]).double()
    each, shrink = split_evenly(opacity, torch.full((4,), copies))
    kept = each > DEAD * 1.001
    middle = 1 - (1 - each) ** copies
    torch.testing.assert_close(middle[kept], opacity[kept])
    x = torch.linspace(-12, 12, 4001).double()
    one = opacity[:, None] * (-0.5 * x**2).exp()
    narrow = each[:, None] * (-0.5 * (x / shrink[:, None]) ** 2).exp()
    together = 1 - (1 - narrow) ** copies
    torch.testing.assert_close(together.sum(1)[kept], one.sum(1)[kept], rtol=1e-6, atol=0)


def test_those_that_gave_up_become_copies_and_more_are_added():
    gaussians, optimiser = optimised(50)
    with torch.no_grad():
        gaussians.opacity_logits[:10] = -9.0
    for moment in optimiser.moments.values():
        moment += 1
    living = gaussians.means.detach()[10:].clone()
    counts = relocate(optimiser, 1000, 0.2, generator())
    assert counts == {"moved": 10, "added": 10} and len(gaussians) == 60
    assert bool((gaussians.opacity_logits.detach().sigmoid() >= DEAD - 1e-9).all())
    # Every one lies where one that lives did, and those that did not change keep their moments.
    where = apart(gaussians.means.detach(), living)
    assert where.amin(1).max() == 0
    same = torch.bincount(where.argmin(1), minlength=40)[where.argmin(1)] > 1
    for moment in optimiser.moments.values():
        kept = moment.view(60, -1).amin(1) == 1
        assert torch.equal(kept, ~same) and not moment[same].any()


def test_together_they_are_as_opaque_at_their_middle_as_before():
    gaussians, optimiser = optimised(30, opacity=0.6)
    relocate(optimiser, 300, 1.0, generator())
    number = apart(gaussians.means.detach(), gaussians.means.detach()[:30]).argmin(1)
    light = torch.zeros(30).index_add_(
        0, number, (1 - gaussians.opacity_logits.detach().sigmoid()).log()
    )
    torch.testing.assert_close(1 - light.exp(), torch.full((30,), 0.6), rtol=1e-4, atol=1e-5)


def test_there_are_never_more_than_the_budget():
    gaussians, optimiser = optimised(50)
    for _ in range(30):
        relocate(optimiser, 70, 0.1, generator())
    assert len(gaussians) == 70
    assert relocate(optimiser, 40, 0.5, generator()) == {"moved": 0, "added": 0}


def test_where_none_lives_nothing_is_drawn():
    gaussians, optimiser = optimised(5)
    with torch.no_grad():
        gaussians.opacity_logits.fill_(-20)
    assert relocate(optimiser, 10, 0.5, generator()) == {"moved": 0, "added": 0}
    assert len(gaussians) == 5


def test_relocation_is_a_function_of_its_seed():
    results = []
    for _ in range(2):
        gaussians, optimiser = optimised(40)
        with torch.no_grad():
            gaussians.opacity_logits[::4] = -9
        relocate(optimiser, 80, 0.3, generator(5))
        results.append(gaussians.means.detach())
    assert torch.equal(*results)


def test_what_is_transparent_is_shaken_within_its_ellipsoid():
    """By its covariance times the noise, at 5e5 of the rate of means."""
    n = 4000
    gaussians, optimiser = optimised(n)
    half = math.sqrt(0.5)
    with torch.no_grad():
        gaussians.log_scales.copy_(torch.tensor([0.1, 0.01, 0.001]).log().expand(n, 3))
        gaussians.quaternions.copy_(torch.tensor([half, 0, 0, half]).expand(n, 4))  # x becomes y
        gaussians.opacity_logits[: n // 2] = -20
        gaussians.opacity_logits[n // 2 :] = 2
    before = gaussians.means.detach().clone()
    shake(optimiser, 0.0, generator())
    moved = gaussians.means.detach() - before
    rate = 5e5 * optimiser.rate_of_means(0.0) * (1 + math.exp(-0.5)) ** -1
    expected = rate * torch.tensor([1e-4, 1e-2, 1e-6])
    torch.testing.assert_close(moved[: n // 2].std(0), expected, rtol=0.06, atol=1e-7)
    assert moved[n // 2 :].abs().max() < 1e-3 * moved[: n // 2].abs().max()


def test_a_larger_scene_is_shaken_in_proportion():
    """All lengths ten times as long: what moves does so ten times as far."""
    moved = []
    for scale in (1.0, 10.0):
        gaussians = Gaussians(crowd(200, opacity=0.001))
        with torch.no_grad():
            gaussians.means.mul_(scale)
            gaussians.log_scales.add_(math.log(scale))
        before = gaussians.means.detach().clone()
        optimiser = GaussianOptimiser(gaussians, GaussianRates(), 5.0 * scale)
        shake(optimiser, 0.3, generator())
        moved.append(gaussians.means.detach() - before)
    torch.testing.assert_close(moved[1], 10 * moved[0], rtol=1e-3, atol=1e-4)
