"""Where a field has something, and how much it varies there: what kernels are placed by."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.cuda.occupancy import cell_points
from polyfield.fields.field import RadianceField
from polyfield.render.learning import density_in_pieces
from polyfield.render.occupancy import OccupancyGrid, step_generator

POINTS = 1 << 17
APART = 1 / 512  # of the unit cube, in which features are told from each other
_PIECE = 1 << 14


@torch.no_grad()
def matter(
    field: RadianceField, grid: OccupancyGrid, length: float, step: int, seed: int
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, " n"]]:
    """Points of the occupied cells, in the unit cube, and the weight of each.

    That is the opacity of a sample of this length times the slope of the field's features (those
    that colour is made of). A function of the field and (seed, step). Source: NeuRBF
    (arXiv:2309.15426), section 3.3, with a step's length in the opacity.
    """
    bits = grid.bits.long()[:, None] >> torch.arange(8, device=grid.bits.device) & 1
    on = torch.nonzero(bits.view(-1))[:, 0]
    if not len(on):
        return on.new_zeros(0, 3).float(), on.new_zeros(0).float()
    drawn = torch.randint(len(on), (POINTS,), generator=step_generator(seed, step))
    cells = on[drawn.to(on.device)].int()
    x = cell_points(grid.levels, grid.resolution, cells, seed, step)
    opacity = 1 - torch.exp(-density_in_pieces(field, x) * length)
    slope = torch.cat([_slope(field, part) for part in x.split(_PIECE)])
    return x, torch.nan_to_num(opacity * slope, nan=0.0, posinf=0.0)


def _slope(field: RadianceField, x: Tensor) -> Tensor:
    total = torch.zeros(len(x), device=x.device)
    for axis in range(3):
        off = torch.zeros(3, device=x.device)
        off[axis] = APART / 2
        _, above = field.density((x + off).clamp(0, 1))
        _, below = field.density((x - off).clamp(0, 1))
        total += (above - below).square().sum(1)
    return total.sqrt() / APART
