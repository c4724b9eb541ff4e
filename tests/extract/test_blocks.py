"""Surfaces of lattices that are never held whole: the same mesh, from a fraction of the points."""

import math

import pytest
import torch

from polyfield.cuda.errors import InputError
from polyfield.extract.blocks import SIDE, Lattice, _NearLevel, active_blocks
from polyfield.extract.marching_cubes import density_mesh, distance_mesh, marching_cubes
from polyfield.extract.mesh_checks import (
    enclosed_volume,
    euler_characteristic,
    is_closed_and_oriented,
)

CPU = torch.device("cpu")


def ball(points, center=(0.5, 0.5, 0.5), radius=0.3):
    return (points - torch.tensor(center)).norm(dim=1) - radius


def gyroid(points, k=2 * math.pi):
    """The specification's labyrinth in a ball, of [-1, 1]^3; it changes by at most 2 / sqrt(3)."""
    p = 2 * points - 1
    x, y, z = (k * p).unbind(1)
    wave = x.sin() * y.cos() + y.sin() * z.cos() + z.sin() * x.cos()
    return torch.maximum(p.norm(dim=1) - 0.9, wave / (1.5 * k)) / 2


class Counted:
    """A field that knows how many points it was asked for, and that these were in the cube."""

    def __init__(self, field):
        self.field, self.points = field, 0

    def __call__(self, points):
        self.points += len(points)
        assert points.dtype == torch.float32
        assert float(points.min()) >= 0 and float(points.max()) <= 1
        return self.field(points)


@pytest.mark.parametrize("resolution", [40, 64, 97])
def test_leaving_blocks_out_changes_nothing(resolution):
    every, some = Counted(gyroid), Counted(gyroid)
    whole = distance_mesh(every, resolution)
    sparse = distance_mesh(some, resolution, steepest=1.16)
    assert is_closed_and_oriented(whole.faces)
    torch.testing.assert_close(sparse.vertices, whole.vertices, atol=1e-6, rtol=0)
    assert torch.equal(sparse.faces, whole.faces)


def test_few_points_are_asked_for():
    field = Counted(ball)
    mesh = distance_mesh(field, 256, steepest=1.0)
    assert is_closed_and_oriented(mesh.faces) and euler_characteristic(mesh.faces) == 2
    assert field.points < 0.25 * 257**3
    assert enclosed_volume(mesh.vertices, mesh.faces) == pytest.approx(
        4 / 3 * math.pi * 0.3**3, rel=1e-3
    )


def test_vertices_are_those_of_the_lattice_cut_at_once():
    n = 48
    axis = torch.arange(n + 1) / n
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)
    values = -gyroid(points.view(-1, 3)).view(n + 1, n + 1, n + 1)
    for dim in range(3):
        values.select(dim, 0)[:] = values.select(dim, n)[:] = -torch.inf
    whole, faces = marching_cubes(values, 0.0)
    mesh = distance_mesh(gyroid, n, bisections=0)
    assert len(mesh.faces) == len(faces)
    apart = torch.cdist(mesh.vertices.double() * n, whole.double())
    assert float(apart.amin(0).max()) < 1e-3 and float(apart.amin(1).max()) < 1e-3


@pytest.mark.parametrize("memory_bytes", [1, 1 << 22])
def test_how_many_blocks_are_cut_at_once_changes_nothing(memory_bytes):
    whole = distance_mesh(gyroid, 70, steepest=1.16)
    parts = distance_mesh(gyroid, 70, steepest=1.16, memory_bytes=memory_bytes)
    torch.testing.assert_close(parts.vertices, whole.vertices, atol=1e-6, rtol=0)
    assert torch.equal(parts.faces, whole.faces)


def test_a_field_that_never_rounds_the_same_way_twice_leaves_no_crack():
    """Nodes exactly on the surface, on the common sides of blocks, asked for again and again."""
    random = torch.Generator().manual_seed(0)

    def restless(points):
        return points[:, 0] - 0.5 + 1e-7 * (torch.rand(len(points), generator=random) - 0.5)

    for resolution in (32, 64):  # 0.5 is a side of blocks
        mesh = distance_mesh(restless, resolution, memory_bytes=1 << 20)
        assert is_closed_and_oriented(mesh.faces) and euler_characteristic(mesh.faces) == 2


def test_only_nodes_near_the_level_are_remembered(monkeypatch):
    """However dense the solid is."""
    remembered = []
    agreed = _NearLevel.agreed

    def count(self, nodes, values):
        remembered.append(len(nodes))
        return agreed(self, nodes, values)

    monkeypatch.setattr(_NearLevel, "agreed", count)
    mesh = density_mesh(lambda x: 3e6 * (ball(x) < 0) + 10 * (x[:, 0] == 0.5), 64, 10.0)
    assert is_closed_and_oriented(mesh.faces)
    assert 0 < sum(remembered) < 2 * 65**2


def test_blocks_are_those_that_the_surface_meets():
    def field(points):
        return ball(points, radius=0.31)

    def crossed(corners, side):
        middle = (corners + side / 2) / 128
        return field(middle.float()).abs() <= side / 2 * 3**0.5 / 128

    found = active_blocks(Lattice(128, 0.0, field, 0.0, crossed=crossed), CPU)
    ticks = torch.arange(0, 128, SIDE)
    corners = torch.cartesian_prod(ticks, ticks, ticks)
    assert torch.equal(found, corners[crossed(corners, SIDE)])
    everything = active_blocks(Lattice(100, 0.0, field, 0.0), CPU)
    assert len(everything) == 7**3


def test_a_surface_at_the_cube_s_border_closes_there():
    mesh = distance_mesh(lambda x: x[:, 2] - 0.4, 50, steepest=1.0)
    assert is_closed_and_oriented(mesh.faces) and euler_characteristic(mesh.faces) == 2
    assert enclosed_volume(mesh.vertices, mesh.faces) == pytest.approx(0.4, rel=0.02)
    assert 0 <= float(mesh.vertices.min()) and float(mesh.vertices.max()) <= 1


def test_faces_look_up_the_distance():
    mesh = distance_mesh(ball, 40)
    middles = mesh.vertices[mesh.faces].mean(1) - 0.5
    assert bool(((middles * mesh.face_vectors()).sum(1) > 0).all())


@pytest.mark.parametrize("value", [1.0, torch.inf])
def test_nothing_below_0_is_an_empty_mesh(value):
    for steepest in (None, 1.0):
        mesh = distance_mesh(lambda x: torch.full_like(x[:, 0], value), 40, steepest)
        assert mesh.faces.shape == (0, 3) and mesh.vertices.shape == (0, 3)


def test_everything_below_0_is_the_cube():
    mesh = distance_mesh(lambda x: torch.full_like(x[:, 0], -1.0), 40, 1.0)
    assert is_closed_and_oriented(mesh.faces)
    assert enclosed_volume(mesh.vertices, mesh.faces) == pytest.approx(1, rel=0.01)


def test_a_sheet_thinner_than_the_lattice_may_be_missed_but_never_torn():
    mesh = distance_mesh(lambda x: (x[:, 1] - 0.503).abs() - 1e-4, 40)
    assert not len(mesh.faces) or is_closed_and_oriented(mesh.faces)


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="NaN"):
        distance_mesh(lambda x: ball(x) + torch.nan, 40, 1.0)
    with pytest.raises(InputError, match="resolution"):
        distance_mesh(ball, 1)
    for steepest in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(InputError, match="steepest"):
            distance_mesh(ball, 40, steepest)
