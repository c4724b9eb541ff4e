"""DualMesh-UDF: the authors' own figures in strict mode, and what the mends are for without it."""

import math

import pytest
import torch

from polyfield.cuda.errors import InputError
from polyfield.cuda.tangent_planes import CORNER, EDGE, PLANE
from polyfield.extract.dual_mesh_udf import DualMeshOptions, unsigned_mesh
from polyfield.extract.mesh import Mesh
from polyfield.extract.mesh_report import mesh_report

# Lengths of the specification are in halves of the cube's side.


def centered(x):
    """Points of [-1, 1]^3."""
    return 2 * x - 1


def sphere(x, radius=0.6):
    return (centered(x).norm(dim=1) - radius).abs() / 2


def half_sphere(x, radius=0.6):
    """Its upper half, open below."""
    p = centered(x)
    rim = torch.stack([p[:, :2].norm(dim=1) - radius, p[:, 2]], 1).norm(dim=1)
    return torch.where(p[:, 2] >= 0, (p.norm(dim=1) - radius).abs(), rim) / 2


AXIS = torch.nn.functional.normalize(torch.tensor([0.3, 0.5, 0.8]), dim=0)


def disk(x, radius=0.6):
    """Oblique, through the middle."""
    p = centered(x)
    height = p @ AXIS
    flat = (p - height[:, None] * AXIS).norm(dim=1)
    return torch.stack([height, (flat - radius).clamp_min(0)], 1).norm(dim=1) / 2


def cube(x, half=0.495):
    p = centered(x).abs() - half
    outside = p.clamp_min(0).norm(dim=1)
    return (outside + p.amax(1).clamp_max(0)).abs() / 2


def at(mesh):
    """Vertices in [-1, 1]^3."""
    return centered(mesh.vertices.double())


def strict(depth=6, **options):
    return DualMeshOptions(depth=depth, edge_filter="none", strict=True, **options)


@pytest.mark.parametrize(
    ("depth", "leaves", "vertices", "faces", "edges", "largest", "mean"),
    [
        (5, 1976, 1904, 4476, 984, 2.27e-3, 1.20e-3),
        (6, 8840, 8360, 21900, 6972, 5.7e-4, 3.1e-4),
        (7, 36944, 32888, 84972, 25896, 1.6e-4, 7.7e-5),
    ],
)
def test_strict_is_the_authors_own_on_a_sphere(
    depth, leaves, vertices, faces, edges, largest, mean
):
    found = unsigned_mesh(sphere, strict(depth))
    report = mesh_report(found.mesh)
    assert found.report.leaves == leaves
    assert (report.vertices, report.faces) == (vertices, faces)
    assert (report.boundary_edges, report.non_manifold_edges) == (0, edges)
    off = 2 * sphere(found.mesh.vertices.double())
    # The figures are known to two digits.
    for ours, theirs in ((float(off.max()), largest), (float(off.mean()), mean)):
        digit = 10 ** math.floor(math.log10(theirs)) / 10
        assert ours == pytest.approx(theirs, abs=0.02 * theirs + digit / 2)


@pytest.mark.parametrize(("depth", "queries"), [(4, 6099), (5, 25111), (6, 108275), (7, 451635)])
def test_strict_asks_the_field_as_often(depth, queries):
    found = unsigned_mesh(sphere, strict(depth))
    assert found.report.queries[0] == queries


def test_strict_finds_the_same_kinds_of_vertices():
    found = unsigned_mesh(sphere, strict(4))
    assert found.report.leaves == 440
    # All leaves have a vertex; those that no face uses are gone.
    counts = [int((found.kind == kind).sum()) for kind in (CORNER, EDGE, PLANE)]
    assert counts[:2] == [272, 0] and 0 < counts[2] <= 168


def test_strict_is_the_authors_own_on_an_open_shape():
    found = unsigned_mesh(half_sphere, strict())
    report = mesh_report(found.mesh)
    assert found.report.leaves == 4624
    assert (report.vertices, report.faces, report.boundary_edges) == (4384, 11274, 84)
    assert report.non_manifold_edges == 3524


@pytest.mark.parametrize("depth", [5, 6, 7])
def test_smooth_gives_a_closed_sphere_and_open_sheets_with_one_rim(depth):
    options = DualMeshOptions(depth=depth, edge_filter="smooth")
    whole = mesh_report(unsigned_mesh(sphere, options).mesh)
    assert whole.watertight and whole.euler == 2
    assert whole.volume == pytest.approx(4 / 3 * math.pi * 0.3**3, rel=0.02)
    for shape in (half_sphere, disk):
        report = mesh_report(unsigned_mesh(shape, options).mesh)
        assert (report.non_manifold_edges, report.euler, report.boundary_loops) == (0, 1, 1)
        assert report.turned_edges == 0 and report.components == 1


