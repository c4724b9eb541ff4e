"""Occupancy of nested grids: a decayed maximum of density a cell, packed into bits for the march.

Cells are numbered x + R * (y + R * (z + R * level)); level k of K covers the cube centred at 0.5
with side 2^(k - (K - 1)). A negative value marks a cell that never turns on (no camera sees it).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int32, UInt8
from torch import Tensor

from polyfield.cuda.backend import backend_of
from polyfield.cuda.counter_random import int32, random_unit
from polyfield.cuda.errors import InputError
from polyfield.cuda.kernel import constant, kernel, launch
from polyfield.cuda.operator import define


def update_occupancy_(
    values: Float[Tensor, "levels cells"],
    cells: Int32[Tensor, " m"] | None,
    density: Float[Tensor, " m"],
    decay: float,
) -> None:
    """values <- max(values * decay, density) in place: thin structures that a point misses stay on.

    cells: numbers of the cells that density was taken in (repeats combine by maximum), None for all
    in order; the others only decay. decay in [0, 1]. Negative values stay as they are; a density
    that is not a number counts as 0. Raises InputError where cells and density differ in number or
    decay is out of range.
    Source: Instant-NGP (arXiv:2201.05989), appendix E.
    """
    expected = values.numel() if cells is None else len(cells)
    if len(density) != expected:
        raise InputError("update_occupancy_: density", f"{len(density)} values", f"{expected}")
    if not 0 <= decay <= 1:
        raise InputError("update_occupancy_: decay", str(decay), "0 to 1")
    density = density.detach()
    if backend_of(values.device) == "reference" or values.dtype != torch.float32:
        return update_occupancy_reference_(values, cells, density, decay)
    _update(values, cells, density.float(), decay)


def update_occupancy_reference_(
    values: Float[Tensor, "levels cells"],
    cells: Int32[Tensor, " m"] | None,
    density: Float[Tensor, " m"],
    decay: float,
) -> None:
    """The specification in plain torch."""
    density = density.to(values.dtype).nan_to_num(0.0, posinf=torch.inf)
    flat = values.view(-1)
    if cells is None:
        seen = torch.maximum(flat * decay, density)
    else:
        seen = (flat * decay).scatter_reduce(0, cells.long(), density, "amax")
    flat.copy_(torch.where(flat < 0, flat, seen))


def occupancy_threshold(values: Float[Tensor, "levels cells"], limit: float) -> float:
    """The density from which on a cell counts as occupied: `limit`, or the mean where that is less.

    The mean over the finest level, negative values as 0, so that a field that is thin everywhere at
    first still keeps its denser cells; less one hundredth, so that a constant field keeps them all.
    """
    return min(limit, 0.99 * values[0].clamp_min(0).mean().item())


def pack_bits(values: Float[Tensor, "levels cells"], threshold: float) -> UInt8[Tensor, " bytes"]:
    """One bit a cell, lowest first, 8 cells a byte: on where its value is at least `threshold`.

    Negative values are off whatever the threshold. Raises InputError where cells do not fill bytes.
    """
    if values.numel() % 8:
        raise InputError("pack_bits: values", f"{values.numel()} cells", "a multiple of 8")
    if backend_of(values.device) == "reference" or values.dtype != torch.float32:
        return pack_bits_reference(values, threshold)
    return _pack(values, threshold)


def pack_bits_reference(
    values: Float[Tensor, "levels cells"], threshold: float
) -> UInt8[Tensor, " bytes"]:
    """The specification in plain torch."""
    on = ((values >= threshold) & (values >= 0)).view(-1, 8).to(torch.uint8)
    return (on << torch.arange(8, dtype=torch.uint8, device=on.device)).sum(1).to(torch.uint8)


def cell_points(
    levels: int, resolution: int, cells: Int32[Tensor, " m"], seed: int, stream: int
) -> Float[Tensor, "m 3"]:
    """One random point of each cell, in the unit cube: the i-th is drawn from seed, stream, i.

    cells: numbers of cells, 0 to levels * resolution^3 - 1; a number may come more than once.
    """
    if backend_of(cells.device) == "reference":
        return cell_points_reference(levels, resolution, cells, seed, stream)
    return _points(levels, resolution, cells, int32(seed), int32(stream))


def cell_points_reference(
    levels: int, resolution: int, cells: Int32[Tensor, " m"], seed: int, stream: int
) -> Float[Tensor, "m 3"]:
    """The specification in plain torch."""
    place = torch.stack([cells // resolution**axis % resolution for axis in range(3)], 1)
    side = 2.0 ** (cells // resolution**3 - (levels - 1))[:, None]
    index = torch.arange(3 * len(cells), device=cells.device)
    inside = random_unit(seed, stream, index).view(-1, 3)
    return 0.5 - side / 2 + (place + inside) * (side / resolution)


def _launch_update(values: Tensor, cells: Tensor | None, density: Tensor, decay: float) -> None:
    density, count = density.contiguous(), values.numel()
    every = density if cells is None else None
    launch(kernel("occupancy", "OccupancyDecay"), _tiles(count), values, every, count, decay)
    if cells is not None:
        # One owner: several tiles may visit the same cell.
        visit, visits = kernel("occupancy", "OccupancyVisit"), len(cells)
        launch(visit, _tiles(visits), values, cells.contiguous(), density, visits, rows="owned")


def _launch_pack(values: Tensor, threshold: float) -> Tensor:
    bits = _bits(values, threshold)
    body = kernel("occupancy", "OccupancyBits")
    launch(body, _tiles(len(bits)), values.contiguous(), bits, len(bits), threshold)
    return bits


def _bits(values: Tensor, threshold: float) -> Tensor:
    return values.new_empty(values.numel() // 8, dtype=torch.uint8)


def _launch_points(levels: int, resolution: int, cells: Tensor, seed: int, stream: int) -> Tensor:
    points = _positions(levels, resolution, cells, seed, stream)
    draw = (seed & 0xFFFFFFFF, stream & 0xFFFFFFFF)
    body, count = kernel("occupancy", "CellPoints"), len(cells)
    launch(body, _tiles(count), cells.contiguous(), points, count, levels, resolution, *draw)
    return points


def _positions(levels: int, resolution: int, cells: Tensor, seed: int, stream: int) -> Tensor:
    return cells.new_empty(len(cells), 3, dtype=torch.float32)


def _tiles(count: int) -> tuple[int, int]:
    return -(-count // constant("occupancy", "OCCUPANCY_CELLS")), 1


_update = define(
    "update_occupancy_(Tensor(a!) values, Tensor? cells, Tensor density, float decay) -> ()",
    _launch_update,
    lambda *arguments: None,
)
_pack = define("pack_bits(Tensor values, float threshold) -> Tensor", _launch_pack, _bits)
_points = define(
    "cell_points(int levels, int resolution, Tensor cells, int seed, int stream) -> Tensor",
    _launch_points,
    _positions,
)
