"""A hash grid whose levels open one after the other, from the coarsest to the finest."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyfield.cuda.errors import InputError
from polyfield.fields.field import Encoding
from polyfield.fields.frequencies import opened_weights
from polyfield.fields.hash_grid import HashGrid

FIRST = 2  # levels that are open from the start


class CoarseToFine(nn.Module):
    """x [n, 3] in the unit cube -> the grid's features [n, width], times the weight of their level.

    FIRST levels are open in the first step, all of them from step `steps` on; of those between,
    weights rise smoothly from 0 to 1, one after the other. What is still closed gives zeros and has
    no gradient. How much is open lies in checkpoints: a field is seen as it was trained.
    Raises InputError for an encoding that has no levels, or less than one step.
    Source: Neuralangelo (arXiv:2306.03092), section 3.3; smooth weights: BARF (arXiv:2104.06405).
    """

    opened: Tensor

    def __init__(self, grid: Encoding, steps: int):
        super().__init__()
        if not isinstance(grid, HashGrid):
            got = type(grid).__name__
            raise InputError("--coarse-to-fine", got, "levels to open: --field hash-grid")
        if steps < 1:
            raise InputError("--coarse-to-fine", f"{steps} steps", "at least 1")
        self.grid, self.steps = grid, steps
        self.width, self.dimensions = grid.width, grid.dimensions
        self.register_buffer("opened", torch.zeros(()))
        self.at_step(0)

    def at_step(self, step: int) -> None:
        """Opens what is open in that step of training, see `Gradual`."""
        levels = self.grid.layout.levels
        first = min(FIRST, levels)
        self.opened.fill_(first + (levels - first) * min(1.0, step / self.steps))

    @property
    def cell(self) -> float:
        """Side of a cell of the finest level that is open, of one in between while a level opens;
        in sides of the unit cube."""
        return self._cell(float(self.opened))

    @property
    def share(self) -> float:
        """That cell's side in those of the first step: what curvature counts for meanwhile."""
        return self.cell / self._cell(float(min(FIRST, self.grid.layout.levels)))

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n {self.width}"]:
        layout = self.grid.layout
        weights = opened_weights(layout.levels, self.opened).repeat_interleave(layout.features)
        return self.grid(x) * weights.to(x)

    def _cell(self, opened: float) -> float:
        layout = self.grid.layout
        return 1 / (layout.base_resolution * layout.growth ** (opened - 1) - 1)
