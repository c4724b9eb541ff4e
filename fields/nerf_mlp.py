"""NeRF's network: frequencies of position and direction through dense layers, nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from polyfield.cuda.errors import InputError
from polyfield.cuda.mlp import truncated_exponential
from polyfield.fields.appearance import appearance_codes, with_code
from polyfield.fields.frequencies import encode_frequencies, opened_weights
from polyfield.fields.warp import carried

PIECE = 1 << 12  # points whose hidden values a CPU keeps in its cache
MOST_LAYERS, MOST_WIDTH, MOST_FREQUENCIES = 32, 1024, 16


@dataclass(frozen=True)
class NerfMlpArguments:
    """Sizes of NeRF's network; the defaults are the paper's."""

    samples_per_step: ClassVar[int] = 1 << 12
    layers: int = 8
    width: int = 256
    position_frequencies: int = 10
    direction_frequencies: int = 4
    integrated: int = 0
    """1: positions are encoded as means over the room that a sample of a pixel stands for."""
    coarse_steps: int = 0
    """Steps over which frequencies of the position open from low to high; 0: all at once."""
    appearance: int = 0
    """Numbers of each photograph's light that colours depend on."""
    photographs: int = 0

    @classmethod
    def fitted(cls, resolution: int, parameters: int) -> NerfMlpArguments:
        """Sizes for details of 1 / resolution of the cube's side, in at most that many parameters.

        Four layers of at most 128: a wider network sees too few samples within minutes on a CPU.
        The highest frequency turns once within two details (2^k radians over half the side).
        """
        frequencies = min(MOST_FREQUENCIES, max(4, (resolution - 1).bit_length()))
        for width in range(128, 16, -16):
            fitted = cls(4, width, frequencies)
            if parameter_count(fitted) <= parameters:
                return fitted
        return cls(4, 16, frequencies)


