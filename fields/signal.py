"""Any signal as a field: an encoding of position and a decoder to its channels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from polyfield.cuda.mlp import initial_weights, mlp
from polyfield.fields.field import Encoding

MARGIN = 0.02  # of the unit cube


class SineDecoder(nn.Module):
    """Three layers, the first with sines of many frequencies added to it, no activation at the end.

    h = W1 z + b1; h + sin(M h), element by element with frequencies from `low` to `high`; then
    relu(W2 h + b2), and W3 h + b3. Weights and biases begin uniform within 1 / sqrt(inputs).
    Source: NeuRBF (arXiv:2309.15426), section 3.2.
    """

    frequencies: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: int = 64,
        low: float = 10.0,
        high: float = 100.0,
        *,
        generator: Generator | None = None,
    ):
        super().__init__()
        widths = (inputs, hidden, hidden, outputs)
        self.layers = nn.ModuleList(
            nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False)
        )
        with torch.no_grad():
            for layer, inputs in zip(self.layers, widths, strict=False):
                for parameter in layer.parameters():
                    parameter.uniform_(-(inputs**-0.5), inputs**-0.5, generator=generator)
        spaced = 2 ** torch.linspace(math.log2(low), math.log2(high), hidden)
        self.register_buffer("frequencies", spaced, persistent=False)

    def forward(self, z: Float[Tensor, "n inputs"]) -> Float[Tensor, "n outputs"]:
        first, second, last = self.layers
        h = first(z)
        h = h + torch.sin(self.frequencies * h)
        return last(torch.relu(second(h)))


def sine_numbers(inputs: int, outputs: int, hidden: int = 64) -> int:
    """How many numbers a SineDecoder learns."""
    return (inputs + 1) * hidden + (hidden + 1) * hidden + (hidden + 1) * outputs


def relu_numbers(inputs: int, outputs: int, hidden: int = 64) -> int:
    """How many numbers a ReluDecoder learns."""
    return (inputs + hidden + outputs) * hidden


class ReluDecoder(nn.Module):
    """The fused network of the radiance fields: no biases, two hidden layers."""

    def __init__(
        self, inputs: int, outputs: int, hidden: int = 64, *, generator: Generator | None = None
    ):
        super().__init__()
        self.widths = (inputs, hidden, hidden, outputs)
        self.weights = nn.Parameter(initial_weights(self.widths, generator))

    def forward(self, z: Float[Tensor, "n inputs"]) -> Float[Tensor, "n outputs"]:
        return mlp(z, self.weights, self.widths, "relu", "none")


class Signal(nn.Module):
    """x [n, d] in the unit cube -> values [n, channels], without bounds.

    base: what is added to the values, so that the rest has less to learn; None for nothing.
    """

    def __init__(self, encoding: Encoding, decoder: nn.Module, learning_rate: float = 2e-2):
        super().__init__()
        self.encoding, self.decoder, self.learning_rate = encoding, decoder, learning_rate
        self.base: Callable[[Tensor], Tensor] | None = None

    def value(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n channels"]:
        """The signal at points."""
        value = self.decoder(self.encoding(x))
        return value if self.base is None else value + self.base(x)


def distance_outside(x: Float[Tensor, "n d"], sides: Sequence[float]) -> Float[Tensor, "n 1"]:
    """Distance to a box of such sides in the middle of the unit cube, less a margin; else 0.

    Never more than the distance to what lies in the box, and nearly that from afar. The margin
    keeps its edge, where the slope jumps, off the faces of what fills its box.
    """
    beyond = ((x - 0.5).abs() - x.new_tensor(sides) / 2 - MARGIN).clamp_min(0)
    return beyond.square().sum(1, keepdim=True).clamp_min(1e-20).sqrt()
