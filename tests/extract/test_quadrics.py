"""Quadrics: their least places, and sums of them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyfield.extract.quadrics import least, merged, quadrics


def turned(seed):
    """Some axes, orthonormal."""
    random = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(3, 3, generator=random, dtype=torch.float64))[0]


def anywhere(place, mean):
    return torch.ones(len(place), dtype=torch.bool)


def within(farthest):
    return lambda place, mean: (place - mean).norm(dim=1) <= farthest


def of_one(points, normals):
    return quadrics(points, normals, torch.zeros(len(points)).long(), 1)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, 2, 3]))
def test_it_lies_where_planes_meet_and_near_the_mean_in_what_they_leave_open(seed, planes):
    """Points on one, two or three planes through a point; four on each."""
    random = torch.Generator().manual_seed(seed)
    axes = turned(seed)[:planes]
    meet = 100 * torch.rand(3, generator=random, dtype=torch.float64)
    points, normals = [], []
    for normal in axes:
        away = torch.rand(4, 3, generator=random, dtype=torch.float64) - 0.5
        points.append(meet + away - (away @ normal)[:, None] * normal)
        normals.append(normal.expand(4, 3))
    points, normals = torch.cat(points), torch.cat(normals)
    (found,) = least(of_one(points, normals), anywhere)
    for normal in axes:
        assert abs(float((found - meet) @ normal)) < 1e-7
    rest = found - points.mean(0)  # only along the planes' normals
    inside = axes.T @ (axes @ rest)
    assert (rest - inside).abs().max() < 1e-7


def test_planes_that_meet_where_it_does_not_fit_do_not_take_it_there():
    """Two sides of a needle, an angle of 40 degrees: they meet 3 cells off; one plane is enough."""
    lean = math.radians(20)
    one = torch.tensor([math.cos(lean), math.sin(lean), 0.0], dtype=torch.float64)
    other = torch.tensor([-math.cos(lean), math.sin(lean), 0.0], dtype=torch.float64)
    points = torch.tensor([[0.9, 0, 0], [0.9, 0, 1], [-0.9, 0, 0], [-0.9, 0, 1]]).double()
    needle = of_one(points, torch.stack([one, one, other, other]))
    tip = 0.9 / math.tan(lean)
    mean = points.mean(0)
    (free,) = least(needle, anywhere)
    assert float(free[1]) == pytest.approx(tip)
    (found,) = least(needle, within(1.5))
    assert tip > 1.5 and (found - mean).norm() <= 1.5
    (nowhere,) = least(needle, lambda place, mean: torch.zeros(1, dtype=torch.bool))
    assert torch.equal(nowhere, mean)


def test_where_two_directions_lead_too_far_the_one_that_planes_say_most_of_is_kept():
    normals, points = [], []
    for lean, x in ((15, 0.9), (25, -0.7)):
        turn = math.radians(lean)
        side = torch.tensor([math.copysign(math.cos(turn), x), math.sin(turn), 0.0]).double()
        normals += [side, side]
        points += [torch.tensor([x, 0.0, z]).double() for z in (0.0, 1.0)]
    points, normals = torch.stack(points), torch.stack(normals)
    (found,) = least(of_one(points, normals), within(1.5))
    _, values, axes = torch.linalg.svd(normals)
    mean = points.mean(0)
    heights = (normals * (points - mean)).sum(1)
    expected = (normals @ axes[0]) @ heights / values[0] ** 2 * axes[0]
    assert expected.norm() > 0.01
    torch.testing.assert_close(found - mean, expected)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_sums_of_parts_are_those_of_the_whole_and_regions_stay_apart(seed):
    random = torch.Generator().manual_seed(seed)
    points = torch.rand(40, 3, generator=random, dtype=torch.float64)
    normals = torch.nn.functional.normalize(
        torch.randn(40, 3, generator=random, dtype=torch.float64), dim=1
    )
    part = torch.randint(6, (40,), generator=random)
    label = torch.tensor([0, 1, 1, 0, 2, 1])
    whole = quadrics(points, normals, label[part], 3)
    parts = merged(quadrics(points, normals, part, 6), label, 3)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other)
    alone = of_one(points[label[part] == 1], normals[label[part] == 1])
    torch.testing.assert_close(least(whole, anywhere)[1:2], least(alone, anywhere))
    # Least squares, by somebody else.
    chosen = label[part] == 1
    expected = torch.linalg.lstsq(
        normals[chosen], (normals[chosen] * points[chosen]).sum(1, keepdim=True)
    ).solution[:, 0]
    torch.testing.assert_close(least(alone, anywhere)[0], expected)
