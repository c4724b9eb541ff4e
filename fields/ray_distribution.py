"""A field of rays: one look at a network says what density and colour are all along a ray."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from polyfield.cuda.box import intersect_box
from polyfield.cuda.errors import InputError
from polyfield.cuda.ray_profile import MOST_COEFFICIENTS, RayProfile, ray_profile
from polyfield.cuda.spherical_harmonics import HIGHEST_DEGREE, spherical_harmonics
from polyfield.fields.frequencies import encode_frequencies

RAY_DISTRIBUTION = "ray-distribution"  # its name among the kinds of fields, though it has no points
AGAIN = 4  # layers after which a ray's encoding enters once more
FIRST_DENSITY = 0.0  # logarithm, of a field that has learned nothing, over a whole interval
SHORTEST = 1e-4  # interval of a ray, in sides of the unit cube; less of a box nobody sees


@dataclass(frozen=True)
class RayDistributionArguments:
    """Sizes of a field of rays."""

    samples_per_step: ClassVar[int] = 1 << 12  # rays
    layers: int = 6
    width: int = 128
    coefficients: int = 16
    """Of a series, a multiple of 4 up to 32."""
    points: int = 8
    """Of a ray, whose positions the network is shown."""
    frequencies: int = 6
    """Of positions."""
    degree: int = 3
    """Of the harmonics of a direction."""
    samples: int = 32
    """Of a series, that make a pixel."""
    periodic: int = 0
    """1: the paper's Fourier series, which are at their end what they are at their beginning."""

    @classmethod
    def fitted(cls, resolution: int, parameters: int) -> RayDistributionArguments:
        """Sizes for details of 1 / resolution of the cube's side, in at most that many parameters.

        The highest frequency turns once within two details; width is what is left to choose.
        """
        frequencies = min(MOST_FREQUENCIES, max(4, (resolution - 1).bit_length() - 2))
        usual = cls()
        for width in range(usual.width, 16, -16):
            fitted = cls(width=width, frequencies=frequencies)
            if parameter_count(fitted) <= parameters:
                return fitted
        return cls(width=16, frequencies=frequencies)


MOST_LAYERS, MOST_WIDTH, MOST_POINTS, MOST_FREQUENCIES, MOST_SAMPLES = 48, 1024, 64, 12, 256


class RayDistributionField(nn.Module):
    """A ray within a box -> coefficients [4] of series along it: log-density and logits of colour.

    A ray is what of its line lies in `box`, from `near` to `far`: where its origin is before that
    makes no difference. The network is shown points between the two, the first of them
    (frequencies each), the direction (harmonics) and how far `near` and `far` are from the line's
    point nearest to the middle of the unit cube. Layers are residual within their ReLU; behind
    every fourth one the encoding enters once more. A series runs over u from 0 at `near` to 1 at
    `far`; density is in 1 / (far - near), the exponential of its series: no ray is so empty that it
    cannot learn, and a soft series draws a hard surface. `box` [2, 3], in the unit cube, is kept
    with the parameters.
    Raises InputError for sizes out of range.
    Source: NeRDF (arXiv:2308.11130) and its authors' code. Not theirs: bounds of each ray, cosines
    without a period, the exponential.
    """

    learning_rate = 3e-3
    box: Tensor

    def __init__(
        self,
        arguments: RayDistributionArguments | None = None,
        generator: Generator | None = None,
        box: Float[Tensor, "2 3"] | None = None,
    ):
        super().__init__()
        sizes = arguments or RayDistributionArguments()
        _check(sizes)
        self.sizes = sizes
        everything = torch.stack([torch.zeros(3), torch.ones(3)])
        self.register_buffer("box", everything if box is None else box.clone())
        inputs = encoded_width(sizes)
        self.layers = nn.ModuleList(
            nn.Linear(_layer_inputs(number, inputs, sizes.width), sizes.width)
            for number in range(sizes.layers)
        )
        self.output = nn.Linear(sizes.width, 4 * sizes.coefficients)
        for layer in (*self.layers, self.output):
            nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
            nn.init.uniform_(
                layer.bias, -1 / math.sqrt(layer.in_features), 1 / math.sqrt(layer.in_features),
                generator=generator,
            )  # fmt: skip
        with torch.no_grad():
            self.output.bias[0] = FIRST_DENSITY

    def bounds(
        self, origins: Float[Tensor, "rays 3"], directions: Float[Tensor, "rays 3"]
    ) -> tuple[Float[Tensor, " rays"], Float[Tensor, " rays"]]:
        """Distances at which rays, of unit directions, enter and leave the box.

        A ray that misses it has no more than SHORTEST between them.
        """
        near, far = intersect_box(origins, directions, *self.box)
        return near, far

    def forward(
        self,
        origins: Float[Tensor, "rays 3"],
        directions: Float[Tensor, "rays 3"],
        near: Float[Tensor, " rays"],
        far: Float[Tensor, " rays"],
        generator: Generator | None = None,
    ) -> Float[Tensor, "rays count 4"]:
        encoded = self.encode(origins, directions, near, far, generator)
        hidden = encoded
        for number, layer in enumerate(self.layers):
            if number == 0:
                hidden = torch.relu(layer(hidden))
            elif number % AGAIN == 1 and number > 1:
                hidden = torch.relu(layer(torch.cat([hidden, encoded], 1)))
            else:
                hidden = torch.relu(layer(hidden) + hidden)
        return self.output(hidden).view(len(origins), self.sizes.coefficients, 4)

    def encode(
        self,
        origins: Float[Tensor, "rays 3"],
        directions: Float[Tensor, "rays 3"],
        near: Float[Tensor, " rays"],
        far: Float[Tensor, " rays"],
        generator: Generator | None = None,
    ) -> Float[Tensor, "rays width"]:
        """What the network is shown of rays.

        Its points lie evenly from `near` to `far`; with a generator, anywhere between the middles
        of the ways to their neighbours.
        """
        rays, points = len(origins), self.sizes.points
        share = torch.linspace(0, 1, points, device=origins.device, dtype=origins.dtype)
        if generator is None:
            share = share.expand(rays, points)
        else:
            moved = torch.rand(rays, points, generator=generator).to(origins) - 0.5
            share = (share + moved / (points - 1)).clamp(0, 1)
        share = torch.cat([torch.zeros_like(share[:, :1]), share], 1)  # the entry, where it is
        along = near[:, None] + (far - near)[:, None] * share
        x = origins[:, None] + along[..., None] * directions[:, None]
        waves = encode_frequencies((2 * x - 1).view(-1, 3), self.sizes.frequencies)
        waves = waves.view(rays, (points + 1) * waves.shape[1])
        nearest = ((0.5 - origins) * directions).sum(1)
        ends = 2 * torch.stack([near - nearest, far - nearest], 1)
        harmonics = spherical_harmonics(directions, self.sizes.degree)
        return torch.cat([waves, harmonics, ends], 1)

    def seen(
        self,
        coefficients: Float[Tensor, "rays count 4"],
        generator: Generator | None = None,
        weights: bool = False,
    ) -> RayProfile:
        """What reaches the eye along rays of these coefficients.

        The interval is cut into equal parts; a sample lies in the middle of each or, with a
        generator, anywhere in it, for all rays alike.
        """
        place = self.places(generator).to(coefficients)
        basis = series_basis(place, self.sizes.coefficients, bool(self.sizes.periodic))
        length = torch.full_like(place, 1 / self.sizes.samples)
        return ray_profile(coefficients, basis, place, length, weights=weights)

    def places(self, generator: Generator | None = None) -> Float[Tensor, " samples"]:
        """Where samples lie in a ray's interval, from 0 to 1, on the CPU."""
        count = self.sizes.samples
        inside = 0.5 if generator is None else torch.rand(count, generator=generator)
        return (torch.arange(count) + inside) / count


