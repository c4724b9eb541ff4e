"""Training with tiny-cuda-nn, where it is installed: asked for by name, refused with a reason."""

import importlib
import sys
from dataclasses import replace

import pytest
import torch

from polyfield.apps import checkpoint
from polyfield.apps import train as training
from polyfield.apps.eval import Eval, evaluate
from polyfield.apps.tiny_cuda_nn_library import tiny_cuda_nn_library as found_library
from polyfield.apps.train import train
from polyfield.apps.train_options import Train
from polyfield.apps.trained import load
from polyfield.cuda.errors import InputError
from polyfield.fields.radiance import Radiance

STEPS = 64
CPU = torch.device("cpu")


def options(scene, out, steps=STEPS, **more):
    return Train(
        scene=scene,
        out=out,
        steps=steps,
        device="cpu",
        report=False,
        networks="tiny-cuda-nn",
        sizes="levels=4,hidden=16,log2_table_size=12,finest_resolution=32",
        **more,
    )


@pytest.fixture
def at_hand(monkeypatch, tiny_cuda_nn_library):
    """The stand-in, in place of what is found on a GPU."""
    monkeypatch.setattr(training, "tiny_cuda_nn_library", lambda device: tiny_cuda_nn_library)


def test_a_run_learns_with_it_and_is_a_run_like_any_other(
    at_hand, monkeypatch, disc_scene, tmp_path
):
    said = []
    train(options(disc_scene, tmp_path / "run"), on_message=said.append)
    assert any(line.startswith("tiny-cuda-nn computes") for line in said)
    train(replace(options(disc_scene, tmp_path / "ours"), networks="polyfield"))
    monkeypatch.undo()  # nobody needs the library to show it
    run = load(tmp_path / "run", CPU)
    assert isinstance(run.field, Radiance) and run.settings.networks == "tiny-cuda-nn"
    theirs, ours = (evaluate(Eval(tmp_path / each, device="cpu")).psnr for each in ("run", "ours"))
    assert theirs == pytest.approx(ours, abs=1.0) and theirs > 14


def test_it_goes_on_where_it_stopped(at_hand, monkeypatch, disc_scene, tmp_path):
    whole = tmp_path / "whole"
    train(options(disc_scene, whole, 32))
    step = training.RadianceTask.step

    def broken(self, number, rate, planned=None):
        if number == 16:
            raise KeyboardInterrupt
        return step(self, number, rate)

    monkeypatch.setattr(training.RadianceTask, "step", broken)
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(options(disc_scene, out, 32))
    monkeypatch.setattr(training.RadianceTask, "step", step)
    train(Train(out=out, resume=True, device="cpu", report=False))
    first, second = (checkpoint.latest(each / "checkpoints") for each in (whole, out))
    assert first.step == second.step == 32 and first.tensors.keys() == second.tensors.keys()
    names = {f"optimiser.field.{m}.{n}_network.params" for m in ("first", "second")
             for n in ("density", "color")}  # fmt: skip
    assert names <= first.tensors.keys()
    # Not to the bit: what the padding learned joins the constant harmonic in a file.
    table = "field.encoding.table"
    error = (first.tensors[table] - second.tensors[table]).norm() / first.tensors[table].norm()
    assert error < 0.05, error


def test_it_runs_on_a_gpu_alone(disc_scene, tmp_path):
    with pytest.raises(InputError, match="--networks tiny-cuda-nn: computing on cpu.*CUDA"):
        train(options(disc_scene, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("error", "got"),
    [
        (ModuleNotFoundError("no such"), "not installed"),
        (OSError("Could not find compatible tinycudann extension"), "does not load: Could not"),
        (ImportError("libcudart.so.12"), "does not load: libcudart"),
    ],
)
def test_a_library_that_cannot_be_had_is_refused_with_its_reason(monkeypatch, error, got):
    def absent(name):
        assert name == "tinycudann"
        raise error

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(InputError, match=got):
        found_library(torch.device("cuda"))


def test_a_library_that_loads_is_taken(monkeypatch, tiny_cuda_nn_library):
    monkeypatch.setitem(sys.modules, "tinycudann", tiny_cuda_nn_library)
    assert found_library(torch.device("cuda:0")) is tiny_cuda_nn_library


def test_other_kernels_and_other_fields_are_refused(disc_scene, tmp_path):
    for more in ({"field": "mlp"}, {"field": "rbf"}):
        with pytest.raises(InputError, match="--networks: .*--field hash-grid"):
            train(options(disc_scene, tmp_path / "run", **more))
