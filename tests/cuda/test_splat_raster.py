"""Images of Gaussians: against plain torch, in closed form, and in whatever order they come."""

import math

import pytest
import torch
from splat_scenes import camera, gaussians

from polyfield.cuda.splat_project import Projected, splat_project
from polyfield.cuda.splat_raster import splat_raster, splat_raster_reference

pytestmark = pytest.mark.kernels


def discs(*discs, device="cpu", dtype=torch.float32):
    """Round Gaussians on the sensor: (x, y, variance, opacity, depth) each."""
    x, y, variance, opacity, depth = torch.tensor(discs, dtype=dtype, device=device).unbind(1)
    zero = torch.zeros_like(x)
    reach = (2 * (255 * opacity).log() * variance).sqrt()
    return Projected(
        torch.arange(len(x), device=device),
        torch.stack([x, y], 1),
        torch.stack([1 / variance, zero, 1 / variance], 1),
        opacity,
        depth,
        torch.stack([reach, reach], 1),
    )


def crowd(n=70, seed=1, device="cpu", dtype=torch.float64, size=-1.8):
    """Gaussians as a camera sees them, leaves of a graph of their own, and colours."""
    seen = splat_project(*gaussians(n, seed, size=size), camera())
    leaves = [t.detach().to(device, dtype).requires_grad_() for t in seen[1:4]]
    depths, extents = (t.detach().to(device, dtype) for t in seen[4:])
    random = torch.Generator().manual_seed(seed)
    color = torch.rand(len(depths), 3, generator=random, dtype=torch.float64)
    color = color.to(device, dtype).requires_grad_()
    return Projected(seen.rows.to(device), *leaves, depths, extents), color


def loss_of(drawn):
    random = torch.Generator().manual_seed(5)
    sums = torch.randn(drawn.sums.shape, generator=random, dtype=torch.float64)
    left = torch.randn(drawn.left.shape, generator=random, dtype=torch.float64)
    return (sums.to(drawn.sums) * drawn.sums).sum() + (left.to(drawn.left) * drawn.left).sum()


@pytest.mark.parametrize("size", [-3.0, -1.8, -0.7])
def test_images_and_gradients_are_those_of_the_specification(device, size):
    results = []
    for dtype in (torch.float32, torch.float64):
        seen, color = crowd(device=device, dtype=dtype, size=size)
        drawn = splat_raster(seen, color, 53, 37, half=True)
        grads = torch.autograd.grad(loss_of(drawn), [*seen[1:4], color])
        results.append((drawn, grads))
    (drawn, grads), (expected, expected_grads) = results
    assert expected.left.min() < 0.3 < expected.left.max()
    for got, want in zip(drawn, expected, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=0, atol=2e-5)
    for got, want in zip(grads, expected_grads, strict=True):
        bound = 1e-4 * float(want.abs().max())
        torch.testing.assert_close(got.double(), want, rtol=1e-3, atol=bound)


def test_gradients_of_the_specification_are_finite_differences():
    """Where no pixel is near the faintest opacity, the largest, or the end of its light."""
    seen = discs(
        (6.3, 5.1, 900.0, 0.3, 1.0), (4.2, 6.6, 700.0, 0.5, 2.0), (7.0, 7.0, 800.0, 0.6, 3.0),
        dtype=torch.float64,
    )  # fmt: skip
    color = torch.tensor([[0.2, 0.5], [0.9, 0.1], [0.3, 0.8]], dtype=torch.float64)

    def image(means2d, conics, opacities, color):
        held = seen._replace(means2d=means2d, conics=conics, opacities=opacities)
        drawn = splat_raster_reference(held, color, 12, 11)
        return drawn.sums, drawn.left

    leaves = [t.requires_grad_() for t in (*seen[1:4], color)]
    assert torch.autograd.gradcheck(image, leaves, eps=1e-6, atol=1e-7)


@pytest.mark.parametrize("variance", [0.3, 0.8, 2.0, 30.0])
def test_one_disc_is_a_gaussian(device, variance):
    x, y, opacity = 31.4, 22.7, 0.8
    seen = discs((x, y, variance, opacity, 3.0), device=device)
    drawn = splat_raster(seen, torch.ones(1, 1, device=device), 64, 48)
    columns, rows = torch.arange(64) + 0.5, torch.arange(48)[:, None] + 0.5
    square = (columns - x).double() ** 2 + (rows - y).double() ** 2
    expected = opacity * (-square / (2 * variance)).exp()
    cut = torch.where(expected >= 1 / 255, expected, 0.0)
    clear = (expected - 1 / 255).abs() > 1e-6
    off = (drawn.sums[0, ..., 0].cpu() - cut).abs()[clear]
    assert off.max() < 1e-6
    torch.testing.assert_close(drawn.left, 1 - drawn.sums[..., 0])
    # A disc that is cut where it is fainter than 1 / 255 holds 2 pi variance (opacity - 1 / 255).
    whole = 2 * math.pi * variance * (opacity - 1 / 255)
    assert drawn.sums.sum().item() == pytest.approx(whole, rel=0.01)


