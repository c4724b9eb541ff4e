"""Any signal as a field: an encoding of position and a decoder to its channels."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from polyfield.cuda.mlp import initial_weights, mlp
from polyfield.fields.field import Encoding

DecoderKind = Literal["relu", "sine"]


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
    """x [n, d] in the unit cube -> values [n, channels], without bounds."""

    def __init__(self, encoding: Encoding, decoder: nn.Module, learning_rate: float = 1e-2):
        super().__init__()
        self.encoding, self.decoder, self.learning_rate = encoding, decoder, learning_rate

    def value(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n channels"]:
        """The signal at points."""
        return self.decoder(self.encoding(x))
