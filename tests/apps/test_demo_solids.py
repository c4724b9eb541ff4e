import math

import pytest
import torch
from torch.nn.functional import normalize

from polyfield.apps import demo_solids as shapes
from polyfield.apps.demo_still_life import GROUND, still_life

SOLIDS = still_life()
each_solid = pytest.mark.parametrize("solid", SOLIDS, ids=lambda solid: solid.name)


def around(solid, count, nearest, furthest):
    """Points of the world outside of the solid, at distances from its surface in a range."""
    random = torch.Generator().manual_seed(0)
    vertices, _ = solid.mesh()
    chosen = vertices[torch.randint(len(vertices), (count,), generator=random)]
    off = nearest + (furthest - nearest) * torch.rand(count, 1, generator=random).double()
    return chosen + off * solid.normal(chosen), off[:, 0]


def volume(vertices, faces):
    a, b, c = vertices[faces].unbind(1)
    return (torch.linalg.cross(a, b) * c).sum().item() / 6


def edges_of(faces):
    return torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])


@each_solid
def test_vertices_lie_on_the_surface_and_faces_hardly_leave_it(solid):
    vertices, faces = solid.mesh()
    assert solid.distance(vertices).abs().max() < 1e-6
    assert solid.distance(vertices[faces].mean(1)).abs().max() < 4e-4


@each_solid
def test_mesh_is_closed_and_faces_outwards(solid):
    vertices, faces = solid.mesh()
    edges = edges_of(faces)
    key, back = edges[:, 0] * len(vertices) + edges[:, 1], edges[:, 1] * len(vertices) + edges[:, 0]
    assert len(key.unique()) == len(key)  # no edge twice in one direction
    assert torch.equal(key.sort().values, back.sort().values)  # each has its opposite
    assert len(faces.unique()) == len(vertices)  # no vertex without a face
    a, b, c = vertices[faces].unbind(1)
    outward = solid.normal((a + b + c) / 3)
    assert (torch.linalg.cross(b - a, c - a) * outward).sum(1).min() > 0


def test_volumes_are_the_closed_forms():
    by_name = {solid.name: volume(*solid.mesh()) for solid in SOLIDS}
    ring, radius = 0.345, 0.125
    assert by_name["glossy ball"] == pytest.approx(4 / 3 * math.pi * 0.4**3, rel=2e-3)
    assert by_name["ring"] == pytest.approx(2 * math.pi**2 * ring * radius**2, rel=4e-3)
    r, h = 0.14, 0.33
    assert by_name["pillar"] == pytest.approx(math.pi * r * r * (2 * h + 4 / 3 * r), rel=3e-3)
    a, r = 0.42, 0.05  # Steiner's formula for a box
    steiner = a**3 + 6 * a * a * r + 3 * math.pi * a * r * r + 4 / 3 * math.pi * r**3
    assert by_name["cube"] == pytest.approx(steiner, rel=1e-3)


@each_solid
def test_distance_outside_is_the_way_along_the_normal(solid):
    points, off = around(solid, 200, 0.0, 0.08)
    torch.testing.assert_close(solid.distance(points), off, rtol=0, atol=1e-6)


@each_solid
def test_normal_is_the_gradient_of_the_distance(solid):
    points, _ = around(solid, 100, 0.02, 0.08)
    step = 1e-6
    columns = [
        (solid.distance(points + step * axis) - solid.distance(points - step * axis)) / (2 * step)
        for axis in torch.eye(3).double()
    ]
    torch.testing.assert_close(torch.stack(columns, 1), solid.normal(points), rtol=0, atol=1e-5)


@each_solid
def test_reach_holds_the_solid_and_hardly_more(solid):
    away = (solid.mesh()[0] - solid.position).norm(dim=1).max().item()
    assert away == pytest.approx(solid.reach, abs=1e-4)


def test_solids_stand_on_the_slab_and_touch_nothing_else():
    slab, *others = SOLIDS
    assert slab.mesh()[0][:, 2].max().item() == pytest.approx(GROUND, abs=1e-9)
    for solid in others:
        vertices, _ = solid.mesh()
        assert slab.distance(vertices).min().item() == pytest.approx(0, abs=1e-3), solid.name
        assert slab.distance(vertices).min() > -1e-6, solid.name
        for other in others:
            if other is not solid:
                assert other.distance(vertices).min() > 0.02, (solid.name, other.name)


@each_solid
def test_convexity_is_as_promised(solid):
    """On a line a convex solid's distance never rises above its chord; a ring's does."""
    random = torch.Generator().manual_seed(1)
    ends = 1.2 * (2 * torch.rand(2, 4000, 3, generator=random).double() - 1)
    ends = ends * solid.reach + solid.position
    outside = (solid.distance(ends[0]) > 0) & (solid.distance(ends[1]) > 0)
    ends = ends[:, outside]
    excess = solid.distance(ends.mean(0)) - (solid.distance(ends[0]) + solid.distance(ends[1])) / 2
    assert bool((excess.max() < 1e-6) == solid.convex)


def test_merged_meshes_keep_every_face():
    ball, cube = shapes.ball_surface(0.1, 8), shapes.cube_surface(0.1, 0.2)
    parts = [ball, shapes.torus_surface(0.1, 0.3), cube]
    vertices, faces = shapes.merged(parts)
    whole = sum(volume(*part) for part in parts)
    assert volume(vertices, faces) == pytest.approx(whole, rel=1e-9)
    assert faces.max() + 1 == len(vertices) == sum(len(part[0]) for part in parts)


def test_paint_is_a_reflectance_and_the_patterns_are_two_colours():
    for solid in SOLIDS:
        vertices, _ = solid.mesh()
        albedo = solid.albedo(vertices)
        assert 0 < albedo.min() and albedo.max() < 1
        patterned = solid.name in ("slab", "ring", "cube", "pillar")
        assert (len(albedo.unique(dim=0)) > 1) == patterned


def test_cube_faces_show_whole_blocks():
    """A hair's breadth off a flat face the paint is the same: no boundary lies in the face."""
    cube = next(solid for solid in SOLIDS if solid.name == "cube")
    a, b = torch.rand(2, 500, generator=torch.Generator().manual_seed(2)).double() * 0.4 - 0.2
    for axis in range(3):
        own = torch.stack([torch.full_like(a, 0.26), a, b], 1).roll(axis, 1)
        outward = normalize(torch.eye(3)[axis].double(), dim=0)
        inner, outer = cube.paint(own - 1e-6 * outward), cube.paint(own + 1e-6 * outward)
        assert torch.equal(inner, outer)
