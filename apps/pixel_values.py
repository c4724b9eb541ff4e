"""What numbers of images mean: as files hold them, as fields learn them, as viewers show them."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.render.srgb import srgb_from_linear

Values = Literal["srgb", "linear"]
"""srgb: channels from 0 to 1; linear: light of any size, at least 0."""


def learned_values(pixels: Float[Tensor, "*shape"], values: Values) -> Float[Tensor, "*shape"]:
    """As fields learn them: sRGB itself, or log(1 + light)."""
    return pixels if values == "srgb" else torch.log1p(pixels.clamp_min(0))


def file_values(learned: Float[Tensor, "*shape"], values: Values) -> Float[Tensor, "*shape"]:
    """The inverse of `learned_values`, within the range of what files hold."""
    return learned.clamp(0, 1) if values == "srgb" else torch.expm1(learned).clamp_min(0)


def shown_values(pixels: Float[Tensor, "*shape"], values: Values) -> Float[Tensor, "*shape"]:
    """As a viewer shows them: sRGB, of light what lies between 0 and 1."""
    return pixels if values == "srgb" else srgb_from_linear(pixels.clamp(0, 1))
