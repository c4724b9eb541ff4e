"""Gaussians on a sensor drawn front to back, with the gradients of that."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from polyfield.cuda.backend import backend_of
from polyfield.cuda.kernel import constant, kernel, launch
from polyfield.cuda.splat_bin import splat_bin
from polyfield.cuda.splat_project import FAINTEST, Projected

MOST = 0.99  # of an opacity
LEAST = 1e-4  # of a transmittance: a pixel is done before it falls to that
WIDTHS = (1, 3, 4, 8)  # channels that a kernel is compiled for
HALF = 0.5


class Drawn(NamedTuple):
    """What a view of Gaussians shows."""

    sums: Float[Tensor, "views height width c"]
    """Channels by weight: opacity times what is left of the light before it; and the background."""
    left: Float[Tensor, "views height width"]
    """The transmittance behind all of them."""
    half: Float[Tensor, "views height width"] | None
    """Depth of the last Gaussian before which more than a half was left; 0 for none. None unless
    asked for."""


def splat_raster(
    seen: Projected,
    channels: Float[Tensor, "v c"],
    width: int,
    height: int,
    view: Int[Tensor, " v"] | None = None,
    views: int = 1,
    spread: Float[Tensor, "v 2"] | None = None,
    half: bool = False,
    background: Float[Tensor, " c"] | None = None,
) -> Drawn:
    """Images of Gaussians, composited by depth; of those as deep the lower row comes first.

    A pixel takes opacity * exp(-q / 2) of each, q the conic's square of the way from its middle,
    0.99 at the most; leaves out what is under 1 / 255; and is done before its transmittance falls
    to 1e-4: a Gaussian that would make it so is left out too. view: which of several views each row
    belongs to. Any number of channels. background: what is seen of each where light is left; 0
    where none is given. Differentiable once in means2d, conics, opacities, channels and background,
    through sums and left. spread: its gradient is none of the images but, summed over pixels, the
    absolute gradient to means2d: what says that a Gaussian is pulled to several sides.
    half: with the depth where half of the light is gone. float32 runs on kernels, and on a CPU
    repeats bit for bit; the rest runs on the reference, which knows no spread.
    Source: 3D Gaussian splatting (arXiv:2308.04079); AbsGS (arXiv:2404.10484) for `spread`.
    """
    if backend_of(channels.device) == "reference" or channels.dtype != torch.float32:
        return splat_raster_reference(seen, channels, width, height, view, views, half, background)
    bins = splat_bin(Projected(*(column.detach() for column in seen)), width, height, view, views)
    parts: list[Tensor] = []
    for first in range(0, max(1, channels.shape[1]), WIDTHS[-1]):
        part = channels[:, first : first + WIDTHS[-1]]
        behind = None if background is None else background[first : first + WIDTHS[-1]]
        kept = part.shape[1]
        wide = next(count for count in WIDTHS if count >= kept)
        if wide > kept:
            part = torch.nn.functional.pad(part, (0, wide - kept))
            behind = None if behind is None else torch.nn.functional.pad(behind, (0, wide - kept))
        size = views, height, width, half and not parts
        sums, left, depth = _Raster.apply(*seen[1:], part, spread, behind, bins, size)
        if not parts:
            first_left, first_depth = left, depth
        parts.append(sums[..., :kept])
    sums = parts[0] if len(parts) == 1 else torch.cat(parts, 3)
    return Drawn(sums, first_left, first_depth if half else None)


def splat_raster_reference(
    seen: Projected,
    channels: Float[Tensor, "v c"],
    width: int,
    height: int,
    view: Int[Tensor, " v"] | None = None,
    views: int = 1,
    half: bool = False,
    background: Float[Tensor, " c"] | None = None,
) -> Drawn:
    """The specification in plain torch, any floating type: one Gaussian after another."""
    like = channels
    if view is None:
        view = torch.zeros(len(channels), dtype=torch.int64, device=like.device)
    x = torch.arange(width, dtype=like.dtype, device=like.device) + 0.5
    y = torch.arange(height, dtype=like.dtype, device=like.device)[:, None] + 0.5
    images = []
    for number in range(views):
        left, depth = like.new_ones(height, width), like.new_zeros(height, width)
        sums = like.new_zeros(height, width, channels.shape[1])
        done = torch.zeros_like(left, dtype=torch.bool)
        rows = torch.nonzero(view == number)[:, 0]
        for row in rows[seen.depths[rows].detach().argsort(stable=True)]:
            (mx, my), (a, b, c) = seen.means2d[row], seen.conics[row]
            dx, dy = mx - x, my - y
            exponent = (-0.5 * (a * dx**2 + c * dy**2) - b * dx * dy).clamp_max(0)
            alpha = seen.opacities[row] * exponent.exp()
            counts = ~done & (alpha >= FAINTEST)
            alpha = torch.where(counts, alpha.clamp_max(MOST), torch.zeros_like(alpha))
            after = left * (1 - alpha)
            ends = counts & (after <= LEAST)
            done = done | ends
            adds = counts & ~ends
            weight = torch.where(adds, alpha * left, torch.zeros_like(alpha))
            depth = torch.where(adds & (left > HALF), seen.depths[row].detach(), depth)
            sums = sums + weight[..., None] * channels[row]
            left = torch.where(adds, after, left)
        if background is not None:
            sums = sums + left[..., None] * background
        images.append((sums, left, depth))
    sums, left, depth = (torch.stack(column) for column in zip(*images, strict=True))
    return Drawn(sums, left, depth if half else None)


class _Raster(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, means2d, conics, opacities, depths, extents, channels, spread, background, bins, size
    ):
        views, height, width, halved = size
        inputs = [t.contiguous() for t in (means2d, conics, opacities, extents, channels)]
        n, count = channels.shape
        sources = channels.new_empty(n, constant("splat_raster", "RASTER_SUMS") + WIDTHS[-1])
        rows = -(-n // constant("wide", "WIDE_PIXELS")), 1
        launch(kernel("splat_raster", f"SplatSources<{count}>"), rows, *inputs, sources, n)
        sums = channels.new_empty(views, height, width, count)
        left = channels.new_empty(views, height, width)
        half = channels.new_empty(views, height, width) if halved else left.new_empty(0)
        squares = len(bins.starts) - 1
        last = torch.empty(squares, dtype=torch.int32, device=channels.device)
        pairs = bins.order, bins.owners, bins.starts
        sizes = width, height, -(-width // 16), -(-height // 16)
        body = kernel("splat_raster", f"SplatRaster<{count}>")
        out = sums, left, half if halved else None, last
        behind = None if background is None else background.contiguous()
        launch(body, (squares, 1), sources, depths.contiguous(), *pairs, behind, *out, *sizes)
        walk = sources, *pairs, sums, left, last
        ctx.save_for_backward(inputs[1], inputs[2], bins.offsets, *walk)
        ctx.count, ctx.rows = count, rows
        ctx.sizes = sizes
        ctx.mark_non_differentiable(half)
        ctx.set_materialize_grads(True)
        return sums, left, half

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_sums, grad_left, _):
        conics, opacities, offsets, *walk = ctx.saved_tensors
        owners, left, last = walk[2], walk[5], walk[6]
        count, n = ctx.count, len(conics)
        pairs = conics.new_empty(len(owners), constant("splat_raster", "RASTER_SUMS") + count)
        body = kernel("splat_raster", f"SplatRasterPull<{count}>")
        grads = grad_sums.contiguous(), grad_left.contiguous()
        sized = ctx.needs_input_grad[6]
        launch(body, (len(last), 1), *walk, *grads, pairs, *ctx.sizes, int(sized))
        to_means2d, to_conics, spread = (conics.new_empty(n, width) for width in (2, 3, 2))
        to_opacities, to_channels = conics.new_empty(n), conics.new_empty(n, count)
        found = to_means2d, to_conics, to_opacities, to_channels, spread
        gather = kernel("splat_raster", f"SplatGather<{count}>")
        launch(gather, ctx.rows, conics, opacities, pairs, offsets, *found, n)
        size = spread if sized else None
        to_background = None
        if ctx.needs_input_grad[7]:
            to_background = (grad_sums * left[..., None]).sum((0, 1, 2))
        found = to_means2d, to_conics, to_opacities, None, None, to_channels, size
        return *found, to_background, None, None
