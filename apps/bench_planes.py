"""Races of plane sampling: against its specification, and against torch's grid_sample."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from polyfield.apps.bench_race import Race
from polyfield.cuda.planes import PlaneLayout, planes, planes_reference

POINTS = 131_072
LAYOUT = PlaneLayout(3, (64, 128, 256), 16, "product")


def plane_inputs(points: int, layout: PlaneLayout) -> tuple[Tensor, Tensor, Tensor]:
    """Points [n, 3], a table, and a gradient of the features [n, width]: random, without order."""
    random = torch.Generator().manual_seed(0)
    x = torch.rand(points, 3, generator=random)
    table = torch.empty(layout.entries, 8).uniform_(0.1, 0.5, generator=random)
    return x, table, torch.randn(points, layout.width, generator=random)


def both_against_reference(points: int = POINTS, layout: PlaneLayout = LAYOUT) -> Race:
    """Features and the table's gradient, against a gather a corner and autograd."""
    x, table, grad = plane_inputs(points, layout)
    return Race(
        against="reference",
        version=f"torch {torch.__version__}",
        ours=lambda: _features_and_gradient(planes, x, table, grad, layout),
        theirs=lambda: _features_and_gradient(planes_reference, x, table, grad, layout),
        tolerance=1e-4,
    )


def both_against_grid_sample(points: int = POINTS, layout: PlaneLayout = LAYOUT) -> Race:
    """The same against one grid_sample for the three planes of a scale, in torch's own layout."""
    x, table, grad = plane_inputs(points, layout)
    places = torch.stack([2 * x[:, list(pair)] - 1 for pair in layout.pairs])[:, None]
    images = [image_of(table, layout, scale) for scale in range(len(layout.resolutions))]

    def theirs() -> tuple[Tensor, ...]:
        leaves = [image.detach().requires_grad_() for image in images]
        scales = [
            grid_sample(leaf, places, padding_mode="border", align_corners=True)[:, :, 0].prod(0).T
            for leaf in leaves
        ]
        features = torch.cat(scales, 1)
        return features.detach(), *torch.autograd.grad(features, leaves, grad)

    def read(found: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        features, *gradients = found
        whole = [_entries_of(gradient, layout) for gradient in gradients]
        return features, torch.cat(whole)

    return Race(
        against="torch",
        version=str(torch.__version__),
        ours=partial(_features_and_gradient, planes, x, table, grad, layout),
        theirs=theirs,
        read=read,
        tolerance=1e-4,
    )


def image_of(table: Tensor, layout: PlaneLayout, scale: int) -> Tensor:
    """The planes of a scale as grid_sample has them: [3, channels, later axis, earlier axis]."""
    found = [plane.permute(0, 3, 1, 2).flatten(0, 1) for plane in layout.planes(table, scale)]
    return torch.stack(found).contiguous()


def _entries_of(images: Tensor, layout: PlaneLayout) -> Tensor:
    """A scale's part of the table from what `image_of` makes of it."""
    blocks = images.unflatten(1, (layout.blocks, 8)).permute(1, 0, 3, 4, 2)
    return blocks.reshape(-1, 8)


def _features_and_gradient(
    encode: Callable[[Tensor, Tensor, PlaneLayout], Tensor],
    x: Tensor,
    table: Tensor,
    grad: Tensor,
    layout: PlaneLayout,
) -> tuple[Tensor, Tensor]:
    leaf = table.detach().requires_grad_()
    features = encode(x, leaf, layout)
    (gradient,) = torch.autograd.grad(features, leaf, grad)
    return features.detach(), gradient
