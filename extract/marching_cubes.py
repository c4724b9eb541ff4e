"""Marching cubes: the level set of a field as a closed, shared, outward-facing triangle mesh."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ceil, isfinite
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor
from torch.nn.functional import max_pool3d

from polyfield.cuda.errors import InputError
from polyfield.cuda.surface import surface
from polyfield.extract.mesh import Mesh

CHUNK = 1 << 16  # points that a density is asked for at once
BYTES_A_NODE = 64  # of a slab's working memory: values, which of them are asked for, and points
_NEAREST = (
    1e-4  # of an edge, from a vertex to the edge's end: closer ones would make flat triangles
)


def marching_cubes(
    values: Float[Tensor, "nx ny nz"], level: float
) -> tuple[Float32[Tensor, "v 3"], Int64[Tensor, "f 3"]]:
    """The surface values = level: vertices in index coordinates, and faces between them.

    Inside is where values > level; faces are counter-clockwise seen from outside. One vertex a
    crossed lattice edge, shared by all faces around it, placed by linear interpolation; a few more
    within cells. The surface is manifold, with boundary only where it leaves the lattice, and its
    topology is that of the trilinear interpolant: patches meet across faces and through cells as
    it says. Raises InputError for fewer than 2 values a side, NaN, or a level that is not finite.
    Source: cuda/cube_cases.py.
    """
    _check(values.shape, level)
    found = surface(values, level)
    return found.position, found.corners


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

    _check(shape, level)
    thickness = max(1, memory_bytes // (BYTES_A_NODE * shape[1] * shape[2]) - 1)
    parts: list[_Part] = []
    for first, values in _slabs(read, shape[0], thickness):
        part = surface(values, level, details=True)
        if part.keys is None or part.ends is None:  # they were asked for
            continue
        offset = torch.tensor([first, 0, 0], device=device)
        keys = part.keys + 4 * first * shape[1] * shape[2]
        parts.append(_Part(part.position + offset, keys, part.ends, part.corners))
    found = _welded(parts, shape[2])
    position = found.position.double()
    on_edge = found.keys % 4 < 3
    position[on_edge] = _bisect(density, found, on_edge, shape, level, bisections)
    return Mesh((position / resolution).float(), found.corners)


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


def _check(shape: tuple[int, ...], level: float) -> None:
    if min(shape) < 2 or not isfinite(level):
        got = f"shape {tuple(shape)}, level {level}"
        raise InputError("marching_cubes", got, "at least 2 values a side and a finite level")


class _Part(NamedTuple):
    """A surface with the keys and ends of its vertices, see cuda.surface.Surface."""

    position: Float[Tensor, "v 3"]
    keys: Int64[Tensor, " v"]
    ends: Float[Tensor, "v 2"]
    corners: Int64[Tensor, "f 3"]


def _welded(parts: list[_Part], nz: int) -> _Part:
    """One surface of several, whose vertices on one edge of the lattice become one.

    Vertices in the order that a single part has them in: whatever the parts, the mesh is the same.
    """
    if len(parts) == 1:
        return parts[0]
    counts = torch.tensor([0, *[len(part.position) for part in parts[:-1]]])
    offsets = counts.cumsum(0).tolist()
    corners = torch.cat([part.corners + by for part, by in zip(parts, offsets, strict=True)])
    keys = torch.cat([part.keys for part in parts])
    place = (keys // 4 // nz * 4 + keys % 4) * nz + keys // 4 % nz
    order = place.argsort(stable=True)
    sorted_keys = keys[order]
    # Those within cells belong to no edge: each stays itself.
    first = torch.ones_like(sorted_keys, dtype=torch.bool)
    first[1:] = (sorted_keys[1:] != sorted_keys[:-1]) | (sorted_keys[1:] % 4 == 3)
    number = torch.empty_like(order)
    number[order] = first.cumsum(0) - 1
    kept = order[first]
    position = torch.cat([part.position for part in parts])[kept]
    return _Part(
        position, keys[kept], torch.cat([part.ends for part in parts])[kept], number[corners]
    )


def _slabs(
    read: Callable[[int, int], Tensor], layers: int, thickness: int
) -> Iterator[tuple[int, Tensor]]:
    """Slabs of `thickness` layers of cells, each with the layers of nodes on both its ends."""
    end = read(0, 1)
    for first in range(0, layers - 1, thickness):
        values = torch.cat([end, read(first + 1, min(first + thickness + 1, layers))])
        yield first, values
        end = values[-1:]


def _on_edges(
    keys: Int64[Tensor, " v"], along: Float64[Tensor, " v"], shape: tuple[int, ...]
) -> Float64[Tensor, "v 3"]:
    """Index coordinates of places between the ends, 0 and 1, of edges of the lattice."""
    node = keys // 4
    points = torch.stack(
        [node // (shape[1] * shape[2]), node // shape[2] % shape[1], node % shape[2]], 1
    ).double()
    points[torch.arange(len(points), device=points.device), keys % 4] += along
    return points


def _linear(values: Float64[Tensor, "v 2"], level: float) -> Float64[Tensor, " v"]:
    start, end = values.unbind(1)
    return ((level - start) / (end - start)).clamp(_NEAREST, 1 - _NEAREST)


def _bisect(
    density: Callable[[Tensor], Tensor],
    found: _Part,
    on_edge: Bool[Tensor, " vertices"],
    shape: tuple[int, ...],
    level: float,
    steps: int,
) -> Float64[Tensor, "v 3"]:
    """Vertices on edges between brackets halved `steps` times, linear within the last bracket.

    Each vertex stays on its edge, between a point inside and one outside, so connections stay true.
    """
    # An infinite density is merely large here: differences of values must stay numbers.
    all_keys, all_ends = found.keys[on_edge], found.ends[on_edge].double().clamp(-1e300, 1e300)
    result = [all_ends.new_zeros(0, 3)]
    for keys, ends in zip(all_keys.split(CHUNK), all_ends.split(CHUNK), strict=True):
        low_value, high_value = ends.unbind(1)
        rises = high_value > low_value
        low, high = torch.zeros_like(low_value), torch.ones_like(low_value)
        for _ in range(steps):
            middle = (low + high) / 2
            points = _on_edges(keys, middle, shape) / (shape[0] - 1)
            value = _evaluate(density, points.float()).double().nan_to_num().clamp(-1e300, 1e300)
            beyond = (value > level) == rises
            low, high = torch.where(beyond, low, middle), torch.where(beyond, middle, high)
            low_value = torch.where(beyond, low_value, value)
            high_value = torch.where(beyond, value, high_value)
        within = _linear(torch.stack([low_value, high_value], 1), level)
        along = (low + (high - low) * within).clamp(_NEAREST, 1 - _NEAREST)
        result.append(_on_edges(keys, along, shape))
    return torch.cat(result)
