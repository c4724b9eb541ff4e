"""Gaussians moved about: against plain torch, in distribution, and never the solid ones."""

import math

import pytest
import torch
from splat_scenes import gaussians

from polyfield.cuda.splat_shake import splat_shake_, splat_shake_reference

pytestmark = pytest.mark.kernels


def crowd(n, opacity=0.005, seed=0):
    numbers = list(gaussians(n, seed))
    numbers[3] = torch.full_like(numbers[3], math.log(opacity / (1 - opacity)))
    return numbers


def shaken(numbers, device, reach, seed=1, stream=0):
    means, *others = (t.float().to(device) for t in numbers[:4])
    before = means.clone()
    splat_shake_(means, *others, reach, seed, stream)
    return (means - before).cpu().double()


@pytest.mark.parametrize("count", [1, 63, 64, 200])
def test_each_moves_as_the_specification_says(device, count):
    numbers = crowd(count)
    numbers[3] = numbers[3] + torch.linspace(-3, 2, count, dtype=numbers[3].dtype)
    numbers[0] = torch.zeros_like(numbers[0])
    found = shaken(numbers, device, 3.0, seed=2**32 - 5, stream=7)
    expected = splat_shake_reference(*numbers[1:4], 3.0, 2**32 - 5, 7)
    assert expected.abs().max() > 0
    bound = 1e-5 * float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=2e-5, atol=bound)


def test_noise_is_normal_and_lies_along_the_axes(device):
    """The step is reach S n / 2 at an opacity of 0.005, S the covariance: so is its spread."""
    n, half = 20_000, math.sqrt(0.5)
    sizes = torch.tensor([0.3, 0.1, 0.02])
    numbers = [
        torch.zeros(n, 3),
        sizes.log().expand(n, 3),
        torch.tensor([2 * half, 0, 0, 2 * half]).expand(n, 4),  # x becomes y
        torch.full((n,), math.log(0.005 / 0.995)),
    ]
    moved = shaken(numbers, device, 2.0) / sizes.double()[[1, 0, 2]].square()
    assert moved.mean(0).abs().max() < 4 / math.sqrt(n)
    torch.testing.assert_close(moved.std(0), torch.ones(3).double(), rtol=0.03, atol=0)
    correlation = torch.corrcoef(moved.T) - torch.eye(3)
    assert correlation.abs().max() < 4 / math.sqrt(n)
    within = [(moved.abs() < k).double().mean().item() for k in (1, 2, 3)]
    assert within == pytest.approx([0.6827, 0.9545, 0.9973], abs=0.008)
    assert moved.abs().max() > 3.5


def test_the_more_opaque_move_less_and_the_solid_stay(device):
    still = crowd(100, opacity=0.2)
    assert not shaken(still, device, 1e6).any()
    faint, half = (shaken(crowd(100, opacity), device, 1.0) for opacity in (1e-4, 0.005))
    ratio = 2 / (1 + math.exp(100 * (1e-4 - 0.005)))
    torch.testing.assert_close(faint, ratio * half, rtol=1e-3, atol=1e-6)


def test_seed_and_stream_say_what_noise_there_is(device):
    numbers = crowd(50)
    first = shaken(numbers, device, 1.0, seed=3)
    assert torch.equal(first, shaken(numbers, device, 1.0, seed=3))
    for other in (shaken(numbers, device, 1.0, seed=4), shaken(numbers, device, 1.0, 3, 1)):
        assert ((other - first).abs().amax(1) > 1e-7).double().mean() > 0.95


def test_exact_numbers_are_moved_by_the_reference():
    numbers = crowd(9)
    means = numbers[0].clone()
    splat_shake_(means, *numbers[1:4], 0.5, 1)
    expected = numbers[0] + splat_shake_reference(*numbers[1:4], 0.5, 1, 0)
    assert means.dtype == torch.float64 and torch.equal(means, expected)
