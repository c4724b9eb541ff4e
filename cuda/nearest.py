"""The nearest of many centres to each of many points."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from polyfield.cuda.backend import backend_of
from polyfield.cuda.errors import InputError
from polyfield.cuda.kernel import constant, kernel, launch

MOST_NEIGHBOURS = 16
LEAF = 8  # centres, at most


@dataclass(frozen=True, eq=False)
class CenterTree:
    """Centres in the leaves of a k-d tree: what makes neighbours quick to find."""

    centers: Float[Tensor, "count d"]
    """Leaf by leaf."""
    numbers: Int[Tensor, " count"]
    """Of each, its row before it was sorted."""
    starts: Int[Tensor, " leaves_and_one"]
    """The first centre of each leaf."""
    boxes: Float[Tensor, "nodes d_and_d"]
    """About the centres of every node, lower and upper corner; children of i: 2 i + 1, 2 i + 2."""

    @property
    def leaves(self) -> int:
        """A power of two."""
        return len(self.starts) - 1


@torch.no_grad()
def center_tree(centers: Float[Tensor, "count d"]) -> CenterTree:
    """Sorts centres of two or three dimensions into a balanced k-d tree.

    Every node is halved along the longest side of its box, until leaves hold at most eight. Raises
    InputError for no centre, for other dimensions, and for numbers that are not finite.
    """
    count, dimensions = centers.shape
    if count < 1 or dimensions not in (2, 3) or not bool(centers.isfinite().all()):
        got = f"{count} of {dimensions} dimensions"
        raise InputError("centres", got, "at least one, of 2 or 3 dimensions, finite")
    centers = centers.detach().float().contiguous()
    order = torch.arange(count, device=centers.device)
    starts = order.new_tensor([0, count])
    while int(starts.diff().max()) > LEAF:
        segment = torch.repeat_interleave(starts.diff())
        low, high = _boxes(centers[order], segment, len(starts) - 1)
        axis = (high - low).argmax(1)[segment]
        along = centers[order, axis]
        by_place = torch.argsort(along, stable=True)
        order = order[by_place[torch.argsort(segment[by_place], stable=True)]]
        middle = (starts[:-1] + starts[1:]) // 2
        starts = torch.cat([torch.stack([starts[:-1], middle], 1).view(-1), starts[-1:]])
    leaves = len(starts) - 1
    low, high = _boxes(centers[order], torch.repeat_interleave(starts.diff()), leaves)
    levels = [torch.cat([low, high], 1)]
    while len(levels[0]) > 1:
        one, other = levels[0][0::2], levels[0][1::2]
        below = torch.minimum(one, other)[:, :dimensions]
        above = torch.maximum(one, other)[:, dimensions:]
        levels.insert(0, torch.cat([below, above], 1))
    return CenterTree(
        centers[order].contiguous(), order.int(), starts.int(), torch.cat(levels).contiguous()
    )


def nearest(
    x: Float[Tensor, "n d"], tree: CenterTree, neighbours: int
) -> Int[Tensor, "n {neighbours}"]:
    """Rows of the centres nearest to each point, the nearest first; -1 where there are fewer.

    By Euclidean distance; of two that are as near the lower row comes first. neighbours: 1 to 16,
    else InputError. Points may lie anywhere. Not differentiable: a set of neighbours is constant
    but for jumps.
    """
    if not 1 <= neighbours <= MOST_NEIGHBOURS:
        raise InputError("neighbours", str(neighbours), f"1 to {MOST_NEIGHBOURS}")
    x = x.detach()
    if backend_of(x.device) == "reference" or x.dtype != torch.float32:
        return nearest_reference(x, tree, neighbours)
    index = torch.empty(len(x), neighbours, dtype=torch.int32, device=x.device)
    tiles = -(-len(x) // constant("nearest", "NEAREST_POINTS"))
    body = kernel("nearest", f"Nearest<{x.shape[1]}>")
    nodes = tree.centers, tree.numbers, tree.starts, tree.boxes
    sizes = tree.leaves, len(x), neighbours
    launch(body, (tiles, 1), x.contiguous(), *nodes, index, *sizes)
    return index


def nearest_reference(
    x: Float[Tensor, "n d"], tree: CenterTree, neighbours: int
) -> Int[Tensor, "n {neighbours}"]:
    """The specification in plain torch: all distances, sorted."""
    back = torch.argsort(tree.numbers.long())
    centers = tree.centers[back].to(x.dtype)
    found = x.new_full((len(x), neighbours), -1, dtype=torch.int32)
    kept = min(neighbours, len(centers))
    for first in range(0, len(x), 1024):
        part = x[first : first + 1024]
        distance = (part[:, None] - centers).square().sum(2)
        order = torch.sort(distance, dim=1, stable=True).indices[:, :kept]
        found[first : first + 1024, :kept] = order.int()
    return found


def _boxes(centers: Tensor, segment: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Lower and upper corners of what belongs to each segment."""
    rows = segment[:, None].expand_as(centers)
    empty = centers.new_zeros(count, centers.shape[1])
    low = empty.scatter_reduce(0, rows, centers, "amin", include_self=False)
    return low, empty.scatter_reduce(0, rows, centers, "amax", include_self=False)
