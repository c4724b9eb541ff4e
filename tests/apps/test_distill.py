"""One field into another, end to end, on a ball that is known exactly."""

import json
import math
import signal
from dataclasses import replace
from functools import partial

import pytest
import torch

from polyfield.apps import checkpoint, distill_task
from polyfield.apps.distill import distill, summary
from polyfield.apps.distill_options import (
    Distill,
    training_options,
    usual_stages,
)
from polyfield.apps.eval import Eval, evaluate
from polyfield.apps.interruption import Interrupted
from polyfield.apps.main import main
from polyfield.apps.scene import load_scene
from polyfield.apps.settings import settings_of
from polyfield.apps.taught_views import TaughtViews
from polyfield.apps.train import train
from polyfield.apps.train_options import Train
from polyfield.apps.trained import Trained
from polyfield.cuda.errors import InputError
from polyfield.fields.table import FIELDS, arguments_of
from polyfield.render.occupancy import full_grid

CPU = torch.device("cpu")
STEPS = 160
SIZES = {
    "hash-grid": "log2_table_size=12,finest_resolution=64,hidden=16",
    "tri-plane": "finest_resolution=32,hidden=16",
    "mlp": "layers=3,width=32",
    "rbf": "kernels=500,log2_table_size=10,hidden=16,finest_resolution=64",
}


@pytest.fixture
def ball(scene, analytic_ball, monkeypatch, tmp_path):
    """A run whose field is exact, and where it lies."""
    found = load_scene(scene)
    settings = settings_of(found, "hash-grid", {}, 0, 1024, 1 << 20)
    grid = full_grid(found.grid_levels, 128, CPU)
    made = Trained(settings, analytic_ball(found.to_field), grid, found.to_field)
    for module in ("distill", "splat_start"):
        monkeypatch.setattr(f"polyfield.apps.{module}.load_teacher", lambda path, device: made)
    (tmp_path / "teacher").mkdir()
    return made, tmp_path / "teacher"


def made_into(ball, out, **changes):
    options = Distill(ball[1], views=16, steps=STEPS, point_steps=30, out=out, device="cpu")
    options = replace(options, report=False)
    return distill(replace(options, **changes))


@pytest.mark.parametrize("field", [*FIELDS, "gaussians"])
def test_a_ball_becomes_any_field(ball, tmp_path, field):
    out = tmp_path / "run"
    changes = {"sizes": SIZES.get(field, ""), "splats": 400 if field == "gaussians" else None}
    steps = 2 * STEPS if field == "mlp" else STEPS  # dense layers learn from fewer samples a step
    result = made_into(ball, out, into=field, report=field == "hash-grid", steps=steps, **changes)
    assert result.ended == "finished" and result.steps == steps
    found = evaluate(Eval(out, device="cpu"))  # a run like any other, of the same scene
    least = {"mlp": 16, "rbf": 17, "gaussians": 18}.get(field, 24)
    assert found.psnr > least, found.psnr  # a blank one has 12
    if field == "hash-grid":
        assert result.teacher_psnr > 20 and result.test_psnr == pytest.approx(found.psnr, abs=1e-3)
        assert (out / "report.html").is_file() and "views of the teacher" in summary(result)


def test_the_scene_may_be_gone(ball, tmp_path):
    made, _ = ball
    made.settings = replace(made.settings, scene=str(tmp_path / "gone"))
    changes = {"into": "hash-grid", "sizes": SIZES["hash-grid"], "report": True}
    result = made_into(ball, tmp_path / "run", **changes)
    assert result.test_psnr is None and result.teacher_psnr > 18


def test_points_before_views_are_worth_their_steps(ball, tmp_path):
    scores = {}
    for steps in (0, 30):
        out = tmp_path / f"run{steps}"
        changes = {"into": "hash-grid", "sizes": SIZES["hash-grid"], "steps": 45}
        made_into(ball, out, point_steps=steps, **changes)
        scores[steps] = evaluate(Eval(out, device="cpu")).psnr
    assert scores[30] > scores[0] + 0.5, scores


def test_a_run_says_how_it_was_made(ball, tmp_path):
    out = tmp_path / "run"
    changes = {"into": "hash-grid", "steps": 3, "views": 2}
    made_into(ball, out, point_steps=2, feature_steps=1, sizes=SIZES["hash-grid"], **changes)
    config = json.loads((out / "config.json").read_text())
    found = [config[name] for name in ("views", "feature_steps", "point_steps")]
    assert found == [2, 1, 2] and config["teacher"] == str(ball[1])


def test_networks_of_colour_are_as_large_as_the_teacher_s_unless_somebody_says(ball, tmp_path):
    made, _ = ball
    arguments = arguments_of(FIELDS["hash-grid"].arguments(hidden=16, harmonics_degree=1))
    made.settings = replace(made.settings, arguments=arguments)
    found = {}
    for name, sizes in {"usual": "", "sized": "hidden=32,finest_resolution=32"}.items():
        out = tmp_path / name
        made_into(ball, out, into="tri-plane", steps=1, views=1, point_steps=1, sizes=sizes)
        settings = json.loads((out / "config.json").read_text())["settings"]
        found[name] = [settings["arguments"][key] for key in ("hidden", "harmonics_degree")]
    usual = FIELDS["tri-plane"].arguments().harmonics_degree
    assert usual != 1 and found == {"usual": [16, 1], "sized": [32, usual]}


