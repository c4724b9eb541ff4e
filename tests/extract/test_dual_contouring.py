"""Dual contouring: edges and corners are kept, sheets stay apart, everything closes."""

import math

import pytest
import torch
from torch.nn.functional import grid_sample, normalize, pad

from polyfield.cuda.errors import InputError
from polyfield.extract.dual_contouring import dual_contour
from polyfield.extract.marching_cubes import distance_mesh
from polyfield.extract.mesh_checks import euler_characteristic, is_closed_and_oriented
from polyfield.extract.mesh_report import mesh_report


def gradient_of(distance):
    def gradient(x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(distance(x).sum(), x)[0]

    return gradient


def contour(distance, resolution, steepest=None, tolerance=0.0):
    gradient = gradient_of(distance)
    return dual_contour(distance, gradient, resolution, steepest, tolerance=tolerance)


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


def noise(seed):
    """Trilinear between nodes of a lattice of 8 cells a side, random but for its border."""
    random = torch.Generator().manual_seed(seed)
    values = pad(torch.randn(7, 7, 7, generator=random), (1,) * 6, value=-1.0)

    def distance(x):
        at = (2 * x - 1).flip(1)[None, None, None]
        return -grid_sample(values[None, None], at, align_corners=True)[0, 0, 0, 0]

    return distance


def is_manifold(mesh):
    """Closed, oriented, one fan of faces around each vertex, and a vertex for each number."""
    if not is_closed_and_oriented(mesh.faces):
        return False
    after = {}
    for a, b, c in mesh.faces.tolist():
        for at, start, end in ((a, b, c), (b, c, a), (c, a, b)):
            after.setdefault(at, {})[start] = end
    for around in after.values():
        start = at = next(iter(around))
        steps = 1
        while (at := around[at]) != start:
            steps += 1
        if steps != len(around):
            return False
    return len(after) == len(mesh.vertices)


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_whatever_the_field_it_is_a_manifold_of_the_right_topology(first):
    """Of 60 random fields, with tunnels within cells and neighbours that share two borders."""
    smaller = {0.0: 0, 0.01: 0, 0.1: 0}
    for seed in range(first, first + 20):
        field = noise(seed)
        truth = euler_characteristic(distance_mesh(field, 8, bisections=0).faces)
        for tolerance in smaller:
            mesh = contour(field, 8, tolerance=tolerance)
            assert is_manifold(mesh), seed
            assert euler_characteristic(mesh.faces) == truth, seed
            most = len(mesh.faces) if tolerance == 0 else most
            smaller[tolerance] += len(mesh.faces) < most
    assert smaller[0.01] > 2 and smaller[0.1] == 20


def notched(x):
    """A box less a smaller one that reaches into it through a face."""
    notch = (
        (x - CENTER - torch.tensor([0.0, 0.0, 0.27])).abs() - torch.tensor([0.13, 0.1, 0.15])
    ).amax(1)
    return torch.maximum(((x - CENTER).abs() - HALF).amax(1), -notch)


def gaps(points, mesh):
    """How far each is from the nearest vertex."""
    return torch.cdist(points.double(), mesh.vertices.double()).amin(1)


def corners_of(rotation, *boxes):
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)
    return torch.cat([CENTER + (signs * half) @ rotation.T for half in boxes])


@pytest.mark.parametrize(
    ("seed", "resolution", "share"), [(None, 64, 1000), (0, 32, 10), (0, 64, 35), (1, 64, 25)]
)
def test_flat_faces_of_a_box_become_few_triangles_with_its_corners(seed, resolution, share):
    rotation = torch.eye(3) if seed is None else turned(seed)
    fine = contour(box(rotation), resolution)
    mesh = contour(box(rotation), resolution, tolerance=1e-4)
    assert len(mesh.faces) < len(fine.faces) / share
    assert is_manifold(mesh) and euler_characteristic(mesh.faces) == 2
    corners = corners_of(rotation, HALF)
    assert gaps(corners, mesh).max() < 1e-4
    a, b, c = (2 * HALF).double().tolist()
    assert volume(mesh) == pytest.approx(a * b * c, rel=1e-5)
    assert area(mesh) == pytest.approx(2 * (a * b + b * c + c * a), rel=1e-5)
    # Nothing is cut off: all along each edge too.
    points = mesh.vertices[mesh.faces].mean(1)
    assert box(rotation)(points).abs().max() < 1e-4


