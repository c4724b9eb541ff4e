"""What is hard: rays kept in a pool, samples by weight, views turned where they stand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyfield.render.hard_examples import HardPool, hardest, heavy_samples, turned_views


def test_the_worst_part_comes_the_worst_first():
    errors = torch.tensor([0.1, 5.0, 0.3, 2.0, 0.2, 0.0, 0.4, 9.0, 1.0, 0.05])
    assert hardest(errors, 0.3).tolist() == [7, 1, 3]
    assert hardest(errors, 0.01).tolist() == [7] and not len(hardest(errors[:0], 0.3))


def test_a_pool_fills_then_gives_and_what_was_drawn_makes_room():
    pool, random = HardPool(torch.zeros(5, 2)), torch.Generator().manual_seed(0)
    first = torch.arange(6.0).view(3, 2)
    assert not len(pool.draw(2, random))
    pool.take(first, torch.zeros(0, dtype=torch.int64))
    assert pool.held == 3 and not pool.full and torch.equal(pool.rows[:3], first)
    pool.take(first + 10, torch.zeros(0, dtype=torch.int64))
    assert pool.full and torch.equal(pool.rows[3:], first[:2] + 10)
    drawn = pool.draw(2, random)
    assert len(set(drawn.tolist())) == 2
    before = pool.rows.clone()
    pool.take(first + 50, drawn)
    assert torch.equal(pool.rows[drawn], first[:2] + 50)
    others = [place for place in range(5) if place not in drawn.tolist()]
    assert torch.equal(pool.rows[others], before[others]) and pool.held == 5
    again = HardPool(before.clone(), 5).draw(2, torch.Generator().manual_seed(0))
    assert torch.equal(again, HardPool(before, 5).draw(2, torch.Generator().manual_seed(0)))


def by_sorting(weights, offsets, share, opaque):
    """The rule in words, ray by ray."""
    kept = [False] * len(weights)
    for begin, end in zip(offsets[:-1], offsets[1:], strict=True):
        own = weights[begin:end]
        if not own or sum(own) < opaque:
            continue
        order = sorted(range(end - begin), key=lambda place: -own[place])
        for place in order[: math.floor(share * len(own)) + 1]:
            kept[begin + place] = True
    return kept


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from([0.0, 0.125, 0.25, 0.5]), max_size=12), max_size=8))
def test_heavy_samples_are_those_of_the_rule(rays):
    offsets = [0]
    for ray in rays:
        offsets.append(offsets[-1] + len(ray))
    weights = [weight for ray in rays for weight in ray]
    found = heavy_samples(torch.tensor(weights), torch.tensor(offsets, dtype=torch.int32))
    assert found.tolist() == by_sorting(weights, offsets, 0.3, 0.5)


def test_of_a_ray_that_is_nearly_opaque_enough_none_is_heavy():
    offsets = torch.tensor([0, 1, 2], dtype=torch.int32)
    assert heavy_samples(torch.tensor([0.4999, 0.5]), offsets).tolist() == [False, True]


def test_turned_views_stay_where_they_are_and_turn_by_little():
    poses = torch.eye(3, 4).repeat(200, 1, 1)
    poses[:, :, 3] = torch.rand(200, 3, generator=torch.Generator().manual_seed(1))
    found = turned_views(poses, torch.Generator().manual_seed(2))
    assert torch.equal(found[:, :, 3], poses[:, :, 3])
    axes = found[:, :, :3].double()
    assert torch.allclose(axes @ axes.mT, torch.eye(3).double().expand(200, 3, 3), atol=1e-6)
    assert torch.linalg.det(axes).min() > 0.999
    angle = ((axes.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1).acos().rad2deg()
    assert angle.max() < 9 * 3**0.5 and angle.max() > 9 and angle.min() < 5
    assert torch.equal(found, turned_views(poses, torch.Generator().manual_seed(2)))
    assert turned_views(poses, torch.Generator().manual_seed(3), 0.0) == pytest.approx(poses)
