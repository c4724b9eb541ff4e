"""Features of positions on planes along the axes: tri-planes, K-planes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property, reduce
from operator import add, mul
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.cuda.backend import backend_of
from polyfield.cuda.errors import InputError
from polyfield.cuda.kernel import Kernel, constant, kernel, launch
from polyfield.cuda.large_pages import in_large_pages
from polyfield.cuda.operator import define

CHANNELS = 8  # of a block: numbers that lie side by side
PAIRS = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))  # axes of a plane, the earlier one first
MOST_SIDE = 1 << 15
Combine = Literal["product", "sum"]


@dataclass(frozen=True)
class PlaneLayout:
    """Where the nodes of all planes lie in the table [entries, 8].

    dimensions 2 to 4; resolutions: nodes along an axis, of each scale; the planes of each pair of
    axes hold `channels` numbers a node, a multiple of 8, which lie in blocks of 8: [scale, block,
    pair, node of the later axis, node of the earlier axis, 8]. combine: what the planes of a scale
    hold at a point is multiplied, or summed. Raises InputError naming the value out of range.
    """

    dimensions: int = 3
    resolutions: tuple[int, ...] = (64, 128, 256)
    channels: int = 16
    combine: Combine = "product"

    def __post_init__(self) -> None:
        allowed = {
            "dimensions": (self.dimensions in (2, 3, 4), "2, 3 or 4"),
            "resolutions": (
                1 <= len(self.resolutions) <= 16
                and all(2 <= side <= MOST_SIDE for side in self.resolutions),
                f"1 to 16 numbers from 2 to {MOST_SIDE}",
            ),
            "channels": (
                self.channels % CHANNELS == 0 and 0 < self.channels <= 1024,
                "a multiple of 8, at most 1024",
            ),
            "combine": (self.combine in ("product", "sum"), "product or sum"),
        }
        for name, (sound, expected) in allowed.items():
            if not sound:
                raise InputError(f"PlaneLayout.{name}", repr(getattr(self, name))[:80], expected)
        if self.entries >= 1 << 28:
            raise InputError("PlaneLayout", f"{self.entries} entries", "fewer than 2^28")

    @cached_property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """The axes of each plane of a scale."""
        return PAIRS[: self.dimensions * (self.dimensions - 1) // 2]

    @property
    def blocks(self) -> int:
        """Blocks of channels in a scale."""
        return self.channels // CHANNELS

    @property
    def width(self) -> int:
        """Features of a point: every scale's channels, one scale after the other."""
        return len(self.resolutions) * self.channels

    @cached_property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of each scale: sides, first entry of each pair's plane in block 0, entries of a block."""
        rows, begin = [], 0
        for side in self.resolutions:
            block = len(self.pairs) * side**2
            starts = range(begin, begin + block, side**2)
            rows.append((*[side] * self.dimensions, *starts, block))
            begin += self.blocks * block
        return tuple(rows)

    @cached_property
    def entries(self) -> int:
        """Rows of the table."""
        return sum(row[-1] for row in self.shapes) * self.blocks

    def planes(self, table: Float[Tensor, "entries 8"], scale: int) -> list[Tensor]:
        """Views of a scale's planes, one a pair: [blocks, later axis, earlier axis, 8]."""
        side, shape = self.resolutions[scale], self.shapes[scale]
        first, block = shape[self.dimensions], shape[-1]
        whole = table[first : first + self.blocks * block]
        return list(whole.view(self.blocks, -1, side, side, CHANNELS).unbind(1))


def planes(
    x: Float[Tensor, "n {layout.dimensions}"],
    table: Float[Tensor, "{layout.entries} 8"],
    layout: PlaneLayout,
) -> Float[Tensor, "n {layout.width}"]:
    """What all planes hold at points of the unit cube, scale by scale.

    Interpolated linearly between nodes, of which the first and last lie on the cube's faces; x
    outside is clamped to it, with zero gradient. Differentiable once, in x and table; the gradient
    in x jumps at every cell's border. float32 runs on kernels, any other type on the reference. On
    a CPU sums repeat bit for bit for any number of threads. Source: K-Planes (arXiv:2301.10241).
    """
    if backend_of(x.device) == "reference" or x.dtype != torch.float32:
        return planes_reference(x, table, layout)
    return _Encode.apply(x.clamp(0, 1), table, values_of(layout))


