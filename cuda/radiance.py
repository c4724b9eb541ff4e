"""Rays through a hash-grid radiance field in one pass, and the gradients of a colour loss.

The composition of hash_grid, mlp, composite and visible_samples, fused: samples behind full opacity
are never computed, and nothing between encoding and gradient goes through memory.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int32
from torch import Tensor

from polyfield.cuda.backend import backend_of
from polyfield.cuda.composite import composite_reference, visible_samples
from polyfield.cuda.distortion import distortion
from polyfield.cuda.errors import InputError
from polyfield.cuda.hash_grid import (
    HashGridLayout,
    hash_grid_reference,
    layout_of,
    level_tensors,
)
from polyfield.cuda.kernel import constant, kernel, launch
from polyfield.cuda.march import Samples
from polyfield.cuda.mlp import (
    SLICES,
    mlp_reference,
    parameter_count,
    sum_slices,
    transposed,
    truncated_exponential,
)
from polyfield.cuda.operator import define

FEATURES = 16  # of the density network; the first is the logarithm of the density
NO_EDGE = 1e9  # a Huber edge that no difference reaches: the squared error


@dataclass(frozen=True)
class RadianceShape:
    """Sizes of a field: its hash grid, its networks' hidden widths, the harmonics of a direction.

    The density network is encoding -> hidden -> 16, the colour network 16 + harmonics -> hidden ->
    hidden -> 3. Hidden widths are multiples of 16 up to 128. Raises InputError for others.
    """

    layout: HashGridLayout
    density_hidden: int = 64
    color_hidden: int = 64
    harmonics: int = 16

    def __post_init__(self) -> None:
        if self.layout.dimensions != 3:
            raise InputError("RadianceShape.layout", f"{self.layout.dimensions} dimensions", "3")
        for name in ("density_hidden", "color_hidden"):
            if getattr(self, name) not in range(16, 129, 16):
                raise InputError(f"RadianceShape.{name}", str(getattr(self, name)), "16, 32 .. 128")

    @property
    def density_widths(self) -> tuple[int, int, int]:
        """Of the density network, as `mlp` takes them."""
        return self.layout.width, self.density_hidden, FEATURES

    @property
    def color_widths(self) -> tuple[int, int, int, int]:
        """Of the colour network, as `mlp` takes them."""
        return FEATURES + self.harmonics, self.color_hidden, self.color_hidden, 3


class RadianceView(NamedTuple):
    """What rays see, on the background. Depth is the mean distance, 0 for nothing."""

    color: Float[Tensor, "rays 3"]
    opacity: Float[Tensor, " rays"]
    depth: Float[Tensor, " rays"]
    visible: Int32[Tensor, " rays"]
    """Samples that light comes from."""


class RadianceGradients(NamedTuple):
    """The mean loss, and its gradients. Rows of `encoded` are set only where `kept` is."""

    loss: Float[Tensor, ""]
    encoded: Float[Tensor, "samples width"]
    kept: Bool[Tensor, " samples"]
    density_weights: Float[Tensor, " p"]
    color_weights: Float[Tensor, " q"]


@torch.no_grad()
def radiance_view(
    samples: Samples,
    harmonics: Float[Tensor, "rays h"],
    background: Float[Tensor, "rays 3"],
    table: Float[Tensor, "entries features"],
    density_weights: Float[Tensor, " p"],
    color_weights: Float[Tensor, " q"],
    shape: RadianceShape,
    stop: float = 1e-4,
) -> RadianceView:
    """What the field shows along rays. Samples at transmittance below `stop` are left out.

    samples: positions in the unit cube, lengths in its sides; table and weights in the layouts of
    `hash_grid` and `mlp`; density = exp(first feature), colour = sigmoid(colour network). Not
    differentiable. Raises InputError where sizes disagree. Source: Instant-NGP (arXiv:2201.05989).
    """
    weights = _joined(samples, harmonics, background, table, density_weights, color_weights, shape)
    if _on_reference(table):
        args = samples, harmonics, background, table, density_weights, color_weights, shape, stop
        return radiance_reference(*args)
    color, opacity, depth, visible, *_ = _rays(
        *samples[:4],
        harmonics,
        background,
        None,
        table,
        weights,
        _numbers(shape),
        stop,
        0.0,
        0.0,
        1,
        0.0,
        0.0,
    )
    return RadianceView(color, opacity, depth, visible)


@torch.no_grad()
def radiance_gradients(
    samples: Samples,
    harmonics: Float[Tensor, "rays h"],
    background: Float[Tensor, "rays 3"],
    target: Float[Tensor, "rays 3"],
    table: Float[Tensor, "entries features"],
    density_weights: Float[Tensor, " p"],
    color_weights: Float[Tensor, " q"],
    shape: RadianceShape,
    stop: float = 1e-4,
    huber_edge: float = NO_EDGE,
    rays_per_pixel: int = 1,
    fade: float = 0.0,
    distortion_weight: float = 0.0,
) -> tuple[RadianceView, RadianceGradients]:
    """What rays see, the mean of their colour loss against `target`, and its gradients.

    The loss of a ray is its squared error, mean over channels; with a huber_edge d it goes on as a
    straight line beyond d: 2 d (|e| - d) + d^2. Gradients arrive for both networks and for the
    encoded position of every sample that counts: what `hash_grid` would be handed in a backward
    pass. The gradient of the density goes by exp(clamp(z, -15, 15)). Other arguments as for
    radiance_view. rays_per_pixel (1, 2, 4, 8 or 16): so many rays one after the other share a
    pixel, and their mean colour is compared with the target, which they repeat. fade: gradients of
    samples nearer than that count by the square of their part of it, see `faded`. The mean of
    `distortion` over the rays, times its weight, is part of the loss. On a CPU results repeat bit
    for bit for any number of threads.
    """
    weights = _joined(samples, harmonics, background, table, density_weights, color_weights, shape)
    if target.shape != background.shape:
        raise InputError("radiance: target", f"shape {tuple(target.shape)}", "[rays, 3]")
    if rays_per_pixel not in (1, 2, 4, 8, 16) or len(target) % rays_per_pixel:
        got = f"{rays_per_pixel} for {len(target)} rays"
        raise InputError("radiance: rays_per_pixel", got, "1, 2, 4, 8 or 16, in whole pixels")
    if _on_reference(table):
        return radiance_gradients_reference(
            samples, harmonics, background, target, table, density_weights, color_weights, shape,
            stop, huber_edge, rays_per_pixel, fade, distortion_weight,
        )  # fmt: skip
    scale = 1 / max(1, len(target))
    color, opacity, depth, visible, loss, kept, grad_encoded, grad_weights = _rays(
        *samples[:4], harmonics, background, target, table, weights, _numbers(shape), stop, scale,
        huber_edge, rays_per_pixel, fade, distortion_weight,
    )  # fmt: skip
    parts = grad_weights.split([len(density_weights), len(color_weights)])
    view = RadianceView(color, opacity, depth, visible)
    return view, RadianceGradients(loss.mean(), grad_encoded, kept, *parts)


def radiance_reference(
    samples: Samples,
    harmonics: Tensor,
    background: Tensor,
    table: Tensor,
    density_weights: Tensor,
    color_weights: Tensor,
    shape: RadianceShape,
    stop: float = 1e-4,
    encoded: Tensor | None = None,
    fade: float = 0.0,
) -> RadianceView:
    """The specification in plain torch, differentiable; encoded replaces the table's features."""
    return _reference(
        samples, harmonics, background, table, density_weights, color_weights, shape, stop, encoded,
        fade,
    )[0]  # fmt: skip


