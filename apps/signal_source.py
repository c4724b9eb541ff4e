"""What fitting asks of whatever is learned: an image, a film, the distances to a mesh."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Generator, Tensor


@runtime_checkable
class Source(Protocol):
    """A signal over the unit cube."""

    pace: float
    """Factor of a field's learning rate that suits it."""

    def batch(self, step: int, count: int) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n c"]]:
        """Points and the values there: a function of step alone. At most `count` of them."""
        ...

    def error(self, found: Float[Tensor, "n c"], wanted: Float[Tensor, "n c"]) -> Tensor:
        """The loss of a batch, differentiable in what was found."""
        ...

    def variation(self, generator: Generator) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n"]]:
        """Points, and how much the signal varies there: where kernels belong."""
        ...

    def watch(self, value: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Quick figures of a field, such as {"psnr": dB}, while it learns."""
        ...
