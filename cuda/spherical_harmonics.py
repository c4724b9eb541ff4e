"""Real spherical harmonics of directions, the view dependence of radiance fields."""

from __future__ import annotations

import math
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.cuda.backend import backend_of
from polyfield.cuda.errors import InputError
from polyfield.cuda.kernel import constant, kernel, launch
from polyfield.cuda.operator import define

HIGHEST_DEGREE = 7


def spherical_harmonics(
    directions: Float[Tensor, "n 3"], degree: int
) -> Float[Tensor, "n {(degree+1)**2}"]:
    """The (degree + 1)^2 real spherical harmonics of unit directions, differentiable.

    degree: highest band, 0 to 7 (tiny-cuda-nn's "degree 4" is 3 here). Band l occupies l^2 to
    (l+1)^2 - 1, order m = -l..l; signs as in 3DGS and tiny-cuda-nn (Condon-Shortley). Polynomials
    in x, y, z: nothing is normalised. Raises InputError for another degree.
    """
    if not 0 <= degree <= HIGHEST_DEGREE:
        raise InputError("spherical_harmonics: degree", str(degree), f"0 to {HIGHEST_DEGREE}")
    if backend_of(directions.device) == "reference" or directions.dtype != torch.float32:
        return spherical_harmonics_reference(directions, degree)
    return _SphericalHarmonics.apply(directions, degree)


def spherical_harmonics_reference(
    directions: Float[Tensor, "n 3"], degree: int
) -> Float[Tensor, "n {(degree+1)**2}"]:
    """The specification in plain torch: Legendre recurrence in z times the parts of (x + iy)^m."""
    x, y, z = directions.unbind(1)
    out: list[Tensor] = [x] * (degree + 1) ** 2
    re, im = torch.ones_like(x), torch.zeros_like(x)
    for m in range(degree + 1):
        before, value = torch.zeros_like(x), torch.full_like(x, start_of_order(m))
        for band in range(m, degree + 1):
            if band > m:
                a, b = step_coefficients(band, m)
                before, value = value, a * z * value - b * before
            out[band * band + band + m] = value * re
            if m:
                out[band * band + band - m] = value * im
        re, im = re * x - im * y, re * y + im * x
    return torch.stack(out, 1)


def start_of_order(m: int) -> float:
    """The harmonic of band m and order m, without its factor (x + iy)^m."""
    value = math.sqrt(1 / (4 * math.pi))
    for k in range(1, m + 1):
        value *= -math.sqrt((2 * k + 1) / (2 * k))
    return value * (math.sqrt(2) if m else 1)


def step_coefficients(band: int, m: int) -> tuple[float, float]:
    """a and b of value[band] = a z value[band - 1] - b value[band - 2], normalised harmonics."""
    a = math.sqrt((4 * band**2 - 1) / (band**2 - m**2))
    lower = band - 1
    b = a * math.sqrt((lower**2 - m**2) / (4 * lower**2 - 1)) if lower > m else 0.0
    return a, b


@cache
def _coefficients(degree: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    bands = degree + 1
    start = torch.tensor([start_of_order(m) for m in range(bands)])
    steps = torch.zeros(2, bands, bands)
    for band in range(bands):
        for m in range(band):
            steps[:, band, m] = torch.tensor(step_coefficients(band, m))
    return start.to(device), steps[0].contiguous().to(device), steps[1].contiguous().to(device)


def _grid(directions: Tensor) -> tuple[int, int]:
    return -(-len(directions) // constant("spherical_harmonics", "DIRECTIONS")), 1


def _evaluate(directions: Tensor, degree: int) -> Tensor:
    directions = directions.contiguous()
    out = directions.new_empty(len(directions), (degree + 1) ** 2)
    body = kernel("spherical_harmonics", "SphericalHarmonics")
    coefficients = _coefficients(degree, directions.device)
    launch(body, _grid(directions), directions, *coefficients, out, len(directions), degree + 1)
    return out


def _evaluate_backward(directions: Tensor, grad: Tensor, degree: int) -> Tensor:
    directions, grad = directions.contiguous(), grad.contiguous()
    out = torch.empty_like(directions)
    body = kernel("spherical_harmonics", "SphericalHarmonicsBackward")
    coefficients = _coefficients(degree, directions.device)
    launch(
        body, _grid(directions), directions, grad, *coefficients, out, len(directions), degree + 1
    )
    return out


_forward = define(
    "spherical_harmonics(Tensor directions, int degree) -> Tensor",
    _evaluate,
    lambda directions, degree: directions.new_empty(directions.shape[0], (degree + 1) ** 2),
)
_backward = define(
    "spherical_harmonics_backward(Tensor directions, Tensor grad, int degree) -> Tensor",
    _evaluate_backward,
    lambda directions, grad, degree: torch.empty_like(directions),
)


class _SphericalHarmonics(torch.autograd.Function):
    @staticmethod
    def forward(ctx, directions: Tensor, degree: int) -> Tensor:
        ctx.save_for_backward(directions)
        ctx.degree = degree
        return _forward(directions, degree)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        return _backward(ctx.saved_tensors[0], grad, ctx.degree), None