def test_the_nearer_hides_the_farther_whatever_their_order(device):
    rows = [(8.0, 8.0, 50.0, 0.9, 2.0), (9.0, 8.0, 60.0, 0.8, 1.0), (8.0, 9.0, 70.0, 0.7, 3.0)]
    color = torch.eye(3, device=device)
    expected = splat_raster(discs(*rows, device=device), color, 20, 20, half=True)
    for order in ([1, 0, 2], [2, 1, 0]):
        seen = discs(*(rows[i] for i in order), device=device)
        drawn = splat_raster(seen, color[order], 20, 20, half=True)
        assert all(torch.equal(a, b) for a, b in zip(drawn, expected, strict=True))
    middle = expected.sums[0, 8, 8]
    assert middle[1] > 0.7 and middle[2] < 0.02


def test_of_those_as_deep_the_lower_row_comes_first(device):
    row = (8.0, 8.0, 400.0, 0.9, 2.0)
    drawn = splat_raster(discs(row, row, device=device), torch.eye(2, device=device), 16, 16)
    first, second = drawn.sums[0, 8, 8].tolist()
    assert first == pytest.approx(0.9, abs=2e-3) and second == pytest.approx(0.09, abs=2e-3)


def test_what_would_take_the_last_light_is_left_out(device):
    """0.99 is the most of an opacity: two of them would leave a ten thousandth."""
    rows = [(8.0, 8.0, 1e6, 1.0, float(depth)) for depth in (1, 2, 3)]
    drawn = splat_raster(discs(*rows, device=device), torch.eye(3, device=device), 16, 16)
    assert drawn.sums[0, 8, 8].tolist() == pytest.approx([0.99, 0, 0], abs=1e-6)
    assert drawn.left[0, 8, 8].item() == pytest.approx(0.01, abs=1e-6)


def test_no_gradient_reaches_what_is_cut_or_comes_after_the_end(device):
    rows = [(8.5, 8.5, 1e6, 1.0, 1.0), (8.5, 8.5, 1e6, 1.0, 2.0), (8.5, 8.5, 1e6, 0.5, 3.0)]
    seen = discs(*rows, device=device)
    opacities, color = seen.opacities.requires_grad_(), torch.eye(3, device=device).requires_grad_()
    drawn = splat_raster(seen._replace(opacities=opacities), color, 16, 16)
    to_opacity, to_color = torch.autograd.grad(drawn.sums.sum(), (opacities, color))
    assert to_opacity[0] == 0 and to_opacity[1] == 0
    assert to_color[0].tolist() == pytest.approx([0.99 * 256] * 3, rel=1e-5)
    assert not to_color[1:2].any()


def test_no_number_is_read_before_it_is_written(device, monkeypatch):
    """Of a square that is done there are pairs that nobody looks at."""
    plain = torch.Tensor.new_empty

    def dirty(self, *size):
        return plain(self, *size).fill_(torch.nan)

    rows = [(8.0, 8.0, 1e6, 0.99, 1.0 + 0.1 * k) for k in range(40)]
    seen = discs(*rows, (30.0, 8.0, 9.0, 0.5, 9.0), device=device)
    leaves = [tensor.requires_grad_() for tensor in seen[1:4]]
    color = torch.ones(41, 3, device=device, requires_grad=True)
    monkeypatch.setattr(torch.Tensor, "new_empty", dirty)
    drawn = splat_raster(seen, color, 16, 16)
    grads = torch.autograd.grad(drawn.sums.sum() + drawn.left.sum(), [*leaves, color])
    assert drawn.left.max() < 0.01 and all(grad.isfinite().all() for grad in grads)
    assert grads[0][0].abs().max() > 0 and not any(grad[36:].any() for grad in grads)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 8, 11])
def test_any_number_of_channels(device, channels):
    seen, _ = crowd(device=device, dtype=torch.float32)
    random = torch.Generator().manual_seed(2)
    values = torch.rand(len(seen.depths), channels, generator=random).to(device).requires_grad_()
    drawn = splat_raster(seen, values, 53, 37)
    assert drawn.sums.shape == (1, 37, 53, channels)
    single = [splat_raster(seen, values[:, [c]], 53, 37).sums for c in range(channels)]
    torch.testing.assert_close(drawn.sums, torch.cat(single, 3), rtol=1e-5, atol=1e-6)
    whole = torch.autograd.grad(drawn.sums.square().sum(), [*seen[1:4], values])
    parts = torch.autograd.grad(sum(s.square().sum() for s in single), [*seen[1:4], values])
    for got, want in zip(whole, parts, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4 * float(want.abs().max()))


