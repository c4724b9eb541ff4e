"""A radiance field on a hash grid while tiny-cuda-nn computes it: in files it is one of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyfield.cuda.errors import InputError
from polyfield.cuda.mlp import truncated_exponential
from polyfield.fields.field import TrainableField
from polyfield.fields.tiny_cuda_nn import network_to_json
from polyfield.fields.tiny_cuda_nn_radiance import (
    RadianceParameters,
    radiance_from_flat,
    radiance_to_flat,
)


@runtime_checkable
class TinyCudaNn(Protocol):
    """What is used of the module `tinycudann`: modules of torch whose one parameter is `params`."""

    def NetworkWithInputEncoding(
        self,
        n_input_dims: int,
        n_output_dims: int,
        encoding_config: Mapping[str, object],
        network_config: Mapping[str, object],
    ) -> nn.Module:
        """A grid and the network behind it; `params` holds the network first."""
        ...

    def Network(
        self, n_input_dims: int, n_output_dims: int, network_config: Mapping[str, object]
    ) -> nn.Module:
        """A network alone, whose padded inputs are ones."""
        ...


class TinyCudaNnRadiance(nn.Module):
    """The same field as a `Radiance` on a hash grid, its grid and networks in tiny-cuda-nn's hands.

    What it takes and gives is the `Radiance`'s, computed in the precision of the library (half).
    Parameters are its two flat vectors; `state_dict` and `load_state_dict` speak of the tensors of
    the `Radiance`, so that files do not depend on the library. Raises InputError for another field,
    and for one with a code for the light of each photograph, which its layout has no place for.
    Source: tiny-cuda-nn's DOCUMENTATION.md and bindings/torch.
    """

    learning_rate = 1e-2
    weight_decay = 0.0  # the grid lies in one vector with a network, and must not decay
    cones = costly = False
    codes: nn.Parameter | None = None

    def __init__(self, field: TrainableField, library: TinyCudaNn):
        super().__init__()
        if field.codes is not None:
            got = "a field with a code for each photograph"
            raise InputError("TinyCudaNnRadiance", got, "none", "Leave --appearance out.")
        self.config, parameters = radiance_to_flat(field, "directions")
        self.warp = field.warp
        self._encode_directions = field.encode_directions
        widths, neurons = self.config.density_widths, self.config.n_neurons
        self.density_network = library.NetworkWithInputEncoding(
            n_input_dims=3,
            n_output_dims=widths[-1],
            encoding_config=self.config.grid.to_json(),
            network_config=network_to_json(neurons, 1),
        )
        self.color_network = library.Network(
            n_input_dims=widths[-1] + self.config.degree**2,
            n_output_dims=3,
            network_config=network_to_json(neurons, 2) | {"output_activation": "Sigmoid"},
        )
        self._take(parameters)

    def density(self, x: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 16"]]:
        """Density and the features that `color` takes. x in the unit cube."""
        warped = x if self.warp is None else self.warp(x)
        features = _rows(self.density_network, warped, self.config.density_widths[-1])
        return truncated_exponential(features[:, 0]), features

    def encode_directions(
        self, directions: Float[Tensor, "r 3"], codes: Float[Tensor, "r k"] | None = None
    ) -> Float[Tensor, "r h"]:
        """Spherical harmonics of unit directions."""
        return self._encode_directions(directions, codes)

    def color(
        self, features: Float[Tensor, "n 16"], harmonics: Float[Tensor, "n h"]
    ) -> Float[Tensor, "n 3"]:
        """Colour in [0, 1] from the features of `density` and encoded directions, a row each."""
        return _rows(self.color_network, torch.cat([harmonics, features], 1), 3)

    def state_dict(self) -> dict[str, Tensor]:  # type: ignore[override]
        """The tensors of the `Radiance` that computes the same, see `radiance_from_flat`."""
        return radiance_from_flat(self.config, self._flat()).state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:  # type: ignore[override]
        """Takes on the tensors of a `Radiance` of the same sizes."""
        field = radiance_from_flat(self.config, self._flat())
        field.load_state_dict(state_dict)
        self._take(radiance_to_flat(field, "directions")[1])

    def _flat(self) -> RadianceParameters:
        return RadianceParameters(_params(self.density_network), _params(self.color_network))

    def _take(self, parameters: RadianceParameters) -> None:
        """Raises InputError where the library lays its parameters out in another number."""
        both = ((self.density_network, parameters.density), (self.color_network, parameters.color))
        for network, flat in both:
            params = _params(network)
            if len(params) != len(flat):
                raise InputError(
                    "parameters of the installed tiny-cuda-nn",
                    f"{len(params):,} numbers",
                    f"{len(flat):,}, as version 2 lays them out",
                    "Train without --networks tiny-cuda-nn.",
                )
            params.data.copy_(flat)


def _params(network: nn.Module) -> Tensor:
    params = network.params
    if not isinstance(params, Tensor):
        raise InputError("tiny-cuda-nn", "a module without params", "its torch bindings")
    return params


def _rows(network: nn.Module, x: Tensor, width: int) -> Tensor:
    """What the network makes of rows, in float32: kernels of no block are not launched."""
    if not len(x):
        return _params(network)[:0].view(0, 1).expand(0, width)
    return network(x.contiguous()).float()
