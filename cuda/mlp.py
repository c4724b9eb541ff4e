"""Small multilayer perceptrons without biases, the decoders of neural fields."""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import functional

from polyfield.cuda.backend import backend_of
from polyfield.cuda.errors import InputError
from polyfield.cuda.kernel import Kernel, constant, kernel, launch
from polyfield.cuda.operator import define

ACTIVATIONS = {"none": 0, "relu": 1, "silu": 2, "softplus": 3}  # the numbers of kernels/mlp.cuh
OUTPUT_ACTIVATIONS = {"none": 0, "sigmoid": 4, "truncated_exp": 5}
MOST_MATRICES = 6
SLICES = 16  # of the points, or rays, that gradients of weights are summed in, whatever threads do


def mlp(
    x: Float[Tensor, "n inputs"],
    weights: Float[Tensor, " parameters"],
    widths: tuple[int, ...],
    activation: str = "relu",
    output_activation: str = "none",
) -> Float[Tensor, "n outputs"]:
    """Passes n points through dense layers without biases; differentiable in x and weights.

    weights: the matrices in order, each [out, in] row-major, concatenated, as in tiny-cuda-nn.
    widths: (inputs, hidden..., outputs): 1 to 6 matrices, hidden widths multiples of 16 up to 128,
    inputs and outputs at least 1. activation, after every matrix but the last: "none", "relu",
    "silu" or "softplus". output_activation: "none", "sigmoid", or "truncated_exp": exp(z) with the
    gradient exp(clamp(z, -15, 15)), as in Instant NGP (arXiv:2201.05989). On a CPU values and
    gradients do not depend on the number of threads. Raises InputError for what does not fit.
    """
    _check(x, weights, widths, activation, output_activation)
    single = x.dtype == weights.dtype == torch.float32
    if backend_of(x.device) == "reference" or not single:
        return mlp_reference(x, weights, widths, activation, output_activation)
    kinds = ACTIVATIONS[activation], OUTPUT_ACTIVATIONS[output_activation]
    if torch.is_grad_enabled() and (x.requires_grad or weights.requires_grad):
        return _Mlp.apply(x, weights, list(widths), *kinds, x.requires_grad)
    return _forward(x, weights, list(widths), *kinds)


def mlp_reference(
    x: Float[Tensor, "n inputs"],
    weights: Float[Tensor, " parameters"],
    widths: tuple[int, ...],
    activation: str = "relu",
    output_activation: str = "none",
) -> Float[Tensor, "n outputs"]:
    """The specification in plain torch, in any floating type; arguments as for mlp."""
    _check(x, weights, widths, activation, output_activation)
    hidden = {
        "none": lambda z: z,
        "relu": torch.relu,
        "silu": functional.silu,
        "softplus": lambda z: torch.logaddexp(z, torch.zeros_like(z)),
    }
    matrices = _matrices(weights, list(pairwise(widths)))
    for matrix in matrices[:-1]:
        x = hidden[activation](x @ matrix.T)
    z = x @ matrices[-1].T
    if output_activation == "sigmoid":
        return torch.sigmoid(z)
    return truncated_exponential(z) if output_activation == "truncated_exp" else z


