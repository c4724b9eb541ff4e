"""How a field sees space before it encodes a position: as it is, contracted, or projected."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyfield.cuda.errors import InputError
from polyfield.fields.contraction import Contraction
from polyfield.fields.nested_numbers import has_shape
from polyfield.fields.projection import Projection

_PROJECTION: dict[str, tuple[int, ...]] = {
    "axes": (3, 3),
    "origin": (3,),
    "extent": (2,),
    "near": (),
}


def build_warp(values: Mapping) -> nn.Module | None:
    """The map of positions that plain values of a file describe; None where there are none.

    {"contraction": levels} or {"projection": {"axes", "origin", "extent", "near"}}. Raises
    InputError for anything else.
    """
    if not values:
        return None
    levels, found = values.get("contraction"), values.get("projection")
    if len(values) == 1 and type(levels) is int:
        return Contraction(levels)
    if len(values) == 1 and isinstance(found, Mapping) and found.keys() == _PROJECTION.keys():
        if all(has_shape(found[key], shape) for key, shape in _PROJECTION.items()):
            return Projection(*(found[key] for key in _PROJECTION))
    raise InputError("warp", repr(values)[:80], "a contraction or a projection")


def carried(
    warp: nn.Module, x: Float[Tensor, "n 3"], variance: Float[Tensor, "n 3"] | None
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"] | None]:
    """Where a warp takes points, and the room about them, by its slope there.

    variance: along each axis; the diagonal of J diag(variance) J^T comes back. Gradients reach x
    through the point alone. Source: mip-NeRF 360 (arXiv:2111.12077), eq. 9.
    """
    if variance is None:
        return warp(x), None
    moved = torch.zeros_like(variance)
    for axis in range(3):
        along = torch.zeros_like(x)
        along[:, axis] = 1
        slope = torch.func.jvp(warp, (x.detach(),), (along,))[1]
        moved = moved + slope.square() * variance[:, axis, None]
    return warp(x), moved
