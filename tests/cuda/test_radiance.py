import inspect

import pytest
import torch

from polyfield.cuda.composite import composite, visible_samples
from polyfield.cuda.errors import InputError
from polyfield.cuda.hash_grid import HashGridLayout, hash_grid
from polyfield.cuda.march import Samples
from polyfield.cuda.mlp import initial_weights, mlp
from polyfield.cuda.radiance import (
    NO_EDGE,
    RadianceShape,
    radiance_gradients,
    radiance_gradients_reference,
    radiance_reference,
    radiance_view,
)

pytestmark = pytest.mark.kernels

SMALL = RadianceShape(HashGridLayout(3, 4, 4, 9, 4, 32), 32, 16, 16)
SHAPES = {
    "small": SMALL,
    "one feature": RadianceShape(HashGridLayout(3, 3, 1, 7, 3, 9), 16, 48, 4),
    "two features, smooth": RadianceShape(HashGridLayout(3, 8, 2, 8, 4, 40, True), 64, 64, 9),
    "eight features, wide": RadianceShape(HashGridLayout(3, 3, 8, 8, 4, 20), 128, 112, 1),
}
# Empty rays, rays longer than a wave, more rays than a tile.
COUNTS = [0, 3, 150, 1, 0, 9, 17, 2, 40, 5, 0, 0, 66, 7, 8, 1, 30, 0, 4, 12]


def scene(shape, counts, thickness=1.0, seed=0, dtype=torch.float32):
    """Samples, harmonics, background, target and the field, in the order of the functions."""
    random = torch.Generator().manual_seed(seed)
    draw = lambda *size: torch.rand(*size, generator=random).to(dtype)  # noqa: E731
    counts = torch.tensor(counts, dtype=torch.int64)
    n, rays = int(counts.sum()), len(counts)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]).int()
    ray = torch.repeat_interleave(torch.arange(rays), counts).int()
    samples = Samples(offsets, draw(n), thickness * (0.05 + 0.1 * draw(n)), draw(n, 3), ray)
    table = 4 * draw(shape.layout.entries, shape.layout.features) - 2
    weights = [
        initial_weights(w, random).to(dtype) for w in (shape.density_widths, shape.color_widths)
    ]
    harmonics = 2 * draw(rays, shape.harmonics) - 1
    return [samples, harmonics, draw(rays, 3), draw(rays, 3), table, *weights]


def on(device, values):
    samples, *others = values
    moved = Samples(*[t.to(device) for t in samples[:5]])
    return [moved, *[value.to(device) for value in others]]


def without_target(values):
    return [*values[:3], *values[4:]]


def close(got, expected, tolerance=2e-5):
    assert got.shape == expected.shape and expected.numel()
    off = (got.cpu().double() - expected.double()).abs().max().item()
    assert off <= tolerance * expected.abs().max().item()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_views_equal_the_reference(device, shape):
    values = scene(shape, COUNTS)
    expected = radiance_reference(*without_target(values), shape)
    got = radiance_view(*on(device, without_target(values)), shape)
    for g, e in zip(got[:3], expected[:3], strict=True):
        close(g, e)
    assert torch.equal(got.visible.cpu(), expected.visible)


def test_rays_of_many_tiles_equal_the_reference(device):
    values = scene(SMALL, [0, 1, 2, 3] * 75)  # 300: two tiles a slice, and a part of one
    expected, wanted = radiance_gradients_reference(*values, SMALL)
    view, got = radiance_gradients(*on(device, values), SMALL)
    close(view.color, expected.color)
    close(radiance_view(*on(device, without_target(values)), SMALL).color, expected.color)
    close(got.encoded[got.kept], wanted.encoded[wanted.kept], 1e-4)
    close(got.color_weights, wanted.color_weights, 1e-4)


def test_rays_that_end_early_leave_the_gradients_of_the_others_alone(device):
    samples, *rest = scene(SMALL, [60] * 16)
    opaque = samples.ray % 2 == 0  # after a few samples, among rays that light passes whole
    samples = samples._replace(length=samples.length.where(~opaque, 30 * samples.length))
    values = [samples, *rest]
    view, expected = radiance_gradients_reference(*values, SMALL)
    assert 0 < view.visible[::2].max() < 10 and (view.visible[1::2] == 60).any()
    _, got = radiance_gradients(*on(device, values), SMALL)
    assert torch.equal(got.kept.cpu(), expected.kept)
    close(got.encoded[got.kept], expected.encoded[expected.kept], 1e-4)
    close(got.density_weights, expected.density_weights, 1e-4)


