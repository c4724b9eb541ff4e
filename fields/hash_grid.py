"""Multiresolution hash grid: features interpolated from tables of many resolutions."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from polyfield.cuda.hash_grid import HashGridLayout, hash_grid
from polyfield.cuda.table_adam import hash_grid_adam_


class HashGrid(nn.Module):
    """x [n, dimensions] in the unit cube -> features [n, levels * features].

    Levels grow geometrically from base_resolution to finest_resolution; each holds at most
    2^log2_table_size entries, hashed where its grid has more. Outside the cube x is clamped.
    While `deferred` is a list, the backward pass appends (x, gradient of the features, which rows
    count or None for all) to it in place of a dense gradient of the table: the optimiser scatters
    it and steps in one go.
    Raises InputError (from the layout) for sizes that make no grid.
    Source: Instant Neural Graphics Primitives (arXiv:2201.05989); sizes as in tiny-cuda-nn.
    """

    def __init__(
        self,
        levels: int = 8,
        features: int = 4,
        log2_table_size: int = 16,
        base_resolution: int = 16,
        finest_resolution: int = 512,
        *,
        dimensions: int = 3,
        generator: Generator | None = None,
    ):
        super().__init__()
        self.layout = HashGridLayout(
            dimensions=dimensions,
            levels=levels,
            features=features,
            log2_table_size=log2_table_size,
            base_resolution=base_resolution,
            finest_resolution=finest_resolution,
            smoothstep=False,
        )
        self.width, self.dimensions = self.layout.width, dimensions
        start = torch.empty(self.layout.entries, features)
        self.table = nn.Parameter(start.uniform_(-1e-4, 1e-4, generator=generator))
        self.deferred: list[tuple[Tensor, Tensor, Tensor | None]] | None = None

    def adam_step(
        self,
        pending: tuple[Tensor, Tensor, Tensor | None],
        moments: tuple[Tensor, Tensor],
        scratch: Tensor,
        rate: float,
        step: int,
    ) -> None:
        """Steps the table by a gradient that was deferred, see TableEncoding."""
        x, grad, kept = pending
        state = self.table.data, *moments, None
        hash_grid_adam_(*state, x, grad, self.layout, scratch, rate, step, kept=kept)

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n {self.width}"]:
        if self.deferred is None or not torch.is_grad_enabled():
            return hash_grid(x, self.table, self.layout)
        return _DeferredTable.apply(x, self.table, self)


class _DeferredTable(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, table: Tensor, grid: HashGrid) -> Tensor:
        ctx.save_for_backward(x)
        ctx.grid = grid
        return hash_grid(x, table, grid.layout)

    @staticmethod
    def backward(ctx, grad: Tensor):
        ctx.grid.deferred.append((ctx.saved_tensors[0], grad.contiguous(), None))
        return None, None, None
