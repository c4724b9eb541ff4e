import math

import pytest
import torch
from torch import Generator

from polyfield.cuda.errors import InputError
from polyfield.fields.mlp_signal import (
    FITTED_WIDTH,
    DenseDecoder,
    MlpSignal,
    RandomFourier,
    Siren,
    mlp_signal,
)


def random(seed=0):
    return Generator().manual_seed(seed)


def test_a_siren_is_sines_of_thirty_times_each_layer_and_a_linear_last_one():
    siren = Siren(2, 3, 16, 2, generator=random())
    x = 2 * torch.rand(50, 2, generator=random(1)) - 1
    first, second, last = siren.layers
    h = (30 * (x @ first.weight.T + first.bias)).sin()
    h = (30 * (h @ second.weight.T + second.bias)).sin()
    torch.testing.assert_close(siren(x), h @ last.weight.T + last.bias)


def test_what_goes_into_every_sine_of_a_fresh_siren_has_the_paper_s_spread():
    """Theorem 1.8: standard deviation 1 behind the first layer, whatever the depth."""
    siren = Siren(2, 1, 512, 5, generator=random())
    x = 2 * torch.rand(2000, 2, generator=random(1)) - 1
    *hidden, _ = siren.layers
    spreads = []
    with torch.no_grad():
        for layer in hidden:
            angle = siren.omega * layer(x)
            spreads.append(float((angle - siren.omega * layer.bias).std()))
            x = angle.sin()
    assert spreads[0] > 5  # omega / 3 for two uniform inputs
    assert all(abs(spread - 1) < 0.1 for spread in spreads[1:])


def test_a_siren_has_derivatives_of_every_order():
    siren = Siren(2, 1, 32, 2, generator=random()).double()
    x = (2 * torch.rand(6, 2, generator=random(1)) - 1).double().requires_grad_()
    assert torch.autograd.gradgradcheck(siren, (x,))


def test_random_waves_are_what_their_paper_says():
    waves = RandomFourier(3, 400, 7.0, generator=random())
    assert waves.directions.std() == pytest.approx(7.0, rel=0.1)
    x = torch.rand(20, 3, generator=random(1))
    angles = 2 * math.pi * x @ waves.directions.T
    torch.testing.assert_close(waves(x), torch.cat([angles.cos(), angles.sin()], 1))
    assert waves.width == 800 and "directions" in waves.state_dict()
    assert not list(waves.parameters())


def test_random_waves_see_how_far_points_lie_apart_and_not_where():
    """Their products are a Gaussian of the difference, in the mean over the waves."""
    waves = RandomFourier(2, 20_000, 1.5, generator=random())
    x = torch.rand(8, 2, generator=random(1))
    shift = torch.tensor([[0.1, -0.05]])
    kernel = (waves(x) * waves(x + shift)).sum(1) / 20_000
    expected = math.exp(-2 * math.pi**2 * 1.5**2 * float(shift.square().sum()))
    assert (kernel - expected).abs().max() < 0.02


def test_the_dense_decoder_ends_without_an_activation():
    decoder = DenseDecoder(4, 2, 8, 2, generator=random())
    z = torch.randn(40, 4, generator=random(1))
    first, second, last = decoder.layers
    h = ((z @ first.weight.T + first.bias).relu() @ second.weight.T + second.bias).relu()
    torch.testing.assert_close(decoder(z), h @ last.weight.T + last.bias)
    assert decoder(z).min() < 0


@pytest.mark.parametrize("waves", [0, 64])
def test_both_kinds_learn_a_wave_that_turns_six_times(waves):
    signal = mlp_signal(MlpSignal(2, 64, waves), 2, 1, random())
    optimiser = torch.optim.Adam(signal.parameters(), lr=1e-3)
    x = torch.rand(2000, 2, generator=random(1))
    wanted = (2 * math.pi * 6 * x[:, :1]).sin() * (2 * math.pi * 2 * x[:, 1:]).cos()
    for _ in range(300):
        optimiser.zero_grad()
        loss = (signal.value(x) - wanted).square().mean()
        loss.backward()
        optimiser.step()
    assert loss < 0.02 * wanted.square().mean()


def test_the_widest_network_that_fits_is_taken_but_none_that_is_slow():
    assert MlpSignal.fitted(2, 768, 1 << 28).width == FITTED_WIDTH
    narrow = MlpSignal.fitted(3, 768, 10_000)
    counts = [
        sum(p.numel() for p in mlp_signal(MlpSignal(3, width), 3, 4).parameters())
        for width in (narrow.width, narrow.width + 1)
    ]
    assert counts[0] <= 10_000 < counts[1]


@pytest.mark.parametrize(
    "sizes", [MlpSignal(layers=0), MlpSignal(width=1025), MlpSignal(waves=4097)]
)
def test_sizes_out_of_range_are_refused_by_name(sizes):
    with pytest.raises(InputError, match="field mlp: (layers|width|waves): "):
        mlp_signal(sizes, 2, 3)
