"""Density and colour of Gaussians at points of space, as rays through them would have it.

A splat lets 1 - o exp(-d^2 / 2) of the light through, d widths from its middle. Rays multiply what
each leaves, so that the logarithm is what adds up along them; the density that integrates to it
along every straight line past a round Gaussian of width s is, m widths from its middle,

    Li(o exp(-m^2 / 2)) / (s (2 pi)^(1/2)),    Li(v) = v + v^2 / 2^(1/2) + v^3 / 3^(1/2) + ...,

because each power of the splat is a Gaussian again. Where o is small, it is one itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int32, Int64
from torch import Tensor

from polyfield.cuda.backend import backend_of
from polyfield.cuda.errors import InputError
from polyfield.cuda.kernel import constant, kernel, launch
from polyfield.cuda.rotations import matrices

OPAQUEST = 0.99  # beyond it, the middle of a Gaussian would have no end of density
FAINTEST = 1 / 255  # opacity: where a splat has less, it is not drawn
MOST_DEGREE = 3
SPAN = 2  # cells along the longest side of a Gaussian's box
DEEPEST = 20  # halvings of the cube: cells are numbered in 21 bits an axis
CROWDED = 0.1  # of all Gaussians, the smallest, that do with cells too large for them
ROOM = 1e-6  # of the cube's side, about a Gaussian
SMALLEST, LARGEST = 1e-18, 1e18  # widths whose squares float32 holds
# Of Li(v) q / v as a polynomial in q = (1 - v)^(1/2): 4e-7 off for v up to 0.99.
POLYLOGARITHM = (
    1.77241361,
    -1.45923065,
    1.31692865,
    -1.18005951,
    0.947297623,
    -0.590480166,
    0.237410715,
    -0.0442806356,
)
_PIECE = 1 << 15


@dataclass(frozen=True, eq=False)
class SplatTree:
    """Gaussians, and an octree of cells that say which of them reach into each."""

    gaussians: Float[Tensor, "n 16"]
    """Mean, the rows of the matrix that makes it round and of width 1, opacity, what its density is
    in (one over its width along rays), the square of how many widths it reaches, and a 0."""
    harmonics: Float[Tensor, "n k"]
    """Of red, green and blue, function by function."""
    children: Int32[Tensor, "cells 8"]
    """-1 where no Gaussian is in any cell below; x counts 1, y 2, z 4."""
    starts: Int32[Tensor, " cells_and_one"]
    """Where the part of each cell in `members` begins."""
    members: Int32[Tensor, " pairs"]
    """Rows of Gaussians. Those of cell 0 are for all points, wherever they are."""
    corner: Float[Tensor, " 3"]
    side: float
    depth: int
    """How often the cube is halved."""

    @property
    def degree(self) -> int:
        """Highest band of the harmonics."""
        return math.isqrt(self.harmonics.shape[1] // 3) - 1


@torch.no_grad()
def splat_tree(
    means: Float[Tensor, "n 3"],
    log_scales: Float[Tensor, "n 3"],
    quaternions: Float[Tensor, "n 4"],
    opacity_logits: Float[Tensor, " n"],
    harmonics: Float[Tensor, "n k 3"],
    widened: float = 0.0,
    antialiased: bool = False,
) -> SplatTree:
    """Sorts Gaussians (see `fields.splats.Splats`) into the cells that they reach.

    A Gaussian is in cells of half its size or more, so in 27 at most. widened: standard deviation
    of what every Gaussian is blurred with, its opacity kept, as splats are by the pixels that they
    are drawn on; antialiased: it shrinks as far as the largest cross-section grows. Opacities count
    up to 0.99, harmonics up to degree 3. Raises InputError for numbers that are not finite, another
    number of functions than a square, or a negative width.
    """
    functions = math.isqrt(harmonics.shape[1])
    if functions**2 != harmonics.shape[1] or not functions:
        got = f"{harmonics.shape[1]} functions"
        raise InputError("splat_tree: harmonics", got, "a square number of them")
    if not 0 <= widened < math.inf:
        raise InputError("splat_tree: widened", str(widened), "a length, at least 0")
    numbers = means, log_scales, quaternions, opacity_logits, harmonics
    if not all(bool(part.isfinite().all()) for part in numbers):
        raise InputError("splat_tree", "numbers that are not finite", "finite Gaussians")
    held = harmonics[:, : (MOST_DEGREE + 1) ** 2].detach().float().flatten(1).contiguous()
    sharp = log_scales.double().exp().clamp(SMALLEST, LARGEST)
    widths = (sharp.square() + widened**2).sqrt()
    axes = matrices(quaternions.double())
    round_ = axes.mT / widths[:, :, None]
    opacity = opacity_logits.double().sigmoid()
    if antialiased:
        opacity = opacity * (sharp / widths).sort(1).values[:, 1:].prod(1)
    opacity = opacity.clamp_max(OPAQUEST)
    density = 1 / (math.sqrt(2 * math.pi) * width_along_rays(widths))
    reach = 2 * (opacity / FAINTEST).clamp_min(1).log()
    last = torch.stack([opacity, density, reach, torch.zeros_like(reach)], 1)
    gaussians = torch.cat([means.double(), round_.flatten(1), last], 1).float().contiguous()
    half = (reach[:, None] * (axes * widths[:, None]).square().sum(2)).sqrt()
    cube = _cube(means.double(), half)
    chosen = _pairs(means.double(), half, round_, reach.sqrt(), cube)
    return _tree(gaussians, held, cube, *chosen)


def width_along_rays(widths: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
    """The one width that stands for a Gaussian's along rays of any direction.

    Density has one over it; this is the root of the mean square of that over all directions. Two
    held-out views of a NeRF-synthetic Lego, 200 x 200 pixels and 13,000 Gaussians: rays through the
    density are 34.4 and 34.1 dB from the splats; by the harmonic mean 33.5 and 33.3, the smallest
    width 32.5 and 32.7, the middle one 29.4 and 31.8, the geometric mean 28.8 and 30.6. Without
    what `widened` adds, the blur of the pixels, 18.3 in the first.
    """
    return widths.square().reciprocal().mean(1).rsqrt()


@torch.no_grad()
def splat_field(
    x: Float[Tensor, "n 3"], tree: SplatTree
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n k"]]:
    """Density at points, in 1 / unit of x, and the mean of the Gaussians' harmonics by density.

    Sums over the Gaussians whose splats have an opacity of 1 / 255 as far from their middles, by
    widths, wherever the point is; 0 where there is none. Not differentiable. float32 runs on
    kernels, the rest on the reference.
    """
    x = x.detach()
    if backend_of(x.device) == "reference" or x.dtype != torch.float32:
        return splat_field_reference(x, tree)
    density, features = x.new_empty(len(x)), x.new_empty(len(x), tree.harmonics.shape[1])
    body = kernel("splat_field", f"SplatField<{tree.degree}>")
    grid = -(-len(x) // constant("splat_field", "FIELD_POINTS")), 1
    cells = tree.children, tree.starts, tree.members, tree.corner
    inputs = x.contiguous(), tree.gaussians, tree.harmonics, *cells
    sizes = 2**tree.depth / tree.side, tree.depth, len(x)
    launch(body, grid, *inputs, density, features, *sizes)
    return density, features


def splat_field_reference(
    x: Float[Tensor, "n 3"], tree: SplatTree
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n k"]]:
    """The specification in plain torch, any floating type: all Gaussians at every point."""
    numbers = tree.gaussians.to(x.dtype)
    mean, round_, opacity, scale, reach, _ = numbers.split([3, 9, 1, 1, 1, 1], 1)
    density, features = x.new_zeros(len(x)), x.new_zeros(len(x), tree.harmonics.shape[1])
    step = max(1, (1 << 22) // max(1, len(mean)))
    for first in range(0, len(x), step):
        off = x[first : first + step, None] - mean
        away = torch.einsum("gjk,pgk->pgj", round_.view(-1, 3, 3), off).square().sum(2)
        here = scale[:, 0] * half_polylogarithm(opacity[:, 0] * torch.exp(-away / 2))
        here = here * (away <= reach[:, 0])
        total = here.sum(1)
        density[first : first + step] = total
        share = torch.where(total > 0, 1 / total, torch.zeros_like(total))
        features[first : first + step] = share[:, None] * (here @ tree.harmonics.to(x.dtype))
    return density, features


def half_polylogarithm(v: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """The sum of v^k / k^(1/2) over k from 1, for v from 0 to 0.99: 4e-7 of it off."""
    q = (1 - v).sqrt()
    found = torch.zeros_like(v)
    for coefficient in reversed(POLYLOGARITHM):
        found = found * q + coefficient
    return v * found / q


@dataclass(frozen=True)
class _Cube:
    corner: Float[Tensor, " 3"]
    side: float
    depth: int
    levels: Int64[Tensor, " n"]
    """Of each Gaussian; 0 for those that all points look at."""


def _cube(means: Tensor, half: Tensor) -> _Cube:
    """About all Gaussians but those that are larger than all means are apart."""
    n = len(means)
    if not n:
        return _Cube(means.new_zeros(3), 1.0, 0, torch.zeros(0, dtype=torch.int64))
    spread = float((means.amax(0) - means.amin(0)).max())
    small = 2 * half.amax(1) < spread
    if not bool(small.any()):
        return _Cube(means.amin(0), 1.0, 0, small.long())
    low, high = (means - half)[small].amin(0), (means + half)[small].amax(0)
    side = float((high - low).max())
    below = torch.full_like(low, -torch.inf).float()
    low = torch.nextafter((low - ROOM * side).float(), below).double()  # as kernels have it
    side = float((high - low).max()) * (1 + ROOM)
    size = 2 * (half.amax(1) + ROOM * side)
    levels = (SPAN * side / size).log2().floor().clamp(0, DEEPEST).long()
    levels = torch.where(small, levels, torch.zeros_like(levels))
    finest = levels.kthvalue(n - int(CROWDED * (n - 1))).values
    return _Cube(low, side, int(finest), levels.clamp_max(finest))


def _pairs(
    means: Tensor, half: Tensor, round_: Tensor, widths: Tensor, cube: _Cube
) -> tuple[Tensor, Tensor, Tensor]:
    """Levels, numbers on them, and Gaussians of all cells that Gaussians reach into, by Gaussian.

    The boxes about the ellipsoid of so many widths, along its axes and along space's, both have to
    meet a cell: a few cells are too many, none is missing.
    """
    device = means.device
    ticks = torch.arange(SPAN + 1, device=device)
    beside = torch.cartesian_prod(ticks, ticks, ticks)
    found = []
    for rows in torch.arange(len(means), device=device).split(_PIECE):
        level = cube.levels[rows]
        cell = cube.side * 2.0 ** -level.double()
        reach = half[rows] + ROOM * cube.side
        first, last = (
            ((means[rows] + sign * reach - cube.corner) / cell[:, None]).floor().long()
            for sign in (-1, 1)
        )
        at = first[:, None] + beside  # [r, 27, 3]
        off = cube.corner + (at + 0.5) * cell[:, None, None] - means[rows, None]
        turned = torch.einsum("rjk,rck->rcj", round_[rows], off).abs()
        wide = round_[rows].abs().sum(2) * (cell / 2 + ROOM * cube.side)[:, None]
        there = (at <= last[:, None]).all(2) & (
            turned <= widths[rows, None, None] + wide[:, None]
        ).all(2)
        there &= ((at >= 0) & (at < (1 << level)[:, None, None])).all(2)
        everywhere = level == 0
        there = torch.where(everywhere[:, None], (beside == 0).all(1), there)
        at = at * ~everywhere[:, None, None]
        row, which = torch.nonzero(there).unbind(1)
        x, y, z = at[row, which].unbind(1)
        found.append((level[row], x | y << 21 | z << 42, rows[row]))
    if not found:
        return (cube.levels,) * 3
    levels, keys, rows = (torch.cat(parts) for parts in zip(*found, strict=True))
    return levels, keys, rows


def _tree(
    gaussians: Tensor, harmonics: Tensor, cube: _Cube, levels: Tensor, keys: Tensor, rows: Tensor
) -> SplatTree:
    """Cells, the coarsest first, each with those that its parts need."""
    device = gaussians.device
    known: list[Tensor] = [keys[:0]] * (cube.depth + 1)
    for level in range(cube.depth, -1, -1):
        needed = [keys[levels == level]]
        if level < cube.depth:
            needed.append(_parents(known[level + 1]))
        known[level] = torch.cat(needed).unique()
    if not len(known[0]):  # no Gaussian at all
        known[0] = known[0].new_zeros(1)
    begins = [0]
    for here in known:
        begins.append(begins[-1] + len(here))
    children = torch.full((begins[-1], 8), -1, dtype=torch.int32, device=device)
    cell = torch.empty_like(keys)
    for level, here in enumerate(known):
        own = levels == level
        cell[own] = begins[level] + torch.searchsorted(here, keys[own])
        if level:
            parent = begins[level - 1] + torch.searchsorted(known[level - 1], _parents(here))
            octant = (here & 1) + 2 * (here >> 21 & 1) + 4 * (here >> 42 & 1)
            number = torch.arange(begins[level], begins[level + 1], device=device)
            children[parent, octant] = number.int()
    cell, order = torch.sort(cell, stable=True)
    starts = torch.searchsorted(cell, torch.arange(begins[-1] + 1, device=device)).int()
    members = rows[order].int()
    corner = cube.corner.float()
    return SplatTree(gaussians, harmonics, children, starts, members, corner, cube.side, cube.depth)


def _parents(keys: Tensor) -> Tensor:
    """The numbers of the cells twice as large in which cells lie."""
    bits = (1 << 20) - 1  # the lowest of each axis falls out of its own
    return keys >> 1 & (bits | bits << 21 | bits << 42)
