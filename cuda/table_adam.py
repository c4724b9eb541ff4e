"""Adam for feature tables, where most entries have no gradient, and for a few dense weights."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from polyfield.cuda.backend import backend_of
from polyfield.cuda.errors import InputError
from polyfield.cuda.hash_grid import (
    HashGridLayout,
    hash_grid_reference,
    kernel_of,
    level_tensors,
    owners_of_a_level,
    tiles_of,
)
from polyfield.cuda.kernel import constant, kernel, launch


@torch.no_grad()
def hash_grid_adam_(
    table: Float[Tensor, "{layout.entries} {layout.features}"],
    first_moment: Float[Tensor, "{layout.entries} {layout.features}"],
    second_moment: Float[Tensor, "{layout.entries} {layout.features}"],
    steps: Int[Tensor, "{layout.entries} {layout.features}"] | None,
    x: Float[Tensor, "n {layout.dimensions}"],
    grad_out: Float[Tensor, "n {layout.width}"],
    layout: HashGridLayout,
    scratch: Float[Tensor, "{layout.entries} {layout.features}"],
    rate: float,
    step: int,
    betas: tuple[float, float] = (0.9, 0.99),
    eps: float = 1e-15,
    kept: Bool[Tensor, " n"] | None = None,
) -> None:
    """One step of lazy Adam on a hash grid's table, from the gradient of its features, in place.

    grad_out: the gradient with respect to `hash_grid(x, table, layout)`; x is clamped to the unit
    cube. kept: points that count, all if None; the gradients of others are not read. scratch: zeros
    before and after the call, kept by the caller between calls; it holds the gradient while it is
    summed. A number of the table whose gradient is exactly zero keeps its
    bits, moments included (no decay). Bias is corrected by `step` (from 1), or, where steps
    [entries, features] int32 is given, by each number's own count of visits, which is advanced.
    On a CPU a thread sums a level and steps it while it lies in the cache; results repeat bit for
    bit for any number of threads. Raises InputError for step < 1. Source: Adam (arXiv:1412.6980),
    tiny-cuda-nn's treatment of zero gradients.
    """
    _check_step(step)
    if backend_of(x.device) == "reference" or table.dtype != torch.float32:
        with torch.enable_grad():
            leaf = table.detach().requires_grad_()
            if kept is not None:
                x, grad_out = x[kept], grad_out[kept]
            features = hash_grid_reference(x.detach(), leaf, layout)
            (grad,) = torch.autograd.grad(features, leaf, grad_out)
        lazy_adam_reference_(
            table, grad, first_moment, second_moment, steps, rate, step, betas, eps
        )
        return
    state = table, first_moment, second_moment, steps
    x, grad_out = x.contiguous(), grad_out.contiguous()
    numbers = _numbers(rate, step, betas, eps)
    tiles, parts = tiles_of(x), owners_of_a_level(layout, x.device)
    fused = backend_of(x.device) in ("cpu", "reversed")
    arguments = x, grad_out, None, kept, scratch, *state, *level_tensors(layout, x.device)
    strides = layout.width, layout.features  # of grad_out: to the next point, to the next level
    sizes = len(x), layout.levels, int(layout.smoothstep), parts, *strides
    grid = tiles + fused, layout.levels * parts
    launch(kernel_of("HashScatter", layout), grid, *arguments, *sizes, *numbers, rows="owned")
    if not fused:
        tiles = -(-table.numel() // constant("adam", "ADAM_NUMBERS"))
        body = kernel("adam", "LazyAdam")
        launch(body, (tiles, 1), *state, scratch, table.numel(), *numbers)


@torch.no_grad()
def lazy_adam_(
    value: Float[Tensor, "*shape"],
    grad: Float[Tensor, "*shape"],
    first_moment: Float[Tensor, "*shape"],
    second_moment: Float[Tensor, "*shape"],
    rate: float,
    step: int,
    betas: tuple[float, float] = (0.9, 0.99),
    eps: float = 1e-15,
) -> None:
    """One step of Adam where the gradient is not exactly zero, in place; it is zeroed on the way.

    A number without gradient keeps its bits, moments included. step counts from 1. Raises
    InputError for step < 1. Source: Adam (arXiv:1412.6980).
    """
    _check_step(step)
    if backend_of(value.device) == "reference" or value.dtype != torch.float32:
        moments = first_moment, second_moment
        lazy_adam_reference_(value, grad, *moments, None, rate, step, betas, eps)
        grad.zero_()
        return
    tiles = -(-value.numel() // constant("adam", "ADAM_NUMBERS"))
    state = value, first_moment, second_moment, None, grad, value.numel()
    launch(kernel("adam", "LazyAdam"), (tiles, 1), *state, *_numbers(rate, step, betas, eps))


@torch.no_grad()
def lazy_adam_reference_(
    value: Tensor,
    grad: Tensor,
    first_moment: Tensor,
    second_moment: Tensor,
    steps: Tensor | None,
    rate: float,
    step: int,
    betas: tuple[float, float],
    eps: float,
) -> None:
    """What a lazy step is, in place: Adam where grad is not zero, nothing elsewhere."""
    touched = grad != 0
    g = grad[touched]
    count: int | Tensor = step
    if steps is not None:
        steps[touched] += 1
        count = steps[touched].to(value.dtype)
    m = betas[0] * first_moment[touched] + (1 - betas[0]) * g
    v = betas[1] * second_moment[touched] + (1 - betas[1]) * g * g
    first_moment[touched], second_moment[touched] = m, v
    length = rate / (1 - betas[0] ** count)
    value[touched] -= length * m / ((v / (1 - betas[1] ** count)).sqrt() + eps)


@torch.no_grad()
def row_adam_(
    value: Float[Tensor, "n w"],
    grad: Float[Tensor, "n w"],
    first_moment: Float[Tensor, "n w"],
    second_moment: Float[Tensor, "n w"],
    rates: Float[Tensor, " w"],
    step: int,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-15,
) -> None:
    """One step of Adam on rows whose gradient is not all zero, in place.

    rates: of each column. Other rows keep their bits, moments included. step counts from 1. Raises
    InputError for step < 1, or rows of more than 1,024 numbers. Source: Adam (arXiv:1412.6980).
    """
    _check_step(step)
    if backend_of(value.device) == "reference" or value.dtype != torch.float32:
        rows = (grad != 0).any(1)
        m = betas[0] * first_moment[rows] + (1 - betas[0]) * grad[rows]
        v = betas[1] * second_moment[rows] + (1 - betas[1]) * grad[rows].square()
        size = (v / (1 - betas[1] ** step)).sqrt() + eps
        value[rows] -= rates * (m / (1 - betas[0] ** step)) / size
        first_moment[rows], second_moment[rows] = m, v
        return
    in_a_tile = constant("adam", "ADAM_NUMBERS") // value.shape[1]
    if not in_a_tile:
        raise InputError("Adam: width of a row", str(value.shape[1]), "at most 1,024")
    grid = -(-len(value) // in_a_tile), 1
    state = value, first_moment, second_moment, grad, rates.contiguous(), *value.shape
    # As the kernel has them: 1 - 0.999 of float32 is off by 5e-5, which corrections have to follow.
    single = [float(np.float32(beta)) for beta in betas]
    corrections = [1 / (1 - beta**step) for beta in single]
    launch(kernel("adam", "RowAdam"), grid, *state, *single, eps, *corrections)


@torch.no_grad()
def adam_(
    parameter: Float[Tensor, "*shape"],
    grad: Float[Tensor, "*shape"],
    first_moment: Float[Tensor, "*shape"],
    second_moment: Float[Tensor, "*shape"],
    rate: float,
    step: int,
    betas: tuple[float, float] = (0.9, 0.99),
    eps: float = 1e-15,
    weight_decay: float = 0.0,
) -> None:
    """One step of Adam on every number of a tensor, in place; step counts from 1.

    weight_decay: L2, added to the gradient as decay * parameter (not decoupled). Plain torch on any
    device: meant for the few thousand weights of a network. Raises InputError for step < 1.
    Source: Adam (arXiv:1412.6980).
    """
    _check_step(step)
    if weight_decay:
        grad = grad + weight_decay * parameter
    first_moment.lerp_(grad, 1 - betas[0])
    second_moment.mul_(betas[1]).addcmul_(grad, grad, value=1 - betas[1])
    size = (second_moment / (1 - betas[1] ** step)).sqrt_().add_(eps)
    parameter.addcdiv_(first_moment, size, value=-rate / (1 - betas[0] ** step))


def _check_step(step: int) -> None:
    if step < 1:
        raise InputError("Adam: step", str(step), "at least 1: the first step is number 1")


def _numbers(rate: float, step: int, betas: tuple[float, float], eps: float) -> tuple[float, ...]:
    corrections = (1 / (1 - beta**step) for beta in betas)
    return rate, *betas, eps, math.log(betas[0]), math.log(betas[1]), *corrections
