"""Points that rays show: on the front of what is solid, as deep as light reaches into smoke."""

import math

import pytest
import torch
from ball_views import CENTER, FOCAL, PLACE, RADIUS, ROTATION, SIZE

from polyfield.render import heavy_points as module
from polyfield.render.cameras import Cameras
from polyfield.render.heavy_points import LEAST, heavy_points
from polyfield.render.occupancy import full_grid
from polyfield.render.volume import Sampling

STEP = 0.01
SAMPLING = Sampling(STEP, 0.0, 0.05)
EVERY = torch.arange(len(PLACE))


class Solid:
    """A ball that no light passes, in mist that hides nothing."""

    def __init__(self, inside, outside=0.0):
        self.inside, self.outside = inside, outside

    def density(self, x):
        ball = (x - CENTER).norm(dim=1) < RADIUS
        return torch.where(ball, self.inside, self.outside), x

    def encode_directions(self, directions):
        return directions

    def color(self, features, harmonics):
        return harmonics.abs()


BALL = Solid(2000.0, 0.1)


def cameras():
    count = len(PLACE)
    return Cameras(
        camera_to_world=torch.cat([ROTATION.mT, PLACE[:, :, None]], 2),
        focal=torch.full((count, 2), FOCAL),
        center=torch.full((count, 2), SIZE / 2),
        distortion=torch.zeros(count, 4),
        width=torch.full((count,), SIZE),
        height=torch.full((count,), SIZE),
    )


def found(field, frames=EVERY, seed=0, rays=3000):
    grid = full_grid(1, 32, torch.device("cpu"))
    return heavy_points(field, grid, cameras(), frames, SAMPLING, seed, rays)


def test_they_lie_within_a_step_of_the_front_of_a_ball_along_rays_of_the_camera():
    for frame in (2, 7):
        x, ways = found(BALL, torch.tensor([frame]))
        assert 300 < len(x) < 3000
        along = (x - PLACE[frame]).norm(dim=1, keepdim=True)
        torch.testing.assert_close(PLACE[frame] + along * ways, x, atol=1e-5, rtol=0)
        middle = ((CENTER - PLACE[frame]) * ways).sum(1)
        beside = (CENTER - PLACE[frame]).square().sum() - middle.square()
        front = middle - (RADIUS**2 - beside).clamp_min(0).sqrt()
        behind = along[:, 0] - front
        assert behind.min() > -1e-4 and behind.max() < STEP + 1e-4


def test_all_cameras_that_are_asked_for_and_no_others_look():
    x, ways = found(BALL, torch.tensor([1, 4, 9]))
    beside = torch.linalg.cross(x[:, None] - PLACE, ways[:, None].expand(-1, 12, -1)).norm(dim=2)
    nearest = beside.min(1)
    assert nearest.values.max() < 1e-5
    assert nearest.indices.unique().tolist() == [1, 4, 9]
    assert nearest.indices.bincount()[[1, 4, 9]].min() > 100


def test_they_come_from_all_of_a_picture():
    smoke = Solid(1000.0, 1000.0)
    x, _ = found(smoke, torch.tensor([3]), rays=1500)
    pixels, _ = cameras().project(torch.full((len(x),), 3), x)
    assert pixels.min() < 3 and pixels.max() > SIZE - 3 and pixels.max() <= SIZE + 1e-3
    assert (pixels.mean(0) - SIZE / 2).abs().max() < 0.05 * SIZE


def test_smoke_has_as_many_as_light_reaches():
    opacity, deep = 0.1, 0
    while opacity * (1 - opacity) ** deep > LEAST:
        deep += 1
    density = -math.log(1 - opacity) / STEP
    _, ways = found(Solid(density, density), torch.tensor([0]), rays=200)
    counts = ways.unique(dim=0, return_counts=True)[1]
    assert deep == 16 and counts.max() <= deep + 1  # where the first one is shorter
    assert (counts == deep).float().mean() > 0.8


def test_a_function_of_the_seed():
    one, again, other = (found(BALL, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.x, again.x) and torch.equal(one.directions, again.directions)
    assert len(one.x) != len(other.x) or not torch.equal(one.x, other.x)


def test_every_ray_is_asked_about_once_however_many_at_a_time(monkeypatch):
    wall = Solid(2000.0, 2000.0)  # of which each ray that meets the cube shows one point
    whole = found(wall, torch.tensor([3]), rays=1000)
    monkeypatch.setattr(module, "AT_ONCE", 300)
    pieces = found(wall, torch.tensor([3]), rays=1000)
    assert len(pieces.x) == pytest.approx(len(whole.x), rel=0.1)
    assert len(pieces.x.unique(dim=0)) == len(pieces.x)


@pytest.mark.parametrize("field", [Solid(0.0), Solid(1.0, 1.0)])
def test_what_shows_nothing_has_none(field):
    x, ways = found(field, rays=500)
    assert x.shape == (0, 3) and ways.shape == (0, 3)