@pytest.mark.parametrize("thickness", [1.0, 1e-2, 1e-4])
def test_depth_is_the_mean_distance_however_thin_the_ray(device, thickness):
    values = on(device, without_target(scene(SMALL, [1] * 20, thickness)))
    view = radiance_view(*values, SMALL)
    assert (view.opacity > 1e-6).all()
    torch.testing.assert_close(view.depth, values[0].distance, rtol=1e-4, atol=0)


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_gradient_of_an_extreme_density_goes_by_its_clamped_exponential(device, sign):
    samples, *rest = scene(SMALL, COUNTS)
    density_weights = rest[4]
    first = density_weights[SMALL.layout.width * SMALL.density_hidden :][: SMALL.density_hidden]
    first.abs_()  # times hidden numbers that are not negative: the logarithm of the density

    def logarithm():
        encoded = hash_grid(samples.position, rest[3], SMALL.layout)
        return mlp(encoded, density_weights, SMALL.density_widths)[:, 0]

    first.mul_(sign * 20 / logarithm().mean())
    # Optical depths that let light through, so that the gradient is not lost behind them.
    samples = samples._replace(length=0.1 * torch.exp(-logarithm()))
    assert 0 < (logarithm().abs() > 15).sum() < len(samples.length)
    values = [samples, *rest]
    _, expected = radiance_gradients_reference(*values, SMALL)
    _, got = radiance_gradients(*on(device, values), SMALL)
    assert torch.equal(got.kept.cpu(), expected.kept)
    close(got.encoded[got.kept], expected.encoded[expected.kept], 1e-4)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("edge, rays", [(NO_EDGE, 1), (0.1, 1), (0.1, 2), (NO_EDGE, 4)])
def test_loss_and_gradients_equal_the_reference(device, shape, edge, rays):
    values = scene(shape, COUNTS)
    values[3] = values[3][::rays].repeat_interleave(rays, 0)  # a pixel's rays share its colour
    options = {"huber_edge": edge, "rays_per_pixel": rays}
    _, expected = radiance_gradients_reference(*values, shape, **options)
    view, got = radiance_gradients(*on(device, values), shape, **options)
    close(got.loss, expected.loss)
    assert torch.equal(got.kept.cpu(), expected.kept)
    close(got.encoded[got.kept], expected.encoded[expected.kept], 1e-4)
    assert not expected.encoded[~expected.kept].any()
    close(got.density_weights, expected.density_weights, 1e-4)
    close(got.color_weights, expected.color_weights, 1e-4)
    close(view.color, radiance_view(*on(device, without_target(values)), shape).color.cpu(), 1e-6)


def test_samples_near_the_camera_count_by_the_square_of_their_distance(device):
    values = scene(SMALL, COUNTS)
    samples = values[0]
    fade = float(samples.distance.median())
    _, plain = radiance_gradients(*on(device, values), SMALL)
    _, expected = radiance_gradients_reference(*values, SMALL, fade=fade)
    view, got = radiance_gradients(*on(device, values), SMALL, fade=fade)
    share = (samples.distance / fade).square().clamp_max(1)[:, None]
    kept = got.kept.cpu()
    assert (share[kept] < 0.9).any() and (share[kept] == 1).any()
    close(got.encoded[got.kept], (share * plain.encoded.cpu())[kept], 1e-4)
    close(got.loss, plain.loss, 1e-7)
    close(view.color, radiance_view(*on(device, without_target(values)), SMALL).color.cpu(), 1e-6)
    for name in ("density_weights", "color_weights"):
        close(getattr(got, name), getattr(expected, name), 1e-4)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("fade", [0.0, 0.5])
def test_the_distortion_is_part_of_the_loss_and_of_its_gradients(device, shape, fade):
    values = scene(shape, COUNTS)
    _, plain = radiance_gradients_reference(*values, shape, fade=fade)
    options = {"fade": fade, "distortion_weight": 30.0}
    _, expected = radiance_gradients_reference(*values, shape, **options)
    assert expected.loss > 1.1 * plain.loss
    assert (expected.density_weights - plain.density_weights).abs().max() > 1e-3
    view, got = radiance_gradients(*on(device, values), shape, **options)
    close(got.loss, expected.loss)
    close(got.encoded[got.kept], expected.encoded[expected.kept], 1e-4)
    close(got.density_weights, expected.density_weights, 1e-4)
    close(got.color_weights, expected.color_weights, 1e-4)
    close(view.color, radiance_view(*on(device, without_target(values)), shape).color.cpu(), 1e-6)


