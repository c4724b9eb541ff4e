"""Series along rays and the network that makes them: bases, encoding, layers, one look a ray."""

import inspect
import math
from dataclasses import replace

import pytest
import torch

from polyfield.cuda.errors import InputError
from polyfield.fields.ray_distribution import (
    RayDistributionArguments,
    RayDistributionField,
    encoded_width,
    parameter_count,
    series_basis,
)

SMALL = RayDistributionArguments(layers=3, width=24, coefficients=8, points=4, frequencies=3)
PAPER = RayDistributionArguments(
    layers=8, width=384, coefficients=24, points=16, frequencies=10, degree=7, samples=64
)


def field(sizes=SMALL, box=None, seed=0):
    return RayDistributionField(sizes, torch.Generator().manual_seed(seed), box)


def rays(count=50, seed=0):
    """Through the middle of the unit cube, more or less, from outside of it."""
    random = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=random), dim=1)
    inside = 0.3 + 0.4 * torch.rand(count, 3, generator=random)
    return inside - 2 * directions, directions


def shown(made, origins, directions, generator=None):
    near, far = made.bounds(origins, directions)
    return made(origins, directions, near, far, generator)


@pytest.mark.parametrize("periodic", [False, True])
def test_a_basis_is_orthogonal(periodic):
    n, count = 4096, 24
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    basis = series_basis(u, count, periodic)
    gram = basis.T @ basis / n
    last = basis[:, -1].square().mean() if periodic else 0.5
    expected = torch.diag(torch.tensor([1.0, *[0.5] * (count - 2), last], dtype=torch.float64))
    torch.testing.assert_close(gram, expected, atol=1e-12, rtol=0)


def test_only_the_periodic_one_ends_as_it_begins():
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    near, far = series_basis(ends, 24, periodic=True)
    torch.testing.assert_close(near, far, atol=1e-12, rtol=0)
    near, far = series_basis(ends, 24)
    torch.testing.assert_close(near, torch.ones_like(near))
    torch.testing.assert_close(far, (-1.0) ** torch.arange(24).double())


def test_a_wall_at_the_end_does_not_come_back_at_the_beginning():
    """The wall of the notes on the paper: from u = 0.93 on, by least squares."""
    u = torch.linspace(0, 1, 2001, dtype=torch.float64)
    wall = (u > 0.93).double()[:, None]
    at_the_eye = []
    for periodic in (False, True):
        basis = series_basis(u, 24, periodic)
        at_the_eye.append(float((basis @ torch.linalg.lstsq(basis, wall).solution)[0]))
    assert abs(at_the_eye[0]) < 0.02 and at_the_eye[1] > 0.4


def test_series_of_the_paper_are_these():
    u = torch.rand(9, dtype=torch.float64)
    found = series_basis(u, 5, periodic=True)
    waves = [torch.ones_like(u)]
    for turns in (1, 2):
        angle = 2 * math.pi * turns * u
        waves += [angle.sin(), angle.cos()]
    torch.testing.assert_close(found, torch.stack(waves, 1))


def test_layers_are_residual_within_their_relu_and_see_the_encoding_again():
    made = field(replace(SMALL, layers=7))
    with torch.no_grad():
        made.layers[2].bias.fill_(-0.2)
    origins, directions = rays()
    near, far = made.bounds(origins, directions)
    x = made.encode(origins, directions, near, far)

    def layer(number, values):
        part = made.layers[number]
        return values @ part.weight.T + part.bias

    h = layer(0, x).relu()
    for number in (1, 2, 3, 4):
        h = (layer(number, h) + h).relu()
    h = layer(5, torch.cat([h, x], 1)).relu()  # behind the fourth, no residual
    h = (layer(6, h) + h).relu()
    expected = (h @ made.output.weight.T + made.output.bias).view(50, 8, 4)
    torch.testing.assert_close(made(origins, directions, near, far), expected)


def test_the_paper_s_sizes_have_the_paper_s_parameters():
    """And those of the two ends of a ray, in the two layers that see the encoding."""
    assert encoded_width(PAPER) == 1135 + 2
    assert parameter_count(PAPER) == 1_943_904 + 2 * 2 * 384


def test_a_ray_is_its_part_in_the_box_wherever_it_began():
    made = field(box=torch.tensor([[0.1, 0.2, 0.0], [0.9, 0.7, 0.8]]))
    origins, directions = rays()
    near, far = made.bounds(origins, directions)
    before = shown(made, origins, directions)
    torch.testing.assert_close(shown(made, origins - 3 * directions, directions), before)
    inside = origins + (near + 0.5 * (far - near))[:, None] * directions
    assert (shown(made, inside, directions) - before).abs().amax((1, 2)).min() > 1e-4


def test_the_encoding_says_where_the_ray_is_and_how_it_runs():
    made = field(replace(SMALL, points=3, frequencies=1, degree=1))
    origins, directions = rays()
    near, far = made.bounds(origins, directions)
    found = made.encode(origins, directions, near, far)
    waves, harmonics, ends = found.split([4 * 9, 4, 2], 1)
    x = waves.view(50, 4, 9)[:, :, :3] / 2 + 0.5
    for point, share in enumerate((0.0, 0.0, 0.5, 1.0)):
        expected = origins + (near + share * (far - near))[:, None] * directions
        torch.testing.assert_close(x[:, point], expected)
    wide = 2 * x - 1
    torch.testing.assert_close(waves.view(50, 4, 9)[:, :, 3:6], wide.sin())
    torch.testing.assert_close(waves.view(50, 4, 9)[:, :, 6:], wide.cos())
    torch.testing.assert_close(harmonics[:, 2], math.sqrt(3 / (4 * math.pi)) * directions[:, 2])
    nearest = ((0.5 - origins) * directions).sum(1)
    torch.testing.assert_close(ends, 2 * torch.stack([near - nearest, far - nearest], 1))


