import math

import pytest
import torch
from torch import Generator

from polyfield.fields.frequencies import encode_frequencies, opened_weights


def points(n=40, seed=0):
    random = Generator().manual_seed(seed)
    return 2 * torch.rand(n, 3, dtype=torch.float64, generator=random) - 1


def test_frequencies_double_without_pi_identity_first_and_sines_before_cosines():
    x = torch.tensor([[0.3, -0.7, 1.0]], dtype=torch.float64)
    expected = [*x[0].tolist()]
    for k in range(3):
        for wave in (math.sin, math.cos):
            expected += [wave(2**k * value) for value in x[0].tolist()]
    found = encode_frequencies(x, 3)
    torch.testing.assert_close(found, torch.tensor([expected], dtype=torch.float64))
    assert torch.equal(encode_frequencies(x, 0), x)


def test_the_encoding_has_its_numerical_gradient():
    x = points(4)
    assert torch.autograd.gradcheck(lambda x: encode_frequencies(x, 4), x.requires_grad_())


def test_a_variance_gives_the_mean_of_the_waves_over_a_normal_distribution():
    x = points(5)
    variance = 0.02 * torch.rand(5, 3, dtype=torch.float64, generator=Generator().manual_seed(1))
    nodes = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    weights = torch.exp(-0.5 * nodes.square())
    weights = weights / weights.sum()
    moved = x[:, None] + nodes[None, :, None] * variance.sqrt()[:, None]
    each = encode_frequencies(moved.view(-1, 3), 5).view(5, len(nodes), -1)
    mean = (each * weights[None, :, None]).sum(1)
    torch.testing.assert_close(encode_frequencies(x, 5, variance), mean, rtol=0, atol=1e-9)


def test_no_variance_is_a_variance_of_zero():
    x = points()
    torch.testing.assert_close(encode_frequencies(x, 6, 0 * x), encode_frequencies(x, 6))


def test_bands_open_smoothly_from_low_to_high():
    assert not opened_weights(6, 0.0).any() and (opened_weights(6, 6.0) == 1).all()
    found = opened_weights(5, 2.25)
    assert (found[:2] == 1).all() and not found[3:].any()
    assert found[2].item() == pytest.approx((1 - math.cos(math.pi / 4)) / 2, abs=1e-6)
    through = torch.stack([opened_weights(4, a / 50) for a in range(201)])
    assert (through.diff(dim=0) >= 0).all() and (through.diff(dim=1) <= 0).all()
    assert through.diff(dim=0).max() < 0.04  # no jump


def test_weights_dim_waves_and_leave_the_position():
    x = points()
    weights = torch.tensor([1.0, 0.5, 0.0])
    found, whole = encode_frequencies(x, 3, None, weights), encode_frequencies(x, 3)
    assert torch.equal(found[:, :9], whole[:, :9])
    torch.testing.assert_close(found[:, 9:15], whole[:, 9:15] / 2)
    assert not found[:, 15:].any()
