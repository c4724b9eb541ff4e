"""Races of radial basis functions: their evaluation, and the search for neighbours."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.apps.bench_race import Race
from polyfield.cuda.nearest import center_tree, nearest, nearest_reference
from polyfield.cuda.rbf import (
    rbf_blend,
    rbf_blend_reference,
    rbf_weights,
    rbf_weights_reference,
)
from polyfield.fields.rbf_placement import weighted_centers

POINTS, KERNELS, NEIGHBOURS, BLOCKS = 131_072, 4_000, 4, 4
EXACT = "donot_use_mm_for_euclid_dist"  # the quick way takes other centres for the nearest


class Inputs(NamedTuple):
    """Random kernels of the unit square and points among them."""

    x: Float[Tensor, "n 2"]
    centers: Float[Tensor, "kernels 2"]
    factors: Float[Tensor, "kernels 3"]
    features: Float[Tensor, "4 kernels 8"]
    frequencies: Float[Tensor, "4 8"]
    """From 1/8 to 4,096 radians."""
    grad: Float[Tensor, "n 32"]


def rbf_inputs(points: int, kernels: int) -> Inputs:
    """What both races begin with. Kernels are about as wide as the way to their neighbours."""
    random = torch.Generator().manual_seed(0)
    return Inputs(
        torch.rand(points, 2, generator=random),
        torch.rand(kernels, 2, generator=random),
        (0.5 + torch.rand(kernels, 3, generator=random)) * kernels**0.5,
        torch.randn(BLOCKS, kernels, 8, generator=random),
        (2 ** torch.linspace(-3, 12, 8 * BLOCKS)).view(BLOCKS, 8),
        torch.randn(points, 8 * BLOCKS, generator=random),
    )


def search_against_reference(points: int = POINTS, kernels: int = KERNELS) -> Race:
    """The nearest kernels of all points, against all distances sorted."""
    inputs = rbf_inputs(points, kernels)
    tree = center_tree(inputs.centers)
    return Race(
        against="reference",
        version=f"torch {torch.__version__}",
        ours=lambda: (nearest(inputs.x, tree, NEIGHBOURS),),
        theirs=lambda: (nearest_reference(inputs.x, tree, NEIGHBOURS),),
        tolerance=0.0,
    )


def both_against_reference(points: int = POINTS, kernels: int = KERNELS) -> Race:
    """Weights, 32 channels of sines of them, and the gradients to points and features."""
    inputs = rbf_inputs(points, kernels)
    index = nearest(inputs.x, center_tree(inputs.centers), NEIGHBOURS)

    def both(weigh: Callable[..., Tensor], blend: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        x, features = (t.detach().requires_grad_() for t in (inputs.x, inputs.features))
        weights = weigh(x, inputs.centers, inputs.factors, index, "ivq")
        out = blend(weights, index, features, inputs.frequencies)
        return out.detach(), *torch.autograd.grad(out, (x, features), inputs.grad)

    return Race(
        against="reference",
        version=f"torch {torch.__version__}",
        ours=partial(both, rbf_weights, rbf_blend),
        theirs=partial(both, rbf_weights_reference, rbf_blend_reference),
        # 4,096 radians are rounded to 2.4e-4, on both sides.
        tolerance=1e-3,
    )


def clusters_against_reference(points: int = POINTS, kernels: int = KERNELS) -> Race:
    """Two iterations of weighted k-means, against all distances in plain torch."""
    x = rbf_inputs(points, kernels).x
    weights = torch.rand(points, generator=torch.Generator().manual_seed(1)) + 0.1

    def centers(iterations: int) -> Tensor:
        random = torch.Generator().manual_seed(2)
        return weighted_centers(x, weights, kernels, random, iterations)

    def plain() -> Tensor:
        found, weight = centers(0), weights.double()[:, None]
        for _ in range(2):
            label = torch.cat(
                [
                    torch.cdist(some, found, compute_mode=EXACT).argmin(1)
                    for some in x.split(1 << 13)
                ]
            )
            total, moved = (
                torch.zeros(kernels, values.shape[1], dtype=torch.float64).index_add_(
                    0, label, values
                )
                for values in (weight, weight * x.double())
            )
            there = total[:, 0] > 0
            found[there] = (moved[there] / total[there]).float()
        return found

    return Race(
        against="reference",
        version=f"torch {torch.__version__}",
        ours=lambda: (centers(2),),
        theirs=lambda: (plain(),),
        # Of two centres as near as each other each side may take another.
        tolerance=1e-3,
    )
