"""Colours of Gaussians as a camera sees them: spherical harmonics of the way to each."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from polyfield.cuda.backend import backend_of
from polyfield.cuda.errors import InputError
from polyfield.cuda.kernel import constant, kernel, launch

MOST_DEGREE = 3
MIDDLE = 0.5  # added to what the functions say


def splat_color(
    means: Float[Tensor, "n 3"],
    harmonics: Float[Tensor, "n k 3"],
    eye: Float[Tensor, " 3"],
    index: Int64[Tensor, " v"],
    degree: int | None = None,
) -> Float[Tensor, "v 3"]:
    """0.5 and the sum of harmonics [k] times the k-th function of the way from the eye, at least 0.

    k = (d + 1)^2 functions of degree d, of which those up to `degree` are taken, at most 3; in the
    order and with the signs of `harmonics_basis`. index: the Gaussians that are asked for, none of
    them twice. Differentiable once in means, harmonics and eye; what is cut at 0 has no gradient.
    float32 runs on kernels, the rest on the reference. Raises InputError for another number of
    functions, or a degree beyond them. Source: 3D Gaussian splatting (arXiv:2308.04079).
    """
    held = harmonics.shape[1]
    degree = min(MOST_DEGREE, math.isqrt(held) - 1) if degree is None else degree
    if math.isqrt(held) ** 2 != held or not 0 <= degree <= min(MOST_DEGREE, math.isqrt(held) - 1):
        got = f"degree {degree} of {held} functions"
        raise InputError("splat_color", got, "a square number of functions, degree 0 to 3 of them")
    if backend_of(means.device) == "reference" or means.dtype != torch.float32:
        return splat_color_reference(means, harmonics, eye, index, degree)
    return _Color.apply(means, harmonics, eye, index, (degree + 1) ** 2)


def splat_color_reference(
    means: Float[Tensor, "n 3"],
    harmonics: Float[Tensor, "n k 3"],
    eye: Float[Tensor, " 3"],
    index: Int64[Tensor, " v"],
    degree: int,
) -> Float[Tensor, "v 3"]:
    """The specification in plain torch, any floating type."""
    way = torch.nn.functional.normalize(means[index] - eye, dim=1, eps=1e-20)
    basis = harmonics_basis(way, degree)
    held = harmonics[index, : basis.shape[1]]
    return (MIDDLE + (basis[:, :, None] * held).sum(1)).clamp_min(0)


def harmonics_basis(way: Float[Tensor, "n 3"], degree: int) -> Float[Tensor, "n k"]:
    """Real spherical harmonics of unit vectors to a degree of 3 at most, orthonormal.

    Function l^2 + l + m; those of odd m have the sign of Condon and Shortley, as in 3D Gaussian
    splatting.
    """
    x, y, z = way.unbind(1)
    xx, yy, zz = x * x, y * y, z * z
    a, b, c = 0.4886025119029199, 1.0925484305920792, 0.31539156525252005
    d, e, f = 0.5900435899266435, 0.4570457994644658, 1.445305721320277
    functions = [
        torch.full_like(x, 0.28209479177387814),
        *(-a * y, a * z, -a * x),
        *(b * x * y, -b * y * z, c * (2 * zz - xx - yy), -b * x * z, 0.5 * b * (xx - yy)),
        *(-d * y * (3 * xx - yy), 2 * f * x * y * z, -e * y * (4 * zz - xx - yy)),
        0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy),
        *(-e * x * (4 * zz - xx - yy), f * z * (xx - yy), -d * x * (xx - 3 * yy)),
    ]
    return torch.stack(functions[: (degree + 1) ** 2], 1)


class _Color(torch.autograd.Function):
    @staticmethod
    def forward(ctx, means, harmonics, eye, index, count):
        inputs = [t.contiguous() for t in (means, harmonics, eye, index)]
        colors = means.new_empty(len(index), 3)
        sizes = len(index), harmonics.shape[1], count
        launch(kernel("splat_color", "SplatColor"), (_tiles(index), 1), *inputs, colors, *sizes)
        ctx.save_for_backward(*inputs, colors)
        ctx.sizes = sizes
        return colors

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_colors):
        means, harmonics, eye, index, colors = ctx.saved_tensors
        to_means, to_harmonics = torch.zeros_like(means), torch.zeros_like(harmonics)
        to_eye = means.new_zeros(max(1, _tiles(index)), 3)
        inputs = means, harmonics, eye, index, colors, grad_colors.contiguous()
        body = kernel("splat_color", "SplatColorPull")
        launch(body, (_tiles(index), 1), *inputs, to_means, to_harmonics, to_eye, *ctx.sizes)
        return to_means, to_harmonics, to_eye.sum(0), None, None


def _tiles(index: Tensor) -> int:
    return -(-len(index) // constant("splat_color", "COLOR_ROWS"))
