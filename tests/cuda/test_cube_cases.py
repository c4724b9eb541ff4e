from collections import Counter
from itertools import product

import pytest
import torch

from polyfield.cuda.cube_cases import (
    EDGES,
    FACES,
    TUNNEL_CORNERS,
    CubeRow,
    alternating_faces,
    contour_loops,
    cube_table,
    patches,
    regions,
    tunnel_between,
)


def decisions(case):
    """Every way to join corners across the faces of a case that alternate."""
    faces = alternating_faces(case)
    for bits in product((0, 1), repeat=len(faces)):
        yield sum(bit << face for bit, face in zip(bits, faces, strict=True))


def all_rows():
    rows = []
    for case in range(256):
        for joined in decisions(case):
            rows.append(CubeRow(case, joined))
            tunnels = {
                tunnel_between(case, joined, *corners)
                for corners in TUNNEL_CORNERS
                if (case >> corners[0] & 1) == (case >> corners[1] & 1)
            }
            rows += [CubeRow(case, joined, each) for each in tunnels - {None}]
    return rows


ROWS = all_rows()


def sides(triangles):
    return [(t[i], t[(i + 1) % 3]) for t in triangles for i in range(3)]


def boundary(triangles):
    """The directed sides that no second triangle of the cube takes back."""
    found = set(sides(triangles))
    return {side for side in found if side[::-1] not in found}


def contours(row):
    loops = contour_loops(row.case, row.joined)
    return {(loop[i], loop[(i + 1) % len(loop)]) for loop in loops for i in range(len(loop))}


def on_face(face):
    return {i for i, edge in enumerate(EDGES) if set(edge) <= set(FACES[face])}


def placed(segment, axis):
    """A segment of a face, as pairs of corners, without the axis across the face."""
    return tuple(frozenset(corner & ~(1 << axis) for corner in EDGES[edge]) for edge in segment)


def at(corner):
    return [corner >> i & 1 for i in range(3)]


def test_corners_of_every_face_run_counter_clockwise_seen_from_outside():
    for number, cycle in enumerate(FACES):
        a, b, c = (at(corner) for corner in cycle[:3])
        u, v = (
            [q - p for p, q in zip(a, b, strict=True)],
            [q - p for p, q in zip(b, c, strict=True)],
        )
        normal = [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]]
        axis, side = divmod(number, 2)
        assert normal == [(2 * side - 1) * (i == axis) for i in range(3)]
        assert {corner >> axis & 1 for corner in cycle} == {side}


def test_loops_pass_every_crossed_edge_once():
    for case in range(256):
        crossed = sorted(i for i, (a, b) in enumerate(EDGES) if (case >> a ^ case >> b) & 1)
        for joined in decisions(case):
            assert sorted(edge for loop in contour_loops(case, joined) for edge in loop) == crossed


def test_patches_use_every_crossed_edge_and_are_bounded_by_the_contours_alone():
    for row in ROWS:
        added, triangles = patches(row)
        found = Counter(sides(triangles))
        assert all(count == 1 for count in found.values()), row
        assert boundary(triangles) == contours(row), row
        used = {corner for triangle in triangles for corner in triangle}
        crossed = {edge for loop in contour_loops(row.case, row.joined) for edge in loop}
        assert used == crossed | {12 + number for number in range(len(added))}, row


def test_patches_are_disks_and_annuli():
    """Vertices - sides + triangles: 1 a disk, 0 an annulus."""
    for row in ROWS:
        added, triangles = patches(row)
        loops = contour_loops(row.case, row.joined)
        vertices = sum(map(len, loops)) + len(added)
        edges = {frozenset(side) for side in sides(triangles)}
        euler = vertices - len(edges) + len(triangles)
        assert euler == len(loops) - 2 * (row.tunnel is not None), row


def test_no_side_within_the_cube_lies_on_a_face():
    """Where the neighbour could draw it too."""
    for row in ROWS:
        _, triangles = patches(row)
        for a, b in set(sides(triangles)) - contours(row):
            if (b, a) not in contours(row) and max(a, b) < 12:
                assert not any({a, b} <= on_face(face) for face in range(6)), row


def test_what_is_added_lies_between_vertices_of_one_patch_s_diagonal():
    for row in ROWS:
        added, triangles = patches(row)
        for number, (a, b) in enumerate(added, 12):
            around = {corner for triangle in triangles if number in triangle for corner in triangle}
            assert {a, b} <= around and a < b < 12


