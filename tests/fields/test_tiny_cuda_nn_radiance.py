"""Radiance fields in tiny-cuda-nn's parameters: both compute the same, pads and all."""

import json
import math
from dataclasses import replace

import pytest
import torch

from polyfield.cuda.errors import InputError
from polyfield.fields.contraction import contract
from polyfield.fields.field import TrainableField
from polyfield.fields.nerf_mlp import NerfMlp
from polyfield.fields.radiance import Radiance
from polyfield.fields.table import build_field
from polyfield.fields.tiny_cuda_nn import GridConfig, padded_parameter_count
from polyfield.fields.tiny_cuda_nn_radiance import (
    RadianceConfig,
    RadianceParameters,
    radiance_from_flat,
    radiance_to_flat,
)
from polyfield.fields.warp import build_warp

POINTS = torch.rand(6, 3, generator=torch.Generator().manual_seed(0))
DIRECTIONS = torch.nn.functional.normalize(
    torch.randn(6, 3, generator=torch.Generator().manual_seed(1)), dim=1
)
GRID = GridConfig(3, 2, 8, 4, 2.0)  # 6 features: 10 padded inputs

# configs/nerf/base.json of instant-ngp, what of it makes the field, with the growth it derives.
BASE_JSON = {
    "loss": {"otype": "Huber"},
    "encoding": {
        "otype": "HashGrid",
        "n_levels": 8,
        "n_features_per_level": 4,
        "log2_hashmap_size": 19,
        "base_resolution": 16,
        "per_level_scale": 2.0,
    },
    "network": {
        "otype": "FullyFusedMLP",
        "activation": "ReLU",
        "output_activation": "None",
        "n_neurons": 64,
        "n_hidden_layers": 1,
    },
    "dir_encoding": {
        "otype": "Composite",
        "nested": [
            {"n_dims_to_encode": 3, "otype": "SphericalHarmonics", "degree": 4},
            {"otype": "Identity", "n_bins": 4, "degree": 4},
        ],
    },
    "rgb_network": {
        "otype": "FullyFusedMLP",
        "activation": "ReLU",
        "output_activation": "None",
        "n_neurons": 64,
        "n_hidden_layers": 2,
    },
}


def harmonics_of(direction, degree):
    """tiny-cuda-nn's spherical harmonics, as its polynomials stand there."""
    x, y, z = direction
    values = [
        0.28209479, -0.48860251 * y, 0.48860251 * z, -0.48860251 * x,
        1.09254843 * x * y, -1.09254843 * y * z, 0.94617470 * z * z - 0.31539157,
        -1.09254843 * x * z, 0.54627422 * (x * x - y * y),
        0.59004359 * y * (y * y - 3 * x * x), 2.89061144 * x * y * z,
        0.45704580 * y * (1 - 5 * z * z), 0.37317633 * z * (5 * z * z - 3),
        0.45704580 * x * (1 - 5 * z * z), 1.44530572 * z * (x * x - y * y),
        0.59004359 * x * (3 * y * y - x * x),
    ]  # fmt: skip
    return values[: degree**2]


def to_16(values, filler, front=False):
    """Values padded to a multiple of 16, behind them or in front."""
    padding = [filler] * (-len(values) % 16)
    return padding + values if front else values + padding


@pytest.fixture
def tiny_cuda_nn(slow_grid, slow_network):
    """Density and colour at POINTS as the specification has them, from a NerfNetwork's parameters.

    For a config whose colour network takes directions first, density and colour parameters in turn,
    the networks of ngp_pl.
    """

    def evaluate(config, flat):
        n, inner = config.n_neurons, []
        inputs = len(to_16([0] * config.grid.n_levels * config.grid.n_features_per_level, 0))
        harmonics = config.degree**2
        if config.first == "features":
            color_inputs = 16 + len(to_16([0] * harmonics, 0))
        else:
            color_inputs = len(to_16([0] * (16 + harmonics), 0))
        density_shapes, color_shapes = [(n, inputs), (16, n)], [(n, color_inputs), (n, n), (16, n)]
        sizes = [sum(a * b for a, b in shapes) for shapes in (density_shapes, color_shapes)]
        density, color, table = flat.split([*sizes, len(flat) - sum(sizes)])
        grid = slow_grid(table, config.grid)
        assert grid.parameters == len(table)
        points = contract(POINTS, config.contraction) if config.contraction else POINTS
        for point, direction in zip(points.tolist(), DIRECTIONS.tolist(), strict=True):
            features = slow_network(density, to_16(grid(point), 0.0), density_shapes)
            seen = harmonics_of(direction, config.degree)
            if config.first == "features":
                both = features + to_16(seen, 1.0, front=True)
            else:
                both = to_16(seen + features, 1.0)
            red, green, blue, *_ = slow_network(color, both, color_shapes)
            rgb = [1 / (1 + math.exp(-value)) for value in (red, green, blue)]
            inner.append([math.exp(features[0]), *rgb])
        return torch.tensor(inner)

    return evaluate


