"""The 256 sign patterns of a cube and the triangles that separate them, derived from a rule.

Corner c of the unit cube lies at (c & 1, c >> 1 & 1, c >> 2). On each face of the cube the contour
cuts off every run of outside corners, so inside corners that meet only across a face's diagonal are
joined. The rule looks at one face alone: two cubes that share a face draw the same contour on it,
in opposite directions, and no hole can open. Thin structures stay in one piece.
"""

from __future__ import annotations

from functools import cache
from math import inf

import torch
from jaxtyping import Int64
from torch import Tensor

EDGES = tuple((c, c | 1 << axis) for axis in range(3) for c in range(8) if not c >> axis & 1)
"""The 12 edges as (lower corner, upper corner), four along x, four along y, four along z."""


def _face_cycles() -> tuple[tuple[int, ...], ...]:
    """The corners of each face, counter-clockwise seen from outside the cube."""
    cycles: list[tuple[int, ...]] = []
    for axis in range(3):
        u, v = 1 << (axis + 1) % 3, 1 << (axis + 2) % 3
        cycles.append((0, v, u | v, u))
        cycles.append(tuple(1 << axis | c for c in (0, u, u | v, v)))
    return tuple(cycles)


FACES = _face_cycles()
_NUMBER = {frozenset(edge): number for number, edge in enumerate(EDGES)}
_MIDDLE = [[(a >> i & 1) + (b >> i & 1) for i in range(3)] for a, b in EDGES]
_ON_FACES = [{f for f, cycle in enumerate(FACES) if set(edge) <= set(cycle)} for edge in EDGES]


def contour_loops(case: int) -> list[list[int]]:
    """The closed loops of edge numbers around the surface's patches in a cube.

    Bit c of case tells whether corner c is inside. Loops run counter-clockwise seen from outside
    the surface.
    """
    following: dict[int, int] = {}
    for cycle in FACES:
        inside = [case >> corner & 1 for corner in cycle]
        for leaves in range(4):
            if inside[leaves] and not inside[(leaves + 1) % 4]:
                enters = next(i % 4 for i in range(leaves + 1, leaves + 5) if inside[(i + 1) % 4])
                start, end = (
                    _NUMBER[frozenset((cycle[i], cycle[(i + 1) % 4]))] for i in (enters, leaves)
                )
                following[start] = end
    loops = []
    while following:
        loop = [next(iter(following))]
        while (edge := following.pop(loop[-1])) != loop[0]:
            loop.append(edge)
        loops.append(loop)
    return loops


def _triangulate(loop: list[int]) -> list[tuple[int, int, int]]:
    """The triangulation of a loop with the shortest diagonals, none of them on a cube's face.

    A diagonal that lay on a face could be drawn by the neighbouring cube too, and four triangles
    would meet in it.
    """

    def length(i: int, j: int) -> float:
        if j - i == 1 or j - i == len(loop) - 1:
            return 0.0
        a, b = loop[i], loop[j]
        if _ON_FACES[a] & _ON_FACES[b]:
            return inf
        return float(sum((p - q) ** 2 for p, q in zip(_MIDDLE[a], _MIDDLE[b], strict=True)))

    @cache
    def best(i: int, j: int) -> tuple[float, tuple[tuple[int, int, int], ...]]:
        if j - i < 2:
            return 0.0, ()
        options = []
        for k in range(i + 1, j):
            (cost_a, left), (cost_b, right) = best(i, k), best(k, j)
            cost = cost_a + cost_b + length(i, k) + length(k, j)
            options.append((cost, (*left, (i, k, j), *right)))
        return min(options)

    cost, triangles = best(0, len(loop) - 1)
    if cost == inf:
        raise ArithmeticError(f"loop {loop} has no triangulation inside its cube")
    return [(loop[i], loop[j], loop[k]) for i, j, k in triangles]


@cache
def triangle_table() -> Int64[Tensor, "256 most 3"]:
    """Triangles of each sign pattern as edge numbers, rows filled up with -1. Built once."""
    rows = [[t for loop in contour_loops(case) for t in _triangulate(loop)] for case in range(256)]
    most = max(map(len, rows))
    return torch.tensor([row + [(-1, -1, -1)] * (most - len(row)) for row in rows])