@pytest.mark.parametrize("channels", [3, 11])
def test_what_light_is_left_shows_the_background(device, channels):
    results = []
    random = torch.Generator().manual_seed(3)
    numbers = torch.rand(200, channels, generator=random, dtype=torch.float64)
    for dtype in (torch.float32, torch.float64):
        seen, _ = crowd(device=device, dtype=dtype)
        color = numbers[: len(seen.depths)].to(device, dtype).requires_grad_()
        behind = numbers[-1].to(device, dtype).requires_grad_()
        drawn = splat_raster(seen, color, 53, 37, background=behind)
        plain = splat_raster(seen, color, 53, 37)
        shown = plain.sums + plain.left[..., None] * behind
        torch.testing.assert_close(drawn.sums, shown, rtol=0, atol=1e-6)
        assert torch.equal(drawn.left, plain.left)
        results.append(torch.autograd.grad(loss_of(drawn), [*seen[1:4], color, behind]))
    for got, want in zip(*results, strict=True):
        bound = 1e-4 * float(want.abs().max())
        torch.testing.assert_close(got.double(), want, rtol=1e-3, atol=bound)


def test_channels_of_ones_are_what_is_not_left(device):
    seen, _ = crowd(device=device, dtype=torch.float32)
    drawn = splat_raster(seen, torch.ones(len(seen.depths), 1, device=device), 53, 37)
    torch.testing.assert_close(drawn.sums[..., 0], 1 - drawn.left, rtol=0, atol=2e-6)


def test_half_of_the_light_is_gone_at_the_depth_that_is_said(device):
    rows = [(8.0, 8.0, 1e6, 0.3, 1.0), (8.0, 8.0, 1e6, 0.4, 2.0), (8.0, 8.0, 1e6, 0.9, 4.0)]
    ones = torch.ones(3, 1, device=device)
    drawn = splat_raster(discs(*rows, device=device), ones, 20, 16, half=True)
    assert set(drawn.half.reshape(-1).tolist()) == {2.0}
    faint = discs((8.0, 8.0, 1.0, 0.3, 1.0), device=device)
    nothing = splat_raster(faint, ones[:1], 40, 16, half=True)
    assert nothing.half[0, 8, 8] == 1 and nothing.half[0, 8, 35] == 0


def test_views_are_drawn_side_by_side(device):
    one, color = crowd(seed=1, device=device, dtype=torch.float32)
    other, tint = crowd(seed=2, device=device, dtype=torch.float32)
    both = Projected(*(torch.cat(pair) for pair in zip(one, other, strict=True)))
    view = torch.tensor([0] * len(one.depths) + [1] * len(other.depths), device=device)
    drawn = splat_raster(both, torch.cat([color, tint]), 53, 37, view, 2, half=True)
    for number, (seen, own) in enumerate([(one, color), (other, tint)]):
        single = splat_raster(seen, own, 53, 37, half=True)
        assert all(torch.equal(a[number], b[0]) for a, b in zip(drawn, single, strict=True))


def test_the_spread_of_the_pull_is_the_sum_of_its_size(device):
    """Two pixels that pull a disc apart cancel in its gradient; not in its spread."""
    seen, color = crowd(device=device, dtype=torch.float32)
    spread = torch.zeros_like(seen.means2d).requires_grad_()
    drawn = splat_raster(seen, color, 53, 37, spread=spread)
    signed, size = torch.autograd.grad(loss_of(drawn), (seen.means2d, spread))
    assert bool((size >= signed.abs() * (1 - 1e-4) - 1e-6).all())
    disc = discs((8.0, 8.0, 9.0, 0.5, 1.0), device=device)
    means2d, spread = (t.requires_grad_() for t in (disc.means2d, torch.zeros_like(disc.means2d)))
    drawn = splat_raster(
        disc._replace(means2d=means2d), torch.ones(1, 1, device=device), 16, 16, spread=spread
    )
    signed, size = torch.autograd.grad(drawn.sums.sum(), (means2d, spread))
    assert signed.abs().max() < 1e-4 * size.max()
    # Of a Gaussian of variance v, sum |d/dx| is 2 sqrt(2 pi v) by the integral along a row.
    assert size[0, 0].item() == pytest.approx(0.5 * 2 * math.sqrt(2 * math.pi * 9.0), rel=0.05)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (16, 16), (17, 31), (64, 5)])
def test_images_of_any_size_are_parts_of_a_larger_one(device, width, height):
    seen, color = crowd(device=device, dtype=torch.float32)
    sizes = (width, height), (64, 48)
    small, large = (splat_raster(seen, color, *size, half=True) for size in sizes)
    for one, other in zip(small, large, strict=True):
        assert torch.equal(one, other[:, :height, :width])


def test_nothing_leaves_all_the_light(device):
    seen = Projected(*(column[:0] for column in crowd(device=device, dtype=torch.float32)[0]))
    color = torch.zeros(0, 3, device=device, requires_grad=True)
    drawn = splat_raster(seen, color, 20, 17)
    assert not drawn.sums.any() and bool((drawn.left == 1).all())
    (grad,) = torch.autograd.grad(drawn.sums.sum(), color)
    assert grad.shape == (0, 3)


def test_many_in_one_place_are_drawn(device):
    rows = [(8.5, 8.5, 4.0, 0.01, 1.0)] * 5000
    color = torch.ones(5000, 1, device=device)
    drawn = splat_raster(discs(*rows, device=device), color, 16, 16)
    left, count = 1.0, 0
    while left * 0.99 > 1e-4:
        left, count = left * 0.99, count + 1
    assert drawn.left[0, 8, 8].item() == pytest.approx(left, rel=1e-3)