def ours(field):
    density, features = field.density(POINTS)
    color = field.color(features, field.encode_directions(DIRECTIONS))
    return torch.cat([density[:, None], color], 1).detach()


def made(config, seed=2):
    """A field of a config's sizes with large weights."""
    random = torch.Generator().manual_seed(seed)
    sizes = {
        "levels": config.grid.n_levels,
        "features": config.grid.n_features_per_level,
        "log2_table_size": config.grid.log2_hashmap_size,
        "base_resolution": config.grid.base_resolution,
        "finest_resolution": config.grid.layout.finest_resolution,
        "hidden": config.n_neurons,
        "harmonics_degree": config.degree - 1,
    }
    warp = build_warp({"contraction": config.contraction} if config.contraction else {})
    field = build_field("hash-grid", sizes, random, warp)
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=random))
    return field


CONFIGS = [
    RadianceConfig(GRID, 16, 4),
    RadianceConfig(GRID, 16, 2),
    RadianceConfig(GRID, 32, 4, "directions"),
    RadianceConfig(GRID, 16, 3, "directions"),
    RadianceConfig(GRID, 48, 1, contraction=2),
    RadianceConfig(GridConfig(2, 8, 9, 5, 1.0), 16, 4),
]


def total_of(config):
    table = config.grid.layout.entries * config.grid.layout.features
    networks = (config.density_widths, config.color_widths)
    return sum(padded_parameter_count(widths) for widths in networks) + table


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_what_is_exported_computes_our_field_in_tiny_cuda_nn(tiny_cuda_nn, config):
    field = made(config)
    found, parameters = radiance_to_flat(field, config.first)
    assert found == config
    expected = ours(field)
    assert expected.std(0).min() > 0.01
    flat = parameters.joined(config)
    torch.testing.assert_close(tiny_cuda_nn(config, flat), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_what_is_imported_computes_the_same_whatever_training_did_to_the_padding(
    tiny_cuda_nn, config
):
    flat = 0.5 * torch.randn(total_of(config), generator=torch.Generator().manual_seed(4))
    field = radiance_from_flat(config, RadianceParameters.split(flat, config))
    expected = tiny_cuda_nn(config, flat)
    assert expected.std(0).min() > 0.01
    torch.testing.assert_close(ours(field), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_a_field_comes_back_bit_by_bit_by_way_of_json(config):
    field = made(config)
    found, parameters = radiance_to_flat(field, config.first)
    read = RadianceConfig.from_json(json.loads(json.dumps(found.to_json())))
    assert read == config
    again = radiance_from_flat(read, RadianceParameters.split(parameters.joined(read), read))
    assert isinstance(again, Radiance) and isinstance(again, TrainableField)
    mine, theirs = field.state_dict(), again.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert all(p.requires_grad and p.is_leaf for p in again.parameters())
    assert torch.equal(ours(again), ours(field))


def test_an_import_owns_its_numbers_and_an_export_leaves_the_field_alone():
    config = CONFIGS[0]
    field = made(config)
    before = {name: value.clone() for name, value in field.state_dict().items()}
    _, parameters = radiance_to_flat(field)
    again = radiance_from_flat(config, parameters)
    parameters.density.zero_(), parameters.color.zero_()
    for kept in (field.state_dict(), again.state_dict()):
        assert all(torch.equal(kept[name], before[name]) for name in before)


def test_a_nerf_network_is_density_colour_grid():
    config = CONFIGS[0]
    density, color = 16 * 16 + 16 * 16, 16 * 32 + 16 * 16 + 16 * 16
    flat = torch.arange(float(total_of(config)))
    parts = RadianceParameters.split(flat, config)
    assert torch.equal(parts.color, flat[density : density + color])
    assert torch.equal(parts.density, torch.cat([flat[:density], flat[density + color :]]))
    assert torch.equal(parts.joined(config), flat)


def test_instant_ngps_own_config_has_its_size():
    config = RadianceConfig.from_json(BASE_JSON)
    assert config == RadianceConfig(GridConfig(8, 4, 19, 16, 2.0), 64, 4)
    assert total_of(config) == 11_692_032
    field = radiance_from_flat(config, RadianceParameters.split(torch.zeros(11_692_032), config))
    assert field.color_widths == (32, 64, 64, 3) and field.harmonics_degree == 3
    # ngp_pl has the same networks on another grid, as two modules.
    grid = GridConfig(16, 2, 19, 16, math.exp(math.log(2048 / 16) / 15))
    _, parameters = radiance_to_flat(made(replace(config, grid=grid)), "directions")
    assert (len(parameters.density), len(parameters.color)) == (12_199_312, 7168)


def test_padded_outputs_of_the_colour_network_are_exported_as_zeros():
    config = CONFIGS[0]
    _, parameters = radiance_to_flat(made(config))
    assert not parameters.color[-13 * 16 :].any() and parameters.color[-14 * 16 : -13 * 16].any()


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"encoding": None}, "encoding: NoneType"),
        ({"network": BASE_JSON["rgb_network"]}, "network.n_hidden_layers: 2"),
        ({"rgb_network": BASE_JSON["network"]}, "rgb_network.n_hidden_layers: 1"),
        ({"rgb_network": BASE_JSON["rgb_network"] | {"n_neurons": 32}}, "32; expected 64"),
        ({"dir_encoding": {"otype": "Frequency"}}, "dir_encoding.*Frequency"),
        ({"dir_encoding": None}, "dir_encoding: None"),
        ({"dir_encoding": {"otype": "Composite"}}, "dir_encoding"),
        ({"dir_encoding": {"otype": "SphericalHarmonics", "degree": 9}}, "degree: 9"),
        (
            {
                "dir_encoding": {
                    "otype": "Composite",
                    "nested": [{"otype": "SphericalHarmonics", "degree": 3}, {"otype": "Identity"}],
                }
            },
            "degree: 3; expected 4 or 8",
        ),
        ({"first": "both"}, "first: 'both'"),
        ({"contraction": 99}, "contraction: 99"),
    ],
)
def test_a_config_that_makes_no_field_of_ours_is_refused_by_name(changed, said):
    with pytest.raises(InputError, match=said):
        RadianceConfig.from_json(BASE_JSON | changed)


