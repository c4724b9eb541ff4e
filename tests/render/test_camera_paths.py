import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from polyfield.cuda.errors import InputError
from polyfield.render.camera_paths import (
    LONGEST,
    SHORTEST,
    flight,
    interpolate,
    interpolation_seconds,
    middle_pose,
    spiral,
)

few = settings(max_examples=20, deadline=None)


def some_poses(n, seed=0, spread=1.0):
    """Poses without any order: turns of up to 180 degrees from one to the next."""
    random = torch.Generator().manual_seed(seed)
    rotation, _ = torch.linalg.qr(torch.randn(n, 3, 3, generator=random, dtype=torch.float64))
    rotation = rotation * torch.linalg.det(rotation)[:, None, None]
    position = spread * torch.randn(n, 3, 1, generator=random, dtype=torch.float64)
    return torch.cat([rotation, position], 2)


def looking(position, target):
    forward = normalize(target - position, dim=1)
    up = torch.tensor([0.0, 0, 1]).double().expand_as(forward)
    right = normalize(torch.linalg.cross(forward, up), dim=1)
    return torch.stack([right, torch.linalg.cross(forward, right), forward, position], 2)


def arc(n, length=2.0, distance=3.0):
    """Cameras on a level circle about the origin, which they look at."""
    angle = torch.linspace(0, length, n, dtype=torch.float64)
    out = torch.stack([angle.cos(), angle.sin(), 0 * angle], 1)
    return looking(distance * out, torch.zeros(3).double())


def grid(distance=4.0):
    """A forward-facing capture: cameras in the plane y = 0 that look along +y at what is ahead."""
    x, z = torch.meshgrid(*[torch.linspace(-1, 1, 5).double()] * 2, indexing="ij")
    position = torch.stack([x.flatten(), 0 * x.flatten(), 0.5 * z.flatten()], 1)
    return looking(position, torch.tensor([0, distance, 0]).double())


def turned_by(a, b):
    """Angles between rotations."""
    trace = (a.mT @ b).diagonal(dim1=1, dim2=2).sum(1)
    return torch.acos(((trace - 1) / 2).clamp(-1, 1))


def off_rotation(poses):
    axes = poses[:, :, :3]
    gram = axes.mT @ axes - torch.eye(3, dtype=poses.dtype)
    return float(torch.maximum(gram.abs().amax(), (torch.linalg.det(axes) - 1).abs().amax()))


@few
@given(st.integers(2, 9), st.integers(0, 1000))
def test_a_flight_passes_through_every_key_pose(n, seed):
    keys = some_poses(n, seed)
    path = flight(keys)
    assert len(path.knots) == n
    torch.testing.assert_close(path.poses(path.knots), keys, rtol=0, atol=1e-9)


@few
@given(st.integers(2, 9), st.integers(0, 1000))
def test_rotations_stay_rotations_and_nothing_jumps(n, seed):
    keys = some_poses(n, seed)
    path = interpolate(keys, 2000)
    assert off_rotation(path) < 1e-9
    turns = turned_by(path[:-1, :, :3], path[1:, :, :3])
    way = path[:, :, 3].diff(dim=0).norm(dim=1) / flight(keys).scale
    moved = torch.maximum(turns, way)
    assert moved.max() < 1.1 * moved.mean()  # a flip would turn by half a circle in one frame


def test_a_flight_is_smooth_where_it_passes_a_key():
    path = flight(some_poses(6))
    step = 1e-5
    for knot in path.knots[1:-1]:
        around = torch.stack([knot - step, knot, knot + step])
        before, after = path.poses(around).diff(dim=0) / step
        torch.testing.assert_close(before, after, rtol=0, atol=1e-3)


def test_a_flight_begins_and_ends_without_a_bend():
    position = torch.tensor([[0, 0, 0], [1, 0.5, 0], [2, 0, 0.3], [3, -1, 0]]).double()
    path = flight(looking(position, torch.tensor([1.5, 40, 1]).double()))
    step = float(path.knots[-1]) / 1000
    for end in (0.0, float(path.knots[-1]) - 2 * step):
        first, middle, last = path.poses(end + step * torch.arange(3).double())[:, :, 3]
        inner = path.poses(path.knots[1] + step * torch.arange(-2, 1).double())[:, :, 3]
        bend = (first - 2 * middle + last).norm()
        assert bend < 0.02 * (inner[0] - 2 * inner[1] + inner[2]).norm()


def test_one_camera_far_off_does_not_set_the_pace():
    poses = arc(9)
    poses[4, :, 3] *= 100  # on its own axis
    assert flight(poses).scale == pytest.approx(3.0)


