"""Every sampler and every field through the same commands: they learn, show, export and resume."""

import json

import pytest
import torch

from polyfield.apps import checkpoint
from polyfield.apps.eval import Eval, evaluate
from polyfield.apps.export import Export, export
from polyfield.apps.radiance_task import RadianceTask
from polyfield.apps.run_folder import RunFolder
from polyfield.apps.train import train
from polyfield.apps.train_options import Train
from polyfield.apps.train_settings import DISTORTION
from polyfield.apps.trained import load
from polyfield.cuda.errors import InputError
from polyfield.render import samplers

CPU = torch.device("cpu")
STEPS = 48
KINDS = [
    ("mlp", {}),
    ("hash-grid", {"sampler": "importance"}),
    ("hash-grid", {"sampler": "proposal"}),
    ("hash-grid", {"distortion": 0.1}),
    ("mlp", {"sampler": "proposal", "distortion": 0.0}),
]


def options(scene, out, field="hash-grid", **more):
    return Train(scene=scene, out=out, field=field, steps=STEPS, device="cpu", report=False, **more)


@pytest.fixture(
    scope="module", params=KINDS, ids=lambda kind: "-".join([kind[0], *map(str, kind[1].values())])
)
def trained(request, disc_scene, tmp_path_factory):
    field, more = request.param
    out = tmp_path_factory.mktemp("runs") / "run"
    train(options(disc_scene, out, field, **more))
    return out, field, more


def test_the_loss_falls(trained):
    losses = [r["loss"] for r in RunFolder.open(trained[0]).records() if "loss" in r]
    assert len(losses) == STEPS
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])


def test_a_run_that_was_cut_goes_on_bit_by_bit(trained, tmp_path, disc_scene, monkeypatch):
    out, field, more = trained
    whole = checkpoint.latest(out / "checkpoints")
    again = tmp_path / "again"
    step = RadianceTask.step

    def broken(self, number, rate, planned=None):
        if number == STEPS // 2:
            raise KeyboardInterrupt
        if number == STEPS // 2 - 1:
            monkeypatch.setattr("polyfield.apps.loop.CHECKPOINT_SECONDS", 0.0)
        return step(self, number, rate)

    monkeypatch.setattr(RadianceTask, "step", broken)
    with pytest.raises(KeyboardInterrupt):
        train(options(disc_scene, again, field, **more))
    monkeypatch.setattr(RadianceTask, "step", step)
    train(Train(out=again, resume=True, device="cpu", report=False))
    found = checkpoint.latest(again / "checkpoints")
    assert found.step == whole.step == STEPS and found.tensors.keys() == whole.tensors.keys()
    for name, tensor in whole.tensors.items():
        assert torch.equal(tensor, found.tensors[name]), name


def test_what_was_asked_for_is_kept_and_used(trained):
    out, field, more = trained
    found = load(out, CPU)
    assert found.settings.field == field
    assert found.settings.sampler == more.get("sampler", "occupancy")
    assert found.settings.distortion == more.get("distortion", DISTORTION)
    names = checkpoint.latest(out / "checkpoints").tensors
    proposes = more.get("sampler") == "proposal"
    assert (found.proposal is not None) == proposes == ("proposal.weights" in names)
    assert ("optimiser.proposal.first.encoding.table" in names) == proposes


def test_views_are_made_with_its_sampler(trained, monkeypatch):
    out, _, more = trained
    used = []
    functions = {
        "importance": samplers.importance_samples,
        "proposal": samplers.proposal_samples,
        "occupancy": samplers.march_rays,
    }
    for kind, function in functions.items():

        def noting(*arguments, kind=kind, function=function, **options):
            used.append(kind)
            return function(*arguments, **options)

        monkeypatch.setattr(samplers, function.__name__, noting)
    measured = evaluate(Eval(out, device="cpu"))
    assert set(used) == {more.get("sampler", "occupancy")}
    assert measured.psnr > 5


def test_it_is_exported(trained, tmp_path):
    out, _, _ = trained
    mesh = tmp_path / "mesh.ply"
    made = export(Export(out, mesh, resolution=24, level=0.4, keep_unseen=True, device="cpu"))
    assert made.counts["faces"] > 0 and mesh.stat().st_size > 1000


def test_settings_written_before_samplers_were_are_read(disc_scene, tmp_path):
    out = tmp_path / "run"
    train(options(disc_scene, out, distortion=0.0))
    saved = checkpoint.latest(out / "checkpoints")
    settings = dict(saved.metadata["settings"])
    assert settings.pop("sampler") == "occupancy" and settings.pop("distortion") == 0
    checkpoint.write(saved.path, saved.tensors, saved.metadata | {"settings": settings})
    config = json.loads((out / "config.json").read_text())
    for key in ("sampler", "distortion"):
        del config["settings"][key]
    (out / "config.json").write_text(json.dumps(config))
    found = load(out, CPU)
    assert found.settings.sampler == "occupancy" and found.settings.distortion == 0
    again = tmp_path / "again"
    train(Train(from_config=out / "config.json", out=again, device="cpu", report=False))
    repeated = checkpoint.latest(again / "checkpoints").tensors
    assert all(torch.equal(tensor, repeated[name]) for name, tensor in saved.tensors.items())


def test_a_proposal_that_does_not_fit_is_refused_by_name(disc_scene, tmp_path):
    out = tmp_path / "run"
    train(options(disc_scene, out, sampler="proposal"))
    saved = checkpoint.latest(out / "checkpoints")
    for name in ("proposal.weights", "proposal.encoding.table"):
        for change in (lambda t: t[:1].clone(), lambda t: torch.full_like(t, torch.nan)):
            tensors = saved.tensors | {name: change(saved.tensors[name])}
            checkpoint.write(saved.path, tensors, saved.metadata)
            with pytest.raises(InputError, match=name):
                load(out, CPU)
