"""tiny-cuda-nn's flat parameters of hash grids and small networks, read and written without it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.cuda.errors import InputError
from polyfield.cuda.hash_grid import HashGridLayout
from polyfield.cuda.mlp import check_widths, parameter_count

ALIGNMENT = 16  # inputs and outputs of a network are padded to multiples of it
INTERPOLATIONS = {"Linear": False, "Smoothstep": True}  # whether ours is smoothstep
IGNORED = {"stochastic_interpolation"}  # says how gradients are taken, not what the grid is


@dataclass(frozen=True)
class GridConfig:
    """A hash-grid encoding of positions, by the names and with the defaults of tiny-cuda-nn.

    per_level_scale counts as float32, as there. `layout` says whether it is a grid of ours.
    Source: tiny-cuda-nn's DOCUMENTATION.md.
    """

    n_levels: int = 16
    n_features_per_level: int = 2
    log2_hashmap_size: int = 19
    base_resolution: int = 16
    per_level_scale: float = 2.0
    interpolation: Literal["Linear", "Smoothstep"] = "Linear"

    @classmethod
    def of(cls, layout: HashGridLayout) -> GridConfig:
        """What tiny-cuda-nn has to be told to make this grid. InputError unless it is of space."""
        if layout.dimensions != 3:
            raise InputError("GridConfig", f"a grid of {layout.dimensions} dimensions", "3")
        return cls(
            layout.levels,
            layout.features,
            layout.log2_table_size,
            layout.base_resolution,
            layout.growth,
            "Smoothstep" if layout.smoothstep else "Linear",
        )

    @classmethod
    def from_json(cls, values: object) -> GridConfig:
        """The config in tiny-cuda-nn's JSON. InputError for another encoding or an unknown name.

        per_level_scale has to be there: instant-ngp's files leave it out and derive it from the
        scene, exp(ln(2048 * aabb_scale / base_resolution) / (n_levels - 1)).
        """
        given = _entries(values, "encoding")
        if given.pop("otype", None) not in ("HashGrid", "Grid"):
            raise InputError("encoding.otype", _quoted(values, "otype"), "HashGrid or Grid")
        if given.pop("type", "Hash") != "Hash":
            raise InputError("encoding.type", _quoted(values, "type"), "Hash")
        scale = given.pop("per_level_scale", None)
        if isinstance(scale, bool) or not isinstance(scale, int | float):
            remedy = (
                "Where it is missing, instant-ngp takes "
                "exp(ln(2048 * aabb_scale / base_resolution) / (n_levels - 1))."
            )
            got = _quoted(values, "per_level_scale")
            raise InputError("encoding.per_level_scale", got, "a number", remedy)
        interpolation = given.pop("interpolation", "Linear")
        if interpolation not in INTERPOLATIONS:
            got = _quoted(values, "interpolation")
            raise InputError("encoding.interpolation", got, " or ".join(INTERPOLATIONS))
        names = ("n_levels", "n_features_per_level", "log2_hashmap_size", "base_resolution")
        defaults = cls()
        whole = {
            name: _whole(given.pop(name, getattr(defaults, name)), f"encoding.{name}")
            for name in names
        }
        if unknown := given.keys() - IGNORED:
            known = ", ".join((*names, "per_level_scale", "interpolation"))
            raise InputError(f"encoding: {min(unknown)!r:.80}", "unknown", f"one of {known}")
        return cls(
            **whole,
            per_level_scale=float(scale),
            interpolation="Smoothstep" if INTERPOLATIONS[interpolation] else "Linear",
        )

    def to_json(self) -> dict[str, object]:
        """Its encoding's config for tiny-cuda-nn."""
        return {
            "otype": "HashGrid",
            "n_levels": self.n_levels,
            "n_features_per_level": self.n_features_per_level,
            "log2_hashmap_size": self.log2_hashmap_size,
            "base_resolution": self.base_resolution,
            "per_level_scale": self.per_level_scale,
            "interpolation": self.interpolation,
        }

    @cached_property
    def layout(self) -> HashGridLayout:
        """The same grid as ours, entry for entry.

        Raises InputError for sizes that our kernels do not take, and where levels do not grow to a
        whole number of nodes: ours are given by their finest resolution.
        """
        if self.interpolation not in INTERPOLATIONS:
            got = repr(self.interpolation)[:80]
            raise InputError("GridConfig.interpolation", got, " or ".join(INTERPOLATIONS))
        growth, steps = float(np.float32(self.per_level_scale)), self.n_levels - 1
        if not (1 <= growth < 2**24 and 0 <= steps < 64):
            got = f"{self.per_level_scale} over {self.n_levels} levels"
            raise InputError("GridConfig.per_level_scale", got, "at least 1, over 1 to 64 levels")
        finest = self.base_resolution * min(growth**steps, 2.0**24)
        made = HashGridLayout(
            dimensions=3,
            levels=self.n_levels,
            features=self.n_features_per_level,
            log2_table_size=self.log2_hashmap_size,
            base_resolution=self.base_resolution,
            finest_resolution=round(finest),
            smoothstep=INTERPOLATIONS[self.interpolation],
        )
        if steps and made.growth != growth:
            raise InputError(
                "GridConfig.per_level_scale",
                f"{self.per_level_scale}: the finest level has {finest:.3f} nodes a side",
                "a whole number of them, to the last digit of float32",
                f"{made.growth} leads to {made.finest_resolution}, but that is another grid.",
            )
        return made


