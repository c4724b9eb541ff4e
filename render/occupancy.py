"""Where space is worth sampling: nested bit grids that follow a field's density."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int32, UInt8
from torch import Tensor

from polyfield.cuda.march import cell_index
from polyfield.cuda.occupancy import (
    cell_points,
    occupancy_threshold,
    pack_bits,
    update_occupancy_,
)
from polyfield.fields.field import RadianceField
from polyfield.render.cameras import Cameras

UPDATE_EVERY = 16  # steps
FULL_UNTIL = 256  # every cell is visited up to this step, at most a half of them afterwards
DECAY = 0.8
VISITED = 4  # one part in so many, of all cells and of those that hold something
# An opacity of one step below which a cell holds nothing to see.
OPACITY_OF_NOTHING = 0.01


@dataclass
class OccupancyGrid:
    """values [levels, resolution^3]: decayed maxima of density times step; bits: 8 cells a byte.

    Level k of K covers the cube around 0.5 of side 2^(k - K + 1) in the field's unit cube.
    """

    values: Float[Tensor, "levels cells"]
    bits: UInt8[Tensor, " bytes"]
    resolution: int

    @property
    def levels(self) -> int:
        """How many grids are nested."""
        return len(self.values)

    @property
    def occupied(self) -> float:
        """Fraction of all cells that are on, 0 to 1."""
        powers = torch.arange(8, device=self.bits.device, dtype=torch.uint8)
        return float(((self.bits[:, None] >> powers) & 1).float().mean())

    def holds(
        self, x: Float[Tensor, "n 3"], length: Float[Tensor, " n"] | None = None
    ) -> Bool[Tensor, " n"]:
        """Whether points lie in the unit cube, in a cell of the finest grid there that is on.

        length: of the intervals that they stand for, where the march would take a coarser grid.
        """
        step = torch.zeros_like(x[:, 0]) if length is None else length
        index = cell_index(x, step, self.levels, self.resolution)
        on = (self.bits[index // 8].long() >> index % 8 & 1).bool()
        return on & ((x >= 0) & (x <= 1)).all(1)


def full_grid(levels: int, resolution: int, device: torch.device) -> OccupancyGrid:
    """A grid with every cell on: nothing is known yet. resolution: cells a side, even."""
    values = torch.zeros(levels, resolution**3, device=device)
    bits = torch.full((levels * resolution**3 // 8,), 255, dtype=torch.uint8, device=device)
    return OccupancyGrid(values, bits, resolution)


def update_grid(
    grid: OccupancyGrid, field: RadianceField, step_length: float, step: int, seed: int
) -> None:
    """Looks at the field once more: values decay and take the largest density seen, bits follow.

    step_length: of the finest grid's samples, in the unit cube. All cells in the first steps, later
    a quarter of them, drawn uniformly, and at most as many of those that hold something. A function
    of (seed, step).
    """
    cells = _cells_to_visit(grid, step, seed)
    points = cell_points(grid.levels, grid.resolution, cells, seed, step)
    with torch.no_grad():
        density = torch.cat([field.density(part)[0] for part in points.split(1 << 15)])
    thickness = torch.nan_to_num(density * step_length, nan=0.0, posinf=1e6)
    update_occupancy_(grid.values, cells, thickness, DECAY)
    grid.bits = pack_bits(grid.values, occupancy_threshold(grid.values, OPACITY_OF_NOTHING))


def forget_unseen(grid: OccupancyGrid, cameras: Cameras, least: int) -> None:
    """Turns off, for good, the cells that fewer than `least` cameras (in the unit cube) see.

    What only one camera sees it can explain by anything at any distance: most floaters hang there,
    right before a lens. Blocks of 2 x 2 x 2 cells are looked at, those at the rim of a view and
    those about a camera count as seen. Source: Instant-NGP's mask of untrained cells.
    """
    blocks, device = grid.resolution // 2, grid.bits.device
    ticks = (torch.arange(blocks, device=device) + 0.5) / blocks - 0.5
    cube = torch.cartesian_prod(ticks, ticks, ticks).flip(1)  # x changes fastest, as in cells
    sides = 2.0 ** torch.arange(1 - grid.levels, 1, device=device)
    centers = (0.5 + sides[:, None, None] * cube).view(-1, 3)
    radius = (sides * (3**0.5 / 2 / blocks)).repeat_interleave(len(cube))
    views = torch.zeros(len(centers), dtype=torch.int32, device=device)
    for index in range(len(cameras)):
        camera = torch.full((len(centers),), index, device=device)
        pixels, depth = cameras.project(camera, centers)
        margin = cameras.focal[index].max() * radius / depth.abs().maximum(radius)
        size = torch.stack([cameras.width[index], cameras.height[index]])
        inside = ((pixels > -margin[:, None]) & (pixels < size + margin[:, None])).all(1)
        around = (centers - cameras.camera_to_world[index, :, 3]).norm(dim=1) < 2 * radius
        views += inside | around
    seen = (views >= least).view(grid.levels, blocks, 1, blocks, 1, blocks, 1)
    cells = seen.expand(-1, -1, 2, -1, 2, -1, 2).reshape(grid.levels, -1)
    grid.values = torch.where(cells, grid.values, -1.0)
    grid.bits = grid.bits & pack_bits(grid.values, 0.0)


def step_generator(seed: int, step: int) -> torch.Generator:
    """Random numbers of one step, a function of (seed, step). Any whole numbers of at least 0."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)


def _cells_to_visit(grid: OccupancyGrid, step: int, seed: int) -> Int32[Tensor, " cells"]:
    values = grid.values.view(-1)
    seen = torch.nonzero(values >= 0)[:, 0]
    if step < FULL_UNTIL or not len(seen):
        return seen.int()
    random = step_generator(seed, step)

    def drawn(cells: Tensor, count: int) -> Tensor:
        return cells[torch.randint(len(cells), (count,), generator=random).to(cells.device)]

    uniform = drawn(seen, len(seen) // VISITED)
    on = torch.nonzero(values > OPACITY_OF_NOTHING)[:, 0]
    if len(on) > len(seen) // VISITED:
        on = drawn(on, len(seen) // VISITED)
    return torch.cat([uniform, on]).unique().int()
