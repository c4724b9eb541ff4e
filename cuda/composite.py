"""Emission and absorption along packed rays: what reaches the eye, and what light still gets to."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int32
from torch import Tensor

from polyfield.cuda.backend import backend_of
from polyfield.cuda.errors import InputError
from polyfield.cuda.kernel import constant, kernel, launch
from polyfield.cuda.operator import define


class Composite(NamedTuple):
    """Sums of each ray, and the weight of each sample in them."""

    values: Float[Tensor, "rays channels"]
    opacity: Float[Tensor, " rays"]
    weights: Float[Tensor, " samples"]


def composite(
    density: Float[Tensor, " samples"],
    length: Float[Tensor, " samples"],
    values: Float[Tensor, "samples channels"],
    ray_offsets: Int32[Tensor, " rays_and_end"],
) -> Composite:
    """What reaches the eye along each ray: emission and absorption, front to back.

    density >= 0 and finite, in 1 / scene unit; length >= 0 in scene units. Samples of ray r lie at
    ray_offsets[r] to ray_offsets[r + 1], nearest first; the first offset is 0, the last the number
    of samples; a ray without samples gives zeros. The background is the caller's: values +
    (1 - opacity) * background. Differentiable in density, length and values, by way of all three
    results. Raises InputError where ray_offsets is empty or sizes disagree.
    Source: NeRF (arXiv:2003.08934), eq. 3.
    """
    _check("composite", density, length, ray_offsets)
    if len(values) != len(density):
        raise InputError("composite: values", f"{len(values)} rows", f"{len(density)}, as density")
    if backend_of(density.device) == "reference" or density.dtype != torch.float32:
        return composite_reference(density, length, values, ray_offsets)
    return Composite(*_Composite.apply(density, length, values, ray_offsets))


def composite_reference(
    density: Float[Tensor, " samples"],
    length: Float[Tensor, " samples"],
    values: Float[Tensor, "samples channels"],
    ray_offsets: Int32[Tensor, " rays_and_end"],
) -> Composite:
    """The specification in plain torch."""
    ray = torch.repeat_interleave(ray_offsets.diff())
    depth = density * length
    before = _depth_before(depth, ray_offsets, ray)
    weights = torch.exp(-before).to(depth.dtype) * -torch.expm1(-depth)
    empty = values.new_zeros(len(ray_offsets) - 1, values.shape[1])
    opacity = depth.new_zeros(len(ray_offsets) - 1).index_add(0, ray, weights)
    return Composite(empty.index_add(0, ray, weights[:, None] * values), opacity, weights)


def visible_samples(
    density: Float[Tensor, " samples"],
    length: Float[Tensor, " samples"],
    ray_offsets: Int32[Tensor, " rays_and_end"],
    stop: float = 1e-4,
) -> Bool[Tensor, " samples"]:
    """Which samples light still reaches: transmittance before them is at least `stop`, in (0, 1].

    Arguments as composite takes them. The samples of a ray that are kept are its first ones. Not
    differentiable. Raises InputError for another stop.
    """
    _check("visible_samples", density, length, ray_offsets)
    if not 0 < stop <= 1:
        raise InputError("visible_samples: stop", str(stop), "above 0, at most 1")
    density, length = density.detach().contiguous(), length.detach().contiguous()
    if backend_of(density.device) == "reference" or density.dtype != torch.float32:
        ray = torch.repeat_interleave(ray_offsets.diff())
        return _depth_before(density * length, ray_offsets, ray) <= -math.log(stop)
    kept = torch.empty_like(density, dtype=torch.bool)
    body, rays = kernel("composite", "VisibleSamples"), len(ray_offsets) - 1
    launch(body, _grid(rays), density, length, ray_offsets, kept, -math.log(stop), rays)
    return kept


def _depth_before(depth: Tensor, ray_offsets: Tensor, ray: Tensor) -> Tensor:
    # One running sum over the batch, less its value where the ray starts. In float64: the
    # difference of two large float32 sums has no digits left for the last rays of a batch.
    running = torch.cat([depth.new_zeros(1, dtype=torch.float64), depth.double().cumsum(0)])
    return running[:-1] - running[ray_offsets[:-1].long()][ray]


def _check(where: str, density: Tensor, length: Tensor, ray_offsets: Tensor) -> None:
    if len(density) != len(length):
        raise InputError(
            f"{where}: length", f"{len(length)} samples", f"{len(density)}, as density"
        )
    if len(ray_offsets) == 0:
        raise InputError(f"{where}: ray_offsets", "empty", "one entry a ray and one for the end")


def _grid(rays: int) -> tuple[int, int]:
    return -(-rays // constant("composite", "COMPOSITE_RAYS")), 1


def _run(
    density: Tensor, length: Tensor, values: Tensor, ray_offsets: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    inputs = [x.contiguous() for x in (density, length, values, ray_offsets)]
    out = _empty(*inputs)
    rays, channels = out[0].shape
    launch(kernel("composite", "Composite"), _grid(rays), *inputs, *out, rays, channels)
    return out


def _empty(
    density: Tensor, length: Tensor, values: Tensor, ray_offsets: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rays = ray_offsets.shape[0] - 1
    composed = values.new_empty(rays, values.shape[1])
    return composed, values.new_empty(rays), torch.empty_like(density), torch.empty_like(density)


def _run_backward(
    density: Tensor,
    length: Tensor,
    values: Tensor,
    ray_offsets: Tensor,
    weights: Tensor,
    transmittance: Tensor,
    grad_composed: Tensor | None,
    grad_opacity: Tensor | None,
    grad_weights: Tensor | None,
    of_length: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    inputs = [
        x.contiguous() for x in (density, length, values, ray_offsets, weights, transmittance)
    ]
    rays, channels = len(ray_offsets) - 1, values.shape[1]
    if grad_composed is None:
        grad_composed = values.new_zeros(rays, channels)
    if grad_opacity is None:
        grad_opacity = values.new_zeros(rays)
    grads = [
        g if g is None else g.contiguous() for g in (grad_composed, grad_opacity, grad_weights)
    ]
    out = _empty_gradients(*inputs[:3], of_length=of_length)
    grad_density, grad_length, grad_values = out
    slots = grad_density, grad_length if of_length else None, grad_values
    body = kernel("composite", "CompositeBackward")
    launch(body, _grid(rays), *inputs, *grads, *slots, rays, channels)
    return out


def _empty_gradients(
    density: Tensor, length: Tensor, values: Tensor, *rest: Tensor | None, of_length: bool
) -> tuple[Tensor, Tensor, Tensor]:
    grad_length = torch.empty_like(length) if of_length else length.new_empty(0)
    return torch.empty_like(density), grad_length, torch.empty_like(values)


_forward = define(
    "composite(Tensor density, Tensor length, Tensor values, Tensor ray_offsets)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    _run,
    _empty,
)
_backward = define(
    "composite_backward(Tensor density, Tensor length, Tensor values, Tensor ray_offsets,"
    " Tensor weights, Tensor transmittance, Tensor? grad_composed, Tensor? grad_opacity,"
    " Tensor? grad_weights, bool of_length)"
    " -> (Tensor, Tensor, Tensor)",
    _run_backward,
    lambda *inputs: _empty_gradients(*inputs[:-1], of_length=inputs[-1]),
)


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(ctx, density: Tensor, length: Tensor, values: Tensor, ray_offsets: Tensor):
        composed, opacity, weights, transmittance = _forward(density, length, values, ray_offsets)
        ctx.save_for_backward(density, length, values, ray_offsets, weights, transmittance)
        ctx.set_materialize_grads(False)
        return composed, opacity, weights

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_composed, grad_opacity, grad_weights):
        of_length = ctx.needs_input_grad[1]
        grads = grad_composed, grad_opacity, grad_weights
        of_inputs = _backward(*ctx.saved_tensors, *grads, of_length)
        return of_inputs[0], of_inputs[1] if of_length else None, of_inputs[2], None
