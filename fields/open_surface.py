"""A radiance field of a surface that may end: a sheet that is seen from both of its sides."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from polyfield.fields.field import TrainableField
from polyfield.fields.radiance import Radiance
from polyfield.fields.surface_radiance import (
    MOST_SHARPNESS,
    SHARE,
    SHARPNESS,
    NearSurface,
    encoded_radiance,
    ends_of_pieces,
    to_sphere,
)

RIM_SHARE = 0.3  # of the network's second feature in the distance beyond the rim: sheets open soon
CLOSED = 1.0  # over the sharpness: so far within its rim a sheet lies where nothing is learned
HALF = math.log(math.expm1(1 + 2**0.5))  # sharpness times lift of a sheet that hides a half
LEAST = 1e-7  # that a sheet is lifted, in sides: logarithms stay finite


class OpenSurfaceRadiance(nn.Module):
    """A `Radiance` whose first two features are no densities but distances that make a sheet.

    The first is, as in `SurfaceRadiance`, a distance across a surface that goes on, below 0 on one
    of its sides; the second, three tenths of it less 1 / s, tells how far a place lies beyond the
    rim at which the sheet ends, below 0 within it; s is the learned sharpness. So training begins
    with a whole sphere, and opens it where photographs see through: its opacity depends on the
    second distance even where the first has found the surface. Distances u of the sheet have no
    sign: sqrt(across^2 + lift^2), in sides of the unit cube, the lift being softplus(s beyond) / s,
    which reaches 0 wherever the sheet is. A piece of a ray is as thick as the logarithm of
    zeta(u) = s u / (1 + s u) changes, twice where the first distance changes its sign within: what
    is left before a sheet is zeta(u), and one of lift u lets zeta(u)^2 through. It is taken to end
    where that is a half.
    Such a sheet has two sides everywhere: it is no Moebius strip, and no three of them meet in a
    line.
    Raises InputError as `SurfaceRadiance`.
    Source: zeta: NeUDF (arXiv:2304.10080), eq. 4 to 7; a rim on a signed distance: NeAT
    (arXiv:2303.12012) and G-Shell (arXiv:2310.13224).
    """

    learning_rate = Radiance.learning_rate
    cones = costly = False
    warp: nn.Module | None = None
    ends = True

    def __init__(self, radiance: TrainableField, radius: float):
        super().__init__()
        self.radiance, self.radius = encoded_radiance(radiance), radius
        self.log_sharpness = nn.Parameter(torch.tensor([math.log(SHARPNESS)]))

    @property
    def codes(self) -> nn.Parameter | None:
        """Of the light of each photograph."""
        return self.radiance.codes

    @property
    def sharpness(self) -> Float[Tensor, " 1"]:
        """Of the change from empty to opaque, in 1 / side of the unit cube."""
        return self.log_sharpness.exp().clamp(max=MOST_SHARPNESS)

    def distance(self, x: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """To the sheet, of what hides a half and more, in sides of the unit cube; never below 0."""
        return self.near(x)[0]

    def signed_distances(self, x: Float[Tensor, "n 3"]) -> Float[Tensor, "n 2"]:
        """Across the surface, and beyond the rim of what hides a half and more."""
        across, beyond, _ = self._distances(x)
        return torch.stack([across, beyond - HALF / self.sharpness], 1)

    def density(
        self, x: Float[Tensor, "n 3"], extent: Float[Tensor, "n 3"] | None = None
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 16"]]:
        """Density and the features that `color` takes. x in the unit cube.

        extent: half the piece of the ray about x. The density is then the mean over the piece, from
        the distances at its ends; without it, that of a ray right towards the sheet.
        """
        if extent is None:
            across, beyond, features = self._distances(x)
            distance = self._unsigned(across, beyond)
            return 1 / (distance * (1 + self.sharpness * distance)), features
        places, first = ends_of_pieces(x, extent)
        across, beyond, features = self._distances(places)
        depth = self._depth(self._unsigned(across, beyond))
        n = len(x)
        through = across[:n] * across[first] < 0
        apart = torch.where(through, across[first] - across[:n], 1.0)
        where = torch.lerp(beyond[first], beyond[:n], (across[first] / apart).clamp(0, 1))
        deepest = self._depth(self._lift(where))
        thickness = torch.where(
            through,
            (deepest - depth[first]).abs() + (deepest - depth[:n]).abs(),
            (depth[:n] - depth[first]).abs(),
        )
        length = 2 * extent.norm(dim=1).clamp_min(1e-9)
        return thickness / length, 0.5 * (features[:n] + features[first])

    def encode_directions(
        self, directions: Float[Tensor, "r 3"], codes: Float[Tensor, "r k"] | None = None
    ) -> Float[Tensor, "r h"]:
        """See `Radiance`."""
        return self.radiance.encode_directions(directions, codes)

    def color(
        self, features: Float[Tensor, "n 16"], harmonics: Float[Tensor, "n h"]
    ) -> Float[Tensor, "n 3"]:
        """See `Radiance`."""
        return self.radiance.color(features, harmonics)

    def near_surface(self) -> NearSurface:
        """Where there may be something: what an occupancy grid is to follow."""
        return NearSurface(self)

    def near(self, x: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 16"]]:
        """`distance`, and the features that `color` takes."""
        across, beyond, features = self._distances(x)
        out = (beyond - HALF / self.sharpness).clamp_min(0)
        return torch.stack([across, out], 1).norm(dim=1), features

    def _distances(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.radiance.features(x)
        across = to_sphere(x, self.radius) + SHARE * features[:, 0]
        return across, RIM_SHARE * features[:, 1] - CLOSED / self.sharpness, features

    def _lift(self, beyond: Tensor) -> Tensor:
        return softplus(self.sharpness * beyond) / self.sharpness + LEAST

    def _unsigned(self, across: Tensor, beyond: Tensor) -> Tensor:
        return torch.stack([across, self._lift(beyond)], 1).norm(dim=1)

    def _depth(self, distance: Tensor) -> Tensor:
        return torch.log1p(1 / (self.sharpness * distance))
