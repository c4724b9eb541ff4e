"""Which squares of pixels each Gaussian reaches, and in which order each square draws them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Int32, Int64
from torch import Tensor

from polyfield.cuda.backend import backend_of
from polyfield.cuda.errors import InputError
from polyfield.cuda.kernel import constant, kernel, launch
from polyfield.cuda.splat_project import Projected

SIDE = 16  # pixels of a square
ROOM = 1e-3
MOST = 2**31 - 1  # pairs
RUNS = 32  # of Gaussians, that threads share


class Bins(NamedTuple):
    """Pairs of a square and a Gaussian that reaches it: by Gaussian, and as they are drawn."""

    offsets: Int64[Tensor, " v_and_one"]
    """Where the pairs of each Gaussian begin."""
    owners: Int32[Tensor, " m"]
    """The Gaussian of each pair."""
    order: Int64[Tensor, " m"]
    """Pairs, square by square, the nearest first; of Gaussians as near, the lower row."""
    starts: Int32[Tensor, " squares_and_one"]
    """Where each square's part of `order` begins: row by row, view by view."""


@torch.no_grad()
def splat_bin(
    seen: Projected,
    width: int,
    height: int,
    view: Int[Tensor, " v"] | None = None,
    views: int = 1,
) -> Bins:
    """Squares of 16 x 16 pixels, and the Gaussians that may have an opacity of 1 / 255 in each.

    view: of each row, where there are several of one size. A square counts where the least exponent
    over the rectangle of its pixels' middles is small enough. Not differentiable. float32 runs on
    kernels, the rest on the reference. Raises InputError for more than 2^31 pairs.
    """
    columns, rows = -(-width // SIDE), -(-height // SIDE)
    v, device = len(seen.depths), seen.depths.device
    if view is None:
        view = torch.zeros(v, dtype=torch.int32, device=device)
    by_kernel = backend_of(device) != "reference" and seen.means2d.dtype == torch.float32
    if not by_kernel:
        pairs = _pairs_reference(seen, columns, rows)
        counts = torch.bincount(pairs.owner, minlength=v)
    else:
        ellipses = [
            t.contiguous() for t in (seen.means2d, seen.conics, seen.opacities, seen.extents)
        ]
        found = torch.empty(v, dtype=torch.int32, device=device)
        grid = -(-v // constant("splat_bin", "BIN_ROWS")), 1
        launch(kernel("splat_bin", "SplatCount"), grid, *ellipses, found, v, columns, rows)
        counts = found.long()
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    total = int(offsets[-1])
    if total > MOST:
        raise InputError("splat_bin", f"{total:,} pairs", f"at most {MOST:,}", "Make it smaller.")
    if not by_kernel:
        owners = pairs.owner.int()
        squares = (view.int()[pairs.owner] * rows + pairs.row) * columns + pairs.column
    else:
        squares, owners = torch.empty(2, total, dtype=torch.int32, device=device)
        inputs = *ellipses, view.int().contiguous(), offsets
        launch(kernel("splat_bin", "SplatPairs"), grid, *inputs, squares, owners, v, columns, rows)
    count = views * columns * rows
    if by_kernel and backend_of(device) != "cuda":
        return Bins(offsets, owners, *_sorted_by_runs(seen.depths, offsets, squares, count))
    bits = seen.depths.float()[owners.long()].view(torch.int32).long() & 0xFFFFFFFF
    found, order = torch.sort(squares.long() << 32 | bits, stable=True)
    bounds = torch.arange(count + 1, device=device) << 32
    return Bins(offsets, owners, order, torch.searchsorted(found, bounds).int())


def _sorted_by_runs(
    depths: Float[Tensor, " v"],
    offsets: Int64[Tensor, " v_and_one"],
    squares: Int32[Tensor, " m"],
    count: int,
) -> tuple[Int64[Tensor, " m"], Int32[Tensor, " squares_and_one"]]:
    """Pairs in the order of their squares, and where each square's begin.

    Gaussians are fewer than pairs: they are sorted by depth, then runs of them deal their pairs out
    to the squares, each run behind those before it.
    """
    v = len(depths)
    # Numbers above 0 order as their bits do; below these a row's number, so that no two are alike.
    nearest = (depths.view(torch.int32).long() << 32 | torch.arange(v)).numpy()
    nearest.sort()
    drawn = torch.from_numpy(nearest) & 0xFFFFFFFF
    run = max(1, -(-v // RUNS))
    runs = -(-v // run)
    places = torch.zeros(runs, count, dtype=torch.int32)
    order = torch.empty(len(squares), dtype=torch.int64)
    body, inputs, sizes = (
        kernel("splat_bin", "SplatSort"),
        (drawn, offsets, squares),
        (v, count, run),
    )
    launch(body, (runs, 1), *inputs, places, None, *sizes)
    behind = places.cumsum(0, dtype=torch.int32)
    starts = torch.zeros(count + 1, dtype=torch.int32)
    if runs:
        torch.cumsum(behind[-1], 0, dtype=torch.int32, out=starts[1:])
    places = behind - places + starts[:-1]
    launch(body, (runs, 1), *inputs, places, order, *sizes)
    return order, starts


class _Pairs(NamedTuple):
    owner: Tensor
    column: Tensor
    row: Tensor


def _pairs_reference(seen: Projected, columns: int, rows: int) -> _Pairs:
    """The specification in plain torch: every square against every Gaussian."""
    device, kind = seen.means2d.device, seen.means2d.dtype
    ticks = [torch.arange(count, device=device, dtype=kind) for count in (rows, columns)]
    row, column = torch.meshgrid(*ticks, indexing="ij")
    low = SIDE * torch.stack([column, row], 2).view(-1, 2) + 0.5
    near, far = (low + end - seen.means2d[:, None] for end in (0, SIDE - 1))  # [v, squares, 2]
    within = (near <= 0) & (far >= 0)
    facing = torch.where(near > 0, near, far)
    a, b, c = (part[:, None] for part in seen.conics.unbind(1))
    least = torch.full_like(facing[..., 0], torch.inf)
    for axis, own, other in ((0, a, c), (1, c, a)):
        along = facing[..., axis]
        across = -b * along / other
        across = torch.minimum(torch.maximum(across, near[..., 1 - axis]), far[..., 1 - axis])
        value = own * along**2 + 2 * b * along * across + other * across**2
        least = torch.where(within[..., axis], least, torch.minimum(least, value))
    least = torch.where(within.all(2), torch.zeros_like(least), least)
    reach = 2 * (255 * seen.opacities).clamp_min(1).log() + ROOM
    # Not beyond the rectangle either, which ends within rows and columns of the view.
    first = ((seen.means2d - seen.extents) / SIDE).floor()
    last = ((seen.means2d + seen.extents) / SIDE).floor()
    most = first.new_tensor([columns - 1, rows - 1])
    first, last = (end.clamp_min(0).minimum(most) for end in (first, last))
    at = torch.stack([column, row], 2).view(-1, 2)
    there = ((at >= first[:, None]) & (at <= last[:, None])).all(2) & (least <= reach[:, None])
    owner, square = torch.nonzero(there).unbind(1)
    return _Pairs(owner, square % columns, square // columns)
