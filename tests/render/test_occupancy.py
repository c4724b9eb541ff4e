"""A grid that follows a ball, and the points that it holds: those that rays take samples at."""

from dataclasses import replace

import pytest
import torch

from polyfield.render.cameras import Cameras
from polyfield.render.occupancy import (
    FULL_UNTIL,
    OccupancyGrid,
    forget_unseen,
    full_grid,
    update_grid,
)
from polyfield.render.volume import Sampling, march_rays

RADIUS, RESOLUTION, CPU = 0.2, 16, torch.device("cpu")
CELLS = RESOLUTION**3
TICKS = (torch.arange(RESOLUTION) + 0.5) / RESOLUTION
MIDDLES = torch.cartesian_prod(TICKS, TICKS, TICKS)
REACH = 3**0.5 / 2 / RESOLUTION  # of a cell around its middle


class Ball:
    """Dense within the radius around the cube's middle; it notes where it was asked."""

    def __init__(self, density=1e3):
        self.dense, self.asked = density, []

    def density(self, x):
        self.asked.append(x)
        return self.dense * ((x - 0.5).norm(dim=1) < RADIUS).float(), x

    def encode_directions(self, directions):
        return directions

    def color(self, features, harmonics):
        return features


def looked(*fields, steps=(0,), seed=0):
    """A fresh grid after a look at each field, with the number of its step."""
    grid = full_grid(1, RESOLUTION, CPU)
    for field, step in zip(fields, steps, strict=True):
        update_grid(grid, field, 1 / 64, step, seed)
    return grid


def cell_of(x):
    """The number of the cell that each point lies in."""
    return ((x * RESOLUTION).long() * torch.tensor([1, RESOLUTION, RESOLUTION**2])).sum(1)


def test_before_any_look_the_whole_cube_is_held_and_nothing_else():
    for levels in (1, 3):
        grid = full_grid(levels, RESOLUTION, CPU)
        assert grid.occupied == 1 and grid.holds(MIDDLES).all()
        assert not grid.holds(MIDDLES + torch.tensor([1.0, 0, 0])).any()
        assert not grid.holds(MIDDLES - torch.tensor([0, 0, 1.0])).any()


