import math
import sys

import pytest
import torch
from torch import Generator
from torch.nn.functional import normalize

from polyfield.apps import distances
from polyfield.apps.distances import (
    APART,
    SIDE,
    SLOPES,
    DistanceSource,
    of_mesh,
    read_distances,
)
from polyfield.apps.signal_source import Source
from polyfield.cuda.errors import InputError, MissingExtraError
from polyfield.extract.mesh import Mesh
from polyfield.extract.shapes import MeshShape
from polyfield.fields.similarity import Similarity

pytest.importorskip("igl", reason="the extra surfaces is not installed")


def sphere(radius=2.0, center=(5.0, -1.0, 3.0), rings=48, without=0):
    """A fine sphere; the last faces may be left out, which is a hole."""
    polar = torch.linspace(0, math.pi, rings + 1)
    turn = torch.arange(2 * rings) * math.pi / rings
    a, b = torch.meshgrid(polar, turn, indexing="ij")
    points = torch.stack([a.sin() * b.cos(), a.sin() * b.sin(), a.cos()], 2).view(-1, 3)
    faces = []
    for ring in range(rings):
        for part in range(2 * rings):
            after = (part + 1) % (2 * rings)
            low, high = ring * 2 * rings, (ring + 1) * 2 * rings
            faces += [
                [low + part, high + part, high + after],
                [low + part, high + after, low + after],
            ]
    faces = torch.tensor(faces)
    kept = faces[: len(faces) - without]
    return Mesh(radius * points.float() + torch.tensor(center), kept)


@pytest.fixture(autouse=True, scope="module")
def small_pools():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distances, "POOL", 3 << 12)
        yield


@pytest.fixture(scope="module")
def source():
    return of_mesh(sphere(), 0)


def exact(points):
    """The sphere's distance in the unit cube."""
    return (points - 0.5).norm(dim=1) - SIDE / 2


def test_the_mesh_lies_in_the_middle_of_the_unit_cube():
    mesh = sphere()
    to_field = of_mesh(mesh, 0).to_field
    moved = to_field.apply(mesh.vertices)
    torch.testing.assert_close(moved.amin(0), torch.full((3,), 0.5 - SIDE / 2), atol=1e-4, rtol=0)
    torch.testing.assert_close(moved.amax(0), torch.full((3,), 0.5 + SIDE / 2), atol=1e-4, rtol=0)
    back = to_field.inverse().apply(moved)
    torch.testing.assert_close(back, mesh.vertices)


def test_vertices_that_no_face_has_do_not_move_the_mesh():
    mesh = sphere()
    stray = Mesh(torch.cat([mesh.vertices, torch.tensor([[900.0, 0, 0]])]), mesh.faces)
    assert of_mesh(stray, 0).to_field.to_json() == of_mesh(mesh, 0).to_field.to_json()
    assert of_mesh(stray, 0).sides == pytest.approx((SIDE, SIDE, SIDE), abs=1e-3)


def test_distances_are_those_of_the_sphere_negative_inside(source):
    points = torch.rand(4000, 3, generator=Generator().manual_seed(0))
    assert isinstance(source, Source)
    assert (source.distance(points) - exact(points)).abs().max() < 1e-3


def test_a_hole_changes_no_sign_away_from_it():
    mesh = sphere(without=200)
    to_field = of_mesh(sphere(), 0).to_field
    holed = DistanceSource(MeshShape(mesh.transformed(to_field)), to_field, 0)
    points = torch.rand(4000, 3, generator=Generator().manual_seed(0))
    far = (exact(points).abs() > 0.02) & (points[:, 2] > 0.2)  # the hole is at the bottom
    assert torch.equal(holed.distance(points[far]) < 0, exact(points[far]) < 0)


def test_a_batch_lies_on_the_surface_about_it_and_anywhere(source):
    x, wanted = source.batch(0, 1 << 12)
    assert x.shape == (4096, 3) and wanted.shape == (4096, 1)
    assert ((x >= 0) & (x <= 1)).all()
    assert (wanted[:1024] == 0).all() and exact(x[:1024]).abs().max() < 1e-3
    assert (wanted[:, 0] - exact(x)).abs().max() < 1e-3
    others = exact(x[2048:]).abs()
    assert 0.2 < (others < 0.005).float().mean() < 0.5  # the nearer range
    assert 0.2 < (others > 0.05).float().mean() < 0.5
    assert (wanted < 0).any() and (wanted > 0).any()


