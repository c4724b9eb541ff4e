"""How far the weights of a ray lie apart: a penalty on fog and on several surfaces in a row."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def distortion(
    weights: Float[Tensor, " samples"],
    midpoints: Float[Tensor, " samples"],
    lengths: Float[Tensor, " samples"],
    ray_offsets: Int[Tensor, " rays_and_end"],
) -> Float[Tensor, " rays"]:
    """How far each ray's weights lie apart: small where they gather in one short interval.

    A ray's value is sum_ij w_i w_j |m_i - m_j| + sum_i w_i^2 d_i / 3 over its samples, in the unit
    of midpoints m and lengths d, here in linear time. Samples of ray r lie at ray_offsets[r] to
    ray_offsets[r + 1], midpoints ascending; a ray without samples gives zero. Differentiable in the
    weights only: a gradient to the positions would pull samples together instead of matter.
    Source: mip-NeRF 360 (arXiv:2111.12077), eq. 15.
    """
    return _Distortion.apply(weights, midpoints.detach(), lengths.detach(), ray_offsets)


class _Distortion(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weights: Tensor, midpoints: Tensor, lengths: Tensor, offsets: Tensor):
        rays = len(offsets) - 1
        ray = torch.repeat_interleave(offsets.diff())
        first = offsets[:-1][ray].long()
        last = offsets[1:][ray].long()
        # float64: sums over the whole batch are large, and only differences inside one ray count.
        mass, place = weights.double(), midpoints.double()
        moment = mass * place
        mass_before, mass_after = _sums_beside(mass, first, last)
        moment_before, moment_after = _sums_beside(moment, first, last)
        before = place * mass_before - moment_before
        after = moment_after - place * mass_after
        alone = mass * lengths.double() / 3
        value = mass.new_zeros(rays).index_add(0, ray, mass * (2 * before + alone))
        slope = 2 * (before + after + alone)
        ctx.save_for_backward(slope.to(weights.dtype), ray)
        return value.to(weights.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        slope, ray = ctx.saved_tensors
        return grad[ray] * slope, None, None, None


def _sums_beside(values: Tensor, first: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of the earlier and of the later samples of a ray, from `first` to before `end`."""
    running = torch.cat([values.new_zeros(1), values.cumsum(0)])
    return running[:-1] - running[first], running[end] - running[1:]
