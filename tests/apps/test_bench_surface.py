import sys

import pytest
import torch

from polyfield.apps.bench_race import Absent, check, hold
from polyfield.apps.bench_surface import (
    noisy_ball,
    surface_against_pymcubes,
    surface_against_scikit_image,
    surface_against_vtk,
    vertices_on_edges,
)
from polyfield.cuda.errors import PolyfieldError
from polyfield.extract.marching_cubes import marching_cubes


@pytest.mark.parametrize(
    "make", [surface_against_pymcubes, surface_against_scikit_image, surface_against_vtk]
)
def test_both_sides_find_the_same_vertices_on_edges(make):
    try:
        race = make(24)
    except Absent as absent:
        pytest.skip(str(absent))
    row = hold("surface", race, 2)
    assert row.ratio is not None and row.ratio > 0
    moved = tuple(part + 1e-3 for part in race.shown(race.ours()))
    with pytest.raises(PolyfieldError, match="differs"):
        check("surface", moved, race.read(race.theirs()), race.tolerance)


def test_vertices_on_edges_are_put_in_the_order_of_edges():
    values = noisy_ball(12)
    vertices, _ = marching_cubes(values, 0.0)
    shuffled = vertices[torch.randperm(len(vertices), generator=torch.Generator().manual_seed(0))]
    found = vertices_on_edges(vertices, values)
    assert torch.equal(found, vertices_on_edges(shuffled, values))
    assert 0.9 * len(vertices) < len(found) <= len(vertices)
    assert ((found - found.round()).abs() > 0).sum(1).max() == 1


def test_the_noise_is_half_a_cell():
    side = 40
    axis = torch.linspace(-1, 1, side)
    away = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).norm(dim=0)
    noise = (noisy_ball(side) - (0.7 - away)) * (side - 1) / 2
    assert noise.abs().max() <= 0.5001 and noise.abs().mean() == pytest.approx(0.25, abs=0.01)


def test_an_opponent_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mcubes", None)
    with pytest.raises(Absent, match="PyMCubes"):
        surface_against_pymcubes(8)
