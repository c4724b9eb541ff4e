"""Scenes that a trained field makes up: what it shows where cameras might have stood."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from polyfield.apps import taught_views
from polyfield.apps.scene import load_scene
from polyfield.apps.settings import settings_of
from polyfield.apps.taught_views import HELD_OUT, TaughtViews, taught_scene, usual_views
from polyfield.apps.trained import Trained
from polyfield.apps.trained_splats import build_splats
from polyfield.fields.environment import Environment
from polyfield.fields.gaussians import gaussians_at
from polyfield.render.occupancy import full_grid

CPU = torch.device("cpu")


@pytest.fixture
def teacher(scene, analytic_ball):
    found = load_scene(scene)
    settings = settings_of(found, "hash-grid", {}, 0, 1024, 1 << 20)
    grid = full_grid(found.grid_levels, 64, CPU)
    return Trained(settings, analytic_ball(found.to_field), grid, found.to_field)


def views_of(teacher, count=4, seed=0):
    scene = taught_scene(teacher, count, seed)
    return scene, TaughtViews(teacher, scene, 1 << 26)


def test_some_are_held_out(teacher):
    scene, _ = views_of(teacher, 5)
    assert scene.splits["train"].tolist() == [0, 1, 2, 3, 4]
    assert scene.splits["test"].tolist() == list(range(5, 5 + HELD_OUT))
    assert len(set(scene.frame_names)) == len(scene.cameras) == 5 + HELD_OUT


def test_cameras_are_in_the_frame_of_the_teacher_s_scene(teacher, scene):
    made, _ = views_of(teacher, 12)
    known = load_scene(scene).cameras
    distance = made.cameras.camera_to_world[:, :, 3].norm(dim=1)
    expected = known.camera_to_world[:, :, 3].norm(dim=1).mean()
    assert ((distance / expected - 1).abs() < 0.25).all()
    assert made.sizes[0] == tuple(teacher.settings.orbit["size"])
    back = made.cameras.transformed(made.to_field)
    assert back.camera_to_world.dtype == torch.float32
    assert ((back.camera_to_world[:, :, 3] - 0.5).norm(dim=1) > 0.5).all()


def test_a_view_is_what_the_teacher_shows_with_straight_alpha(teacher):
    scene, views = views_of(teacher)
    cameras = scene.cameras.transformed(scene.to_field)
    for frame in (0, 4):
        pixels = views.image(frame).float() / 255
        for background in ((0.0, 0.0, 0.0), (0.2, 0.9, 0.5)):
            shown = teacher.view(cameras, frame, background=background)
            alpha = pixels[..., 3:]
            mixed = pixels[..., :3] * alpha + torch.tensor(background) * (1 - alpha)
            assert (mixed - shown.color).abs().max() < 1.5 / 255
        assert 0.02 < float((pixels[..., 3] > 0.5).float().mean()) < 0.9


def test_each_view_is_rendered_once(teacher, monkeypatch):
    scene, views = views_of(teacher)
    views.load(torch.arange(len(scene.frame_names)))
    assert views.decoded == len(scene.frame_names) and views.decoding_seconds > 0
    monkeypatch.setattr(teacher, "bands", None)
    rows, columns = torch.tensor([20, 20]), torch.tensor([20, 0])
    both = views.gather(torch.tensor([3, 3]), rows, columns)
    assert torch.equal(both, views.image(3)[rows, columns])


def test_before_a_learned_background_nothing_is_transparent(teacher):
    teacher.environment = Environment((0.3, 0.6, 0.9))
    _, views = views_of(teacher, 2)
    pixels = views.image(0)
    assert (pixels[..., 3] == 255).all()
    corner = pixels[0, 0, :3].float() / 255
    torch.testing.assert_close(corner, torch.tensor([0.3, 0.6, 0.9]), atol=0.02, rtol=0)


def test_gaussians_teach_too(teacher, scene):
    points = 0.5 + 0.1 * torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    settings = settings_of(load_scene(scene), "gaussians", {"splats": 60, "degree": 0}, 0, 9, 9)
    splats = gaussians_at(points, torch.full((60, 3), 0.7), 0, 0.8)
    made = build_splats(settings, splats, CPU)
    seen, views = views_of(made, 3)
    pixels = views.image(1)
    cameras = seen.cameras.transformed(seen.to_field)
    shown = made.view(cameras, 1, background=(1.0, 1.0, 1.0))
    alpha = pixels[..., 3:].float() / 255
    mixed = pixels[..., :3].float() / 255 * alpha + (1 - alpha)
    assert (mixed - shown.color).abs().max() < 1.5 / 255 and alpha.max() > 0.5


def test_the_seed_says_where_cameras_stand(teacher):
    one, other, again = (taught_scene(teacher, 6, seed).cameras for seed in (0, 1, 0))
    assert torch.equal(one.camera_to_world, again.camera_to_world)
    assert not torch.equal(one.camera_to_world, other.camera_to_world)


def test_nothing_of_the_scene_is_needed(teacher, tmp_path):
    teacher.settings = replace(teacher.settings, scene=str(tmp_path / "gone"))
    scene, views = views_of(teacher, 2)
    assert views.image(0).any() and scene.name == "gone"


@pytest.fixture
def takes(teacher, monkeypatch):
    """Makes a view of the teacher take so many seconds; the views that were asked for."""

    def make(seconds):
        now, seen = [5.0], []

        def view(cameras, index, **others):
            now[0] += seconds
            seen.append((int(cameras.width[index]), int(cameras.height[index])))

        clock = SimpleNamespace(perf_counter=lambda: now[0])
        monkeypatch.setattr(taught_views, "time", clock)
        monkeypatch.setattr(teacher, "view", view)
        return seen

    return make


@pytest.mark.parametrize(
    ("seconds", "minutes", "views"),
    [
        (0.01, 1.5, 100),
        (0.225, 1.5, 100),
        (0.5, 1.5, 45),  # a quarter of 90 s
        (0.5, 3.0, 90),
        (1.25, 1.5, 18),
        (3.0, 1.5, 16),
        (1000.0, 1.5, 16),
    ],
)
def test_views_take_a_quarter_of_the_time_but_there_are_sixteen(
    teacher, takes, seconds, minutes, views
):
    seen = takes(seconds)
    assert usual_views(teacher, minutes) == views
    assert seen == [tuple(teacher.settings.orbit["size"])]  # as large as those to come


def test_who_counts_steps_has_a_hundred_views_however_long_they_take(teacher, takes):
    seen = takes(1000.0)
    assert usual_views(teacher, None) == 100 and not seen


def test_a_teacher_is_timed_by_a_view_of_it(teacher):
    assert 16 <= usual_views(teacher, 0.5) <= 100