def test_points_beside_the_surface_are_as_far_as_the_slope_says(source):
    """In any direction: along the surface as well as away from it."""
    x, wanted = source.batch(0, 1 << 12)
    surface, beside = x[:1024], x[1024:2048]
    way = beside - surface
    torch.testing.assert_close(way.norm(dim=1), torch.full((1024,), APART), rtol=1e-3, atol=0)
    rise = wanted[1024:2048, 0] / APART
    outward = torch.nn.functional.normalize(surface - 0.5, dim=1)
    steep = (way * outward).sum(1) / APART
    assert (rise - steep).abs().max() < 0.06  # a ball of flat faces
    assert rise.min() < -0.9 and rise.max() > 0.9 and (rise.abs() < 0.3).float().mean() > 0.2


def test_a_batch_is_a_function_of_seed_and_step_alone(source, monkeypatch):
    monkeypatch.setattr(distances, "POOL_STEPS", 2)
    again = of_mesh(sphere(), 0)
    again.batch(3, 64)
    for step in (5, 2):
        for a, b in zip(again.batch(step, 64), source.batch(step, 64), strict=True):
            assert torch.equal(a, b)
    first, later = source.batch(0, 64), source.batch(2, 64)
    assert not torch.equal(first[0], later[0])
    other = of_mesh(sphere(), 1)
    assert not torch.equal(other.batch(5, 64)[0], again.batch(5, 64)[0])


def test_after_some_steps_a_third_of_the_points_gives_way_to_others(source, monkeypatch):
    monkeypatch.setattr(distances, "POOL_STEPS", 1)
    again = of_mesh(sphere(), 0)
    pools = []
    for step in range(5):
        again.batch(step, 8)
        _, points, found, slopes = again.pool
        away = normalize(points - 0.5, dim=1)  # of a ball of flat faces
        assert ((slopes * away).sum(1)[found.abs() > 0.01] > 0.99).float().mean() > 0.9
        assert len(points) == distances.POOL and (found - exact(points)).abs().max() < 1e-3
        pools.append({tuple(x) for x in points.tolist()})
    for apart, left in ((1, 2 / 3), (2, 1 / 3), (3, 0.0), (4, 0.0)):
        assert len(pools[0] & pools[apart]) == pytest.approx(left * len(pools[0]), abs=2)
    for each in again.parts.values():  # each part is made as the whole is
        near = exact(each[1]).abs()
        assert 0.2 < (near < 0.005).float().mean() < 0.5 < (near < 0.05).float().mean() < 0.9


def square(points):
    """Distances in the unit cube to the square that `sheet` becomes there, without a sign."""
    low, high = 0.5 - SIDE / 2, 0.5 + SIDE / 2
    nearest = torch.stack([points[:, 0].clamp(low, high), points[:, 1].clamp(low, high)], 1)
    across = (points[:, :2] - nearest).norm(dim=1)
    return across.hypot(points[:, 2] - 0.5)


@pytest.fixture(scope="module")
def sheet():
    corners = torch.tensor([[0.0, 0, 0], [2, 0, 0], [2, 2, 0], [0, 2, 0]])
    mesh = Mesh(corners, torch.tensor([[0, 1, 2], [0, 2, 3]]))
    return of_mesh(mesh, 0, "udf")


@pytest.mark.parametrize("target", ["sdf", "udf"])
def test_distances_to_what_is_open_are_exact_whatever_their_sign(sheet, target):
    """Of a winding number between 0 and 1 nothing gets into them."""
    source = DistanceSource(sheet.shape, Similarity.identity(), 0, target)
    points = torch.rand(4000, 3, generator=Generator().manual_seed(0))
    torch.testing.assert_close(source.distance(points).abs(), square(points), atol=1e-6, rtol=0)
    if target == "udf":
        assert (source.distance(points) >= 0).all()


def test_a_batch_without_a_sign_has_pairs_on_the_surface_and_about_it(sheet):
    x, wanted = sheet.batch(0, 1 << 12)
    assert (wanted >= 0).all() and (wanted[:512] == 0).all()
    assert square(x[:512]).max() < 1e-6 and square(x[512:1024]).median() > 1e-3
    torch.testing.assert_close(wanted[:, 0], square(x), atol=APART / 8, rtol=0)  # a plane tells it
    apart = (x[1024:2048] - x[:1024]).norm(dim=1)
    assert ((apart - APART).abs() < 1e-6).float().mean() > 0.99  # the others at the cube's faces


