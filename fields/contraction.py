"""Space without an end in a cube: the middle as it is, everything farther out drawn together."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from polyfield.cuda.errors import InputError


def contract(x: Float[Tensor, "n 3"], levels: int) -> Float[Tensor, "n 3"]:
    """Points of the unit cube with its middle 1 / 2^(levels - 1) enlarged to half of its side.

    With p the offset from the cube's centre in half sides of that middle and m the largest of its
    |coordinates|: p where m <= 1, else (2 - 1 / m) p / m; then p / 4 + 1/2. So the middle keeps its
    shape and space outside, however far, fills the rest. Continuous; differentiable but at m = 1
    and on the diagonal planes, where the largest coordinate changes.
    Source: mip-NeRF 360 (arXiv:2111.12077), eq. 10, in the largest norm, which wastes no corner.
    """
    p = (x - 0.5) * 2.0**levels
    m = p.abs().amax(1, keepdim=True).clamp_min(1.0)
    return p * ((2 - 1 / m) / m / 4) + 0.5


def expand(y: Float[Tensor, "n 3"], levels: int) -> Float[Tensor, "n 3"]:
    """The points that `contract` takes to y; for y strictly within the unit cube."""
    u = 4 * (y - 0.5)
    m = u.abs().amax(1, keepdim=True).clamp_min(1.0)
    return u / (m * (2 - m)) * 2.0**-levels + 0.5


class Contraction(nn.Module):
    """`contract`, for a field to do before it encodes: detail in the middle, room for what is far.

    levels: 1 to 16, as many as there are nested cubes. Raises InputError for others.
    """

    def __init__(self, levels: int):
        super().__init__()
        if not 1 <= levels <= 16:
            raise InputError("contraction", str(levels)[:80], "1 to 16 levels")
        self.levels = levels

    def forward(self, x: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        return contract(x, self.levels)
