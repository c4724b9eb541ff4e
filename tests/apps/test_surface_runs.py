"""Distances learned from photographs: trained, resumed, shown, cut and refused like any field."""

import json
from itertools import pairwise

import pytest
import torch

from polyfield.apps import checkpoint, radiance_task
from polyfield.apps.eval import Eval, evaluate
from polyfield.apps.export import Export, export
from polyfield.apps.formats.mesh_files import read_mesh
from polyfield.apps.radiance_task import RadianceTask
from polyfield.apps.render import Render, render
from polyfield.apps.train import train
from polyfield.apps.train_options import Train
from polyfield.apps.trained import load
from polyfield.cuda.errors import InputError
from polyfield.fields.coarse_to_fine import CoarseToFine
from polyfield.fields.hash_grid import HashGridArguments
from polyfield.fields.surface_radiance import SHARPNESS, SurfaceRadiance

CPU = torch.device("cpu")
RADIUS = 0.8  # of the ball
STEPS = {"neus": 400, "volsdf": 700}


@pytest.fixture(autouse=True, scope="module")
def small_steps():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HashGridArguments, "samples_per_step", 1 << 11)
        yield


def options(scene, out, surface="neus", **more):
    sizes = "levels=4,log2_table_size=12,finest_resolution=48,hidden=32"
    wished = {"steps": STEPS[surface], "sizes": sizes, "report": False} | more
    return Train(scene, out=out, surface=surface, device="cpu", **wished)


@pytest.mark.parametrize("surface", ["neus", "volsdf"])
def test_a_surface_is_learned_shown_and_cut(scene, tmp_path, surface):
    """One run, looked at from all sides: two workers would train it twice."""
    run = tmp_path / surface
    train(options(scene, run, surface))
    it_predicts_an_unseen_view_and_its_surface_got_sharper(run)
    its_mesh_is_the_ball_closed_with_colours_and_normals(run, tmp_path)
    distances_are_distances(run)
    views_have_normals(run, tmp_path)


def it_predicts_an_unseen_view_and_its_surface_got_sharper(run):
    assert evaluate(Eval(run, device="cpu")).psnr > 20  # a blank image reaches 12
    found = load(run, CPU)
    assert isinstance(found.field, SurfaceRadiance) and found.settings.surface == run.name
    assert found.settings.sampling.pieces == (run.name == "neus")
    assert float(found.field.sharpness) > 1.5 * SHARPNESS


def its_mesh_is_the_ball_closed_with_colours_and_normals(run, tmp_path):
    result = export(Export(run, tmp_path / "ball.ply", resolution=96, device="cpu"))
    assert result.quality.watertight and result.quality.components == 1
    mesh = read_mesh(tmp_path / "ball.ply")
    radius = mesh.vertices.norm(dim=1)
    assert float((radius - RADIUS).abs().median()) < (
        0.03 if run.name == "neus" else 0.08
    )  # it began at 0.1
    outward = mesh.vertices / radius[:, None]
    assert float((mesh.normals * outward).sum(1).median()) > 0.96
    expected = 0.5 + 0.4 * outward
    assert float((mesh.colors - expected).abs().median()) < 0.1
    with pytest.raises(InputError, match="--level: the run has distances"):
        export(Export(run, tmp_path / "none.ply", level=1.0, device="cpu"))
    sharp = Export(run, tmp_path / "sharp.ply", resolution=64, sharp=True, device="cpu")
    assert export(sharp).quality.watertight
    radius = read_mesh(tmp_path / "sharp.ply").vertices.norm(dim=1)
    assert float((radius - RADIUS).abs().median()) < (0.03 if run.name == "neus" else 0.08)


def distances_are_distances(run):
    field = load(run, CPU).field
    x = 0.5 + 0.35 * (torch.rand(2000, 3, generator=torch.Generator().manual_seed(0)) - 0.5)
    x.requires_grad_()
    (slope,) = torch.autograd.grad(field.distance(x).sum(), x)
    assert 0.8 < float(slope.norm(dim=1).median()) < 1.25


def views_have_normals(run, tmp_path):
    render(Render(run, views="test", out=tmp_path / "views", device="cpu"))
    assert (tmp_path / "views" / "r_1.normal.png").is_file()