def test_a_field_without_a_sign_is_measured_about_the_surface(sheet):
    def value(x):
        return square(x)[:, None] + 0.01

    def slope(x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(square(x).sum(), x)[0]

    score = sheet.measure(value, slope, 1 << 12)
    assert score.overlap is None
    assert score.mean_error == pytest.approx(0.01 / sheet.to_field.scale, rel=1e-3)
    assert score.normal_degrees < 0.1
    assert sheet.measure(value, lambda x: -slope(x), 1 << 12).normal_degrees > 179


@pytest.fixture(scope="module")
def inside():
    return of_mesh(sphere(), 0, "occupancy")


def test_an_occupancy_is_1_inside_and_0_outside_of_points_near_and_far(inside):
    x, wanted = inside.batch(0, 1 << 12)
    assert x.shape == (4096, 3)
    sure = exact(x).abs() > 10 * distances.RAMP
    assert torch.equal(wanted[sure, 0].round(), (exact(x[sure]) < 0).float())
    assert (wanted[sure, 0] - wanted[sure, 0].round()).abs().max() < 1e-4
    ramp = (-exact(x) / distances.RAMP).sigmoid()  # and 0.73 a ramp's length inside
    torch.testing.assert_close(wanted[:, 0], ramp, atol=0.06, rtol=0)  # a ball of flat faces
    assert 0.2 < (exact(x).abs() > 0.05).float().mean() < 0.5


def test_the_error_of_an_occupancy_is_its_cross_entropy(inside):
    logits, wanted = torch.tensor([[2.0], [-1.0]]), torch.tensor([[1.0], [1.0]])
    expected = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(1))) / 2
    assert float(inside.error(logits, wanted)) == pytest.approx(expected)


def test_an_occupancy_is_measured_by_its_solid_and_the_way_out(inside):
    def value(x):
        return -100 * exact(x)[:, None]

    score = inside.measure(value, lambda x: 0.5 - x, 1 << 13)
    assert score.overlap > 0.996 and score.normal_degrees < 1.5
    assert score.mean_error is None and score.mean_error_near is None
    assert inside.measure(lambda x: -value(x), lambda x: x - 0.5, 1 << 12).overlap < 0.01
    right = inside.watch(lambda x: -exact(x)[:, None] / distances.RAMP)["error"]
    wrong = inside.watch(lambda x: exact(x)[:, None] / distances.RAMP)["error"]
    assert right < 0.03 and wrong > 0.4


def test_solids_are_compared_beyond_the_mesh_s_box_too(source):
    def value(x):  # solid just beyond the box, where the sphere is not
        beyond = (x - 0.5).abs().amax(1) > SIDE / 2 + 0.001
        return torch.where(beyond, -exact(x).abs(), exact(x))[:, None]

    wide = 1 + 2 * distances.WIDER
    expected = math.pi / 6 / (math.pi / 6 + wide**3 - (1 + 0.002 / SIDE) ** 3)
    score = source.measure(value, lambda x: x - 0.5, 1 << 15)
    assert score.overlap == pytest.approx(expected, abs=0.02)


def test_errors_count_relative_to_the_distance(source):
    wanted = torch.tensor([[0.0], [0.0], [0.1], [-0.2]])
    error = source.error(wanted + torch.tensor([[0.01], [0.01], [-0.01], [0.02]]), wanted)
    assert float(error) == pytest.approx((0.01 / 0.005 + 0.01 / 0.105 + 0.02 / 0.205) / 3)


def test_a_wrong_slope_counts_where_values_are_nearly_right(source):
    """Two points on the surface, the two beside them, and four more."""
    wanted = torch.tensor([0.0, 0.0, 5e-4, -5e-4, 0.1, 0.1, 0.1, 0.1])[:, None]
    lifted = wanted.clone()
    lifted[:4] += 1e-4  # all alike: the slope is right
    tilted = lifted.clone()
    tilted[2:4] -= 2e-4
    values = 2 * 1e-4 / 0.005 / 6
    assert float(source.error(lifted, wanted)) == pytest.approx(values, rel=1e-3)
    slopes = SLOPES * 2e-4 / APART
    assert float(source.error(tilted, wanted)) == pytest.approx(values + slopes, rel=1e-3)


def test_kernels_belong_on_the_surface(source):
    x, weights = source.variation(Generator())
    assert exact(x).abs().max() < 1e-3 and (weights == 1).all()


