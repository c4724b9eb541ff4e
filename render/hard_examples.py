"""What a field gets most wrong, to be looked at again: rays, views, and samples that matter."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int32, Int64
from torch import Generator, Tensor

from polyfield.cuda.rotations import exponential, matrices, product, quaternions

SHARE, OPAQUE = 0.3, 0.5  # of a ray's samples, and the opacity below which none of them counts
TURNED = math.radians(9.0)  # about each axis at most, of a hard view


def hardest(errors: Float[Tensor, " n"], share: float) -> Int64[Tensor, " hard"]:
    """Where the largest errors are: a part of all, one at least, the worst first.

    Source: PVD-AL (arXiv:2304.04012), of rays and of views.
    """
    if not len(errors):
        return torch.zeros(0, dtype=torch.int64, device=errors.device)
    return errors.topk(max(1, int(share * len(errors)))).indices


@dataclass
class HardPool:
    """Examples that were hard, one a row, as many as there is room for.

    Rows are filled in order; once all are, some are drawn and what is hardest by then takes their
    places. Source: PVD-AL (arXiv:2304.04012), ray level.
    """

    rows: Float[Tensor, "capacity numbers"]
    held: int = 0

    @property
    def full(self) -> bool:
        """Whether examples are drawn."""
        return self.held == len(self.rows)

    def draw(self, count: int, generator: Generator) -> Int64[Tensor, " drawn"]:
        """Places of so many different rows, of all at most; none until it is full."""
        if not self.full:
            return torch.zeros(0, dtype=torch.int64)
        return torch.randperm(len(self.rows), generator=generator)[:count]

    def take(self, hard: Float[Tensor, "n numbers"], drawn: Int64[Tensor, " drawn"]) -> None:
        """Keeps examples, the hardest first: in free rows, then in those that were drawn."""
        free = torch.arange(self.held, min(len(self.rows), self.held + len(hard)))
        places = free if not self.full else drawn[: len(hard)]
        self.rows[places] = hard[: len(places)].to(self.rows)
        self.held += len(free) if not self.full else 0


def heavy_samples(
    weights: Float[Tensor, " samples"],
    ray_offsets: Int32[Tensor, " rays_and_end"],
    share: float = SHARE,
    opaque: float = OPAQUE,
) -> Bool[Tensor, " samples"]:
    """The samples of each ray with the largest weights.

    Of a ray with n of them those on places 0 to floor(share * n), of equal ones the nearer first;
    none where the weights' sum is below `opaque`.
    Source: PVD-AL (arXiv:2304.04012), point level.
    """
    counts = ray_offsets.diff().long()
    ray = torch.repeat_interleave(counts)
    opacity = weights.new_zeros(len(counts)).index_add(0, ray, weights)
    order = torch.sort(weights, descending=True, stable=True).indices
    order = order[torch.sort(ray[order], stable=True).indices]
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device) - ray_offsets[:-1].long()[ray]
    return (place <= (share * counts).floor()[ray]) & (opacity >= opaque)[ray]


def turned_views(
    camera_to_world: Float[Tensor, "n 3 4"], generator: Generator, most: float = TURNED
) -> Float[Tensor, "n 3 4"]:
    """Cameras where they stand, each turned about its own axes by up to `most` radians.

    Source: PVD-AL (arXiv:2304.04012), image level.
    """
    poses = camera_to_world.double()
    angles = most * (2 * torch.rand(len(poses), 3, generator=generator, dtype=torch.float64) - 1)
    turned = matrices(product(quaternions(poses[:, :, :3]), exponential(angles)))
    return torch.cat([turned, poses[:, :, 3:]], 2).to(camera_to_world.dtype)
