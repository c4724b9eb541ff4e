import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import pad

from polyfield.cuda.errors import InputError
from polyfield.extract.floaters import face_components
from polyfield.extract.marching_cubes import CHUNK, density_mesh, marching_cubes
from polyfield.extract.mesh_checks import (
    enclosed_volume,
    euler_characteristic,
    is_closed_and_oriented,
)


def lattice(n, dtype=torch.float64):
    axis = torch.linspace(-1, 1, n, dtype=dtype)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)


def sphere(points, radius=0.7):
    return radius - points.norm(dim=-1)


def torus(points, ring=0.6, tube=0.25):
    flat = points[..., :2].norm(dim=-1) - ring
    return tube - torch.stack([flat, points[..., 2]], -1).norm(dim=-1)


def in_world(vertices, n):
    return vertices * (2 / (n - 1)) - 1


def random_field(seed, side):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(side, side, side, generator=generator, dtype=torch.float64)
    return pad(values, (1,) * 6, value=-1.0)


def test_one_inside_node_gives_an_octahedron_around_it():
    values = torch.zeros(3, 3, 3)
    values[1, 1, 1] = 4.0
    vertices, faces = marching_cubes(values, 1.0)
    assert faces.dtype == torch.int64 and faces.shape == (8, 3)
    expected = torch.ones(6, 3).double()
    for axis in range(3):
        expected[axis, axis], expected[axis + 3, axis] = 0.25, 1.75
    assert {tuple(v) for v in vertices.tolist()} == {tuple(v) for v in expected.tolist()}
    assert enclosed_volume(vertices, faces) == pytest.approx(4 / 3 * 0.75**3)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 7), st.floats(-0.9, 1.5))
def test_random_fields_with_empty_border_give_closed_oriented_manifolds(seed, side, level):
    vertices, faces = marching_cubes(random_field(seed, side), level)
    assert is_closed_and_oriented(faces)
    assert len(faces.unique()) == len(vertices) == len(vertices.unique(dim=0))
    # One ring of faces around every vertex: as many components among its corners as vertices.
    ring = {}
    for a, b, c in faces.tolist():
        for at, start, end in ((a, b, c), (b, c, a), (c, a, b)):
            ring.setdefault(at, {})[start] = end
    for around in ring.values():
        start = at = next(iter(around))
        steps = 1
        while (at := around[at]) != start:
            steps += 1
        assert steps == len(around)


@pytest.mark.parametrize("first", range(0, 256, 32))
def test_every_sign_pattern_closes_and_joins_what_touches_across_faces(first):
    for case in range(max(first, 1), first + 32):
        values = torch.full((4, 4, 4), -1.0)
        inside = [corner for corner in range(8) if case >> corner & 1]
        for corner in inside:
            values[1 + (corner & 1), 1 + (corner >> 1 & 1), 1 + (corner >> 2)] = 1.0
        vertices, faces = marching_cubes(values, 0.0)
        assert is_closed_and_oriented(faces)
        assert enclosed_volume(vertices, faces) > 0
        groups = [{corner} for corner in inside]
        for a in inside:
            for b in inside:
                if (a ^ b).bit_count() <= 2:
                    group_a = next(g for g in groups if a in g)
                    group_b = next(g for g in groups if b in g)
                    if group_a is not group_b:
                        groups.remove(group_b)
                        group_a |= group_b
        assert len(face_components(faces).unique()) == len(groups)


@pytest.mark.parametrize("shape, euler", [(sphere, 2), (torus, 0)])
@pytest.mark.parametrize("n", [16, 31, 48])
def test_topology_of_sphere_and_torus(shape, euler, n):
    vertices, faces = marching_cubes(shape(lattice(n)), 0.0)
    assert is_closed_and_oriented(faces) and euler_characteristic(faces) == euler
    assert len(face_components(faces).unique()) == 1


def test_hollow_shell_has_an_outer_and_an_inner_surface():
    distance = lattice(33).norm(dim=-1)
    vertices, faces = marching_cubes(0.2 - (distance - 0.6).abs(), 0.0)
    assert euler_characteristic(faces) == 4
    exact = 4 / 3 * math.pi * (0.8**3 - 0.4**3)
    assert enclosed_volume(in_world(vertices, 33), faces) == pytest.approx(exact, rel=0.01)


