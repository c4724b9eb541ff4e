import math

import pytest
import torch
from torch import Generator

from polyfield.fields.hash_grid import HashGrid
from polyfield.fields.signal import (
    MARGIN,
    ReluDecoder,
    Signal,
    SineDecoder,
    distance_outside,
)


def random(seed=0):
    return Generator().manual_seed(seed)


def test_the_sine_decoder_is_what_its_paper_says():
    decoder = SineDecoder(5, 2, 16, 2.0, 32.0, generator=random())
    z = torch.randn(40, 5, generator=random(1))
    first, second, last = decoder.layers
    h = z @ first.weight.T + first.bias
    waves = 2 ** torch.linspace(1, 5, 16)
    h = h + (waves * h).sin()
    h = (h @ second.weight.T + second.bias).relu()
    torch.testing.assert_close(decoder(z), h @ last.weight.T + last.bias)
    assert decoder.frequencies[0] == 2 and decoder.frequencies[-1] == 32


def test_weights_begin_within_their_bound():
    decoder = SineDecoder(100, 3, 64, generator=random())
    for layer in decoder.layers:
        bound = 1 / math.sqrt(layer.in_features)
        assert 0.9 * bound < layer.weight.abs().max() <= bound


def test_the_relu_decoder_has_two_hidden_layers_without_biases():
    decoder = ReluDecoder(6, 3, 16, generator=random())
    z = torch.randn(40, 6, generator=random(1))
    assert decoder.weights.numel() == 6 * 16 + 16 * 16 + 16 * 3
    assert not decoder(torch.zeros(2, 6)).any()
    torch.testing.assert_close(decoder(2 * z), 2 * decoder(z))


@pytest.mark.parametrize("decoder", [ReluDecoder, SineDecoder])
def test_a_signal_decodes_what_it_encodes(decoder):
    grid = HashGrid(2, 2, 8, 4, 16, generator=random())
    signal = Signal(grid, decoder(grid.width, 3, 16, generator=random()))
    x = torch.rand(20, 3, generator=random())
    torch.testing.assert_close(signal.value(x), signal.decoder(grid(x)))
    assert signal.learning_rate == 2e-2 and signal.value(x).shape == (20, 3)


def test_what_is_added_to_a_signal_is_its_base():
    grid = HashGrid(2, 2, 8, 4, 16, generator=random())
    signal = Signal(grid, ReluDecoder(grid.width, 1, 16, generator=random()))
    x = torch.rand(20, 3, generator=random())
    plain = signal.value(x)
    signal.base = lambda points: points[:, :1]
    torch.testing.assert_close(signal.value(x), plain + x[:, :1])


def test_the_distance_outside_a_box_is_exact_beyond_its_margin():
    sides = (0.9, 0.4, 0.2)
    x = torch.rand(2000, 3, generator=random())
    nearest = x.sub(0.5).abs().sub(torch.tensor(sides) / 2).clamp_min(0)
    true = nearest.norm(dim=1, keepdim=True)
    found = distance_outside(x, sides)
    assert (found <= true + 1e-6).all() and (found[true[:, 0] == 0] < 1e-6).all()
    assert (true - found).max() < 1.8 * MARGIN
    grown = tuple(side + 2 * MARGIN for side in sides)
    again = x.sub(0.5).abs().sub(torch.tensor(grown) / 2).clamp_min(0).norm(dim=1, keepdim=True)
    torch.testing.assert_close(found, again, atol=1e-6, rtol=0)


def test_the_slope_of_the_distance_outside_is_a_number_everywhere():
    x = torch.tensor([[0.5, 0.5, 0.5], [0.98, 0.5, 0.5], [0.97, 0.9, 0.5]], requires_grad=True)
    (slope,) = torch.autograd.grad(distance_outside(x, (0.8, 0.4, 0.4)).sum(), x)
    torch.testing.assert_close(slope.norm(dim=1), torch.tensor([0.0, 1.0, 1.0]))
