"""Marching cubes: the triangles between numbers of a lattice that lie above a level and others."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Float32, Int, Int64
from torch import Tensor

from polyfield.cuda.backend import backend_of
from polyfield.cuda.cube_cases import CubeTable, cube_table
from polyfield.cuda.errors import InputError
from polyfield.cuda.kernel import constant, kernel, launch

MOST = 2**31 - 1  # vertices, and triangles


class Surface(NamedTuple):
    """Vertices in steps of the lattice, and triangles, counter-clockwise seen from outside."""

    position: Float32[Tensor, "v 3"]
    corners: Int64[Tensor, "f 3"]


class Surfaces(NamedTuple):
    """Surfaces of several lattices, one after the other, each as `Surface`.

    keys: of each vertex, 4 * the node where its edge begins + the edge's axis, nodes counted
    through all lattices; 3 for what lies within the cell that begins there. ends: the numbers at
    the lower and the upper end of its edge.
    """

    position: Float32[Tensor, "v 3"]
    corners: Int64[Tensor, "f 3"]
    keys: Int64[Tensor, " v"]
    ends: Float32[Tensor, "v 2"]


def surface(values: Float[Tensor, "nx ny nz"], level: float) -> Surface:
    """The surface values = level on a lattice of at least 2 values a side; inside is above.

    Its topology is that of the trilinear interpolant between the values, see cube_cases.py; one
    vertex on every edge of the lattice that it crosses, and a few more within cells. float32 runs
    on kernels, the rest on the reference. Raises InputError for NaN, and for more than 2^31
    vertices or triangles. Source: cube_cases.py; rows counted first, as in Flying Edges (Schroeder,
    Maynard and Geveci 2015).
    """
    if _by_reference(values):
        return Surface(*surfaces_reference(values[None], level)[:2])
    position, corners, _, _ = _run(values[None], level, details=False)
    return Surface(position, corners)


def surfaces(values: Float[Tensor, "blocks nx ny nz"], level: float) -> Surfaces:
    """As `surface`, of each of several lattices of one size, with where vertices come from."""
    if _by_reference(values):
        return surfaces_reference(values, level)
    position, corners, keys, ends = _run(values, level, details=True)
    return Surfaces(position, corners, keys, ends)


def _by_reference(values: Tensor) -> bool:
    return backend_of(values.device) == "reference" or values.dtype != torch.float32


def _run(values: Tensor, level: float, details: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    values = values.contiguous()
    blocks, nx, ny, nz = values.shape
    words, rows, device = -(-nz // 32), blocks * nx * ny, values.device
    bits = torch.empty(rows, words, dtype=torch.int32, device=device)
    unsound = torch.zeros(1, dtype=torch.int32, device=device)
    grid = -(-rows // constant("surface", "SURFACE_ROWS")), 1
    signs = kernel("surface", "SurfaceSigns")
    launch(signs, grid, values, bits, unsound, level, rows, nz, words)
    if int(unsound):
        raise InputError("surface: values", "NaN", "numbers", "The field has diverged.")
    table = cube_table().to(device)
    cubes = table.first, table.faces, table.tunnel, table.added, table.triangles
    sizes = rows, nx, ny, nz, words, table.added.shape[1], table.triangles.shape[1]
    counts = torch.empty(rows, 5, dtype=torch.int32, device=device)
    count = kernel("surface", "SurfaceCount")
    launch(count, grid, values, bits, *cubes, counts, level, *sizes)
    starts, vertices, faces = _starts(counts)
    position = torch.empty(vertices, 3, device=device)
    corners = torch.empty(faces, 3, dtype=torch.int64, device=device)
    given = vertices if details else 0
    keys = torch.empty(given, dtype=torch.int64, device=device)
    ends = torch.empty(given, 2, device=device)
    if vertices:
        origin = (keys, ends) if details else (None, None)
        draw = kernel("surface", "SurfaceDraw")
        launch(draw, grid, values, bits, *cubes, starts, position, *origin, corners, level, *sizes)
    return position, corners, keys, ends


def _starts(counts: Int[Tensor, "rows 5"]) -> tuple[Int[Tensor, "rows 5"], int, int]:
    """Where the vertices of each row begin, kind by kind, and its triangles; how many there are."""
    ends = counts.to(torch.int64)
    vertices = ends[:, :4].reshape(-1).cumsum(0)
    faces = ends[:, 4].cumsum(0)
    total, drawn = int(vertices[-1]), int(faces[-1])
    if max(total, drawn) > MOST:
        got = f"{total:,} vertices and {drawn:,} triangles"
        raise InputError("surface", got, f"at most {MOST:,}", "Cut it into blocks.")
    starts = torch.empty_like(counts)
    starts[:, :4] = (vertices - ends[:, :4].reshape(-1)).view(-1, 4)
    starts[:, 4] = faces - ends[:, 4]
    return starts, total, drawn


def surfaces_reference(values: Float[Tensor, "blocks nx ny nz"], level: float) -> Surfaces:
    """The specification in plain torch, in float64, for numbers of any precision."""
    parts = [_one_reference(block, level) for block in values]
    vertices = torch.tensor([0, *[len(part.position) for part in parts]]).cumsum(0).tolist()
    nodes = values[0].numel()
    return Surfaces(
        torch.cat([part.position for part in parts]),
        torch.cat([part.corners + by for part, by in zip(parts, vertices[:-1], strict=True)]),
        torch.cat([part.keys + 4 * nodes * block for block, part in enumerate(parts)]),
        torch.cat([part.ends for part in parts]),
    )


def _one_reference(values: Float[Tensor, "nx ny nz"], level: float) -> Surfaces:
    if bool(values.isnan().any()):
        raise InputError("surface: values", "NaN", "numbers", "The field has diverged.")
    # An infinite number is merely large here: differences and products must stay numbers.
    from_level = values.double().clamp(-1e30, 1e30) - level
    edges = _crossed_edges(from_level)
    found = _cells(from_level, cube_table().to(values.device))
    # Rows of the lattice, then edges along x, y, z and what cells add, then z.
    kinds = torch.cat([edges.axis, torch.full_like(found.added_cell, 3)])
    nodes = torch.cat([edges.node, found.node[found.added_cell]])
    nz = values.shape[2]
    place = ((nodes // nz) * 4 + kinds) * nz + nodes % nz
    order = place.argsort(stable=True)
    number = torch.empty_like(order)
    number[order] = torch.arange(len(order), device=order.device)
    # By node and axis, the vertex there; nobody asks where there is none.
    of_edge = torch.zeros(3 * values.numel(), dtype=torch.int64, device=order.device)
    of_edge[3 * edges.node + edges.axis] = number[: len(edges.node)]
    of_added = number[len(edges.node) :]
    corner = found.corner
    low, axis = _lower_corner(corner.clamp(max=11))
    strides = values.shape[1] * nz, nz, 1
    node = found.node[found.triangle_cell][:, None]
    node = node + sum((low >> d & 1) * stride for d, stride in enumerate(strides))
    first = found.first_added[found.triangle_cell][:, None]
    more = (first + corner - 12).clamp(0, max(0, len(of_added) - 1))
    within = of_added[more] if len(of_added) else torch.zeros_like(corner)
    on_edge = of_edge[(3 * node + axis).clamp(max=len(of_edge) - 1)]
    flat = values.reshape(-1).float()
    upper = edges.node + torch.tensor(strides, device=order.device)[edges.axis]
    ends = torch.stack([flat[edges.node], flat[upper]], 1)
    at_level = torch.full((len(found.added_cell), 2), level, device=order.device)
    return Surfaces(
        torch.cat([edges.position, found.added])[order].float(),
        torch.where(corner < 12, on_edge, within),
        (4 * nodes + kinds)[order],
        torch.cat([ends, at_level])[order],
    )


class _Edges(NamedTuple):
    node: Tensor  # where it begins
    axis: Tensor
    position: Tensor


def _crossed_edges(f: Tensor) -> _Edges:
    sides = torch.tensor(f.shape, device=f.device)
    parts = []
    for axis in range(3):
        low, high = (f.narrow(axis, start, f.shape[axis] - 1) for start in (0, 1))
        at = ((low > 0) != (high > 0)).nonzero()
        from_, to = (end[tuple(at.unbind(1))] for end in (low, high))
        along = (from_ / (from_ - to)).clamp(1e-4, 1 - 1e-4)
        position = at.double()
        position[:, axis] += along
        node = (at[:, 0] * sides[1] + at[:, 1]) * sides[2] + at[:, 2]
        parts.append((node, torch.full_like(node, axis), position))
    return _Edges(*(torch.cat(column) for column in zip(*parts, strict=True)))


class _Cells(NamedTuple):
    node: Tensor  # of each mixed cell, its lowest corner
    first_added: Tensor  # the first vertex that it adds
    added_cell: Tensor  # of each added vertex, its cell
    added: Tensor
    triangle_cell: Tensor
    corner: Tensor  # [triangles, 3], see CubeTable


def _cells(f: Tensor, table: CubeTable) -> _Cells:
    parts = table.first, table.faces, table.tunnel, table.added, table.triangles
    first, faces, tunnels, added, triangles = (part.long() for part in parts)
    inner = [side - 1 for side in f.shape]
    corner = []
    for number in range(8):
        part = f
        for axis in range(3):
            part = part.narrow(axis, number >> axis & 1, inner[axis])
        corner.append(part)
    inside = torch.stack([part > 0 for part in corner])
    at = (inside.any(0) & ~inside.all(0)).nonzero()
    value = torch.stack([part[tuple(at.unbind(1))] for part in corner], 1)
    bits = torch.arange(8, device=f.device)
    case = ((value > 0).long() << bits).sum(1)
    row, bit = first[case], torch.zeros_like(case)
    for face in range(6):
        alternates = faces[case] >> face & 1
        row = row + alternates * (_joined(value, face).long() << bit)
        bit = bit + alternates
    which = _tunnel(value)
    dug = tunnels[row, which.clamp(min=0)]
    row = torch.where((which >= 0) & (dug >= 0), dug, row)
    cell = torch.arange(len(row), device=f.device)
    counts, drawn = added[row, 0], triangles[row, 0]
    added_cell, turn = _repeated(cell, counts)
    pair = added[row[added_cell][:, None], 1 + 2 * turn[:, None] + torch.arange(2).to(turn)]
    position = at[added_cell].double() + _added_vertex(value[added_cell], pair)
    triangle_cell, turn = _repeated(cell, drawn)
    corners = triangles[
        row[triangle_cell][:, None], 1 + 3 * turn[:, None] + torch.arange(3).to(turn)
    ]
    node = (at[:, 0] * f.shape[1] + at[:, 1]) * f.shape[2] + at[:, 2]
    return _Cells(node, counts.cumsum(0) - counts, added_cell, position, triangle_cell, corners)


def _repeated(cell: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Every cell as often as it counts, and which time it is."""
    again = cell.repeat_interleave(counts)
    begin = counts.cumsum(0) - counts
    return again, torch.arange(len(again), device=cell.device) - begin[again]


