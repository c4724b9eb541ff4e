"""Gaussians as a field: density and colour at points of space, for whoever asks there."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.cuda.spherical_harmonics import spherical_harmonics
from polyfield.cuda.splat_field import splat_field, splat_tree
from polyfield.fields.gaussians import Gaussians
from polyfield.fields.splats import Splats

MIDDLE = 0.5  # added to what the functions say


class SplatField:
    """Gaussians of the unit cube as a `RadianceField` that does not learn.

    Rays through its density see about what they see of the splats. A colour is that of the mean of
    the Gaussians' harmonics at the point, by density, along the direction, cut to [0, 1]. Made
    once: Gaussians that change afterwards do not change it. No gradients, so no normals either.
    widened: see `splat_tree`; of the pixels that Gaussians learned from, say. Raises InputError for
    Gaussians that are not finite.
    """

    def __init__(self, splats: Splats | Gaussians, widened: float = 0.0):
        numbers = splats.means, splats.log_scales, splats.quaternions, splats.opacity_logits
        self.tree = splat_tree(*numbers, splats.harmonics, widened, splats.antialiased)

    def density(self, x: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, " n"], Float[Tensor, "n k"]]:
        """As a RadianceField; features are mean harmonics, 0 where nothing is."""
        return splat_field(x, self.tree)

    def color(
        self, features: Float[Tensor, "n k"], harmonics: Float[Tensor, "n h"]
    ) -> Float[Tensor, "n 3"]:
        """As a RadianceField."""
        held = features.view(len(features), harmonics.shape[1], 3)
        return (MIDDLE + torch.einsum("nh,nhc->nc", harmonics, held)).clamp(0, 1)

    def encode_directions(self, directions: Float[Tensor, "r 3"]) -> Float[Tensor, "r h"]:
        """As a RadianceField: spherical harmonics."""
        return spherical_harmonics(directions, self.tree.degree)
