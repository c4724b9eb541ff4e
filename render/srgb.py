"""The curve between light and the numbers that image files hold."""

import torch
from jaxtyping import Float
from torch import Tensor


def linear_from_srgb(color: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Light of sRGB-encoded colours, both in [0, 1]. Source: IEC 61966-2-1."""
    return torch.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4)


def srgb_from_linear(light: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The inverse of linear_from_srgb."""
    curve = 1.055 * light.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(light <= 0.0031308, light * 12.92, curve)
