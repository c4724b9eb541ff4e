"""How alike two images are: in structure (SSIM), and number by number; and the gradient of that."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import conv2d

from polyfield.cuda.backend import backend_of
from polyfield.cuda.errors import InputError
from polyfield.cuda.kernel import kernel, launch

FLAT, EVEN = 0.01**2, 0.03**2
REACH, WIDTH = 5, 1.5  # pixels
SIDE = 16  # of the squares that kernels take


def ssim(
    x: Float[Tensor, "images height width c"], y: Float[Tensor, "images height width c"]
) -> Float[Tensor, ""]:
    """The mean structural similarity of images of numbers from 0 to 1; 1 for the same.

    Over all pixels and channels: windows of 11 x 11 pixels weighted by a Gaussian of 1.5, and 0
    beyond the border. Differentiable once, in x alone. float32 runs on kernels, and on a CPU
    repeats bit for bit; the rest runs on the reference. Raises InputError for images of different
    shapes or without a pixel. Source: Wang et al. (2004); padding as in 3D Gaussian splatting.
    """
    _check("ssim", x, y)
    if backend_of(x.device) == "reference" or x.dtype != torch.float32:
        return ssim_reference(x, y)
    return _Mix.apply(x, y, 1.0, 0.0)


def image_error(
    x: Float[Tensor, "images height width c"],
    y: Float[Tensor, "images height width c"],
    structure: float = 0.2,
) -> Float[Tensor, ""]:
    """What images lack of being the same: 1 less their SSIM, and their mean absolute difference.

    structure: weight of the first; the second has the rest of 1. As `ssim` in all else.
    Source: 3D Gaussian splatting (arXiv:2308.04079), equation 7.
    """
    _check("image_error", x, y)
    if backend_of(x.device) == "reference" or x.dtype != torch.float32:
        return structure * (1 - ssim_reference(x, y)) + (1 - structure) * (x - y).abs().mean()
    return structure + _Mix.apply(x, y, -structure, 1 - structure)


def ssim_reference(
    x: Float[Tensor, "images height width c"], y: Float[Tensor, "images height width c"]
) -> Float[Tensor, ""]:
    """The specification in plain torch, any floating type."""
    away = torch.arange(-REACH, REACH + 1, dtype=torch.float64)
    weight = (-(away**2) / (2 * WIDTH**2)).exp()
    weight = (weight / weight.sum()).to(x)
    window = (weight[:, None] * weight)[None, None]
    x, y = (image.permute(0, 3, 1, 2).flatten(0, 1)[:, None] for image in (x, y))

    def mean(values: Tensor) -> Tensor:
        return conv2d(values, window, padding=REACH)

    mean_x, mean_y = mean(x), mean(y)
    a = mean_x**2 + mean_y**2 + FLAT
    b = mean(x * x) - mean_x**2 + mean(y * y) - mean_y**2 + EVEN
    c = 2 * mean_x * mean_y + FLAT
    d = 2 * (mean(x * y) - mean_x * mean_y) + EVEN
    return (c * d / (a * b)).mean()


class _Mix(torch.autograd.Function):
    """So much of the likeness, and so much of the mean absolute difference."""

    @staticmethod
    def forward(ctx, x: Tensor, y: Tensor, of_likeness: float, of_difference: float) -> Tensor:
        x, y = x.contiguous(), y.contiguous()
        images, height, width, channels = x.shape
        columns, rows = -(-width // SIDE), -(-height // SIDE)
        planes, squares = images * channels, columns * rows
        sums = x.new_empty(2, planes * squares)
        slopes = x.new_empty(3, planes, height, width) if ctx.needs_input_grad[0] else None
        sizes = planes, channels, width, height, columns
        launch(kernel("ssim", "Ssim"), (squares, planes), x, y, sums, slopes, *sizes, squares)
        weights = torch.tensor([of_likeness, of_difference], device=x.device) / x.numel()
        if slopes is not None:
            ctx.save_for_backward(x, y, slopes, weights)
        ctx.sizes, ctx.grid = sizes, (squares, planes)
        return (sums.sum(1, dtype=torch.float64) @ weights.double()).float()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        x, y, slopes, weights = ctx.saved_tensors
        out = torch.empty_like(x)
        inputs = x, y, slopes, grad * weights
        launch(kernel("ssim", "SsimPull"), ctx.grid, *inputs, out, *ctx.sizes)
        return out, None, None, None


def _check(name: str, x: Tensor, y: Tensor) -> None:
    if x.shape != y.shape or not x.numel():
        raise InputError(name, f"{tuple(x.shape)} and {tuple(y.shape)}", "one shape, not empty")