def test_errors_fall_with_the_square_of_the_cells():
    means = []
    for depth in (4, 5, 6, 7):
        mesh = unsigned_mesh(sphere, DualMeshOptions(depth=depth)).mesh
        means.append(float(sphere(mesh.vertices.double()).mean()))
    for coarse, fine in zip(means, means[1:], strict=False):
        assert 3.3 < coarse / fine < 4.7
    assert means[2] < 2e-4


def test_corners_and_creases_are_where_they_are():
    found = unsigned_mesh(cube, strict())
    vertices = at(found.mesh)
    assert float((2 * cube(found.mesh.vertices.double())).max()) < 1e-6
    corners = torch.cartesian_prod(*[torch.tensor([-0.495, 0.495], dtype=torch.float64)] * 3)
    assert float(torch.cdist(corners, vertices).amin(1).max()) < 1e-6
    on_edge = vertices[found.kind == EDGE].abs().sort(1).values
    assert len(on_edge) and float((on_edge[:, 1:] - 0.495).abs().max()) < 1e-6


def test_a_rim_lies_on_the_rim_and_no_face_spans_it():
    found = unsigned_mesh(half_sphere, DualMeshOptions(depth=6, edge_filter="smooth"))
    mesh, h = found.mesh, 2 / 64
    directed = torch.cat([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]])
    _, number, count = directed.sort(1).values.unique(
        dim=0, return_inverse=True, return_counts=True
    )
    rim = at(mesh)[directed[count[number] == 1].unique()]
    off = torch.stack([rim[:, :2].norm(dim=1) - 0.6, rim[:, 2]], 1).norm(dim=1)
    assert float(off.max()) < 1.5 * h
    middles = mesh.vertices[mesh.faces].double().mean(1)
    assert float((2 * half_sphere(middles)).max()) < 2e-3


@pytest.mark.parametrize("depth", [5, 6])
@pytest.mark.parametrize(
    ("shape", "allowed"), [(sphere, 1.0), (half_sphere, 1.0), (disk, 1.03), (cube, 1.0)]
)
def test_on_clean_fields_the_default_is_as_near_as_strict(shape, allowed, depth):
    """Its cells are 1.01 times as wide, errors of flat shapes' rims with them."""

    def mean(options):
        return float(shape(unsigned_mesh(shape, options).mesh.vertices).mean())

    assert mean(DualMeshOptions(depth=depth)) <= allowed * mean(strict(depth)) + 1e-8


def waves(amplitude):
    """Noise that changes slowly enough to have gradients, in the spirit of a network's errors."""
    random = torch.Generator().manual_seed(0)
    ways = 12 * torch.randn(24, 3, generator=random)
    phase = 6.28 * torch.rand(24, generator=random)

    def noisy(x):
        wave = torch.sin(centered(x) @ ways.T + phase).sum(1) / 12**0.5
        return (2 * sphere(x) + amplitude * wave).abs() / 2

    return noisy


def test_what_noise_opens_a_larger_foot_closes():
    def rim(foot):
        options = strict(near=0.002, foot=foot)
        return mesh_report(unsigned_mesh(waves(0.001), options).mesh)

    tight, wide = rim(0.002), rim(0.01)
    assert tight.boundary_edges > 100 and wide.boundary_edges < tight.boundary_edges / 20
    robust = DualMeshOptions(depth=6, foot=0.01, edge_filter="robust")
    mended = mesh_report(unsigned_mesh(waves(0.001), robust).mesh)
    assert mended.non_manifold_edges < wide.non_manifold_edges / 5


def junction(x):
    """Three half-planes that meet in the line x = y = 0 and leave the cube."""
    p = centered(x)
    best = None
    for turn in (0.3, 2.2, 4.4):
        out = p[:, 0] * math.cos(turn) + p[:, 1] * math.sin(turn)
        side = p[:, 1] * math.cos(turn) - p[:, 0] * math.sin(turn)
        far = torch.stack([out.clamp_max(0), side], 1).norm(dim=1)
        best = far if best is None else torch.minimum(best, far)
    return best / 2


