"""The code in README.md runs as it stands there, and does what is said of it."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from polyfield.apps.scene import load_scene
from polyfield.apps.settings import settings_of
from polyfield.apps.trained import Trained, build
from polyfield.fields.hash_grid import HashGridArguments
from polyfield.fields.table import arguments_of
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
    assert len(BLOCKS) == 2


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
