"""Where rays enter and leave a box."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.cuda.backend import backend_of
from polyfield.cuda.kernel import constant, kernel, launch
from polyfield.cuda.operator import define


def intersect_box(
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    minimum: Float[Tensor, " 3"],
    maximum: Float[Tensor, " 3"],
) -> tuple[Float[Tensor, " rays"], Float[Tensor, " rays"]]:
    """Distances (near, far) at which rays enter and leave a box, in lengths of their directions.

    near is 0 where the origin lies inside. near > far: the ray misses the box, or it lies behind.
    A ray along a face counts as inside. Not differentiable.
    Source: the slab method (Kay and Kajiya 1986).
    """
    box = origins.detach(), directions.detach(), minimum.detach(), maximum.detach()
    if backend_of(origins.device) == "reference" or origins.dtype != torch.float32:
        return intersect_box_reference(*box)
    near, far = _intersect_box(*box)
    return near, far


def intersect_box_reference(
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    minimum: Float[Tensor, " 3"],
    maximum: Float[Tensor, " 3"],
) -> tuple[Float[Tensor, " rays"], Float[Tensor, " rays"]]:
    """The specification in plain torch."""
    one, other = (minimum - origins) / directions, (maximum - origins) / directions
    level = directions == 0
    outside = level & ((origins < minimum) | (origins > maximum))
    infinite = torch.tensor(torch.inf, dtype=origins.dtype, device=origins.device)
    enter = torch.minimum(one, other).where(~level, -infinite)
    leave = torch.maximum(one, other).where(~level, infinite)
    far = leave.amin(1).where(~outside.any(1), -infinite)
    return enter.amax(1).clamp_min(0), far


def _launch(
    origins: Tensor, directions: Tensor, minimum: Tensor, maximum: Tensor
) -> tuple[Tensor, Tensor]:
    near, far = _outputs(origins, directions, minimum, maximum)
    inputs = [x.contiguous() for x in (origins, directions, minimum, maximum)]
    grid = (-(-len(origins) // constant("box", "BOX_RAYS")), 1)
    launch(kernel("box", "IntersectBox"), grid, *inputs, near, far, len(origins))
    return near, far


def _outputs(
    origins: Tensor, directions: Tensor, minimum: Tensor, maximum: Tensor
) -> tuple[Tensor, Tensor]:
    return origins.new_empty(len(origins)), origins.new_empty(len(origins))


_intersect_box = define(
    "intersect_box(Tensor origins, Tensor directions, Tensor minimum, Tensor maximum)"
    " -> (Tensor, Tensor)",
    _launch,
    _outputs,
)