def test_what_knows_the_sphere_has_no_error(source):
    def value(x):
        return exact(x)[:, None]

    def slope(x):
        return normalize(x - 0.5, dim=1)

    score = source.measure(value, slope, 1 << 14)
    assert score.overlap > 0.998
    # In the mesh's own unit, of a polyhedron of 96 sides.
    assert score.mean_error < 2e-3 and score.mean_error_near < 2e-3
    assert score.normal_degrees < 1.5
    assert source.watch(value)["error"] < 1e-3


def test_errors_are_told_in_the_mesh_s_unit(source):
    def value(x):
        return exact(x)[:, None] + 0.01

    score = source.measure(value, lambda x: normalize(x - 0.5, dim=1), 1 << 14)
    own = 0.01 / source.to_field.scale
    assert score.mean_error == pytest.approx(own, rel=0.1)
    assert score.mean_error_near == pytest.approx(own, rel=0.1)
    smaller = ((SIDE / 2 - 0.01) / (SIDE / 2)) ** 3
    assert score.overlap == pytest.approx(smaller, abs=0.01)


def test_slopes_that_are_off_are_told_in_degrees(source):
    turn = torch.tensor(
        [[1.0, 0, 0], [0, math.cos(0.2), -math.sin(0.2)], [0, math.sin(0.2), math.cos(0.2)]]
    )
    score = source.measure(lambda x: exact(x)[:, None], lambda x: 3 * (x - 0.5) @ turn, 1 << 13)
    along = 2 * torch.rand(100_000, generator=Generator().manual_seed(0)) - 1  # the axis' share
    expected = (along**2 + (1 - along**2) * math.cos(0.2)).arccos().rad2deg().mean()
    assert score.normal_degrees == pytest.approx(float(expected), abs=0.3)
    backwards = source.measure(lambda x: exact(x)[:, None], lambda x: 0.5 - x, 1 << 12)
    assert backwards.normal_degrees > 178


def test_a_mesh_without_size_is_refused(tmp_path):
    (tmp_path / "flat.obj").write_text("v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n")
    with pytest.raises(InputError, match="flat.obj.*longest side is 0"):
        read_distances(tmp_path / "flat.obj", 0)


def test_without_the_package_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "igl", None)
    with pytest.raises(MissingExtraError, match=r"polyfield\[surfaces\]"):
        of_mesh(sphere(rings=4), 0)


def written(path, points, normals=None):
    """A PLY of points as scanners write them."""
    names = ["x", "y", "z"] + (["nx", "ny", "nz"] if normals is not None else [])
    rows = points if normals is None else torch.cat([points, normals], 1)
    head = ["ply", "format ascii 1.0", f"element vertex {len(points)}"]
    head += [f"property float {name}" for name in names] + ["element face 0"]
    head += ["property list uchar int vertex_indices", "end_header"]
    body = [" ".join(f"{value:.6f}" for value in row) for row in rows.tolist()]
    path.write_text("\n".join([*head, *body]) + "\n")
    return path


def test_points_of_a_file_are_learned_from_as_a_mesh_is(tmp_path):
    away = normalize(torch.randn(6000, 3, generator=Generator().manual_seed(4)), dim=1)
    path = written(tmp_path / "scan.ply", 2.0 * away + torch.tensor([5.0, -1, 3]), away)
    found = read_distances(path, 0)
    points = torch.rand(4000, 3, generator=Generator().manual_seed(0))
    assert (found.distance(points) - exact(points)).abs().quantile(0.99) < 2e-3
    x, wanted = found.batch(0, 1 << 12)
    assert (wanted[:, 0] - exact(x)).abs().quantile(0.99) < 4e-3
    score = found.measure(lambda x: exact(x)[:, None], lambda x: x - 0.5, 1 << 12)
    assert score.overlap > 0.98 and score.normal_degrees < 3


def test_points_without_normals_have_no_inside(tmp_path):
    away = normalize(torch.randn(3000, 3, generator=Generator().manual_seed(4)), dim=1)
    path = written(tmp_path / "scan.ply", away)
    for target in ("sdf", "occupancy"):
        with pytest.raises(InputError, match="scan.ply: 3,000 points without normals.*--as udf"):
            read_distances(path, 0, target)
    points = torch.rand(4000, 3, generator=Generator().manual_seed(0))
    found = read_distances(path, 0, "udf").distance(points)
    assert (found - exact(points).abs()).abs().quantile(0.99) < 4e-3
