"""Races of the hash grid: against Dr.Jit, the specification, and the best form in plain torch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from polyfield.apps.bench_drjit import DEFAULT_EXPANDED, EXPANDED, DrJitGrid, drjit_version
from polyfield.apps.bench_race import Race
from polyfield.apps.bench_torch_grid import torch_hash_grid
from polyfield.cuda.hash_grid import HashGridLayout, hash_grid, hash_grid_reference

POINTS = 131_072
PAPER = HashGridLayout(levels=16, features=2, log2_table_size=19)
# Neighbouring float32 numbers near 2,048, the nodes of the finest level along an axis, are 2.4e-4
# apart, and Dr.Jit rounds positions once where we round twice.
ROUNDED = 1e-3

Encoder = Callable[[Tensor, Tensor, HashGridLayout], Tensor]


def hash_inputs(points: int, layout: HashGridLayout) -> tuple[Tensor, Tensor, Tensor]:
    """Points [n, 3], a table, and a gradient of the features [n, width]: random, without order.

    Points keep 0.02 from the far faces, where Dr.Jit's levels wrap at another place than ours.
    """
    random = torch.Generator().manual_seed(0)
    x = 0.98 * torch.rand(points, 3, generator=random)
    table = torch.empty(layout.entries, layout.features).uniform_(-1, 1, generator=random)
    return x, table, torch.randn(points, layout.width, generator=random)


def forward_against_drjit(points: int = POINTS, layout: HashGridLayout = PAPER) -> Race:
    """Features of random points."""
    x, table, _ = hash_inputs(points, layout)
    theirs = DrJitGrid(x, table, layout)
    return Race(
        against="drjit",
        version=drjit_version(),
        ours=lambda: (hash_grid(x, table, layout),),
        theirs=theirs.features,
        read=lambda features: (theirs.rows(features),),
        tolerance=ROUNDED,
    )


def both_against_drjit(
    points: int = POINTS, layout: HashGridLayout = PAPER, expanded: int = EXPANDED
) -> Race:
    """Features of random points and the gradient of the table, with Dr.Jit's quicker sums."""
    x, table, grad = hash_inputs(points, layout)
    theirs = DrJitGrid(x, table, layout, expanded)
    grad_columns = theirs.columns(grad)
    return Race(
        against="drjit",
        version=drjit_version(),
        ours=lambda: features_and_gradient(hash_grid, x, table, grad, layout),
        theirs=lambda: theirs.features_and_gradient(grad_columns),
        read=lambda both: (theirs.rows(both[0]), theirs.entries(both[1])),
        tolerance=ROUNDED,
    )


def both_against_drjit_as_installed() -> Race:
    """The same, with the atomic sums that Dr.Jit chooses for tables of this size by itself."""
    return both_against_drjit(expanded=DEFAULT_EXPANDED)


def both_against_reference(points: int = POINTS, layout: HashGridLayout = PAPER) -> Race:
    """The same against the specification: one gather a corner, gradients by autograd."""
    return _both_against(
        "reference", f"torch {torch.__version__}", hash_grid_reference, points, layout
    )


def both_against_torch(points: int = POINTS, layout: HashGridLayout = PAPER) -> Race:
    """The same against the best form in plain torch that we know."""
    return _both_against("torch", str(torch.__version__), torch_hash_grid, points, layout)


def features_and_gradient(
    encode: Encoder, x: Tensor, table: Tensor, grad: Tensor, layout: HashGridLayout
) -> tuple[Tensor, Tensor]:
    """Features of points, and the gradient of the table for a gradient of theirs."""
    leaf = table.detach().requires_grad_()
    features = encode(x, leaf, layout)
    (gradient,) = torch.autograd.grad(features, leaf, grad)
    return features.detach(), gradient


def _both_against(
    against: str, version: str, encode: Encoder, points: int, layout: HashGridLayout
) -> Race:
    x, table, grad = hash_inputs(points, layout)
    return Race(
        against=against,
        version=version,
        ours=lambda: features_and_gradient(hash_grid, x, table, grad, layout),
        theirs=lambda: features_and_gradient(encode, x, table, grad, layout),
        tolerance=1e-4,
    )
