"""Multiresolution hash grid: features interpolated from tables of many resolutions."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from polyfield.cuda.errors import InputError
from polyfield.cuda.hash_grid import HashGridLayout, hash_grid
from polyfield.cuda.table_adam import hash_grid_adam_
from polyfield.fields.radiance import Radiance
from polyfield.fields.signal import ReluDecoder, Signal, relu_numbers


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
        smoothstep: bool = False,
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
            smoothstep=smoothstep,
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
        deferring = self.deferred is not None and self.table.requires_grad
        if not deferring or not torch.is_grad_enabled():
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


@dataclass(frozen=True)
class HashGridArguments:
    """Sizes of the hash-grid radiance field."""

    samples_per_step: ClassVar[int] = 1 << 14
    levels: int = 8
    features: int = 4
    log2_table_size: int = 16
    base_resolution: int = 16
    finest_resolution: int = 512
    hidden: int = 48
    harmonics_degree: int = 3
    smoothstep: int = 0
    """1 for slopes without jumps between nodes."""
    appearance: int = 0
    """Numbers of each photograph's light that colours depend on."""
    photographs: int = 0

    @classmethod
    def fitted(cls, resolution: int, parameters: int) -> HashGridArguments:
        """Sizes for details of 1 / resolution of the cube's side, in about that many parameters."""
        entries = max(1, parameters // (cls.levels * cls.features))
        return cls(
            finest_resolution=max(cls.base_resolution, resolution),
            log2_table_size=entries.bit_length() - 1,
        )


def hash_grid_field(
    arguments: HashGridArguments,
    generator: Generator | None = None,
    warp: nn.Module | None = None,
) -> Radiance:
    """A radiance field on a multiresolution hash grid. InputError for sizes that make no grid."""
    encoding = HashGrid(
        arguments.levels,
        arguments.features,
        arguments.log2_table_size,
        arguments.base_resolution,
        arguments.finest_resolution,
        smoothstep=arguments.smoothstep > 0,
        generator=generator,
    )
    return Radiance(
        encoding,
        arguments.hidden,
        arguments.harmonics_degree,
        arguments.appearance,
        arguments.photographs,
        warp=warp,
        generator=generator,
    )


@dataclass(frozen=True)
class HashGridSignal:
    """Sizes of a hash grid for any signal, and of the network behind it."""

    samples_per_step: ClassVar[int] = 1 << 16
    levels: int = 16
    features: int = 2
    log2_table_size: int = 14
    base_resolution: int = 16
    finest_resolution: int = 512
    hidden: int = 64
    smoothstep: int = 0
    """1 for slopes without jumps between nodes."""

    @classmethod
    def fitted(cls, dimensions: int, resolution: int, parameters: int) -> HashGridSignal:
        """Sizes for details of 1 / resolution of the cube's side, in at most that many numbers.

        A node at every detail on the finest level. Of tables and levels that fit, those that hold
        the most.
        """
        finest = max(cls.base_resolution, resolution)
        best, most = None, 0
        for size, levels in product(range(3, 25), range(8, 25)):
            layout = HashGridLayout(
                dimensions, levels, cls.features, size, cls.base_resolution, finest
            )
            room = parameters - relu_numbers(layout.width, 4, cls.hidden)
            numbers = layout.entries * cls.features
            if most < numbers <= room:
                best, most = (size, levels), numbers
        if best is None:
            raise InputError("parameters", f"{parameters:,}", "more: no hash grid is so small")
        return cls(levels=best[1], log2_table_size=best[0], finest_resolution=finest)


def hash_grid_signal(
    arguments: HashGridSignal, dimensions: int, channels: int, generator: Generator | None = None
) -> Signal:
    """A signal on a multiresolution hash grid. InputError for sizes that make no grid."""
    encoding = HashGrid(
        arguments.levels,
        arguments.features,
        arguments.log2_table_size,
        arguments.base_resolution,
        arguments.finest_resolution,
        dimensions=dimensions,
        smoothstep=arguments.smoothstep > 0,
        generator=generator,
    )
    decoder = ReluDecoder(encoding.width, channels, arguments.hidden, generator=generator)
    return Signal(encoding, decoder)
