"""Radiance fields as tiny-cuda-nn and instant-ngp hold them: two networks, a grid, harmonics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.cuda.errors import InputError
from polyfield.cuda.radiance import FEATURES
from polyfield.cuda.spherical_harmonics import start_of_order
from polyfield.fields.contraction import Contraction
from polyfield.fields.field import TrainableField
from polyfield.fields.hash_grid import HashGrid
from polyfield.fields.radiance import Radiance
from polyfield.fields.tiny_cuda_nn import (
    GridConfig,
    encoded_mlp_from_flat,
    encoded_mlp_to_flat,
    mlp_from_flat,
    mlp_to_flat,
    network_from_json,
    network_to_json,
    padded,
    padded_parameter_count,
)


@dataclass(frozen=True)
class RadianceConfig:
    """A radiance field of instant-ngp's form, by the names of its configs.

    The density network (one hidden layer) gives 16 features, the first of them the logarithm of the
    density, in 1 / side of the unit cube; the colour network (two hidden layers) takes all 16 and
    the harmonics of the direction, and colour is the sigmoid of its first three outputs.
    """

    grid: GridConfig = GridConfig()
    n_neurons: int = 64
    """Of every hidden layer."""
    degree: int = 4
    """Of tiny-cuda-nn's harmonics, 1 to 8: degree^2 numbers, our `harmonics_degree` plus 1."""
    first: Literal["features", "directions"] = "features"
    """What the colour network takes first: features in instant-ngp, directions in ngp_pl, where it
    is a network of its own."""
    contraction: int = 0
    """Levels of `contract`, which positions go through before the grid; tiny-cuda-nn has no such
    thing. 0 for none."""

    def __post_init__(self) -> None:
        if type(self.degree) is not int or not 1 <= self.degree <= 8:
            raise InputError("RadianceConfig.degree", repr(self.degree)[:80], "1 to 8")
        if type(self.contraction) is not int or not 0 <= self.contraction <= 16:
            raise InputError("RadianceConfig.contraction", repr(self.contraction)[:80], "0 to 16")

    @classmethod
    def from_json(cls, values: Mapping) -> RadianceConfig:
        """The config in JSON with instant-ngp's keys: encoding, network, dir_encoding, rgb_network.

        Its own top-level keys `first` and `contraction` come back; others, such as optimiser and
        loss, are not read. InputError, naming the entry, for what makes no field of ours.
        """
        neurons = network_from_json(values.get("network"), "network", 1)
        if network_from_json(values.get("rgb_network"), "rgb_network", 2) != neurons:
            got = repr(values["rgb_network"].get("n_neurons"))
            raise InputError("rgb_network.n_neurons", got, f"{neurons}, as in network")
        first = values.get("first", "features")
        if first not in ("features", "directions"):
            raise InputError("first", repr(first)[:80], "features or directions")
        return cls(
            GridConfig.from_json(values.get("encoding")),
            neurons,
            _degree(values.get("dir_encoding")),
            first,
            values.get("contraction", 0),
        )

    def to_json(self) -> dict[str, object]:
        """What tiny-cuda-nn and instant-ngp are to be told, by the keys of `from_json`."""
        return {
            "encoding": self.grid.to_json(),
            "network": network_to_json(self.n_neurons, 1),
            "dir_encoding": {"otype": "SphericalHarmonics", "degree": self.degree},
            "rgb_network": network_to_json(self.n_neurons, 2),
            "first": self.first,
            "contraction": self.contraction,
        }

    @property
    def density_widths(self) -> tuple[int, ...]:
        """Of the density network, without padding."""
        return (self.grid.layout.width, self.n_neurons, FEATURES)

    @property
    def color_widths(self) -> tuple[int, ...]:
        """Of the colour network; its inputs count with their padding, of which some are biases."""
        return (padded(FEATURES + self.degree**2), self.n_neurons, self.n_neurons, 3)


@dataclass(frozen=True, eq=False)
class RadianceParameters:
    """The flat parameters of a radiance field."""

    density: Float[Tensor, " d"]
    """`params` of the NetworkWithInputEncoding that gives the features: network, then grid."""
    color: Float[Tensor, " c"]
    """`params` of the Network that gives the colour."""

    def joined(self, config: RadianceConfig) -> Float[Tensor, " parameters"]:
        """instant-ngp's NerfNetwork: density network, colour network, grid. Harmonics have none."""
        first = padded_parameter_count(config.density_widths)
        return torch.cat([self.density[:first], self.color, self.density[first:]])

    @staticmethod
    def split(flat: Float[Tensor, " parameters"], config: RadianceConfig) -> RadianceParameters:
        """The parts of instant-ngp's NerfNetwork. InputError for another number of parameters."""
        first = padded_parameter_count(config.density_widths)
        second = padded_parameter_count(config.color_widths)
        grid = config.grid.layout.entries * config.grid.layout.features
        if len(flat) != first + second + grid:
            expected = (
                f"{first + second + grid:,}: networks {first:,} and {second:,}, grid {grid:,}"
            )
            raise InputError("parameters of a NerfNetwork", f"{len(flat):,} numbers", expected)
        density, color, table = flat.split([first, second, grid])
        return RadianceParameters(torch.cat([density, table]), color)


