"""The large surface: a field of known size, and a verdict on what cutting it took."""

import math
from dataclasses import asdict

import pytest
import torch

from polyfield.apps import bench as bench_module
from polyfield.apps import bench_labyrinth as module
from polyfield.apps.bench import Bench, bench, failed, summary
from polyfield.apps.bench_labyrinth import STEEPEST, cut_labyrinth, labyrinth


def test_the_field_is_that_of_the_specification_and_no_steeper_than_it_says():
    p = 2 * torch.rand(2000, 3, generator=torch.Generator().manual_seed(0)).double() - 1
    x, y, z = p.unbind(1)
    k = 4 * math.pi
    waves = (k * x).sin() * (k * y).cos() + (k * y).sin() * (k * z).cos()
    waves = (waves + (k * z).sin() * (k * x).cos()) / (1.5 * k)
    expected = torch.maximum(p.norm(dim=1) - 0.9, waves)
    at = ((p + 1) / 2).requires_grad_()
    found = labyrinth(at)
    torch.testing.assert_close(2 * found, expected)
    (slope,) = torch.autograd.grad(found.sum(), at)
    assert slope.norm(dim=1).max() < STEEPEST


def test_it_is_closed_and_what_it_took_is_counted():
    row = cut_labyrinth(64)
    assert row.cells == 64 and row.open_edges == row.crowded_edges == 0
    assert row.points > 50_000 and row.seconds > 0 and row.peak_bytes > 1e8
    # Of a closed surface of many handles.
    assert row.vertices < row.faces / 2


@pytest.mark.parametrize(("name", "value"), [("SECONDS", 0.0), ("BYTES", 1.0)])
def test_too_much_time_or_memory_is_told(monkeypatch, name, value):
    monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(bench_module, "cut_labyrinth", lambda: cut_labyrinth(32))
    rows = bench(Bench("surface"))
    assert failed(rows) and "NOT WITHIN" in summary(rows)


def test_a_hole_is_told(monkeypatch):
    whole = module.distance_mesh

    def holed(*arguments):
        mesh = whole(*arguments)
        return mesh.with_faces(torch.arange(len(mesh.faces)) > 0)

    monkeypatch.setattr(module, "distance_mesh", holed)
    row = asdict(cut_labyrinth(32))
    assert row["open_edges"] == 3 and failed([row])
