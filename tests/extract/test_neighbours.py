import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyfield.cuda.errors import InputError
from polyfield.extract.neighbours import nearest


def draw(seed, count, spread):
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(count, 3, generator=generator, dtype=torch.float64)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31),
    st.integers(1, 60),
    st.integers(1, 300),
    st.sampled_from([1e-4, 0.3, 1.0, 50.0]),
    st.sampled_from([0.0, 5.0, -300.0]),
    st.sampled_from([math.inf, 0.5, 0.01]),
)
def test_it_is_the_smallest_of_all_distances(seed, n, m, spread, shift, limit):
    points, reference = draw(seed, n, spread) + shift, draw(seed + 1, m, 1.0)
    reference[:, 2] *= 0.01  # surfaces are flat
    every = (points[:, None] - reference).norm(dim=2)
    found = nearest(points, reference, limit)
    exact = every.amin(1)
    within = exact <= limit
    torch.testing.assert_close(found.distance[within], exact[within])
    assert torch.equal(found.row[within], every.argmin(1)[within])
    assert bool((found.distance[~within] == math.inf).all() & (found.row[~within] == -1).all())


def test_many_points_near_few_and_few_near_many():
    many, few = draw(0, 20_000, 1.0), draw(1, 3, 1.0)
    every = (many[:, None] - few).norm(dim=2)
    torch.testing.assert_close(nearest(many, few).distance, every.amin(1))
    torch.testing.assert_close(nearest(few, many).distance, every.amin(0))


def test_a_point_on_its_neighbour_is_at_distance_zero_and_ties_take_the_first():
    points = draw(2, 500, 1.0)
    found = nearest(points, torch.cat([points, points]))
    assert bool((found.distance == 0).all())
    assert torch.equal(found.row, torch.arange(500))
    one = torch.ones(4, 3)
    assert nearest(one, one[:1]).row.tolist() == [0] * 4


def test_small_distances_keep_their_digits_far_from_the_origin():
    reference = draw(3, 400, 1.0) + 1000
    points = reference + 1e-6
    expected = torch.full((400,), math.sqrt(3) * 1e-6, dtype=torch.float64)
    torch.testing.assert_close(nearest(points, reference).distance, expected, rtol=1e-4, atol=0)


def test_nothing_and_not_numbers():
    none = nearest(torch.zeros(3, 3), torch.zeros(0, 3))
    assert none.row.tolist() == [-1] * 3 and bool((none.distance == math.inf).all())
    assert nearest(torch.zeros(0, 3), torch.zeros(3, 3)).distance.shape == (0,)
    with pytest.raises(InputError, match="finite"):
        nearest(torch.full((1, 3), math.nan), torch.zeros(1, 3))


def test_searches_split_to_bound_memory_find_the_same(monkeypatch):
    # From the middle of a sphere everything is equally far: nearly all boxes stay to be looked at.
    sphere = torch.nn.functional.normalize(draw(4, 2000, 1.0), dim=1)
    points = draw(5, 37, 1e-3)
    whole = nearest(points, sphere)
    monkeypatch.setattr("polyfield.extract.neighbours.PAIRS", 100)
    monkeypatch.setattr("polyfield.extract.neighbours.QUERIES", 10)
    split = nearest(points, sphere)
    assert torch.equal(split.distance, whole.distance) and torch.equal(split.row, whole.row)
    torch.testing.assert_close(whole.distance, (points[:, None] - sphere).norm(dim=2).amin(1))
