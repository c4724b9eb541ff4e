"""What makes a learned function a distance: slopes of length 1, and little curvature."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.cuda.occupancy import cell_points
from polyfield.render.occupancy import OccupancyGrid, step_generator

# Corners of a tetrahedron about a point.
TAPS = torch.tensor([[1.0, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]])


def slope_and_curvature(
    distance: Callable[[Float[Tensor, "n 3"]], Float[Tensor, " n *k"]],
    x: Float[Tensor, "n 3"],
    apart: float,
) -> tuple[Float[Tensor, "n *k 3"], Float[Tensor, " n *k"]]:
    """The gradient of a function, and the trace of its second derivatives, from five values each.

    Of a function of k columns, of each. apart: from x to the other four. Of a quadratic function
    the trace is exact, and the gradient off by apart / sqrt(3) times the mixed second derivative of
    the other two axes. Differentiable as often as the function once. Source: Neuralangelo
    (arXiv:2306.03092), section 3.2, with four points in place of six.
    """
    step = apart / 3**0.5
    taps = TAPS.to(x)
    places = torch.cat([x[None], x + step * taps[:, None]])
    middle, *around = distance(places.reshape(-1, 3)).unflatten(0, (5, len(x)))
    values = torch.stack(around, -1)
    slope = (values @ taps) / (4 * step)
    curvature = (0.5 * values.sum(-1) - 2 * middle) / step**2
    return slope, curvature


def distance_error(
    distances: Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n k"]],
    x: Float[Tensor, "n 3"],
    apart: float,
    eikonal: float,
    curvature: float,
) -> Float[Tensor, ""]:
    """Weighted means of (|gradient| - 1)^2 and of |trace of the second derivatives|.

    These are of the first column. Of the others, which know where a surface ends and are the same
    all along it, gradients count that are longer than 1.
    Source: IGR (arXiv:2002.10099), eq. 2; Neuralangelo (arXiv:2306.03092), eq. 8.
    """
    slope, trace = slope_and_curvature(distances, x, apart)
    off = slope.norm(dim=2) - 1
    error = off[:, 0].square().mean() + off[:, 1:].clamp_min(0).square().sum(1).mean()
    return eikonal * error + curvature * trace[:, 0].abs().mean()


def points_of_space(grid: OccupancyGrid, count: int, step: int, seed: int) -> Float[Tensor, "n 3"]:
    """Points in the unit cube: half of them anywhere in the finest grid's, half in its cells that
    are on. A function of the grid and (seed, step)."""
    random = step_generator(seed, step)
    device = grid.bits.device
    cells = grid.resolution**3
    bits = grid.bits[: cells // 8].long()[:, None] >> torch.arange(8, device=device) & 1
    on = torch.nonzero(bits.view(-1))[:, 0]
    every = torch.randint(cells, (count - count // 2,), generator=random).to(device)
    if len(on):
        some = on[torch.randint(len(on), (count // 2,), generator=random).to(device)]
        every = torch.cat([every, some])
    return cell_points(grid.levels, grid.resolution, every.int(), seed, step)
