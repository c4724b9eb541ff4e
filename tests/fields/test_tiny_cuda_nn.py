"""The flat parameters of tiny-cuda-nn: sizes, order, padding, and what they compute."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyfield.cuda.errors import InputError
from polyfield.cuda.hash_grid import HashGridLayout, hash_grid
from polyfield.cuda.mlp import initial_weights, mlp
from polyfield.fields.tiny_cuda_nn import (
    GridConfig,
    encoded_mlp_from_flat,
    encoded_mlp_to_flat,
    grid_from_flat,
    grid_to_flat,
    mlp_from_flat,
    mlp_to_flat,
    network_from_json,
    padded_parameter_count,
)

# Growth as people write it down: the finest resolution's root.
GROWTH = {finest: math.exp(math.log(finest / 16) / 15) for finest in (2048, 4096)}
BASE = GridConfig(8, 4, 19, 16, 2.0)  # configs/nerf/base.json of instant-ngp
PAPER = GridConfig(16, 2, 19, 16, GROWTH[2048])
FINE = GridConfig(16, 2, 19, 16, GROWTH[4096])


def points(count=12):
    """Random points, corners and faces of the unit cube."""
    random = torch.rand(count, 3, generator=torch.Generator().manual_seed(1))
    rim = torch.tensor([[0.0, 0, 0], [1, 1, 1], [0, 1, 0.5], [0.1, 0.2, 0.3]])
    return torch.cat([random, rim])


def table_of(layout, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(layout.entries, layout.features, generator=random)


@pytest.mark.parametrize(
    "config, parameters", [(BASE, 11_681_792), (PAPER, 12_196_240), (FINE, 12_599_920)]
)
def test_grids_have_the_number_of_parameters_that_tiny_cuda_nn_gives_them(
    slow_grid, config, parameters
):
    layout = config.layout
    assert (
        layout.entries * layout.features
        == parameters
        == slow_grid(torch.zeros(1), config).parameters
    )
    assert len(grid_to_flat(torch.zeros(layout.entries, layout.features), layout)) == parameters


@pytest.mark.parametrize(
    "widths, parameters",
    [((32, 64, 16), 3072), ((32, 64, 64, 3), 7168), ((31, 64, 64, 3), 7168), ((3, 16), 256)],
)
def test_networks_have_the_number_of_parameters_that_tiny_cuda_nn_gives_them(widths, parameters):
    assert padded_parameter_count(widths) == parameters
    assert len(mlp_to_flat(initial_weights(widths), widths)) == parameters


# (config, level, point, entries of the corners 000 and 111): worked out apart from this code.
GOLDEN = [
    (BASE, 0, (0.1, 0.2, 0.3), 1330, 1603),
    (BASE, 0, (1, 1, 1), 4095, 272),
    (BASE, 2, (0.1, 0.2, 0.3), 36864 + 78662, 36864 + 82823),
    (BASE, 3, (0.1, 0.2, 0.3), 299008 + 254554, 299008 + 68679),
    (BASE, 7, (0.1, 0.2, 0.3), 2396160 + 484442, 2396160 + 33607),
    (PAPER, 4, (0.1, 0.2, 0.3), 125568 + 59832, 125568 + 63373),
    (PAPER, 5, (0.1, 0.2, 0.3), 330952 + 503520, 330952 + 366917),
    (PAPER, 15, (0.1, 0.2, 0.3), 5573832 + 484442, 5573832 + 33607),
]


@pytest.mark.parametrize("config, level, point, low, high", GOLDEN)
def test_a_corner_finds_the_entry_that_it_finds_in_tiny_cuda_nn(
    slow_grid, config, level, point, low, high
):
    slow = slow_grid(torch.zeros(1), config)
    assert slow.corner(level, point, (0, 0, 0)) == low
    assert slow.corner(level, point, (1, 1, 1)) == high
    layout = config.layout
    flat = torch.zeros(layout.entries * layout.features)
    flat[layout.features * low + 1], flat[layout.features * high] = 1.0, 1.0
    x = torch.tensor([point]).float()
    got = hash_grid(x, grid_from_flat(flat, layout), layout)[0, layout.features * level :][:2]
    slow.flat = flat.double().numpy()
    expected = torch.tensor(slow(x[0].tolist())).float()[layout.features * level :][:2]
    assert expected.any()
    torch.testing.assert_close(got, expected, atol=2e-3, rtol=0)


SMALL = [
    GridConfig(3, 4, 9, 4, 2.0),
    GridConfig(4, 2, 7, 5, float(np.float32((40 / 5) ** (1 / 3)))),
    GridConfig(2, 8, 14, 6, 3.0, "Smoothstep"),
    GridConfig(1, 1, 12, 11, 2.0),
    GridConfig(2, 2, 10, 7, 1.0),
]


@pytest.mark.parametrize("config", SMALL, ids=str)
def test_our_grid_computes_from_a_table_what_the_specification_does_from_flat_parameters(
    slow_grid, config
):
    layout = config.layout
    flat = grid_to_flat(table_of(layout), layout)
    slow = slow_grid(flat, config)
    assert len(flat) == slow.parameters
    got = hash_grid(points(), grid_from_flat(flat, layout), layout)
    expected = torch.tensor([slow(point) for point in points().tolist()], dtype=torch.float32)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


@given(
    st.integers(1, 8),
    st.sampled_from([1, 2, 4, 8]),
    st.integers(3, 12),
    st.tuples(st.integers(2, 32), st.integers(0, 4096)),
    st.booleans(),
)
@settings(deadline=None)
def test_every_grid_of_ours_has_a_config_that_leads_back_to_the_same_grid(
    levels, features, log2_size, sides, smooth
):
    base, more = sides
    layout = HashGridLayout(3, levels, features, log2_size, base, base + more, smooth)
    config = GridConfig.from_json(GridConfig.of(layout).to_json())
    again = config.layout
    for what in ("scales", "resolutions", "offsets", "hashed", "width", "smoothstep"):
        assert getattr(again, what) == getattr(layout, what), what
    table = table_of(layout)
    assert torch.equal(grid_from_flat(grid_to_flat(table, layout), again), table)


def test_parameters_in_half_precision_become_single_ones():
    layout = SMALL[0].layout
    flat = grid_to_flat(table_of(layout), layout).half()
    assert torch.equal(grid_from_flat(flat, layout), flat.float().view(layout.entries, 4))
    widths = (5, 16, 3)
    half = mlp_to_flat(initial_weights(widths), widths).half()
    assert mlp_from_flat(half, widths).dtype == torch.float32


WIDTHS = [(32, 64, 16), (31, 48, 64, 3), (3, 16), (16, 128, 16, 17), (1, 32, 1)]


@pytest.mark.parametrize("widths", WIDTHS, ids=str)
@pytest.mark.parametrize("padding", [0.0, 1.0])
def test_exported_networks_compute_the_same_whatever_the_padded_inputs_hold(
    slow_network, widths, padding
):
    weights = initial_weights(widths, torch.Generator().manual_seed(1))
    x = torch.randn(4, widths[0], generator=torch.Generator().manual_seed(2))
    flat = mlp_to_flat(weights, widths)
    full = [-(-widths[0] // 16) * 16, *widths[1:-1], -(-widths[-1] // 16) * 16]
    shapes = [(out, into) for into, out in zip(full, full[1:], strict=False)]
    expected = mlp(x, weights, widths)
    for row, wanted in zip(x.tolist(), expected, strict=True):
        got = slow_network(flat, row + [padding] * (full[0] - widths[0]), shapes)
        torch.testing.assert_close(torch.tensor(got[: widths[-1]]), wanted, atol=1e-5, rtol=1e-5)
        assert got[widths[-1] :] == [0.0] * (full[-1] - widths[-1])
    assert torch.equal(mlp_from_flat(flat, widths, padding="one"), weights)


@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_trained_padding_is_ignored_where_it_means_nothing(widths):
    weights = initial_weights(widths, torch.Generator().manual_seed(1))
    flat = mlp_to_flat(weights, widths)
    padding = mlp_to_flat(torch.ones_like(weights), widths) == 0
    assert int(padding.sum()) == len(flat) - len(weights)
    assert not flat[padding].any()
    flat[padding] = float("nan")
    assert torch.equal(mlp_from_flat(flat, widths), weights)


def test_biases_in_padded_columns_are_refused_and_padded_rows_are_none():
    widths = (31, 64, 3)
    flat = mlp_to_flat(initial_weights(widths), widths)
    flat[-13 * 64 :] = 7.0  # rows 3 to 15 of the last matrix
    mlp_from_flat(flat, widths, padding="one")
    flat[32 * 5 + 31] = 0.1  # row 5, column 31 of the first
    mlp_from_flat(flat, widths)
    with pytest.raises(InputError, match="biases, columns 31 to 31 .*no biases"):
        mlp_from_flat(flat, widths, padding="one")


def test_a_network_on_a_grid_comes_first():
    layout = SMALL[0].layout
    widths = (layout.width, 16, 5)
    weights, table = initial_weights(widths), table_of(layout)
    flat = encoded_mlp_to_flat(weights, widths, table, layout)
    assert torch.equal(flat[: 16 * 16], mlp_to_flat(weights, widths)[: 16 * 16])
    assert torch.equal(flat[2 * 16 * 16 :], table.reshape(-1))
    got_weights, got_table = encoded_mlp_from_flat(flat, widths, layout)
    assert torch.equal(got_weights, weights) and torch.equal(got_table, table)


def test_nerfaccs_and_ngp_pls_networks_on_grids_have_their_sizes():
    for config, parameters in ((PAPER, 12_199_312), (FINE, 12_602_992)):
        layout, widths = config.layout, (32, 64, 16)
        table = torch.zeros(layout.entries, layout.features)
        assert (
            len(encoded_mlp_to_flat(initial_weights(widths), widths, table, layout)) == parameters
        )


@pytest.mark.parametrize("excess", [-1, 1, 8])
def test_another_number_of_parameters_is_refused_with_both(excess):
    layout, widths = SMALL[0].layout, (12, 16, 3)
    grid = layout.entries * layout.features
    asks = [
        (grid, lambda flat: grid_from_flat(flat, layout)),
        (512, lambda flat: mlp_from_flat(flat, widths)),
        (512 + grid, lambda flat: encoded_mlp_from_flat(flat, widths, layout)),
    ]
    for count, ask in asks:
        ask(torch.zeros(count))
        with pytest.raises(InputError, match=f"{count + excess:,} numbers; expected {count:,}"):
            ask(torch.zeros(count + excess))
    with pytest.raises(InputError, match="numbers; expected 240"):
        mlp_to_flat(torch.zeros(240 + excess), widths)


def test_a_network_with_other_inputs_than_the_grid_has_features_is_refused():
    layout, widths = SMALL[0].layout, (16, 16, 3)
    with pytest.raises(InputError, match="16 inputs; expected 12"):
        encoded_mlp_from_flat(torch.zeros(9), widths, layout)
    with pytest.raises(InputError, match="16 inputs; expected 12"):
        encoded_mlp_to_flat(initial_weights(widths), widths, table_of(layout), layout)


@pytest.mark.parametrize(
    "config, said",
    [
        (GridConfig(8, 4, 19, 16, 1.5), "273.375 nodes"),
        (GridConfig(16, 2, 19, 16, 1.3819), "2047.713 nodes"),
        (GridConfig(2, 3), "features"),
        (GridConfig(2, 2, 30), "log2_table_size"),
        (GridConfig(16, 2, 19, 16, 0.5), "at least 1"),
        (GridConfig(16, 2, 19, 16, math.nan), "at least 1"),
        (GridConfig(0), "1 to 64 levels"),
        (GridConfig(64, 2, 19, 16, 1e30), "at least 1"),
        (GridConfig(16, 2, 19, 16, 4.0), "finest_resolution"),
    ],
)  # fmt: skip
def test_grids_that_ours_is_not_are_refused(config, said):
    with pytest.raises(InputError, match=said):
        _ = config.layout


JSON = BASE.to_json()


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"otype": "Frequency"}, "encoding.otype: 'Frequency'"),
        ({"type": "Tiled"}, "encoding.type: 'Tiled'"),
        ({"interpolation": "Nearest"}, "encoding.interpolation: 'Nearest'"),
        ({"per_level_scale": None}, "aabb_scale"),
        ({"per_level_scale": True}, "encoding.per_level_scale"),
        ({"n_levels": 8.0}, "encoding.n_levels: 8.0"),
        ({"n_levels": -1}, "encoding.n_levels: -1"),
        ({"n_features": 32}, "'n_features': unknown"),
    ],
)
def test_a_config_of_another_encoding_is_refused_by_name(changed, said):
    with pytest.raises(InputError, match=said):
        GridConfig.from_json(JSON | changed)
    with pytest.raises(InputError, match="encoding: list"):
        GridConfig.from_json([])


def test_names_that_are_left_out_have_tiny_cuda_nns_defaults():
    found = GridConfig.from_json({"otype": "Grid", "type": "Hash", "per_level_scale": 2})
    assert found == GridConfig(16, 2, 19, 16, 2.0, "Linear")
    assert GridConfig.from_json(JSON | {"stochastic_interpolation": True}) == BASE


NETWORK = {"otype": "FullyFusedMLP", "n_neurons": 64, "n_hidden_layers": 1}


def test_networks_of_relus_are_read_and_others_refused_by_name():
    assert network_from_json(NETWORK, "network", 1) == 64
    assert network_from_json(NETWORK | {"output_activation": "Sigmoid"}, "network", 1) == 64
    for changed in (
        {"otype": "CutlassResNet"},
        {"activation": "Sine"},
        {"output_activation": "Exponential"},
        {"n_hidden_layers": 2},
        {"n_neurons": "64"},
    ):
        with pytest.raises(InputError, match=f"network.{next(iter(changed))}"):
            network_from_json(NETWORK | changed, "network", 1)
    with pytest.raises(InputError, match="'wings': unknown"):
        network_from_json(NETWORK | {"wings": 2}, "network", 1)
    with pytest.raises(InputError, match="network: NoneType"):
        network_from_json(None, "network", 1)