@pytest.mark.parametrize("levels", [1, 3])
def test_rays_take_their_samples_at_the_points_that_are_held(levels):
    random = torch.Generator().manual_seed(0)
    bits = torch.randint(256, (levels * CELLS // 8,), generator=random, dtype=torch.uint8)
    grid = OccupancyGrid(torch.zeros(levels, CELLS), bits, RESOLUTION)
    origins = 2 * torch.rand(40, 3, generator=random) - 0.5
    directions = torch.rand(40, 3, generator=random) - origins
    rays = origins, torch.nn.functional.normalize(directions, dim=1)
    sampling = Sampling(step=0.01, cone=0.0, near=0.0)
    every = march_rays(full_grid(levels, RESOLUTION, CPU), *rays, sampling, 0, 0, False).position
    taken = march_rays(grid, *rays, sampling, 0, 0, False).position
    assert 0.3 < len(taken) / len(every) < 0.7
    torch.testing.assert_close(every[grid.holds(every)], taken, atol=1e-5, rtol=0)


def test_after_one_look_cells_of_the_ball_are_on_and_others_off():
    held = looked(Ball()).holds(MIDDLES)
    distance = (MIDDLES - 0.5).norm(dim=1)
    assert held[distance < RADIUS - REACH].all() and held.any()
    assert not held[distance > RADIUS + REACH].any()


def test_what_one_look_misses_stays_on():
    once, twice = looked(Ball()), looked(Ball(), Ball(0.0), steps=(0, 16))
    assert torch.equal(once.bits, twice.bits)
    assert (twice.values <= once.values).all() and twice.values.sum() < once.values.sum()


def test_first_every_cell_is_looked_at_and_then_a_quarter_and_all_that_hold_something():
    first, later = Ball(), Ball()
    looked(first, later, steps=(0, FULL_UNTIL))
    (every,), (chosen,) = first.asked, later.asked
    dense = cell_of(every)[first.density(every)[0] > 0]
    assert len(dense) > 50 and torch.isin(dense, cell_of(chosen)).all()
    assert len(every) == CELLS and CELLS / 5 < len(chosen) <= CELLS / 4 + len(dense)


def test_a_look_is_a_function_of_seed_and_step():
    steps = (0, FULL_UNTIL)
    one, same = (looked(Ball(), Ball(), steps=steps, seed=3) for _ in range(2))
    assert torch.equal(one.values, same.values) and torch.equal(one.bits, same.bits)
    places, cells = [], []
    for seed, step in ((3, FULL_UNTIL), (4, FULL_UNTIL), (3, FULL_UNTIL + 16)):
        field = Ball()
        looked(Ball(), field, steps=(0, step), seed=seed)
        (asked,) = field.asked
        middle = ((asked * RESOLUTION).floor() + 0.5) / RESOLUTION
        away = (middle - 0.5).norm(dim=1) > RADIUS + REACH  # there the choice is a draw alone
        places.append(tuple((asked[0] * RESOLUTION).remainder(1).tolist()))  # within its cell
        cells.append(tuple(cell_of(asked[away]).tolist()))
    assert len(set(places)) == len(set(cells)) == 3


def ring(count, distance=2.0, focal=60.0):
    """Cameras in the plane z = 0.5 about the cube's middle, at which they look; 60 x 60 pixels."""
    turn = torch.arange(count) * (2 * torch.pi / count)
    back = torch.stack([turn.cos(), turn.sin(), torch.zeros(count)], 1)
    down = torch.tensor([0.0, 0, -1]).expand(count, 3)
    right = torch.linalg.cross(down, -back)
    poses = torch.stack([right, down, -back, 0.5 + distance * back], 2)
    sizes = torch.full((count,), 60)
    middle = torch.full((count, 2), 30.0)
    return Cameras(
        poses, torch.full((count, 2), focal), middle, torch.zeros(count, 4), sizes, sizes
    )


def seen_by(cameras, points):
    """How many cameras see each point."""
    count = torch.zeros(len(points), dtype=torch.int64)
    for index in range(len(cameras)):
        pixels, _ = cameras.project(torch.full((len(points),), index), points)
        size = torch.stack([cameras.width[index], cameras.height[index]])
        count += ((pixels >= 0) & (pixels <= size)).all(1)
    return count


@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize("least", [1, 2, 5])
@pytest.mark.parametrize("height", [60, 90])
def test_no_cell_that_enough_cameras_see_is_forgotten(levels, least, height):
    grid, cameras = full_grid(levels, RESOLUTION, CPU), ring(9, focal=500.0)
    center = torch.tensor([[30.0, height / 2]]).expand(9, 2)
    cameras = replace(cameras, height=torch.full((9,), height), center=center)
    forget_unseen(grid, cameras, least)
    x = torch.rand(20_000, 3, generator=torch.Generator().manual_seed(0))
    views = seen_by(cameras, x)
    assert grid.holds(x[views >= least]).all()
    lost = ~grid.holds(x)
    assert lost.any() and (views[lost] < least).all()


def test_what_was_forgotten_never_comes_back():
    grid, field = full_grid(1, RESOLUTION, CPU), Ball()
    forget_unseen(grid, ring(9, focal=600.0), 2)  # telephoto lenses: the ball's ends are not seen
    lost = ~grid.holds(MIDDLES)
    assert lost.any() and not lost.all()
    for step in (0, 16, 512):
        field.asked.clear()
        update_grid(grid, field, 1 / 64, step, 0)
        assert not grid.holds(MIDDLES[lost]).any()
        asked = cell_of(torch.cat(field.asked))
        assert (grid.values[0, asked] >= 0).all() and len(asked)


def test_what_was_off_before_stays_off_though_cameras_see_it():
    grid = looked(Ball())
    before = grid.bits.clone()
    forget_unseen(grid, ring(9, focal=30.0), 1)  # so wide that they see the whole cube
    assert torch.equal(grid.bits, before) and grid.occupied < 1


def test_cells_about_a_camera_count_as_seen():
    grid, inside = full_grid(1, RESOLUTION, CPU), ring(1, distance=0.2)
    forget_unseen(grid, inside, 1)
    assert grid.holds(inside.camera_to_world[:, :, 3]).all()
