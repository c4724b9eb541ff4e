"""What is seen along rays whose density and colour are series: from coefficients to pixels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.cuda.backend import backend_of
from polyfield.cuda.errors import InputError
from polyfield.cuda.kernel import constant, kernel, launch
from polyfield.cuda.operator import define

MOST_COEFFICIENTS = 32
DENSEST = 15.0  # logarithm of a density, beyond which it does not grow
STOP = 1e-4  # of the light; what is behind it nobody sees


class RayProfile(NamedTuple):
    """What reaches the eye along each ray."""

    color: Float[Tensor, "rays 3"]
    """Without a background: that is color + (1 - opacity) * background."""
    opacity: Float[Tensor, " rays"]
    middle: Float[Tensor, " rays"]
    """Sum of places by their weights, in parts of the interval; over opacity it is their mean."""
    weights: Float[Tensor, "rays samples"] | None
    """Of the samples in these sums; None unless asked for."""


def ray_profile(
    coefficients: Float[Tensor, "rays count 4"],
    basis: Float[Tensor, "samples count"],
    place: Float[Tensor, " samples"],
    length: Float[Tensor, " samples"],
    *,
    weights: bool = False,
    stop: float = STOP,
) -> RayProfile:
    """Emission and absorption along rays, from the coefficients of their series to their pixels.

    The series (basis @ coefficients) are the logarithm of density, in 1 / a ray's interval, and the
    logits of R, G, B. The samples are the same for all rays, nearest first: place and length are in
    parts of the interval, length >= 0; the interval ends where the last one does, and what lies
    behind it is the caller's. A logarithm above 15 counts as 15. Samples that less than `stop` of
    the light reaches are left out. Differentiable in the coefficients. Raises InputError for sizes
    that disagree, or a number of coefficients that is no multiple of 4 up to 32.
    Source: NeRDF (arXiv:2308.11130), with an exponential in place of its ReLU.
    """
    samples, count = basis.shape
    if count % 4 or not 4 <= count <= MOST_COEFFICIENTS:
        expected = f"a multiple of 4 from 4 to {MOST_COEFFICIENTS}"
        raise InputError("ray_profile: basis", f"{count} columns", expected)
    shapes = tuple(coefficients.shape[1:]), tuple(place.shape), tuple(length.shape)
    if shapes != ((count, 4), (samples,), (samples,)):
        expected = f"{((count, 4), (samples,), (samples,))}, as the basis"
        raise InputError("ray_profile: coefficients of a ray, place, length", f"{shapes}", expected)
    if not 0 < stop <= 1:
        raise InputError("ray_profile: stop", str(stop), "above 0, at most 1")
    fixed = basis.detach(), place.detach(), length.detach()
    if backend_of(coefficients.device) == "reference" or coefficients.dtype != torch.float32:
        return ray_profile_reference(coefficients, *fixed, weights=weights, stop=stop)
    color, opacity, middle, found = _RayProfile.apply(coefficients, *fixed, weights, stop)
    return RayProfile(color, opacity, middle, found if weights else None)


def ray_profile_reference(
    coefficients: Float[Tensor, "rays count 4"],
    basis: Float[Tensor, "samples count"],
    place: Float[Tensor, " samples"],
    length: Float[Tensor, " samples"],
    *,
    weights: bool = False,
    stop: float = STOP,
) -> RayProfile:
    """The specification in plain torch, in any floating type."""
    series = torch.einsum("jk,rkc->rjc", basis, coefficients)
    depth = series[..., 0].clamp(max=DENSEST).exp() * length
    before = torch.cat([torch.zeros_like(depth[:, :1]), depth[:, :-1].cumsum(1)], 1)
    light = torch.exp(-before)
    light = light * (light.detach() >= stop)
    found = light * -torch.expm1(-depth)
    color = (found[..., None] * series[..., 1:].sigmoid()).sum(1)
    return RayProfile(color, found.sum(1), found @ place, found if weights else None)


def _grid(rays: int) -> tuple[int, int]:
    return -(-rays // constant("ray_profile", "PROFILE_RAYS")), 1


def _run(
    coefficients: Tensor, basis: Tensor, place: Tensor, length: Tensor, weights: bool, stop: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    inputs = [x.contiguous() for x in (coefficients, basis, place, length)]
    out = _empty(coefficients, basis, place, length, weights, stop)
    body, rays = kernel("ray_profile", "RayProfile"), len(coefficients)
    slots = *out[:3], out[3] if weights else None
    launch(body, _grid(rays), *inputs, *slots, stop, rays, *basis.shape)
    return out


def _empty(
    coefficients: Tensor, basis: Tensor, place: Tensor, length: Tensor, weights: bool, stop: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rays, samples = coefficients.shape[0], basis.shape[0] if weights else 0
    each = coefficients.new_empty(rays), coefficients.new_empty(rays)
    # Zeros: what lies behind the last sample that light reaches is never written.
    return coefficients.new_empty(rays, 3), *each, coefficients.new_zeros(rays, samples)


def _run_backward(
    coefficients: Tensor,
    basis: Tensor,
    place: Tensor,
    length: Tensor,
    total: Tensor,
    grad_color: Tensor,
    grad_opacity: Tensor,
    grad_middle: Tensor,
    grad_weights: Tensor | None,
    stop: float,
) -> Tensor:
    inputs = [x.contiguous() for x in (coefficients, basis, place, length, total)]
    grads = [
        None if g is None else g.contiguous()
        for g in (grad_color, grad_opacity, grad_middle, grad_weights)
    ]
    out = torch.empty_like(inputs[0])
    body, rays = kernel("ray_profile", "RayProfileBackward"), len(coefficients)
    launch(body, _grid(rays), *inputs, *grads, out, stop, rays, *basis.shape)
    return out


_forward = define(
    "ray_profile(Tensor coefficients, Tensor basis, Tensor place, Tensor length, bool weights,"
    " float stop) -> (Tensor, Tensor, Tensor, Tensor)",
    _run,
    _empty,
)
_backward = define(
    "ray_profile_backward(Tensor coefficients, Tensor basis, Tensor place, Tensor length,"
    " Tensor total, Tensor grad_color, Tensor grad_opacity, Tensor grad_middle,"
    " Tensor? grad_weights, float stop) -> Tensor",
    _run_backward,
    lambda coefficients, *rest: coefficients.new_empty(coefficients.shape),
)


class _RayProfile(torch.autograd.Function):
    @staticmethod
    def forward(ctx, coefficients, basis, place, length, weights, stop):
        found = _forward(coefficients, basis, place, length, weights, stop)
        ctx.save_for_backward(coefficients, basis, place, length, *found)
        ctx.weights, ctx.stop = weights, stop
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_color, grad_opacity, grad_middle, grad_weights):
        *inputs, color, opacity, middle, weights = ctx.saved_tensors
        total = (grad_color * color).sum(1) + grad_opacity * opacity + grad_middle * middle
        if ctx.weights:
            total = total + (grad_weights * weights).sum(1)
        direct = grad_weights if ctx.weights else None
        grads = grad_color, grad_opacity, grad_middle, direct
        return _backward(*inputs, total, *grads, ctx.stop), None, None, None, None, None
