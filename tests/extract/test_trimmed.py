"""Meshes cut along a line of zeros: a sphere of which a half stays, and what must not change."""

import math

import pytest
import torch

from polyfield.cuda.errors import InputError
from polyfield.extract.marching_cubes import distance_mesh
from polyfield.extract.mesh import Mesh
from polyfield.extract.mesh_report import mesh_report
from polyfield.extract.trimmed import trimmed

RADIUS = 0.3


@pytest.fixture(scope="module")
def sphere():
    return distance_mesh(lambda x: (x - 0.5).norm(dim=1) - RADIUS, 48)


def area(mesh):
    return float(mesh.face_vectors().norm(dim=1).sum())


@pytest.mark.parametrize("height", [0.0, 0.117, -0.2, 0.29])
def test_a_sphere_cut_by_a_plane_is_a_cap_with_one_rim_on_it(sphere, height):
    mesh = trimmed(sphere, sphere.vertices[:, 2] - 0.5 - height)
    report = mesh_report(mesh)
    assert (report.components, report.euler, report.boundary_loops) == (1, 1, 1)
    assert report.non_manifold_edges == report.turned_edges == report.unused_vertices == 0
    assert area(mesh) == pytest.approx(2 * math.pi * RADIUS * (RADIUS + height), rel=5e-3)
    over = mesh.vertices[:, 2] - 0.5 - height
    # A cut keeps a thousandth of an edge away from its ends.
    assert float(over.max()) < 2e-3 / 48
    rim = over.abs() < 2e-3 / 48
    assert int(rim.sum()) >= report.boundary_edges
    (opening,) = report.openings
    assert opening.length == pytest.approx(2 * math.pi * math.sqrt(RADIUS**2 - height**2), rel=0.01)
    outward = mesh.vertices[mesh.faces].mean(1).double() - 0.5
    assert ((mesh.face_vectors() * outward).sum(1) >= 0).all()


def test_the_two_sides_of_a_cut_are_the_whole(sphere):
    values = (sphere.vertices * torch.tensor([5.0, 7.0, 9.0])).sin().sum(1)
    low, high = trimmed(sphere, values), trimmed(sphere, -values)
    assert area(low) + area(high) == pytest.approx(area(sphere), rel=1e-6)
    edges = [mesh_report(part).boundary_edges for part in (low, high)]
    assert edges[0] == edges[1] > 0


def test_what_is_not_above_0_stays_as_it_is_and_nothing_of_what_is():
    square = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    mesh = Mesh(square, torch.tensor([[0, 1, 2], [0, 2, 3]]))
    for values in (torch.zeros(4), torch.tensor([-1.0, 0, -2, 0])):
        kept = trimmed(mesh, values)
        assert torch.equal(kept.vertices, square) and torch.equal(kept.faces, mesh.faces)
    assert not len(trimmed(mesh, torch.ones(4)).faces)
    assert not len(trimmed(mesh, torch.ones(4)).vertices)


def test_a_cut_lies_where_the_values_are_0_between_the_ends():
    mesh = Mesh(torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), torch.tensor([[0, 1, 2]]))
    tip = trimmed(mesh, torch.tensor([-1.0, 3, 1]))
    expected = torch.tensor([[0.0, 0, 0], [0.25, 0, 0], [0, 0.5, 0]])
    torch.testing.assert_close(tip.vertices[tip.faces[0]], expected)
    rest = trimmed(mesh, torch.tensor([1.0, -3, -1]))
    assert len(rest.faces) == 2 and area(rest) == pytest.approx(0.5 - 0.0625)
    assert (rest.face_vectors()[:, 2] > 0).all()


def test_values_that_are_not_one_a_vertex_are_refused(sphere):
    with pytest.raises(InputError, match="one a vertex"):
        trimmed(sphere, torch.zeros(3))
    values = torch.zeros(len(sphere.vertices))
    values[5] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        trimmed(sphere, values)