def test_vertices_and_volume_converge_to_the_sphere_at_second_order():
    errors, volumes = [], []
    for n in (25, 49, 97):
        # The square of the distance: linear interpolation along an edge is not exact.
        vertices, faces = marching_cubes(0.49 - lattice(n).square().sum(-1), 0.0)
        at = in_world(vertices, n)
        errors.append(float((at.norm(dim=1) - 0.7).abs().max()))
        volumes.append(abs(enclosed_volume(at, faces) - 4 / 3 * math.pi * 0.7**3))
    for sizes in (errors, volumes):
        for coarse, fine in zip(sizes, sizes[1:], strict=False):
            assert 1.85 < math.log2(coarse / fine) < 2.15


def test_faces_look_down_the_gradient_of_density():
    vertices, faces = marching_cubes(torus(lattice(40)), 0.0)
    a, b, c = in_world(vertices, 40)[faces].unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    middle = ((a + b + c) / 3).requires_grad_()
    (gradient,) = torch.autograd.grad(torus(middle).sum(), middle)
    assert bool(((normal * gradient).sum(1) < 0).all())


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 9), st.integers(0, 40_000))
def test_slabs_of_any_size_give_the_same_mesh(seed, side, memory_bytes):
    """Nodes of random densities: every slab's border cuts through ambiguous cells."""
    values = torch.rand(side + 1, side + 1, side + 1, generator=torch.Generator().manual_seed(seed))

    def density(points):
        x, y, z = (points * side).round().long().unbind(1)
        return values[x, y, z]

    whole = density_mesh(density, side, 0.4, bisections=0)
    ours = density_mesh(density, side, 0.4, bisections=0, memory_bytes=memory_bytes)
    assert torch.equal(ours.faces, whole.faces) and is_closed_and_oriented(whole.faces)
    # What is added within cells comes in the order of cells; where two are added it may turn.
    torch.testing.assert_close(ours.vertices, whole.vertices, atol=1e-6, rtol=0)


def euler_by_counts(vertices, faces):
    """Of a closed mesh: it has three sides to two faces."""
    return len(vertices) - len(faces) // 2


@pytest.mark.parametrize("first", range(0, 60, 15))
def test_topology_is_that_of_the_trilinear_interpolant(first):
    """Of 60 random fields; the truth on a lattice 24 times as fine, where nothing is ambiguous."""
    for seed in range(first, first + 15):
        values = random_field(seed, 7)
        vertices, faces = marching_cubes(values.float(), 0.0)
        assert is_closed_and_oriented(faces)
        fine = torch.nn.functional.interpolate(
            values[None, None], size=(193,) * 3, mode="trilinear", align_corners=True
        )
        truth = euler_by_counts(*marching_cubes(fine[0, 0].float(), 0.0))
        assert euler_by_counts(vertices, faces) == euler_characteristic(faces) == truth, seed


def test_axes_are_alike():
    values = random_field(3, 5)[:, :6, :5]
    mesh = {}
    for order in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        vertices, _ = marching_cubes(values.permute(order), 0.0)
        back = torch.empty_like(vertices)
        back[:, list(order)] = vertices
        mesh[order] = {tuple(v) for v in back.tolist()}
    assert mesh[0, 1, 2] == mesh[1, 2, 0] == mesh[2, 0, 1]


def test_values_at_the_level_count_as_outside_and_leave_no_flat_triangle():
    values = random_field(5, 6).sign() + (random_field(6, 6) > 0.3)
    vertices, faces = marching_cubes(values, 0.0)
    assert bool((values == 0).any()) and is_closed_and_oriented(faces)
    a, b, c = vertices[faces].unbind(1)
    assert float(torch.linalg.cross(b - a, c - a).norm(dim=1).min()) > 1e-9


def test_infinite_densities_stay_finite_vertices():
    values = torch.zeros(4, 4, 4)
    values[1, 1, 1], values[2, 2, 1] = torch.inf, 3e38
    values[0, 0, 0] = -torch.inf
    vertices, faces = marching_cubes(values, 1.0)
    assert bool(vertices.isfinite().all()) and is_closed_and_oriented(faces)


@pytest.mark.parametrize("level", [-5.0, 5.0])
def test_no_crossing_gives_an_empty_mesh(level):
    vertices, faces = marching_cubes(torch.zeros(3, 4, 5), level)
    assert vertices.shape == (0, 3) and faces.shape == (0, 3)


def test_bad_input_is_refused():
    broken = torch.zeros(4, 4, 4)
    broken[3, 0, 0] = torch.nan
    with pytest.raises(InputError, match="NaN"):
        marching_cubes(broken, 0.5)
    with pytest.raises(InputError, match="2 values a side"):
        marching_cubes(torch.zeros(4, 1, 4), 0.5)
    with pytest.raises(InputError, match="finite level"):
        marching_cubes(torch.zeros(4, 4, 4), math.inf)
    with pytest.raises(InputError, match="resolution"):
        density_mesh(sphere, 1, 0.5)
    with pytest.raises(InputError, match="level"):
        density_mesh(sphere, 8, -0.5)


