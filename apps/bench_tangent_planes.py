"""A race of the cells of DualMesh-UDF: their vertices from tangent planes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from polyfield.apps.bench_race import Race
from polyfield.cuda.tangent_planes import (
    NONE,
    Placement,
    Vertices,
    place_vertices,
    place_vertices_reference,
)

CELLS, EDGE = 32_768, 1 / 64


def vertices_against_reference(cells: int = CELLS) -> Race:
    """Vertices of cells about a sphere, each of 27 planes of its own, against plain torch."""
    random = torch.Generator().manual_seed(0)
    outward = torch.nn.functional.normalize(torch.randn(cells, 3, generator=random), dim=1).double()
    low = ((0.6 * outward) / EDGE).floor() * EDGE
    ticks = torch.arange(3).double() * (EDGE / 2)
    point = (low[:, None] + torch.cartesian_prod(ticks, ticks, ticks)).view(-1, 3)
    normal = torch.nn.functional.normalize(point, dim=1)
    reliable = (point.norm(dim=1) - 0.6).abs() > 0.002
    rows = torch.arange(27 * cells).view(-1, 27)
    planes = low, EDGE, 0.6 * normal, normal, reliable, rows, Placement()

    def placed(place: Callable[..., Vertices]) -> tuple[Tensor, ...]:
        found = place(*planes)
        there = found.kind != NONE
        return found.kind + 1, torch.where(there[:, None], found.position, 0.0)

    return Race(
        against="reference",
        version=f"torch {torch.__version__}",
        ours=lambda: placed(place_vertices),
        theirs=lambda: placed(place_vertices_reference),
        tolerance=1e-6,
    )
