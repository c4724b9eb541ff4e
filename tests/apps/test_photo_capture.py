"""The capture that `bench photos` trains on: views of one scene, as large as they say."""

import math

import pytest
import torch
from PIL import Image

from polyfield.apps.photo_capture import (
    BALL,
    CAMERAS,
    FOCAL,
    GRAIN,
    capture_poses,
    capture_view,
    write_capture,
)
from polyfield.apps.scene import load_scene
from polyfield.cuda.errors import InputError


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captures") / "some"
    write_capture(folder, 16, 0.005)
    return folder


def test_it_loads_as_a_scene_with_its_poses_and_sizes(capture):
    scene = load_scene(capture)
    assert set(scene.sizes) == {(80, 60)} and len(scene.sizes) == 16
    poses = scene.cameras.camera_to_world
    torch.testing.assert_close(poses, capture_poses(16), atol=1e-9, rtol=0)
    assert scene.cameras.focal.unique().tolist() == [FOCAL * 80]


def test_every_photograph_is_a_file_of_its_own_with_grain_of_its_own(capture):
    files = sorted((capture / "images").iterdir())
    assert len({file.stat().st_ino for file in files}) == len(files)
    assert len({file.read_bytes() for file in files}) == len(files)


def test_photographs_show_the_scene_less_their_grain(capture):
    pose = capture_poses(16)[3]
    with Image.open(capture / "images" / "00003.jpg") as image:
        small = torch.tensor(list(image.resize((20, 15), Image.Resampling.BOX).getdata()))
    exact = capture_view(pose, (20, 15)).reshape(-1, 3) * 255
    assert (small - exact).abs().median() < GRAIN


def test_all_views_see_one_colour_at_one_place():
    poses = capture_poses(40)
    turn = math.pi / 16  # the middle of a square
    place = BALL * torch.tensor([0.756 * math.cos(turn), 0.756 * math.sin(turn), 0.6545])
    colors = []
    for pose in poses.float():
        if (pose[:, 3] - place) @ place < 0.3:  # from behind, or along the ball
            continue
        local = pose[:, :3].T @ (place - pose[:, 3])
        point = local[:2] / local[2] * FOCAL * 400 + torch.tensor([200.0, 150.0])
        column, row = point.long().tolist()
        colors.append(capture_view(pose, (400, 300))[row, column])
    assert len(colors) > 5
    torch.testing.assert_close(
        torch.stack(colors), colors[0].expand(len(colors), 3), atol=0.05, rtol=0
    )


def test_cameras_stand_around_the_ball_and_look_at_it():
    poses = capture_poses(100)
    position = poses[:, :, 3]
    torch.testing.assert_close(position.norm(dim=1), torch.full((100,), CAMERAS).double())
    torch.testing.assert_close(poses[:, :, 2] * CAMERAS, -position)
    assert (position[:, None] - position).norm(dim=2).add(torch.eye(100)).min() > 0.1


@pytest.mark.parametrize("images, megapixels", [(7, 1.0), (8, 0.0), (8, 61.0), (8, float("nan"))])
def test_a_capture_that_cannot_be_is_refused(tmp_path, images, megapixels):
    with pytest.raises(InputError, match="at least 8 photographs"):
        write_capture(tmp_path / "capture", images, megapixels)
    assert not (tmp_path / "capture").exists()
