"""Rays through a radiance field in one pass of one kernel, where the field is made for it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyfield.cuda.backend import backend_of
from polyfield.cuda.march import Samples
from polyfield.cuda.radiance import (
    FEATURES,
    NO_EDGE,
    RadianceShape,
    RadianceView,
    radiance_gradients,
    radiance_view,
)
from polyfield.fields.hash_grid import HashGrid
from polyfield.fields.radiance import Radiance


@dataclass(frozen=True, eq=False)
class FusedField:
    """A radiance field on a hash grid: one kernel takes rays through all of it."""

    field: Radiance
    grid: HashGrid
    """The field's encoding."""
    shape: RadianceShape


def made_for_one_pass(field: object) -> bool:
    """Whether it is a radiance field on a hash grid, on whatever backend it runs."""
    return isinstance(field, Radiance) and isinstance(field.encoding, HashGrid)


def fused_field(field: object) -> FusedField | None:
    """A radiance field on a hash grid; None for any other, or where no kernel runs."""
    if not isinstance(field, Radiance) or not isinstance(field.encoding, HashGrid):
        return None
    grid = field.encoding
    if backend_of(grid.table.device) == "reference":
        return None
    harmonics = field.color_widths[0] - FEATURES
    hidden = field.density_widths[1], field.color_widths[1]
    shape = RadianceShape(grid.layout, *hidden, harmonics)
    return FusedField(field, grid, shape)


def view_rays(
    fused: FusedField,
    samples: Samples,
    directions: Float[Tensor, "rays 3"],
    background: Float[Tensor, "rays 3"],
    stop: float,
) -> RadianceView:
    """What the field shows along rays, see `radiance_view`. Not differentiable."""
    return radiance_view(
        _encoded_where(fused, samples),
        fused.field.encode_directions(directions),
        background,
        fused.grid.table.detach(),
        fused.field.density_weights.detach(),
        fused.field.color_weights.detach(),
        fused.shape,
        stop,
    )


def learn_rays(
    fused: FusedField,
    samples: Samples,
    directions: Float[Tensor, "rays 3"],
    background: Float[Tensor, "rays 3"],
    target: Float[Tensor, "rays 3"],
    stop: float,
    huber_edge: float = NO_EDGE,
    rays_per_pixel: int = 1,
    fade: float = 0.0,
    distortion_weight: float = 0.0,
) -> tuple[RadianceView, Float[Tensor, ""]]:
    """What the field shows, and its loss, whose gradients are left as backward does.

    Arguments as `radiance_gradients` takes them. Gradients of the networks are added to `.grad`,
    that of the table goes to the grid's `deferred`, or where that is None to `.grad` as well.
    """
    field, grid = fused.field, fused.grid
    samples = _encoded_where(fused, samples)
    view, gradients = radiance_gradients(
        samples,
        field.encode_directions(directions).detach(),
        background,
        target,
        grid.table.detach(),
        field.density_weights.detach(),
        field.color_weights.detach(),
        fused.shape,
        stop,
        huber_edge,
        rays_per_pixel,
        fade,
        distortion_weight,
    )
    _add(field.density_weights, gradients.density_weights)
    _add(field.color_weights, gradients.color_weights)
    kept = gradients.kept
    if grid.deferred is not None:
        grid.deferred.append((samples.position, gradients.encoded, kept))
    elif kept.any():
        with torch.enable_grad():
            features = grid(samples.position[kept])
        features.backward(gradients.encoded[kept])
    return view, gradients.loss


def _encoded_where(fused: FusedField, samples: Samples) -> Samples:
    """The samples at the positions that the grid encodes."""
    warp = fused.field.warp
    return samples if warp is None else samples._replace(position=warp(samples.position))


def _add(parameter: nn.Parameter, gradient: Tensor) -> None:
    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
