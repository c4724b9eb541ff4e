"""What a representation must offer to be trained, rendered, saved and exported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn


@runtime_checkable
class Encoding(Protocol):
    """x [n, dimensions] in the unit cube -> features [n, width]."""

    width: int
    dimensions: int

    def __call__(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n width"]: ...


@runtime_checkable
class TableEncoding(Encoding, Protocol):
    """An encoding whose table has no dense gradient: most of a batch's would be zeros.

    While `deferred` is a list, the backward pass appends (x, gradient of the features, which rows
    count or None for all) to it.
    """

    table: nn.Parameter
    deferred: list[tuple[Tensor, Tensor, Tensor | None]] | None

    def adam_step(
        self,
        pending: tuple[Tensor, Tensor, Tensor | None],
        moments: tuple[Tensor, Tensor],
        scratch: Tensor,
        rate: float,
        step: int,
    ) -> None:
        """Adam's step number `step`, from 1, where the table has a gradient.

        moments: first and second, as large as the table. scratch: as large, zeros before and after.
        """
        ...


@runtime_checkable
class AdaptiveEncoding(Encoding, Protocol):
    """An encoding that is put anew where there is something, once training has found out where."""

    settles_at: int
    """The number of the step before which that is."""

    def settle(
        self, x: Float[Tensor, "n d"], weights: Float[Tensor, " n"], generator: torch.Generator
    ) -> None:
        """Given points, as it encodes them, and how much there is at each. Its own parameters,
        those of its parts left out, begin anew."""
        ...


@runtime_checkable
class RadianceField(Protocol):
    """Density and colour of space, in the unit cube."""

    def density(self, x: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, " n"], Float[Tensor, "n k"]]:
        """Density in 1 / side of the unit cube, at least 0, and features for `color`."""
        ...

    def color(
        self, features: Float[Tensor, "n k"], harmonics: Float[Tensor, "n h"]
    ) -> Float[Tensor, "n 3"]:
        """Colour in [0, 1] seen along the direction whose encoding is given."""
        ...

    def encode_directions(self, directions: Float[Tensor, "r 3"]) -> Float[Tensor, "r h"]:
        """What `color` takes of unit directions: once a ray, not once a sample."""
        ...


@runtime_checkable
class ConeField(RadianceField, Protocol):
    """A radiance field that knows its density in the room that a pixel sees, not only at points."""

    def density(
        self, x: Float[Tensor, "n 3"], variance: Float[Tensor, "n 3"] | None = None
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n k"]]:
        """As a RadianceField, over a normal distribution of that variance about x."""
        ...


@runtime_checkable
class Paced(Protocol):
    """A part of a field some of whose parameters learn at other rates than the rest."""

    rate_factors: dict[str, float]
    """Of parameters by their names in it; 1 for those that are not named."""


@runtime_checkable
class SurfaceField(RadianceField, Protocol):
    """A radiance field that is one of distances to a surface."""

    ends: bool
    """The surface may end: it is a sheet with two sides, and has no inside."""

    def distance(self, x: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """In sides of the unit cube, below 0 inside; never below 0 where the surface ends."""
        ...

    def signed_distances(self, x: Float[Tensor, "n 3"]) -> Float[Tensor, "n k"]:
        """What the distance is made of: across the surface as if it went on, and, where it ends,
        beyond its rim. The surface is where the first is 0 and the second not above 0."""
        ...

    def density(
        self, x: Float[Tensor, "n 3"], extent: Float[Tensor, "n 3"] | None = None
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n k"]]:
        """As a RadianceField, over the piece of a ray of which extent is a half."""
        ...

    def near_surface(self) -> RadianceField:
        """Where there may be something: what an occupancy grid is to follow."""
        ...


@runtime_checkable
class Decayed(Protocol):
    """What says itself how its weights decay, all alike."""

    weight_decay: float


@runtime_checkable
class Gradual(Protocol):
    """A field, or a part of one, whose details come one after the other."""

    def at_step(self, step: int) -> None:
        """Opens what is open in that step of training: a function of the step alone."""
        ...


@runtime_checkable
class Learnable(Protocol):
    """What an optimiser asks of something with parameters; of torch.nn.Module, all but the rate."""

    learning_rate: float
    """Of Adam, at its highest: what suits a table of features would break a deep network."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What is learned, by name."""
        ...

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Its parts, by name."""
        ...


@runtime_checkable
class Part(Learnable, Protocol):
    """What is learned and kept in files: a field, or what learns beside it."""

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint holds."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any:
        """Takes on what `state_dict` gave."""
        ...

    def requires_grad_(self, requires_grad: bool = True) -> Part:
        """Whether parameters get gradients."""
        ...

    def to(self, device: torch.device) -> Part:
        """Moves the parameters."""
        ...


@runtime_checkable
class TrainableField(RadianceField, Part, Protocol):
    """A radiance field with parameters: of torch.nn.Module, what training and files ask for."""

    cones: bool
    """It is a ConeField, and wants to be seen through one."""
    costly: bool
    """Its gradients take so long that samples which teach little are best left out."""
    warp: nn.Module | None
    """What positions go through before they are encoded."""

    @property
    def codes(self) -> nn.Parameter | None:
        """A row for each photograph whose light colours depend on; None where they do not."""
        ...

    def encode_directions(
        self, directions: Float[Tensor, "r 3"], codes: Float[Tensor, "r k"] | None = None
    ) -> Float[Tensor, "r h"]:
        """As a RadianceField, in the light of which rays have a code; in the mean light if None."""
        ...
