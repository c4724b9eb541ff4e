"""Exact nearest neighbours among points, by a balanced tree of boxes searched level by level."""

from __future__ import annotations

from math import ceil, inf, log2
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from polyfield.cuda.errors import InputError

LEAF = 8  # points a leaf
QUERIES = 1 << 14  # points searched for at once
PAIRS = 1 << 19  # pairs of point and box held at once, as far as one point allows


class Nearest(NamedTuple):
    """Distance to the nearest reference point (infinity: none within the limit) and its row."""

    distance: Float[Tensor, " n"]
    row: Int64[Tensor, " n"]  # -1 where there is none


class _Tree(NamedTuple):
    """Reference points so ordered that each level's boxes hold consecutive runs of equal length."""

    order: Int64[Tensor, " padded"]
    points: Float[Tensor, "padded 3"]
    low: list[Tensor]  # of each level's boxes, from the one around everything to the leaves
    high: list[Tensor]


def nearest(
    points: Float[Tensor, "n 3"], reference: Float[Tensor, "m 3"], limit: float = inf
) -> Nearest:
    """The nearest of the reference points to each point, exact, of equally near ones the first.

    Only neighbours at most `limit` away count. Raises InputError for coordinates that are not
    finite.
    """
    if not bool(points.isfinite().all() & reference.isfinite().all()):
        raise InputError("nearest", "coordinates that are not finite", "finite points")
    if not len(points) or not len(reference):
        none = torch.full((len(points),), -1, device=points.device)
        return Nearest(points.new_full((len(points),), inf), none)
    tree = _build(reference)
    root = torch.zeros(1, dtype=torch.int64, device=points.device)
    parts = []
    for part in points.split(QUERIES):
        every = torch.arange(len(part), device=points.device)
        bound = part.new_full((len(part),), limit).square()
        parts.append(_search(tree, part, bound, every, root.expand(len(part)), level=0))
    distance, index = (torch.cat(columns) for columns in zip(*parts, strict=True))
    beyond = distance > limit
    return Nearest(distance.masked_fill(beyond, inf), index.masked_fill(beyond, -1))


def _build(reference: Float[Tensor, "m 3"]) -> _Tree:
    """Halves every box at the median of its longest side until leaves are left."""
    depth = max(0, ceil(log2(len(reference) / LEAF)))
    # Some points twice, so that all leaves are full.
    order = torch.arange(LEAF << depth, device=reference.device) * len(reference) // (LEAF << depth)
    low, high = [], []
    for level in range(depth + 1):
        boxes = reference[order].reshape(1 << level, -1, 3)
        low.append(boxes.amin(1))
        high.append(boxes.amax(1))
        if level < depth:
            longest = (high[-1] - low[-1]).argmax(1)
            along = boxes.gather(2, longest[:, None, None].expand(-1, boxes.shape[1], 1))
            rank = along[..., 0].argsort(dim=1, stable=True)
            order = order.reshape(1 << level, -1).gather(1, rank).reshape(-1)
    return _Tree(order, reference[order], low, high)


def _search(
    tree: _Tree,
    points: Float[Tensor, "n 3"],
    bound: Float[Tensor, " n"],
    query: Int64[Tensor, " pairs"],
    box: Int64[Tensor, " pairs"],
    level: int,
) -> tuple[Float[Tensor, " n"], Int64[Tensor, " n"]]:
    """Distance and row of the nearest, from pairs (query, box of this level) still to be looked at.

    bound is the square of a distance within which each point has a neighbour, or of the limit.
    """
    while True:
        bound, near = _judge(tree, points, bound, query, box, level)
        query, box = query[near], box[near]
        if level == len(tree.low) - 1:
            return _among_leaves(tree, points, query, box)
        if len(query) > PAIRS and len(points) > 1:
            halves = []
            for rows in torch.arange(len(points), device=points.device).tensor_split(2):
                mine = (query >= rows[0]) & (query <= rows[-1])
                pairs = (query[mine] - rows[0]).repeat_interleave(2), _children(box[mine])
                halves.append(_search(tree, points[rows], bound[rows], *pairs, level + 1))
            distance, index = (torch.cat(columns) for columns in zip(*halves, strict=True))
            return distance, index
        query, box, level = query.repeat_interleave(2), _children(box), level + 1


def _judge(
    tree: _Tree,
    points: Float[Tensor, "n 3"],
    bound: Float[Tensor, " n"],
    query: Int64[Tensor, " pairs"],
    box: Int64[Tensor, " pairs"],
    level: int,
) -> tuple[Float[Tensor, " n"], Bool[Tensor, " pairs"]]:
    """Tighter bounds by a point of each box, and which boxes themselves come near enough."""
    some = tree.points[box * (len(tree.points) >> level)]
    at = points[query]
    bound = bound.scatter_reduce(0, query, (at - some).square().sum(1), "amin")
    aside = (tree.low[level][box] - at).maximum(at - tree.high[level][box]).clamp(min=0)
    return bound, aside.square().sum(1) <= bound[query]


def _children(box: Int64[Tensor, " pairs"]) -> Int64[Tensor, " twice"]:
    return torch.stack([2 * box, 2 * box + 1], 1).reshape(-1)


def _among_leaves(
    tree: _Tree,
    points: Float[Tensor, "n 3"],
    query: Int64[Tensor, " pairs"],
    leaf: Int64[Tensor, " pairs"],
) -> tuple[Float[Tensor, " n"], Int64[Tensor, " n"]]:
    best = points.new_full((len(points),), inf)
    index = torch.full((len(points),), torch.iinfo(torch.int64).max, device=points.device)
    for offset in range(LEAF):
        row = leaf * LEAF + offset
        square = (points[query] - tree.points[row]).square().sum(1)
        closest = best.scatter_reduce(0, query, square, "amin")
        index[closest < best] = torch.iinfo(torch.int64).max
        best, equal = closest, square == closest[query]
        index.scatter_reduce_(0, query[equal], tree.order[row[equal]], "amin")
    return best.sqrt(), index