def series_basis(
    u: Float[Tensor, " n"], count: int, periodic: bool = False
) -> Float[Tensor, "n {count}"]:
    """The functions that series are made of, at places u from 0 to 1.

    cos(i pi u), i < count. periodic: 1, sin 2 pi u, cos 2 pi u, sin 4 pi u and so on: what they
    make is at 1 what it is at 0. Both are orthogonal, with norm 1/2 but for the first.
    """
    turns = torch.arange(count, dtype=u.dtype, device=u.device)
    if not periodic:
        return torch.cos(math.pi * turns * u[:, None])
    odd = turns.remainder(2)
    angle = math.pi * (turns + odd) * u[:, None]
    return torch.where(odd.bool(), angle.sin(), angle.cos())


def encoded_width(sizes: RayDistributionArguments) -> int:
    """Numbers that the network is shown of a ray."""
    positions = (sizes.points + 1) * 3 * (1 + 2 * sizes.frequencies)
    return positions + (sizes.degree + 1) ** 2 + 2


def parameter_count(sizes: RayDistributionArguments) -> int:
    """How many numbers a field of these sizes learns."""
    with torch.device("meta"):
        return sum(p.numel() for p in RayDistributionField(sizes).parameters())


def _layer_inputs(number: int, inputs: int, width: int) -> int:
    """Of the layer of that number: the encoding, what the one before made of it, or both."""
    if number == 0:
        return inputs
    return width + inputs if number % AGAIN == 1 and number > 1 else width


def _check(sizes: RayDistributionArguments) -> None:
    limits = {
        "layers": (1, MOST_LAYERS),
        "width": (1, MOST_WIDTH),
        "coefficients": (4, MOST_COEFFICIENTS),
        "points": (2, MOST_POINTS),
        "frequencies": (0, MOST_FREQUENCIES),
        "degree": (0, HIGHEST_DEGREE),
        "samples": (1, MOST_SAMPLES),
        "periodic": (0, 1),
    }
    for name, (least, most) in limits.items():
        if not least <= (value := getattr(sizes, name)) <= most:
            raise InputError(f"ray-distribution: {name}", str(value)[:80], f"{least} to {most}")
    if sizes.coefficients % 4:
        got = str(sizes.coefficients)
        raise InputError("ray-distribution: coefficients", got, "a multiple of 4")
