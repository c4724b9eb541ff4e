"""Colours of Gaussians as a camera sees them: spherical harmonics of the way to each."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from polyfield.cuda.backend import backend_of
from polyfield.cuda.errors import InputError
from polyfield.cuda.kernel import constant, kernel, launch
from polyfield.cuda.spherical_harmonics import spherical_harmonics_reference
from polyfield.cuda.splat_project import gradients_at

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
    order and with the signs of `spherical_harmonics`. index: the Gaussians that are asked for, none
    twice. Differentiable once in means, harmonics and eye; what is cut at 0 has no gradient.
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
    basis = spherical_harmonics_reference(way, degree)
    held = harmonics[index, : basis.shape[1]]
    return (MIDDLE + (basis[:, :, None] * held).sum(1)).clamp_min(0)


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
        to_means, to_harmonics = gradients_at(index, means, harmonics)
        to_eye = means.new_zeros(max(1, _tiles(index)), 3)
        inputs = means, harmonics, eye, index, colors, grad_colors.contiguous()
        body = kernel("splat_color", "SplatColorPull")
        launch(body, (_tiles(index), 1), *inputs, to_means, to_harmonics, to_eye, *ctx.sizes)
        return to_means, to_harmonics, to_eye.sum(0), None, None


def _tiles(index: Tensor) -> int:
    return -(-len(index) // constant("splat_color", "COLOR_ROWS"))
