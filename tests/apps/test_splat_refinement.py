"""Poses that are a little off are found with Gaussians, and depth images pull on them."""

from dataclasses import replace

import pytest
import torch
from splat_tasks import CPU, Pictures

from polyfield.apps import splat_task
from polyfield.apps.depth_images import DepthImages
from polyfield.apps.scene import load_scene
from polyfield.apps.settings import settings_of
from polyfield.apps.splat_task import SplatTask
from polyfield.apps.trained_splats import build_splats
from polyfield.fields.gaussians import gaussians_at
from polyfield.render.pose_refinement import held_out_pixels
from polyfield.render.splats import splat_view

SIZE = 40


def crowd(count=150):
    random = torch.Generator().manual_seed(0)
    points = 0.5 + 0.5 * (torch.rand(count, 3, generator=random) - 0.5)
    return gaussians_at(points, torch.rand(count, 3, generator=random), 0, 0.9, 0.5)


@pytest.fixture
def scene_of_them(scene):
    """The ball's cameras before Gaussians, of which the photographs are exact views."""
    found = load_scene(scene)
    cameras = found.cameras.transformed(found.to_field)
    images = []
    for frame in range(len(found.frame_names)):
        view = splat_view(crowd(), cameras, frame, torch.zeros(3), 0)
        alpha = view.opacity[..., None]
        both = torch.cat([view.color / alpha.clamp_min(1e-3), alpha], 2)
        images.append((255 * both.clamp(0, 1)).round().to(torch.uint8))
    return found, images


def task(found, images, frames, **changes):
    chosen = replace(found, splits=found.splits | {"train": torch.tensor(frames)})
    settings = settings_of(chosen, "gaussians", {"splats": 150, "degree": 0}, 0, 1600, 1 << 24)
    trained = build_splats(replace(settings, **changes), crowd(), CPU)
    return SplatTask(trained, chosen, Pictures(images), CPU)


def turned_away(found, frames, radians):
    """The scene with cameras turned about themselves, about axes whose sum is 0."""
    random = torch.Generator().manual_seed(1)
    axes = torch.nn.functional.normalize(torch.randn(len(frames), 3, generator=random), dim=1)
    axes = (axes - axes.mean(0)).double() * radians
    poses = found.cameras.camera_to_world.clone()
    for frame, (x, y, z) in zip(frames, axes.tolist(), strict=True):
        turn = torch.linalg.matrix_exp(
            torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
        )
        poses[frame, :, :3] = turn @ poses[frame, :, :3]
    return replace(found, cameras=replace(found.cameras, camera_to_world=poses))


def test_how_far_each_photograph_is_turned_is_found(scene_of_them):
    """So that Gaussians fall on the pixels where they were photographed; a small turn of a camera
    is much like a shift, so it is by both."""
    found, images = scene_of_them
    frames = [3, 7, 11, 16]
    made = task(turned_away(found, frames, 0.02), images, frames, poses=4)
    made.optimiser.step = lambda *_: None
    made.densify.refine = lambda now: {}
    cameras = found.cameras.transformed(found.to_field)
    points = made.trained.gaussians.means.detach()

    def pixels_off():
        errors = []
        for frame in frames:
            true, _ = cameras.project(torch.full((150,), frame), points)
            camera = made._refined(made.photographs.picture(frame, 1).camera, frame, 1.0)
            found, _ = camera.project(torch.zeros(150, dtype=torch.int64), points)
            errors.append(float((found - true).norm(dim=1).mean()))
        return errors

    with torch.no_grad():
        before = pixels_off()
    for step in range(400):
        made.step(20 + step, 0.01 ** (step / 400), 400)  # the rate falls, as the loop has it
    with torch.no_grad():
        after = pixels_off()
    assert all(new < 0.15 * old for new, old in zip(after, before, strict=True))
    assert float(made.trained.poses.moves.detach().mean(0).abs().max()) < 1e-6


def test_a_correction_that_held_out_pixels_speak_against_is_taken_back(scene_of_them):
    found, images = scene_of_them
    made = task(found, images, [3, 7, 11, 16], poses=4)
    with torch.no_grad():
        made.trained.poses.moves[2, 0] = 0.05
    frame = 11
    for moment in made.beside["poses"].moments.values():
        moment.fill_(0.5)
    made._judge(0, frame, 0.5)
    assert not made.trained.poses.moves.any()
    assert all(
        (m[2] == 0).all() and (m[1] == 0.5).all() for m in made.beside["poses"].moments.values()
    )
    with torch.no_grad():
        made.trained.poses.accepted[2, 0] = 0.05  # what is trusted is worse: the correction stays
    made._judge(0, frame, 0.5)
    assert not made.trained.poses.accepted.any()


def test_held_out_pixels_teach_nothing(scene_of_them, monkeypatch):
    monkeypatch.setattr(splat_task, "image_error", lambda x, y: (x - y).square().mean())
    found, images = scene_of_them
    held = held_out_pixels(SIZE, SIZE)
    states = []
    for shade in (0, 255):
        other = [image.clone() for image in images]
        for image in other:
            image[held] = torch.tensor([shade] * 4, dtype=torch.uint8)
        made = task(found, other, [3, 7, 11, 16], poses=4)
        made.densify.pull = lambda: None
        made.step(0, 1.0, 10**9)
        states.append(made.trained.gaussians.means.detach().clone())
    before = task(found, images, [3], poses=1).trained.gaussians.means.detach()
    assert not torch.equal(states[0], before)
    assert torch.equal(states[0], states[1])


def test_depth_images_pull_what_is_seen_to_where_they_say_it_is(scene_of_them):
    found, images = scene_of_them
    made = task(found, images, [3])
    with torch.no_grad():
        view = splat_view(made.trained.gaussians, made.cameras, 3, torch.zeros(3), 0)
    measured = torch.zeros(SIZE, SIZE)
    measured[20, 20], measured[20, 21] = 2.0, 3.0
    assert float(view.opacity[20, 20]) > 0.5 < float(view.opacity[20, 21])
    measured[0, 0] = 1.0  # where nothing is seen
    depth = view.depth
    expected = (1 / depth[20, 20] - 1 / 2).abs() + (1 / depth[20, 21] - 1 / 3).abs()
    expected = float(made.trained.extent * expected / 2)
    assert float(made._depth_error(view, measured)) == pytest.approx(expected, rel=1e-5)
    assert float(made._depth_error(view, torch.zeros(SIZE, SIZE))) == 0


class Plane:
    """Depth images in which all is as far away as said, in the unit cube."""

    def __init__(self, distance):
        self.distance = distance

    def __call__(self, depths, camera, frame, coarser):
        return torch.full((int(camera.height), int(camera.width)), self.distance)


def test_a_step_follows_the_depth_images_as_much_as_it_is_to(scene_of_them, monkeypatch):
    found, images = scene_of_them
    losses, slopes = {}, {}
    for weight in (0.0, 0.5, 1.0):
        made = task(found, images, [3, 7, 11, 16])
        made.trained.settings = replace(made.trained.settings, depth=weight)
        made.depths = DepthImages.__new__(DepthImages)
        made.photographs.measured = Plane(2.0)
        made.densify.pull = lambda: None
        before = made.trained.gaussians.means.detach().clone()
        losses[weight] = made.step(0, 1.0, 10**9)["loss"]
        slopes[weight] = made.trained.gaussians.means.detach() - before
    assert losses[0.5] - losses[0.0] > 0.01
    assert losses[1.0] - losses[0.0] == pytest.approx(2 * (losses[0.5] - losses[0.0]), rel=1e-4)
    assert not torch.equal(slopes[0.0], slopes[1.0])
