"""What a representation must offer to be trained, rendered, saved and exported."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Encoding(Protocol):
    """x [n, dimensions] in the unit cube -> features [n, width]."""

    width: int
    dimensions: int

    def __call__(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n width"]: ...


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
