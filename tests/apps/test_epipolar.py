import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from polyfield.apps.epipolar import (
    MatchedPair,
    agreement,
    free_agreement,
    matched_pairs,
    relative_brightness,
)
from polyfield.apps.scene import load_scene
from polyfield.render.cameras import Cameras

WIDTH, HEIGHT, STEP = 600, 450, 60  # larger than the copies in which corners are looked for


@pytest.fixture
def write_pair(tmp_path):
    """A scene of two photographs of one paper: (pixels to the side, factor of light) -> scene."""

    def make(step, light=1.0):
        random = torch.Generator().manual_seed(0)
        coarse = torch.rand(1, 3, HEIGHT // 15, (WIDTH + STEP) // 15, generator=random)
        paper = torch.nn.functional.interpolate(coarse, scale_factor=15, mode="bilinear")[0]
        paper = (0.1 + 0.4 * paper.permute(1, 2, 0)).numpy()
        frames = []
        for number, (left, factor) in enumerate(((0, 1.0), (step, light))):
            pixels = (255 * factor * paper[:, left : left + WIDTH]).round().astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{number}.png")
            matrix = np.eye(4)
            matrix[0, 3] = 0.1 * number
            frames.append({"file_path": f"{number}.png", "transform_matrix": matrix.tolist()})
        lens = {"fl_x": 500.0, "w": WIDTH, "h": HEIGHT, "frames": frames}
        (tmp_path / "transforms.json").write_text(json.dumps(lens))
        return load_scene(tmp_path)

    return make


def test_what_both_photographs_show_is_found_in_both_and_how_bright(write_pair):
    (pair,) = matched_pairs(write_pair(STEP, 1.6), torch.arange(2))
    assert pair.frames == (0, 1) and len(pair.first) >= 16
    away = (pair.first - pair.second - torch.tensor([STEP, 0.0])).norm(dim=1)
    assert float(away.median()) < 1 and (away < 3).float().mean() > 0.9
    assert pair.gain == pytest.approx(1.6, rel=0.03)


def test_a_photograph_s_light_is_told_against_others_of_the_same(write_pair):
    scene = write_pair(STEP, 1.6)
    assert relative_brightness(scene, 1, [0]) == pytest.approx(1.6, rel=0.03)
    assert relative_brightness(scene, 0, [1]) == pytest.approx(1 / 1.6, rel=0.03)


def test_photographs_in_which_nothing_moved_tell_nothing(write_pair):
    assert matched_pairs(write_pair(0), torch.arange(2)) == []


def test_corners_that_a_mask_ignores_are_not_matched(write_pair, tmp_path):
    write_pair(STEP)
    mask = np.full((HEIGHT, WIDTH), 255, np.uint8)
    mask[:, : WIDTH // 2] = 0
    Image.fromarray(mask).save(tmp_path / "0_mask.png")
    (pair,) = matched_pairs(load_scene(tmp_path), torch.arange(2))
    assert float(pair.first[:, 0].min()) >= WIDTH // 2 - 2


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
