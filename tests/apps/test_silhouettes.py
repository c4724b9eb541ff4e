import math
from dataclasses import replace

import pytest
import torch

from polyfield.apps.silhouettes import outline, visual_hull
from polyfield.render.cameras import Cameras

RADIUS, DISTANCE, SIZE, FOCAL = 0.8, 4.0, 60, 80.0


def cameras_about(center, count=16):
    z = torch.linspace(-0.7, 0.8, count).double()
    turn = torch.arange(count) * 2.4
    level = (1 - z * z).sqrt()
    way = torch.stack([level * turn.cos(), level * turn.sin(), z], 1)
    up = torch.tensor([0.0, 0, 1]).double().expand(count, 3)
    right = torch.nn.functional.normalize(torch.linalg.cross(-way, up), dim=1)
    position = torch.tensor(center).double() + DISTANCE * way
    poses = torch.stack([right, torch.linalg.cross(-way, right), -way, position], 2)
    focal, middle = torch.full((count, 2), FOCAL).double(), torch.full((count, 2), SIZE / 2)
    size = torch.full((count,), SIZE)
    return Cameras(poses, focal, middle.double(), torch.zeros(count, 0).double(), size, size)


def ball(cameras, center):
    """The exact outline of a ball in each view."""
    steps = torch.arange(SIZE) + 0.5
    pixels = torch.cartesian_prod(steps, steps).flip(1).double()
    masks = []
    for view in range(len(cameras)):
        origin, way = cameras.rays(torch.full((len(pixels),), view), pixels)
        offset = torch.tensor(center).double() - origin
        beside = (offset - (offset * way).sum(1, keepdim=True) * way).norm(dim=1)
        masks.append(outline((beside < RADIUS).view(SIZE, SIZE)))
    return torch.stack(masks)


@pytest.mark.parametrize("center", [(0.0, 0.0, 0.0), (30.0, -20.0, 5.0)])
def test_the_hull_of_a_ball_is_the_ball(center):
    cameras = cameras_about(center)
    hull = visual_hull(cameras, ball(cameras, center))
    away = (hull.cells - torch.tensor(center)).norm(dim=1)
    volume = len(hull.cells) * float(8 * hull.half_cell.prod())
    assert float(away.max()) < 1.35 * RADIUS
    assert 1.0 < volume / (4 / 3 * math.pi * RADIUS**3) < 1.9
    assert float(hull.agreement.min()) > 0.7


@pytest.mark.parametrize("center", [(0.5, 0.0, 0.2), (-0.2, 0.3, -0.5)])
def test_the_hull_lies_where_the_ball_is_though_nobody_looks_straight_at_it(center):
    cameras = cameras_about((0.0, 0.0, 0.0))
    hull = visual_hull(cameras, ball(cameras, center))
    torch.testing.assert_close(hull.cells.mean(0), torch.tensor(center).double(), atol=0.1, rtol=0)
    assert float(hull.agreement.min()) > 0.7


def test_a_ball_that_fills_the_pictures_is_found_whole():
    cameras = cameras_about((0.0, 0.0, 0.0))
    cameras = replace(cameras, focal=cameras.focal * 1.7)
    hull = visual_hull(cameras, ball(cameras, (0.0, 0.0, 0.0)))
    assert float(hull.cells.norm(dim=1).max()) < 1.7 * RADIUS  # views from so near hide more
    assert float(hull.agreement.min()) > 0.75


def test_it_knows_what_is_inside():
    cameras = cameras_about((0.0, 0.0, 0.0))
    hull = visual_hull(cameras, ball(cameras, (0.0, 0.0, 0.0)))
    points = torch.zeros(200, 3).double()
    points[:, 2] = torch.linspace(-3, 3, 200)
    inside = hull.holds(points)
    assert inside[points[:, 2].abs() < 0.7].all() and not inside[points[:, 2].abs() > 1.2].any()


def test_cameras_that_look_away_have_no_hull():
    cameras = cameras_about((0.0, 0.0, 0.0))
    outlines = ball(cameras, (0.0, 0.0, 0.0))
    cameras.camera_to_world[:, :, 1:3] *= -1
    hull = visual_hull(cameras, outlines)
    assert len(hull.cells) == 0 and not hull.agreement.any()
    assert not hull.holds(torch.zeros(3, 3).double()).any()


def test_a_view_of_something_else_disagrees_alone():
    cameras = cameras_about((0.0, 0.0, 0.0), 20)
    outlines = ball(cameras, (0.0, 0.0, 0.0))
    outlines[7] = ball(cameras, (0.9, 0.9, 0.9))[7]
    agreement = visual_hull(cameras, outlines).agreement
    assert int(agreement.argmin()) == 7 and float(agreement[7]) < 0.6 * float(agreement.median())


def test_an_outline_is_shares_of_a_square_grid():
    mask = torch.zeros(96, 192, dtype=torch.bool)
    mask[:48, :2] = True
    found = outline(mask)
    assert found.shape == (48, 48)
    assert (found[:24, 0] == 0.5).all() and found.sum() == 12
