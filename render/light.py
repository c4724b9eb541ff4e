"""The light that one more photograph was taken in, found from a part of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.cuda.composite import composite, visible_samples
from polyfield.fields.appearance import InLightOf, rows_of
from polyfield.fields.field import RadianceField, TrainableField
from polyfield.render.cones import density_of
from polyfield.render.exposure import at_mean_exposure
from polyfield.render.packed import keep_samples
from polyfield.render.samplers import Guide, place_samples
from polyfield.render.volume import STOP, Sampling

# Of Adam; a stop is a large step, and codes are about as long. No stop gets farther than 3.
STEPS, RATE = 100, 0.03


@dataclass(frozen=True, eq=False)
class Light:
    """Stops [3] over the mean exposure, a channel each, and the appearance code [k], if any.

    whole: what lies behind the field was in the photograph, and so in its light; not where the
    photograph is transparent.
    """

    stops: Float[Tensor, " 3"]
    code: Float[Tensor, " k"] | None
    whole: bool = True

    def on(
        self,
        color: Float[Tensor, "*pixels 3"],
        opacity: Float[Tensor, "*pixels"],
        background: Float[Tensor, "*#pixels 3"],
    ) -> Float[Tensor, "*pixels 3"]:
        """Colours of mean exposure on the background as the photograph shows them, sRGB.

        At least 0, above 1 too.
        """
        if self.whole:
            return self._exposed(color)
        behind = (1 - opacity)[..., None] * background
        alone = (color - behind) / opacity.clamp_min(1e-6)[..., None]
        return self._exposed(alone) * opacity[..., None] + behind

    def _exposed(self, color: Tensor) -> Tensor:
        return at_mean_exposure(color, -self.stops.expand_as(color))


def fit_stops(
    color: Float[Tensor, "pixels 3"],
    opacity: Float[Tensor, " pixels"],
    background: Float[Tensor, " 3"],
    target: Float[Tensor, "pixels 3"],
    *,
    whole: bool = True,
) -> Light:
    """The light in which pixels of mean exposure on a background are most like others, in squares.

    Colours sRGB; whole: as `Light` has it.
    """
    stops = torch.zeros(3, device=color.device, requires_grad=True)
    adam = torch.optim.Adam([stops], lr=RATE)
    for _ in range(STEPS):
        shown = Light(stops, None, whole).on(color, opacity, background)
        (stops.grad,) = torch.autograd.grad((shown - target).square().mean(), [stops])
        adam.step()
    return Light(stops.detach(), None, whole)


def fit_light(
    field: TrainableField,
    guide: Guide,
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    background: Float[Tensor, "rays 3"],
    target: Float[Tensor, "rays 3"],
    sampling: Sampling,
    *,
    exposure: bool,
    whole: bool = True,
) -> Light:
    """The light in which the field shows these colours along these rays best, in squares.

    Rays of the unit cube, directions unit; colours sRGB in [0, 1]. exposure: whether stops are
    sought; a code is, where the field has codes, from the mean of the photographs' on. whole: as
    `Light` has it. The field stays as it is, and so do the samples: light changes neither.
    """
    device = origins.device
    stops = torch.zeros(3, device=device, requires_grad=exposure)
    with torch.no_grad():
        samples = place_samples(field, guide, origins, directions, sampling)
        density, features = density_of(field, samples.position, samples.extent)
        seen = visible_samples(density, samples.length, samples.ray_offsets, STOP)
        samples = keep_samples(samples, seen)
        density, features = density[seen], features[seen]
    code = None
    lit: RadianceField = field
    if field.codes is not None:
        code = field.codes.detach().mean(0, keepdim=True).requires_grad_()
        lit = InLightOf(field, code, 0)
    wanted = [t for t in (stops, code) if t is not None and t.requires_grad]
    if not wanted:
        return Light(stops, None, whole)
    adam = torch.optim.Adam(wanted, lr=RATE)
    for _ in range(STEPS):
        harmonics = rows_of(lit.encode_directions(directions), samples.ray)
        color = field.color(features, harmonics)
        out = composite(density, samples.length, color, samples.ray_offsets)
        shown = out.values + (1 - out.opacity)[:, None] * background
        light = Light(stops, None, whole)
        error = (light.on(shown, out.opacity, background) - target).square().mean()
        for tensor, gradient in zip(wanted, torch.autograd.grad(error, wanted), strict=True):
            tensor.grad = gradient
        adam.step()
    return Light(stops.detach(), None if code is None else code.detach()[0], whole)