def test_a_junction_of_three_sheets_is_kept():
    found = unsigned_mesh(junction, DualMeshOptions(depth=6))
    mesh, h = found.mesh, 2 / 64
    vertices = at(mesh)
    from_line = vertices[:, :2].norm(dim=1)
    assert int((from_line < 0.1 * h).sum()) > 20
    ordered = torch.cat([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]])
    edges, count = ordered.sort(1).values.unique(dim=0, return_counts=True)
    many = edges[count > 2]
    assert len(many) > 20 and float(from_line[many].max()) < 2 * h


def test_two_sheets_with_room_between_them_stay_two():
    def sheets(gap):
        def distance(x):
            height = centered(x) @ AXIS
            flat = (centered(x) - height[:, None] * AXIS).norm(dim=1)
            off = (height.abs() - gap / 2).abs()
            return torch.stack([off, (flat - 0.5).clamp_min(0)], 1).norm(dim=1) / 2

        return unsigned_mesh(distance, DualMeshOptions(depth=6))

    far, close = sheets(0.12), sheets(0.05)
    assert mesh_report(far.mesh).components == 2 and far.report.unresolved < 0.02
    assert close.report.unresolved > 0.1  # and says so


def test_wrong_gradients_in_one_place_change_nothing_elsewhere():
    spoiled = torch.tensor([0.6, 0.0, 0.0])

    def with_gradient(x, wrong):
        p = centered(x)
        slope = p / p.norm(dim=1, keepdim=True)
        slope = slope * (p.norm(dim=1, keepdim=True) - 0.6).sign()
        if wrong:
            near = (p - spoiled).norm(dim=1) < 0.1
            noise = torch.sin(1e3 * x) + 0.1
            slope = torch.where(near[:, None], noise, slope)
        return sphere(x), slope

    meshes = [
        unsigned_mesh(sphere, DualMeshOptions(depth=5), lambda x, w=wrong: with_gradient(x, w)).mesh
        for wrong in (False, True)
    ]
    kept = [mesh.vertices[(at(mesh) - spoiled).norm(dim=1) > 0.1 + 2 * 2 / 32] for mesh in meshes]
    assert len(meshes[0].vertices) != len(meshes[1].vertices) or not torch.equal(
        meshes[0].vertices, meshes[1].vertices
    )
    assert torch.equal(kept[0], kept[1])


def test_moving_and_scaling_the_pieces_asked_for_changes_nothing(monkeypatch):
    whole = unsigned_mesh(sphere, DualMeshOptions(depth=5)).mesh
    monkeypatch.setattr("polyfield.extract.unsigned_samples.CHUNK", 1000)
    parts = unsigned_mesh(sphere, DualMeshOptions(depth=5)).mesh
    torch.testing.assert_close(parts.vertices, whole.vertices, atol=1e-6, rtol=0)
    assert torch.equal(parts.faces, whole.faces)


def test_faces_of_a_component_agree_and_look_outward():
    whole = unsigned_mesh(sphere, DualMeshOptions(depth=5, edge_filter="smooth")).mesh
    middles = whole.vertices[whole.faces].mean(1) - 0.5
    # Where vertices lie close together a face may be folded; it is as small.
    area = whole.face_vectors().norm(dim=1)
    inward = (middles * whole.face_vectors()).sum(1) < 0
    assert float(area[inward].sum()) < 1e-3 * float(area.sum())


@pytest.mark.parametrize(
    ("field", "word"),
    [
        (lambda x: torch.full_like(x[:, 0], 0.5) + 0 * x.sum(1), "no distance below"),
        (lambda x: sphere(x) + 0.02, "no sample is reliable"),
    ],
)
def test_a_field_without_a_surface_gives_an_empty_mesh_and_the_reason(field, word):
    found = unsigned_mesh(field, DualMeshOptions(depth=5))
    assert not len(found.mesh.faces) and word in found.report.reason


def test_nan_and_depths_out_of_range_are_refused():
    with pytest.raises(InputError, match="NaN"):
        unsigned_mesh(lambda x: sphere(x) * torch.nan, DualMeshOptions(depth=4))
    for depth in (1, 11):
        with pytest.raises(InputError, match="depth"):
            unsigned_mesh(sphere, DualMeshOptions(depth=depth))


def test_a_surface_that_leaves_the_cube_ends_there():
    found = unsigned_mesh(
        lambda x: (centered(x) @ AXIS).abs() / 2, DualMeshOptions(depth=5, edge_filter="smooth")
    )
    report = mesh_report(Mesh(found.mesh.vertices, found.mesh.faces))
    assert report.boundary_loops == 1 and report.euler == 1
    assert float((at(found.mesh) @ AXIS.double()).abs().max()) < 1e-5