@pytest.mark.parametrize("coarse_to_fine", [0, 20])
def test_a_run_that_was_cut_off_ends_bit_identical(scene, tmp_path, monkeypatch, coarse_to_fine):
    whole = tmp_path / "whole"
    train(options(scene, whole, steps=24, coarse_to_fine=coarse_to_fine))
    step = RadianceTask.step

    def broken(self, number, rate, planned=None):
        if number == 13:
            raise KeyboardInterrupt
        return step(self, number, rate)

    monkeypatch.setattr(RadianceTask, "step", broken)
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(options(scene, out, steps=24, coarse_to_fine=coarse_to_fine))
    monkeypatch.setattr(RadianceTask, "step", step)
    train(Train(out=out, resume=True, device="cpu", report=False))
    first, second = (checkpoint.latest(each / "checkpoints").tensors for each in (whole, out))
    assert first.keys() == second.keys() and "field.log_sharpness" in first
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_levels_open_with_the_steps_and_a_run_is_seen_as_far_as_it_is_open(
    scene, tmp_path, monkeypatch
):
    looked, error = [], radiance_task.distance_error

    def noting(distances, x, apart, eikonal, curvature):
        looked.append((apart, curvature))
        return error(distances, x, apart, eikonal, curvature)

    monkeypatch.setattr(radiance_task, "distance_error", noting)
    out = tmp_path / "run"
    train(options(scene, out, steps=11, coarse_to_fine=20, curvature=0.001))
    opening = load(out, CPU).field.radiance.encoding
    assert isinstance(opening, CoarseToFine)
    assert float(opening.opened) == 3.0  # two of four and, after the step numbered 10, one more
    # From cells of the second level, 16 * 3^(1/3) nodes a side, to those of the third.
    sides = [16 * 3 ** (k / 3) - 1 for k in (1, 2)]
    assert [looked[0][0], looked[-1][0]] == pytest.approx([1 / s for s in sides], rel=1e-5)
    assert looked[0][1] == 0.001
    assert looked[-1][1] == pytest.approx(0.001 * sides[0] / sides[1], rel=1e-5)
    assert all(a > b for (a, _), (b, _) in pairwise(looked))


def test_without_the_eikonal_error_slopes_are_what_they_like(scene, tmp_path):
    def spread(eikonal):
        out = tmp_path / str(eikonal)
        train(options(scene, out, steps=100, eikonal=eikonal))
        assert load(out, CPU).settings.eikonal == eikonal
        field = load(out, CPU).field
        x = torch.rand(2000, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
        (slope,) = torch.autograd.grad(field.distance(x).sum(), x)
        return float((slope.norm(dim=1) - 1).abs().mean())

    assert spread(0.3) < 0.7 * spread(0.0)


def test_settings_written_before_surfaces_were_are_read(scene, tmp_path):
    out = tmp_path / "run"
    train(Train(scene, out=out, steps=2, device="cpu", report=False))
    config = json.loads((out / "config.json").read_text())
    for key in ("surface", "eikonal", "curvature", "networks", "coarse_to_fine"):
        del config["settings"][key]
    del config["settings"]["sampling"]["pieces"]
    (out / "config.json").write_text(json.dumps(config))
    again = tmp_path / "again"
    train(Train(from_config=out / "config.json", out=again, device="cpu", report=False))
    assert load(again, CPU).settings.surface == "none"


@pytest.mark.parametrize(
    ("more", "where"),
    [
        ({"field": "mlp", "sizes": ""}, "--surface"),
        ({"networks": "tiny-cuda-nn"}, "--surface"),
        ({"space": "unbounded"}, "--space bounded"),
        ({"field": "tri-plane", "sizes": "", "coarse_to_fine": 9}, "--coarse-to-fine"),
        ({"eikonal": -1.0}, "--eikonal"),
        ({"curvature": float("nan")}, "--curvature"),
    ],
)
def test_what_makes_no_surface_is_refused(scene, tmp_path, more, where):
    with pytest.raises(InputError, match=where):
        train(options(scene, tmp_path / "run", **more))
