"""Races of what follows the encoding: the small network and compositing."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from itertools import pairwise

import torch
from torch import Tensor, nn

from polyfield.apps.bench_race import Absent, Race
from polyfield.cuda.composite import composite
from polyfield.cuda.mlp import initial_weights, mlp

WIDTHS = (32, 64, 64, 3)


def mlp_against_torch(points: int = 131_072) -> Race:
    """Network 32-64-64-3 with ReLU: values, and the gradients of weights and of its input."""
    random = torch.Generator().manual_seed(0)
    weights = initial_weights(WIDTHS, random)
    x = 2 * torch.rand(points, WIDTHS[0], generator=random) - 1
    grad = torch.randn(points, WIDTHS[-1], generator=random)
    x.requires_grad_(), weights.requires_grad_()
    layers = linear_layers(weights.detach())
    matrices = [layer.weight for layer in layers if isinstance(layer, nn.Linear)]

    def ours() -> tuple[Tensor, ...]:
        values = mlp(x, weights, WIDTHS)
        return values.detach(), *torch.autograd.grad(values, [x, weights], grad)

    def theirs() -> tuple[Tensor, ...]:
        values = layers(x)
        return values.detach(), *torch.autograd.grad(values, [x, *matrices], grad)

    def read(result: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        values, grad_x, *rest = result
        return values, grad_x, torch.cat([matrix.reshape(-1) for matrix in rest])

    return Race("torch", str(torch.__version__), ours, theirs, 1e-4, read)


def linear_layers(weights: Tensor) -> nn.Sequential:
    """The same network of torch.nn.Linear without biases; its ReLUs work in place."""
    shapes = list(pairwise(WIDTHS))
    layers: list[nn.Module] = []
    parts = weights.split([inputs * outputs for inputs, outputs in shapes])
    for (inputs, outputs), part in zip(shapes, parts, strict=True):
        linear = nn.Linear(inputs, outputs, bias=False)
        linear.weight.data.copy_(part.reshape(outputs, inputs))
        layers += [linear, nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])


def composite_against_nerfacc(rays: int = 4096, samples: int = 64) -> Race:
    """Colours of rays, and the gradients of density and colour; nerfacc in its batched form.

    All rays have the same number of samples: what the batched form is made for.
    """
    try:
        nerfacc = import_module("nerfacc")
    except ImportError as error:
        raise Absent(f"{error}; pip install 'polyfield[bench]'") from error
    random = torch.Generator().manual_seed(0)
    density = (4 * torch.rand(rays, samples, generator=random)).requires_grad_()
    color = torch.rand(rays, samples, 3, generator=random).requires_grad_()
    edges = (2 * torch.rand(rays, samples + 1, generator=random)).sort(1).values
    starts, ends = edges[:, :-1].contiguous(), edges[:, 1:].contiguous()
    grad = torch.randn(rays, 3, generator=random)
    packed_density = density.detach().reshape(-1).requires_grad_()
    packed_color = color.detach().reshape(-1, 3).requires_grad_()
    length = (ends - starts).reshape(-1)
    offsets = (torch.arange(rays + 1) * samples).int()

    def ours() -> tuple[Tensor, ...]:
        values = composite(packed_density, length, packed_color, offsets).values
        gradients = torch.autograd.grad(values, [packed_density, packed_color], grad)
        return values.detach(), *gradients

    def theirs() -> tuple[Tensor, ...]:
        weights, _, _ = nerfacc.render_weight_from_density(starts, ends, density)
        values = nerfacc.accumulate_along_rays(weights, color)
        return values.detach(), *torch.autograd.grad(values, [density, color], grad)

    def read(result: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        values, grad_density, grad_color = result
        return values, grad_density.reshape(-1), grad_color.reshape(-1, 3)

    return Race("nerfacc", version("nerfacc"), ours, theirs, 1e-4, read)
