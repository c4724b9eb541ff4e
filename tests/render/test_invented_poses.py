"""Cameras that nobody stood at: rotations near those of photographs, that look at something."""

import math

import pytest
import torch

from polyfield.cuda.errors import InputError
from polyfield.render.invented_poses import AWAY, REAL, TURNED, invented_poses


def ring(count=24, distance=4.0):
    """Upright cameras around the origin at several heights, z is up; OpenCV axes."""
    turn = 2 * math.pi * torch.arange(count).double() / count
    height = 0.2 + 0.6 * (torch.arange(count) % 3) / 3
    level = torch.stack([turn.cos(), turn.sin()], 1) * (1 - height**2).sqrt()[:, None]
    position = distance * torch.cat([level, height[:, None]], 1)
    forward = -position / distance
    up = torch.tensor([0.0, 0, 1]).double().expand(count, 3)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up), dim=1)
    down = torch.linalg.cross(forward, right)
    return torch.stack([right, down, forward, position], 2)


def invented(poses, count=400, seed=0, around=True):
    return invented_poses(poses, count, torch.Generator().manual_seed(seed), around)


def nearest(found, poses):
    return torch.cdist(found[:, :, 3], poses[:, :, 3]).amin(1)


@pytest.mark.parametrize("around", [True, False])
def test_each_is_a_rotation_and_a_position(around):
    found = invented(ring(), around=around)
    assert found.shape == (400, 3, 4) and found.isfinite().all()
    turns = found[:, :, :3]
    torch.testing.assert_close(turns @ turns.mT, torch.eye(3).double().expand(400, 3, 3))
    assert (torch.linalg.det(turns) > 0).all()


@pytest.mark.parametrize("around", [True, False])
def test_three_tenths_are_the_cameras_themselves(around):
    poses = ring()
    found = invented(poses, 2000, around=around)
    same = (torch.cdist(found.flatten(1), poses.flatten(1)) < 1e-9).any(1)
    assert same.double().mean().item() == pytest.approx(REAL, abs=0.04)


def test_all_look_at_what_the_cameras_look_at():
    found = invented(ring(), 1000)
    way = torch.nn.functional.normalize(-found[:, :, 3], dim=1)
    off = (way * found[:, :, 2]).sum(1).clamp(-1, 1).acos()
    assert off.max() < 8 * (TURNED + AWAY) and off.median() < 2 * (TURNED + AWAY)
    distance = found[:, :, 3].norm(dim=1)
    assert 4 * (1 - 5 * AWAY) < distance.min() and distance.max() < 4 * (1 + 5 * AWAY)
    upright = -found[:, 2, 1]  # of the images' upward directions, the part along z
    assert (upright > -2 * TURNED).all() and upright.median() > 0.7  # from above, none is


def test_some_stand_where_none_did_and_only_if_asked():
    poses = ring(12)
    far = nearest(invented(poses, 1000), poses)
    assert (far > 1.2).double().mean() > 0.1
    near = nearest(invented(poses, 1000, around=False), poses)
    apart = torch.cdist(poses[:, :, 3], poses[:, :, 3]).topk(6, largest=False).values[:, 5].max()
    assert near.max() < apart / 2 + 4 * 5 * AWAY


def test_cameras_that_look_outwards_keep_looking_outwards():
    poses = ring()
    poses[:, :, 3] *= 0.02
    poses[:, :, [0, 2]] *= -1  # turned about
    found = invented(poses, 500, around=False)
    outward = torch.nn.functional.normalize(found[:, :, 3], dim=1)
    assert ((outward * found[:, :, 2]).sum(1) > 0.3).double().mean() > 0.9


def test_the_generator_says_which():
    poses = ring()
    assert torch.equal(invented(poses, 50), invented(poses, 50))
    assert not torch.equal(invented(poses, 50), invented(poses, 50, seed=1))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_cameras_do(count):
    found = invented(ring(24)[:count], 60)
    turns = found[:, :, :3]
    torch.testing.assert_close(turns @ turns.mT, torch.eye(3).double().expand(60, 3, 3))


def test_without_a_camera_there_are_none():
    with pytest.raises(InputError):
        invented(ring()[:0])
