"""Which held-out view training looks at, and how much of it."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from polyfield.apps import watched_view as module
from polyfield.apps.images import ImageStore, scene_images
from polyfield.apps.mask_files import Mask
from polyfield.apps.scene import load_scene
from polyfield.apps.true_view import shown_image
from polyfield.apps.watched_view import watched_view

WHITE = (1.0, 1.0, 1.0)
PLACES = {"train": [0, 3, 5], "val": [4, 2], "test": [1]}


@pytest.fixture
def watched(disc_scene, tmp_path):
    """What is watched of a scene of such splits, of which masks leave nothing of some frames."""
    for name, color in (("none", 0), ("all", 255)):
        Image.new("L", (16, 16), color).save(tmp_path / f"{name}.png")

    def watch(splits=PLACES, ignored=()):
        scene = load_scene(disc_scene)
        splits = {name: torch.tensor(frames).long() for name, frames in splits.items()}
        scene = replace(scene, splits=splits)
        images = scene_images(scene, 1 << 24)
        if ignored:
            masks = tuple(
                Mask(tmp_path / f"{'none' if frame in ignored else 'all'}.png", "keep", 16, 16)
                for frame in range(8)
            )
            scene = replace(scene, masks=masks)
            images = ImageStore(scene.image_paths, scene.sizes, 4, 1 << 24, masks=masks)
        cameras = scene.cameras.transformed(scene.to_field)
        camera, truth = watched_view(scene, images, cameras, WHITE)
        same = (cameras.camera_to_world == camera.camera_to_world).flatten(1).all(1)
        return camera, truth, same.nonzero()[0].tolist(), images

    return watch


def test_it_is_the_first_of_those_to_validate_on(watched):
    camera, truth, frames, images = watched()
    assert len(camera) == 1 and 4 in frames and truth.kept is None
    assert torch.equal(truth.color, shown_image(images.image(4), WHITE))


def test_else_it_is_one_to_test_on_and_else_one_to_train_on(watched):
    assert 1 in watched({"train": [0, 3], "test": [1, 5]})[2]
    assert 3 in watched({"train": [3, 0], "test": []})[2]
    assert 3 in watched({"train": [3, 0]})[2]


def test_views_of_which_masks_leave_nothing_are_passed_over(watched):
    assert 4 in watched(ignored=[2, 0])[2]
    assert 2 in watched(ignored=[4])[2]
    assert 3 in watched(ignored=[4, 2, 0])[2]  # of those to train on, then


def test_of_a_large_view_every_third_pixel_is_looked_at(watched, monkeypatch):
    whole, true, *_ = watched()
    for limit, stride in ((256, 1), (255, 3), (29, 3), (28, 5)):
        monkeypatch.setattr(module, "WATCHED_PIXELS", limit)
        camera, truth, *_ = watched()
        side = 16 // stride
        assert (int(camera.width), int(camera.height)) == (side, side) == truth.color.shape[:2]
        some = slice(stride // 2, 16 // stride * stride, stride)
        assert torch.equal(truth.color, true.color[some, some])
        zero, at = torch.zeros(1).long(), torch.tensor([[1.5, 2.5]])
        ray = camera.rays(zero, at)[1]
        torch.testing.assert_close(ray, whole.rays(zero, at * stride)[1])
