"""From coefficients to pixels: closed forms, limits, the definition sample by sample, gradients."""

import inspect
import math

import pytest
import torch

from polyfield.cuda.errors import InputError
from polyfield.cuda.ray_profile import DENSEST, STOP, ray_profile, ray_profile_reference

pytestmark = pytest.mark.kernels
DENSE = 7.3  # of the spread of log-densities: rays end early


def rays(count, coefficients, samples, spread=1.5, seed=0):
    """Coefficients, a basis of cosines, places and lengths that differ; in float64."""
    random = torch.Generator().manual_seed(seed)
    made = torch.randn(count, coefficients, 4, generator=random, dtype=torch.float64)
    made[..., 0] *= spread
    place = torch.rand(samples, generator=random, dtype=torch.float64).sort().values
    basis = torch.cos(math.pi * torch.arange(coefficients) * place[:, None])
    return made, basis, place, (1.5 * torch.rand_like(place) + 0.1) / samples


def on(device, tensors):
    return [tensor.float().to(device) for tensor in tensors]


def one_ray(coefficients, basis, place, length, stop=STOP):
    """The definition, sample by sample: colour, opacity and middle."""
    light, total = 1.0, torch.zeros(5, dtype=torch.float64)
    weights = []
    for row, u, part in zip(basis, place, length, strict=True):
        s, *logits = (row @ coefficients).tolist()
        depth = math.exp(min(s, DENSEST)) * float(part)
        weight = light * (1 - math.exp(-depth)) if light >= stop else 0.0
        color = [1 / (1 + math.exp(-logit)) for logit in logits]
        total += weight * torch.tensor([*color, 1, float(u)], dtype=torch.float64)
        light *= math.exp(-depth)
        weights.append(weight)
    return total, torch.tensor(weights, dtype=torch.float64)


@pytest.mark.parametrize("spread", [1.5, DENSE])
@pytest.mark.parametrize(
    ("count", "coefficients", "samples"), [(70, 16, 9), (33, 4, 40), (1, 32, 1)]
)
def test_it_is_the_definition(device, count, coefficients, samples, spread):
    inputs = rays(count, coefficients, samples, spread)
    found = ray_profile(*on(device, inputs), weights=True)
    exact = ray_profile_reference(*inputs, weights=True)
    for ray in range(count):
        expected, weights = one_ray(inputs[0][ray], *inputs[1:])
        for out, atol in ((exact, 1e-9), (found, 2e-6)):
            sums = torch.cat([out.color[ray], out.opacity[ray, None], out.middle[ray, None]])
            torch.testing.assert_close(sums.cpu().double(), expected, atol=atol, rtol=0)
            torch.testing.assert_close(out.weights[ray].cpu().double(), weights, atol=atol, rtol=0)


def gradients(inputs, pulls, operation, weights):
    leaf = inputs[0].clone().requires_grad_()
    found = operation(leaf, *inputs[1:], weights=weights)
    loss = sum((a * b).sum() for a, b in zip(found, pulls, strict=True) if a is not None)
    return torch.autograd.grad(loss, leaf)[0].cpu().double()


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("spread", [1.5, DENSE])
def test_its_gradient_is_the_reference_s(device, spread, weights):
    inputs = rays(70, 12, 24, spread)
    random = torch.Generator().manual_seed(1)
    shapes = (70, 3), (70,), (70,), (70, 24)
    pulls = [torch.randn(*shape, generator=random, dtype=torch.float64) for shape in shapes]
    expected = gradients(inputs, pulls, ray_profile_reference, weights)
    found = gradients(on(device, inputs), on(device, pulls), ray_profile, weights)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_the_reference_s_gradient_is_that_of_finite_differences():
    coefficients, *fixed = rays(5, 4, 6)
    leaf = coefficients.requires_grad_()

    def everything(c):
        found = ray_profile_reference(c, *fixed, weights=True)
        return torch.cat([part.reshape(-1) for part in found])

    assert torch.autograd.gradcheck(everything, leaf)


def test_no_gradient_comes_from_what_an_opaque_sample_hides(device):
    """Nor does rounding come back to it, times its density."""
    coefficients, basis, place, length = on(device, rays(70, 4, 8))
    basis = torch.eye(8, 4, device=device)
    coefficients[:, :, 0] = torch.tensor([0.0, 14.0, 3.0, 3.0])
    leaf = coefficients.requires_grad_()
    found = ray_profile(leaf, basis, place, length, weights=True)
    assert not found.weights[:, 2:].any() and (found.weights[:, 1] > 0).all()
    (grad,) = torch.autograd.grad(found.color.sum() + found.middle.sum(), leaf)
    assert not grad[:, 2:].any() and grad[:, 1, 0].abs().max() < 1e-20
    assert grad[:, 0].all() and grad[:, 1, 1:].all()


