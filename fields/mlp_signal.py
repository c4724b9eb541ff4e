"""Networks of any signal that keep no table: sines throughout (SIREN), or random waves first."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from polyfield.cuda.errors import InputError
from polyfield.fields.signal import Signal

MOST_LAYERS, MOST_WIDTH, MOST_WAVES = 32, 1024, 4096
FITTED_WIDTH = 128  # a wider one sees too few samples within minutes on a CPU
OMEGA = 30.0
TURNS = 10.0  # standard deviation of random waves, a unit of position


@dataclass(frozen=True)
class MlpSignal:
    """Sizes of a network for any signal."""

    samples_per_step: ClassVar[int] = 1 << 13
    layers: int = 3
    """Hidden ones."""
    width: int = 128
    waves: int = 0
    """0: layers of sines (SIREN); else so many random waves of the position, then ReLU."""

    @classmethod
    def fitted(cls, dimensions: int, resolution: int, parameters: int) -> MlpSignal:
        """Sizes in at most that many numbers, whatever the details: the widest of such networks.

        A network need not fill the room: each of its numbers costs time at every sample.
        """
        for width in range(FITTED_WIDTH, 0, -1):
            sizes = replace(cls(), width=width)
            if _numbers(sizes, dimensions, 4) <= parameters:
                return sizes
        raise InputError("parameters", f"{parameters:,}", "more: no network is so small")


class Siren(nn.Module):
    """x [n, inputs], from -1 to 1 -> values [n, outputs]: sin(omega (W x + b)) again and again.

    The last layer is W x + b. Weights begin uniform within 1 / inputs in the first layer and within
    sqrt(6 / width) / omega in the others, so that what goes into every sine behind the first has
    standard deviation 1; biases within 1 / sqrt(width of the layer's input). Source: SIREN
    (arXiv:2006.09661), theorem 1.8, and its authors' code for the biases.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        width: int = 256,
        layers: int = 3,
        omega: float = OMEGA,
        *,
        generator: Generator | None = None,
    ):
        super().__init__()
        self.omega = omega
        dense = [nn.Linear(a, b) for a, b in pairwise([inputs, *[width] * layers, outputs])]
        with torch.no_grad():
            for number, layer in enumerate(dense):
                fan = layer.in_features
                bound = 1 / fan if number == 0 else (6 / fan) ** 0.5 / omega
                layer.weight.uniform_(-bound, bound, generator=generator)
                layer.bias.uniform_(-(fan**-0.5), fan**-0.5, generator=generator)
        self.layers = nn.ModuleList(dense)

    def forward(self, x: Float[Tensor, "n inputs"]) -> Float[Tensor, "n outputs"]:
        *hidden, last = self.layers
        for layer in hidden:
            x = torch.sin(self.omega * layer(x))
        return last(x)


class Centered(nn.Module):
    """x [n, d] in the unit cube -> from -1 to 1."""

    def __init__(self, dimensions: int):
        super().__init__()
        self.dimensions = self.width = dimensions

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return 2 * x - 1


class RandomFourier(nn.Module):
    """x [n, d] -> cos and sin of 2 pi B x [n, 2 * count], B drawn once from a normal distribution.

    scale: its standard deviation, in turns a unit of x; about 10 suits photographs on the unit
    square. B is kept with the parameters and not learned. Source: Fourier Features Let Networks
    Learn High Frequency Functions (arXiv:2006.10739).
    """

    directions: Tensor

    def __init__(
        self,
        dimensions: int,
        count: int = 256,
        scale: float = TURNS,
        *,
        generator: Generator | None = None,
    ):
        super().__init__()
        self.dimensions, self.width = dimensions, 2 * count
        drawn = torch.empty(count, dimensions).normal_(0, scale, generator=generator)
        self.register_buffer("directions", drawn)

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n {self.width}"]:
        angles = 2 * math.pi * x @ self.directions.T
        return torch.cat([angles.cos(), angles.sin()], 1)


class DenseDecoder(nn.Module):
    """Dense layers with biases and ReLU between them, none behind the last."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        width: int = 256,
        layers: int = 3,
        *,
        generator: Generator | None = None,
    ):
        super().__init__()
        dense = [nn.Linear(a, b) for a, b in pairwise([inputs, *[width] * layers, outputs])]
        for layer in dense:
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(layer.bias)
        self.layers = nn.ModuleList(dense)

    def forward(self, z: Float[Tensor, "n inputs"]) -> Float[Tensor, "n outputs"]:
        *hidden, last = self.layers
        for layer in hidden:
            z = torch.relu_(layer(z))
        return last(z)


def mlp_signal(
    arguments: MlpSignal, dimensions: int, channels: int, generator: Generator | None = None
) -> Signal:
    """A network of sines, or of random waves and ReLU. InputError for sizes out of range."""
    limits = {"layers": (1, MOST_LAYERS), "width": (1, MOST_WIDTH), "waves": (0, MOST_WAVES)}
    for name, (least, most) in limits.items():
        if not least <= (value := getattr(arguments, name)) <= most:
            raise InputError(f"field mlp: {name}", str(value)[:80], f"{least} to {most}")
    size = arguments.width, arguments.layers
    if arguments.waves:
        waves = RandomFourier(dimensions, arguments.waves, generator=generator)
        network = DenseDecoder(waves.width, channels, *size, generator=generator)
        return Signal(waves, network, learning_rate=2e-3)
    siren = Siren(dimensions, channels, *size, generator=generator)
    return Signal(Centered(dimensions), siren, learning_rate=1e-3)


def _numbers(sizes: MlpSignal, dimensions: int, channels: int) -> int:
    """That a file of it holds."""
    inputs = 2 * sizes.waves or dimensions
    widths = [inputs, *[sizes.width] * sizes.layers, channels]
    return sum((a + 1) * b for a, b in pairwise(widths)) + sizes.waves * dimensions
