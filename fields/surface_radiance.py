"""A radiance field whose density follows from a signed distance: what it shows is a surface."""

from __future__ import annotations

import math
from typing import Literal, Protocol

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import softplus

from polyfield.cuda.errors import InputError
from polyfield.fields.field import RadianceField, TrainableField
from polyfield.fields.radiance import Radiance

DensityRule = Literal["neus", "volsdf"]
SHARPNESS = 20.0  # at the start, in 1 / side of the unit cube
MOST_SHARPNESS = 1e4
BAND = 128.0  # sharpness beyond which the band where there may be something gets no thinner
ROUNDED = 1e-2  # at the middle of the sphere, where its distance has a kink
SAME = 1e-6  # between the end of a piece and the beginning of the next, by rounding
SHARE = 0.1  # of the network's first feature in the distance


class SurfaceRadiance(nn.Module):
    """A `Radiance` whose first feature is not density but distance, beyond that to a sphere.

    distance [n], in sides of the unit cube, below 0 inside: sqrt(|x - 0.5|^2 + 1e-4) - radius, plus
    a tenth of the feature, so that training begins with a sphere whatever the encoding. Its
    density, in 1 / side, is by "neus" that of a ray whose transmittance is Phi(distance) as long as
    it falls, Phi the logistic function of a learned sharpness; by "volsdf" the Laplace
    distribution's share within, times the sharpness. Colours and features are the `Radiance`'s.
    Raises InputError for a field that is none, and for positions that are warped: distances there
    are none of the world's.
    Source: NeuS (arXiv:2106.10689), eq. 10 to 13; VolSDF (arXiv:2106.12052), eq. 2 and 3.
    """

    learning_rate = Radiance.learning_rate
    cones = costly = False
    warp: nn.Module | None = None
    ends = False

    def __init__(self, radiance: TrainableField, rule: DensityRule, radius: float):
        super().__init__()
        self.radiance, self.rule, self.radius = encoded_radiance(radiance), rule, radius
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
        """To the surface, in sides of the unit cube, below 0 inside. x in the unit cube."""
        return self.near(x)[0]

    def signed_distances(self, x: Float[Tensor, "n 3"]) -> Float[Tensor, "n 1"]:
        """The distance, in a column."""
        return self.near(x)[0][:, None]

    def density(
        self, x: Float[Tensor, "n 3"], extent: Float[Tensor, "n 3"] | None = None
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 16"]]:
        """Density and the features that `color` takes. x in the unit cube.

        extent: half the piece of the ray about x. By "neus" the density is then the mean over the
        piece, from the distances at its ends; without it, that of a ray right towards the surface.
        """
        sharpness = self.sharpness
        if extent is None or self.rule == "volsdf":
            distance, features = self.near(x)
            return _density(self.rule, sharpness, distance), features
        places, first = ends_of_pieces(x, extent)
        distance, features = self.near(places)
        depth = softplus(-sharpness * distance)
        thickness = (depth[: len(x)] - depth[first]).clamp_min(0)
        length = 2 * extent.norm(dim=1).clamp_min(1e-9)
        return thickness / length, 0.5 * (features[: len(x)] + features[first])

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
        """Where there may be something, deep inside not: what an occupancy grid is to follow."""
        return NearSurface(self)

    def near(self, x: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 16"]]:
        """`distance`, and the features that `color` takes."""
        features = self.radiance.features(x)
        return to_sphere(x, self.radius) + SHARE * features[:, 0], features


class Near(RadianceField, Protocol):
    """A radiance field that knows how near a surface is."""

    @property
    def sharpness(self) -> Float[Tensor, " 1"]:
        """In 1 / side of the unit cube."""
        ...

    def near(self, x: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 16"]]:
        """Its distance in sides of the unit cube, and the features that `color` takes."""
        ...


class NearSurface:
    """A band about a surface as a density, no thinner than a cell of a grid."""

    def __init__(self, field: Near):
        self.field = field

    def density(self, x: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 16"]]:
        """4 s Phi (1 - Phi) of the distance, which falls on both sides; and the features."""
        distance, features = self.field.near(x)
        sharpness = self.field.sharpness.clamp(max=BAND)
        outside, inside = ((side * sharpness * distance).sigmoid() for side in (1, -1))
        return 4 * sharpness * outside * inside, features

    def encode_directions(self, directions: Float[Tensor, "r 3"]) -> Float[Tensor, "r h"]:
        """The field's."""
        return self.field.encode_directions(directions)

    def color(
        self, features: Float[Tensor, "n 16"], harmonics: Float[Tensor, "n h"]
    ) -> Float[Tensor, "n 3"]:
        """The field's."""
        return self.field.color(features, harmonics)


def encoded_radiance(field: TrainableField) -> Radiance:
    """The field, if distances may take the place of its density; InputError if not."""
    if not isinstance(field, Radiance):
        raise InputError("--surface", type(field).__name__, "a field with an encoding: not mlp")
    if field.warp is not None:
        raise InputError("--surface", "a field of all space", "a bounded one, --space bounded")
    return field


def to_sphere(x: Float[Tensor, "n 3"], radius: float) -> Float[Tensor, " n"]:
    """Distance to a sphere about the middle of the unit cube, below 0 inside, without a kink."""
    return ((x - 0.5).square().sum(1) + ROUNDED**2).sqrt() - radius


def ends_of_pieces(
    x: Float[Tensor, "n 3"], extent: Float[Tensor, "n 3"]
) -> tuple[Float[Tensor, "places 3"], Int64[Tensor, " n"]]:
    """Where pieces of rays about x end, and behind these other places where one begins.

    extent: half of each. Also the row, among all places, of the beginning of each piece: pieces
    mostly follow each other, and where one ends the next begins and is not asked again.
    """
    begin, end = x - extent, x + extent
    fresh = torch.ones(len(x), dtype=torch.bool, device=x.device)
    fresh[1:] = (begin[1:] - end[:-1]).abs().amax(1) > SAME
    places = torch.cat([end, begin[fresh]])
    first = torch.arange(-1, len(x) - 1, device=x.device)
    first[fresh] = torch.arange(len(x), len(places), device=x.device)
    return places, first


def _density(rule: DensityRule, sharpness: Tensor, distance: Tensor) -> Tensor:
    if rule == "neus":
        return sharpness * (-sharpness * distance).sigmoid()
    outside = 0.5 * torch.exp(-sharpness * distance.abs())
    return sharpness * torch.where(distance > 0, outside, 1 - outside)
