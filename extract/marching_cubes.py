"""Marching cubes: the level set of a density as a closed, shared, outward-facing triangle mesh."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ceil, isfinite
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int, Int64
from torch import Tensor
from torch.nn.functional import max_pool3d

from polyfield.cuda.errors import InputError
from polyfield.extract.cube_cases import EDGES, triangle_table
from polyfield.extract.mesh import Mesh

CHUNK = 1 << 16  # points that a density is asked for at once
BYTES_A_NODE = 300  # of a slab's working memory: values, cases, and triangles in the worst case
_NEAREST = (
    1e-4  # of an edge, from a vertex to the edge's end: closer ones would make flat triangles
)


class _Crossings(NamedTuple):
    """The level set's vertices, one a crossed lattice edge, and its triangles between them."""

    keys: Int64[Tensor, " v"]  # 3 * index of the edge's lower node + the edge's axis, ascending
    values: Float64[Tensor, "v 2"]  # at the edge's lower and upper node
    faces: Int64[Tensor, "f 3"]  # rows of keys


def marching_cubes(
    values: Float[Tensor, "nx ny nz"], level: float, memory_bytes: int = 1 << 28
) -> tuple[Float64[Tensor, "v 3"], Int64[Tensor, "f 3"]]:
    """The surface values = level: vertices in index coordinates, and faces between them.

    Inside is where values > level; faces are counter-clockwise seen from outside. One vertex a
    crossed lattice edge, shared by all faces around it, placed by linear interpolation. The surface
    is manifold, with boundary only where it leaves the lattice. Where a cell's sign pattern is
    ambiguous, inside corners are joined. Works in slabs of about memory_bytes, on values' device;
    the result does not depend on it. Raises InputError for fewer than 2 values a side, NaN, or a
    level that is not finite.
    Source: Lorensen and Cline 1987; cases by a rule on faces (cube_cases.py).
    """
    found = _march(lambda first, last: values[first:last], values.shape, level, memory_bytes)
    return _vertices(found.keys, _linear(found.values, level), values.shape), found.faces


