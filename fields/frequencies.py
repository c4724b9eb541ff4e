"""Sines and cosines of doubling frequencies: at points or over rooms, all or one by one."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def encode_frequencies(
    x: Float[Tensor, "n d"],
    frequencies: int,
    variance: Float[Tensor, "n d"] | None = None,
    weights: Float[Tensor, " frequencies"] | None = None,
) -> Float[Tensor, "n width"]:
    """x, then for each k < frequencies sin(2^k x) and cos(2^k x): width d + 2 d * frequencies.

    x in radians, from -1 to 1. variance: of a normal distribution about x along each axis; waves
    are then their means over it, exp(-4^k variance / 2) as high. weights: of each frequency, see
    `opened_weights`; x itself keeps its own. Source: the code of NeRF (arXiv:2003.08934), which
    leaves out pi; means: mip-NeRF (arXiv:2103.13415), eq. 13 and 14.
    """
    powers = 2.0 ** torch.arange(frequencies, dtype=x.dtype, device=x.device)
    angles = x[:, None, :] * powers[:, None]
    waves = torch.stack([angles.sin(), angles.cos()], 2)
    if variance is not None:
        height = torch.exp(-0.5 * variance[:, None, :] * powers.square()[:, None])
        waves = waves * height[:, :, None]
    if weights is not None:
        waves = waves * weights.to(waves)[:, None, None]
    return torch.cat([x, waves.flatten(1)], 1)


def opened_weights(count: int, opened: Tensor | float) -> Float[Tensor, " {count}"]:
    """The weight of each of `count` bands when `opened` of them are: from coarse to fine.

    (1 - cos(pi clamp(opened - k, 0, 1))) / 2 for band k: each rises smoothly from 0 to 1 while
    `opened` goes from k to k + 1. Source: BARF (arXiv:2104.06405), eq. 14.
    """
    there = torch.as_tensor(opened, dtype=torch.float32)
    band = torch.arange(count, dtype=torch.float32, device=there.device)
    return 0.5 * (1 - torch.cos(math.pi * (there - band).clamp(0, 1)))