def grid_to_flat(
    table: Float[Tensor, "{layout.entries} {layout.features}"], layout: HashGridLayout
) -> Float[Tensor, " parameters"]:
    """The parameters of tiny-cuda-nn's encoding: level by level, coarsest first, each padded to 8.

    Within a level entry by entry, an entry's features side by side. x runs fastest in levels that
    are not hashed.
    """
    return table.detach().reshape(-1).clone()


def grid_from_flat(
    flat: Float[Tensor, " parameters"], layout: HashGridLayout
) -> Float[Tensor, "{layout.entries} {layout.features}"]:
    """The table of a grid, in float32, from an encoding's parameters. InputError for their number.

    tiny-cuda-nn takes scales of levels from its GPU's exp2, which may differ from ours in the last
    digit: what interpolates between the same entries then lies 1e-4 of the finest cell aside.
    """
    _check_count(flat, layout.entries * layout.features, "hash grid", "its levels' entries")
    return flat.detach().float().reshape(layout.entries, layout.features).clone()


def mlp_to_flat(
    weights: Float[Tensor, " weights"], widths: tuple[int, ...]
) -> Float[Tensor, " parameters"]:
    """The parameters of tiny-cuda-nn's network (FullyFusedMLP and CutlassMLP have the same).

    weights, widths: as `mlp` takes them. Inputs and outputs are padded to multiples of 16, with
    zeros: they add nothing, whatever the padded inputs hold. Raises InputError as `mlp`.
    """
    check_widths(widths)
    if len(weights) != parameter_count(widths):
        expected = f"{parameter_count(widths)}, for widths {tuple(widths)}"
        raise InputError("weights of a network", f"{len(weights)} numbers", expected)
    sizes = list(pairwise(widths))
    parts = weights.detach().split([inputs * outputs for inputs, outputs in sizes])
    matrices = []
    for part, (inputs, outputs), shape in zip(parts, sizes, padded_shapes(widths), strict=True):
        full = part.new_zeros(shape)
        full[:outputs, :inputs] = part.view(outputs, inputs)
        matrices.append(full.reshape(-1))
    return torch.cat(matrices)


def mlp_from_flat(
    flat: Float[Tensor, " parameters"],
    widths: tuple[int, ...],
    *,
    padding: Literal["zero", "one"] = "zero",
) -> Float[Tensor, " weights"]:
    """The weights of `mlp`, in float32, from a network's parameters; the other way round.

    padding: what the padded inputs hold. Behind a grid it is 0, and their columns, like the rows of
    padded outputs, mean nothing. Behind the encodings Identity (which a bare `Network` has),
    Frequency and OneBlob it is 1, and their columns are biases. Raises InputError for another
    number of parameters, and for biases that are not zero: our networks have none.
    """
    check_widths(widths)
    shapes, what = padded_shapes(widths), f"network of widths {tuple(widths)}"
    _check_count(flat, padded_parameter_count(widths), what, "all its padded matrices")
    sizes = list(pairwise(widths))
    parts = flat.detach().float().split([rows * columns for rows, columns in shapes])
    matrices = []
    for part, (inputs, outputs), shape in zip(parts, sizes, shapes, strict=True):
        full = part.view(shape)[:outputs]
        if padding == "one" and bool((full[:, inputs:] != 0).any()):
            got = f"biases, columns {inputs} to {shape[1] - 1} of the first matrix"
            raise InputError(what, got, "zeros there: our networks have no biases")
        matrices.append(full[:, :inputs].reshape(-1))
    return torch.cat(matrices)