def density_mesh(
    density: Callable[[Tensor], Tensor],
    resolution: int,
    level: float,
    occupied: Bool[Tensor, "gx gy gz"] | None = None,
    memory_bytes: int = 1 << 28,
    bisections: int = 5,
    device: torch.device | str = "cpu",
) -> Mesh:
    """The closed surface density = level in the unit cube, from a lattice of resolution^3 cells.

    density maps points float32 [n, 3] of the cube, at most CHUNK at once, to [n]. occupied, a grid
    over the cube, tells where density need not be taken as 0; it is widened by one of its cells (at
    least a lattice cell). The border of the cube counts as empty, so the surface closes there.
    Each edge with a vertex is bisected before the linear step, because a line through two values of
    a steep density misses its level by up to half an edge. Memory beyond the result stays near
    memory_bytes. Raises InputError as marching_cubes does, and for a level below 0 or a resolution
    below 2.
    """
    if resolution < 2 or not 0 <= level:
        got = f"resolution {resolution}, level {level}"
        raise InputError(
            "density_mesh", got, "a resolution of at least 2 and a level of at least 0"
        )
    shape = (resolution + 1,) * 3
    marked = None if occupied is None else _widened(occupied, resolution).to(device)

    def read(first: int, last: int) -> Tensor:
        node = [torch.arange(a, b, device=device) for a, b in ((first, last), *[(0, shape[0])] * 2)]
        inner = [(n > 0) & (n < resolution) for n in node]
        asked = inner[0][:, None, None] & inner[1][:, None] & inner[2]
        if marked is not None:
            cell = [
                (n * side // resolution).clamp(max=side - 1)
                for n, side in zip(node, marked.shape, strict=True)
            ]
            asked &= marked[cell[0][:, None, None], cell[1][:, None], cell[2]]
        points = asked.nonzero()
        points[:, 0] += first
        values = torch.zeros(asked.shape, device=device)
        values[asked] = _evaluate(density, points.float() / resolution)
        return values

    found = _march(read, shape, level, memory_bytes)
    position = _bisect(density, found, shape, level, bisections)
    return Mesh((_vertices(found.keys, position, shape) / resolution).float(), found.faces)


def _evaluate(density: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    if not len(points):
        return points.new_zeros(0)
    with torch.no_grad():
        return torch.cat([density(part).to(points.dtype) for part in points.split(CHUNK)])


def _widened(occupied: Tensor, resolution: int) -> Tensor:
    """The grid dilated so far that every node around an occupied place looks up a marked cell."""
    radius = [max(1, ceil(side / resolution)) for side in occupied.shape]
    window = [2 * r + 1 for r in radius]
    grown = max_pool3d(occupied[None, None].float(), window, stride=1, padding=radius)
    return grown[0, 0] > 0


def _march(
    read: Callable[[int, int], Tensor], shape: tuple[int, ...], level: float, memory_bytes: int
) -> _Crossings:
    """Crossings and triangles of the lattice whose layers [first, last) along x read returns."""
    if min(shape) < 2 or not isfinite(level):
        got = f"shape {tuple(shape)}, level {level}"
        raise InputError("marching_cubes", got, "at least 2 values a side and a finite level")
    thickness = max(1, memory_bytes // (BYTES_A_NODE * shape[1] * shape[2]) - 1)
    keys, ends, faces = [], [], []
    for first, values in _slabs(read, shape[0], thickness):
        if bool(values.isnan().any()):
            where = f"marching_cubes: values[{first}:{first + len(values)}]"
            raise InputError(where, "NaN", "numbers", "The field has diverged.")
        is_last = first + len(values) == shape[0]
        slab_keys, slab_ends = _slab_vertices(values, level, owns_end=is_last)
        offset = 3 * first * shape[1] * shape[2]
        keys.append(slab_keys + offset)
        ends.append(slab_ends)
        faces.append(_slab_faces(values > level) + offset)
    all_keys = torch.cat(keys)
    rows = [torch.searchsorted(all_keys, part) for part in faces]
    return _Crossings(all_keys, torch.cat(ends), torch.cat(rows))


def _slabs(
    read: Callable[[int, int], Tensor], layers: int, thickness: int
) -> Iterator[tuple[int, Tensor]]:
    """Slabs of `thickness` layers of cells, each with the layers of nodes on both its ends."""
    end = read(0, 1)
    for first in range(0, layers - 1, thickness):
        values = torch.cat([end, read(first + 1, min(first + thickness + 1, layers))])
        yield first, values
        end = values[-1:]


def _slab_vertices(
    values: Float[Tensor, "lx ny nz"], level: float, owns_end: bool
) -> tuple[Int64[Tensor, " v"], Float64[Tensor, "v 2"]]:
    """Keys and end values of a slab's crossings; its last layer may belong to the next slab."""
    keys, ends = [], []
    size = values.shape
    inside = values > level
    flat = values.reshape(-1)
    for axis, stride in enumerate((size[1] * size[2], size[2], 1)):
        lower, upper = (inside.narrow(axis, start, size[axis] - 1) for start in (0, 1))
        crossed = lower != upper
        if axis and not owns_end:
            crossed = crossed[:-1]
        x, y, z = crossed.nonzero().unbind(1)
        node = (x * size[1] + y) * size[2] + z
        keys.append(3 * node + axis)
        ends.append(torch.stack([flat[node], flat[node + stride]], 1).double())
    ascending = torch.cat(keys).argsort()
    # An infinite density is merely large here: differences of values must stay numbers.
    return torch.cat(keys)[ascending], torch.cat(ends)[ascending].clamp(-1e300, 1e300)


def _slab_faces(inside: Bool[Tensor, "lx ny nz"]) -> Int64[Tensor, "f 3"]:
    """The triangles of a slab's cells, as keys counted from the slab's first node."""
    size = inside.shape
    cells = tuple(side - 1 for side in size)
    case = torch.zeros(cells, dtype=torch.uint8, device=inside.device)
    for corner in range(8):
        part = inside
        for axis in range(3):
            part = part.narrow(axis, corner >> axis & 1, cells[axis])
        case |= part.to(torch.uint8) << corner
    x, y, z = ((case > 0) & (case < 255)).nonzero().unbind(1)
    triangles = triangle_table().to(case.device)[case[x, y, z].int()]
    node = (x * size[1] + y) * size[2] + z
    step = (size[1] * size[2], size[2], 1)
    from_node = [
        3 * sum(step[i] * (low >> i & 1) for i in range(3)) + (high - low).bit_length() - 1
        for low, high in EDGES
    ]
    edge_key = torch.tensor(from_node, device=case.device)
    keys = 3 * node[:, None, None] + edge_key[triangles.clamp(min=0)]
    return keys[triangles[..., 0] >= 0]


def _lower_nodes(keys: Int64[Tensor, " v"], shape: tuple[int, ...]) -> Int[Tensor, "v 3"]:
    node = keys // 3
    return torch.stack(
        [node // (shape[1] * shape[2]), node // shape[2] % shape[1], node % shape[2]], 1
    )


def _vertices(
    keys: Int64[Tensor, " v"], position: Float64[Tensor, " v"], shape: tuple[int, ...]
) -> Float64[Tensor, "v 3"]:
    vertices = _lower_nodes(keys, shape).double()
    vertices[torch.arange(len(vertices), device=vertices.device), keys % 3] += position
    return vertices


def _linear(values: Float64[Tensor, "v 2"], level: float) -> Float64[Tensor, " v"]:
    start, end = values.unbind(1)
    return ((level - start) / (end - start)).clamp(_NEAREST, 1 - _NEAREST)


def _bisect(
    density: Callable[[Tensor], Tensor],
    found: _Crossings,
    shape: tuple[int, ...],
    level: float,
    steps: int,
) -> Float64[Tensor, " v"]:
    """Positions between brackets halved `steps` times, linear within the last bracket.

    Each vertex stays on its edge, between a point inside and one outside, so connections stay true.
    """
    result = [found.values.new_zeros(0)]
    for rows in torch.arange(len(found.keys), device=found.keys.device).split(CHUNK):
        keys, (low_value, high_value) = found.keys[rows], found.values[rows].unbind(1)
        rises = high_value > low_value
        low, high = torch.zeros_like(low_value), torch.ones_like(low_value)
        for _ in range(steps):
            middle = (low + high) / 2
            points = _vertices(keys, middle, shape) / (shape[0] - 1)
            value = _evaluate(density, points.float()).double().nan_to_num().clamp(-1e300, 1e300)
            beyond = (value > level) == rises
            low, high = torch.where(beyond, low, middle), torch.where(beyond, middle, high)
            low_value = torch.where(beyond, low_value, value)
            high_value = torch.where(beyond, value, high_value)
        within = _linear(torch.stack([low_value, high_value], 1), level)
        result.append((low + (high - low) * within).clamp(_NEAREST, 1 - _NEAREST))
    return torch.cat(result)