def _reference(
    samples: Samples, harmonics: Tensor, background: Tensor, table: Tensor, density_weights: Tensor,
    color_weights: Tensor, shape: RadianceShape, stop: float, encoded: Tensor | None, fade: float,
) -> tuple[RadianceView, Tensor]:  # fmt: skip
    """What rays see, and the distortion of each."""
    if encoded is None:
        encoded = hash_grid_reference(samples.position, table, shape.layout)
    features = mlp_reference(encoded, density_weights, shape.density_widths, "relu")
    density = truncated_exponential(features[:, 0])
    kept = visible_samples(density, samples.length, samples.ray_offsets, stop)
    chosen = torch.nonzero(kept)[:, 0]
    ray = samples.ray[chosen].long()
    visible = torch.bincount(ray, minlength=len(background)).int()
    offsets = torch.cat([visible.new_zeros(1), visible.cumsum(0).int()])
    both = torch.cat([features[chosen], harmonics[ray]], 1)
    color = mlp_reference(both, color_weights, shape.color_widths, "relu", "sigmoid")
    density, color = faded(density[chosen], color, samples.distance[chosen], fade)
    distance, length = samples.distance[chosen], samples.length[chosen]
    values = torch.cat([color, distance[:, None]], 1)
    out = composite_reference(density, length, values, offsets)
    seen = out.values[:, :3] + (1 - out.opacity)[:, None] * background
    depth = out.values[:, 3] / out.opacity.clamp_min(1e-6)
    spread = distortion(out.weights, distance, length, offsets)
    return RadianceView(seen, out.opacity, depth, visible), spread