@pytest.mark.parametrize("axis", range(3))
def test_any_two_cubes_that_share_a_face_draw_its_contour_in_opposite_directions(axis):
    """Whatever the rest of them is, where they decide alike about the face."""
    lower, upper = 2 * axis, 2 * axis + 1
    drawn = {}
    for case in range(256):
        for joined in decisions(case):
            here = contours(CubeRow(case, joined))
            for face, side in ((upper, 0), (lower, 1)):
                signs = tuple(case >> corner & 1 for corner in sorted(FACES[face]))
                alternates = face in alternating_faces(case)
                key = signs, alternates and joined >> face & 1
                segments = {s for s in here if set(s) <= on_face(face)}
                if side:
                    segments = {s[::-1] for s in segments}
                found = frozenset(placed(s, axis) for s in segments)
                assert drawn.setdefault(key, found) == found
    assert len(drawn) == 16 + 2


def test_regions_and_loops_make_a_tree():
    for case in range(1, 255):
        for joined in decisions(case):
            assert len(set(regions(case, joined))) == len(contour_loops(case, joined)) + 1


def test_corners_across_a_face_are_joined_as_decided():
    # Corners 0 and 3 of the lower z face (number 4): one patch around both, or two corners cut.
    assert alternating_faces(0b1001) == [4]
    assert len(contour_loops(0b1001, 1 << 4)) == 1 and len(contour_loops(0b1001, 0)) == 2
    assert len(contour_loops(0b11110110, 1 << 4)) == 2 and len(contour_loops(0b11110110, 0)) == 1
    # Corners 0 and 7 meet on no face.
    assert len(contour_loops(0b10000001, 0)) == 2


def test_a_tunnel_joins_the_two_corners_that_no_face_does():
    assert tunnel_between(0b10000001, 0, 0, 7) == (0, 1)
    assert tunnel_between(0b10000001, 0, 0, 0) is None
    assert tunnel_between(0b00000011, 0, 0, 1) is None  # one region
    _, apart = patches(CubeRow(0b10000001, 0))
    _, joined = patches(CubeRow(0b10000001, 0, (0, 1)))
    assert len(apart) == 2 and len(joined) == 6


def table_row(case, joined):
    """By the rule that kernels follow."""
    table, bit = cube_table(), 0
    row = int(table.first[case])
    for face in range(6):
        if int(table.faces[case]) >> face & 1:
            row += (joined >> face & 1) << bit
            bit += 1
    return row


def packed(row, name, group):
    values = getattr(cube_table(), name)[row].tolist()
    return [tuple(values[1 + group * i : 1 + group * (i + 1)]) for i in range(values[0])]


def test_the_table_holds_every_row_where_kernels_look_for_it():
    for case in range(256):
        for joined in decisions(case):
            row = table_row(case, joined)
            added, triangles = patches(CubeRow(case, joined))
            assert packed(row, "added", 2) == added and packed(row, "triangles", 3) == triangles
            for which, corners in enumerate(TUNNEL_CORNERS):
                alike = (case >> corners[0] & 1) == (case >> corners[1] & 1)
                tunnel = tunnel_between(case, joined, *corners) if alike else None
                dug = int(cube_table().tunnel[row, which])
                assert (dug >= 0) == (tunnel is not None)
                if tunnel is not None:
                    assert packed(dug, "triangles", 3) == patches(CubeRow(case, joined, tunnel))[1]
                    assert int(cube_table().faces[case]) >> 6 == 1
    assert len(cube_table().triangles) == len(ROWS)


def trilinear(values, steps):
    fine = torch.nn.functional.interpolate(
        values[None, None], size=(steps + 1,) * 3, mode="trilinear", align_corners=True
    )
    return fine[0, 0]


def pieces_inside(values):
    """How many pieces what is above 0 falls into, by its nodes and their six neighbours."""
    inside = values > 0
    label = torch.where(inside, torch.arange(inside.numel()).view(inside.shape) + 1, 0)
    while True:
        grown = label.clone()
        for axis in range(3):
            low = grown.narrow(axis, 0, grown.shape[axis] - 1)
            high = grown.narrow(axis, 1, grown.shape[axis] - 1)
            most = torch.maximum(low, high)
            both = (low > 0) & (high > 0)
            low.copy_(torch.where(both, most, low))
            high.copy_(torch.where(both, torch.maximum(most, high), high))
        if torch.equal(grown, label):
            return len(label[inside].unique())
        label = grown


@pytest.mark.parametrize(("corners", "apart"), [((1.0, 1.0), 2), ((9.0, 9.0), 1)])
def test_two_opposite_corners_are_joined_where_the_trilinear_interpolant_joins_them(corners, apart):
    """The known pair of marching cubes 33's case 4."""
    values = torch.full((2, 2, 2), -1.0)
    values[0, 0, 0], values[1, 1, 1] = corners
    assert pieces_inside(trilinear(values, 40)) == apart
