"""How alike two images are in structure: SSIM, and its gradient."""

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
    if x.shape != y.shape or not x.numel():
        raise InputError("ssim", f"{tuple(x.shape)} and {tuple(y.shape)}", "one shape, not empty")
    if backend_of(x.device) == "reference" or x.dtype != torch.float32:
        return ssim_reference(x, y)
    return _Ssim.apply(x, y)


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


class _Ssim(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, y: Tensor) -> Tensor:
        x, y = _planes(x), _planes(y)
        images, channels, height, width = x.shape
        columns, rows = -(-width // SIDE), -(-height // SIDE)
        planes, squares = images * channels, columns * rows
        sums = x.new_empty(planes, squares)
        slopes = x.new_empty(3, *x.shape) if ctx.needs_input_grad[0] else None
        sizes = planes, width, height, columns
        launch(kernel("ssim", "Ssim"), (squares, planes), x, y, sums, slopes, *sizes, squares)
        if slopes is not None:
            ctx.save_for_backward(x, y, slopes)
        ctx.sizes, ctx.grid = sizes, (squares, planes)
        return (sums.double().sum() / x.numel()).float()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        x, y, slopes = ctx.saved_tensors
        out = torch.empty_like(x)
        scale = (grad / x.numel()).reshape(1).contiguous()
        launch(kernel("ssim", "SsimPull"), ctx.grid, x, y, slopes, scale, out, *ctx.sizes)
        return out.permute(0, 2, 3, 1), None


def _planes(images: Tensor) -> Tensor:
    """Channel by channel: rows of a square then lie together."""
    return images.permute(0, 3, 1, 2).contiguous()