class NerfMlp(nn.Module):
    """Frequencies of the position -> trunk -> density; trunk and direction -> colour.

    density [n] = exp of a linear layer, at least 0, in 1 / side of the unit cube; features: the
    trunk's last layer; colour [n, 3] in [0, 1]. The position (moved by `warp`, where there is one),
    from -1 to 1, is encoded without pi; it enters the trunk once more behind the layer in the
    middle. All layers have biases.
    An exponential, where the paper has a ReLU: matter of 1 / side and of 1000 / side are then a few
    units of the last layer apart, and no sample is ever so empty that its gradient is exactly zero,
    which is how NeRF's networks die at birth.
    Raises InputError for sizes out of range.
    Source: NeRF (arXiv:2003.08934), section 5.1 and figure 7, and its authors' code for the
    encoding; density: Instant Neural Graphics Primitives (arXiv:2201.05989).
    """

    learning_rate = 2e-3
    costly = True
    opened: Tensor

    def __init__(
        self,
        arguments: NerfMlpArguments | None = None,
        generator: Generator | None = None,
        warp: nn.Module | None = None,
    ):
        super().__init__()
        sizes = arguments or NerfMlpArguments()
        _check(sizes)
        self.position_frequencies = sizes.position_frequencies
        self.direction_frequencies = sizes.direction_frequencies
        self.warp, self.cones = warp, bool(sizes.integrated)
        self.coarse_steps = sizes.coarse_steps
        if sizes.coarse_steps:
            self.register_buffer("opened", torch.zeros(()))
        self.skip = _skip(sizes.layers)
        inputs = _encoded_width(sizes.position_frequencies)
        wide = [
            sizes.width + inputs if i - 1 == self.skip else sizes.width
            for i in range(1, sizes.layers)
        ]
        self.trunk = nn.ModuleList(nn.Linear(n, sizes.width) for n in [inputs, *wide])
        self.density_layer = nn.Linear(sizes.width, 1)
        self.bottleneck = nn.Linear(sizes.width, sizes.width)
        self.codes = appearance_codes(sizes.photographs, sizes.appearance)
        half = max(1, sizes.width // 2)
        seen = _encoded_width(sizes.direction_frequencies) + sizes.appearance
        self.color_layer = nn.Linear(sizes.width + seen, half)
        self.color_output = nn.Linear(half, 3)
        for layer in (part for part in self.modules() if isinstance(part, nn.Linear)):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(layer.bias)

    def density(
        self, x: Float[Tensor, "n 3"], variance: Float[Tensor, "n 3"] | None = None
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n w"]]:
        """Density and the features that `color` takes. x in the unit cube.

        variance: of the room about x that a sample stands for, along the axes of the unit cube;
        where positions are integrated, and only there. Without one it is that of a box as large as
        half a turn of the highest frequency: no field of means has learned what a point looks like.
        """
        if self.cones and variance is None:
            variance = torch.full_like(x, (math.pi / 2**self.position_frequencies) ** 2 / 12)
        if torch.is_grad_enabled() or x.device.type != "cpu" or len(x) <= PIECE:
            return self._density(x, variance)
        rooms = [None] * -(-len(x) // PIECE) if variance is None else variance.split(PIECE)
        looks = [self._density(*part) for part in zip(x.split(PIECE), rooms, strict=True)]
        density, features = zip(*looks, strict=True)
        return torch.cat(density), torch.cat(features)

    def at_step(self, step: int) -> None:
        """Opens frequencies from low to high, the last one at `coarse_steps`."""
        if self.coarse_steps:
            share = min(1.0, step / self.coarse_steps)
            self.opened.fill_(share * self.position_frequencies)

    def _density(self, x: Tensor, variance: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.warp is not None:
            x, variance = carried(self.warp, x, variance)
        weights = None
        if self.coarse_steps:
            weights = opened_weights(self.position_frequencies, self.opened)
        # From the unit cube to radians from -1 to 1.
        spread = None if variance is None else 4 * variance
        encoded = encode_frequencies(2 * x - 1, self.position_frequencies, spread, weights)
        features = encoded
        for number, layer in enumerate(self.trunk):
            features = torch.relu_(layer(features))
            if number == self.skip:
                features = torch.cat([encoded, features], 1)
        return truncated_exponential(self.density_layer(features)[:, 0]), features

    def encode_directions(
        self, directions: Float[Tensor, "r 3"], codes: Float[Tensor, "r k"] | None = None
    ) -> Float[Tensor, "r h"]:
        """Frequencies of unit directions, and a code of the light."""
        frequencies = encode_frequencies(directions, self.direction_frequencies)
        return with_code(frequencies, self.codes, codes)

    def color(
        self, features: Float[Tensor, "n w"], harmonics: Float[Tensor, "n h"]
    ) -> Float[Tensor, "n 3"]:
        """Colour in [0, 1] from the features of `density` and encoded directions, a row each."""
        both = torch.cat([self.bottleneck(features), harmonics], 1)
        return torch.sigmoid(self.color_output(torch.relu_(self.color_layer(both))))


def parameter_count(arguments: NerfMlpArguments) -> int:
    """How many numbers a network of these sizes learns."""
    with torch.device("meta"):
        return sum(p.numel() for p in NerfMlp(arguments).parameters())


def _encoded_width(frequencies: int) -> int:
    return 3 + 6 * frequencies


def _skip(layers: int) -> int:
    """The layer behind which the position enters once more; -1 for none."""
    return layers // 2 if layers // 2 < layers - 1 else -1


def _check(sizes: NerfMlpArguments) -> None:
    limits = {
        "layers": (1, MOST_LAYERS),
        "width": (1, MOST_WIDTH),
        "position_frequencies": (0, MOST_FREQUENCIES),
        "direction_frequencies": (0, MOST_FREQUENCIES),
        "integrated": (0, 1),
    }
    for name, (least, most) in limits.items():
        if not least <= (value := getattr(sizes, name)) <= most:
            raise InputError(f"NerfMlp: {name}", str(value)[:80], f"{least} to {most}")