def test_the_gradient_to_the_encoding_is_that_of_the_separate_operations(device):
    values = scene(SMALL, COUNTS)
    samples, harmonics, background, target, table, density_weights, color_weights = values
    encoded = hash_grid(samples.position, table, SMALL.layout).detach().requires_grad_()
    features = mlp(encoded, density_weights, SMALL.density_widths)
    density = features[:, 0].exp()
    kept = visible_samples(density, samples.length, samples.ray_offsets)
    ray = samples.ray[kept].long()
    offsets = torch.cat([torch.zeros(1), ray.bincount(minlength=len(COUNTS)).cumsum(0)]).int()
    both = torch.cat([features[kept], harmonics[ray]], 1)
    color = mlp(both, color_weights, SMALL.color_widths, "relu", "sigmoid")
    out = composite(density[kept], samples.length[kept], color, offsets)
    seen = out.values + (1 - out.opacity)[:, None] * background
    (seen - target).square().mean().backward()
    _, got = radiance_gradients(*on(device, values), SMALL)
    assert 0 < kept.sum() < len(kept)
    close(got.encoded[got.kept], encoded.grad[kept], 1e-4)


def test_the_reference_gradient_is_the_slope_of_its_loss():
    shape = RadianceShape(HashGridLayout(3, 2, 2, 7, 3, 8), 16, 16, 4)
    values = scene(shape, [3, 0, 5], dtype=torch.float64)
    _, gradients = radiance_gradients_reference(*values, shape, stop=1e-12)
    for place, gradient in ((5, gradients.density_weights), (6, gradients.color_weights)):
        step = 1e-6 * torch.randn(len(gradient), dtype=torch.float64)
        losses = []
        for sign in (1, -1):
            moved = [*values[:place], values[place] + sign * step, *values[place + 1 :]]
            losses.append(radiance_gradients_reference(*moved, shape, stop=1e-12)[1].loss)
        torch.testing.assert_close((losses[0] - losses[1]) / 2, gradient @ step, rtol=1e-4, atol=0)


def test_an_opaque_sample_hides_what_lies_behind(device):
    values = on(device, scene(SMALL, [40] * 20, thickness=20.0))
    view, got = radiance_gradients(*values, SMALL)
    assert (view.visible < 40).any()
    changed = Samples(*[t.clone() for t in values[0][:5]])
    changed.position[~got.kept] = 0.5
    again, _ = radiance_gradients(changed, *values[1:], SMALL)
    assert torch.equal(again.color, view.color) and torch.equal(again.visible, view.visible)


def test_rays_without_samples_show_the_background(device):
    values = on(device, scene(SMALL, [0] * 19))
    view, got = radiance_gradients(*values, SMALL)
    assert torch.equal(view.color, values[2]) and not view.opacity.any() and not view.depth.any()
    assert not got.density_weights.any() and not got.color_weights.any()


def test_no_ray_is_no_work(device):
    values = on(device, scene(SMALL, []))
    assert radiance_view(*without_target(values), SMALL).color.shape == (0, 3)


def test_threads_change_no_bit():
    values, found = scene(SMALL, COUNTS * 40), []
    threads = torch.get_num_threads()
    for count in (1, 2):
        torch.set_num_threads(count)
        view, got = radiance_gradients(*values, SMALL)
        found.append(torch.cat([view.color.flatten(), got.density_weights, got.color_weights]))
    torch.set_num_threads(threads)
    assert torch.equal(*found)


def test_what_does_not_fit_is_refused_by_name():
    values = scene(SMALL, [2, 3])
    with pytest.raises(InputError, match="color_weights"):
        radiance_gradients(*values[:6], values[6][1:], SMALL)
    with pytest.raises(InputError, match="target"):
        inspect.unwrap(radiance_gradients)(*values[:3], values[3][:1], *values[4:], SMALL)
    with pytest.raises(InputError, match="whole pixels"):
        radiance_gradients(*scene(SMALL, [2, 3, 1]), SMALL, rays_per_pixel=2)
    with pytest.raises(InputError, match="color_hidden"):
        RadianceShape(SMALL.layout, color_hidden=24)
    with pytest.raises(InputError, match="2 dimensions"):
        RadianceShape(HashGridLayout(2))
