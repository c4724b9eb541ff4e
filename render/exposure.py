"""How bright each photograph came out: learned with the field, so that it need not explain it."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from polyfield.fields.appearance import rows_of
from polyfield.render.srgb import linear_from_srgb, srgb_from_linear

MOST_STOPS = 8.0  # a photograph further off than that shows nothing


class Exposure(nn.Module):
    """Stops (factors of two of light) of each photograph over the mean of all, a channel each.

    Channels apart, so white balance is part of it. The mean over the photographs is held at 0:
    without that, stops and field could drift together.
    Source: Instant Neural Graphics Primitives (arXiv:2201.05989), whose code scales the target too.
    """

    learning_rate = 3e-2

    def __init__(self, photographs: int):
        super().__init__()
        self.stops = nn.Parameter(torch.zeros(photographs, 3))

    def forward(
        self, color: Float[Tensor, "r 3"], photograph: Int64[Tensor, " r"]
    ) -> Float[Tensor, "r 3"]:
        """Colours of pixels as a photograph of mean exposure would have them, sRGB, above 1 too.

        Cut off at white they would be easy to learn: photographs would end up all white.
        """
        return at_mean_exposure(color, rows_of(self.stops, photograph))

    def center_(self) -> None:
        """Holds the mean at 0: after each step."""
        with torch.no_grad():
            self.stops.sub_(self.stops.mean(0))
            self.stops.clamp_(-MOST_STOPS, MOST_STOPS)


def at_mean_exposure(
    color: Float[Tensor, "*r 3"], stops: Float[Tensor, "*r 3"]
) -> Float[Tensor, "*r 3"]:
    """What was taken so many stops too bright, as it should be; sRGB, at least 0, above 1 too."""
    return srgb_from_linear(linear_from_srgb(color) * torch.exp2(-stops))
