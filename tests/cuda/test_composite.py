import inspect

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polyfield.cuda.composite import composite, composite_reference, visible_samples
from polyfield.cuda.errors import InputError

pytestmark = pytest.mark.kernels

packings = st.lists(st.integers(0, 9), min_size=1, max_size=80)  # samples of each ray
few = settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def offsets_of(counts):
    return torch.tensor([0, *counts]).cumsum(0).to(torch.int32)


def scene(counts, channels=3, dtype=torch.float32):
    random, n = torch.Generator().manual_seed(0), sum(counts)
    density = 4 * torch.rand(n, generator=random, dtype=dtype)
    length = torch.rand(n, generator=random, dtype=dtype)
    return density, length, torch.rand(n, channels, generator=random, dtype=dtype)


def one_ray(density, length, values):
    """The definition, sample by sample."""
    light, transmittance = torch.zeros(values.shape[1], dtype=torch.float64), 1.0
    for d, s, v in zip(density.double(), length.double(), values.double(), strict=True):
        alpha = 1 - torch.exp(-d * s)
        light, transmittance = light + transmittance * alpha * v, transmittance * (1 - alpha)
    return light


def test_published_values_of_four_samples(device):
    density = torch.tensor([1.0, 3, 0, 8], device=device, requires_grad=True)
    values = torch.tensor([[0.2], [0.9], [0.5], [0.1]], device=device)
    offsets = torch.tensor([0, 4], dtype=torch.int32, device=device)
    out = composite(density, torch.full_like(density, 0.1).detach(), values, offsets)
    color = out.values[0, 0] + (1 - out.opacity[0])
    color.backward()
    near = dict(atol=1e-6, rtol=0)
    weights = torch.tensor([0.095163, 0.234517, 0, 0.369126])
    torch.testing.assert_close(out.weights.detach().cpu(), weights, **near)
    torch.testing.assert_close(color.detach().cpu(), torch.tensor(0.568205), **near)
    slope = torch.tensor([-0.036820, 0.026518, -0.000295, -0.027107])
    torch.testing.assert_close(density.grad.cpu(), slope, **near)


@few
@given(packings, st.sampled_from([1, 2, 3, 4, 7]))
def test_each_ray_is_the_definition_and_sees_no_other(device, counts, channels):
    density, length, values = scene(counts, channels)
    offsets = offsets_of(counts)
    out = composite(density.to(device), length.to(device), values.to(device), offsets.to(device))
    for r, (a, b) in enumerate(zip(offsets[:-1], offsets[1:], strict=True)):
        expected = one_ray(density[a:b], length[a:b], values[a:b])
        torch.testing.assert_close(out.values[r].cpu().double(), expected, atol=2e-6, rtol=1e-5)


@few
@given(packings)
def test_weights_and_what_is_left_sum_to_one(device, counts):
    density, length, values = (x.to(device) for x in scene(counts))
    density[::5] = 1e6
    out = composite(density, length, values, offsets_of(counts).to(device))
    ray = torch.repeat_interleave(torch.tensor(counts)).to(device)
    total = torch.zeros(len(counts), device=device).index_add(0, ray, out.weights)
    torch.testing.assert_close(total, out.opacity, atol=1e-6, rtol=0)


@pytest.mark.parametrize("channels", [1, 3, 4, 6])
@pytest.mark.parametrize("through", ["values", "opacity", "weights", "all"])
def test_gradients_equal_the_reference_by_way_of_each_result(device, channels, through):
    counts = [3, 0, 5, 1, *[4] * 60, 0]
    random = torch.Generator().manual_seed(1)
    n, r = sum(counts), len(counts)
    scale = [torch.randn(s, generator=random) for s in ((r, channels), (r,), (n,))]
    names = ["values", "opacity", "weights"]

    def slopes(function, place, dtype):
        inputs = [x.to(place, dtype).requires_grad_() for x in scene(counts, channels)]
        out = function(*inputs, offsets_of(counts).to(place))
        used = names if through == "all" else [through]
        losses = (
            (getattr(out, k) * s.to(place)).sum()
            for k, s in zip(names, scale, strict=True)
            if k in used
        )
        sum(losses).backward()
        return [torch.zeros_like(x) if x.grad is None else x.grad for x in inputs]

    expected = slopes(composite_reference, "cpu", torch.float64)
    for got, want in zip(slopes(composite, device, torch.float32), expected, strict=True):
        torch.testing.assert_close(got.cpu().double(), want, atol=3e-6, rtol=1e-5)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_lengths_that_ask_for_no_gradient_change_no_other(device, channels):
    counts = [3, 0, 40, 1]
    found = []
    for asked in (True, False):
        density, length, values = (x.to(device).requires_grad_() for x in scene(counts, channels))
        length.requires_grad_(asked)
        out = composite(density, length, values, offsets_of(counts).to(device))
        (out.values.sum() + out.weights.square().sum()).backward()
        found.append((density.grad, values.grad))
        assert (length.grad is not None) == asked
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_gradients_behind_an_opaque_first_sample_and_in_the_void(device):
    density = torch.tensor([1e6, 2.0, 0.0, 0.0], device=device, requires_grad=True)
    offsets = torch.tensor([0, 2, 4], dtype=torch.int32, device=device)
    one = torch.ones(4, device=device)
    composite(density, one, one[:, None], offsets).opacity.sum().backward()
    expected = torch.tensor([0.0, 0.0, 1.0, 1.0])
    torch.testing.assert_close(density.grad.cpu(), expected, atol=1e-6, rtol=1e-5)


