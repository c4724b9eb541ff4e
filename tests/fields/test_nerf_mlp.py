"""NeRF's network: the paper's sizes, its encoding, its skip, and sizes that a file may not ask."""

import math

import pytest
import torch
from torch import Generator

from polyfield.cuda.errors import InputError
from polyfield.fields.nerf_mlp import (
    NerfMlp,
    NerfMlpArguments,
    encode_frequencies,
    parameter_count,
)
from polyfield.fields.table import build_field

SMALL = NerfMlpArguments(4, 32, 5, 2)


def made(arguments=SMALL, seed=0):
    return NerfMlp(arguments, Generator().manual_seed(seed))


def test_the_paper_s_network_has_the_paper_s_parameters():
    assert parameter_count(NerfMlpArguments()) == 595_844


def test_its_layers_are_the_paper_s():
    field = made(NerfMlpArguments())
    shapes = [tuple(layer.weight.shape) for layer in field.trunk]
    assert shapes == [(256, 63), *[(256, 256)] * 4, (256, 319), *[(256, 256)] * 2]
    rest = field.density_layer, field.bottleneck, field.color_layer, field.color_output
    shapes = [tuple(layer.weight.shape) for layer in rest]
    assert shapes == [(1, 256), (256, 256), (128, 283), (3, 128)]
    assert all(part.bias is not None for part in (*field.trunk, *rest))


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
    x = torch.rand(4, 3, dtype=torch.float64, generator=Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda x: encode_frequencies(x, 4), x.requires_grad_())


def by_hand(field, x, directions, frequencies, direction_frequencies, skip):
    """The network from its weights alone, one layer after the other."""
    encoded = encode_frequencies(2 * x - 1, frequencies)
    hidden = encoded
    for number, layer in enumerate(field.trunk):
        hidden = (hidden @ layer.weight.T + layer.bias).clamp_min(0)
        if number == skip:
            hidden = torch.cat([encoded, hidden], 1)
    density = (hidden @ field.density_layer.weight.T + field.density_layer.bias)[:, 0].exp()
    inner = hidden @ field.bottleneck.weight.T + field.bottleneck.bias
    both = torch.cat([inner, encode_frequencies(directions, direction_frequencies)], 1)
    inner = (both @ field.color_layer.weight.T + field.color_layer.bias).clamp_min(0)
    color = torch.sigmoid(inner @ field.color_output.weight.T + field.color_output.bias)
    return density, color


@pytest.mark.parametrize(("layers", "skip"), [(1, None), (2, None), (3, 1), (4, 2), (8, 4)])
def test_position_enters_once_more_behind_the_middle(layers, skip):
    field = made(NerfMlpArguments(layers, 16, 3, 1))
    with torch.no_grad():
        for part in field.parameters():
            part.add_(0.1 * torch.randn(part.shape, generator=Generator().manual_seed(3)))
    x = torch.rand(20, 3, generator=Generator().manual_seed(1))
    directions = torch.nn.functional.normalize(x - 0.4, dim=1)
    density, features = field.density(x)
    color = field.color(features, field.encode_directions(directions))
    expected = by_hand(field, x, directions, 3, 1, skip)
    torch.testing.assert_close(density, expected[0])
    torch.testing.assert_close(color, expected[1])


def test_a_new_field_is_thin_fog():
    """Neither empty nor opaque: every sample is seen and has a gradient."""
    random = Generator().manual_seed(2)
    for arguments in (NerfMlpArguments(), NerfMlpArguments.fitted(256, 1 << 21)):
        density, _ = made(arguments).density(torch.rand(500, 3, generator=random))
        assert 0.02 < density.min() and density.max() < 50 and 0.2 < density.median() < 5


def test_emptied_space_still_has_a_gradient():
    field = made()
    with torch.no_grad():
        field.density_layer.bias.fill_(-30.0)
    density, _ = field.density(torch.full((3, 3), 0.4))
    density.sum().backward()
    assert (density < 1e-10).all() and field.density_layer.bias.grad.abs() > 0


def test_the_gradient_of_an_enormous_density_is_bounded():
    field = made()
    with torch.no_grad():
        field.density_layer.bias.fill_(40.0)
    density, _ = field.density(torch.full((1, 3), 0.4))
    density.sum().backward()
    assert density.item() > math.exp(30) and field.density_layer.bias.grad.abs() <= math.exp(15.1)


def test_details_decide_the_frequencies_and_memory_the_width():
    fitted = NerfMlpArguments.fitted
    counts = [fitted(size, 1 << 21).position_frequencies for size in (128, 256, 2048, 1 << 20)]
    assert counts == sorted(counts) and counts[0] < counts[2] and counts[3] == 16
    widths = [fitted(256, count).width for count in (1, 1 << 14, 1 << 15, 1 << 16, 1 << 23)]
    assert widths == sorted(widths) and widths[0] == 16 and widths[-1] == 128
    assert parameter_count(fitted(256, 1 << 15)) <= 1 << 15


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("layers", (0, 33, 1 << 19)),
        ("width", (0, 1025, 1 << 19)),
        ("position_frequencies", (17, 1 << 19)),
        ("direction_frequencies", (17,)),
    ],
)
def test_sizes_out_of_range_are_refused_by_name_before_anything_is_made(name, values):
    for value in values:
        with pytest.raises(InputError, match=f"{name}: {value}"):
            build_field("mlp", {name: value})