def wall(points, center=(0.5, 0.5, 0.5), radius=0.3, steepness=400.0):
    """Density 200 inside a ball of the unit cube, with a steep wall: half of it on the sphere."""
    distance = (points - torch.as_tensor(center, dtype=points.dtype)).norm(dim=1)
    return 200 * torch.sigmoid(steepness * (radius - distance))


def test_bisection_finds_a_steep_wall_that_linear_interpolation_misses():
    def error(bisections):
        mesh = density_mesh(wall, 24, 100.0, bisections=bisections)
        return float(((mesh.vertices - 0.5).norm(dim=1) - 0.3).abs().max())

    assert error(0) > 0.2 / 24
    assert error(5) < 0.01 / 24


def test_density_mesh_is_in_the_unit_cube_and_closes_at_its_border():
    mesh = density_mesh(lambda x: torch.full((len(x),), 9.0), 6, 1.0)
    assert is_closed_and_oriented(mesh.faces) and euler_characteristic(mesh.faces) == 2
    # Empty nodes at 0 and 1, inside from 1/6 to 5/6; bisected against the field, which is full.
    assert float(mesh.vertices.min()) == pytest.approx(0, abs=1e-3)
    assert float(mesh.vertices.max()) == pytest.approx(1, abs=1e-3)
    assert enclosed_volume(mesh.vertices, mesh.faces) > 0.8


@pytest.mark.parametrize("grid, resolution", [(16, 40), (16, 16), (32, 12), (5, 31)])
def test_occupied_skips_empty_space_and_changes_nothing_else(grid, resolution):
    asked = []

    def density(points):
        asked.append(len(points))
        return wall(points, center=(0.3, 0.6, 0.5), radius=0.15, steepness=1000.0)

    whole = density_mesh(density, resolution, 50.0)
    everywhere, asked[:] = sum(asked), []
    axis = (torch.arange(grid) + 0.5) / grid
    middle = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)
    reach = 0.15 + 0.87 / grid
    occupied = (middle - torch.tensor([0.3, 0.6, 0.5])).norm(dim=-1) < reach
    skipped = density_mesh(density, resolution, 50.0, occupied=occupied)
    torch.testing.assert_close(skipped.vertices, whole.vertices, atol=1e-6, rtol=0)
    assert torch.equal(skipped.faces, whole.faces)
    assert max(asked) <= CHUNK
    assert sum(asked) < 0.8 * everywhere


@pytest.mark.parametrize("grid, resolution", [(16, 40), (32, 12), (64, 18), (20, 20)])
def test_every_node_of_a_crossed_edge_is_asked_for_even_beyond_the_occupied_cells(grid, resolution):
    center = torch.tensor([0.45, 0.55, 0.5])

    def density(points):
        return wall(points, center, radius=0.3, steepness=20.0)

    # Exactly the cells that the ball reaches into: the outer ends of crossed edges lie in others.
    axis = torch.arange(grid)
    low = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1) / grid
    occupied = (center.maximum(low).minimum(low + 1 / grid) - center).norm(dim=-1) < 0.3
    whole = density_mesh(density, resolution, 100.0, bisections=0)
    skipped = density_mesh(density, resolution, 100.0, occupied=occupied, bisections=0)
    # torch rounds exp by where a value stands in its batch and how many threads share it; a node
    # that was not asked for counts as 0 and moves or drops its vertices by far more.
    torch.testing.assert_close(skipped.vertices, whole.vertices, atol=1e-6, rtol=0)


def test_unoccupied_space_is_empty_and_the_surface_closes_around_the_rest():
    occupied = torch.zeros(8, 8, 8, dtype=torch.bool)
    occupied[2, 2, 2] = True
    mesh = density_mesh(lambda x: torch.full((len(x),), 9.0), 24, 1.0, occupied=occupied)
    assert is_closed_and_oriented(mesh.faces) and euler_characteristic(mesh.faces) == 2
    assert float(mesh.vertices.min()) >= 1 / 8 - 1 / 24
    assert float(mesh.vertices.max()) <= 4 / 8 + 1 / 24


def test_memory_bound_limits_each_question_and_keeps_the_mesh():
    whole = density_mesh(wall, 20, 100.0)
    small = density_mesh(wall, 20, 100.0, memory_bytes=1)
    torch.testing.assert_close(small.vertices, whole.vertices, atol=1e-6, rtol=0)
    assert torch.equal(small.faces, whole.faces)