def planes_reference(
    x: Float[Tensor, "n {layout.dimensions}"],
    table: Float[Tensor, "{layout.entries} 8"],
    layout: PlaneLayout,
) -> Float[Tensor, "n {layout.width}"]:
    """The specification in plain torch: a gather a corner, any floating type."""
    x = x.clamp(0, 1)
    out = []
    for scale, side in enumerate(layout.resolutions):
        position = x * (side - 1)
        node = position.detach().long().clamp_max(side - 2)
        past = position - node
        samples = []
        for (a, b), plane in zip(layout.pairs, layout.planes(table, scale), strict=True):
            across, along = past[:, a, None], past[:, b, None]
            corners = [
                weight_a * weight_b * plane[:, node[:, b] + down, node[:, a] + right]
                for right, weight_a in ((0, 1 - across), (1, across))
                for down, weight_b in ((0, 1 - along), (1, along))
            ]
            samples.append(sum(corners[1:], corners[0]))
        combined = reduce(mul if layout.combine == "product" else add, samples)
        out.append(combined.transpose(0, 1).reshape(len(x), layout.channels))
    return torch.cat(out, 1)


@torch.no_grad()
def scatter_planes(
    x: Float[Tensor, "n {layout.dimensions}"],
    table: Float[Tensor, "{layout.entries} 8"],
    grad_out: Float[Tensor, "n {layout.width}"],
    layout: PlaneLayout,
    out: Float[Tensor, "{layout.entries} 8"],
) -> None:
    """Adds to `out` the gradient to the table of (planes(x, table) . grad_out)."""
    if backend_of(x.device) == "reference" or table.dtype != torch.float32:
        with torch.enable_grad():
            leaf = table.detach().requires_grad_()
            features = planes_reference(x.detach(), leaf, layout)
        out += torch.autograd.grad(features, leaf, grad_out)[0]
        return
    _launch("PlaneScatter", (x, table, grad_out, out), layout, layout.blocks * len(layout.shapes))


@cache
def _shape_tensor(layout: PlaneLayout, device: torch.device) -> Tensor:
    return torch.tensor(layout.shapes, dtype=torch.int32).to(device)


def values_of(layout: PlaneLayout) -> list[int]:
    """The layout as plain numbers, which is how operators pass it."""
    product = int(layout.combine == "product")
    return [layout.dimensions, layout.channels, product, *layout.resolutions]


@cache
def _layout_of(*values: int) -> PlaneLayout:
    dimensions, channels, product, *resolutions = values
    combine: Combine = "product" if product else "sum"
    return PlaneLayout(dimensions, tuple(resolutions), channels, combine)


def _body(name: str, layout: PlaneLayout) -> Kernel:
    return kernel("planes", f"{name}<{layout.dimensions}>")


def _launch(name: str, tensors: tuple[Tensor, ...], layout: PlaneLayout, rows: int = 1) -> None:
    x = tensors[0]
    sizes = len(x), len(layout.resolutions), layout.blocks, int(layout.combine == "product")
    tiles = -(-len(x) // constant("planes", "PLANE_POINTS"))
    whole = (*(t.contiguous() for t in tensors[:-1]), tensors[-1], _shape_tensor(layout, x.device))
    owned: Literal["owned", "shared"] = "owned" if name == "PlaneScatter" else "shared"
    launch(_body(name, layout), (tiles, rows), *whole, *sizes, rows=owned)


def _run_encode(x: Tensor, table: Tensor, values: list[int]) -> Tensor:
    layout = _layout_of(*values)
    out = x.new_empty(len(x), layout.width)
    _launch("PlaneEncode", (x, table, out), layout)
    return out


def _run_scatter(x: Tensor, table: Tensor, grad: Tensor, values: list[int]) -> Tensor:
    layout = _layout_of(*values)
    out = in_large_pages(torch.empty_like(table, memory_format=torch.contiguous_format)).zero_()
    scatter_planes(x, table, grad, layout, out)
    return out


def _run_pull(x: Tensor, table: Tensor, grad: Tensor, values: list[int]) -> Tensor:
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    _launch("PlanePull", (x, table, grad, out), _layout_of(*values))
    return out


_encode = define(
    "plane_encode(Tensor x, Tensor table, int[] layout) -> Tensor",
    _run_encode,
    lambda x, table, layout: x.new_empty(x.shape[0], _layout_of(*layout).width),
)
_scatter = define(
    "plane_scatter(Tensor x, Tensor table, Tensor grad, int[] layout) -> Tensor",
    _run_scatter,
    lambda x, table, grad, layout: torch.empty_like(table, memory_format=torch.contiguous_format),
)
_pull = define(
    "plane_pull(Tensor x, Tensor table, Tensor grad, int[] layout) -> Tensor",
    _run_pull,
    lambda x, table, grad, layout: torch.empty_like(x, memory_format=torch.contiguous_format),
)


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, table: Tensor, layout: list) -> Tensor:
        ctx.save_for_backward(x, table)
        ctx.layout = layout
        return _encode(x, table, layout)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        x, table = ctx.saved_tensors
        grad_x = _pull(x, table, grad, ctx.layout) if ctx.needs_input_grad[0] else None
        grad_table = _scatter(x, table, grad, ctx.layout) if ctx.needs_input_grad[1] else None
        return grad_x, grad_table, None
