"""A small network that only says where along a ray the large one is worth asking."""

from __future__ import annotations

from jaxtyping import Float
from torch import Generator, Tensor, nn

from polyfield.cuda.mlp import initial_weights, mlp, truncated_exponential
from polyfield.fields.hash_grid import HashGrid

HIDDEN = 16


class ProposalNetwork(nn.Module):
    """Density of space, in the unit cube, from a small hash grid.

    resolution: of the finest level. warp: what positions go through first, as in a field. No view
    shows it: it learns from the weights of the field that it proposes samples to.
    Source: mip-NeRF 360 (arXiv:2111.12077), section 3; sizes as in nerfacc.
    """

    learning_rate = 1e-2

    def __init__(
        self,
        resolution: int = 128,
        warp: nn.Module | None = None,
        *,
        generator: Generator | None = None,
    ):
        super().__init__()
        self.encoding, self.warp = HashGrid(5, 2, 15, 16, resolution, generator=generator), warp
        self.widths = (self.encoding.width, HIDDEN, 1)
        self.weights = nn.Parameter(initial_weights(self.widths, generator))

    def density(self, x: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """At least 0, in 1 / side of the unit cube."""
        raw = mlp(
            self.encoding(x if self.warp is None else self.warp(x)),
            self.weights,
            self.widths,
            "relu",
            "none",
        )
        return truncated_exponential(raw[:, 0])