def test_edges_where_solids_are_cut_from_each_other_stay():
    fine, mesh = contour(notched, 64), contour(notched, 64, tolerance=1e-4)
    assert is_manifold(mesh) and len(mesh.faces) < len(fine.faces) / 50
    rim = (
        CENTER
        + torch.tensor([0.0, 0.0, 0.27])
        + torch.cartesian_prod(
            torch.tensor([-0.13, 0.13]), torch.tensor([-0.1, 0.1]), torch.tensor([0.0, -0.15])
        )
    )
    assert gaps(rim, mesh).max() < 1e-4
    assert volume(mesh) == pytest.approx(8 * HALF.prod().item() - 4 * 0.13 * 0.1 * 0.15, rel=1e-5)


def ball(x):
    return (x - CENTER).norm(dim=1) - 0.37


@pytest.mark.parametrize("shape", [ball, cylinder, ring, box(turned(0))])
def test_a_larger_tolerance_gives_fewer_faces_that_keep_to_it(shape):
    counts = []
    for tolerance in (0.0, 3e-4, 1e-3, 3e-3, 1e-2):
        mesh = contour(shape, 64, tolerance=tolerance)
        corners = mesh.vertices[mesh.faces]
        sides = (corners + corners.roll(1, 1)).view(-1, 3) / 2
        for points in (mesh.vertices, corners.mean(1), sides):
            assert shape(points).abs().max() < 2 * tolerance + 1e-3
        assert is_manifold(mesh)
        # Hardly anything is folded over.
        outward = (mesh.face_vectors() * gradient_of(shape)(corners.mean(1))).sum(1)
        assert outward.clamp_max(0).abs().sum() < 2e-4 * area(mesh)
        counts.append(len(mesh.faces))
    assert counts == sorted(counts, reverse=True) and counts[-1] < counts[0] / 12


def test_a_thin_sheet_keeps_both_of_its_sides():
    """A plate of two thirds of a cell: what joins its sides is no disc, or leaves by few faces."""

    def plate(x):
        return ((x - 0.503).abs() - torch.tensor([0.3, 0.3, 0.01])).amax(1)

    for tolerance in (0.0, 1e-3, 0.1):
        mesh = contour(plate, 32, tolerance=tolerance)
        assert is_manifold(mesh) and euler_characteristic(mesh.faces) == 2
        assert volume(mesh) == pytest.approx(0.6 * 0.6 * 0.02, rel=0.02)


def test_the_border_and_nothing_at_any_tolerance():
    full = contour(lambda x: 0 * x[:, 0] - 1, 16, tolerance=0.01)
    assert is_manifold(full) and euler_characteristic(full.faces) == 2
    half = contour(lambda x: x[:, 0] - 0.5, 16, tolerance=0.01)
    assert is_manifold(half) and volume(half) == pytest.approx(0.5, rel=0.08)
    assert len(contour(lambda x: 1 + 0 * x[:, 0], 16, tolerance=0.01).faces) == 0
    with pytest.raises(InputError, match="NaN"):
        contour(lambda x: x[:, 0] * torch.nan, 16, tolerance=0.01)
    for tolerance in (-0.1, math.nan, math.inf):
        with pytest.raises(InputError, match="tolerance"):
            contour(ball, 16, tolerance=tolerance)


def test_blocks_and_axes_make_no_difference():
    def field(x):
        return notched(x) + 0.01 * torch.sin(40 * x).sum(1)

    whole = contour(field, 40, tolerance=2e-3)
    gradient = gradient_of(field)
    parts = dual_contour(field, gradient, 40, memory_bytes=1, tolerance=2e-3)
    assert torch.equal(whole.faces, parts.faces)
    torch.testing.assert_close(whole.vertices, parts.vertices, atol=1e-6, rtol=0)
