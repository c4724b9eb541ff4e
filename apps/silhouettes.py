"""Whether cameras and outlines of the subject agree: the visual hull, and its outlines again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, max_pool2d

from polyfield.apps.bounds import gaze
from polyfield.render.cameras import Cameras

_CELLS = 24  # a side of the hull's grid
_GRID = 48  # of cells a side of each outline


@dataclass(frozen=True, eq=False)
class Hull:
    """The cells that nearly all views see as the subject, and how well they explain the outlines.

    cells: centres, in the cameras' frame; none where the views agree on nothing. half_cell: half of
    a cell's sides. agreement: of each view, the area that outline and hull share over the area that
    either has, in [0, 1].
    """

    cells: Float[Tensor, "n 3"]
    half_cell: Float[Tensor, " 3"]
    agreement: Float[Tensor, " views"]

    def holds(self, points: Float[Tensor, "p 3"]) -> Bool[Tensor, " p"]:
        """Whether points lie within its cells."""
        if not len(self.cells):
            return torch.zeros(len(points), dtype=torch.bool)
        parts = points.split(64)  # bounded, however many cameras there are
        near = [((part[:, None] - self.cells).abs() <= self.half_cell).all(2) for part in parts]
        return torch.cat([part.any(1) for part in near])


def outline(mask: Bool[Tensor, "height width"]) -> Float[Tensor, "48 48"]:
    """A mask as shares of the cells of a square grid that its whole width and height become."""
    return adaptive_avg_pool2d(mask[None].float(), _GRID)[0]


def visual_hull(cameras: Cameras, outlines: Float[Tensor, "views 48 48"]) -> Hull:
    """The hull of the subject about what the cameras look at; empty where they look outwards.

    A cell belongs to it if nine in ten of the views that see it see the subject there, and at least
    half of the views see it at all.
    """
    nothing = Hull(torch.zeros(0, 3).double(), torch.zeros(3).double(), torch.zeros(len(cameras)))
    seen = gaze(cameras)
    if not seen.inward:
        return nothing
    half_view = seen.distance * (cameras.width / 2 / cameras.focal[:, 0]).double()
    reach = 1.2 * half_view.median()
    if not 0 < float(reach) < 1e12:
        return nothing
    wide = max_pool2d((outlines > 0).float()[:, None], 3, stride=1, padding=1)[:, 0]
    low, high = seen.target - reach, seen.target + reach
    for _ in range(3):
        cells = _agreed(cameras, wide, low, high)
        half_cell = (high - low) / _CELLS / 2
        if not len(cells):
            return nothing
        low, high = cells.amin(0) - 1.5 * half_cell, cells.amax(0) + 1.5 * half_cell
    return Hull(cells, half_cell, _agreement(cameras, outlines, cells))


def _places(cameras: Cameras, view: int, points: Tensor) -> tuple[Tensor, Tensor]:
    """Cells (row, column) of the outline's grid that points fall into, and which fall into it."""
    pixels, _ = cameras.project(torch.full((len(points),), view), points)
    size = torch.stack([cameras.width[view], cameras.height[view]])
    place = pixels / size
    inside = ((place >= 0) & (place < 1)).all(1)
    return (place[inside] * _GRID).long().flip(1), inside


def _agreed(cameras: Cameras, wide: Tensor, low: Tensor, high: Tensor) -> Tensor:
    steps = (torch.arange(_CELLS, dtype=torch.float64) + 0.5) / _CELLS
    cells = low + torch.cartesian_prod(steps, steps, steps) * (high - low)
    views, hits = torch.zeros(len(cells)), torch.zeros(len(cells))
    for view in range(len(cameras)):
        place, inside = _places(cameras, view, cells)
        views += inside
        hits[inside] += wide[view][place[:, 0], place[:, 1]]
    return cells[(hits >= 0.9 * views) & (views >= max(1, len(cameras) / 2))]


def _agreement(cameras: Cameras, outlines: Tensor, cells: Tensor) -> Tensor:
    found = torch.zeros_like(outlines)
    for view in range(len(cameras)):
        place, _ = _places(cameras, view, cells)
        found[view][place[:, 0], place[:, 1]] = 1
    # A cell of the hull may be wider than one of the grid: close the gaps, do not widen the whole.
    closed = -max_pool2d(-max_pool2d(found[:, None], 3, 1, 1), 3, 1, 1)[:, 0]
    outer = (outlines > 0).float()
    shared = (closed * outer).sum((1, 2))
    # Where the outline's border runs through a cell, the hull may or may not have it.
    either = ((closed > 0) | (outlines > 0.5)).float().sum((1, 2))
    return shared / either.clamp(min=1)
