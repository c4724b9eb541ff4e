"""Every count exact, on meshes made to have it."""

import pytest
import torch

from polyfield.extract.marching_cubes import marching_cubes
from polyfield.extract.mesh import Mesh
from polyfield.extract.mesh_report import boundary_loops, mesh_report
from polyfield.extract.self_intersections import crossed_faces

TETRAHEDRON = torch.tensor([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]])
CORNERS = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])


def tetrahedron(move=0.0):
    return Mesh(CORNERS + move, TETRAHEDRON)


def together(*meshes):
    """Meshes side by side, none of whose vertices meet."""
    vertices, faces, count = [], [], 0
    for mesh in meshes:
        vertices.append(mesh.vertices)
        faces.append(mesh.faces + count)
        count += len(mesh.vertices)
    return Mesh(torch.cat(vertices), torch.cat(faces))


def ball(n=24, radius=0.7):
    axis = torch.linspace(-1, 1, n)
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)
    vertices, faces = marching_cubes(radius - points.norm(dim=-1), 0.0)
    return Mesh((vertices * 2 / (n - 1) - 1).float(), faces)


def grid(n=5):
    """A square sheet of n x n vertices."""
    x, y = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
    vertices = torch.stack([x, y, torch.zeros_like(x)], -1).view(-1, 3).float()
    at = (x[:-1, :-1] * n + y[:-1, :-1]).reshape(-1)
    one = torch.stack([at, at + n, at + n + 1], 1)
    two = torch.stack([at, at + n + 1, at + 1], 1)
    return Mesh(vertices, torch.cat([one, two]))


def faults(report):
    return {
        name: getattr(report, name)
        for name in (
            "boundary_edges", "boundary_loops", "non_manifold_edges", "turned_edges",
            "non_manifold_vertices", "flat_faces", "doubled_faces", "unused_vertices",
            "crossing_faces",
        )
        if getattr(report, name)
    }  # fmt: skip


def test_a_closed_mesh_has_no_fault():
    report = mesh_report(tetrahedron())
    assert report.watertight and not faults(report)
    assert (report.vertices, report.faces, report.components, report.euler) == (4, 4, 1, 2)
    assert report.volume == pytest.approx(1 / 6) and report.area == pytest.approx(1.5 + 0.75**0.5)
    report = mesh_report(ball())
    assert report.watertight and not faults(report) and report.euler == 2


def test_components_are_counted_and_their_euler_numbers_added():
    report = mesh_report(together(tetrahedron(), tetrahedron(3.0), ball()))
    assert (report.components, report.euler, report.watertight) == (3, 6, True)


def test_a_missing_face_is_an_opening_and_where_it_is():
    mesh = tetrahedron().with_faces(torch.tensor([True, True, False, True]))
    report = mesh_report(mesh)
    assert faults(report) == {"boundary_edges": 3, "boundary_loops": 1} and not report.watertight
    (opening,) = report.openings
    assert opening.center == pytest.approx((1 / 3, 1 / 3, 1 / 3)) and opening.edges == 3
    assert opening.length == pytest.approx(3 * 2**0.5)


def test_the_longest_openings_come_first():
    sheet = grid(6)
    hole = (sheet.vertices[sheet.faces].mean(1)[:, :2] - 2.5).abs().amax(1) > 0.5
    report = mesh_report(sheet.with_faces(hole))
    assert report.boundary_loops == 2 and report.boundary_edges == 20 + 4
    assert [opening.edges for opening in report.openings] == [20, 4]
    assert report.euler == 0


def test_a_turned_face_is_found_by_its_edges():
    faces = TETRAHEDRON.clone()
    faces[0] = faces[0].flip(0)
    report = mesh_report(Mesh(CORNERS, faces))
    assert faults(report) == {"turned_edges": 3} and not report.watertight


def test_three_faces_at_an_edge():
    fin = Mesh(
        torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, -1, 0]]),
        torch.tensor([[0, 1, 2], [0, 1, 3], [0, 1, 4]]),
    )
    assert mesh_report(fin).non_manifold_edges == 1


