"""Poses of photographs that are not quite right: learned with the field, and watched over."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

HELD_OUT = 16  # one pixel of so many says whether a correction is one
MOST_TURN, MOST_SHIFT = 0.3, 0.3  # radians, extents: further off a pose is wrong, not inexact


class PoseRefinement(nn.Module):
    """A small turn of each photograph's camera about itself and a shift, along the world's axes.

    The mean over the photographs is held at 0: without that, poses and field could drift together,
    away from the frame that held-out views are in.
    Corrections that have shown to be ones are kept apart, see `judge_`.
    """

    learning_rate = 5e-4
    accepted: Float[Tensor, "n 6"]

    def __init__(self, photographs: int, extent: float):
        super().__init__()
        self.extent = extent
        self.moves = nn.Parameter(torch.zeros(photographs, 6))
        """Axes times angles in radians, then shifts in extents of the scene."""
        self.register_buffer("accepted", torch.zeros(photographs, 6))

    def forward(
        self, camera_to_world: Float[Tensor, "3 4"], photograph: int
    ) -> Float[Tensor, "3 4"]:
        """A camera where it is found to be."""
        return self._moved(camera_to_world, self.moves[photograph])

    def trusted(
        self, camera_to_world: Float[Tensor, "3 4"], photograph: int
    ) -> Float[Tensor, "3 4"]:
        """A camera where it was found to be when that was last looked at."""
        return self._moved(camera_to_world, self.accepted[photograph])

    def _moved(self, camera_to_world: Tensor, move: Tensor) -> Tensor:
        x, y, z = move[:3].to(camera_to_world).unbind()
        none = torch.zeros_like(x)
        rows = [torch.stack(row) for row in ((none, -z, y), (z, none, -x), (-y, x, none))]
        rotation = camera_to_world[:, :3]
        turned = torch.linalg.matrix_exp(torch.stack(rows)) @ rotation
        shifted = camera_to_world[:, 3] + self.extent * move[3:].to(camera_to_world)
        return torch.cat([turned, shifted[:, None]], 1)

    @torch.no_grad()
    def judge_(self, photograph: int, error: float, trusted_error: float) -> bool:
        """Keeps a photograph's correction if held-out pixels are no worse with it, or goes back.

        error: over those pixels with the correction as it is; trusted_error: with that kept last.
        """
        better = error <= trusted_error
        if better:
            self.accepted[photograph] = self.moves[photograph]
        else:
            self.moves[photograph] = self.accepted[photograph]
        return better

    @torch.no_grad()
    def center_(self) -> None:
        """Holds the mean at 0, and each correction small: after each step."""
        self.moves.sub_(self.moves.mean(0))
        self.moves[:, :3].clamp_(-MOST_TURN, MOST_TURN)
        self.moves[:, 3:].clamp_(-MOST_SHIFT, MOST_SHIFT)


def held_out_pixels(height: int, width: int) -> Bool[Tensor, "height width"]:
    """Of an image, those that training leaves aside: one of 16, no two beside each other."""
    row = torch.arange(height)[:, None]
    column = torch.arange(width)
    return (column + 4 * row) % HELD_OUT == 0
