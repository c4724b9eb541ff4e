"""The code in README.md runs as it stands there, and does what is said of it."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from polyfield.apps import checkpoint
from polyfield.apps.fit import fit
from polyfield.apps.fit_options import Fit
from polyfield.apps.fitted import is_fit
from polyfield.apps.render import Render, render
from polyfield.apps.run_folder import RunFolder
from polyfield.apps.scene import load_scene
from polyfield.apps.settings import settings_of
from polyfield.apps.train import train
from polyfield.apps.train_options import Train
from polyfield.apps.trained import Trained, build, load
from polyfield.fields.hash_grid import HashGridArguments
from polyfield.fields.table import FIELDS, arguments_of
from polyfield.render.occupancy import full_grid

README = (Path(__file__).parents[2] / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.M | re.S)
CPU = torch.device("cpu")


def block_with(word):
    (found,) = [block for block in BLOCKS if word in block]
    return found


def run_with(monkeypatch, tmp_path, code, run):
    """The names that a block leaves, where runs/demo/run is `run`."""

    def load(path, device):
        assert path == Path("runs/demo/run") and device == CPU
        return run

    monkeypatch.setattr("polyfield.apps.trained.load", load)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    return names


def test_every_block_is_tested_here():
    assert len(BLOCKS) == 5


def test_the_bowl_is_open_with_one_rim():
    names = {}
    exec(block_with("def bowl"), names)
    report = names["report"]
    assert (report.boundary_loops, report.euler, report.non_manifold_edges) == (1, 1, 0)
    assert names["found"].reason == "" and report.faces > 3000
    assert names["bowl"](names["mesh"].vertices).max() < 1e-3


def test_gaussians_come_near_an_image():
    names = {}
    exec(block_with("GaussianOptimiser("), names)
    assert names["loss"] < 0.05
    error = (names["view"].color - names["image"]).abs().mean()
    assert error < 0.04 and names["view"].opacity.mean() > 0.9


def test_nerfacc_sees_the_ball_where_it_is_in_the_frame_of_the_input(
    scene, analytic_ball, monkeypatch, tmp_path
):
    pytest.importorskip("nerfacc", reason="the extra `nerfacc` is not installed")
    found = load_scene(scene)
    assert found.to_field.scale != 1
    settings = settings_of(found, "hash-grid", {}, 0, 1024, 1 << 20)
    grid = full_grid(found.grid_levels, 64, CPU)
    run = Trained(settings, analytic_ball(found.to_field), grid, found.to_field)
    names = run_with(monkeypatch, tmp_path, block_with("import nerfacc"), run)
    # The ball has radius 0.8 around the origin, and its colour follows its normal.
    torch.testing.assert_close(names["depth"], torch.tensor([[3.2]]), atol=0.01, rtol=0)
    torch.testing.assert_close(names["opacity"], torch.ones(1, 1), atol=1e-3, rtol=0)
    torch.testing.assert_close(names["color"], torch.tensor([[0.5, 0.1, 0.5]]), atol=0.01, rtol=0)


def test_nothing_is_seen_where_the_runs_grid_is_off(scene, analytic_ball):
    found = load_scene(scene)
    grid = full_grid(found.grid_levels, 64, CPU)
    grid.bits.zero_()
    begin, end = torch.tensor([[3.3]]), torch.tensor([[3.4]])
    rays = torch.tensor([[0.0, -4, 0]]), torch.tensor([[0.0, 1, 0]])
    for sampler, seen in (("occupancy", False), ("importance", True)):
        settings = settings_of(found, "hash-grid", {}, 0, 1024, 1 << 20)
        settings = replace(settings, sampler=sampler)
        run = Trained(settings, analytic_ball(found.to_field), grid, found.to_field)
        assert bool(run.along(*rays).sigma_fn(begin, end) > 0) == seen


def test_a_runs_field_goes_to_tiny_cuda_nn_and_comes_back(scene, monkeypatch, tmp_path):
    arguments = arguments_of(HashGridArguments(levels=3, log2_table_size=9, finest_resolution=40))
    run = build(settings_of(load_scene(scene), "hash-grid", arguments, 0, 1024, 1 << 20), CPU)
    names = run_with(monkeypatch, tmp_path, block_with("tiny_cuda_nn"), run)
    expected = run.field.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in names["field"].state_dict().items())
    assert len(load_file(tmp_path / "field.safetensors")["params"]) > 3 * 512 * 4
    assert len(names["parameters"].color) == 48 * 32 + 48 * 48 + 16 * 48


@pytest.fixture
def lattice(monkeypatch):
    """The names of the listing of another field, which is in the table while the test runs."""
    code, names = block_with("class Lattice"), {}
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 45
    monkeypatch.setitem(FIELDS, "lattice", FIELDS["mlp"])  # so that it is taken out afterwards
    exec(code, names)
    assert FIELDS["lattice"].field is names["lattice_field"]
    return names


def test_another_field_is_its_listing_and_trains_on_a_scene(scene, tmp_path, lattice):
    out = tmp_path / "run"
    train(Train(scene, field="lattice", out=out, steps=100, report=False))
    trained = load(out, CPU)
    assert trained.settings.field == "lattice" and trained.settings.arguments["side"] > 16
    before = checkpoint.latest(out / "checkpoints").tensors["field.encoding.nodes"]
    assert torch.equal(trained.field.encoding.nodes, before)
    losses = [r["loss"] for r in RunFolder.open(out).records() if "loss" in r]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_another_field_learns_an_image_as_well(tmp_path, lattice):
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(48), indexing="ij")
    image = torch.stack([5 * columns, 8 * rows, 0 * rows], 2).to(torch.uint8)
    Image.fromarray(image.numpy()).save(tmp_path / "a.png")
    found = fit(Fit(tmp_path / "a.png", "lattice", 20_000, steps=100, out=tmp_path / "run"))
    assert found.psnr > 25 and found.parameters <= 20_000
    assert is_fit(tmp_path / "run") and render(Render(tmp_path / "run")).files
