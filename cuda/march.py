"""Samples along rays through occupied cells: a box, whole steps, one jitter a ray."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int32, UInt8
from torch import Tensor

from polyfield.cuda.backend import backend_of
from polyfield.cuda.box import intersect_box_reference
from polyfield.cuda.counter_random import int32, random_unit
from polyfield.cuda.errors import InputError
from polyfield.cuda.kernel import constant, kernel, launch
from polyfield.cuda.operator import define


class Samples(NamedTuple):
    """Packed samples: those of ray r lie at ray_offsets[r] to ray_offsets[r + 1], nearest first."""

    ray_offsets: Int32[Tensor, " rays_and_end"]
    distance: Float[Tensor, " samples"]
    length: Float[Tensor, " samples"]
    position: Float[Tensor, "samples 3"]
    ray: Int32[Tensor, " samples"]
    extent: Float[Tensor, "samples 3"] | None = None
    """What a sample stands for about its position: half the piece of its ray, of fields that see
    pieces, or the variance of the room there, of those that see cones; None for the position."""


def march(
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    bits: UInt8[Tensor, " bytes"],
    levels: int,
    resolution: int,
    step: float,
    cone: float,
    near: float,
    limit_per_ray: int,
    seed: int,
    stream: int,
    jitter: bool,
) -> Samples:
    """Samples in the occupied cells of the unit cube, in the field's frame. Not differentiable.

    directions: unit. bits: bit x + resolution * (y + resolution * z) of level k, levels one after
    the other, 8 cells a byte, lowest bit first. Level k covers the cube centred at 0.5 with side
    2^(k - (levels - 1)). A ray is cut, from max(near, its entry into the cube) to its exit, into
    intervals as long as clamp(cone * t, step, 1 / resolution) says at their beginning t (always
    step if that is the longer), the last cut short. With jitter the first has a random share of its
    length, drawn from (seed, stream, ray). Samples are the middles of intervals whose cell is
    occupied: the cell of the finest level that contains the middle and whose cells are no shorter
    than the step. So the bits decide which samples exist, never where they lie. A ray keeps its
    first limit_per_ray samples. Raises InputError for sizes and numbers that do not fit.
    Source: Instant-NGP (arXiv:2201.05989), appendix E.
    """
    _check(bits, levels, resolution, step, cone, near, limit_per_ray)
    origins, directions = origins.detach(), directions.detach()
    grid = (levels, resolution, step, cone, near, limit_per_ray)
    draw = (int32(seed), int32(stream), jitter)
    if backend_of(origins.device) == "reference" or origins.dtype != torch.float32:
        return march_reference(origins, directions, bits, *grid, *draw)
    return Samples(*_march(origins, directions, bits, *grid, *draw))


def march_reference(
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    bits: UInt8[Tensor, " bytes"],
    levels: int,
    resolution: int,
    step: float,
    cone: float,
    near: float,
    limit_per_ray: int,
    seed: int,
    stream: int,
    jitter: bool,
) -> Samples:
    """The specification in plain torch: every interval of every ray looks its cell up."""
    device, count = origins.device, len(origins)
    zero, one = origins.new_zeros(3), origins.new_ones(3)
    begin, far = intersect_box_reference(origins, directions, zero, one)
    begin, far = begin.clamp_min(near), far.where(far.isfinite(), -one[0])
    rays = torch.arange(count, device=device)

    lowest = (2.4e-7 * far).clamp_min(step)
    highest = lowest.clamp_min(1 / resolution)

    def step_at(t: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(cone * t, lowest), highest)

    reach = step_at(begin)
    end = first = begin + (reach * random_unit(seed, stream, rays).to(reach) if jitter else reach)
    number = 0
    found = torch.zeros(count, dtype=torch.int64, device=device)
    taken: list[tuple[Tensor, ...]] = []
    while len(rays := ((begin < far) & (found < limit_per_ray)).nonzero()[:, 0]):
        start, stop = begin[rays], torch.minimum(end[rays], far[rays])
        middle = 0.5 * (start + stop)
        position = origins[rays] + middle[:, None] * directions[rays]
        index = cell_index(position, reach[rays], levels, resolution)
        hit = (bits[index // 8].long() >> index % 8 & 1).bool()
        taken.append((rays[hit], middle[hit], (stop - start)[hit], position[hit]))
        found[rays[hit]] += 1
        begin, number = end, number + 1
        if cone:
            reach = step_at(begin)
            end = begin + reach
        else:
            end = first + number * reach  # as the kernel does, which goes many steps at once
    offsets = torch.cat([found.new_zeros(1), found.cumsum(0)]).int()
    if not taken:
        none = origins.new_zeros(0)
        return Samples(offsets, none, none, origins.new_zeros(0, 3), offsets[:0])
    ray, distance, length, position = (torch.cat(x) for x in zip(*taken, strict=True))
    order = torch.argsort(ray, stable=True)
    return Samples(offsets, distance[order], length[order], position[order], ray[order].int())


def cell_index(
    position: Float[Tensor, "n 3"], step: Float[Tensor, " n"], levels: int, resolution: int
) -> Tensor:
    """Which cell (level included) speaks for points that stand for intervals of length step."""
    side = torch.full_like(step, 2.0 ** (1 - levels))
    level = torch.zeros_like(step, dtype=torch.int64)
    off = 2 * (position - 0.5).abs().amax(1)
    for _ in range(levels - 1):
        coarser = (off > side) | (step * resolution > side)
        side, level = torch.where(coarser, 2 * side, side), level + coarser
    cell = ((position - (0.5 - 0.5 * side[:, None])) * (resolution / side[:, None])).floor().long()
    x, y, z = cell.clamp(0, resolution - 1).unbind(1)
    return x + resolution * (y + resolution * (z + resolution * level))


def _check(
    bits: Tensor, levels: int, resolution: int, step: float, cone: float, near: float, limit: int
) -> None:
    if levels < 1 or resolution < 1 or (levels > 1 and resolution % 4):
        got = f"levels {levels}, resolution {resolution}"
        raise InputError("march: grid", got, "at least 1, and resolution a multiple of 4 if nested")
    if len(bits) != (cells := levels * resolution**3) // 8 or cells % 8 or cells >= 2**31:
        expected = f"{cells} cells / 8, below 2^31 cells"
        raise InputError("march: bits", f"{len(bits)} bytes", expected)
    if not (step > 0 and cone >= 0 and near >= 0 and limit >= 0):
        got = f"step {step}, cone {cone}, near {near}, limit_per_ray {limit}"
        raise InputError("march", got, "step > 0 and the others at least 0")


def _occupied_blocks(bits: Tensor, levels: int, resolution: int) -> Tensor | None:
    """One byte for each 4 x 4 x 4 cells, not 0 where one of them is on: empty space in few strides.

    None where blocks would straddle the middle half of a nested grid, which finer cells speak for.
    """
    if resolution % 16:
        return None
    rows = bits.view(levels, resolution // 4, 4, resolution // 4, 4, resolution // 8)
    found = rows[:, :, 0, :, 0].clone()
    for z in range(4):
        for y in range(4):
            found |= rows[:, :, z, :, y]
    return torch.stack([found & 15, found & 240], 4).view(-1)


def _run(
    origins: Tensor,
    directions: Tensor,
    bits: Tensor,
    levels: int,
    resolution: int,
    step: float,
    cone: float,
    near: float,
    limit_per_ray: int,
    seed: int,
    stream: int,
    jitter: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    blocks = _occupied_blocks(bits, levels, resolution)
    inputs = [*[x.contiguous() for x in (origins, directions, bits)], blocks]
    count, body = len(origins), kernel("march", "March")
    tiles = (-(-count // constant("march", "MARCH_RAYS")), 1)
    sizes = (count, levels, resolution, limit_per_ray, step, cone, near)
    scalars = (*sizes, seed & 0xFFFFFFFF, stream & 0xFFFFFFFF, int(jitter))
    offsets = torch.zeros(count + 1, dtype=torch.int32, device=origins.device)
    counts = offsets.new_empty(count)
    notes = origins.new_empty(count, constant("march", "MARCH_NOTES"), 2)
    launch(body, tiles, *inputs, None, counts, notes, None, None, None, None, *scalars)
    torch.cumsum(counts, 0, dtype=torch.int32, out=offsets[1:])
    n = int(offsets[-1])
    distance, length = origins.new_empty(n), origins.new_empty(n)
    position, ray = origins.new_empty(n, 3), offsets.new_empty(n)
    launch(body, tiles, *inputs, offsets, None, notes, distance, length, position, ray, *scalars)
    return offsets, distance, length, position, ray


def _fake(origins: Tensor, *rest: object) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    n = torch.library.get_ctx().new_dynamic_size()
    offsets = origins.new_empty(origins.shape[0] + 1, dtype=torch.int32)
    distance = origins.new_empty(n)
    position, ray = origins.new_empty(n, 3), origins.new_empty(n, dtype=torch.int32)
    return offsets, distance, torch.empty_like(distance), position, ray


_march = define(
    "march(Tensor origins, Tensor directions, Tensor bits, int levels, int resolution, float step,"
    " float cone, float near, int limit_per_ray, int seed, int stream, bool jitter)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _run,
    _fake,
)
