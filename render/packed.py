"""Packed samples cut, thinned and made: those of a ray lie one after the other, nearest first."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polyfield.cuda.march import Samples


def keep_samples(samples: Samples, kept: Tensor) -> Samples:
    """The samples marked in `kept` [samples], in order, with ray offsets that fit."""
    chosen = torch.nonzero(kept)[:, 0]
    ray = samples.ray[chosen]
    counts = torch.bincount(ray, minlength=len(samples.ray_offsets) - 1)
    offsets = torch.zeros_like(samples.ray_offsets)
    offsets[1:] = counts.cumsum(0)
    return Samples(
        offsets,
        samples.distance[chosen],
        samples.length[chosen],
        samples.position[chosen],
        ray,
        None if samples.extent is None else samples.extent[chosen],
    )


def runs_of_rays(samples: Samples, most: int) -> Iterator[tuple[int, int]]:
    """Consecutive rays, from first to before last, with at most `most` samples or a single ray."""
    offsets = samples.ray_offsets.long().cpu()
    first, rays = 0, len(offsets) - 1
    while first < rays:
        last = int(torch.searchsorted(offsets, offsets[first] + most, right=True)) - 1
        last = min(max(last, first + 1), rays)
        yield first, last
        first = last


def some_rays(samples: Samples, first: int, last: int) -> Samples:
    """The samples of the rays from first to before last, which count from 0 in it."""
    begin, end = int(samples.ray_offsets[first]), int(samples.ray_offsets[last])
    return Samples(
        samples.ray_offsets[first : last + 1] - begin,
        samples.distance[begin:end],
        samples.length[begin:end],
        samples.position[begin:end],
        samples.ray[begin:end] - first,
        None if samples.extent is None else samples.extent[begin:end],
    )


def interval_samples(
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    hit: Bool[Tensor, " rays"],
    edges: Float[Tensor, "hits edges"],
) -> Samples:
    """The middles of the intervals between ascending distances, of the rays that `hit` marks.

    The others have no sample. directions: unit. An interval without length stays a sample.
    """
    rays = torch.nonzero(hit)[:, 0]
    count = edges.shape[1] - 1
    offsets = torch.zeros(len(hit) + 1, dtype=torch.int32, device=hit.device)
    offsets[1:] = count * hit.cumsum(0)
    middle = 0.5 * (edges[:, 1:] + edges[:, :-1])
    position = origins[rays, None] + middle[..., None] * directions[rays, None]
    return Samples(
        offsets,
        middle.reshape(-1),
        edges.diff(dim=1).reshape(-1),
        position.reshape(-1, 3),
        rays.int().repeat_interleave(count),
    )
