"""The batches that training draws: which pixels, through which points, on which background."""

from dataclasses import replace
from typing import get_args

import pytest
import torch

from polyfield.apps.images import ImageStore
from polyfield.apps.radiance_task import RadianceTask
from polyfield.apps.scene import load_scene
from polyfield.apps.train_options import Pixel
from polyfield.apps.trained import build, settings_of
from polyfield.fields.table import FIELDS, arguments_of

SIZES = {"levels": 2, "features": 2, "log2_table_size": 6, "finest_resolution": 16}


@pytest.fixture
def task(disc_scene):
    def make(**changes):
        scene = load_scene(disc_scene)
        arguments = arguments_of(FIELDS["hash-grid"][0](**SIZES))
        settings = settings_of(scene, "hash-grid", arguments, 3, 1 << 14, 1 << 24)
        device = torch.device("cpu")
        images = ImageStore(scene.image_paths, scene.sizes, 4, 1 << 24)
        return RadianceTask(build(replace(settings, **changes), device), scene, images, device)

    return make


def places(made, origins, directions):
    """Of each ray: the frame it came from, and the point of the image it went through."""
    cameras = made.cameras
    frame = torch.cdist(origins, cameras.camera_to_world[:, :, 3]).argmin(1)
    point = cameras.project(frame, origins + directions)[0]
    return frame, point


@pytest.mark.parametrize("pixel", get_args(Pixel))
def test_every_ray_is_told_the_colour_of_the_pixel_it_goes_through(task, pixel):
    made = task(pixel=pixel)
    origins, directions, colors, _ = made._batch(5)
    frame, point = places(made, origins, directions)
    column, row = (point - 1e-4).floor().long().clamp_min(0).unbind(1)
    for f, y, x, color in zip(frame, row, column, colors, strict=True):
        assert torch.equal(made.images.image(int(f))[y, x].float() / 255, color)


def test_rays_go_through_centres_by_default(task):
    made = task()
    _, point = places(made, *made._batch(1)[:2])
    torch.testing.assert_close(point.remainder(1), torch.full_like(point, 0.5), atol=1e-3, rtol=0)


def test_points_fill_their_pixels(task):
    made = task(pixel="point")
    _, point = places(made, *made._batch(1)[:2])
    inside = point.remainder(1)
    assert inside.min() < 0.2 and inside.max() > 0.8 and (inside.mean() - 0.5).abs() < 0.1


def test_two_points_of_one_pixel_stand_half_a_pixel_apart_on_one_background(task):
    made = task(pixel="mean")
    origins, directions, colors, background = made._batch(1)
    frame, point = places(made, origins, directions)
    first, second = point[::2], point[1::2]
    assert len(first) == len(second) == made.rays // 2
    assert torch.equal(frame[::2], frame[1::2])
    assert torch.equal(background[::2], background[1::2])
    assert torch.equal(colors[::2], colors[1::2])
    torch.testing.assert_close(
        (first - second).abs(), torch.full_like(first, 0.5), atol=1e-3, rtol=0
    )


def test_a_batch_is_a_function_of_seed_and_step(task):
    for one, again, other in zip(task()._batch(7), task()._batch(7), task()._batch(8), strict=True):
        assert torch.equal(one, again) and not torch.equal(one, other)


def test_the_loss_that_is_asked_for_is_minimised(task):
    losses = {kind: task(loss=kind).step(1, 0.0)["loss"] for kind in ("squared", "huber")}
    assert 0 < losses["huber"] < losses["squared"]  # errors of a fresh field exceed the edge


def test_all_rays_of_the_first_step_fit_the_batch(task):
    for samples in (1 << 12, 1 << 14, 1 << 16):
        made = task(samples_per_step=samples)
        assert made.rays % 16 == 0 and made.rays * 256 <= max(samples, 16 * 256)