def _joined(value: Tensor, face: int) -> Tensor:
    """Whether inside corners meet across a face whose corners alternate: by its saddle's sign."""
    axis = face >> 1
    u, v, a = 1 << (axis + 1) % 3, 1 << (axis + 2) % 3, (face & 1) << axis
    one, other = value[:, a] * value[:, a | u | v], value[:, a | u] * value[:, a | v]
    return torch.where(value[:, a] > 0, one >= other, other >= one)


def _tunnel(value: Tensor) -> Tensor:
    """Which of the eight tunnels of CubeTable there may be; -1 for none."""
    which = torch.full_like(value[:, 0], -1, dtype=torch.int64)
    upright = (0, 1, 3, 2, 0)
    for d in (1, 0):
        a, b, c, e = upright[d], upright[d + 1], upright[d + 2], 0 if d else 2
        a0, b0, c0, e0 = (value[:, corner] for corner in (a, b, c, e))
        da, db, dc, de = (value[:, corner | 4] - value[:, corner] for corner in (a, b, c, e))
        square = da * dc - db * de
        slope = c0 * da + a0 * dc - e0 * db - b0 * de
        under = slope * slope - 4 * square * (a0 * c0 - b0 * e0)
        there = (square < 0) & (under > 0)
        for sign in (-1, 1):
            t = (-slope + sign * under.clamp(min=0).sqrt()) / (2 * square)
            at_a, at_b = a0 + t * da, b0 + t * db
            there &= (t > 0) & (t < 1) & (at_a * (c0 + t * dc) > 0)
            there &= (at_b * (e0 + t * de) > 0) & (at_a * at_b < 0)
        above = a0 - slope / (2 * square) * da > 0
        found = 4 * d + 2 * ((a0 > 0) != above).long() + ((c0 > 0) != above).long()
        which = torch.where(there, found, which)
    return which


