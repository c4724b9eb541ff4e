"""Radial basis functions: weights of the nearest kernels, and features blended by them (NeuRBF)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from polyfield.cuda.backend import backend_of
from polyfield.cuda.errors import InputError
from polyfield.cuda.kernel import constant, kernel, launch
from polyfield.cuda.large_pages import in_large_pages
from polyfield.cuda.operator import define

CHANNELS = 8  # features that lie side by side
EPSILON = 1e-8  # added to the sum of weights

Family = Literal[
    "ivq", "ivmq", "gauss", "sgauss2", "nsgauss2", "markov", "ivd", "ivc", "expsin",
    "qd", "mqd", "phs1", "phs3", "vep", "nlin",
]  # fmt: skip
FAMILIES: tuple[Family, ...] = get_args(Family)


def factor_numbers(dimensions: int) -> dict[str, int]:
    """How many numbers a kernel's shape has: s, alike along all axes; d, one an axis; a, any."""
    return {"s": 1, "d": dimensions, "a": dimensions * (dimensions + 1) // 2}


def rbf_weights(
    x: Float[Tensor, "n d"],
    centers: Float[Tensor, "count d"],
    factors: Float[Tensor, "count form"],
    index: Int[Tensor, "n k"],
    family: Family,
    normalize: bool = True,
) -> Float[Tensor, "n k"]:
    """What each of a point's kernels weighs: phi, or its part of the sum of the neighbours' phi.

    factors: L of the shape S = L L^T, an inverse squared width: one number (L is a multiple of the
    identity), d (diagonal) or d (d + 1) / 2 (lower triangle, row by row). phi is a function of
    q = |L^T (x - center)|^2, see `phi_of`, or for "nlin" the tent prod_j max(0, 1 - |u_j|) of
    u = L^T (x - center). index: rows of the kernels, from `nearest`; -1 for none, which weighs 0.
    Differentiable once in x, centers and factors, through the sum as well. Dimensions 2 and 3 in
    float32 run on kernels, the rest on the reference. Source: NeuRBF (arXiv:2309.15426).
    """
    if family not in FAMILIES:
        raise InputError("family of kernels", repr(family)[:80], f"one of {', '.join(FAMILIES)}")
    dimensions, form = x.shape[1], factors.shape[1]
    if form not in factor_numbers(dimensions).values():
        expected = f"{sorted(set(factor_numbers(dimensions).values()))} numbers"
        raise InputError("factors of kernels", f"{form} numbers", expected)
    on_kernels = backend_of(x.device) != "reference" and x.dtype == torch.float32
    if not on_kernels or dimensions not in (2, 3):
        return rbf_weights_reference(x, centers, factors, index, family, normalize)
    number = FAMILIES.index(family)
    return _Weights.apply(x, centers, factors, index, number, normalize)


def rbf_weights_reference(
    x: Float[Tensor, "n d"],
    centers: Float[Tensor, "count d"],
    factors: Float[Tensor, "count form"],
    index: Int[Tensor, "n k"],
    family: Family,
    normalize: bool = True,
) -> Float[Tensor, "n k"]:
    """The specification in plain torch, for any dimensions and floating type."""
    rows, present = index.long().clamp_min(0), index >= 0
    off = x[:, None] - centers[rows]
    u = _local(off, factors[rows])
    if family == "nlin":
        phi = (1 - u.abs()).clamp(0, 1).prod(2)
    else:
        phi = phi_of(family, u.square().sum(2))
    phi = torch.where(present, phi, torch.zeros_like(phi))
    return phi / (phi.sum(1, keepdim=True) + EPSILON) if normalize else phi


def phi_of(family: Family, q: Tensor) -> Tensor:
    """A family's value at q >= 0, the squared distance in widths. Not of "nlin", which has no q."""
    safe = torch.where(q > 0, q, torch.ones_like(q))
    root = torch.where(q > 0, safe.sqrt(), torch.zeros_like(q))  # its slope at 0 is taken for 0
    values = {
        "ivq": lambda: 1 / (1 + q),
        "ivmq": lambda: (1 + q).rsqrt(),
        "gauss": lambda: (-q / 2).exp(),
        "sgauss2": lambda: (-((q / 2) ** 2)).exp(),
        "nsgauss2": lambda: (-q).exp(),
        "markov": lambda: (-root).exp(),
        "ivd": lambda: 1 / (root + 1e-10),
        "ivc": lambda: 1 / (q * root + 1e-30),
        "expsin": lambda: (-root.sin()).exp(),
        "qd": lambda: 1 + q,
        "mqd": lambda: (1 + q).sqrt(),
        "phs1": lambda: root,
        "phs3": lambda: q * root,
        "vep": lambda: 1 - q,
    }
    return values[family]()


def rbf_blend(
    weights: Float[Tensor, "n k"],
    index: Int[Tensor, "n k"],
    features: Float[Tensor, "blocks count 8"],
    frequencies: Float[Tensor, "blocks 8"],
) -> Float[Tensor, "n blocks*8"]:
    """Features of the kernels, each channel by a basis of its own: sum_j w_j,c g_c(psi_j).

    g_c is the weight psi itself where the channel's frequency m_c is 0, else sin(m_c psi), in
    radians: one weight gives as many waves as there are channels. Channels lie in blocks of 8.
    index -1: no kernel. Differentiable once in weights and features. float32 runs on kernels; on a
    CPU sums repeat bit for bit for any number of threads. Source: NeuRBF (arXiv:2309.15426).
    """
    if backend_of(weights.device) == "reference" or weights.dtype != torch.float32:
        return rbf_blend_reference(weights, index, features, frequencies)
    return _Blend.apply(weights, index, features, frequencies)


def rbf_blend_reference(
    weights: Float[Tensor, "n k"],
    index: Int[Tensor, "n k"],
    features: Float[Tensor, "blocks count 8"],
    frequencies: Float[Tensor, "blocks 8"],
) -> Float[Tensor, "n blocks*8"]:
    """The specification in plain torch, any floating type."""
    m = frequencies.reshape(-1)
    held = features[:, index.long().clamp_min(0)].permute(1, 2, 0, 3).flatten(2)  # [n, k, channels]
    waves = torch.where(m > 0, (weights[..., None] * m).sin(), weights[..., None])
    return (torch.where(index[..., None] >= 0, waves, torch.zeros_like(waves)) * held).sum(1)


@torch.no_grad()
def scatter_rbf(
    weights: Float[Tensor, "n k"],
    index: Int[Tensor, "n k"],
    frequencies: Float[Tensor, "blocks 8"],
    grad_out: Float[Tensor, "n blocks*8"],
    out: Float[Tensor, "blocks count 8"],
) -> None:
    """Adds to `out` the gradient to the features of (rbf_blend(...) . grad_out)."""
    if backend_of(weights.device) == "reference" or weights.dtype != torch.float32:
        with torch.enable_grad():
            leaf = torch.zeros_like(out).requires_grad_()
            blended = rbf_blend_reference(weights, index, leaf, frequencies)
        out += torch.autograd.grad(blended, leaf, grad_out)[0]
        return
    tensors = weights, index, frequencies, grad_out
    sizes = *weights.shape, out.shape[1], len(out)
    body, grid = kernel("rbf", "RbfScatter"), (_tiles(weights), len(out))
    launch(body, grid, *_contiguous(tensors), out, *sizes, rows="owned")


def _local(off: Tensor, factors: Tensor) -> Tensor:
    """u = L^T off, for offsets [n, k, d]."""
    dimensions, form = off.shape[-1], factors.shape[-1]
    if form in (1, dimensions):
        return factors * off
    u = []
    for j in range(dimensions):
        parts = [factors[..., i * (i + 1) // 2 + j] * off[..., i] for i in range(j, dimensions)]
        u.append(sum(parts[1:], parts[0]))
    return torch.stack(u, -1)


def _tiles(x: Tensor) -> int:
    return -(-len(x) // constant("rbf", "RBF_POINTS"))


def _contiguous(tensors: tuple[Tensor, ...]) -> list[Tensor]:
    return [tensor.contiguous() for tensor in tensors]


def _body(name: str, x: Tensor, factors: Tensor) -> str:
    return f"{name}<{x.shape[1]}, {factors.shape[1]}>"


def _run_weights(
    x: Tensor, centers: Tensor, factors: Tensor, index: Tensor, family: int, normalize: bool
) -> Tensor:
    out = x.new_empty(index.shape)
    inputs = _contiguous((x, centers, factors, index))
    body = kernel("rbf", _body("RbfWeights", x, factors))
    launch(body, (_tiles(x), 1), *inputs, out, *index.shape, family, int(normalize))
    return out


def _run_weights_pull(
    x: Tensor,
    centers: Tensor,
    factors: Tensor,
    index: Tensor,
    weights: Tensor,
    grad: Tensor,
    family: int,
    normalize: bool,
    of_kernels: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    inputs = _contiguous((x, centers, factors, index, weights, grad))
    grads = _pulled(x, factors, index, of_kernels)
    wanted = [grad if grad.numel() or not len(x) else None for grad in grads]
    body = kernel("rbf", _body("RbfWeightsPull", x, factors))
    launch(body, (_tiles(x), 1), *inputs, *wanted, *index.shape, family, int(normalize))
    return grads


def _pulled(
    x: Tensor, factors: Tensor, index: Tensor, of_kernels: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Room for the gradient to x, and for each neighbour's to its centre and factor, or none."""
    n, k = index.shape
    shares = n if of_kernels else 0
    return (
        x.new_empty(x.shape),
        x.new_empty(shares, k, x.shape[1]),
        x.new_empty(shares, k, factors.shape[1]),
    )


def _run_blend(weights: Tensor, index: Tensor, features: Tensor, frequencies: Tensor) -> Tensor:
    blocks, count = features.shape[:2]
    out = weights.new_empty(len(weights), blocks * CHANNELS)
    inputs = _contiguous((weights, index, features, frequencies))
    body = kernel("rbf", "RbfBlend")
    launch(body, (_tiles(weights), 1), *inputs, out, *weights.shape, count, blocks)
    return out


def _run_scatter(
    weights: Tensor, index: Tensor, frequencies: Tensor, grad: Tensor, count: int
) -> Tensor:
    out = weights.new_empty(len(frequencies), count, CHANNELS)
    out = in_large_pages(out).zero_()
    scatter_rbf(weights, index, frequencies, grad, out)
    return out


def _run_pull(
    weights: Tensor, index: Tensor, features: Tensor, frequencies: Tensor, grad: Tensor
) -> Tensor:
    blocks, count = features.shape[:2]
    out = torch.empty_like(weights, memory_format=torch.contiguous_format)
    inputs = _contiguous((weights, index, features, frequencies, grad))
    body = kernel("rbf", "RbfPull")
    launch(body, (_tiles(weights), 1), *inputs, out, *weights.shape, count, blocks)
    return out


_weights = define(
    "rbf_weights(Tensor x, Tensor centers, Tensor factors, Tensor index, int family, "
    "bool normalize) -> Tensor",
    _run_weights,
    lambda x, centers, factors, index, family, normalize: x.new_empty(index.shape),
)
_weights_pull = define(
    "rbf_weights_pull(Tensor x, Tensor centers, Tensor factors, Tensor index, Tensor weights, "
    "Tensor grad, int family, bool normalize, bool of_kernels) -> (Tensor, Tensor, Tensor)",
    _run_weights_pull,
    lambda x, centers, factors, index, weights, grad, family, normalize, of_kernels: _pulled(
        x, factors, index, of_kernels
    ),
)
_blend = define(
    "rbf_blend(Tensor weights, Tensor index, Tensor features, Tensor frequencies) -> Tensor",
    _run_blend,
    lambda weights, index, features, frequencies: weights.new_empty(
        weights.shape[0], features.shape[0] * CHANNELS
    ),
)
_scatter = define(
    "rbf_scatter(Tensor weights, Tensor index, Tensor frequencies, Tensor grad, int count) "
    "-> Tensor",
    _run_scatter,
    lambda weights, index, frequencies, grad, count: weights.new_empty(
        frequencies.shape[0], count, CHANNELS
    ),
)
_pull = define(
    "rbf_pull(Tensor weights, Tensor index, Tensor features, Tensor frequencies, Tensor grad) "
    "-> Tensor",
    _run_pull,
    lambda weights, index, features, frequencies, grad: torch.empty_like(
        weights, memory_format=torch.contiguous_format
    ),
)


class _Weights(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, centers, factors, index, family, normalize) -> Tensor:
        weights = _weights(x, centers, factors, index, family, normalize)
        ctx.save_for_backward(x, centers, factors, index, weights)
        ctx.choice = family, normalize
        return weights

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        x, centers, factors, index, weights = ctx.saved_tensors
        of_kernels = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        inputs = x, centers, factors, index, weights, grad
        grad_x, of_centers, of_factors = _weights_pull(*inputs, *ctx.choice, of_kernels)
        if not of_kernels:
            return grad_x, None, None, None, None, None
        sums = (_summed(of_centers, index, centers), _summed(of_factors, index, factors))
        return grad_x, *sums, None, None, None


def _summed(shares: Tensor, index: Tensor, kernels: Tensor) -> Tensor:
    """The shares of a kernel's neighbours together; in one order on a CPU, so that bits repeat."""
    # What belongs to no kernel goes to a row behind the last.
    rows = torch.where(index >= 0, index.long(), len(kernels)).reshape(-1)
    out = kernels.new_zeros(len(kernels) + 1, kernels.shape[1])
    return out.index_add_(0, rows, shares.reshape(-1, kernels.shape[1]))[:-1]


class _Blend(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weights, index, features, frequencies) -> Tensor:
        ctx.save_for_backward(weights, index, features, frequencies)
        return _blend(weights, index, features, frequencies)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        weights, index, features, frequencies = ctx.saved_tensors
        wanted, count = ctx.needs_input_grad, features.shape[1]
        pull = _pull(weights, index, features, frequencies, grad) if wanted[0] else None
        scatter = _scatter(weights, index, frequencies, grad, count) if wanted[2] else None
        return pull, None, scatter, None