def test_two_fans_at_a_vertex():
    one, other = tetrahedron(), tetrahedron(3.0)
    faces = torch.cat([one.faces, other.faces + 4])
    faces[faces == 4] = 3  # one corner in common
    report = mesh_report(Mesh(torch.cat([one.vertices, other.vertices]), faces))
    assert report.non_manifold_vertices == 1 and report.unused_vertices == 1
    assert report.watertight and report.components == 1
    # A fan that is open is one fan.
    assert mesh_report(grid()).non_manifold_vertices == 0


def test_flat_doubled_and_unused():
    mesh = grid(3)
    vertices = torch.cat([mesh.vertices, torch.tensor([[0.5, 0.5, 9.0]])])
    flat = torch.tensor([[0, 4, 8]])  # along the diagonal
    faces = torch.cat([mesh.faces, mesh.faces[:2].roll(1, 1), mesh.faces[2:3].flip(1), flat])
    report = mesh_report(Mesh(vertices, faces))
    assert (report.doubled_faces, report.unused_vertices, report.flat_faces) == (3, 1, 1)


def test_crossing_sheets_are_found_where_they_cross():
    upright = Mesh(grid(5).vertices[:, [0, 2, 1]] + torch.tensor([0.3, 1.7, -2.1]), grid(5).faces)
    report = mesh_report(together(grid(5), upright))
    assert report.crossing_faces > 8 and report.sampled_faces == 64
    apart = Mesh(upright.vertices + torch.tensor([0.0, 9.0, 0.0]), upright.faces)
    assert mesh_report(together(grid(5), apart)).crossing_faces == 0


def test_faces_cross_as_every_pair_says():
    """Random triangles of very different sizes, against each other one by one."""
    random = torch.Generator().manual_seed(0)
    size = 10 ** (-2 * torch.rand(120, 1, 1, generator=random))
    corners = torch.rand(120, 1, 3, generator=random) + size * torch.randn(
        120, 3, 3, generator=random
    )
    mesh = Mesh(corners.view(-1, 3), torch.arange(360).view(-1, 3))
    expected = torch.zeros(120, dtype=torch.bool)
    for i in range(120):
        pair_with = [together(one(corners[i]), one(corners[j])) for j in range(120) if j != i]
        expected[i] = any(bool(cross_by_hand(pair)) for pair in pair_with)
    assert 10 < int(expected.sum()) < 115
    assert torch.equal(crossed_faces(mesh, torch.arange(120)), expected)
    some = torch.tensor([7, 3, 90])
    assert torch.equal(crossed_faces(mesh, some), expected[some])


def one(corners):
    return Mesh(corners, torch.arange(3)[None])


def cross_by_hand(pair):
    """Whether an edge of either triangle runs through the other, by signed volumes."""
    a, b = pair.vertices.double()[pair.faces]

    def volume(p, q, r, s):
        return torch.linalg.det(torch.stack([q - p, r - p, s - p]))

    for edges, face in ((a, b), (b, a)):
        for i in range(3):
            p, q = edges[i], edges[(i + 1) % 3]
            if volume(*face, p) * volume(*face, q) >= 0:
                continue
            turns = [volume(p, q, face[k], face[(k + 1) % 3]) for k in range(3)]
            if all(t > 0 for t in turns) or all(t < 0 for t in turns):
                return True
    return False


def test_an_empty_mesh_is_nothing():
    report = mesh_report(Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64)))
    assert not report.watertight and not faults(report)
    assert (report.faces, report.components, report.euler, report.area) == (0, 0, 0, 0.0)


def test_loops_that_meet_in_a_vertex_are_told_apart_or_joined_but_none_is_lost():
    rim = torch.tensor([[0, 1], [1, 2], [2, 0], [0, 3], [3, 4], [4, 0], [7, 8], [8, 7]])
    loops = boundary_loops(rim)
    assert sum(map(len, loops)) == 8 and 2 <= len(loops) <= 3
