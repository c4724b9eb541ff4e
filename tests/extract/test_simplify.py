"""Fewer faces: as many as asked for, near the surface, with its topology."""

import math
import sys

import pytest
import torch

from polyfield.cuda.errors import InputError, MissingExtraError
from polyfield.extract.marching_cubes import distance_mesh
from polyfield.extract.mesh import Mesh
from polyfield.extract.mesh_report import mesh_report
from polyfield.extract.simplify import simplified


def ring(x):
    """Distance to a torus in the unit cube."""
    p = x - 0.5
    across = p[:, :2].norm(dim=1) - 0.3
    return across.hypot(p[:, 2]) - 0.12


@pytest.fixture(scope="module")
def torus():
    return distance_mesh(ring, 64)


def test_a_torus_stays_one_and_close_to_itself(torus):
    found = simplified(torus, 2000)
    assert 1900 < len(found.faces) <= 2000 < len(torus.faces)
    report = mesh_report(found)
    assert report.watertight and report.euler == 0 and report.flat_faces == 0
    assert ring(found.vertices).abs().max() < 0.01
    area = float(found.face_vectors().norm(dim=1).sum())
    assert area == pytest.approx(4 * math.pi**2 * 0.3 * 0.12, rel=0.01)
    middle = found.vertices[found.faces].mean(1)
    outward = torch.autograd.functional.jacobian(lambda x: ring(x).sum(), middle)
    assert ((found.face_vectors() * outward).sum(1) > 0).float().mean() > 0.99


def test_flat_parts_lose_nearly_all_of_their_faces_and_nothing_else():
    ticks = torch.linspace(0, 1, 33)
    x, y = torch.meshgrid(ticks, ticks, indexing="ij")
    vertices = torch.stack([x, y, 0 * x], 2).view(-1, 3)
    corner = (torch.arange(32)[:, None] * 33 + torch.arange(32)).view(-1, 1)
    faces = torch.cat([corner + torch.tensor([0, 33, 34]), corner + torch.tensor([0, 34, 1])])
    found = simplified(Mesh(vertices, faces), 200)
    assert len(found.faces) <= 210 and found.vertices[:, 2].abs().max() < 1e-6
    assert float(found.face_vectors().norm(dim=1).sum()) == pytest.approx(1.0, abs=1e-5)
    assert mesh_report(found).boundary_loops == 1


def test_a_mesh_of_fewer_faces_stays_as_it_is_without_its_colours(torus):
    colored = Mesh(torus.vertices, torus.faces, torch.rand(len(torus.vertices), 3))
    found = simplified(colored, len(torus.faces))
    assert torch.equal(found.vertices, torus.vertices) and torch.equal(found.faces, torus.faces)
    assert found.colors is None and found.normals is None


def test_less_than_a_tetrahedron_is_refused(torus):
    with pytest.raises(InputError, match="faces: 3"):
        simplified(torus, 3)


def test_without_the_package_its_extra_is_named(torus, monkeypatch):
    monkeypatch.setitem(sys.modules, "fast_simplification", None)
    with pytest.raises(MissingExtraError, match=r"polyfield\[surfaces\]"):
        simplified(torus, 100)