def test_the_signs_of_quaternions_make_no_detour():
    """Seven eighths of a turn about z, in steps: w changes its sign on the way."""
    angle = torch.arange(8).double() * 7 * math.pi / 28
    zero, one = torch.zeros(8).double(), torch.ones(8).double()
    turn = [[angle.cos(), -angle.sin(), zero], [angle.sin(), angle.cos(), zero], [zero, zero, one]]
    rows = [torch.stack(row, 1) for row in turn]
    keys = torch.cat([torch.stack(rows, 1), torch.ones(8, 3, 1).double()], 2)
    path = interpolate(keys, 71)
    found = torch.atan2(path[:, 1, 0], path[:, 0, 0]) % (2 * math.pi)
    torch.testing.assert_close(
        found, torch.linspace(0, float(angle[-1]), 71).double(), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(path[:, :, 3], torch.ones(71, 3).double())


def test_unevenly_spaced_views_are_passed_at_constant_speed():
    every = arc(33)
    path = interpolate(every[[0, 1, 2, 10, 12, 30, 32]], 101)
    steps = path[:, :, 3].diff(dim=0).norm(dim=1)
    turns = turned_by(path[:-1, :, :3], path[1:, :, :3])
    moved = torch.maximum(steps / 3, turns)
    assert moved.max() < 1.02 * moved.min() and steps.max() < 1.1 * steps.min()
    assert path[:, :, 3].norm(dim=1).sub(3).abs().max() < 0.05  # on the circle they stood on
    torch.testing.assert_close(path[[0, -1]], every[[0, -1]])


def test_a_turn_on_the_spot_has_constant_speed_too():
    keys = arc(5)
    keys[:, :, 3] = 7
    path = interpolate(keys[[0, 1, 4]], 41)
    turns = turned_by(path[:-1, :, :3], path[1:, :, :3])
    torch.testing.assert_close(turns, torch.full((40,), 2.0 / 40).double(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_path_of_equal_cameras_stays_there(count):
    one = some_poses(1, 3)
    path = interpolate(one.expand(count, 3, 4), 7)
    torch.testing.assert_close(path, one.expand(7, 3, 4), rtol=0, atol=1e-9)
    assert interpolation_seconds(one.expand(count, 3, 4)) == SHORTEST


def test_views_that_repeat_are_passed_once():
    keys = arc(4)
    twice = keys[[0, 0, 1, 2, 2, 2, 3, 3]]
    torch.testing.assert_close(interpolate(twice, 50), interpolate(keys, 50), rtol=0, atol=1e-9)


def test_the_dtype_is_that_of_the_cameras():
    assert interpolate(arc(3).float(), 5).dtype == torch.float32
    assert spiral(grid().float(), 5, 1.0).dtype == torch.float32


def test_a_long_way_takes_long_within_bounds():
    assert interpolation_seconds(arc(20, length=5.0)) == pytest.approx(5.0, rel=0.01)
    assert interpolation_seconds(some_poses(200)) == LONGEST
    assert interpolation_seconds(arc(4, length=1e-3)) == SHORTEST


def test_nothing_to_fly_through_is_refused():
    for call in (lambda none: interpolate(none, 5), middle_pose):
        with pytest.raises(InputError, match="cameras: none"):
            call(torch.zeros(0, 3, 4))
    with pytest.raises(InputError, match="frames: 0"):
        interpolate(arc(3), 0)


def test_a_spiral_stays_among_the_cameras_and_looks_at_one_point():
    path = spiral(grid(), 120, focus=4.0)
    target, position = torch.tensor([0, 4.0, 0]).double(), path[:, :, 3]
    assert off_rotation(path) < 1e-12
    torch.testing.assert_close(normalize(target - position, dim=1), path[:, :, 2])
    assert (path[:, 2, 1] < -0.9).all()  # upright: down is world's -z
    assert position[:, 0].abs().max() == pytest.approx(1.0, abs=0.01)  # of the capture's 1 and 0.5
    assert position[:, 2].abs().max() == pytest.approx(0.5, abs=0.01)


def test_a_spiral_has_no_end():
    steps = spiral(grid(), 90, focus=4.0)[:, :, 3]
    around = torch.cat([steps, steps[:1]]).diff(dim=0).norm(dim=1)
    assert around.max() < 2.5 * around.min()
    # Two turns: it passes the same side twice.
    assert ((steps[:-1, 0] < 0) & (steps[1:, 0] >= 0)).sum() == 2


def test_a_spiral_is_no_wider_than_its_focus_allows():
    path = spiral(grid(), 60, focus=0.1)
    assert off_rotation(path) < 1e-12 and path[:, :, 3].abs().max() <= 0.05 + 1e-9


def test_a_spiral_follows_the_world():
    world = some_poses(1, 5)[0]
    turned = torch.cat(
        [world[:, :3] @ grid()[:, :, :3], world[:, :3] @ grid()[:, :, 3:] + world[:, 3:]], 2
    )
    plain = spiral(grid(), 30, focus=2.0)
    expected = torch.cat(
        [world[:, :3] @ plain[:, :, :3], world[:, :3] @ plain[:, :, 3:] + world[:, 3:]], 2
    )
    torch.testing.assert_close(spiral(turned, 30, focus=2.0), expected, rtol=0, atol=1e-9)


def test_cameras_on_all_sides_have_no_spiral():
    with pytest.raises(InputError, match="all directions.*turntable"):
        spiral(arc(12, length=2 * math.pi * 11 / 12), 30, focus=1.0)


@pytest.mark.parametrize("frames, focus", [(1, 1.0), (10, 0.0), (10, math.inf), (10, math.nan)])
def test_a_spiral_that_is_none_is_refused(frames, focus):
    with pytest.raises(InputError, match="spiral"):
        spiral(grid(), frames, focus)


def test_cameras_held_every_which_way_have_a_middle_too():
    roll = torch.arange(4).double() * (math.pi / 2)
    zero = torch.zeros(4).double()
    right = torch.stack([roll.cos(), roll.sin(), zero], 1)
    forward = torch.tensor([[0.0, 0, 1]]).double().expand(4, 3)
    down = torch.linalg.cross(forward, right)
    middle = middle_pose(torch.stack([right, down, forward, 0 * right], 2))
    torch.testing.assert_close(middle[:, :3].T @ middle[:, :3], torch.eye(3).double())
    torch.testing.assert_close(middle[:, 2], forward[0])


def test_one_camera_is_a_spiral_that_stands_still():
    one = grid()[7:8]
    path = spiral(one, 4, focus=2.0)
    torch.testing.assert_close(path, one.expand(4, 3, 4))
