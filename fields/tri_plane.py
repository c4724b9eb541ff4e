"""Tri-plane radiance field: features on planes along the axes, multiplied or summed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from polyfield.cuda.errors import InputError
from polyfield.cuda.planes import Combine, PlaneLayout, planes, scatter_planes
from polyfield.cuda.table_adam import lazy_adam_
from polyfield.fields.radiance import Radiance
from polyfield.fields.signal import ReluDecoder, Signal, relu_numbers

MOST_SCALES = 8
VARIATION_EVERY = 8  # steps: total variation reaches every number, which takes as long as a step


@dataclass(frozen=True)
class TriPlaneArguments:
    """Sizes of the tri-plane radiance field."""

    samples_per_step: ClassVar[int] = 1 << 14
    scales: int = 3
    """Each has half the nodes of the next along an axis."""
    finest_resolution: int = 256
    channels: int = 16
    product: int = 1
    """1: planes of a scale are multiplied, so that each carves what the others fill; 0: summed."""
    hidden: int = 64
    harmonics_degree: int = 3
    appearance: int = 0
    """Numbers of each photograph's light that colours depend on."""
    photographs: int = 0

    @classmethod
    def fitted(cls, resolution: int, parameters: int) -> TriPlaneArguments:
        """Sizes for details of 1 / resolution of the cube's side, in about that many parameters."""
        # Of all scales together: 1 + 1/4 + 1/16 of the finest one's nodes.
        room = parameters / (3 * cls.channels * sum(4.0**-i for i in range(cls.scales)))
        finest = min(resolution, int(room**0.5))
        return cls(finest_resolution=max(finest, 2 << (cls.scales - 1)))


class Planes(nn.Module):
    """x [n, dimensions] in the unit cube -> features [n, scales * channels], see `planes`.

    Numbers start between 0.1 and 0.5 where planes are multiplied, about 0 where they are summed.
    total_variation: weight of the planes' roughness in what training minimises. While `deferred` is
    a list, the table's gradient goes there, see TableEncoding. Raises InputError (from the layout)
    for sizes that make no planes. Source: K-Planes (arXiv:2301.10241).
    """

    def __init__(self, layout: PlaneLayout, *, generator: Generator | None = None):
        super().__init__()
        self.layout, self.width, self.dimensions = layout, layout.width, layout.dimensions
        low, high = (0.1, 0.5) if layout.combine == "product" else (-0.1, 0.1)
        start = torch.empty(layout.entries, 8)
        self.table = nn.Parameter(start.uniform_(low, high, generator=generator))
        self.total_variation = 0.0
        self.deferred: list[tuple[Tensor, Tensor, Tensor | None]] | None = None

    def adam_step(
        self,
        pending: tuple[Tensor, Tensor, Tensor | None],
        moments: tuple[Tensor, Tensor],
        scratch: Tensor,
        rate: float,
        step: int,
    ) -> None:
        """Steps the table by a gradient that was deferred."""
        x, grad, kept = pending
        if kept is not None:
            x, grad = x[kept], grad[kept]
        scatter_planes(x, self.table.data, grad, self.layout, scratch)
        if self.total_variation and step % VARIATION_EVERY == 0:
            weight = VARIATION_EVERY * self.total_variation
            scratch += weight * variation_gradient(self.table.data, self.layout)
        lazy_adam_(self.table.data, scratch, *moments, rate, step)

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n {self.width}"]:
        deferring = self.deferred is not None and self.table.requires_grad
        if not deferring or not torch.is_grad_enabled():
            return planes(x, self.table, self.layout)
        return _DeferredPlanes.apply(x, self.table, self)


@torch.no_grad()
def variation_gradient(
    table: Float[Tensor, "entries 8"], layout: PlaneLayout
) -> Float[Tensor, "entries 8"]:
    """The gradient of the planes' total variation: how much neighbouring nodes differ.

    Of each plane, the sum of squared differences along both axes over its numbers; of a table, the
    sum over all planes of all scales. Source: K-Planes (arXiv:2301.10241), section 3.3.
    """
    out = torch.zeros_like(table)
    for scale in range(len(layout.resolutions)):
        pairs = zip(layout.planes(table, scale), layout.planes(out, scale), strict=True)
        for plane, slope in pairs:
            for axis in (1, 2):
                step = 2 / plane.numel() * plane.diff(dim=axis)
                length = plane.shape[axis] - 1
                slope.narrow(axis, 1, length).add_(step)
                slope.narrow(axis, 0, length).sub_(step)
    return out


class _DeferredPlanes(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, table: Tensor, encoding: Planes) -> Tensor:
        ctx.save_for_backward(x, table)
        ctx.encoding = encoding
        return planes(x, table, encoding.layout)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        x, table = ctx.saved_tensors
        ctx.encoding.deferred.append((x.detach(), grad, None))
        if not ctx.needs_input_grad[0]:
            return None, None, None
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            features = planes(leaf, table.detach(), ctx.encoding.layout)
        return torch.autograd.grad(features, leaf, grad)[0], None, None


def tri_plane_field(
    arguments: TriPlaneArguments,
    generator: Generator | None = None,
    warp: nn.Module | None = None,
) -> Radiance:
    """A radiance field on planes of several scales. InputError for sizes that make none."""
    return Radiance(
        Planes(_layout(arguments, 3), generator=generator),
        arguments.hidden,
        arguments.harmonics_degree,
        arguments.appearance,
        arguments.photographs,
        warp=warp,
        generator=generator,
    )


@dataclass(frozen=True)
class TriPlaneSignal:
    """Sizes of planes for any signal, and of the network behind them. In 2D all is one plane."""

    samples_per_step: ClassVar[int] = 1 << 16
    scales: int = 3
    """Each has half the nodes of the next along an axis."""
    finest_resolution: int = 256
    channels: int = 8
    product: int = 1
    """1: planes of a scale are multiplied; 0: summed."""
    hidden: int = 64

    @classmethod
    def fitted(cls, dimensions: int, resolution: int, parameters: int) -> TriPlaneSignal:
        """Sizes for details of 1 / resolution of the cube's side, in at most that many numbers.

        Of channels that fit, as few as leave a node at every detail.
        """
        best = None
        for channels in (8, 16, 32):
            for finest in range(1 << cls.scales, max(16, resolution) + 1):
                sizes = cls(finest_resolution=finest, channels=channels)
                layout = _layout(sizes, dimensions)
                numbers = 8 * layout.entries + relu_numbers(layout.width, 4, cls.hidden)
                if numbers > parameters:
                    break
                best = sizes
            if best is None or best.finest_resolution < resolution:
                break
        if best is None:
            raise InputError("parameters", f"{parameters:,}", "more: no planes are so small")
        return best


def tri_plane_signal(
    arguments: TriPlaneSignal, dimensions: int, channels: int, generator: Generator | None = None
) -> Signal:
    """A signal on planes of several scales. InputError for sizes that make none."""
    encoding = Planes(_layout(arguments, dimensions), generator=generator)
    decoder = ReluDecoder(encoding.width, channels, arguments.hidden, generator=generator)
    return Signal(encoding, decoder)


def _layout(sizes: TriPlaneArguments | TriPlaneSignal, dimensions: int) -> PlaneLayout:
    if not 1 <= sizes.scales <= MOST_SCALES:
        raise InputError("field tri-plane: scales", str(sizes.scales), f"1 to {MOST_SCALES}")
    combine: Combine = "product" if sizes.product else "sum"
    scales = reversed(range(sizes.scales))
    resolutions = tuple(sizes.finest_resolution >> down for down in scales)
    return PlaneLayout(dimensions, resolutions, sizes.channels, combine)
