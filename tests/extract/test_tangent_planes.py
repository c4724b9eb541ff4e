"""Vertices from planes: what counts as flat, mirrored planes, and the second attempt."""

import math

import pytest
import torch

from polyfield.extract.tangent_planes import CORNER, EDGE, NONE, PLANE, Placement, place_vertices

LOW = torch.zeros(1, 3, dtype=torch.float64)


def placed(feet, normals, **placement):
    """In the unit cell; what is short of 27 planes does not count."""
    count = len(feet)
    foot = torch.zeros(1, 27, 3, dtype=torch.float64)
    normal = torch.zeros_like(foot)
    foot[0, :count] = torch.tensor(feet, dtype=torch.float64)
    normal[0, :count] = torch.nn.functional.normalize(
        torch.tensor(normals, dtype=torch.float64), dim=1
    )
    reliable = (torch.arange(27) < count)[None]
    return place_vertices(LOW, 1.0, foot, normal, reliable, Placement(**placement))


def roof(degrees):
    """Six planes each of two slopes that meet along x at (., 0.5, 0.5)."""
    slope = math.tan(math.radians(degrees / 2))
    feet, normals = [], []
    for i in range(6):
        for side in (-1, 1):
            off = side * (0.1 + 0.05 * i)
            feet.append([0.15 * i, 0.5 + off, 0.5 - abs(off) * slope])
            normals.append([0.0, side * slope, 1.0])
    return feet, normals


@pytest.mark.parametrize(("degrees", "kind"), [(4, PLANE), (8, PLANE), (12, EDGE), (30, EDGE)])
def test_a_crease_is_one_from_about_nine_degrees_on(degrees, kind):
    found = placed(*roof(degrees))
    assert found.kind.item() == kind
    if kind == EDGE:
        assert found.direction[0].abs().tolist() == pytest.approx([1, 0, 0], abs=1e-9)
        assert found.position[0].tolist() == pytest.approx([0.5, 0.5, 0.5], abs=1e-9)


def test_three_planes_meet_in_a_corner():
    feet = [[0.3, 0.5, 0.5], [0.5, 0.6, 0.5], [0.5, 0.5, 0.8]]
    found = placed(feet, [[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    assert found.kind.item() == CORNER and not found.direction.any()
    assert found.position[0].tolist() == pytest.approx([0.3, 0.6, 0.8])


def test_a_plane_s_vertex_is_the_middle_of_where_it_cuts_the_cell():
    feet = [[0.2, 0.3, 0.4], [0.7, 0.3, 0.4], [0.5, 0.8, 0.4]]
    found = placed(feet, [[0.0, 0, 1]] * 3)
    assert found.kind.item() == PLANE
    assert found.position[0].tolist() == pytest.approx([0.5, 0.5, 0.4])
    assert found.direction[0].abs().tolist() == pytest.approx([0, 0, 1])


def test_a_plane_and_its_mirror_image_are_the_same():
    feet, normals = roof(30)
    turned = [[-x for x in n] if i % 3 == 0 else n for i, n in enumerate(normals)]
    one, other = placed(feet, normals), placed(feet, turned)
    assert (one.position - other.position).abs().max() < 1e-12
    assert one.kind.item() == other.kind.item()


def test_the_second_attempt_goes_by_the_planes_whose_feet_are_nearest():
    """Most planes lie below the cell; three in it, their feet a tenth of an edge beside it."""
    below = [[0.1 + 0.03 * i, 0.5, -0.3] for i in range(24)]
    beside = [[1.1, y, 0.5] for y in (0.2, 0.5, 0.8)]
    found = placed(below + beside, [[0.0, 0, 1]] * 27)
    assert found.kind.item() == PLANE
    assert found.position[0].tolist() == pytest.approx([0.5, 0.5, 0.5])


def test_where_no_attempt_leads_into_the_cell_there_is_no_vertex():
    below = [[0.1 + 0.03 * i, 0.5, -0.4] for i in range(27)]
    assert placed(below, [[0.0, 0, 1]] * 27).kind.item() == NONE
    assert placed(below[:2], [[0.0, 0, 1]] * 2).kind.item() == NONE


def test_how_far_beyond_the_cell_a_flat_vertex_may_lie_is_said():
    below = [[0.1 + 0.03 * i, 0.5, -0.2] for i in range(27)]
    assert placed(below, [[0.0, 0, 1]] * 27).kind.item() == NONE
    assert placed(below, [[0.0, 0, 1]] * 27, plane_factor=0.3).kind.item() == PLANE


def test_the_residual_is_what_planes_are_off():
    feet = [[0.2, 0.3, 0.4], [0.7, 0.3, 0.6], [0.5, 0.8, 0.4], [0.5, 0.2, 0.6]]
    found = placed(feet, [[0.0, 0, 1]] * 4)
    assert found.residual.item() == pytest.approx(0.1)
