"""What fields teach at points: those of density as they are, surfaces nothing, Gaussians too."""

from dataclasses import replace

import pytest
import torch

from polyfield.apps import distill, distill_task
from polyfield.apps.distill_options import Distill
from polyfield.apps.eval import Eval, evaluate
from polyfield.apps.point_teacher import pixel_width, point_teacher
from polyfield.apps.scene import load_scene
from polyfield.apps.settings import settings_of
from polyfield.apps.shown import load_shown
from polyfield.apps.train import train
from polyfield.apps.train_options import Train
from polyfield.apps.trained import build
from polyfield.fields.splat_field import SplatField
from polyfield.fields.table import FIELDS, arguments_of
from polyfield.render.point_losses import ask

CPU = torch.device("cpu")
SIZES = "log2_table_size=12,finest_resolution=64,hidden=16"


@pytest.fixture(scope="module")
def gaussians(tmp_path_factory, scene):
    """A short run of them, and where it lies."""
    out = tmp_path_factory.mktemp("teacher") / "splats"
    train(
        Train(scene, field="gaussians", splats=600, steps=150, out=out, device="cpu", report=False)
    )
    return load_shown(out, CPU), out


@pytest.fixture
def settings(scene):
    found = load_scene(scene)
    arguments = arguments_of(FIELDS["hash-grid"].arguments.fitted(64, 1 << 15))
    return settings_of(found, "hash-grid", arguments, 0, 1024, 1 << 20)


def test_a_field_of_density_teaches_with_its_own_grid(settings):
    made = build(settings, CPU)
    found = point_teacher(made, settings)
    assert found.field is made.field and found.grid is made.grid and found.hides_off_cells
    looks = build(replace(settings, sampler="importance"), CPU)
    assert not point_teacher(looks, settings).hides_off_cells


def test_a_surface_teaches_no_points(settings):
    assert point_teacher(build(replace(settings, surface="neus"), CPU), settings) is None


def test_gaussians_teach_what_rays_see_of_them(gaussians, settings):
    made, _ = gaussians
    settings = replace(settings, grid_resolution=128)
    found = point_teacher(made, settings)
    assert isinstance(found.field, SplatField) and not found.hides_off_cells
    assert found.grid.values.shape == (settings.grid_levels, 128**3)
    means = made.gaussians.means.detach()
    solid = made.gaussians.opacity_logits.detach() > 1
    assert found.grid.holds(means[solid]).float().mean() > 0.95
    assert found.grid.occupied < 0.3
    # As wide as their pixels have them.
    width = 0.3**0.5 * pixel_width(made.settings)
    sharp = SplatField(made.gaussians).density(means)[0]
    blurred = found.field.density(means)[0]
    again = SplatField(made.gaussians, width).density(means)[0]
    assert torch.equal(blurred, again) and not torch.allclose(sharp, blurred, rtol=0.02)


def test_pixels_are_as_wide_as_in_the_middle_of_the_scene(settings):
    pose = torch.eye(4)[None, :3].repeat(3, 1, 1)
    pose[:, 2, 3] = torch.tensor([1.5, 2.5, 9.5])  # 1, 2 and 9 from the middle, along z
    pose[:, :2, 3] = 0.5
    orbit = {"camera_to_world": pose.tolist(), "focal": [90.0, 100.0], "size": [10, 10]}
    assert pixel_width(replace(settings, orbit=orbit)) == pytest.approx(2 / 100)


def test_gaussians_take_long_to_ask_and_so_do_fields_that_do(gaussians, settings):
    assert point_teacher(gaussians[0], settings).costly
    made = build(settings, CPU)
    assert not point_teacher(made, settings).costly
    made.field.costly = True
    assert point_teacher(made, settings).costly


def test_a_student_begins_with_points_of_gaussians(gaussians, tmp_path, monkeypatch):
    made, path = gaussians
    monkeypatch.setattr(distill_task, "POOL", 1 << 15)
    asked = []

    def ask_once(teacher, x, *others, **named):
        asked.append((teacher, len(x)))
        return ask(teacher, x, *others, **named)

    monkeypatch.setattr(distill_task, "ask", ask_once)
    scores = {}
    for steps in (0, 30):
        out = tmp_path / f"run{steps}"
        options = Distill(path, into="hash-grid", sizes=SIZES, steps=45, views=16)
        options = replace(options, point_steps=steps, out=out, device="cpu", report=False)
        distill.distill(options)
        scores[steps] = evaluate(Eval(out, device="cpu")).psnr
    assert sum(count for _, count in asked) == 1 << 15  # before the first step, and never again
    assert all(isinstance(teacher, SplatField) for teacher, _ in asked)
    assert scores[30] > scores[0] + 0.5, scores