def test_a_run_that_is_gone_on_with_is_the_same_to_the_bit(ball, tmp_path, monkeypatch):
    changes = {"into": "hash-grid", "sizes": SIZES["hash-grid"]}
    made_into(ball, tmp_path / "whole", **changes)
    whole = checkpoint.latest(tmp_path / "whole" / "checkpoints")
    real = distill_task.DistillTask.step

    def stops(self, step, rate, planned=None):
        if step == 50:
            signal.raise_signal(signal.SIGINT)
        return real(self, step, rate, planned)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(distill_task.DistillTask, "step", stops)
        with pytest.raises(Interrupted) as stopped:
            made_into(ball, run, **changes)
    assert f"polyfield distill --out {run} --resume" in str(stopped.value)
    with pytest.raises(InputError, match="is taught by.*teacher"):
        distill(Distill(tmp_path, out=run, resume=True, device="cpu"))
    distill(Distill(out=run, resume=True, device="cpu", report=False))  # it knows all else
    again = checkpoint.latest(run / "checkpoints")
    assert again.tensors.keys() == whole.tensors.keys()
    assert all(torch.equal(again.tensors[name], whole.tensors[name]) for name in whole.tensors)


def test_what_cannot_be_begun_leaves_no_folder(ball, tmp_path, monkeypatch):
    out = tmp_path / "run"
    with pytest.raises(InputError, match="no_such"):
        made_into(ball, out, into="hash-grid", sizes="no_such=3")
    few = partial(TaughtViews, limit_bytes=12 * 40 * 40 * 4)
    monkeypatch.setattr(
        "polyfield.apps.distill.TaughtViews",
        lambda teacher, scene, _, seed: few(teacher, scene, seed=seed),
    )
    with pytest.raises(InputError, match="--views 16.*do not fit.*at most 4 views"):
        made_into(ball, out, into="hash-grid", sizes=SIZES["hash-grid"])
    assert not out.exists()


def test_a_run_that_nobody_taught_is_not_gone_on_with(scene, tmp_path):
    train(Train(scene, steps=1, out=tmp_path / "run", report=False, device="cpu"))
    with pytest.raises(InputError, match="was not distilled"):
        distill(Distill(out=tmp_path / "run", resume=True))
    with pytest.raises(InputError, match="holds no run"):
        distill(Distill(out=tmp_path / "none", resume=True))


def test_gaussians_become_a_field(scene, tmp_path):
    options = Train(scene, field="gaussians", splats=600, steps=150, out=tmp_path / "splats")
    train(replace(options, device="cpu", report=False))
    sizes = SIZES["hash-grid"]
    options = Distill(tmp_path / "splats", into="hash-grid", sizes=sizes, steps=120, views=16)
    result = distill(replace(options, out=tmp_path / "run", device="cpu"))
    assert result.teacher_psnr > 18
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["teacher"].endswith("splats") and config["views"] == 16


def test_the_command_says_what_it_cannot_do(tmp_path, capsys):
    assert main(["distill", str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["distill", str(tmp_path / "empty")]) == 2
    with pytest.raises(InputError, match="--into.*one of"):
        distill(Distill(tmp_path, into="nothing"))
    for wrong in ({"teacher": None}, {"teacher": None, "resume": True}):
        with pytest.raises(InputError, match="RUN"):
            training_options(replace(Distill(tmp_path), **wrong))
    for wrong in ({"views": 0}, {"minutes": -1.0}, {"steps": 0}, {"minutes": 1.0, "steps": 2}):
        with pytest.raises(InputError, match="--"):
            training_options(replace(Distill(tmp_path), **wrong))


def test_a_minute_and_a_half_is_given_where_nobody_says(tmp_path):
    assert training_options(Distill(tmp_path)).minutes == 1.5
    assert training_options(Distill(tmp_path, steps=5)).minutes is None


def test_two_hundred_steps_a_minute_or_a_third_of_all_are_at_points_and_most_of_features(tmp_path):
    options = Distill(tmp_path)
    assert usual_stages(options) == (240, 300)
    assert usual_stages(replace(options, minutes=3.0)) == (480, 600)
    assert usual_stages(replace(options, minutes=0.1)) == (16, 20)
    assert usual_stages(replace(options, steps=1000)) == (240, 300)
    assert usual_stages(replace(options, steps=2)) == (0, 0)
    assert usual_stages(replace(options, point_steps=7)) == (5, 7)
    assert usual_stages(replace(options, point_steps=0, steps=50)) == (0, 0)
    assert usual_stages(replace(options, feature_steps=0)) == (0, 300)
    assert usual_stages(replace(options, feature_steps=9, point_steps=9)) == (9, 9)


def test_stages_that_make_no_sense_are_refused(tmp_path):
    for wrong, said in (
        ({"point_steps": -1}, "--point-steps: -1; expected 0 or more"),
        ({"feature_steps": -1}, "--feature-steps: -1; expected 0 to 300, the steps at points"),
        ({"feature_steps": 301}, "--feature-steps: 301; expected 0 to 300"),
        ({"feature_steps": 8, "point_steps": 7}, "--feature-steps: 8; expected 0 to 7"),
    ):
        with pytest.raises(InputError, match=said):
            training_options(replace(Distill(tmp_path), **wrong))


@pytest.mark.parametrize(
    "wrong", [{"minutes": -1.0}, {"steps": -5}, {"minutes": math.inf}, {"minutes": math.nan}]
)
def test_a_length_that_makes_no_sense_is_refused_by_its_own_name(tmp_path, wrong):
    with pytest.raises(InputError, match=f"--{next(iter(wrong))}"):
        training_options(replace(Distill(tmp_path), **wrong))
