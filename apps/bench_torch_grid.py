"""The hash grid in plain torch, as fast as we know to write it: an opponent of the kernels."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier

import torch
from jaxtyping import Float, Int32
from torch import Tensor
from torch.nn.functional import embedding_bag

from polyfield.cuda.hash_grid import PRIMES, HashGridLayout


def torch_hash_grid(
    x: Float[Tensor, "n 3"],
    table: Float[Tensor, "{layout.entries} 2"],
    layout: HashGridLayout,
) -> Float[Tensor, "n {layout.width}"]:
    """`hash_grid` for 3 dimensions, 2 features and linear interpolation, by operations of torch.

    Differentiable in the table only. Of the forms that were compared, this was the fastest:
    look-up and blend are one embedding_bag with 32-bit indices; the gradient goes into the table
    as complex numbers, for index_add_ along one dimension is a plain loop and along rows of two it
    is not; and threads divide the levels, each with a single-threaded torch, for the operations are
    too short to be divided themselves. Indices and weights are kept from the forward pass.
    """
    return _TorchGrid.apply(x, table, layout)


def corners(
    columns: Float[Tensor, "3 n"], layout: HashGridLayout, level: int
) -> tuple[Int32[Tensor, "n 8"], Float[Tensor, "n 8"]]:
    """The entries of a level around each point, and their weights."""
    size, side = layout.offsets[level + 1] - layout.offsets[level], layout.resolutions[level]
    position = columns * layout.scales[level] + 0.5
    node = position.int()
    upper = position - node
    hashed = layout.hashed[level]
    # Products wrap at 32 bits, which keeps the low bits that a table's size asks for.
    strides = [prime - ((prime >> 31) << 32) for prime in PRIMES] if hashed else [1, side, side**2]
    step = torch.tensor(strides[:3], dtype=torch.int32)[:, None]
    low = node * step
    # A row for each corner, its number's lowest bit along the first axis: long rows are quick.
    parts = torch.stack([low, low + step], 1)
    index_x, index_y, index_z = (
        parts[0][None, None],
        parts[1][None, :, None],
        parts[2][:, None, None],
    )
    weights = torch.stack([1 - upper, upper], 1)
    weight = weights[2][:, None, None] * weights[1][None, :, None] * weights[0][None, None]
    if hashed:
        index = (index_z ^ index_y ^ index_x) & (size - 1)
    else:
        index = index_z + index_y + index_x
        index = torch.where(index >= size, index - size, index)
    return index.view(8, -1).T.contiguous(), weight.view(8, -1).T.contiguous()


class _TorchGrid(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, table: Tensor, layout: HashGridLayout) -> Tensor:
        columns = x.clamp(0, 1).T.contiguous()
        tables = [table[a:b] for a, b in _spans(layout)]

        def encode(level: int) -> tuple[Tensor, ...]:
            index, weight = corners(columns, layout, level)
            found = embedding_bag(index, tables[level], per_sample_weights=weight, mode="sum")
            return index, weight, found

        results = _each_level(encode, layout)
        ctx.corners, ctx.layout = [result[:2] for result in results], layout
        return torch.cat([result[2] for result in results], 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        layout = ctx.layout
        gradient = torch.zeros(layout.entries, 2)
        tables = [torch.view_as_complex(gradient[a:b]) for a, b in _spans(layout)]

        def scatter(level: int) -> tuple[Tensor, ...]:
            index, weight = ctx.corners[level]
            pair = torch.view_as_complex(grad[:, 2 * level : 2 * level + 2].contiguous())
            tables[level].index_add_(0, index.view(-1), (weight * pair[:, None]).view(-1))
            return ()

        _each_level(scatter, layout)
        return None, gradient, None


def _spans(layout: HashGridLayout) -> list[tuple[int, int]]:
    return list(zip(layout.offsets, layout.offsets[1:], strict=False))


def _each_level(
    work: Callable[[int], tuple[Tensor, ...]], layout: HashGridLayout
) -> list[tuple[Tensor, ...]]:
    # Whether gradients are recorded is a setting of each thread.
    quiet = torch.no_grad()(work)
    return list(_workers(torch.get_num_threads()).map(quiet, range(layout.levels)))


@cache
def _workers(threads: int) -> ThreadPoolExecutor:
    """As many threads, on each of which torch keeps to that thread."""
    pool = ThreadPoolExecutor(threads)
    meeting = Barrier(threads)

    def begin(_: int) -> None:
        meeting.wait()  # or one thread would take several turns, and another none
        torch.set_num_threads(1)

    list(pool.map(begin, range(threads)))
    torch.set_num_threads(threads)  # what a thread that is yet to come begins with
    return pool