def test_reference_gradient_matches_finite_differences():
    counts = [3, 0, 5]
    inputs = [x.requires_grad_() for x in scene(counts, dtype=torch.float64)]

    def joined(*inputs):
        out = composite_reference(*inputs, offsets_of(counts))
        return torch.cat([x.flatten() for x in out])

    assert torch.autograd.gradcheck(joined, inputs)


def test_thin_and_late_rays_keep_their_digits(device):
    counts = [1 << 14, 1 << 10, 1]
    n = torch.tensor(counts)
    depth = torch.tensor([8.0, 0.01, 1e-6]).repeat_interleave(n).to(device)
    one = torch.ones_like(depth)
    out = composite(depth, one, one[:, None], offsets_of(counts).to(device))
    expected = -torch.expm1(-torch.tensor([10.24, 1e-6]))
    torch.testing.assert_close(out.opacity[1:].cpu(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(out.weights[-1:].cpu(), expected[1:], rtol=1e-6, atol=0)


@pytest.mark.parametrize("depth", [1e-4, 0.1, 0.45, 0.499, 0.501, 0.6, 3.0])
def test_weight_of_one_sample_has_float_precision(device, depth):
    sample = torch.tensor([depth], device=device)
    one = torch.ones_like(sample)
    got = composite(sample, one, one[:, None], torch.tensor([0, 1], dtype=torch.int32).to(device))
    expected = -torch.expm1(-torch.tensor([depth], dtype=torch.float32).double())
    torch.testing.assert_close(got.weights.cpu().double(), expected, rtol=4e-7, atol=0)


@few
@given(packings, st.sampled_from([1e-4, 0.01, 0.5, 1.0]))
def test_a_sample_is_visible_while_enough_light_reaches_it(device, counts, stop):
    density, length, _ = scene(counts)
    offsets = offsets_of(counts)
    kept = visible_samples(density.to(device), length.to(device), offsets.to(device), stop)
    expected = []
    for a, b in zip(offsets[:-1], offsets[1:], strict=True):
        depth = (density[a:b].double() * length[a:b].double()).cumsum(0)
        before = torch.cat([torch.zeros(1), depth])[: b - a]
        expected.append(torch.exp(-before) >= stop * (1 - 1e-6))
    assert torch.equal(kept.cpu(), torch.cat(expected))


def test_one_and_two_threads_give_the_same_bits():
    counts = [7, 0, 31] * 200
    threads = torch.get_num_threads()

    def everything():
        inputs = [x.requires_grad_() for x in scene(counts)]
        out = composite(*inputs, offsets_of(counts))
        (out.values.sum() + out.opacity.square().sum() + out.weights.square().sum()).backward()
        return [*out, *(x.grad for x in inputs)]

    try:
        torch.set_num_threads(1)
        alone = everything()
        torch.set_num_threads(2)
        assert all(torch.equal(a, b) for a, b in zip(alone, everything(), strict=True))
    finally:
        torch.set_num_threads(threads)


def test_no_rays_and_rays_without_samples(device):
    none = torch.zeros(0, device=device)
    offsets = torch.zeros(6, dtype=torch.int32, device=device)
    out = composite(none, none, torch.zeros(0, 2, device=device), offsets)
    assert torch.equal(out.values.cpu(), torch.zeros(5, 2))
    assert torch.equal(out.opacity.cpu(), torch.zeros(5))
    assert composite(none, none, torch.zeros(0, 2, device=device), offsets[:1]).values.shape == (
        0,
        2,
    )


def test_input_of_other_sizes_is_refused():
    x, offsets = torch.ones(3), torch.tensor([0, 3], dtype=torch.int32)
    bare = inspect.unwrap(composite)  # without the shape checks of the tests
    with pytest.raises(InputError, match="length: 2 samples; expected 3"):
        bare(x, x[:2], x[:, None], offsets)
    with pytest.raises(InputError, match="values: 2 rows; expected 3"):
        bare(x, x, x[:2, None], offsets)
    with pytest.raises(InputError, match="ray_offsets: empty"):
        bare(x, x, x[:, None], offsets[:0])
    with pytest.raises(InputError, match="stop: 0"):
        visible_samples(x, x, offsets, 0.0)


def test_registration_is_sound():
    inputs = (*scene([3, 0, 5]), offsets_of([3, 0, 5]))
    torch.library.opcheck(torch.ops.polyfield.composite.default, inputs)
    weights = scene([3, 0, 5])[0]
    backward = torch.ops.polyfield.composite_backward.default
    of_rays = torch.ones(3, 3), None, None
    for of_length in (True, False):
        torch.library.opcheck(backward, (*inputs, weights, weights, *of_rays, of_length))
