"""Runs of every kind are read, and show views in the same way."""

import shutil

import pytest
import torch

from polyfield.apps import checkpoint
from polyfield.apps.scene import load_scene
from polyfield.apps.shown import Shown, load_shown
from polyfield.apps.train import train
from polyfield.apps.train_options import Train
from polyfield.apps.trained import Trained, load
from polyfield.apps.trained_splats import TrainedSplats
from polyfield.cuda.errors import InputError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def runs(disc_scene, tmp_path_factory):
    """A run of each kind, hardly trained."""
    folder = tmp_path_factory.mktemp("runs")
    options = {"steps": 2, "device": "cpu", "report": False}
    train(Train(disc_scene, out=folder / "grid", **options))
    train(Train(disc_scene, out=folder / "splats", field="gaussians", splats=60, **options))
    return folder


@pytest.mark.parametrize(("name", "kind"), [("grid", Trained), ("splats", TrainedSplats)])
def test_a_run_of_every_kind_shows_views(runs, disc_scene, name, kind):
    trained = load_shown(runs / name, CPU)
    assert isinstance(trained, kind) and isinstance(trained, Shown)
    assert trained.device == CPU and trained.parameters > 500 and not trained.has_light
    scene = load_scene(disc_scene)
    assert trained.to_field.scale == scene.to_field.scale
    cameras = scene.cameras.transformed(trained.to_field)
    view = trained.view(cameras, 1, background=(1.0, 0.0, 0.0))
    color = trained.color(cameras, 1, background=(1.0, 0.0, 0.0))
    assert view.color.shape == (16, 16, 3) and view.normal is None
    torch.testing.assert_close(color, view.color)
    bands = list(trained.bands(cameras, 1, normals=True))
    assert sum(len(band.color) for band in bands) == 16
    assert all(band.normal is not None for band in bands)


def test_what_needs_densities_does_not_take_gaussians(runs):
    assert isinstance(load(runs / "grid", CPU), Trained)
    with pytest.raises(InputError, match="a run of Gaussians; expected one of a field with dens"):
        load(runs / "splats", CPU)


FAULTS = {
    "gaussians.means": lambda tensor: tensor.fill_(torch.nan),
    "gaussians.harmonics": lambda tensor: tensor[:, :4].clone(),
    "gaussians.opacity_logits": lambda tensor: tensor[1:].clone(),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_checkpoint_whose_gaussians_are_damaged_is_refused_with_its_file(runs, tmp_path, name):
    shutil.copytree(runs / "splats", tmp_path / "run")
    saved = checkpoint.latest(tmp_path / "run" / "checkpoints")
    tensors = dict(saved.tensors)
    tensors[name] = FAULTS[name](tensors[name])
    checkpoint.write(saved.path, tensors, saved.metadata)
    with pytest.raises(InputError, match=name.removeprefix("gaussians.")) as refused:
        load_shown(tmp_path / "run", CPU)
    assert refused.value.where.startswith(str(saved.path))
    # What it would go on from is the same.
    with pytest.raises(InputError, match=name.removeprefix("gaussians.")):
        train(Train(out=tmp_path / "run", resume=True, device="cpu", report=False))


def test_where_no_run_is_that_is_said(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        load_shown(tmp_path / "nowhere", CPU)
