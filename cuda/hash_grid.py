"""The multiresolution hash encoding of positions, with first and second derivatives."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass
from functools import cache, cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from polyfield.cuda.backend import backend_of
from polyfield.cuda.errors import InputError
from polyfield.cuda.kernel import Kernel, constant, kernel, launch
from polyfield.cuda.large_pages import in_large_pages
from polyfield.cuda.operator import define

CACHED_TABLE_BYTES = 16 << 20
PRIMES = (1, 2654435761, 805459861, 3674653429)


@dataclass(frozen=True)
class HashGridLayout:
    """Where the nodes of every level lie in the table: exactly tiny-cuda-nn's GridEncoding.

    dimensions 2 to 4; levels 1 to 64; features an entry 1, 2, 4 or 8; log2_table_size 3 to 28: at
    most that many entries a level; resolutions in nodes along an axis, 2 <= base <= finest. Growth
    is rounded to float32 as there, so the finest level may be one node off finest_resolution.
    smoothstep: interpolate with f^2 (3 - 2f), whose gradient is continuous, instead of f.
    Raises InputError naming the value out of range.
    """

    dimensions: int = 3
    levels: int = 16
    features: int = 2
    log2_table_size: int = 19
    base_resolution: int = 16
    finest_resolution: int = 2048
    smoothstep: bool = False

    def __post_init__(self) -> None:
        bounds: dict[str, tuple[int, ...] | range] = {
            "dimensions": (2, 3, 4),
            "levels": range(1, 65),
            "features": (1, 2, 4, 8),
            "log2_table_size": range(3, 29),
            "base_resolution": range(2, 1 << 24),
            "finest_resolution": range(self.base_resolution, 1 << 24),
        }
        for name, allowed in bounds.items():
            if getattr(self, name) not in allowed:
                expected = f"one of {allowed}" if isinstance(allowed, tuple) else _span(allowed)
                raise InputError(f"HashGridLayout.{name}", str(getattr(self, name)), expected)
        if self.entries >= 1 << 31:
            raise InputError("HashGridLayout", f"{self.entries} entries", "fewer than 2^31")

    @cached_property
    def growth(self) -> float:
        """Resolution of a level over that of the one before, a float32 value; 1 for one level."""
        if self.levels == 1:
            return 1.0
        ratio = self.finest_resolution / self.base_resolution
        return float(np.float32(math.exp(math.log(ratio) / (self.levels - 1))))

    @cached_property
    def scales(self) -> tuple[float, ...]:
        """Cells along an axis, of every level: float32 values."""
        # Each step in float64 and then rounded: numpy's float32 exp2 and log2 differ by a unit in
        # the last place between processors, and a table must mean the same on all of them.
        single = np.float32
        exponent = single(math.log2(self.growth))
        powers = [single(2.0 ** float(single(k) * exponent)) for k in range(self.levels)]
        return tuple(float(p * single(self.base_resolution) - single(1)) for p in powers)

    @cached_property
    def resolutions(self) -> tuple[int, ...]:
        """Nodes along an axis, of every level."""
        return tuple(math.ceil(scale) + 1 for scale in self.scales)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """The first entry of every level, and the number of entries."""
        offsets = [0]
        for side in self.resolutions:
            padded = (side**self.dimensions + 7) // 8 * 8
            offsets.append(offsets[-1] + min(padded, 1 << self.log2_table_size))
        return tuple(offsets)

    @cached_property
    def hashed(self) -> tuple[bool, ...]:
        """Whether a level has more nodes than entries."""
        sizes = (b - a for a, b in zip(self.offsets, self.offsets[1:], strict=False))
        nodes = (side**self.dimensions for side in self.resolutions)
        return tuple(n > size for n, size in zip(nodes, sizes, strict=True))

    @property
    def entries(self) -> int:
        """Rows of the table."""
        return self.offsets[-1]

    @property
    def width(self) -> int:
        """Features of a point."""
        return self.levels * self.features

    def index(self, level: int, nodes: Int[Tensor, "n d"]) -> Int[Tensor, " n"]:
        """The entry within its level of every node, int64.

        Where a level is not hashed, the node past the last continues in the next row.
        """
        size = self.offsets[level + 1] - self.offsets[level]
        if self.hashed[level]:
            mixed = nodes[:, 0]
            for axis in range(1, self.dimensions):
                mixed = mixed ^ (nodes[:, axis] * PRIMES[axis] & 0xFFFFFFFF)
            return mixed % size
        strides = [self.resolutions[level] ** axis for axis in range(self.dimensions)]
        return (nodes * nodes.new_tensor(strides)).sum(1) % size


def hash_grid(
    x: Float[Tensor, "n {layout.dimensions}"],
    table: Float[Tensor, "{layout.entries} {layout.features}"],
    layout: HashGridLayout,
) -> Float[Tensor, "n {layout.width}"]:
    """Interpolated features of points in the unit cube, level by level, coarsest first.

    x outside the cube is clamped to it, with zero gradient. Differentiable in x and table, twice:
    a loss on the gradient with respect to x (eikonal, normals) trains the table. Linear
    interpolation has jumps in that gradient at every cell face; such a loss wants smoothstep.
    float32 runs on kernels, any other type on the reference. On a CPU all sums repeat bit for bit
    for any number of threads. Source: instant-ngp (arXiv:2201.05989).
    """
    if backend_of(x.device) == "reference" or x.dtype != torch.float32:
        return hash_grid_reference(x, table, layout)
    return _Encode.apply(x.clamp(0, 1), table, [int(v) for v in astuple(layout)])


def hash_grid_reference(
    x: Float[Tensor, "n {layout.dimensions}"],
    table: Float[Tensor, "{layout.entries} {layout.features}"],
    layout: HashGridLayout,
) -> Float[Tensor, "n {layout.width}"]:
    """The specification in plain torch: one gather a corner, any floating type."""
    x = x.clamp(0, 1)
    out = []
    for level, scale in enumerate(layout.scales):
        position = x * scale + 0.5
        node = position.detach().floor()
        upper = position - node
        if layout.smoothstep:
            upper = upper * upper * (3 - 2 * upper)
        features = x.new_zeros(len(x), layout.features)
        for corner in range(1 << layout.dimensions):
            bits = [corner >> axis & 1 for axis in range(layout.dimensions)]
            index = layout.index(level, node.long() + torch.tensor(bits, device=x.device))
            factors = [
                upper[:, axis] if bit else 1 - upper[:, axis] for axis, bit in enumerate(bits)
            ]
            weight = torch.stack(factors, 1).prod(1)
            features = features + weight[:, None] * table[layout.offsets[level] + index]
        out.append(features)
    return torch.cat(out, 1)


def level_tensors(layout: HashGridLayout, device: torch.device) -> tuple[Tensor, Tensor]:
    """What kernels read: scales [levels], and [levels, 4] of side, size, offset, hashed."""
    return _level_tensors(layout, device)


def kernel_of(name: str, layout: HashGridLayout) -> Kernel:
    """The body for a layout's dimensions and features."""
    return kernel("hash_grid", f"{name}<{layout.dimensions}, {layout.features}>")


