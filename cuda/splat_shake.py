"""Gaussians that show next to nothing, moved about."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.cuda.backend import backend_of
from polyfield.cuda.counter_random import int32, random_unit
from polyfield.cuda.kernel import constant, kernel, launch
from polyfield.cuda.rotations import matrices

DEAD, STEEP = 0.005, 100.0
STILL = 1e-6  # of the strength, below which nothing is moved


@torch.no_grad()
def splat_shake_(
    means: Float[Tensor, "n 3"],
    log_scales: Float[Tensor, "n 3"],
    quaternions: Float[Tensor, "n 4"],
    opacity_logits: Float[Tensor, " n"],
    reach: float,
    seed: int,
    stream: int = 0,
) -> None:
    """Adds to means reach times each one's covariance times normal noise times its strength.

    The strength is 1 / (1 + exp(100 (opacity - 0.005))), or 0 where that is below 1e-6. The noise
    is a function of (seed, stream, row). log_scales, quaternions, opacity_logits: as
    `splat_project` has them. float32 runs on kernels, the rest on the reference.
    Source: 3D Gaussian splatting as MCMC (arXiv:2404.09591), equation 8.
    """
    numbers = log_scales, quaternions, opacity_logits
    if backend_of(means.device) == "reference" or means.dtype != torch.float32:
        means += splat_shake_reference(*numbers, reach, seed, stream)
        return
    n = len(means)
    grid = -(-n // constant("splat_placed", "SPLAT_ROWS")), 1
    inputs = (tensor.contiguous() for tensor in numbers)
    sizes = n, reach, int32(seed), int32(stream)
    launch(kernel("splat_shake", "SplatShake"), grid, means, *inputs, *sizes)


def splat_shake_reference(
    log_scales: Float[Tensor, "n 3"],
    quaternions: Float[Tensor, "n 4"],
    opacity_logits: Float[Tensor, " n"],
    reach: float,
    seed: int,
    stream: int,
) -> Float[Tensor, "n 3"]:
    """How far each is moved: the specification in plain torch, any floating type."""
    index = 4 * torch.arange(len(log_scales), device=log_scales.device)[:, None]
    drawn = random_unit(seed, stream, (index + torch.arange(4, device=index.device)).view(-1))
    size, angle = drawn.view(-1, 2, 2).to(log_scales).unbind(2)
    size, angle = (-2 * (1 - size).log()).sqrt(), 2 * torch.pi * angle
    noise = torch.stack([size * angle.cos(), size * angle.sin()], 2).flatten(1)[:, :3]
    strength = 1 / (1 + (STEEP * (opacity_logits.sigmoid() - DEAD)).exp())
    strength = torch.where(strength > STILL, strength, torch.zeros_like(strength))
    axes = matrices(quaternions)
    along = (2 * log_scales).exp()[:, :, None] * (axes.mT @ noise[:, :, None])
    return reach * strength[:, None] * (axes @ along)[:, :, 0]
