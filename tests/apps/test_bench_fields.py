from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from polyfield.apps.bench_fields import (
    fields_summary,
    image_rows,
    learn,
    rbf_variants,
    read_photograph,
)
from polyfield.apps.main import main
from polyfield.apps.rasters import Raster, RasterSource
from polyfield.cuda.errors import InputError
from polyfield.fields.rbf import RbfSignal, fitted_kernels


def painted(height=64, width=96):
    """A rippled disc on flat ground."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    disc = (rows - 30).square() + (columns - 40).square() < 15**2
    ripples = disc * (0.5 + 0.4 * torch.sin(columns * 0.9))
    image = torch.stack([0.2 + 0.6 * disc, ripples, 0.3 + 0.0 * ripples], 2)
    return (255 * image).round().to(torch.uint8)


def test_a_photograph_is_learned_and_placement_earns_its_place():
    source = RasterSource(Raster(painted()[None]), 0)
    whole = replace(RbfSignal(), levels=0)
    found = {}
    for name, sizes in (("placed", whole), ("lattice", replace(whole, placed=0))):
        sizes = fitted_kernels(sizes, 2, 96, 14_000)
        row = learn(name, "rbf", sizes, source, 250)
        assert 0.99 * 14_000 < row.parameters <= 14_000
        found[name] = row.psnr
    assert found["placed"] > 30 and found["placed"] > found["lattice"] + 3


def test_each_part_is_left_out_in_its_turn():
    variants = rbf_variants()
    left = {name: (v.placed, v.sines, v.levels) for name, v in variants.items()}
    assert left == {
        "rbf": (1, 1, 6),
        "rbf on a lattice": (0, 1, 6),
        "rbf without sines": (1, 0, 6),
        "rbf without a grid": (1, 1, 0),
    }


def test_rows_repeat_with_their_seed_and_say_what_was_gained():
    image = painted(128, 160)
    rows = image_rows(image, 3, 1)
    assert [row["name"] for row in rows] == ["hash-grid", "tri-plane", *rbf_variants()]
    again = image_rows(image, 3, 1)
    assert [row["psnr"] for row in rows] == [row["psnr"] for row in again]
    for row in rows:
        assert 0.9 * 128 * 160 < row["parameters"] <= 128 * 160
        assert row["gained"] == row["psnr"] - rows[0]["psnr"]
        placed = row["name"].startswith("rbf")
        assert (row["learned"] < row["parameters"]) == placed
    table = fields_summary(rows)
    assert "+0.00" in table and "rbf on a lattice" in table and "3 steps each" in table


def test_the_command_reads_a_photograph(tmp_path, capsys):
    Image.fromarray(painted(128, 160).numpy()).save(tmp_path / "a.png")
    assert torch.equal(read_photograph(tmp_path / "a.png"), painted(128, 160))
    grey = np.full((70, 80), 9, np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert read_photograph(tmp_path / "grey.png").shape == (70, 80, 3)
    assert main(["bench", "fields", str(tmp_path / "a.png"), "--steps", "2"]) == 0
    assert "rbf without sines" in capsys.readouterr().out
    assert main(["bench", "fields"]) == 2
    assert "a photograph with fields" in capsys.readouterr().err


def test_what_is_no_photograph_is_refused(tmp_path):
    Image.new("RGB", (63, 90)).save(tmp_path / "thin.png")
    with pytest.raises(InputError, match="thin.png: 63 x 90; expected at least 64"):
        read_photograph(tmp_path / "thin.png")
    with pytest.raises(InputError, match="--steps: 0"):
        image_rows(painted(), 0, 0)