def tiles_of(x: Tensor) -> int:
    """Tiles of points."""
    return -(-len(x) // constant("hash_grid", "HASH_POINTS"))


@cache
def _level_tensors(layout: HashGridLayout, device: torch.device) -> tuple[Tensor, Tensor]:
    sizes = (b - a for a, b in zip(layout.offsets, layout.offsets[1:], strict=False))
    rows = zip(layout.resolutions, sizes, layout.offsets, layout.hashed, strict=False)
    shapes = torch.tensor([[int(v) for v in row] for row in rows], dtype=torch.int32)
    return torch.tensor(layout.scales).to(device), shapes.to(device)


@cache
def layout_of(*values: int) -> HashGridLayout:
    """The layout of numbers in the order of its fields, which is how operators pass it."""
    dimensions, levels, features, log2_size, base, finest, smooth = values
    return HashGridLayout(dimensions, levels, features, log2_size, base, finest, bool(smooth))


def _span(allowed: range) -> str:
    return f"{allowed.start} to {allowed.stop - 1}"


def _run_encode(x: Tensor, table: Tensor, tangent: Tensor | None, values: list[int]) -> Tensor:
    layout = layout_of(*values)
    # One level at a time where all of them together would not stay in a CPU's cache.
    tile_by_tile = backend_of(x.device) == "cpu" and table.numel() * 4 <= CACHED_TABLE_BYTES
    per_row = layout.levels if tile_by_tile else 1
    strides = _by_point(layout) if tile_by_tile else _by_level(layout, len(x))
    out = x.new_empty(len(x), layout.width)
    levels = level_tensors(layout, x.device)
    arguments = x.contiguous(), table.contiguous(), _contiguous(tangent), out, *levels
    sizes = len(x), layout.levels, int(layout.smoothstep), per_row
    grid = tiles_of(x), -(-layout.levels // per_row)
    launch(kernel_of("HashEncode", layout), grid, *arguments, *sizes, *strides)
    return out if tile_by_tile else _swapped(out, layout, back=False)


def _run_scatter(x: Tensor, grad: Tensor, tangent: Tensor | None, values: list[int]) -> Tensor:
    layout = layout_of(*values)
    out = in_large_pages(x.new_empty(layout.entries, layout.features)).zero_()
    parts = owners_of_a_level(layout, x.device)
    levels = level_tensors(layout, x.device)
    arguments = (
        x.contiguous(),
        _swapped(grad.contiguous(), layout, back=True),
        _contiguous(tangent),
        None,
        out,
        *[None] * 4,
        *levels,
    )
    sizes = len(x), layout.levels, int(layout.smoothstep), parts, *_by_level(layout, len(x))
    grid = tiles_of(x), layout.levels * parts
    launch(kernel_of("HashScatter", layout), grid, *arguments, *sizes, *[0.0] * 8, rows="owned")
    return out


def _swapped(features: Tensor, layout: HashGridLayout, back: bool) -> Tensor:
    """Numbers of [levels, n, features] in the order of [n, levels, features], or back."""
    out = torch.empty_like(features)
    body = kernel("hash_grid", f"HashRows<{layout.features}>")
    n = len(features)
    launch(body, (tiles_of(features), 1), features, out, n, layout.levels, int(back))
    return out


def _by_point(layout: HashGridLayout) -> tuple[int, int]:
    """From a point and from a level to the next, in features [n, levels, features]."""
    return layout.width, layout.features


def _by_level(layout: HashGridLayout, points: int) -> tuple[int, int]:
    """From a point and from a level to the next, in features [levels, n, features]."""
    return layout.features, points * layout.features


def _run_pull(
    x: Tensor, table: Tensor, grad: Tensor, tangent: Tensor | None, values: list[int]
) -> Tensor:
    layout = layout_of(*values)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    arguments = x.contiguous(), table.contiguous(), grad.contiguous(), _contiguous(tangent), out
    sizes = len(x), layout.levels, int(layout.smoothstep)
    levels = level_tensors(layout, x.device)
    launch(kernel_of("HashPull", layout), (tiles_of(x), 1), *arguments, *levels, *sizes)
    return out


def owners_of_a_level(layout: HashGridLayout, device: torch.device) -> int:
    """Into how many parts a level is divided when threads own parts: enough to keep them all busy.

    Every entry's sum has the order of the points, so the number changes no result.
    """
    if backend_of(device) != "cpu":
        return 1
    return max(1, -(-2 * torch.get_num_threads() // layout.levels))


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


_encode = define(
    "hash_encode(Tensor x, Tensor table, Tensor? tangent, int[] layout) -> Tensor",
    _run_encode,
    lambda x, table, tangent, layout: x.new_empty(x.shape[0], layout[1] * layout[2]),
)
_scatter = define(
    "hash_scatter(Tensor x, Tensor grad, Tensor? tangent, int[] layout) -> Tensor",
    _run_scatter,
    lambda x, grad, tangent, layout: x.new_empty(layout_of(*layout).entries, layout[2]),
)
_pull = define(
    "hash_pull(Tensor x, Tensor table, Tensor grad, Tensor? tangent, int[] layout) -> Tensor",
    _run_pull,
    lambda x, table, grad, tangent, layout: torch.empty_like(
        x, memory_format=torch.contiguous_format
    ),
)


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, table: Tensor, layout: list) -> Tensor:
        ctx.save_for_backward(x, table)
        ctx.layout = layout
        return _encode(x, table, None, layout)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, table = ctx.saved_tensors
        grad_x = _Pull.apply(x, table, grad, ctx.layout) if ctx.needs_input_grad[0] else None
        grad_table = _Scatter.apply(x, grad, ctx.layout) if ctx.needs_input_grad[1] else None
        return grad_x, grad_table, None


class _Scatter(torch.autograd.Function):
    """The gradient to the table: the transpose of the encoding, so its gradient is one again."""

    @staticmethod
    def forward(ctx, x: Tensor, grad: Tensor, layout: list) -> Tensor:
        ctx.save_for_backward(x, grad)
        ctx.layout = layout
        return _scatter(x, grad, None, layout)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, table: Tensor):
        x, grad = ctx.saved_tensors
        grad_x = _pull(x, table, grad, None, ctx.layout) if ctx.needs_input_grad[0] else None
        return grad_x, _encode(x, table, None, ctx.layout), None


class _Pull(torch.autograd.Function):
    """The gradient to x: linear in table and grad, so its gradients are the same bodies along q."""

    @staticmethod
    def forward(ctx, x: Tensor, table: Tensor, grad: Tensor, layout: list) -> Tensor:
        ctx.save_for_backward(x, table, grad)
        ctx.layout = layout
        return _pull(x, table, grad, None, layout)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, tangent: Tensor):
        x, table, grad = ctx.saved_tensors
        wanted, layout = ctx.needs_input_grad, ctx.layout
        grad_x = _pull(x, table, grad, tangent, layout) if wanted[0] else None
        grad_table = _scatter(x, grad, tangent, layout) if wanted[1] else None
        return grad_x, grad_table, _encode(x, table, tangent, layout) if wanted[2] else None, None