def truncated_exponential(z: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """exp(z), with the gradient exp(clamp(z, -15, 15)): that of a large z would ruin the weights.

    Source: Instant-NGP (arXiv:2201.05989).
    """
    return _TruncatedExp.apply(z)


def initial_weights(widths: tuple[int, ...], generator: Generator | None = None) -> Tensor:
    """Weights [parameters] on the CPU, uniform within +-sqrt(6 / (in + out)) (Xavier, Glorot)."""
    check_widths(widths)
    # Filled part by part: on the device "meta" torch.cat loads torch's compiler, for seconds.
    weights = torch.empty(parameter_count(widths))
    begin = 0
    for inputs, outputs in pairwise(widths):
        bound = math.sqrt(6 / (inputs + outputs))
        part = weights[begin : begin + inputs * outputs]
        part.uniform_(-bound, bound, generator=generator)
        begin += inputs * outputs
    return weights


def parameter_count(widths: tuple[int, ...]) -> int:
    """How many weights the matrices of these widths have."""
    return sum(inputs * outputs for inputs, outputs in pairwise(widths))


def check_widths(widths: tuple[int, ...]) -> None:
    """InputError for widths that `mlp` does not take."""
    hidden_fit = all(16 <= width <= 128 and width % 16 == 0 for width in widths[1:-1])
    fit = 2 <= len(widths) <= MOST_MATRICES + 1 and widths[0] >= 1 and widths[-1] >= 1
    if not (fit and hidden_fit):
        expected = "2 to 7 widths, inputs and outputs at least 1, hidden ones 16, 32, ... 128"
        raise InputError("mlp: widths", str(tuple(widths)), expected)


def _check(
    x: Tensor, weights: Tensor, widths: tuple[int, ...], activation: str, output: str
) -> None:
    check_widths(widths)
    if activation not in ACTIVATIONS:
        raise InputError("mlp: activation", repr(activation), f"one of {list(ACTIVATIONS)}")
    if output not in OUTPUT_ACTIVATIONS:
        raise InputError(
            "mlp: output_activation", repr(output), f"one of {list(OUTPUT_ACTIVATIONS)}"
        )
    if x.ndim != 2 or x.shape[1] != widths[0]:
        raise InputError(
            "mlp: x", f"shape {tuple(x.shape)}", f"[n, {widths[0]}], widths[0] columns"
        )
    if weights.ndim != 1 or weights.shape[0] != parameter_count(widths):
        expected = f"[{parameter_count(widths)}], all matrices of widths {tuple(widths)}"
        raise InputError("mlp: weights", f"shape {tuple(weights.shape)}", expected)


def _matrices(weights: Tensor, sizes: list[tuple[int, int]]) -> list[Tensor]:
    parts = weights.split([inputs * outputs for inputs, outputs in sizes])
    shapes = zip(parts, sizes, strict=True)
    return [part.view(outputs, inputs) for part, (inputs, outputs) in shapes]


@cache
def _widths_on(widths: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(widths, dtype=torch.int32, device=device)


def _kernel(body: str, widths: list[int]) -> tuple[Kernel, int]:
    """The body for these hidden widths, and the points in one of its tiles."""
    wide = max(widths[1:-1], default=0) > 64
    points = 32 if wide else 64
    return kernel("mlp", f"{body}<{128 if wide else 64}, {points}>"), points


def transposed(
    weights: Float[Tensor, " parameters"], sizes: list[tuple[int, int]]
) -> Float[Tensor, " parameters"]:
    """Matrices of (inputs, outputs) in order, each turned from [out, in] to [in, out]."""
    return torch.cat([matrix.T.reshape(-1) for matrix in _matrices(weights, sizes)])


def _evaluate(
    x: Tensor, weights: Tensor, widths: list[int], activation: int, output: int
) -> Tensor:
    x, n = x.contiguous(), x.shape[0]
    out = x.new_empty(n, widths[-1])
    body, points = _kernel("MlpForward", widths)
    launch(
        body, (-(-n // points), 1), x, transposed(weights, list(pairwise(widths))),
        _widths_on(tuple(widths), x.device), out, n, len(widths) - 1, activation, output,
    )  # fmt: skip
    return out


def _evaluate_backward(
    x: Tensor, weights: Tensor, out: Tensor, grad: Tensor,
    widths: list[int], activation: int, output: int, want_x: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    x, weights, grad, n = x.contiguous(), weights.contiguous(), grad.contiguous(), x.shape[0]
    grad_x = torch.empty_like(x) if want_x else x.new_empty(0)
    slices = weights.new_zeros(SLICES, weights.shape[0])
    body, points = _kernel("MlpBackward", widths)
    tiles = -(-n // (points * SLICES))
    # A slice's tiles share one room for hidden values where one thread runs them in order.
    rooms = 1 if backend_of(x.device) in ("cpu", "reversed") else tiles
    hidden = x.new_empty(SLICES * rooms * points * sum(widths[1:-1]))
    launch(
        body, (tiles, SLICES), x, weights, transposed(weights, list(pairwise(widths))),
        _widths_on(tuple(widths), x.device), hidden, out, grad, torch.empty_like(grad),
        grad_x if want_x else None, slices, n, len(widths) - 1, activation, output, tiles, rooms,
        sum(widths[1:-1]), weights.shape[0], rows="owned",
    )  # fmt: skip
    return grad_x, sum_slices(slices)


def sum_slices(slices: Float[Tensor, "slices parameters"]) -> Float[Tensor, " parameters"]:
    """The sum of gradients that were taken in slices of the points, in the order of the slices."""
    total = torch.empty_like(slices[0])
    grid = -(-len(total) // constant("mlp", "MLP_SUMMED")), 1
    launch(kernel("mlp", "MlpSumSlices"), grid, slices, total, len(slices), len(total))
    return total


def _fake_backward(x, weights, out, grad, widths, activation, output, want_x):
    grad_x = x.new_empty(x.shape) if want_x else x.new_empty(0)
    return grad_x, weights.new_empty(weights.shape)


_forward = define(
    "mlp(Tensor x, Tensor weights, int[] widths, int activation, int output_activation) -> Tensor",
    _evaluate,
    lambda x, weights, widths, activation, output: x.new_empty(x.shape[0], widths[-1]),
)
_backward = define(
    "mlp_backward(Tensor x, Tensor weights, Tensor out, Tensor grad, int[] widths,"
    " int activation, int output_activation, bool want_x) -> (Tensor, Tensor)",
    _evaluate_backward,
    _fake_backward,
)


class _Mlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weights, widths, activation, output_activation, want_x):
        ctx.kinds = widths, activation, output_activation, want_x
        out = _forward(x, weights, widths, activation, output_activation)
        ctx.save_for_backward(x, weights, out)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        grad_x, grad_weights = _backward(*ctx.saved_tensors, grad, *ctx.kinds)
        return grad_x if ctx.kinds[-1] else None, grad_weights, None, None, None, None


class _TruncatedExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return torch.exp(z)

    @staticmethod
    def backward(ctx, grad):
        return grad * torch.exp(ctx.saved_tensors[0].clamp(-15, 15))
