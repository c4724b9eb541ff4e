"""Regions of a closed surface: what bounds them, their Euler numbers, and the dual."""

import pytest
import torch

from polyfield.extract.borders import (
    SAME_CELL,
    borders_on_one_face,
    coarser,
    connected,
    dual_polygons,
    euler_numbers,
    simple_discs,
    triangle_borders,
)
from polyfield.extract.marching_cubes import distance_mesh
from polyfield.extract.mesh_checks import euler_characteristic, is_closed_and_oriented

OCTAHEDRON = torch.tensor(
    [[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]]
)
"""Corners +x, -x, +y, -y, +z, -z; of each upper face the lower one, and so around."""
OCTANT = torch.tensor(
    [[1, 1, 1], [0, 1, 1], [0, 0, 1], [1, 0, 1], [1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0]]
)


def octahedron():
    return triangle_borders(OCTAHEDRON, OCTANT, 6)


def test_a_triangle_has_three_borders_which_lie_on_the_faces_to_its_neighbours():
    borders = octahedron()
    ends = borders.origin[borders.following]
    assert torch.equal(borders.origin[borders.twin], ends)
    assert torch.equal(ends[borders.twin], borders.origin)
    step = OCTANT[borders.region[borders.twin]] - OCTANT[borders.region]
    axis, up = borders.direction // 2, borders.direction % 2
    assert torch.equal(step.gather(1, axis[:, None])[:, 0], 2 * up - 1)
    inside = triangle_borders(OCTAHEDRON, OCTANT // 2, 6)
    assert (inside.direction == SAME_CELL).all()


def test_the_dual_of_an_octahedron_is_a_cube_seen_from_outside():
    polygons = dual_polygons(octahedron())
    assert len(polygons.three) == 0 and polygons.four.shape == (6, 4) and len(polygons.sides) == 0
    corner = OCTANT.double() - 0.5
    for ring, vertex in zip(polygons.four, polygons.center_of_four, strict=True):
        outward = corner[(vertex == OCTAHEDRON).any(1)].mean(0)
        for a, b in zip(ring, ring.roll(-1), strict=True):
            assert float(torch.linalg.cross(corner[a], corner[b]) @ outward) > 0


@pytest.mark.parametrize(
    ("label", "euler", "simple"),
    [
        ([0, 0, 0, 0, 1, 1, 1, 1], [1, 1], [False, False]),  # halves, each by one face
        ([0, 1, 1, 1, 1, 1, 1, 1], [1, 1], [True, True]),  # one octant and the rest
        ([0, 1, 1, 1, 1, 1, 2, 1], [1, 0, 1], [True, False, True]),  # a ring between two
        ([0, 0, 0, 0, 0, 0, 0, 0], [2], [False]),
        (range(8), [1] * 8, [True] * 8),
    ],
)
def test_what_regions_are_put_together_to(label, euler, simple):
    label = torch.tensor(list(label))
    count = len(euler)
    borders = octahedron()
    whole = coarser(borders, label)
    found = euler_numbers(borders, torch.ones(8).long(), label, count)
    assert found.tolist() == euler
    assert simple_discs(whole, found).tolist() == simple
    # Borders of a region are rings.
    assert torch.equal(whole.region[whole.following], whole.region)
    assert torch.equal(whole.following.sort().values, torch.arange(len(whole.following)))
    assert torch.equal(whole.origin[whole.twin], whole.origin[whole.following])


def test_in_two_steps_it_comes_to_the_same():
    borders, first = octahedron(), torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    then = torch.tensor([0, 1, 1, 2])
    halves = coarser(borders, first)
    numbers = euler_numbers(borders, torch.ones(8).long(), first, 4)
    for one, other in zip(coarser(halves, then), coarser(borders, then[first]), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(
        euler_numbers(halves, numbers, then, 3),
        euler_numbers(borders, torch.ones(8).long(), then[first], 3),
    )


def test_a_region_that_leaves_a_face_twice_is_told():
    """All octants but two that are opposite each other in the upper half: both by its -y face."""
    label = torch.tensor([0, 1, 0, 0, 0, 0, 0, 0])
    borders = coarser(octahedron(), label)
    assert len(borders_on_one_face(borders)[0]) == 0
    wide = borders._replace(direction=torch.where(borders.region == 0, 2, borders.direction))
    one, other = borders_on_one_face(wide)
    assert len(one) == 2 and set(torch.cat([one, other]).tolist()) == set(
        torch.nonzero(borders.region == 0)[:, 0].tolist()
    )
    assert simple_discs(wide, torch.ones(2).long()).tolist() == [False, True]


def test_groups_are_what_joined_borders_lead_to():
    borders = octahedron()
    upper = borders.direction < 4  # all but those between upper and lower octants
    assert connected(borders, upper, 8).tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert connected(borders, upper & False, 8).tolist() == list(range(8))


def test_the_dual_of_the_dual_of_a_torus_has_its_topology():
    def ring(x):
        p = x - 0.5
        return (p[:, :2].norm(dim=1) - 0.3).hypot(p[:, 2]) - 0.1

    mesh = distance_mesh(ring, 20)
    cell = torch.zeros_like(mesh.faces)
    polygons = dual_polygons(triangle_borders(mesh.faces, cell, len(mesh.vertices)))
    many = torch.cat([polygons.sides, len(mesh.faces) + polygons.center_of_side[:, None]], 1)
    halves = polygons.four[:, [0, 1, 2]], polygons.four[:, [0, 2, 3]]
    faces = torch.cat([polygons.three, *halves, many])
    assert is_closed_and_oriented(faces) and euler_characteristic(faces) == 0
