"""Vertices from planes: what counts as flat, mirrored planes, and the second attempt."""

import math

import pytest
import torch

from polyfield.cuda.tangent_planes import (
    CORNER,
    EDGE,
    NONE,
    PLANE,
    Placement,
    Vertices,
    place_vertices,
    place_vertices_reference,
    quads_that_go,
    quads_that_go_reference,
)

pytestmark = pytest.mark.kernels

LOW = torch.zeros(1, 3, dtype=torch.float64)
EVERY = torch.arange(27)[None]


def placed(feet, normals, **placement):
    """In the unit cell; what is short of 27 planes does not count."""
    count = len(feet)
    foot = torch.zeros(27, 3, dtype=torch.float64)
    normal = torch.zeros_like(foot)
    foot[:count] = torch.tensor(feet, dtype=torch.float64)
    normal[:count] = torch.nn.functional.normalize(
        torch.tensor(normals, dtype=torch.float64), dim=1
    )
    reliable = torch.arange(27) < count
    return place_vertices(LOW, 1.0, foot, normal, reliable, EVERY, Placement(**placement))


def near_surfaces(cells, seed=0):
    """Cells of edge 0.1, each with planes of a smooth part, a crease or a corner, some of them off.

    As `place_vertices` takes them: rows are shared by cells.
    """
    random = torch.Generator().manual_seed(seed)

    def numbers(*shape):
        return torch.rand(*shape, generator=random, dtype=torch.float64)

    low = 2 * numbers(cells, 3) - 1
    middle = low + 0.1 * numbers(cells, 3)
    sides = torch.nn.functional.normalize(numbers(cells, 3, 3) - 0.5, dim=2)
    side = (numbers(cells, 27) * (1 + torch.arange(cells) % 3)[:, None]).long()
    across = sides.gather(1, side[..., None].expand(-1, -1, 3))
    bent = across + 0.1 * (numbers(cells, 27, 3) - 0.5)
    across = torch.nn.functional.normalize(bent, dim=2) * (1 - 2 * (numbers(cells, 27, 1) > 0.5))
    point = middle[:, None] + 0.2 * (numbers(cells, 27, 3) - 0.5)
    height = ((point - middle[:, None]) * across).sum(2, keepdim=True)
    foot = point - height * across
    reliable = numbers(cells, 27) < numbers(cells, 1)
    order = torch.randperm(27 * cells, generator=random)
    rows = torch.empty_like(order)
    rows[order] = torch.arange(27 * cells)
    columns = foot.view(-1, 3)[order], across.view(-1, 3)[order], reliable.view(-1)[order]
    return low, 0.1, *columns, rows.view(-1, 27)


def on(device, values):
    return [value.to(device) if isinstance(value, torch.Tensor) else value for value in values]


@pytest.mark.parametrize(
    "placement",
    [Placement(), Placement(0.5, 0.1, 0.0, 0.3), Placement(0.0, 0.0, 1.0, 0.02)],
    ids=["default", "narrow", "wide"],
)
def test_vertices_are_those_of_the_specification(device, placement):
    cells = near_surfaces(700)
    expected = place_vertices_reference(*cells, placement)
    found = Vertices(*(part.cpu() for part in place_vertices(*on(device, cells), placement)))
    assert set(expected.kind.tolist()) == {PLANE, EDGE, CORNER, NONE}
    assert torch.equal(found.kind, expected.kind)
    there = expected.kind != NONE
    for name in ("position", "residual"):
        one, other = getattr(found, name)[there], getattr(expected, name)[there]
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)
    turned = (found.direction * expected.direction).sum(1).sign()[:, None]
    torch.testing.assert_close(
        found.direction[there], (turned * expected.direction)[there], rtol=1e-6, atol=1e-8
    )


def rings(count, seed=0):
    """Quads of corners near a plane or off it, of any kinds, with directions that mostly agree."""
    random = torch.Generator().manual_seed(seed)

    def numbers(*shape):
        return torch.rand(*shape, generator=random, dtype=torch.float64)

    ring = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]], dtype=torch.float64)
    flat = ring + 0.3 * (numbers(count, 4, 2) - 0.5)
    saddle = torch.tensor([1.0, -1, 1, -1])[:, None]
    tall = torch.tensor([0.05, 0.4, 0.8])[torch.arange(count) % 3, None, None]
    height = tall * saddle * (0.5 + numbers(count, 4, 1))
    corner = torch.cat([flat, height], 2)
    kind = torch.randint(0, 3, (count, 4), generator=random)
    kind[::2] = PLANE
    after, before = corner.roll(-1, 1) - corner, corner.roll(1, 1) - corner
    own = torch.nn.functional.normalize(torch.linalg.cross(after, before), dim=2)
    own = own + 0.9 * (numbers(count, 4, 3) - 0.5)
    along = numbers(count, 4, 3) - 0.5
    direction = torch.where((kind == PLANE)[..., None], own, along)
    direction = torch.nn.functional.normalize(direction, dim=2)
    direction[kind == CORNER] = 0
    vertices = Vertices(
        corner.view(-1, 3), kind.view(-1), direction.view(-1, 3), torch.zeros(4 * count).double()
    )
    return torch.arange(4 * count).view(-1, 4).flip(0), vertices


def test_quads_that_stay_and_how_they_are_split_are_those_of_the_specification(device):
    quad, vertices = rings(900)
    expected = quads_that_go_reference(quad, vertices)
    found = quads_that_go(quad.to(device), Vertices(*on(device, vertices)))
    for one, other in zip(found, expected, strict=True):
        assert 0.1 < other.double().mean() < 0.9
        assert torch.equal(one.cpu(), other)


def test_no_cell_and_no_quad_make_nothing(device):
    none = torch.zeros(0, 3, dtype=torch.float64, device=device)
    rows = torch.zeros(0, 27, dtype=torch.int64, device=device)
    found = place_vertices(none, 0.1, none, none, none[:, 0] > 0, rows, Placement())
    assert [len(part) for part in found] == [0, 0, 0, 0]
    assert [len(part) for part in quads_that_go(rows[:, :4], found)] == [0, 0]


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
