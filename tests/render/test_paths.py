import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from polyfield.cuda.errors import InputError
from polyfield.render.paths import look_at_point, nearest_to_axes, turntable, up_axis

angles = st.floats(0, 2 * math.pi)
few = settings(max_examples=20, deadline=None)


def rotation(a, b, c):
    def about(axis, angle):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn = torch.eye(3).double()
        turn[i, i] = turn[j, j] = math.cos(angle)
        turn[i, j], turn[j, i] = -math.sin(angle), math.sin(angle)
        return turn

    return about(0, a) @ about(1, b) @ about(2, c)


def ring_of_cameras(count=24, elevation=0.4, arc=2 * math.pi, world=None, target=None):
    """Level cameras around a target; world turns the whole scene, whose up is its third column."""
    world = torch.eye(3).double() if world is None else world
    target = torch.zeros(3).double() if target is None else target
    azimuth = torch.arange(count).double() * arc / count
    rise = elevation + 0.2 * torch.sin(3 * azimuth)
    out = torch.stack([rise.cos() * azimuth.cos(), rise.cos() * azimuth.sin(), rise.sin()], 1)
    right = torch.stack([-azimuth.sin(), azimuth.cos(), torch.zeros_like(azimuth)], 1)
    down = torch.linalg.cross(-out, right)
    local = torch.stack([right, down, -out, 3 * out], 2)
    poses = world @ local
    poses[:, :, 3] += target
    return poses


@few
@given(angles, angles, angles)
def test_up_and_look_at_follow_any_rotation_of_the_world(a, b, c):
    world, target = rotation(a, b, c), torch.tensor([3.0, -2.0, 5.0]).double()
    poses = ring_of_cameras(world=world, target=target)
    torch.testing.assert_close(up_axis(poses), world[:, 2], rtol=0, atol=1e-9)
    torch.testing.assert_close(look_at_point(poses), target, rtol=0, atol=1e-9)


def test_cameras_that_look_steeply_down_do_not_tilt_the_estimate():
    """The mean of the images' upward directions leans to where most cameras are."""
    poses = torch.cat([ring_of_cameras(elevation=1.1)[:9], ring_of_cameras(elevation=0.3)[4:6]])
    up = torch.tensor([0, 0, 1.0]).double()
    torch.testing.assert_close(up_axis(poses), up, rtol=0, atol=1e-9)
    assert normalize(-poses[:, :, 1].mean(0), dim=0) @ up < 0.9


def test_cameras_side_by_side_give_their_images_up_and_a_point_ahead():
    poses = torch.eye(3, 4).double().repeat(5, 1, 1)
    poses[:, 0, 3] = torch.arange(5)
    torch.testing.assert_close(up_axis(poses), torch.tensor([0, -1.0, 0]).double())
    point = look_at_point(poses)
    torch.testing.assert_close(point, torch.tensor([2.0, 0, 4.0]).double())


def test_a_slight_roll_of_cameras_side_by_side_is_not_taken_for_their_up():
    """Their x axes leave out the viewing direction, too, which is not up."""
    roll = 0.05 * torch.tensor([-1.0, 0.5, 1.0, -0.5, 0.0]).double()
    poses = torch.eye(3, 4).double().repeat(5, 1, 1)
    poses[:, 0, 0], poses[:, 1, 0] = roll.cos(), roll.sin()
    poses[:, 0, 1], poses[:, 1, 1] = -roll.sin(), roll.cos()
    assert up_axis(poses) @ torch.tensor([0, -1.0, 0]).double() > 0.99


def test_cameras_that_look_outwards_are_given_a_point_in_front():
    poses = ring_of_cameras(arc=1.0)
    poses[:, :, [0, 2]] *= -1  # turned about, still level
    point = look_at_point(poses)
    assert ((point - poses[:, :, 3]) * poses[:, :, 2]).sum(1).min() > 0


