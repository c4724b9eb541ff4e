"""Adaptive radial basis functions: features of kernels that lie where a signal varies (NeuRBF)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from polyfield.cuda.errors import InputError
from polyfield.cuda.hash_grid import HashGridLayout
from polyfield.cuda.nearest import CenterTree, center_tree, nearest
from polyfield.cuda.rbf import CHANNELS, FAMILIES, Family, factor_numbers, rbf_blend, rbf_weights
from polyfield.fields.field import Encoding
from polyfield.fields.hash_grid import HashGrid
from polyfield.fields.radiance import Radiance
from polyfield.fields.rbf_placement import (
    Form,
    cluster_factors,
    kernels_within,
    lattice,
    weighted_centers,
)
from polyfield.fields.signal import ReluDecoder, Signal, SineDecoder, sine_numbers

SETTLES_AT = 400  # steps: the grid alone has found the surfaces by then
MOST_KERNELS = 1 << 14
WAVES, TENT_WAVES = (0.125, 4096.0), 8.0  # radians a unit of weight
PACE = 0.001  # of released kernels, in spacings of a lattice, to the rate of features
START = 1e-4  # features and bias begin within it about 0


@dataclass(frozen=True)
class RbfShape:
    """What kernels an encoding has. InputError for what makes none.

    channels: features a kernel, a multiple of 8. neighbours: nearest kernels that a point sees, 1
    to 16. normalize: their weights are parts of their sum. low, high: the frequencies of the sines
    that channels take of the weight, spaced evenly by their logarithms; 0 and 0: the weight itself.
    """

    dimensions: int
    count: int
    channels: int = 32
    family: Family = "ivq"
    form: Form = "a"
    neighbours: int = 4
    normalize: bool = True
    low: float = 0.125
    high: float = 4096.0
    released: bool = False

    def __post_init__(self) -> None:
        numbers = factor_numbers(self.dimensions)
        allowed = {
            "dimensions": (self.dimensions in (2, 3), "2 or 3"),
            "count": (self.count >= 1, "at least one kernel"),
            "channels": (self.channels > 0 and self.channels % CHANNELS == 0, "a multiple of 8"),
            "family": (self.family in FAMILIES, f"one of {', '.join(FAMILIES)}"),
            "form": (self.form in numbers, f"one of {', '.join(numbers)}"),
            "neighbours": (1 <= self.neighbours <= 16, "1 to 16"),
            "low": (0 <= self.low <= self.high and (self.low > 0) == (self.high > 0), "0 to high"),
            "high": (self.high <= 8192, "at most 8192"),
        }
        for name, (sound, expected) in allowed.items():
            if not sound:
                raise InputError(f"RbfShape.{name}", repr(getattr(self, name))[:80], expected)

    @property
    def frequencies(self) -> Float[Tensor, "blocks 8"]:
        """Of every channel, in radians a unit of weight; 0 for the weight itself."""
        if self.high == 0:
            return torch.zeros(self.channels // CHANNELS, CHANNELS)
        ends = math.log2(self.low), math.log2(self.high)
        return (2 ** torch.linspace(*ends, self.channels)).view(-1, CHANNELS)


class Rbf(nn.Module):
    """x [n, d] in the unit cube -> features [n, partner.width + channels].

    The partner's features of x, where there is one, and those of the nearest kernels, plus a
    learned bias. Kernels begin on a lattice; `place` puts them where the signal varies, and that
    is the method: centres and shapes are learned only where `shape.released` says so. Both are
    kept with the parameters in files. Source: NeuRBF (arXiv:2309.15426).
    """

    centers: Tensor
    factors: Tensor
    frequencies: Tensor

    def __init__(
        self,
        shape: RbfShape,
        partner: Encoding | None = None,
        *,
        settles_at: int = -1,
        generator: Generator | None = None,
    ):
        super().__init__()
        self.shape, self.partner, self.settles_at = shape, partner, settles_at
        self.dimensions = shape.dimensions
        self.width = shape.channels + (0 if partner is None else partner.width)
        if partner is not None and partner.dimensions != shape.dimensions:
            got = f"a partner of {partner.dimensions} dimensions"
            raise InputError("Rbf", got, f"one of {shape.dimensions}")
        features = torch.empty(shape.channels // CHANNELS, shape.count, CHANNELS)
        self.features = nn.Parameter(features.uniform_(-START, START, generator=generator))
        bias = torch.empty(self.width)
        self.bias = nn.Parameter(bias.uniform_(-START, START, generator=generator))
        numbers = factor_numbers(shape.dimensions)[shape.form]
        kernels = torch.zeros(shape.count, shape.dimensions), torch.zeros(shape.count, numbers)
        for name, values in zip(("centers", "factors"), kernels, strict=True):
            if shape.released:
                self.register_parameter(name, nn.Parameter(values))
            else:
                self.register_buffer(name, values)
        self.register_buffer("frequencies", shape.frequencies, persistent=False)
        spacing = shape.count ** (-1 / shape.dimensions)
        self.rate_factors = {"centers": PACE * spacing, "factors": PACE / spacing}
        self._tree: CenterTree | None = None
        self.place(*lattice(shape.dimensions, shape.count, shape.form, shape.family))

    @torch.no_grad()
    def place(self, centers: Float[Tensor, "found d"], factors: Float[Tensor, "found f"]) -> None:
        """Puts kernels where they belong; what is left of them is seen by no point.

        Raises InputError for more of them than there are, or none.
        """
        if not 1 <= len(centers) <= self.shape.count or len(centers) != len(factors):
            got = f"{len(centers)} centres and {len(factors)} factors"
            raise InputError("Rbf.place", got, f"1 to {self.shape.count} of each")
        self.centers.zero_()[: len(centers)] = centers.to(self.centers)
        self.factors.zero_()[: len(factors)] = factors.to(self.factors)
        self._tree = None

    @torch.no_grad()
    def settle(
        self, x: Float[Tensor, "n d"], weights: Float[Tensor, " n"], generator: Generator
    ) -> None:
        """Places the kernels by points and their weights; features and bias begin anew.

        Where no point weighs anything all stays as it is.
        """
        if not bool(weights.any()):
            return
        centers = weighted_centers(x, weights, self.shape.count, generator)
        shape = self.shape.form, self.shape.family
        self.place(centers, cluster_factors(x, weights, centers, *shape))
        for parameter in (self.features, self.bias):
            start = torch.empty(parameter.shape).uniform_(-START, START, generator=generator)
            parameter.copy_(start)

    def neighbours(self, x: Float[Tensor, "n d"]) -> Int[Tensor, "n k"]:
        """Rows of the kernels that points see, the nearest first."""
        if self._tree is None or self.shape.released:
            there = int((self.factors != 0).any(1).sum())
            self._tree = center_tree(self.centers.detach()[:there])
        return nearest(x, self._tree, self.shape.neighbours)

    def forward(
        self, x: Float[Tensor, "n d"], index: Int[Tensor, "n k"] | None = None
    ) -> Float[Tensor, "n {self.width}"]:
        """index: what `neighbours` says of x, where it is known."""
        shape, index = self.shape, self.neighbours(x) if index is None else index
        weights = rbf_weights(x, self.centers, self.factors, index, shape.family, shape.normalize)
        blended = rbf_blend(weights, index, self.features, self.frequencies)
        parts = [blended] if self.partner is None else [self.partner(x), blended]
        return torch.cat(parts, 1) + self.bias

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Rbf:
        self._tree = None
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any) -> None:
        self._tree = None
        super()._load_from_state_dict(*args)


@dataclass(frozen=True)
class RbfArguments:
    """Sizes of the radiance field on radial basis functions beside a hash grid."""

    samples_per_step: ClassVar[int] = 1 << 14
    kernels: int = 16384
    channels: int = 16
    neighbours: int = 4
    sines: int = 0
    """1: channels are sines of the kernels' weights; 0: all are the weight itself."""
    placed: int = 1
    """1: kernels are put where a warm-up of SETTLES_AT steps has found matter; 0: on a lattice."""
    released: int = 0
    """1: centres and shapes go on by gradient descent from where they were put; 0: they stay."""
    levels: int = 8
    """Of the grid beside them; 0: no grid."""
    features: int = 4
    log2_table_size: int = 14
    base_resolution: int = 16
    finest_resolution: int = 512
    hidden: int = 48
    harmonics_degree: int = 3
    appearance: int = 0
    """Numbers of each photograph's light that colours depend on."""
    photographs: int = 0

    @classmethod
    def fitted(cls, resolution: int, parameters: int) -> RbfArguments:
        """Sizes for details of 1 / resolution of the cube's side, in about that many parameters."""
        entries = max(1, parameters // 2 // (cls.levels * cls.features))
        # Centres and shapes count: nine numbers a kernel beside its channels.
        kernels = min(MOST_KERNELS, max(1, parameters // 4 // (cls.channels + 9)))
        return cls(
            kernels=kernels,
            finest_resolution=max(cls.base_resolution, resolution),
            log2_table_size=max(3, entries.bit_length() - 1),
        )


def rbf_field(
    arguments: RbfArguments,
    generator: Generator | None = None,
    warp: nn.Module | None = None,
) -> Radiance:
    """A radiance field on kernels beside a hash grid. InputError for sizes that make none."""
    partner = None
    if arguments.levels:
        partner = HashGrid(
            arguments.levels,
            arguments.features,
            arguments.log2_table_size,
            arguments.base_resolution,
            arguments.finest_resolution,
            generator=generator,
        )
    waves = (0.125, 64.0) if arguments.sines else (0.0, 0.0)
    shape = RbfShape(
        3,
        arguments.kernels,
        arguments.channels,
        neighbours=arguments.neighbours,
        low=waves[0],
        high=waves[1],
        released=bool(arguments.released),
    )
    settles_at = SETTLES_AT if arguments.placed else -1
    encoding = Rbf(shape, partner, settles_at=settles_at, generator=generator)
    return Radiance(
        encoding,
        arguments.hidden,
        arguments.harmonics_degree,
        arguments.appearance,
        arguments.photographs,
        warp=warp,
        generator=generator,
    )


@dataclass(frozen=True)
class RbfSignal:
    """Sizes of kernels for any signal, of the grid beside them and of the network behind both."""

    samples_per_step: ClassVar[int] = 1 << 16
    kernels: int = 4096
    channels: int = 32
    neighbours: int = 4
    tents: int = 0
    """1: compact kernels of one width; 0: inverse quadratic ellipsoids."""
    sines: int = 1
    """1: channels are sines of the kernels' weights; 0: all are the weight itself."""
    placed: int = 1
    """1: kernels are put where the signal varies, before the first step; 0: on a lattice."""
    released: int = 0
    """1: centres and shapes go on by gradient descent from where they were put; 0: they stay."""
    levels: int = 6
    """Of the grid beside them; 0: no grid."""
    features: int = 2
    log2_table_size: int = 14
    base_resolution: int = 16
    finest_resolution: int = 256
    hidden: int = 64

    @classmethod
    def fitted(cls, dimensions: int, resolution: int, parameters: int) -> RbfSignal:
        """Sizes for details of 1 / resolution of the cube's side, in at most that many numbers.

        A hash grid leaves half of the numbers, or more, to the kernels: in 2D ellipsoids with sines
        of their weights; in 3D tents of half the channels and twice the neighbours.
        """
        sizes = (
            cls() if dimensions == 2 else cls(channels=16, neighbours=8, tents=1, sines=0, levels=8)
        )
        return fitted_kernels(sizes, dimensions, resolution, parameters)


def fitted_kernels(
    sizes: RbfSignal, dimensions: int, resolution: int, parameters: int
) -> RbfSignal:
    """As RbfSignal.fitted, the rest of the sizes as they are: with or without any of their parts.

    Raises InputError where not one kernel fits.
    """
    width = sizes.channels + sizes.levels * sizes.features
    rest = parameters - width - sine_numbers(width, 4, sizes.hidden)
    if sizes.levels:
        sizes = _with_grid(sizes, dimensions, resolution, rest / (2 * sizes.features))
        rest -= _partner_layout(sizes, dimensions).entries * sizes.features
    count = kernels_within(rest, sizes.channels, dimensions, "s" if sizes.tents else "a")
    return replace(sizes, kernels=count)


def rbf_signal(
    arguments: RbfSignal, dimensions: int, outputs: int, generator: Generator | None = None
) -> Signal:
    """A signal on kernels beside a grid. InputError for sizes that make none.

    Ellipsoids are decoded through sines, as in the source, whose frequencies they have; tents by a
    plain network: within the minutes of a CPU sines of sines leave noise in a signal's slope.
    Source: NeuRBF (arXiv:2309.15426), section 3.2.
    """
    partner = None
    if arguments.levels:
        layout = _partner_layout(arguments, dimensions)
        partner = HashGrid(
            layout.levels,
            layout.features,
            layout.log2_table_size,
            layout.base_resolution,
            layout.finest_resolution,
            dimensions=dimensions,
            generator=generator,
        )
    low, high = WAVES if arguments.sines else (0.0, 0.0)
    family: Family = "nlin" if arguments.tents else "ivq"
    form: Form = "s" if arguments.tents else "a"
    shape = RbfShape(
        dimensions,
        arguments.kernels,
        arguments.channels,
        family,
        form,
        arguments.neighbours,
        low=low,
        high=min(high, TENT_WAVES) if arguments.tents else high,
        released=bool(arguments.released),
    )
    settles_at = 0 if arguments.placed else -1
    encoding = Rbf(shape, partner, settles_at=settles_at, generator=generator)
    size = encoding.width, outputs, arguments.hidden
    kind = ReluDecoder if arguments.tents else SineDecoder
    return Signal(encoding, kind(*size, generator=generator))


def _with_grid(sizes: RbfSignal, dimensions: int, resolution: int, entries: float) -> RbfSignal:
    """The sizes with a grid of so many entries at most, a node at every detail."""
    sizes = replace(sizes, finest_resolution=max(sizes.base_resolution, resolution))
    tables = [replace(sizes, log2_table_size=size) for size in range(3, 25)]
    fitting = [each for each in tables if _partner_layout(each, dimensions).entries <= entries]
    return fitting[-1] if fitting else tables[0]


def _partner_layout(sizes: RbfSignal, dimensions: int) -> HashGridLayout:
    return HashGridLayout(
        dimensions,
        sizes.levels,
        sizes.features,
        sizes.log2_table_size,
        sizes.base_resolution,
        sizes.finest_resolution,
    )
