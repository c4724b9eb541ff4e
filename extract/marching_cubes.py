"""Marching cubes: the level set of a field as a closed, shared, outward-facing triangle mesh."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import ceil, isfinite

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor
from torch.nn.functional import max_pool3d

from polyfield.cuda.errors import InputError
from polyfield.cuda.surface import surface
from polyfield.extract.blocks import CHUNK, Axes, Lattice, lattice_mesh
from polyfield.extract.mesh import Mesh

BARELY_OUTSIDE = -1e-30  # of the border: the surface closes on it, and not before


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
    if min(values.shape) < 2 or not isfinite(level):
        got = f"shape {tuple(values.shape)}, level {level}"
        raise InputError("marching_cubes", got, "at least 2 values a side and a finite level")
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
    memory_bytes, and what the result is does not depend on it. Raises InputError for NaN, a level
    below 0 or not finite, or a resolution below 2.
    """
    _check("density_mesh", resolution, level)
    lattice = Lattice(resolution, level, density, 0.0)
    if occupied is not None:
        marked = _widened(occupied, resolution).to(device)

        def asked(axes: Axes) -> Tensor:
            x, y, z = (
                (place * side // resolution).clamp(max=side - 1)
                for place, side in zip(axes, marked.shape, strict=True)
            )
            return marked[x[:, :, None, None], y[:, None, :, None], z[:, None, None, :]]

        def crossed(corners: Tensor, side: int) -> Tensor:
            return _any_marked(marked, corners, side, resolution)

        lattice = replace(lattice, asked=asked, crossed=crossed)
    return lattice_mesh(lattice, memory_bytes, bisections, torch.device(device))


def distance_mesh(
    distance: Callable[[Tensor], Tensor],
    resolution: int,
    steepest: float | None = None,
    memory_bytes: int = 1 << 28,
    bisections: int = 2,
    device: torch.device | str = "cpu",
) -> Mesh:
    """The closed surface distance = 0 in the unit cube, below 0 inside.

    distance maps points float32 [n, 3] of the cube, at most CHUNK at once, to [n], in sides of the
    cube. steepest: how fast it changes at most, 1 for exact distances: where a block's middle is
    farther from the surface than it reaches, nothing of it is asked for; None: everything is. The
    rest as `density_mesh`. Raises InputError for NaN, a resolution below 2, and a steepest that is
    not above 0.
    """
    lattice = distance_lattice(distance, resolution, steepest)
    return lattice_mesh(lattice, memory_bytes, bisections, torch.device(device))


def distance_lattice(
    distance: Callable[[Tensor], Tensor], resolution: int, steepest: float | None = None
) -> Lattice:
    """What `distance_mesh` cuts, of the same arguments; raises InputError for what they are."""
    _check("distance_mesh", resolution, 0.0)
    if steepest is not None and not 0 < steepest < float("inf"):
        raise InputError("distance_mesh: steepest", str(steepest), "above 0, or None")

    def inside(x: Tensor) -> Tensor:
        return -distance(x)

    lattice = Lattice(resolution, 0.0, inside, BARELY_OUTSIDE)
    if steepest is None:
        return lattice
    fastest = steepest

    def crossed(corners: Tensor, side: int) -> Tensor:
        ends = (corners + side).clamp(max=resolution)
        middle = ((corners + ends) / 2 / resolution).float()
        with torch.no_grad():
            away = torch.cat([distance(part) for part in middle.split(CHUNK)])
        reach = (ends - corners).double().norm(dim=1) / 2 / resolution
        # The border of the cube counts as outside.
        rim = ((corners <= 0) | (ends >= resolution)).any(1)
        return ~(away.abs() > fastest * reach) | (rim & (away < 0))

    return replace(lattice, crossed=crossed)


def _check(name: str, resolution: int, level: float) -> None:
    if resolution < 2 or not 0 <= level < float("inf"):
        got = f"resolution {resolution}, level {level}"
        expected = "a resolution of at least 2 and a finite level of at least 0"
        raise InputError(name, got, expected)


def _widened(occupied: Tensor, resolution: int) -> Tensor:
    """The grid dilated so far that every node around an occupied place looks up a marked cell."""
    radius = [max(1, ceil(side / resolution)) for side in occupied.shape]
    window = [2 * r + 1 for r in radius]
    grown = max_pool3d(occupied[None, None].float(), window, stride=1, padding=radius)
    return grown[0, 0] > 0


def _any_marked(marked: Tensor, corners: Tensor, side: int, resolution: int) -> Tensor:
    """Whether any marked cell of a grid meets a block of the lattice, by sums over boxes."""
    total = marked.int().cumsum(0).cumsum(1).cumsum(2)
    total = torch.nn.functional.pad(total, (1, 0, 1, 0, 1, 0))
    sides = torch.tensor(marked.shape, device=corners.device)
    low = (corners * sides // resolution).clamp(min=0).minimum(sides - 1)
    high = ((corners + side) * sides // resolution).clamp(min=0).minimum(sides - 1) + 1
    count = torch.zeros(len(corners), dtype=torch.int64, device=corners.device)
    for corner in range(8):
        at = [(high if corner >> axis & 1 else low)[:, axis] for axis in range(3)]
        count += (-1) ** (3 - corner.bit_count()) * total[at[0], at[1], at[2]]
    return count > 0