def test_points_are_moved_by_the_generator_alone_and_keep_their_order():
    made = field(replace(SMALL, points=5, frequencies=0, degree=0))
    origins, directions = rays()
    near, far = made.bounds(origins, directions)

    def shares(seed):
        random = None if seed is None else torch.Generator().manual_seed(seed)
        x = made.encode(origins, directions, near, far, random)[:, :-3].view(50, 6, 3) / 2 + 0.5
        entry, x = x[:, 0], x[:, 1:]
        torch.testing.assert_close(entry, origins + near[:, None] * directions)
        along = ((x - origins[:, None]) * directions[:, None]).sum(2)
        return (along - near[:, None]) / (far - near)[:, None]

    even = torch.linspace(0, 1, 5)
    torch.testing.assert_close(shares(None), even.expand(50, 5), atol=1e-5, rtol=0)
    moved = shares(3)
    assert torch.equal(moved, shares(3)) and not torch.equal(moved, shares(4))
    assert (moved - even).abs().max() < 0.125 + 1e-5 and (moved - even).abs().max() > 0.1
    assert (moved.diff(dim=1) > -1e-5).all() and moved.min() > -1e-5 and moved.max() < 1 + 1e-5
    assert moved.std(0)[1:-1].min() > 0.05  # of each ray its own


def test_samples_lie_in_equal_parts_and_a_constant_ray_is_exact():
    made = field(replace(SMALL, samples=6))
    torch.testing.assert_close(made.places(), (torch.arange(6) + 0.5) / 6)
    moved = made.places(torch.Generator().manual_seed(1))
    assert torch.equal((6 * moved).long(), torch.arange(6))
    assert not torch.equal(moved, made.places())
    series = torch.zeros(4, 8, 4)
    series[:, 0] = torch.tensor([0.5, -1.0, 0.0, 2.0])
    opacity = 1 - math.exp(-math.exp(0.5))
    for random in (None, torch.Generator().manual_seed(1)):
        seen = made.seen(series, random)
        torch.testing.assert_close(seen.opacity, torch.full((4,), opacity))
        expected = opacity * torch.tensor([-1.0, 0.0, 2.0]).sigmoid()
        torch.testing.assert_close(seen.color, expected.expand(4, 3))


@pytest.mark.parametrize("periodic", [0, 1])
def test_a_pixel_is_made_of_the_basis_that_was_chosen(periodic):
    made = field(replace(SMALL, periodic=periodic, samples=5))
    series = torch.randn(3, 8, 4, generator=torch.Generator().manual_seed(2)) / 2
    values = torch.einsum("jk,rkc->rjc", series_basis(made.places(), 8, bool(periodic)), series)
    seen = made.seen(series, weights=True)
    depth = values[..., 0].exp() / 5
    light = torch.exp(-torch.cat([torch.zeros(3, 1), depth.cumsum(1)[:, :-1]], 1))
    weights = light * (1 - torch.exp(-depth))
    torch.testing.assert_close(seen.weights, weights, atol=2e-6, rtol=0)


def test_the_network_is_asked_once_a_ray(monkeypatch):
    made, rows = field(), []
    made.output.register_forward_hook(lambda layer, inputs, out: rows.append(len(out)))
    origins, directions = rays(70)
    made.seen(shown(made, origins, directions))
    assert rows == [70]


def test_every_parameter_learns_and_no_ray_is_dead():
    made = field()
    with torch.no_grad():
        made.output.bias[0] = -12.0
    origins, directions = rays()
    seen = made.seen(shown(made, origins, directions, torch.Generator().manual_seed(0)))
    assert seen.opacity.max() < 1e-3
    seen.opacity.sum().backward()
    assert made.output.bias.grad[0] > 0
    assert all(p.grad is not None and p.grad.any() for p in made.parameters())


def test_it_begins_half_transparent_and_by_its_generator():
    one, same, other = field(seed=1), field(seed=1), field(seed=2)
    for a, b in zip(one.parameters(), same.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.output.weight, other.output.weight)
    seen = one.seen(shown(one, *rays()))
    assert 0.3 < seen.opacity.min() and seen.opacity.max() < 0.9


def test_no_rays_have_no_coefficients():
    made, none = field(), torch.zeros(0, 3)
    assert shown(made, none, none).shape == (0, 8, 4)


def test_sizes_fit_the_budget_and_the_detail():
    usual = RayDistributionArguments.fitted(256, 1 << 21)
    assert usual.width == RayDistributionArguments().width
    few = RayDistributionArguments.fitted(256, 60_000)
    assert few.width < usual.width and parameter_count(few) <= 60_000
    frequencies = [RayDistributionArguments.fitted(2**k, 1 << 21).frequencies for k in range(7, 14)]
    assert frequencies == sorted(frequencies) and len(set(frequencies)) > 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"layers": 0},
        {"width": 2000},
        {"coefficients": 6},
        {"coefficients": 36},
        {"points": 1},
        {"frequencies": 20},
        {"degree": 8},
        {"samples": 0},
        {"periodic": 2},
    ],
)
def test_sizes_out_of_range_are_refused(wrong):
    with pytest.raises(InputError, match=f"ray-distribution: {next(iter(wrong))}"):
        inspect.unwrap(RayDistributionField)(replace(SMALL, **wrong))