def radiance_gradients_reference(
    samples: Samples,
    harmonics: Tensor,
    background: Tensor,
    target: Tensor,
    table: Tensor,
    density_weights: Tensor,
    color_weights: Tensor,
    shape: RadianceShape,
    stop: float = 1e-4,
    huber_edge: float = NO_EDGE,
    rays_per_pixel: int = 1,
    fade: float = 0.0,
    distortion_weight: float = 0.0,
) -> tuple[RadianceView, RadianceGradients]:
    """The specification in plain torch, by autograd."""
    with torch.enable_grad():
        encoded = hash_grid_reference(samples.position, table.detach(), shape.layout)
        leaves = [t.detach().requires_grad_() for t in (encoded, density_weights, color_weights)]
        view, spread = _reference(
            samples, harmonics, background, table, leaves[1], leaves[2], shape, stop, leaves[0],
            fade,
        )  # fmt: skip
        pixels = [t.view(-1, rays_per_pixel, 3).mean(1) for t in (view.color, target)]
        size = (pixels[0] - pixels[1]).abs()
        straight = huber_edge * (2 * size - huber_edge)
        loss = torch.where(size <= huber_edge, size.square(), straight).mean()
        loss = loss + distortion_weight * spread.mean() if len(spread) else loss
        grads = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    index = torch.arange(len(samples.ray), device=table.device)
    kept = index - samples.ray_offsets[samples.ray.long()] < view.visible[samples.ray.long()]
    detached = RadianceView(*[t.detach() for t in view])
    return detached, RadianceGradients(loss.detach(), grads[0], kept, *grads[1:])