def radiance_to_flat(
    field: TrainableField, first: Literal["features", "directions"] = "features"
) -> tuple[RadianceConfig, RadianceParameters]:
    """The parameters with which tiny-cuda-nn computes the same field, and the config they go with.

    It takes positions in the unit cube, contracted where the config says so, and directions as
    (d + 1) / 2. Raises InputError for a field on anything but a hash grid.
    """
    grid = field.encoding if isinstance(field, Radiance) else None
    if not isinstance(field, Radiance) or not isinstance(grid, HashGrid):
        got = type(field).__name__ if grid is None else f"a field on {type(grid).__name__}"
        raise InputError("radiance_to_flat", got, "a radiance field on a hash grid")
    if field.warp is not None and not isinstance(field.warp, Contraction):
        raise InputError("radiance_to_flat", "projected positions", "plain or contracted ones")
    config = RadianceConfig(
        GridConfig.of(grid.layout),
        field.density_widths[1],
        field.harmonics_degree + 1,
        first,
        field.warp.levels if field.warp is not None else 0,
    )
    density = encoded_mlp_to_flat(
        field.density_weights, field.density_widths, grid.table, grid.layout
    )
    inputs, hidden, *_ = field.color_widths
    first_matrix, rest = _parted(field.color_weights.detach(), hidden, inputs)
    spread = first_matrix.new_zeros(hidden, config.color_widths[0])
    columns, _ = _color_columns(config)
    spread[:, columns] = first_matrix
    weights = torch.cat([spread.reshape(-1), rest])
    return config, RadianceParameters(density, mlp_to_flat(weights, config.color_widths))


def radiance_from_flat(config: RadianceConfig, parameters: RadianceParameters) -> Radiance:
    """The radiance field with tiny-cuda-nn's parameters, in float32, on their device.

    Weights of padded harmonics, which are 1, join that of the constant harmonic. Raises InputError
    for a number of parameters that does not fit, and for a config that makes no field of ours: no
    whole finest resolution (see `GridConfig.layout`), Smoothstep, another width.
    """
    if config.grid.interpolation != "Linear":
        got = config.grid.interpolation
        raise InputError("radiance_from_flat: interpolation", got, "Linear, as HashGrid has it")
    layout = config.grid.layout
    weights, table = encoded_mlp_from_flat(parameters.density, config.density_widths, layout)
    color = _color_weights(config, parameters.color)
    with torch.device("meta"):
        grid = HashGrid(
            layout.levels,
            layout.features,
            layout.log2_table_size,
            layout.base_resolution,
            layout.finest_resolution,
        )
        warp = Contraction(config.contraction) if config.contraction else None
        made = Radiance(grid, config.n_neurons, config.degree - 1, warp=warp)
    grid.table = torch.nn.Parameter(table)
    made.density_weights = torch.nn.Parameter(weights)
    made.color_weights = torch.nn.Parameter(color)
    return made


def _color_columns(config: RadianceConfig) -> tuple[list[int], list[int]]:
    """Where our inputs (features, harmonics) lie in the colour network's, and where ones do."""
    harmonics = config.degree**2
    if config.first == "directions":  # a bare Network: its padding comes last
        own = [*range(harmonics, harmonics + FEATURES), *range(harmonics)]
        return own, list(range(harmonics + FEATURES, padded(harmonics + FEATURES)))
    front = FEATURES + padded(harmonics) - harmonics
    own = [*range(FEATURES), *range(front, front + harmonics)]
    return own, list(range(FEATURES, front))


def _color_weights(config: RadianceConfig, flat: Tensor) -> Tensor:
    """Our colour network's weights; of biases, the constant harmonic takes what they add."""
    every = mlp_from_flat(flat, config.color_widths)
    matrix, rest = _parted(every, config.n_neurons, config.color_widths[0])
    columns, ones = _color_columns(config)
    first = matrix[:, columns]
    first[:, FEATURES] += matrix[:, ones].sum(1) / start_of_order(0)
    return torch.cat([first.reshape(-1), rest])


def _parted(weights: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """The first matrix of a network's weights, and the others, flat."""
    return weights[: rows * columns].view(rows, columns), weights[rows * columns :]


def _degree(values: object) -> int:
    """Of the harmonics in a direction encoding's JSON; InputError for any other encoding."""
    nested = values
    if isinstance(values, Mapping) and values.get("otype") == "Composite":
        # instant-ngp's own: harmonics, and what is left of the input, nothing, as it is.
        inner = values.get("nested")
        parts = [part for part in inner if isinstance(part, Mapping)] if type(inner) is list else []
        if parts and all(part.get("otype") == "Identity" for part in parts[1:]):
            nested = parts[0]
    found = nested if isinstance(nested, Mapping) else {}
    degree = found.get("degree", 4)
    fits = found.get("otype") == "SphericalHarmonics" and found.get("n_dims_to_encode", 3) == 3
    if not fits or type(degree) is not int:
        raise InputError("dir_encoding", repr(values)[:200], "SphericalHarmonics")
    if nested is not values and degree % 4:
        expected = "4 or 8 within a Composite, where nothing is padded"
        raise InputError("dir_encoding.degree", str(degree)[:80], expected)
    return degree
