"""Where radial basis functions lie and how wide they are: placed where a signal varies (NeuRBF)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from polyfield.cuda.errors import InputError
from polyfield.cuda.nearest import center_tree, nearest
from polyfield.cuda.rbf import Family, factor_numbers

Form = Literal["s", "d", "a"]
ITERATIONS = 10
NARROWEST, WIDEST = 0.005, 0.1  # of the spacing of as many nodes on a lattice; of the domain's side


@torch.no_grad()
def weighted_centers(
    points: Float[Tensor, "n d"],
    weights: Float[Tensor, " n"],
    count: int,
    generator: Generator,
    iterations: int = ITERATIONS,
) -> Float[Tensor, "{count} d"]:
    """Centres of `count` clusters of weighted points, by k-means.

    Begun at points drawn by their weight, none of them twice while there are enough; points of
    weight 0 count for nothing, and a cluster that gets none keeps its centre. Repeats bit for bit
    with the generator. Raises InputError where count < 1, a weight is negative or not finite, or
    none is above 0. Source: NeuRBF (arXiv:2309.15426), section 3.3.
    """
    if count < 1:
        raise InputError("kernels", str(count), "at least 1")
    if not bool(weights.isfinite().all()) or bool((weights < 0).any()) or not bool(weights.any()):
        raise InputError("weights of points", "no such weights", "finite, at least 0, some above")
    heavy = weights > 0
    points, weights = points[heavy], weights[heavy].double()
    centers = points[_drawn(weights, count, generator)].clone()
    for _ in range(iterations):
        label = nearest(points, center_tree(centers), 1)[:, 0].long()
        total = _sums(label, weights[:, None], count)
        moved = _sums(label, weights[:, None] * points.double(), count)
        there = total[:, 0] > 0
        centers[there] = (moved[there] / total[there]).to(centers.dtype)
    return centers


@torch.no_grad()
def cluster_factors(
    points: Float[Tensor, "n d"],
    weights: Float[Tensor, " n"],
    centers: Float[Tensor, "count d"],
    form: Form,
    family: Family,
    inflation: float = 2.0,
) -> Float[Tensor, "count f"]:
    """Of each centre, the factor of its shape: the spread of the points that it is nearest to.

    The weighted covariance of a cluster, `inflation` times as large, is a kernel's squared width,
    at which its value has fallen to a half (gauss: to exp(-1/2)); then it is kept between half of a
    hundredth of a lattice's spacing and a tenth of the points' extent. form: "s" one width, "d" one
    an axis, "a" any ellipsoid. See `rbf_weights` for what a factor is. Source: NeuRBF
    (arXiv:2309.15426), section 3.3.
    """
    extent = float((points.amax(0) - points.amin(0)).max().clamp_min(1e-9))
    heavy = weights > 0
    points, weights = points[heavy].double(), weights[heavy].double()
    count, dimensions = centers.shape
    label = nearest(points.float(), center_tree(centers), 1)[:, 0].long()
    off = points - centers.double()[label]
    outer = off[:, :, None] * off[:, None, :] * weights[:, None, None]
    total = _sums(label, weights[:, None], count).clamp_min(1e-30)
    square = (_sums(label, outer.flatten(1), count) / total).view(count, dimensions, dimensions)
    square = square * inflation
    if form == "s":  # the mean along the axes
        mean = square.diagonal(dim1=1, dim2=2).mean(1)
        square = torch.diag_embed(mean[:, None].expand(-1, dimensions))
    elif form == "d":
        square = torch.diag_embed(square.diagonal(dim1=1, dim2=2))
    spacing = extent / count ** (1 / dimensions)
    # By their own axes, or an ellipsoid cut along the frame's would have no widths at all.
    values, axes = torch.linalg.eigh(square)
    values = values.clamp((NARROWEST * spacing) ** 2, (WIDEST * extent) ** 2)
    values = values * {"nlin": 4.0, "ivmq": 1 / 3}.get(family, 1.0)
    inverse = axes @ torch.diag_embed(1 / values) @ axes.mT
    lower = torch.linalg.cholesky(inverse)
    return packed(lower, form).to(centers.dtype)


def lattice(
    dimensions: int, count: int, form: Form, family: Family
) -> tuple[Float[Tensor, "found d"], Float[Tensor, "found f"]]:
    """Centres on a regular lattice in the unit cube, at most `count`, and their factors.

    Kernels are half a spacing wide; tents reach to their neighbours, which is linear interpolation.
    """
    side = max(1, math.floor(count ** (1 / dimensions) + 1e-9))
    ticks = (torch.arange(side) + 0.5) / side
    centers = torch.cartesian_prod(*[ticks] * dimensions).view(-1, dimensions)
    factor = float(side if family == "nlin" else 2 * side)
    lower = factor * torch.eye(dimensions).expand(len(centers), -1, -1)
    return centers, packed(lower, form)


def packed(lower: Float[Tensor, "count d d"], form: Form) -> Float[Tensor, "count f"]:
    """The numbers of a lower triangle that `rbf_weights` takes."""
    dimensions = lower.shape[1]
    if form == "s":
        return lower[:, :1, 0]
    if form == "d":
        return lower.diagonal(dim1=1, dim2=2)
    rows, columns = torch.tril_indices(dimensions, dimensions, device=lower.device).unbind()
    return lower[:, rows, columns]


def kernels_within(parameters: int, channels: int, dimensions: int, form: Form) -> int:
    """How many kernels so many numbers make, centres and shapes counted.

    Raises InputError where it is none.
    """
    count = parameters // (channels + dimensions + factor_numbers(dimensions)[form])
    if count < 1:
        raise InputError("kernels", f"{parameters} parameters for them", "enough for one kernel")
    return count


def gradient_weights(image: Float[Tensor, "height width channels"]) -> Float[Tensor, " pixels"]:
    """How much an image varies at each pixel, row by row: the length of its Sobel gradient.

    Over all channels; borders are repeated. Source: NeuRBF (arXiv:2309.15426), section 3.3.
    """
    planes = image.permute(2, 0, 1)[:, None]
    kernel = image.new_tensor([[1.0, 2.0, 1.0]])
    slope = image.new_tensor([[-1.0, 0.0, 1.0]])
    across = (kernel.T @ slope / 8)[None, None]
    padded = torch.nn.functional.pad(planes, (1, 1, 1, 1), mode="replicate")
    both = torch.cat([across, across.mT])
    found = torch.nn.functional.conv2d(padded, both)
    return found.square().sum((0, 1)).sqrt().reshape(-1)


def _drawn(weights: Tensor, count: int, generator: Generator) -> Int[Tensor, " {count}"]:
    """Rows drawn by their weight; all of them, and more, where there are not enough."""
    # The largest of exponential numbers over weights: a draw without replacement of any size.
    random = torch.rand(len(weights), generator=generator, dtype=torch.float64)
    key = (-(random.clamp_min(1e-300)).log()).to(weights.device) / weights
    order = torch.argsort(key, stable=True)
    return order.repeat(-(-count // len(order)))[:count]


def _sums(label: Tensor, values: Tensor, count: int) -> Tensor:
    """Sums of rows by label, in float64 and in one order."""
    out = torch.zeros(count, values.shape[1], dtype=torch.float64, device=values.device)
    return out.index_add_(0, label, values)
