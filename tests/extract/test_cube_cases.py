from collections import Counter
from itertools import product

import pytest

from polyfield.extract.cube_cases import EDGES, FACES, contour_loops, triangle_table


def triangles(case):
    return [tuple(t) for t in triangle_table()[case].tolist() if t[0] >= 0]


def sides(case):
    return [(t[i], t[(i + 1) % 3]) for t in triangles(case) for i in range(3)]


def boundary(case):
    """The directed sides that no second triangle of the cube takes back."""
    all_sides = Counter(sides(case))
    return {s for s in all_sides if s[::-1] not in all_sides}


def on_face(face):
    return {i for i, edge in enumerate(EDGES) if set(edge) <= set(FACES[face])}


def placed(segment, axis):
    """A segment of a face, as pairs of corners, without the axis across the face."""
    return tuple(frozenset(corner & ~(1 << axis) for corner in EDGES[edge]) for edge in segment)


def test_corners_of_every_face_run_counter_clockwise_seen_from_outside():
    def at(corner):
        return [corner >> i & 1 for i in range(3)]

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


def test_triangles_use_every_crossed_edge_and_no_other():
    for case in range(256):
        crossed = {i for i, (a, b) in enumerate(EDGES) if (case >> a ^ case >> b) & 1}
        assert {edge for t in triangles(case) for edge in t} == crossed
        assert all(count == 1 for count in Counter(sides(case)).values())
        # A loop of n edges takes n - 2 triangles: more would leave a vertex inside, fewer a hole.
        assert len(triangles(case)) == sum(len(loop) - 2 for loop in contour_loops(case))


def test_only_the_contour_of_a_face_lies_on_it():
    for case in range(256):
        assert all(any(set(s) <= on_face(f) for f in range(6)) for s in boundary(case))
        for face in range(6):
            segments = {s for s in sides(case) if set(s) <= on_face(face)}
            assert segments <= boundary(case)
            assert len({edge for s in segments for edge in s}) == 2 * len(segments)


@pytest.mark.parametrize("axis", range(3))
def test_any_two_cubes_that_share_a_face_draw_its_contour_in_opposite_directions(axis):
    lower, upper = on_face(2 * axis), on_face(2 * axis + 1)
    plane = [corner for corner in range(8) if not corner >> axis & 1]
    pairs = 0
    for left, right in product(range(256), repeat=2):
        if any((left >> (c | 1 << axis) ^ right >> c) & 1 for c in plane):
            continue
        pairs += 1
        ours = {placed(s, axis) for s in boundary(left) if set(s) <= upper}
        theirs = {placed(s[::-1], axis) for s in boundary(right) if set(s) <= lower}
        assert ours == theirs
    assert pairs == 256 * 16


def test_inside_corners_across_a_face_are_joined():
    # Corners 0 and 3 of the lower z face: one patch of two triangles a side, not two corners cut.
    assert len(contour_loops(0b1001)) == 1
    assert len(contour_loops(0b11110110)) == 2
    # Corners 0 and 7 meet on no face.
    assert len(contour_loops(0b10000001)) == 2