@pytest.mark.parametrize("excess", [-1, 16])
def test_another_number_of_parameters_is_refused_with_both(excess):
    config = CONFIGS[0]
    total, color = total_of(config), padded_parameter_count(config.color_widths)
    with pytest.raises(InputError, match=f"{total + excess:,} numbers; expected {total:,}"):
        RadianceParameters.split(torch.zeros(total + excess), config)
    parts = RadianceParameters.split(torch.zeros(total), config)
    for spoiled in (
        replace(parts, density=torch.zeros(total - color + excess)),
        replace(parts, color=torch.zeros(color + excess)),
    ):
        with pytest.raises(InputError, match="numbers; expected"):
            radiance_from_flat(config, spoiled)


def test_what_our_field_is_not_is_refused():
    with pytest.raises(InputError, match="NerfMlp"):
        radiance_to_flat(NerfMlp())
    smooth = replace(CONFIGS[0], grid=replace(GRID, interpolation="Smoothstep"))
    zeros = RadianceParameters.split(torch.zeros(total_of(smooth)), smooth)
    with pytest.raises(InputError, match="Smoothstep; expected Linear"):
        radiance_from_flat(smooth, zeros)
    with pytest.raises(InputError, match="widths"):
        radiance_from_flat(replace(CONFIGS[0], n_neurons=24), zeros)


@pytest.mark.gpu
@pytest.mark.parametrize("config", [replace(c, n_neurons=64) for c in CONFIGS[:3]], ids=str)
def test_tiny_cuda_nn_itself_computes_our_field(config):
    """Where it is installed; its networks count in half precision."""
    if not torch.cuda.is_available():  # where its import fails with another error
        pytest.skip("no CUDA device")
    tcnn = pytest.importorskip("tinycudann", reason="tiny-cuda-nn is not installed")
    field = made(config)
    found, parameters = radiance_to_flat(field, "directions")
    told = found.to_json()
    density = tcnn.NetworkWithInputEncoding(3, 16, told["encoding"], told["network"])
    harmonics = tcnn.Encoding(3, told["dir_encoding"])
    color = tcnn.Network(16 + config.degree**2, 3, told["rgb_network"])
    assert len(density.params) == len(parameters.density)
    assert len(color.params) == len(parameters.color)
    density.params.data.copy_(parameters.density)
    color.params.data.copy_(parameters.color)
    features = density(POINTS.cuda())
    both = torch.cat([harmonics((DIRECTIONS.cuda() + 1) / 2), features], 1)
    got = torch.cat([features[:, :1].float().exp(), color(both).float().sigmoid()], 1)
    torch.testing.assert_close(got.cpu(), ours(field), atol=0.02, rtol=0.05)
    back = radiance_from_flat(
        found, RadianceParameters(density.params.detach(), color.params.detach())
    )
    assert torch.equal(back.encoding.table.cpu(), field.encoding.table)