def test_axes_that_meet_behind_the_cameras_have_that_point_and_parallel_ones_none():
    outward = ring_of_cameras(target=torch.tensor([3.0, -2.0, 5.0]).double())
    outward[:, :, [0, 2]] *= -1
    torch.testing.assert_close(nearest_to_axes(outward), torch.tensor([3.0, -2.0, 5.0]).double())
    side_by_side = torch.eye(3, 4).double().repeat(5, 1, 1)
    side_by_side[:, 0, 3] = torch.arange(5)
    assert nearest_to_axes(side_by_side) is None


def test_turntable_flies_upright_at_the_median_height_and_distance_looking_inwards():
    world, target = rotation(0.3, 1.0, 2.0), torch.tensor([1.0, 2.0, 3.0]).double()
    cameras = ring_of_cameras(world=world, target=target)
    cameras[:3, :, 3] += 0.5 * (cameras[:3, :, 3] - target)  # a few further out
    poses = turntable(cameras, 36)
    axes, way = poses[:, :, :3], poses[:, :, 3] - target
    torch.testing.assert_close(axes @ axes.mT, torch.eye(3).double().expand(36, 3, 3))
    torch.testing.assert_close(torch.linalg.det(axes), torch.ones(36).double())
    torch.testing.assert_close(way.norm(dim=1), torch.full((36,), 3.0).double())
    torch.testing.assert_close(normalize(-way, dim=1), axes[:, :, 2])
    assert (axes[:, :, 0] @ world[:, 2]).abs().max() < 1e-9  # level
    assert (axes[:, :, 1] @ world[:, 2]).max() < 0  # image rows go down
    height = (cameras[:, :, 3] - target) @ world[:, 2] / (cameras[:, :, 3] - target).norm(dim=1)
    torch.testing.assert_close(way @ world[:, 2] / 3, height.median().expand(36))


@pytest.mark.parametrize("frames", [2, 7, 72])
def test_turntable_closes_with_even_steps_counter_clockwise(frames):
    place = turntable(ring_of_cameras(), frames)[:, :, 3]
    step = place.roll(-1, 0) - place  # the last to the first too
    torch.testing.assert_close(step.norm(dim=1), step.norm(dim=1)[:1].expand(frames))
    total = torch.linalg.cross(place, place.roll(-1, 0))[:, 2]
    assert frames == 2 or total.min() > 0
    first = place[0, :2] / place[0, :2].norm()
    torch.testing.assert_close(first, torch.tensor([1.0, 0.0]).double())  # where camera 0 stands


def test_cameras_on_one_side_are_swung_along_and_not_left():
    cameras = ring_of_cameras(arc=math.pi / 2, count=20)
    place = turntable(cameras, 60)[:, :, 3]
    azimuth = torch.atan2(place[:, 1], place[:, 0])
    seen = torch.atan2(cameras[:, 1, 3], cameras[:, 0, 3])
    assert azimuth.min().item() == pytest.approx(seen.min().item(), abs=1e-6)
    assert azimuth.max().item() == pytest.approx(seen.max().item(), abs=1e-6)
    step = (azimuth.roll(-1) - azimuth).abs()
    assert step.max() < 0.1  # closed: no jump from the last frame to the first
    assert (step - step.roll(1)).abs().max() < 0.01  # smooth


def test_a_given_up_is_kept_to():
    up = torch.tensor([0.0, 2.0, 0.0])
    poses = turntable(ring_of_cameras().float(), 8, up)
    assert poses.dtype == torch.float32
    assert poses[:, 1, 0].abs().max() < 1e-6 and poses[:, 1, 1].max() < 0


def test_a_single_camera_overhead_still_gives_poses():
    down = torch.tensor([[1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 4]])[None]
    poses = turntable(down, 5, torch.tensor([0.0, 0.0, 1.0]))
    assert bool(torch.isfinite(poses).all())


def test_no_frames_and_no_cameras_are_refused():
    with pytest.raises(InputError, match="turntable frames: 1"):
        turntable(ring_of_cameras(), 1)
    for function in (up_axis, look_at_point):
        with pytest.raises(InputError, match="cameras: none"):
            function(torch.zeros(0, 3, 4))
