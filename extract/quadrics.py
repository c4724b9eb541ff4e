"""Sums of squared distances from planes, and where they are least."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

SMALLEST = 0.1  # singular value, of the largest, that still says where a vertex lies


class Quadrics(NamedTuple):
    """Of each of some regions, the planes that are tangent to a surface at some of its points."""

    gram: Float64[Tensor, "regions 3 3"]
    pull: Float64[Tensor, "regions 3"]
    """Sum of normals, each as long as its plane is far from the origin."""
    point: Float64[Tensor, "regions 3"]
    """Sum of points."""
    points: Float64[Tensor, " regions"]
    """How many there are."""


def quadrics(
    point: Float64[Tensor, "n 3"],
    normal: Float64[Tensor, "n 3"],
    region: Int64[Tensor, " n"],
    regions: int,
) -> Quadrics:
    """Of so many regions, from points, unit normals there, and the region of each."""
    each = Quadrics(
        normal[:, :, None] * normal[:, None, :],
        normal * (normal * point).sum(1, keepdim=True),
        point,
        torch.ones_like(point[:, 0]),
    )
    return merged(each, region, regions)


def merged(parts: Quadrics, label: Int64[Tensor, " regions"], count: int) -> Quadrics:
    """Of larger regions, so many of them: of all parts of one label."""
    return Quadrics(
        *(part.new_zeros(count, *part.shape[1:]).index_add(0, label, part) for part in parts)
    )


def least(
    given: Quadrics,
    fits: Callable[[Float64[Tensor, "regions 3"], Float64[Tensor, "regions 3"]], Tensor],
) -> Float64[Tensor, "regions 3"]:
    """Where the sum is least: where planes meet, and near the points' mean in what they leave open.

    In as many directions, of those in which planes say enough, as lead to a place that fits, which
    is asked of places and of the points' means; to the mean if none does.
    """
    mean = given.point / given.points[:, None]
    values, axes = torch.linalg.eigh(given.gram)  # ascending
    along = (axes.mT @ (given.pull[:, :, None] - given.gram @ mean[:, :, None]))[..., 0]
    found = mean.clone()
    unsettled = torch.ones(len(mean), dtype=torch.bool, device=mean.device)
    for most in (3, 2, 1):
        told = values > (SMALLEST**2) * values[:, 2:]
        told[:, : 3 - most] = False
        step = torch.where(told, along / values.clamp_min(1e-30), 0.0)
        place = mean + (axes @ step[:, :, None])[..., 0]
        settled: Bool[Tensor, " regions"] = unsettled & fits(place, mean)
        found[settled] = place[settled]
        unsettled &= ~settled
    return found
