"""Distortion of packed rays: its definition, in linear time, with its gradient."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyfield.cuda.distortion import distortion

packings = st.lists(st.integers(0, 7), min_size=1, max_size=6)  # samples of each ray, some empty
few = settings(max_examples=25, deadline=None)


def packed(counts, dtype=torch.float64, start=0.0):
    random, n = torch.Generator().manual_seed(sum(counts)), sum(counts)
    weights, lengths = torch.rand(2, n, generator=random, dtype=torch.float64)
    gaps = torch.rand(n, generator=random, dtype=torch.float64)
    offsets = torch.tensor([0, *counts]).cumsum(0)
    pieces = [gaps[a:b].cumsum(0) for a, b in zip(offsets[:-1], offsets[1:], strict=True)]
    midpoints = start + torch.cat(pieces)
    return weights.to(dtype), midpoints.to(dtype), lengths.to(dtype), offsets


def double_sum(weights, midpoints, lengths):
    """The definition: the oracle of this file."""
    pairs = weights[:, None] * weights[None, :] * (midpoints[:, None] - midpoints[None, :]).abs()
    return pairs.sum() + (weights**2 * lengths).sum() / 3


@few
@given(packings)
def test_distortion_is_the_double_sum_of_each_ray(counts):
    *samples, offsets = packed(counts)
    for value, a, b in zip(distortion(*samples, offsets), offsets[:-1], offsets[1:], strict=True):
        torch.testing.assert_close(value, double_sum(*(t[a:b] for t in samples)))


@few
@given(packings)
def test_distortion_has_the_gradient_of_the_double_sum(counts):
    weights, midpoints, lengths, offsets = packed(counts)
    mine, theirs = weights.clone().requires_grad_(), weights.clone().requires_grad_()
    pull = torch.linspace(1, 2, len(counts), dtype=torch.float64)  # rays pulled unequally
    (distortion(mine, midpoints, lengths, offsets) * pull).sum().backward()
    spans = list(zip(offsets[:-1], offsets[1:], strict=True))
    values = [double_sum(theirs[a:b], midpoints[a:b], lengths[a:b]) for a, b in spans]
    (torch.stack(values) * pull).sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad)


def test_distortion_does_not_see_where_a_ray_starts():
    near, far = packed([3, 0, 5]), packed([3, 0, 5], start=1000.0)
    torch.testing.assert_close(distortion(*far), distortion(*near))


def test_late_rays_keep_their_digits():
    counts = [1 << 16, 0, 3]
    weights, midpoints, lengths, offsets = packed(counts, torch.float32, start=20.0)
    found = distortion(weights, midpoints, lengths, offsets)
    last = [t[-3:].double() for t in (weights, midpoints, lengths)]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found[2].double(), double_sum(*last), rtol=1e-6, atol=0)


def test_distortion_leaves_positions_alone():
    weights, midpoints, lengths, offsets = packed([4])
    for tensor in (weights, midpoints, lengths):
        tensor.requires_grad_()
    distortion(weights, midpoints, lengths, offsets).sum().backward()
    assert midpoints.grad is None and lengths.grad is None and bool((weights.grad != 0).all())
