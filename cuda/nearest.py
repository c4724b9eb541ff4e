"""The nearest of many centres to each of many points."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import max_pool2d, max_pool3d

from polyfield.cuda.backend import backend_of
from polyfield.cuda.errors import InputError
from polyfield.cuda.kernel import constant, kernel, launch

MOST_NEIGHBOURS = 16
_CELLS_A_CENTER = 4  # so that crowds, where most points are asked for, are parted as well
_MOST_SIDE = {2: 512, 3: 128}
_MOST_GAP = 32


@dataclass(frozen=True, eq=False)
class CellList:
    """Centres sorted by the cell of a grid that they lie in: their neighbours are quick to find."""

    centers: Float[Tensor, "count d"]
    """In the order of cells, the first axis quickest."""
    numbers: Int[Tensor, " count"]
    """Of each, its row before it was sorted."""
    starts: Int[Tensor, " cells_and_one"]
    """The first centre of each cell."""
    gaps: Int[Tensor, " cells"]
    """Rings of cells about each, itself the first, that are empty: so many at least."""
    low: Float[Tensor, " d"]
    sides: Int[Tensor, " d"]
    """Cells along each axis."""
    size: float
    """Edge of a cell."""


@torch.no_grad()
def cell_list(centers: Float[Tensor, "count d"]) -> CellList:
    """Sorts centres of two or three dimensions into cells, about four to a centre.

    Raises InputError for no centre, for other dimensions, and for numbers that are not finite.
    """
    count, dimensions = centers.shape
    if count < 1 or dimensions not in _MOST_SIDE or not bool(centers.isfinite().all()):
        got = f"{count} of {dimensions} dimensions"
        raise InputError("centres", got, "at least one, of 2 or 3 dimensions, finite")
    centers = centers.detach().float()
    low, high = centers.amin(0), centers.amax(0)
    extent = (high - low).clamp_min(1e-12)
    most = _MOST_SIDE[dimensions]
    wanted = float(extent.double().prod() / (_CELLS_A_CENTER * count)) ** (1 / dimensions)
    # Centres on a line would have cells without number; those far apart none of use.
    size = max(wanted, float(extent.max()) / most, 1e-9)
    sides = (extent / size).floor().long().clamp(0, most - 1) + 1
    place = ((centers - low) / size).long().clamp_min(0)
    place = torch.minimum(place, sides - 1)
    strides = torch.cat([sides.new_ones(1), sides[:-1].cumprod(0)])
    cell = (place * strides).sum(1)
    order = torch.argsort(cell, stable=True)
    counts = torch.bincount(cell, minlength=int(sides.prod()))
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    gaps = _rings_to_a_centre((counts > 0).view(*sides.flip(0).tolist()))
    return CellList(
        centers[order].contiguous(),
        order.int(),
        starts.int(),
        gaps.view(-1).int(),
        low,
        sides.int(),
        size,
    )


def nearest(
    x: Float[Tensor, "n d"], cells: CellList, neighbours: int
) -> Int[Tensor, "n {neighbours}"]:
    """Rows of the centres nearest to each point, the nearest first; -1 where there are fewer.

    By Euclidean distance; of two that are as near the lower row comes first. neighbours: 1 to 16,
    else InputError. Points may lie anywhere. Not differentiable: a set of neighbours is constant
    but for jumps.
    """
    if not 1 <= neighbours <= MOST_NEIGHBOURS:
        raise InputError("neighbours", str(neighbours), f"1 to {MOST_NEIGHBOURS}")
    x = x.detach()
    if backend_of(x.device) == "reference" or x.dtype != torch.float32:
        return nearest_reference(x, cells, neighbours)
    index = torch.empty(len(x), neighbours, dtype=torch.int32, device=x.device)
    tiles = -(-len(x) // constant("nearest", "NEAREST_POINTS"))
    body = kernel("nearest", f"Nearest<{x.shape[1]}>")
    grid = cells.centers, cells.numbers, cells.starts, cells.gaps, cells.low, cells.sides
    launch(body, (tiles, 1), x.contiguous(), *grid, index, cells.size, len(x), neighbours)
    return index


def nearest_reference(
    x: Float[Tensor, "n d"], cells: CellList, neighbours: int
) -> Int[Tensor, "n {neighbours}"]:
    """The specification in plain torch: all distances, sorted."""
    back = torch.argsort(cells.numbers.long())
    centers = cells.centers[back].to(x.dtype)
    found = x.new_full((len(x), neighbours), -1, dtype=torch.int32)
    kept = min(neighbours, len(centers))
    for first in range(0, len(x), 1024):
        part = x[first : first + 1024]
        distance = (part[:, None] - centers).square().sum(2)
        order = torch.sort(distance, dim=1, stable=True).indices[:, :kept]
        found[first : first + 1024, :kept] = order.int()
    return found


def _rings_to_a_centre(filled: Tensor) -> Tensor:
    """Of each cell, how many rings from itself on are empty, as far as they are counted."""
    pool = max_pool2d if filled.dim() == 2 else max_pool3d
    reached, gaps = filled.float()[None, None], torch.zeros_like(filled, dtype=torch.int64)
    for _ in range(_MOST_GAP):  # fewer than there are only cost time
        if bool(reached.all()):
            break
        gaps += reached[0, 0] == 0
        reached = pool(reached, 3, stride=1, padding=1)
    return gaps