def faded(
    density: Float[Tensor, " n"],
    color: Float[Tensor, "n 3"],
    distance: Float[Tensor, " n"],
    fade: float,
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 3"]]:
    """Density and colour as they are; their gradients times min(1, (distance / fade)^2).

    Rays of a camera lie the denser the nearer to it, so that its own view outweighs all others
    there and puts before the lens what stands far behind. fade 0: nothing is changed.
    Source: Floaters No More (Philip and Deschaintre 2023), eq. 6, with fade as its unit of length.
    """
    if not fade:
        return density, color
    share = (distance / fade).square().clamp_max(1)
    return (
        density * share + (density * (1 - share)).detach(),
        color * share[:, None] + (color * (1 - share)[:, None]).detach(),
    )


def _on_reference(table: Tensor) -> bool:
    return backend_of(table.device) == "reference" or table.dtype != torch.float32


def _joined(
    samples: Samples,
    harmonics: Tensor,
    background: Tensor,
    table: Tensor,
    density_weights: Tensor,
    color_weights: Tensor,
    shape: RadianceShape,
) -> Tensor:
    """Both networks' weights in one, once all sizes have been found to agree."""
    rays = len(samples.ray_offsets) - 1
    layout = shape.layout
    wanted = {
        "harmonics": (harmonics, (rays, shape.harmonics)),
        "background": (background, (rays, 3)),
        "table": (table, (layout.entries, layout.features)),
        "density_weights": (density_weights, (parameter_count(shape.density_widths),)),
        "color_weights": (color_weights, (parameter_count(shape.color_widths),)),
    }
    for name, (tensor, expected) in wanted.items():
        if tuple(tensor.shape) != expected:
            raise InputError(f"radiance: {name}", f"shape {tuple(tensor.shape)}", str(expected))
    return torch.cat([density_weights.detach(), color_weights.detach()])


def _numbers(shape: RadianceShape) -> list[int]:
    layout = [int(value) for value in astuple(shape.layout)]
    return [*layout, shape.density_hidden, shape.color_hidden, shape.harmonics]


def _shape(numbers: list[int]) -> RadianceShape:
    return RadianceShape(layout_of(*numbers[:7]), *numbers[7:])


def _room(shape: RadianceShape, rows: int) -> int:
    """Floats that a tile's samples take, as RadianceRoom divides them."""
    widths = shape.layout.width, shape.density_hidden, shape.color_hidden
    a_row = widths[0] + widths[1] + FEATURES + shape.harmonics + 2 * widths[2] + 6
    return rows * a_row + constant("radiance", "RADIANCE_BATCH") * (FEATURES + 4 * max(widths))


def _run(
    offsets: Tensor, distance: Tensor, length: Tensor, position: Tensor, harmonics: Tensor,
    background: Tensor, target: Tensor | None, table: Tensor, weights: Tensor, numbers: list[int],
    stop: float, scale: float, edge: float, per_pixel: int, fade: float, gather: float,
) -> tuple[Tensor, ...]:  # fmt: skip
    shape, train = _shape(numbers), target is not None
    out = _empty(
        offsets, distance, length, position, harmonics, background, target, table, weights, numbers,
        stop, scale, edge, per_pixel, fade, gather,
    )  # fmt: skip
    color, opacity, depth, visible, loss, kept, grad_encoded, _ = out
    visible.zero_()
    kept.zero_()
    rays, tile = len(background), constant("radiance", "RADIANCE_RAYS")
    tiles = -(-rays // (tile * SLICES))
    # A slice's tiles share one room where one thread runs them in order.
    rooms = 1 if backend_of(table.device) in ("cpu", "reversed") else tiles
    rows = constant("radiance", "RADIANCE_BATCH")
    if train and rays:
        ends = torch.cat([offsets[::tile], offsets[-1:]])
        rows = max(rows, int(ends.diff().max()))
    room = table.new_empty(SLICES * rooms * _room(shape, rows))
    index = offsets.new_empty(SLICES * rooms * rows * 3)
    slices = weights.new_zeros(SLICES, len(weights)) if train else None
    matrices = [*pairwise(shape.density_widths), *pairwise(shape.color_widths)]
    launch(
        kernel("radiance", f"RadianceRays<{shape.layout.features}>"), (tiles, SLICES),
        *[t.contiguous() for t in (position, distance, length, offsets, harmonics, background)],
        target.contiguous() if target is not None else None, table.contiguous(),
        *level_tensors(shape.layout, table.device), weights, transposed(weights, matrices),
        color, opacity, depth, loss if train else None, visible, kept if train else None,
        grad_encoded if train else None, slices, room, index, rays, shape.layout.levels,
        int(shape.layout.smoothstep), shape.density_hidden, shape.color_hidden, shape.harmonics,
        tiles, rooms, rows, per_pixel, -math.log(stop), scale, edge, fade, gather, rows="owned",
    )  # fmt: skip
    grad_weights = weights.new_empty(0) if slices is None else sum_slices(slices)
    return *out[:-1], grad_weights


def _empty(
    offsets: Tensor, distance: Tensor, length: Tensor, position: Tensor, harmonics: Tensor,
    background: Tensor, target: Tensor | None, table: Tensor, weights: Tensor, numbers: list[int],
    stop: float, scale: float, edge: float, per_pixel: int, fade: float, gather: float,
) -> tuple[Tensor, ...]:  # fmt: skip
    rays = background.shape[0]
    samples = 0 if target is None else position.shape[0]
    return (
        background.new_empty(rays, 3),
        background.new_empty(rays),
        background.new_empty(rays),
        offsets.new_empty(rays),
        background.new_empty(0 if target is None else rays),
        offsets.new_empty(samples, dtype=torch.bool),
        position.new_empty(samples, numbers[1] * numbers[2]),
        weights.new_empty(0 if target is None else weights.shape[0]),
    )


_rays = define(
    "radiance_rays(Tensor ray_offsets, Tensor distance, Tensor length, Tensor position,"
    " Tensor harmonics, Tensor background, Tensor? target, Tensor table, Tensor weights,"
    " int[] numbers, float stop, float scale, float edge, int per_pixel, float fade,"
    " float gather)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _run,
    _empty,
)
