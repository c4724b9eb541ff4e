import math

import pytest
import torch

from polyfield.apps.epipolar import MatchedPair, agreement, free_agreement
from polyfield.render.cameras import Cameras


def camera_pair(baseline, turn=0.0):
    """Two cameras of 480 x 360 that look along z; the second is moved, and turned about y."""
    poses = torch.eye(3, 4).double().repeat(2, 1, 1)
    c, s = math.cos(turn), math.sin(turn)
    poses[1, :, :3] = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]]).double()
    poses[1, :, 3] = torch.tensor(baseline).double()
    focal, center = torch.full((2, 2), 400.0).double(), torch.tensor([[240.0, 180]] * 2).double()
    sizes = torch.tensor([480, 480]), torch.tensor([360, 360])
    return Cameras(poses, focal, center, torch.zeros(2, 0).double(), *sizes)


def seen(cameras, count=40, low=3.0, high=9.0):
    """What both see of random points before them, without a wrong match."""
    random = torch.Generator().manual_seed(1)
    points = torch.rand(count, 3, generator=random).double() * 2 - 1
    points[:, 2] = low + (high - low) * torch.rand(count, generator=random)
    first, _ = cameras.project(torch.zeros(count).long(), points)
    second, _ = cameras.project(torch.ones(count).long(), points)
    return MatchedPair((0, 1), first, second, 1.0)


@pytest.mark.parametrize("baseline", [[1.0, 0, 0], [0.2, 0.7, -0.4], [0.0, 0, 1], [0.0, 0, 0]])
@pytest.mark.parametrize("turn", [0.0, 0.2])
def test_true_poses_explain_every_match_even_in_one_place(baseline, turn):
    cameras = camera_pair(baseline, turn)
    assert float(agreement(cameras, [seen(cameras)])[0]) == 1


def test_points_behind_both_cameras_are_no_explanation():
    cameras = camera_pair([1.0, 0, 0])
    pair = seen(cameras)
    swapped = MatchedPair((0, 1), pair.second, pair.first, 1.0)  # disparity the wrong way
    assert float(agreement(cameras, [swapped])[0]) < 0.05


@pytest.mark.parametrize(("off", "explained"), [(1.5, True), (3.0, False)])
def test_a_match_may_miss_its_line_by_two_pixels(off, explained):
    cameras = camera_pair([1.0, 0, 0])
    pair = seen(cameras, low=20, high=30)
    moved = MatchedPair((0, 1), pair.first, pair.second + torch.tensor([0.0, off]), 1.0)
    assert (float(agreement(cameras, [moved])[0]) > 0.9) == explained


def test_a_point_beyond_infinity_or_nearer_than_the_camera_is_refused():
    cameras = camera_pair([1.0, 0, 0])
    middle = torch.tensor([[240.0, 180]]).double()
    for shift, share in ((-40.0, 1.0), (0.0, 1.0), (10.0, 0.0)):
        other = middle + torch.tensor([shift, 0])
        found = agreement(cameras, [MatchedPair((0, 1), middle, other, 1.0)])
        assert float(found[0]) == share


@pytest.mark.parametrize(("column", "share"), [(300.0, 1.0), (350.0, 0.0), (200.0, 0.0)])
def test_from_further_back_a_point_lies_between_the_other_camera_and_infinity(column, share):
    cameras = camera_pair([0.0, 0, -1])
    pixel = torch.tensor([[340.0, 180]]).double()
    pair = MatchedPair((0, 1), pixel, torch.tensor([[column, 180]]).double(), 1.0)
    assert float(agreement(cameras, [pair])[0]) == share


def test_how_many_matches_are_sound_is_known_without_the_poses():
    cameras = camera_pair([0.5, 0.2, 0.1], 0.1)
    pair = seen(cameras, 60)
    wrong = camera_pair([0.0, 3, 0], -0.4)
    assert float(agreement(wrong, [pair])[0]) < 0.3
    assert float(free_agreement(wrong, [pair])[0]) > 0.95
    random = torch.Generator().manual_seed(2)
    chaos = torch.rand(60, 2, generator=random).double() * torch.tensor([480, 360])
    assert float(free_agreement(wrong, [MatchedPair((0, 1), pair.first, chaos, 1.0)])[0]) < 0.5
