"""How a surface may run through a cube of a lattice: its patches, for every way that it can lie.

Corner c of the unit cube lies at (c & 1, c >> 1 & 1, c >> 2). What lies in a cube is decided by the
signs of its corners (the case), on each face whose corners alternate by the saddle between them,
and inside by whether a tunnel joins two patches. A row of the table is one such way. Its contour on
a face is a matter of that face's four values alone: two cubes that share it draw the same one, in
opposite directions, and no hole can open.
Source: asymptotic decider (Nielson and Hamann 1991); patches by the loops of contours, tunnels by
the trilinear interpolant, as marching cubes 33 (Chernyaev 1995) means it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product
from math import inf

import torch
from jaxtyping import Int32, UInt8
from torch import Tensor

EDGES = tuple((c, c | 1 << axis) for axis in range(3) for c in range(8) if not c >> axis & 1)
"""The 12 edges as (lower corner, upper corner), four along x, four along y, four along z."""

Triangle = tuple[int, int, int]
Loop = tuple[int, ...]
_ON_A_FACE = 1e3  # price of a diagonal that must be split: more than any sum of lengths


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


@dataclass(frozen=True)
class CubeRow:
    """One way that the surface runs through a cube.

    case: bit c tells whether corner c is inside. joined: bit f tells whether the inside corners of
    face f, one of `alternating_faces`, meet across it. tunnel: the two loops that one patch joins.
    """

    case: int
    joined: int
    tunnel: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class CubeTable:
    """All rows, as kernels read them.

    first: of a case, the row in which no inside corners are joined across its alternating faces;
    they follow in the order of the binary number that has a bit for each of these, the first face
    lowest, set where they are joined. faces: bits of these faces; bit 6: there may be a tunnel.
    tunnel: of a row, at 4 d + 2 a + c, the row with a tunnel between the corners that are chosen
    so: of the cube's edges along z, in the order (0, 4), (1, 5), (3, 7), (2, 6), the ends (0:
    lower) a of number d and c of number d + 2; -1 for none. added: count, then pairs of edges of
    the cube between whose vertices a vertex more is put. triangles: count, then corners: edges of
    the cube, or from 12 on what was added; counter-clockwise seen from outside.
    """

    first: Int32[Tensor, " 256"]
    faces: UInt8[Tensor, " 256"]
    tunnel: Int32[Tensor, "rows 8"]
    added: UInt8[Tensor, "rows pairs"]
    triangles: UInt8[Tensor, "rows corners"]

    def to(self, device: torch.device) -> CubeTable:
        """The same on another device."""
        if device == self.first.device:
            return self
        parts = self.first, self.faces, self.tunnel, self.added, self.triangles
        return CubeTable(*(part.to(device) for part in parts))


def alternating_faces(case: int) -> list[int]:
    """The faces on which inside and outside corners alternate."""
    signs = [[case >> corner & 1 for corner in cycle] for cycle in FACES]
    return [f for f, (a, b, c, d) in enumerate(signs) if a == c != b == d]


@cache
def contour_loops(case: int, joined: int) -> tuple[Loop, ...]:
    """The closed loops of edge numbers around the surface's patches in a cube, see CubeRow.

    They run counter-clockwise seen from outside the surface.
    """
    following: dict[int, int] = {}
    for face, cycle in enumerate(FACES):
        inside = [case >> corner & 1 for corner in cycle]
        for leaves in range(4):
            if not inside[leaves] or inside[(leaves + 1) % 4]:
                continue
            if joined >> face & 1:  # around the corners outside that follow
                enters = next(i % 4 for i in range(leaves + 1, leaves + 5) if inside[(i + 1) % 4])
            else:  # around the corners inside that came before
                enters = next(i % 4 for i in range(leaves + 3, leaves - 1, -1) if not inside[i % 4])
            start, end = (
                _NUMBER[frozenset((cycle[i], cycle[(i + 1) % 4]))] for i in (enters, leaves)
            )
            following[start] = end
    loops = []
    while following:
        loop = [next(iter(following))]
        while (edge := following.pop(loop[-1])) != loop[0]:
            loop.append(edge)
        loops.append(tuple(loop))
    return tuple(loops)


@cache
def regions(case: int, joined: int) -> tuple[int, ...]:
    """Of each corner, the lowest one of those that hang together with it, see CubeRow."""
    region = list(range(8))
    pairs = [pair for pair in EDGES if (case >> pair[0] & 1) == (case >> pair[1] & 1)]
    for face in alternating_faces(case):
        wanted = joined >> face & 1
        low, high = (corner for corner in FACES[face] if case >> corner & 1 == wanted)
        pairs.append((low, high))
    for low, high in pairs:
        one, other = sorted((region[low], region[high]))
        region = [one if number == other else number for number in region]
    return tuple(region)


def tunnel_between(case: int, joined: int, one: int, other: int) -> tuple[int, int] | None:
    """The loops that a tunnel between the regions of two corners joins; None where there is none.

    Both corners are inside or both outside. Loops and regions make a tree; the tunnel runs through
    the one region of the other kind that lies between.
    """
    region, loops = regions(case, joined), contour_loops(case, joined)
    start, end = region[one], region[other]
    if start == end:
        return None
    sides = [{region[corner] for corner in EDGES[loop[0]]} for loop in loops]
    for first, second in product(range(len(loops)), repeat=2):
        between = sides[first] & sides[second]
        if first != second and start in sides[first] and end in sides[second] and between:
            return min(first, second), max(first, second)
    return None


def patches(row: CubeRow) -> tuple[list[tuple[int, int]], list[Triangle]]:
    """Pairs of edges between which a vertex is added, and triangles, see CubeTable.

    A disk for each loop, but an annulus between the two that a tunnel joins; of all ways to draw
    them that with the shortest diagonals. A diagonal on a face of the cube could be drawn by the
    neighbour too, and four triangles would meet in it: it is split by a vertex of the cube's own.
    """
    loops = list(contour_loops(row.case, row.joined))
    triangles: list[Triangle] = []
    if row.tunnel is not None:
        one, other = (loops[number] for number in row.tunnel)
        triangles += _annulus(one, other)
        loops = [loop for loop in loops if loop not in (one, other)]
    for loop in loops:
        triangles += _disk(loop)
    return _split(triangles, set(_contours(row)))


@cache
def cube_table() -> CubeTable:
    """The table. Built once, in a fraction of a second."""
    rows: list[CubeRow] = []
    first, faces = [], []
    for case in range(256):
        alternating = alternating_faces(case)
        first.append(len(rows))
        may_tunnel = False
        for bits in product((0, 1), repeat=len(alternating)):
            # The first face's bit is the lowest one.
            joined = sum(bit << f for bit, f in zip(reversed(bits), alternating, strict=True))
            rows.append(CubeRow(case, joined))
            may_tunnel |= len(contour_loops(case, joined)) > 1
        faces.append(sum(1 << f for f in alternating) | may_tunnel << 6)
    numbers: dict[CubeRow, int] = {row: number for number, row in enumerate(rows)}
    tunnels = []
    for row in list(rows):
        tunnels.append([_tunnel_row(row, *corners, rows, numbers) for corners in TUNNEL_CORNERS])
    tunnels += [[-1] * 8 for _ in rows[len(tunnels) :]]
    drawn = [patches(row) for row in rows]
    return CubeTable(
        torch.tensor(first, dtype=torch.int32),
        torch.tensor(faces, dtype=torch.uint8),
        torch.tensor(tunnels, dtype=torch.int32),
        _counted([[edge for pair in added for edge in pair] for added, _ in drawn], 2),
        _counted([[corner for each in found for corner in each] for _, found in drawn], 3),
    )


_UPRIGHT = ((0, 4), (1, 5), (3, 7), (2, 6))
TUNNEL_CORNERS = tuple(
    (_UPRIGHT[d][a], _UPRIGHT[d + 2][c]) for d in (0, 1) for a in (0, 1) for c in (0, 1)
)
"""The corners that a row's eight tunnels join, see CubeTable."""


