import numpy as np
import pytest
import torch
from PIL import Image

from polyfield.apps.bench_fields import (
    fields_summary,
    hash_signal,
    image_rows,
    learn,
    numbers_of,
    pixel_places,
    rbf_signal,
    read_photograph,
)
from polyfield.apps.main import main
from polyfield.cuda.errors import InputError
from polyfield.fields.rbf import Rbf


def painted(height=64, width=96):
    """A rippled disc on flat ground."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    disc = (rows - 30).square() + (columns - 40).square() < 15**2
    ripples = disc * (0.5 + 0.4 * torch.sin(columns * 0.9))
    return torch.stack([0.2 + 0.6 * disc, ripples, 0.3 + 0.0 * ripples], 2)


def test_every_field_has_the_numbers_of_the_hash_grid():
    image = painted()
    budget = numbers_of(hash_signal(image, 0))
    assert 0.5 * 64 * 96 < budget - (32 * 64 + 64 * 64 + 64 * 3) <= 1.1 * 64 * 96
    budget = 60_000
    for changes in ({}, {"placed": False}, {"sines": False}, {"grid": False}):
        assert 0.99 * budget < numbers_of(rbf_signal(image, budget, 0, **changes)) <= budget


def test_placed_kernels_lie_where_the_photograph_varies():
    image = painted()
    encoding = rbf_signal(image, 15_000, 0).encoding
    assert isinstance(encoding, Rbf)
    far = (encoding.centers * 96 - torch.tensor([40.0, 30.0])).norm(dim=1)
    assert (far < 17).float().mean() > 0.9


def test_a_photograph_is_learned_and_placement_earns_its_place():
    image = painted()
    found = {}
    for name, changes in (("placed", {}), ("lattice", {"placed": False})):
        signal = rbf_signal(image, 14_000, 0, grid=False, **changes)
        found[name] = learn(name, signal, 0.0, image, 250, 0, 5e-3).psnr
    assert found["placed"] > 28 and found["placed"] > found["lattice"] + 2


def test_rows_repeat_with_their_seed_and_say_what_was_gained():
    image = painted()
    rows = image_rows(image, 3, 1)
    assert [row["name"] for row in rows] == [
        "hash-grid",
        "rbf",
        "rbf on a lattice",
        "rbf without sines",
        "rbf without a grid",
    ]
    again = image_rows(image, 3, 1)
    assert [row["psnr"] for row in rows] == [row["psnr"] for row in again]
    learned = {row["name"]: row["learned"] for row in rows}
    assert learned["hash-grid"] == rows[0]["parameters"] > learned["rbf"]
    table = fields_summary(rows)
    assert "+0.00" in table and "rbf on a lattice" in table and "3 steps each" in table


def test_pixels_have_the_places_of_their_centres():
    x = pixel_places(torch.zeros(2, 4, 3))
    assert x[0].tolist() == [0.125, 0.125] and x[-1].tolist() == [0.875, 0.375]


def test_the_command_reads_a_photograph(tmp_path, capsys):
    pixels = (painted().numpy() * 255).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert torch.equal(read_photograph(tmp_path / "a.png"), torch.from_numpy(pixels) / 255)
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
