"""Photographs in the place of a teacher, in the last part of a distillation."""

import signal
from dataclasses import replace

import pytest
import torch

from polyfield.apps import checkpoint, refined_task
from polyfield.apps.distill import distill
from polyfield.apps.distill_options import Distill, training_options
from polyfield.apps.eval import Eval, evaluate
from polyfield.apps.interruption import Interrupted
from polyfield.apps.train import train
from polyfield.apps.train_options import Train
from polyfield.cuda.errors import InputError

SIZES = "log2_table_size=12,finest_resolution=64,hidden=16"
STEPS = 150


@pytest.fixture(scope="module")
def teacher(ball_scene, tmp_path_factory):
    """A run that has not learned much yet."""
    folder = tmp_path_factory.mktemp("refined")
    scene = ball_scene(lambda number, pose, image: image)
    options = Train(scene, steps=60, out=folder / "teacher", sizes=SIZES, device="cpu")
    train(replace(options, report=False))
    return folder / "teacher"


def made(teacher, out, **changes):
    options = Distill(teacher, into="hash-grid", out=out, device="cpu", steps=STEPS, views=8)
    return distill(replace(options, sizes=SIZES, report=False, **changes))


def psnr(run):
    return evaluate(Eval(run, device="cpu")).psnr


def test_the_student_ends_above_its_teacher(teacher, tmp_path):
    made(teacher, tmp_path / "taught")
    made(teacher, tmp_path / "refined", refine=0.4)
    assert psnr(tmp_path / "taught") < psnr(teacher) + 0.5
    assert psnr(tmp_path / "refined") > psnr(teacher) + 2


def test_gaussians_learn_from_photographs_as_well(teacher, tmp_path):
    changes = {"into": "gaussians", "splats": 400}
    options = Distill(teacher, out=tmp_path / "taught", device="cpu", steps=STEPS, views=8)
    options = replace(options, report=False, **changes)
    distill(options)
    distill(replace(options, out=tmp_path / "refined", refine=0.4))
    assert psnr(tmp_path / "refined") > psnr(tmp_path / "taught") + 0.3


def test_a_refined_run_goes_on_to_the_same_bit(teacher, tmp_path, monkeypatch):
    made(teacher, tmp_path / "whole", refine=0.4)
    whole = checkpoint.latest(tmp_path / "whole" / "checkpoints")
    real = refined_task.RefinedTask.step

    def stops(self, step, rate, planned=None):
        if step == STEPS - 20:
            signal.raise_signal(signal.SIGINT)
        return real(self, step, rate, planned)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(refined_task.RefinedTask, "step", stops)
        with pytest.raises(Interrupted):
            made(teacher, run, refine=0.4)
    distill(Distill(out=run, resume=True, device="cpu", report=False))
    again = checkpoint.latest(run / "checkpoints")
    assert all(torch.equal(again.tensors[name], whole.tensors[name]) for name in whole.tensors)


def test_photographs_that_are_gone_are_missed_before_there_is_a_folder(
    teacher, tmp_path, monkeypatch
):
    def gone(settings):
        raise InputError(settings.scene, "is not there", "a folder")

    monkeypatch.setattr("polyfield.apps.distill.scene_of", gone)
    with pytest.raises(InputError, match="is not there"):
        made(teacher, tmp_path / "run", refine=0.4)
    assert not (tmp_path / "run").exists()


def test_parts_that_are_none_are_refused(tmp_path):
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(InputError, match="--refine"):
            training_options(Distill(tmp_path, refine=share))
    with pytest.raises(InputError, match="--refine.*photographs are too few"):
        training_options(Distill(tmp_path, into="ray-distribution", refine=0.2))