@pytest.mark.parametrize("samples", [1, 2, 7, 64])
def test_constant_matter_obeys_beer_and_lambert(device, samples):
    coefficients = torch.zeros(3, 8, 4, device=device)
    density, logits = torch.tensor([0.3, 1.0, 5.0]), torch.tensor([-1.0, 0.5, 3.0])
    coefficients[:, 0] = torch.cat([density.log()[:, None], logits.expand(3, 3)], 1)
    place = (torch.arange(samples, device=device) + 0.5) / samples
    basis = torch.cos(math.pi * torch.arange(8, device=device) * place[:, None])
    found = ray_profile(coefficients, basis, place, torch.full_like(place, 1 / samples))
    opacity = 1 - torch.exp(-density)
    torch.testing.assert_close(found.opacity.cpu(), opacity, atol=1e-6, rtol=0)
    expected = opacity[:, None] * logits.sigmoid()
    torch.testing.assert_close(found.color.cpu(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("samples", "published"), [(16, 0.5308), (32, 0.5614), (64, 0.5650), (128, 0.5658)]
)
def test_a_bump_is_the_brighter_the_more_samples_see_it(device, samples, published):
    """Density 60 exp(-((u - 0.4) / 0.03)^2 / 2), colour 0.5 + 0.4 sin 8u; by the left ends."""
    place = torch.linspace(0, 1, samples, dtype=torch.float64)[:-1]
    color = 0.5 + 0.4 * torch.sin(8 * place)
    one = torch.ones_like(place)
    basis = torch.stack([one, (place - 0.4).square(), color.logit(), 0 * one], 1)
    series = torch.zeros(1, 4, 4, dtype=torch.float64)
    series[0, 0, 0], series[0, 1, 0], series[0, 2, 1:] = math.log(60), -0.5 / 0.03**2, 1
    found = ray_profile(*on(device, (series, basis, place, one / (samples - 1))), stop=1e-9)
    torch.testing.assert_close(found.color.cpu(), torch.full((1, 3), published), atol=6e-5, rtol=0)


def test_no_density_is_too_small_to_learn(device):
    coefficients = torch.zeros(40, 4, 4, device=device)
    coefficients[:, 0, 0] = -20
    place = (torch.arange(8, device=device) + 0.5) / 8
    basis = torch.cos(math.pi * torch.arange(4, device=device) * place[:, None])
    leaf = coefficients.requires_grad_()
    found = ray_profile(leaf, basis, place, torch.full_like(place, 1 / 8))
    (grad,) = torch.autograd.grad(found.opacity.sum(), leaf)
    torch.testing.assert_close(grad[:, 0, 0].cpu(), torch.full((40,), math.exp(-20.0)))


def test_without_weights_the_sums_are_the_same(device):
    inputs = on(device, rays(40, 8, 12, DENSE))
    plain, told = ray_profile(*inputs), ray_profile(*inputs, weights=True)
    assert plain.weights is None
    for one, other in zip(plain[:3], told[:3], strict=True):
        assert torch.equal(one, other)
    torch.testing.assert_close(told.weights.sum(1), told.opacity)


def test_a_ray_sees_no_other(device):
    inputs = on(device, rays(70, 8, 12, DENSE))
    whole = ray_profile(*inputs, weights=True)
    few = ray_profile(inputs[0][31:50], *inputs[1:], weights=True)
    for one, other in zip(whole, few, strict=True):
        assert torch.equal(one[31:50], other)


def test_no_rays_are_no_pixels(device):
    inputs = on(device, rays(0, 8, 12))
    assert ray_profile(*inputs).color.shape == (0, 3)


@pytest.mark.parametrize("wrong", ["columns", "many", "coefficients", "place", "length", "stop"])
def test_what_does_not_fit_is_refused(device, wrong):
    sizes = {"columns": 6, "many": 36}.get(wrong, 8)
    coefficients, basis, place, length = on(device, rays(3, sizes, 5))
    coefficients = coefficients[:, :4] if wrong == "coefficients" else coefficients
    place = place[:4] if wrong == "place" else place
    length = length[:4] if wrong == "length" else length
    bare = inspect.unwrap(ray_profile)  # without the shape checks of the tests
    with pytest.raises(InputError, match="ray_profile"):
        stop = 0.0 if wrong == "stop" else STOP
        bare(coefficients, basis, place, length, stop=stop)