def _tunnel_row(
    row: CubeRow, one: int, other: int, rows: list[CubeRow], numbers: dict[CubeRow, int]
) -> int:
    if (row.case >> one & 1) != (row.case >> other & 1):
        return -1
    loops = tunnel_between(row.case, row.joined, one, other)
    if loops is None:
        return -1
    dug = CubeRow(row.case, row.joined, loops)
    if dug not in numbers:
        numbers[dug] = len(rows)
        rows.append(dug)
    return numbers[dug]


def _counted(rows: list[list[int]], group: int) -> UInt8[Tensor, "rows width"]:
    width = 1 + max(map(len, rows))
    return torch.tensor(
        [[len(row) // group, *row, *[0] * (width - 1 - len(row))] for row in rows],
        dtype=torch.uint8,
    )


def _contours(row: CubeRow) -> list[frozenset[int]]:
    """Pairs of edges that a contour on a face connects."""
    loops = contour_loops(row.case, row.joined)
    return [
        frozenset((loop[i], loop[(i + 1) % len(loop)])) for loop in loops for i in range(len(loop))
    ]


def _price(a: int, b: int) -> float:
    """Of a diagonal between the vertices on two edges: its length, squared, from their middles."""
    length = float(sum((p - q) ** 2 for p, q in zip(_MIDDLE[a], _MIDDLE[b], strict=True)))
    return length + _ON_A_FACE * bool(_ON_FACES[a] & _ON_FACES[b])


_PRICES = [[_price(a, b) for b in range(12)] for a in range(12)]


@cache
def _disk(loop: Loop) -> tuple[Triangle, ...]:
    """The cheapest triangulation of a loop."""
    n = len(loop)
    # Of the part from i to j: its price and its triangles, from the short parts to the whole.
    best: dict[tuple[int, int], tuple[float, tuple[Triangle, ...]]] = {}
    best |= {(i, i + 1): (0.0, ()) for i in range(n - 1)}
    for i, j in ((i, i + length) for length in range(2, n) for i in range(n - length)):
        options = [
            (best[i, k][0] + best[k, j][0], (*best[i, k][1], (i, k, j), *best[k, j][1]))
            for k in range(i + 1, j)
        ]
        cost, triangles = min(options)
        side = 0.0 if j - i == n - 1 else _PRICES[loop[i]][loop[j]]
        best[i, j] = cost + side, triangles
    return tuple((loop[i], loop[k], loop[j]) for i, k, j in best[0, n - 1][1])


@cache
def _annulus(one: Loop, other: Loop) -> tuple[Triangle, ...]:
    """The cheapest strip between two loops: one forward, the other backward, side by side."""
    back = other[::-1]
    strips = [_strip(one, back[start:] + back[:start]) for start in range(len(back))]
    return min(strips)[1]


def _strip(one: Loop, back: Loop) -> tuple[float, tuple[Triangle, ...]]:
    """The cheapest strip between two loops that are cut open at their beginnings, and its price."""
    n, m = len(one), len(back)
    # From the diagonal between i of the one and j of the other to the end, from the end on. The
    # third tells whether the strip met j at the beginning of the one, the fourth whether it met i
    # at that of the other.
    best: dict[tuple[int, int, bool, bool], tuple[float, tuple[Triangle, ...]]] = {}
    for i, j in product(range(n, -1, -1), range(m, -1, -1)):
        a, b = one[i % n], back[j % m]
        for from_start, from_first in _APART if i and j else _TOGETHER:
            at = i, j, from_start, from_first
            # A whole loop about one vertex would draw the diagonal between the beginnings twice.
            if (i == n and from_start) or (j == m and from_first):
                best[at] = inf, ()
                continue
            if (i, j) == (n, m):
                best[at] = 0.0, ()
                continue
            options = []
            if i < n:
                c = one[(i + 1) % n]
                options.append((c, (a, c, b), best[i + 1, j, from_start, j == 0]))
            if j < m:
                c = back[(j + 1) % m]
                options.append((c, (c, b, a), best[i, j + 1, i == 0, from_first]))
            # Three vertices on one face would lie flat on it, as a neighbour's could.
            shared = _ON_FACES[a] & _ON_FACES[b]
            best[at] = min(
                (
                    cost + _PRICES[a][b] + (inf if shared & _ON_FACES[c] else 0.0),
                    (triangle, *rest),
                )
                for c, triangle, (cost, rest) in options
            )
    return best[0, 0, True, True]


_TOGETHER = ((True, True),)  # while the strip is at one of the beginnings
_APART = ((False, False), (False, True), (True, False))  # it left them one after the other


def _split(
    triangles: list[Triangle], contours: set[frozenset[int]]
) -> tuple[list[tuple[int, int]], list[Triangle]]:
    """Diagonals on a face are cut in two by a vertex that is added, and so are their triangles."""
    added: list[tuple[int, int]] = []
    work, done = list(triangles), []
    while work:
        triangle = work.pop()
        for turn in range(3):
            a, b, c = triangle[turn:] + triangle[:turn]
            pair = min(a, b), max(a, b)
            if pair[1] >= 12 or not _ON_FACES[a] & _ON_FACES[b] or frozenset(pair) in contours:
                continue
            if pair not in added:
                added.append(pair)
            middle = 12 + added.index(pair)
            work += [(a, middle, c), (middle, b, c)]
            break
        else:
            done.append(triangle)
    return added, sorted(done)
