"""Radiance head: density and view-dependent colour from any encoding of position."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from polyfield.cuda.errors import InputError
from polyfield.cuda.mlp import initial_weights, mlp, truncated_exponential
from polyfield.cuda.radiance import FEATURES
from polyfield.cuda.spherical_harmonics import spherical_harmonics
from polyfield.fields.appearance import appearance_codes, with_code
from polyfield.fields.field import Encoding


class Radiance(nn.Module):
    """encoding -> density network -> colour network, as in Instant-NGP, without biases.

    density [n] = exp(first feature), at least 0, in 1 / side of the unit cube; colour [n, 3] in
    [0, 1] from all 16 features, the spherical harmonics of the direction and, where `appearance`
    is not 0, a code of so many numbers for each of the photographs. warp: what positions go
    through before they are encoded, within the unit cube. Raises InputError for a width or degree
    that the kernels do not take.
    Source: Instant Neural Graphics Primitives (arXiv:2201.05989), section 5.4.
    """

    learning_rate = 1e-2
    cones = costly = False

    def __init__(
        self,
        encoding: Encoding,
        hidden: int = 64,
        harmonics_degree: int = 3,
        appearance: int = 0,
        photographs: int = 0,
        *,
        warp: nn.Module | None = None,
        generator: Generator | None = None,
    ):
        super().__init__()
        if not 0 <= harmonics_degree <= 7:
            raise InputError("Radiance", f"harmonics of degree {harmonics_degree}", "0 to 7")
        self.encoding, self.warp = encoding, warp
        self.harmonics_degree = harmonics_degree
        self.codes = appearance_codes(photographs, appearance)
        harmonics = (harmonics_degree + 1) ** 2 + appearance
        self.density_widths = (encoding.width, hidden, FEATURES)
        self.color_widths = (FEATURES + harmonics, hidden, hidden, 3)
        self.density_weights = nn.Parameter(initial_weights(self.density_widths, generator))
        self.color_weights = nn.Parameter(initial_weights(self.color_widths, generator))

    def density(self, x: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 16"]]:
        """Density and the features that `color` takes. x in the unit cube."""
        features = self.features(x)
        return truncated_exponential(features[:, 0]), features

    def features(self, x: Float[Tensor, "n 3"]) -> Float[Tensor, "n 16"]:
        """What the density network makes of positions. x in the unit cube."""
        encoded = self.encoding(x if self.warp is None else self.warp(x))
        return mlp(encoded, self.density_weights, self.density_widths, "relu", "none")

    def encode_directions(
        self, directions: Float[Tensor, "r 3"], codes: Float[Tensor, "r k"] | None = None
    ) -> Float[Tensor, "r h"]:
        """Spherical harmonics of unit directions, and a code of the light."""
        harmonics = spherical_harmonics(directions, self.harmonics_degree)
        return with_code(harmonics, self.codes, codes)

    def color(
        self, features: Float[Tensor, "n 16"], harmonics: Float[Tensor, "n h"]
    ) -> Float[Tensor, "n 3"]:
        """Colour in [0, 1] from the features of `density` and encoded directions, a row each."""
        both = torch.cat([features, harmonics], 1)
        return mlp(both, self.color_weights, self.color_widths, "relu", "sigmoid")


def take_colors(field: object, other: object) -> bool:
    """Gives a field the colour network of another, where both have one alike; whether they do.

    What features mean is then the same in both.
    """
    if not isinstance(field, Radiance) or not isinstance(other, Radiance):
        return False
    alike = field.codes is None and other.codes is None
    if not alike or field.color_widths != other.color_widths:
        return False
    with torch.no_grad():
        field.color_weights.copy_(other.color_weights)
    return True