def encoded_mlp_to_flat(
    weights: Float[Tensor, " weights"],
    widths: tuple[int, ...],
    table: Float[Tensor, "{layout.entries} {layout.features}"],
    layout: HashGridLayout,
) -> Float[Tensor, " parameters"]:
    """`params` of a NetworkWithInputEncoding on a grid: the network, then the grid."""
    _check_inputs(widths, layout)
    return torch.cat([mlp_to_flat(weights, widths), grid_to_flat(table, layout)])


def encoded_mlp_from_flat(
    flat: Float[Tensor, " parameters"], widths: tuple[int, ...], layout: HashGridLayout
) -> tuple[Float[Tensor, " weights"], Float[Tensor, "entries features"]]:
    """Weights and table from `params` of a NetworkWithInputEncoding. InputError for their number.

    widths: inputs as many as the layout has features of a point.
    """
    check_widths(widths)
    _check_inputs(widths, layout)
    first = padded_parameter_count(widths)
    total = first + layout.entries * layout.features
    _check_count(flat, total, "network on a hash grid", f"{first} of the network, then the grid")
    return mlp_from_flat(flat[:first], widths), grid_from_flat(flat[first:], layout)


def padded_shapes(widths: tuple[int, ...]) -> list[tuple[int, int]]:
    """Rows (outputs) and columns (inputs) of tiny-cuda-nn's matrices for a network of ours."""
    full = (padded(widths[0]), *widths[1:-1], padded(widths[-1]))
    return [(outputs, inputs) for inputs, outputs in pairwise(full)]


def padded_parameter_count(widths: tuple[int, ...]) -> int:
    """How many parameters tiny-cuda-nn's network has."""
    return sum(outputs * inputs for outputs, inputs in padded_shapes(widths))


def padded(width: int) -> int:
    """The multiple of 16 that inputs or outputs of a network are padded to."""
    return -(-width // ALIGNMENT) * ALIGNMENT


def network_to_json(hidden: int, hidden_layers: int) -> dict[str, object]:
    """The config of a network with ReLUs. FullyFusedMLP where it has kernels of that width."""
    return {
        "otype": "FullyFusedMLP" if hidden in (32, 64, 128) else "CutlassMLP",
        "activation": "ReLU",
        "output_activation": "None",
        "n_neurons": hidden,
        "n_hidden_layers": hidden_layers,
    }


def network_from_json(values: object, where: str, hidden_layers: int) -> int:
    """The hidden width of a network with ReLUs in tiny-cuda-nn's JSON.

    An output_activation Sigmoid changes no parameters and passes. InputError for any other kind.
    """
    given = _entries(values, where)
    allowed: dict[str, tuple[object, ...]] = {
        "otype": ("FullyFusedMLP", "CutlassMLP", "MegakernelMLP"),
        "activation": ("ReLU",),
        "output_activation": ("None", "Sigmoid"),
        "n_hidden_layers": (hidden_layers,),
    }
    defaults = {"activation": "ReLU", "output_activation": "None", "n_hidden_layers": 5}
    for name, fitting in allowed.items():
        if given.pop(name, defaults.get(name)) not in fitting:
            expected = " or ".join(map(str, fitting))
            raise InputError(f"{where}.{name}", _quoted(values, name), expected)
    neurons = _whole(given.pop("n_neurons", 128), f"{where}.n_neurons")
    if unknown := given.keys() - {"n_input_dims", "n_output_dims", "feedback_alignment"}:
        raise InputError(f"{where}: {min(unknown)!r:.80}", "unknown", "a network's config")
    return neurons


def _check_inputs(widths: tuple[int, ...], layout: HashGridLayout) -> None:
    if widths[0] != layout.width:
        got = f"{widths[0]} inputs"
        raise InputError("network on a hash grid", got, f"{layout.width}, the grid's features")


def _check_count(flat: Tensor, expected: int, what: str, of: str) -> None:
    if len(flat) != expected:
        raise InputError(
            f"parameters of a {what}",
            f"{len(flat):,} numbers",
            f"{expected:,}: {of}",
            "Compare the config; old builds pad inputs of CutlassMLP to 8, this is for 16.",
        )


def _entries(values: object, where: str) -> dict[str, object]:
    if not isinstance(values, Mapping):
        raise InputError(where, type(values).__name__, "an object of JSON")
    return dict(values)


def _quoted(values: object, name: str) -> str:
    found = values.get(name) if isinstance(values, Mapping) else None
    return "missing" if found is None else repr(found)[:80]


def _whole(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 24:
        raise InputError(where, repr(value)[:80], "a whole number above 0, below 2^24")
    return value
