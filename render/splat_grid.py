"""Where Gaussians leave space empty: an occupancy grid without looking for them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.cuda.occupancy import occupancy_threshold, pack_bits, update_occupancy_
from polyfield.cuda.splat_field import half_polylogarithm
from polyfield.fields.splat_field import SplatField
from polyfield.render.occupancy import OPACITY_OF_NOTHING, OccupancyGrid, full_grid, update_grid

LOOKS = 2
OFF = 1.5  # widths from the middle of a Gaussian, along its axes and between them
NOTHING = 1e-6  # opacity of a sample, which is none however thin everything is
_PIECE = 1 << 15


@torch.no_grad()
def splat_grid(
    field: SplatField, levels: int, resolution: int, step_length: float, seed: int = 0
) -> OccupancyGrid:
    """The cells in which samples of this length, in the unit cube, show something of Gaussians.

    levels, resolution: see `OccupancyGrid`. Small Gaussians, which a random point of a cell misses,
    are asked at 27 points each; large ones, and what many amount to, twice at one of every cell.
    """
    grid = full_grid(levels, resolution, field.tree.gaussians.device)
    for step in range(LOOKS):
        update_grid(grid, field, step_length, step, seed)
    for numbers in field.tree.gaussians.split(_PIECE):
        x, density = _about(numbers)
        for level in range(levels):
            place = (x - 0.5) * 2.0 ** (levels - 1 - level) + 0.5
            inside = ((place >= 0) & (place < 1)).all(1)
            at = (place[inside] * resolution).long().clamp_max(resolution - 1)
            cells = at[:, 0] + resolution * (
                at[:, 1] + resolution * (at[:, 2] + resolution * level)
            )
            update_occupancy_(grid.values, cells.int(), density[inside] * step_length, 1.0)
    least = max(NOTHING, occupancy_threshold(grid.values, OPACITY_OF_NOTHING))
    grid.bits = pack_bits(grid.values, least)
    return grid


def _about(numbers: Float[Tensor, "n 16"]) -> tuple[Float[Tensor, "m 3"], Float[Tensor, " m"]]:
    """Points about the middle of each Gaussian, and the density that it has there alone."""
    ticks = torch.tensor([-OFF, 0, OFF], device=numbers.device)
    off = torch.cartesian_prod(ticks, ticks, ticks)
    away = off.square().sum(1)
    to_round = numbers[:, 3:12].view(-1, 3, 3)
    axes = to_round / to_round.square().sum(2, keepdim=True)  # as long as it is wide, one a row
    x = numbers[:, None, :3] + off @ axes
    opacity, scale, reach = numbers[:, 12:15].split(1, 1)
    density = scale * half_polylogarithm(opacity * torch.exp(-away / 2)) * (away <= reach)
    return x.flatten(0, 1), density.flatten()
