"""Dual contouring: edges and corners are kept, sheets stay apart, everything closes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from polyfield.cuda.errors import InputError
from polyfield.extract.dual_contouring import FARTHEST, Loops, dual_contour, place_vertices
from polyfield.extract.marching_cubes import distance_mesh
from polyfield.extract.mesh_report import mesh_report


def gradient_of(distance):
    def gradient(x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(distance(x).sum(), x)[0]

    return gradient


def contour(distance, resolution, steepest=None):
    return dual_contour(distance, gradient_of(distance), resolution, steepest)


def turned(seed):
    """A proper rotation."""
    random = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(3, 3, generator=random, dtype=torch.float64))
    q = q * r.diagonal().sign()
    return (q * torch.linalg.det(q)).float()


HALF = torch.tensor([0.31, 0.23, 0.27])
CENTER = torch.tensor([0.503, 0.497, 0.511])


def box(rotation):
    """Exact distance to a box of half sides HALF."""

    def distance(x):
        q = ((x - CENTER) @ rotation).abs() - HALF
        outside = q.clamp_min(0).square().sum(1)
        return torch.where(outside > 0, outside.clamp_min(1e-20).sqrt(), q.amax(1).clamp_max(0))

    return distance


def volume(mesh):
    a, b, c = mesh.vertices.double()[mesh.faces].unbind(1)
    return float((a * torch.linalg.cross(b, c)).sum() / 6)


def area(mesh):
    return float(mesh.face_vectors().norm(dim=1).sum())


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_a_box_keeps_its_edges_and_corners(seed):
    rotation = torch.eye(3) if seed is None else turned(seed)
    resolution = 32
    mesh = contour(box(rotation), resolution)
    a, b, c = (2 * HALF).double().tolist()
    assert volume(mesh) == pytest.approx(a * b * c, rel=2e-4)
    assert area(mesh) == pytest.approx(2 * (a * b + b * c + c * a), rel=2e-4)
    report = mesh_report(mesh)
    assert report.watertight and report.euler == 2 and report.components == 1
    # Quads over an edge are split along it: hardly a face is folded over or cuts across.
    slope = gradient_of(box(rotation))(mesh.vertices[mesh.faces].mean(1))
    facing = (normalize(mesh.face_vectors(), dim=1) * normalize(slope, dim=1)).sum(1)
    assert (facing < 0.9).double().mean() < 0.002
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)
    corners = CENTER + (signs * HALF) @ rotation.T
    nearest = torch.cdist(corners, mesh.vertices).amin(1)
    assert nearest.max() < 0.05 / resolution
    rounded = distance_mesh(box(rotation), resolution)
    lost = torch.cdist(corners, rounded.vertices).amin(1)
    assert lost.min() > 5 * nearest.max()


def test_a_ball_comes_nearer_by_the_square_of_the_lattice():
    def ball(x):
        return (x - CENTER).norm(dim=1) - 0.37

    errors = []
    for resolution in (12, 24, 48):
        mesh = contour(ball, resolution)
        assert mesh_report(mesh).euler == 2
        errors.append(abs(volume(mesh) / (4 / 3 * math.pi * 0.37**3) - 1))
    assert errors[0] > 3 * errors[1] > 9 * errors[2]


def ring(x):
    p = x - CENTER
    return (p[:, :2].norm(dim=1) - 0.3).hypot(p[:, 2]) - 0.1


def shell(x):
    return ((x - CENTER).norm(dim=1) - 0.3).abs() - 0.06


def cylinder(x):
    p = x - CENTER
    return torch.maximum(p[:, :2].norm(dim=1) - 0.3, p[:, 2].abs() - 0.2)


@pytest.mark.parametrize(("shape", "euler"), [(ring, 0), (shell, 4), (cylinder, 2)])
@pytest.mark.parametrize("resolution", [20, 33])
def test_shapes_keep_their_topology_and_face_outward(shape, euler, resolution):
    mesh = contour(shape, resolution, steepest=1.1)
    report = mesh_report(mesh)
    assert report.watertight and report.euler == euler and report.turned_edges == 0
    middle = mesh.vertices[mesh.faces].mean(1)
    slope = gradient_of(shape)(middle)
    facing = (mesh.face_vectors() * slope).sum(1) / mesh.face_vectors().norm(dim=1)
    assert (facing > 0).double().mean() > 0.995
    assert (shape(mesh.vertices).abs() < 0.15 / resolution).double().mean() > 0.98


def test_the_rim_of_a_cylinder_is_sharp():
    mesh = contour(cylinder, 32)
    p = mesh.vertices - CENTER
    radius, height = p[:, :2].norm(dim=1), p[:, 2].abs()
    at_rim = (radius - 0.3).abs().maximum((height - 0.2).abs()) < 2e-3
    turn = torch.atan2(p[at_rim, 1], p[at_rim, 0])
    top = p[at_rim, 2] > 0
    for side in (top, ~top):  # vertices on it all around, none rounded off
        gaps = turn[side].sort().values.diff()
        assert gaps.max() < 2.5 / 32 / 0.3
    beside = (radius > 0.27) & (height > 0.17) & ~at_rim
    near = (radius - 0.3).abs().minimum((height - 0.2).abs())
    assert near[beside].max() < 1e-3


def test_two_sheets_within_one_cell_stay_two():
    """Two balls, each about a corner of one cell, diagonally across it."""

    def diagonal(x):
        a = (x - 8 / 16 - 0.02 / 16).norm(dim=1)
        b = (x - torch.tensor([9.0, 9, 9]) / 16 + 0.02 / 16).norm(dim=1)
        return torch.minimum(a, b) - 0.45 / 16

    mesh = contour(diagonal, 16)
    report = mesh_report(mesh)
    assert (report.components, report.euler, report.watertight) == (2, 4, True)
    assert report.non_manifold_vertices == 0


def test_what_reaches_the_cube_s_border_closes_on_it():
    mesh = contour(lambda x: x[:, 0] - 0.5, 16)
    report = mesh_report(mesh)
    assert report.watertight and report.euler == 2
    assert volume(mesh) == pytest.approx(0.5, rel=0.08)  # a cell's part at the border


def test_nothing_is_an_empty_mesh_and_nan_is_refused():
    assert len(contour(lambda x: 1 + 0 * x[:, 0], 16).faces) == 0
    with pytest.raises(InputError, match="NaN"):
        contour(lambda x: x[:, 0] * torch.nan, 16)


def loop_of(count):
    return Loops(torch.zeros(1, 3).long(), torch.arange(count), torch.zeros(count).long())


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, 2, 3]))
def test_a_vertex_lies_where_planes_meet_and_near_the_mean_in_what_they_leave_open(seed, planes):
    """Crossings on one, two or three planes through a point; four on each."""
    random = torch.Generator().manual_seed(seed)
    axes = turned(seed).double()[:planes]
    meet = torch.rand(3, generator=random, dtype=torch.float64)
    points, normals = [], []
    for normal in axes:
        away = torch.rand(4, 3, generator=random, dtype=torch.float64) - 0.5
        points.append(meet + away - (away @ normal)[:, None] * normal)
        normals.append(normal.expand(4, 3))
    points, normals = torch.cat(points), torch.cat(normals)
    (found,) = place_vertices(loop_of(len(points)), points, normals)
    for normal in axes:
        assert abs(float((found - meet) @ normal)) < 1e-7
    rest = found - points.mean(0)  # only along the planes' normals
    inside = axes.T @ (axes @ rest)
    assert (rest - inside).abs().max() < 1e-7


def test_planes_that_meet_far_away_do_not_take_the_vertex_there():
    """Two sides of a needle, an angle of 40 degrees: they meet 3 cells off; one plane is enough."""
    lean = math.radians(20)
    one = torch.tensor([math.cos(lean), math.sin(lean), 0.0], dtype=torch.float64)
    other = torch.tensor([-math.cos(lean), math.sin(lean), 0.0], dtype=torch.float64)
    points = torch.tensor([[0.9, 0, 0], [0.9, 0, 1], [-0.9, 0, 0], [-0.9, 0, 1]]).double()
    normals = torch.stack([one, one, other, other])
    (found,) = place_vertices(loop_of(4), points, normals)
    mean = points.mean(0)
    assert (found - mean).norm() <= FARTHEST
    tip = 0.9 / math.tan(lean)
    assert tip > FARTHEST and abs(float(found[1]) - tip) > 0.5
