"""Importance sampling: intervals tile the ray, follow a histogram, and find what is there."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyfield.render.importance import (
    Importance,
    blurred,
    even_edges,
    importance_samples,
    interval_weights,
    learn_importance,
    spans_of_rays,
    weighted_edges,
)
from polyfield.render.learning import learn_samples
from polyfield.render.losses import ray_loss
from polyfield.render.packed import interval_samples
from polyfield.render.volume import Sampling

SAMPLING = Sampling(1 / 64, 0.0, 0.0)
few = settings(max_examples=25, deadline=None)
histograms = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def inverted(weights, count, edges=None, padding=0.0, jitter=False, seed=0, ray=0):
    weights = torch.tensor([weights])
    if edges is None:
        edges = torch.linspace(0, 1, weights.shape[1] + 1)[None]
    rays = torch.tensor([ray])
    return weighted_edges(edges, weights, rays, count, seed, 5, jitter, padding)[0]


def test_a_histogram_with_one_bin_gives_that_bin():
    for bin in range(4):
        weights = [0.0] * 4
        weights[bin] = 0.3
        expected = torch.linspace(bin / 4, (bin + 1) / 4, 8 + 1)
        torch.testing.assert_close(inverted(weights, 8), expected)
        drawn = inverted(weights, 8, jitter=True)
        assert drawn[0] == expected[0] and drawn[-1] == expected[-1]
        assert (drawn.diff() > 0).all() and not torch.equal(drawn, expected)


@pytest.mark.parametrize("padding", [0.0, 0.01])
def test_a_histogram_of_zeros_is_even(padding):
    found = inverted([0.0] * 5, 4, padding=padding)
    torch.testing.assert_close(found, torch.linspace(0, 1, 5))


def test_uneven_bins_are_cut_in_proportion_to_their_weights():
    edges = torch.tensor([[0.0, 0.5, 0.6, 1.0]])
    found = inverted([1.0, 2.0, 1.0], 8, edges)
    expected = torch.tensor([0.0, 0.25, 0.5, 0.525, 0.55, 0.575, 0.6, 0.8, 1.0])
    torch.testing.assert_close(found, expected)


def test_padding_leaves_a_chance_to_what_has_no_weight():
    found = inverted([0.0, 0.9, 0.0, 0.0], 1000, padding=0.1)
    share = torch.histc(0.5 * (found[1:] + found[:-1]), 4, 0, 1) / 1000
    torch.testing.assert_close(share, torch.tensor([0.1, 1.0, 0.1, 0.1]) / 1.3, atol=2e-3, rtol=0)


@few
@given(histograms, st.integers(1, 20), st.booleans(), st.sampled_from([0.0, 1e-30, 0.01]))
def test_intervals_ascend_and_hold_equal_weight(weights, count, jitter, padding):
    found = inverted(weights, count, padding=padding, jitter=jitter)
    assert found.shape == (count + 1,) and found.isfinite().all()
    assert (found.diff() >= 0).all() and found[0] >= 0 and found[-1] <= 1
    if padding == 0.01:
        assert found[0] == 0 and found[-1] == 1  # the whole ray is looked at
    if not jitter and max(weights) > 1e-3:
        share = torch.tensor(weights).double() + padding
        below = torch.cat([torch.zeros(1).double(), share.cumsum(0)]) / share.sum()
        place = found.double() * len(weights)
        index = place.floor().long().clamp(0, len(weights) - 1)
        reached = below[index] + (place - index) * (below[index + 1] - below[index])
        expected = torch.linspace(0, 1, count + 1).double()
        torch.testing.assert_close(reached, expected, atol=1e-5, rtol=0)


def test_jitter_is_a_function_of_seed_stream_and_ray():
    rays = torch.tensor([3, 7])
    one, again = (even_edges(rays, 16, 1, 2, True) for _ in range(2))
    assert torch.equal(one, again)
    assert torch.equal(one[1:], even_edges(rays[1:], 16, 1, 2, True))
    for other in (even_edges(rays, 16, 2, 2, True), even_edges(rays, 16, 1, 3, True)):
        assert not torch.equal(one, other)
    assert not torch.equal(one[0], one[1])
    weighted = [inverted([0.2] * 16, 16, jitter=True, ray=ray) for ray in (3, 3, 7)]
    assert torch.equal(weighted[0], weighted[1]) and not torch.equal(weighted[0], weighted[2])
    # The second round draws numbers of its own.
    assert not torch.allclose(weighted[0], even_edges(rays, 16, 0, 5, True)[0], atol=1e-3)


def test_no_two_edges_of_neighbouring_rays_move_by_the_same_number():
    shift = 16 * even_edges(torch.arange(40), 16, 1, 2, True) - torch.arange(17)
    drawn = shift[:, 1:-1].flatten().sort().values
    # Of 600 numbers drawn in (-1/2, 1/2) a few may come so close by chance.
    assert (drawn.diff() < 1e-6).sum() < 6


def test_even_edges_fill_the_ray_and_move_by_at_most_half_an_interval():
    found = even_edges(torch.arange(500), 10, 0, 0, True)
    middle = torch.linspace(0, 1, 11)
    assert (found[:, 0] == 0).all() and (found[:, -1] == 1).all()
    away = 10 * (found - middle)[:, 1:-1]
    assert away.abs().max() <= 0.5001 and away.min() < -0.45 and away.max() > 0.45
    assert away.mean().abs() < 0.02
    torch.testing.assert_close(even_edges(torch.arange(2), 10, 0, 0, False)[1], middle)


@pytest.mark.parametrize("disparity", [False, True])
def test_spans_run_from_the_entry_to_the_exit(disparity):
    origins = torch.tensor([[0.5, 0.5, -1.0], [0.5, 0.5, 0.25], [2.0, 2.0, -1.0], [0.5, 0.5, 2.0]])
    directions = torch.tensor([[0.0, 0.0, 1.0]]).expand(4, 3)
    spans = spans_of_rays(origins, directions, 0.125, disparity)
    assert spans.hit.tolist() == [True, True, False, False] and spans.rays.tolist() == [0, 1]
    found = spans.distance(torch.tensor([[0.0, 0.5, 1.0]]).expand(2, 3))
    ends = torch.tensor([[1.0, 2.0], [0.125, 0.75]])
    torch.testing.assert_close(found[:, [0, 2]], ends)
    middle = 2 / (1 / ends).sum(1) if disparity else ends.mean(1)
    torch.testing.assert_close(found[:, 1], middle)


def test_from_within_the_cube_rays_even_in_disparity_begin_before_the_camera():
    origins, directions = torch.tensor([[0.5, 0.5, 0.5]]), torch.tensor([[0.0, 0.0, 1.0]])
    spans = spans_of_rays(origins, directions, 0.0, True)
    found = spans.distance(torch.linspace(0, 1, 9)[None])[0]
    assert found.isfinite().all() and (found.diff() > 0).all()
    assert 0 < found[0] < 0.01 and found[-1] == 0.5


@pytest.mark.parametrize("way", [(torch.nan,) * 3, (0.0, 0.0, 0.0)])
def test_what_is_no_ray_runs_through_nothing(way):
    """Past the circle of a fisheye pixels have none."""
    origins, directions = torch.full((2, 3), 0.5), torch.tensor([way, (0.0, 0.0, 1.0)])
    assert spans_of_rays(origins, directions, 0.0, False).hit.tolist() == [False, True]


def test_a_near_plane_behind_the_cube_leaves_nothing():
    origins, directions = torch.tensor([[0.5, 0.5, -1.0]]), torch.tensor([[0.0, 0.0, 1.0]])
    assert not spans_of_rays(origins, directions, 2.5, True).hit.any()


def test_weights_are_those_of_compositing():
    # Section 12 of the notes on encodings: sigma 1, 3, 0, 8 in steps of 0.1.
    density = torch.tensor([[1.0, 3.0, 0.0, 8.0]], requires_grad=True)
    found = interval_weights(density, torch.full((1, 4), 0.1))
    expected = torch.tensor([[0.095163, 0.234517, 0.0, 0.369126]])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    huge = interval_weights(torch.tensor([[1e38, 1e38, 1e38]]), torch.ones(1, 3))
    assert torch.equal(huge, torch.tensor([[1.0, 0.0, 0.0]]))


def test_blurring_reaches_one_neighbour():
    found = blurred(torch.tensor([[0.0, 0.0, 0.8, 0.0, 0.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.4, 0.8, 0.4, 0.0, 0.0]]))
    even = torch.full((1, 4), 0.25)
    torch.testing.assert_close(blurred(even), even)


class Wall:
    """Opaque from z = 0.6 on, red; it notes how many points it was asked for at once."""

    def __init__(self):
        self.asked = []
        self.scale = torch.ones(1, requires_grad=True)

    def density(self, x):
        self.asked.append(len(x))
        return 400 * self.scale * (x[:, 2] > 0.6), x

    def encode_directions(self, directions):
        return directions

    def color(self, features, harmonics):
        return torch.sigmoid(self.scale * features)


def rays(count=40):
    random = torch.Generator().manual_seed(2)
    origins = torch.rand(count, 3, generator=random) * torch.tensor([1.0, 1.0, 0.0])
    directions = torch.tensor([[0.0, 0.0, 1.0]]).expand(count, 3).clone()
    origins[:2] += 3  # past the cube
    return origins - torch.tensor([0.0, 0.0, 1.0]), directions


@pytest.mark.parametrize("disparity", [False, True])
def test_most_samples_lie_where_the_wall_is(disparity):
    guide = Importance(16, 32, disparity)
    samples = importance_samples(Wall(), guide, *rays(), 0.2)
    assert samples.ray_offsets.tolist() == [0, 0, 0, *range(32, 38 * 32 + 1, 32)]
    assert samples.ray.tolist() == [ray for ray in range(2, 40) for _ in range(32)]
    origins, directions = rays()
    ray = samples.ray.long()
    expected = origins[ray] + samples.distance[:, None] * directions[ray]
    torch.testing.assert_close(samples.position, expected)
    length = samples.length.view(38, 32)
    torch.testing.assert_close(length.sum(1), torch.full((38,), 1.0))
    near = ((samples.position[:, 2] - 0.6).abs() < 0.08).float().mean()
    assert near > 0.6


def learned(field, seed=1, stream=2, guide=None, loss_kind="squared"):
    origins, directions = rays()
    loss_of = ray_loss(torch.zeros(40, 3), loss_kind)
    black = torch.zeros(40, 3)
    guide = guide or Importance(16, 32)
    return learn_importance(
        field, guide, origins, directions, black, loss_of, SAMPLING, seed, stream
    )


def test_learning_counts_both_rounds_and_shows_the_second():
    field = Wall()
    seen, loss = learned(field)
    assert seen.samples_marched == 38 * (16 + 32)
    assert 0 < seen.samples_shaded < seen.samples_marched
    torch.testing.assert_close(seen.depth[2:], torch.full((38,), 1.6), atol=0.02, rtol=0)
    assert (seen.color[:2] == 0).all() and (seen.opacity[2:] > 0.99).all()
    torch.testing.assert_close(loss, seen.color.square().mean())
    assert field.scale.grad is not None


def test_the_first_round_counts_a_tenth():
    field, alone = Wall(), Wall()
    learned(field)
    origins, directions = rays()
    black, loss_of = torch.zeros(40, 3), ray_loss(torch.zeros(40, 3), "squared")
    spans = spans_of_rays(origins, directions, 0.0, False)
    edges = even_edges(spans.rays, 16, 1, 2, True)
    coarse = interval_samples(origins, directions, spans.hit, edges + 1)
    first = learn_samples(alone, coarse, directions, black, loss_of, 1e-4)
    of_first = alone.scale.grad.clone()
    inner = weighted_edges(edges, blurred(first.weights.view(38, 16)), spans.rays, 32, 1, 2, True)
    fine = interval_samples(origins, directions, spans.hit, inner + 1)
    alone.scale.grad = None
    learn_samples(alone, fine, directions, black, loss_of, 1e-4)
    torch.testing.assert_close(field.scale.grad, 0.1 * of_first + alone.scale.grad)


def test_learning_is_a_function_of_seed_and_stream():
    one, again, other, late = (
        learned(Wall(), *draw)[0].color for draw in ((1, 2), (1, 2), (2, 2), (1, 3))
    )
    assert torch.equal(one, again) and not torch.equal(one, other) and not torch.equal(one, late)


def test_rays_that_all_miss_the_cube_teach_nothing():
    field = Wall()
    origins, directions = (t[:2] for t in rays())
    target, white = torch.zeros(2, 3), torch.ones(2, 3)
    seen, loss = learn_importance(
        field, Importance(), origins, directions, white, ray_loss(target, "squared"), SAMPLING, 0, 0
    )
    assert torch.equal(seen.color, white) and seen.samples_shaded == 0 and loss == 1
    assert field.scale.grad is None
