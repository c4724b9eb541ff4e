"""What training minimises: colour errors a ray, and penalties on how a ray's weights spread."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

HUBER_EDGE = 0.1  # where the square ends and the straight line begins


def squared_error(
    prediction: Float[Tensor, "rays channels"], target: Float[Tensor, "rays channels"]
) -> Float[Tensor, " rays"]:
    """Squared difference, mean over the channels of each ray. Gradient 2 d / channels."""
    return (prediction - target).square().mean(1)


def huber(
    prediction: Float[Tensor, "rays channels"], target: Float[Tensor, "rays channels"]
) -> Float[Tensor, " rays"]:
    """Square near zero, straight line beyond: an outlier pulls with a bounded force.

    With d = prediction - target: d^2 where |d| <= 0.1, else (|d| - 0.05) / 5; mean over channels of
    each ray. Gradient 2 d / channels, beyond 0.1 sign(d) / 5 / channels; value and gradient are
    continuous. Near zero it is the squared error, so printed values read as such.
    Source: instant-ngp (arXiv:2201.05989), whose Huber loss of edge 0.1 is divided by 5.
    """
    size = (prediction - target).abs()
    inside = size.clamp(max=HUBER_EDGE)
    # Two smooth parts instead of a choice: at the edge the second has value and slope zero.
    return (inside.square() + 2 * HUBER_EDGE * (size - inside)).mean(1)


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
    counts = ray_offsets.diff()
    ray = torch.repeat_interleave(counts)
    # float64: sums over the whole batch are large, and only differences inside one ray count.
    first = ray_offsets[:-1][ray]
    mass = weights.double()
    place = midpoints.detach().double()
    length = lengths.detach().double()
    mass_before = _sum_before(mass, first)
    moment_before = _sum_before(mass * place, first)
    apart = 2 * mass * (place * mass_before - moment_before)
    within = mass.square() * length / 3
    value = mass.new_zeros(len(counts)).index_add(0, ray, apart + within)
    return value.to(weights.dtype)


def _sum_before(values: Tensor, first: Tensor) -> Tensor:
    """Sum of the earlier samples of the same ray, whose first sample is named for each."""
    running = torch.cat([values.new_zeros(1), values.cumsum(0)])[:-1]
    return running - running[first]
