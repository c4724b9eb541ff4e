"""Which photograph a step takes, how large, and what its depth image says."""

from dataclasses import replace

import pytest
import torch
from splat_tasks import pictures, task_of

from polyfield.apps.depth_images import DepthImages
from polyfield.apps.images import ImageStore
from polyfield.apps.scene import load_scene
from polyfield.apps.splat_photographs import COARSER, Photographs
from polyfield.render.cameras import Cameras


def made(scene, limit=1 << 26, seed=0, frames=None, model=None):
    found = load_scene(scene)
    cameras = found.cameras.transformed(found.to_field)
    if model is not None:
        cameras = replace(cameras, model=model)
    images = ImageStore(found.image_paths, found.sizes, 4, limit, seed)
    frames = found.splits["train"] if frames is None else frames
    return Photographs(images, cameras, frames, seed, found.to_field.scale), found


def test_all_come_in_each_turn_and_another_order_in_the_next(scene):
    photographs, found = made(scene)
    n = len(found.splits["train"])
    turns = [[photographs.frame(n * turn + place) for place in range(n)] for turn in range(3)]
    assert all(sorted(turn) == found.splits["train"].tolist() for turn in turns)
    assert turns[0] != turns[1] != turns[2]
    again, _ = made(scene)
    assert [again.frame(n + place) for place in range(n)] == turns[1]
    other, _ = made(scene, seed=1)
    assert [other.frame(place) for place in range(n)] != turns[0]


def test_where_few_fit_those_in_memory_come(scene):
    photographs, found = made(scene, limit=5 * 40 * 40 * 4)
    taken = [photographs.frame(step) for step in range(400)]
    assert set(taken) == set(found.splits["train"].tolist()) == photographs.offered
    assert len(set(taken[:8])) <= 5
    again, _ = made(scene, limit=5 * 40 * 40 * 4)
    assert [again.frame(step) for step in (399, 8, 120)] == [taken[399], taken[8], taken[120]]


def test_pixels_shrink_as_training_goes_on(scene):
    photographs, found = made(scene)  # 40 pixels a side: too few for any coarser ones
    assert [photographs.coarser(2, part) for part in (0.0, 0.1, 1.0)] == [1, 1, 1]
    photographs.images.sizes = [(400, 300)] * len(found.frame_names)
    (first, four), (second, two) = COARSER
    parts = (0.0, first, second)
    assert [photographs.coarser(2, part) for part in parts] == [four, two, 1]


@pytest.mark.parametrize(("height", "width"), [(16, 16), (13, 23)])
@pytest.mark.parametrize("times", [2, 4])
def test_coarser_pictures_have_the_camera_of_their_pixels(disc_scene, height, width, times):
    kept = [torch.ones(height, width, dtype=torch.bool) for _ in range(8)]
    kept[2][0, 5] = False
    made = task_of(disc_scene, images=pictures(height, width, kept=kept))
    whole, *_ = made.photographs.picture(2, 1)
    picture = made.photographs.picture(2, times)
    camera, keep = picture.camera, picture.kept
    color, matte = picture.on(torch.zeros(3))
    rows, columns = height // times, width // times
    assert (int(camera.height), int(camera.width)) == (rows, columns) == matte.shape
    points = made.trained.gaussians.means.detach()
    frame = torch.zeros(len(points), dtype=torch.int64)
    expected, _ = whole.project(frame, points)
    torch.testing.assert_close(camera.project(frame, points)[0], expected / times)
    pixels = made.images.image(2).double() / 255
    square = pixels[times : 2 * times, 2 * times : 3 * times]  # row 1, column 2
    torch.testing.assert_close(matte[1, 2].double(), square[..., 3].mean(), atol=1e-6, rtol=0)
    mean = (square[..., :3] * square[..., 3:]).mean((0, 1))
    torch.testing.assert_close(color[1, 2].double(), mean, atol=1e-6, rtol=0)
    assert (~keep).nonzero().tolist() == [[0, 5 // times]]


class Depths(DepthImages):
    """One plane before the camera, where the left half of the photograph is known."""

    def __init__(self):
        """None are read."""

    def gather(self, frames, points, sizes):
        assert (points >= 0).all() and (points <= sizes).all()
        return torch.where(points[:, 0] < sizes[:, 0] / 2, 3.0, 0.0)


def test_depth_images_speak_of_the_middles_of_pixels_in_the_measure_of_the_views(scene):
    photographs, found = made(scene)
    camera = photographs.picture(2, 1).camera
    near = photographs.measured(Depths(), camera, 2, 1)
    assert near.shape == (40, 40) and not near[:, 20:].any()
    torch.testing.assert_close(near[:, :20], torch.full((40, 20), 3.0 * found.to_field.scale))
    coarse = photographs.picture(2, 4).camera
    assert photographs.measured(Depths(), coarse, 2, 4).shape == (10, 10)


def test_of_a_fisheye_depth_is_measured_along_rays(scene):
    photographs, found = made(scene)
    camera = photographs.picture(2, 1).camera
    fisheye = Cameras(**{**vars(camera), "model": "OPENCV_FISHEYE"})
    along = photographs.measured(Depths(), fisheye, 2, 1)[:, :20] / found.to_field.scale / 3.0
    place = torch.arange(1600)
    middle = torch.stack([place % 40, place // 40], 1) + 0.5
    _, rays = fisheye.rays(torch.zeros(1600, dtype=torch.int64), middle)
    cosine = (rays @ fisheye.camera_to_world[0, :, 2]).view(40, 40)[:, :20]
    torch.testing.assert_close(along, 1 / cosine)
