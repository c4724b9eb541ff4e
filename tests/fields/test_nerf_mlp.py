"""NeRF's network: the paper's sizes, its encoding, its skip, and sizes that a file may not ask."""

import math

import pytest
import torch
from torch import Generator

from polyfield.cuda.errors import InputError
from polyfield.fields.contraction import Contraction
from polyfield.fields.field import ConeField, Gradual
from polyfield.fields.frequencies import encode_frequencies, opened_weights
from polyfield.fields.nerf_mlp import (
    PIECE,
    NerfMlp,
    NerfMlpArguments,
    parameter_count,
)
from polyfield.fields.table import build_field
from polyfield.fields.warp import carried

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


def from_encoded(field, encoded):
    """Density from the encoding of positions, of a field of three layers."""
    hidden = encoded
    for number, layer in enumerate(field.trunk):
        hidden = (hidden @ layer.weight.T + layer.bias).clamp_min(0)
        if number == 1:
            hidden = torch.cat([encoded, hidden], 1)
    return (hidden @ field.density_layer.weight.T + field.density_layer.bias)[:, 0].exp()


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


def random_points(n, seed=1):
    return torch.rand(n, 3, generator=Generator().manual_seed(seed))


def test_means_over_a_room_are_what_an_integrated_field_encodes():
    field = made(NerfMlpArguments(3, 16, 6, 1, integrated=1))
    assert field.cones and isinstance(field, ConeField) and not made().cones
    x, variance = random_points(20), 1e-3 * random_points(20, 2)
    encoded = encode_frequencies(2 * x - 1, 6, 4 * variance)
    expected = from_encoded(field, encoded)
    torch.testing.assert_close(field.density(x, variance)[0], expected)


def test_a_point_of_an_integrated_field_is_half_a_turn_of_its_highest_frequency():
    field = made(NerfMlpArguments(3, 16, 6, 1, integrated=1))
    x = random_points(20)
    # sin(2^5 (2 x - 1)) turns half within pi / 2^6.
    box = torch.full_like(x, (math.pi / 64) ** 2 / 12)
    torch.testing.assert_close(field.density(x)[0], field.density(x, box)[0])


def test_rooms_move_through_a_warp_with_their_points():
    field = made(NerfMlpArguments(3, 16, 4, 1, integrated=1))
    warped = NerfMlp(
        NerfMlpArguments(3, 16, 4, 1, integrated=1), Generator().manual_seed(0), Contraction(2)
    )
    x = random_points(30)
    variance = torch.full_like(x, 1e-3)
    moved = carried(Contraction(2), x, variance)
    torch.testing.assert_close(warped.density(x, variance)[0], field.density(*moved)[0])


def test_pieces_of_many_rooms_are_put_together_again():
    field = made(NerfMlpArguments(2, 16, 4, 1, integrated=1))
    x = random_points(PIECE + 100)
    variance = 1e-3 * random_points(PIECE + 100, 2)
    whole, features = field.density(x, variance)
    with torch.no_grad():
        parts, _ = field.density(x, variance)
        points, _ = field.density(x)
    torch.testing.assert_close(parts, whole.detach())
    assert len(points) == len(x) and features.shape == (len(x), 16)


def test_frequencies_open_with_the_steps_of_training():
    field = made(NerfMlpArguments(3, 16, 6, 1, coarse_steps=300))
    x = random_points(20)
    assert isinstance(field, Gradual)
    for step, opened in ((0, 0.0), (75, 1.5), (299, 5.98), (300, 6.0), (10_000, 6.0)):
        field.at_step(step)
        encoded = encode_frequencies(2 * x - 1, 6, None, opened_weights(6, opened))
        torch.testing.assert_close(field.density(x)[0], from_encoded(field, encoded))


def test_what_is_open_is_kept_with_the_parameters():
    field, other = (made(NerfMlpArguments(3, 16, 6, 1, coarse_steps=300)) for _ in range(2))
    field.at_step(100)
    other.load_state_dict(field.state_dict())
    assert torch.equal(other.density(random_points(9))[0], field.density(random_points(9))[0])
    assert "opened" not in made().state_dict()


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
        ("integrated", (2,)),
    ],
)
def test_sizes_out_of_range_are_refused_by_name_before_anything_is_made(name, values):
    for value in values:
        with pytest.raises(InputError, match=f"{name}: {value}"):
            build_field("mlp", {name: value})