def _lower_corner(edge: Tensor) -> tuple[Tensor, Tensor]:
    """The corner of the cube where an edge begins, and its axis."""
    axis, two = edge // 4, edge % 4
    along_y = (two & 1) | (two & 2) << 1
    return torch.where(axis == 0, two << 1, torch.where(axis == 1, along_y, two)), axis


def _added_vertex(value: Tensor, pair: Tensor) -> Tensor:
    """Between the vertices on two edges of the cell, drawn to its middle, then to the surface."""
    low, axis = _lower_corner(pair)
    from_, to = (value.gather(1, corner) for corner in (low, low | 1 << axis))
    along = from_ / (from_ - to)
    along = torch.where((along > 0) & (along < 1), along, 0.5)
    dims = torch.arange(3, device=value.device)
    ends = torch.where(
        dims == axis[..., None], along[..., None], (low[..., None] >> dims & 1).double()
    )
    p = 0.125 + 0.375 * ends.sum(1)
    side = torch.arange(8, device=value.device)[:, None] >> dims & 1
    weight = torch.where(side == 1, p[:, None], 1 - p[:, None])
    here = (value * weight.prod(2)).sum(1)
    falls = (value[:, :, None] * (2 * side - 1)).to(value)
    others = torch.stack([weight[:, :, [i for i in range(3) if i != d]].prod(2) for d in dims], 2)
    slope = (falls * others).sum(1)
    steep = slope.square().sum(1, keepdim=True)
    step = torch.where(steep > 0, here[:, None] * slope / steep, 0.0).clamp(-0.25, 0.25)
    return (p - step).clamp(0.05, 0.95)
