"""Unsigned distances where a surface may be: an octree's leaves and the points of their lattice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor
from torch.nn.functional import normalize

CHUNK = 1 << 16  # points that a field is asked for at once
UNTESTED = 2  # levels that are divided whatever the field says, unless it is to be strict

WithGradient = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Domain:
    """The cube [-1, 1]^3 in which a surface is looked for, and the field there.

    value, with_gradient: of points float32 [n, 3] of the unit cube: distances [n] in its sides, and
    their gradients [n, 3] as well. scale and shift: of the lattice within the cube; faces of an
    object that lie on the lattice would come out twice. queries: how many points were asked for
    with a gradient, and without.
    """

    value: Callable[[Tensor], Tensor]
    with_gradient: WithGradient
    depth: int
    scale: float
    shift: tuple[float, float, float]
    queries: list[int]

    @property
    def cells(self) -> int:
        """A side."""
        return 1 << self.depth

    @property
    def edge(self) -> float:
        """Of a leaf."""
        return 2 / self.cells

    def lattice(self, index: Int64[Tensor, "n 3"]) -> Float64[Tensor, "n 3"]:
        """Points of the lattice, twice as fine as the leaves."""
        return index.double() / self.cells - 1

    def to_unit(self, x: Float64[Tensor, "n 3"]) -> Float64[Tensor, "n 3"]:
        """From the lattice's cube to the field's."""
        shift = torch.tensor(self.shift, dtype=torch.float64, device=x.device)
        return (x * self.scale + shift + 1) / 2

    @torch.no_grad()
    def distances(self, x: Float64[Tensor, "n 3"]) -> Float64[Tensor, " n"]:
        """In the lattice's unit."""
        self.queries[1] += len(x)
        inside, beyond = self._inside(x)
        parts = [self.value(part).double() for part in inside.split(CHUNK)] if len(x) else []
        return self._scaled(torch.cat(parts) if parts else beyond, beyond)

    def gradients(
        self, x: Float64[Tensor, "n 3"]
    ) -> tuple[Float64[Tensor, " n"], Float64[Tensor, "n 3"]]:
        """Distances, and unit gradients; a gradient of 0 stays 0."""
        self.queries[0] += len(x)
        inside, beyond = self._inside(x)
        parts = [self.with_gradient(part) for part in inside.split(CHUNK)] if len(x) else []
        if not parts:
            return beyond, x.new_zeros(0, 3)
        distance, slope = (
            torch.cat(column).detach().double() for column in zip(*parts, strict=True)
        )
        return self._scaled(distance, beyond), normalize(slope, dim=1, eps=1e-300)

    def _inside(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest points of the field's cube, and how far away they are."""
        unit = self.to_unit(x)
        inside = unit.clamp(0, 1)
        return inside.float(), (unit - inside).norm(dim=1)

    def _scaled(self, distance: Tensor, beyond: Tensor) -> Tensor:
        return (distance + beyond) * (2 / self.scale)


@dataclass(frozen=True, eq=False)
class Samples:
    """What is known at the points of the lattice that leaves have, in the order of `number`."""

    number: Int64[Tensor, " n"]
    point: Float64[Tensor, "n 3"]
    distance: Float64[Tensor, " n"]
    gradient: Float64[Tensor, "n 3"]
    foot: Float64[Tensor, "n 3"]
    """Where the tangent plane is: as far from the point as the distance, down the gradient."""
    foot_distance: Float64[Tensor, " n"]
    reliable: Bool[Tensor, " n"]

    def rows(self, number: Int64[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
        """Of points that are among them."""
        return torch.searchsorted(self.number, number)

    def rows_of_leaves(
        self, leaves: Int64[Tensor, "leaves 3"], side: int
    ) -> Int64[Tensor, "leaves 27"]:
        """Of the points that each leaf has, in their order; side: of their lattice."""
        across = torch.cartesian_prod(*[torch.arange(3, device=leaves.device)] * 2)
        columns = torch.cat([across, torch.zeros_like(across[:, :1])], 1)
        # The three points of a column follow each other: only the first is looked for.
        first = self.rows(number_of(2 * leaves[:, None] + columns, side))
        return (first[:, :, None] + torch.arange(3, device=leaves.device)).view(-1, 27)


def number_of(index: Int64[Tensor, "*shape 3"], side: int) -> Int64[Tensor, "*shape"]:
    """Of places of a lattice of so many points a side, in their order."""
    return (index[..., 0] * side + index[..., 1]) * side + index[..., 2]


def octree_leaves(
    domain: Domain, margin: float, strict: bool, device: torch.device
) -> tuple[Int64[Tensor, "leaves 3"], tuple[Tensor, ...]]:
    """Leaves near the surface, in order, and what was asked for on the way to them.

    A cell of edge l stays where the distance at its middle is below sqrt(3) l / 2 + margin: right
    wherever the distance changes at most as fast as the place. strict: tested from the root on.
    The rest: numbers of points of the lattice, distances and gradients there.
    """
    cells = torch.zeros(1, 3, dtype=torch.int64, device=device)
    halves = torch.cartesian_prod(*[torch.arange(2, device=device)] * 3)
    known = []
    for level in range(domain.depth + 1):
        steps = 1 << (domain.depth - level)  # from a cell's corner to its middle, on the lattice
        if strict or level >= min(UNTESTED, domain.depth):
            middle = cells * (2 * steps) + steps
            distance, gradient = domain.gradients(domain.lattice(middle))
            known.append((number_of(middle, 2 * domain.cells + 1), distance, gradient))
            cells = cells[distance < 3**0.5 / 2**level + margin]
        if level < domain.depth:
            cells = (2 * cells[:, None] + halves).view(-1, 3)
    cells = cells[number_of(cells, domain.cells).argsort()]
    return cells, tuple(torch.cat(column) for column in zip(*known, strict=True))


def lattice_samples(
    domain: Domain,
    leaves: Int64[Tensor, "leaves 3"],
    known: tuple[Tensor, ...],
    near: float,
    foot: float,
) -> Samples:
    """The 27 points that each leaf has, shared with its neighbours.

    Reliable: farther from the surface than `near`, where gradients are noise, and with a foot that
    the field itself says is nearer to it than `foot`.
    """
    side = 2 * domain.cells + 1
    offsets = torch.cartesian_prod(*[torch.arange(3, device=leaves.device)] * 3)
    number = number_of(2 * leaves[:, None] + offsets, side).unique()
    point = domain.lattice(
        torch.stack([number // side**2, number // side % side, number % side], 1)
    )
    distance, gradient = torch.zeros_like(point[:, 0]), torch.zeros_like(point)
    numbers, distances, gradients = known
    at = torch.searchsorted(number, numbers).clamp(max=max(0, len(number) - 1))
    asked = number[at] == numbers if len(number) else torch.zeros_like(numbers, dtype=torch.bool)
    distance[at[asked]], gradient[at[asked]] = distances[asked], gradients[asked]
    new = torch.ones_like(number, dtype=torch.bool)
    new[at[asked]] = False
    distance[new], gradient[new] = domain.gradients(point[new])
    feet = point - distance[:, None] * gradient
    foot_distance = domain.distances(feet)
    reliable = (distance > near) & (foot_distance < foot)
    return Samples(number, point, distance, gradient, feet, foot_distance, reliable)
