"""A field of rays that a run trained and everything needed to show it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn.functional import normalize

from polyfield.apps.settings import Color, Settings
from polyfield.apps.trained import SAMPLES_PER_PIXEL, check_tensors, part_of
from polyfield.cuda.errors import InputError
from polyfield.fields.ray_distribution import (
    SHORTEST,
    RayDistributionArguments,
    RayDistributionField,
)
from polyfield.fields.similarity import Similarity
from polyfield.render.cameras import Cameras
from polyfield.render.light import Light
from polyfield.render.view import View, subpixel_offsets

PIECE = 1 << 12  # rays whose hidden values a CPU keeps in its cache
NOTHING = 1e-6  # opacity, below which a pixel has no depth


class SeenRays(NamedTuple):
    """What rays show, on nothing."""

    color: Float[Tensor, "rays 3"]
    opacity: Float[Tensor, " rays"]
    depth: Float[Tensor, " rays"]
    """Sum of distances by their weights."""


@dataclass
class TrainedRays:
    """A field of rays in the unit cube of its scene, and the way back to the user's frame."""

    settings: Settings
    field: RayDistributionField
    to_field: Similarity
    memory_bytes: int = 1 << 28
    """Not looked at: a view takes little beside itself."""

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.field.box.device

    @property
    def parameters(self) -> int:
        """How many numbers were learned."""
        return sum(p.numel() for p in self.field.parameters())

    @property
    def has_light(self) -> bool:
        """Never: rays are taught in one light."""
        return False

    def view(
        self,
        cameras: Cameras,
        index: int,
        *,
        samples_per_pixel: int = SAMPLES_PER_PIXEL,
        background: Color | None = None,
    ) -> View:
        """The image of one camera of the unit cube, on the device of the field.

        background: the run's own where none is given.
        """
        (band,) = self.bands(
            cameras, index, samples_per_pixel=samples_per_pixel, background=background
        )
        return band

    def color(
        self,
        cameras: Cameras,
        index: int,
        *,
        samples_per_pixel: int = SAMPLES_PER_PIXEL,
        background: Color | None = None,
        light: Light | None = None,
    ) -> Float[Tensor, "height width 3"]:
        """The colour of `view`, on the CPU; light: there is none to be given."""
        shown = self.view(
            cameras, index, samples_per_pixel=samples_per_pixel, background=background
        )
        return shown.color.cpu()

    @torch.no_grad()
    def bands(
        self,
        cameras: Cameras,
        index: int,
        *,
        samples_per_pixel: int = SAMPLES_PER_PIXEL,
        normals: bool = False,
        background: Color | None = None,
        light: Light | None = None,
    ) -> Iterator[View]:
        """`view` as one band; light: there is none to be given.

        Pixels are means of their rays' pixels, as coefficients of several rays have no mean that
        would show anything. normals: of the surface that neighbouring depths span, as no point has
        a density whose slope they could be.
        """
        width, height = int(cameras.width[index]), int(cameras.height[index])
        pixels = torch.arange(width * height, device=self.device)
        corner = torch.stack([pixels % width, pixels // width], 1).float()
        camera = torch.full_like(pixels, index)
        total = torch.zeros(len(pixels), 5, device=self.device)
        for offset in subpixel_offsets(samples_per_pixel).to(self.device):
            for part in torch.arange(len(pixels), device=self.device).split(PIECE):
                origins, directions = cameras.rays(camera[part], corner[part] + offset)
                seen = seen_rays(self.field, origins, directions)
                sums = torch.cat([seen.color, seen.opacity[:, None], seen.depth[:, None]], 1)
                total[part] += sums / samples_per_pixel
        color, opacity, depth = total[:, :3], total[:, 3], total[:, 4]
        depth = torch.where(opacity > NOTHING, depth / opacity.clamp_min(NOTHING), 0.0)
        behind = torch.tensor(background or self.settings.background, device=self.device)
        color = (color + (1 - opacity)[:, None] * behind).clamp(0, 1)
        normal = None
        if normals:
            origins, directions = cameras.rays(camera, corner + 0.5)
            places = (origins + depth[:, None] * directions).view(height, width, 3)
            facing = normals_of(places, directions.view(height, width, 3))
            normal = opacity.view(height, width, 1) * facing
        shape = height, width
        yield View(color.view(*shape, 3), opacity.view(shape), depth.view(shape), normal)


def seen_rays(
    field: RayDistributionField,
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
) -> SeenRays:
    """What rays of the unit cube show; nothing where they miss the field's box, or are none."""
    directions = torch.where(directions.isfinite(), directions, 0.0)
    near, far = field.bounds(origins, directions)
    hit = torch.nonzero((far - near > SHORTEST) & directions.any(1))[:, 0]
    found = SeenRays(
        origins.new_zeros(len(origins), 3),
        origins.new_zeros(len(origins)),
        origins.new_zeros(len(origins)),
    )
    near, far = near[hit], far[hit]
    seen = field.seen(field(origins[hit], directions[hit], near, far))
    found.color[hit], found.opacity[hit] = seen.color, seen.opacity
    found.depth[hit] = near * seen.opacity + (far - near) * seen.middle
    return found


def normals_of(
    places: Float[Tensor, "height width 3"], directions: Float[Tensor, "height width 3"]
) -> Float[Tensor, "height width 3"]:
    """Unit normals, towards the camera, of the surface that neighbouring pixels' places span.

    Zero where they span none.
    """
    across = torch.zeros_like(places)
    down = torch.zeros_like(places)
    if places.shape[1] > 1:
        across = torch.gradient(places, dim=1)[0]
    if places.shape[0] > 1:
        down = torch.gradient(places, dim=0)[0]
    normal = normalize(torch.linalg.cross(across, down), dim=2, eps=1e-20)
    away = (normal * directions).sum(2, keepdim=True) > 0
    return torch.where(away, -normal, normal)


def build_rays(
    settings: Settings, device: torch.device, box: Float[Tensor, "2 3"] | None = None
) -> TrainedRays:
    """A fresh field of rays as the settings say, of what lies in `box`. InputError for bad sizes.

    On the device "meta" it takes no memory and has no values.
    """
    arguments = arguments_of_rays(settings, "settings")
    meta = device.type == "meta"
    generator = None if meta else Generator().manual_seed(settings.seed)
    with device if meta else nullcontext():
        field = RayDistributionField(arguments, generator, box)
    to_field = Similarity.from_json(settings.to_field)
    return TrainedRays(settings, field.to(device), to_field)


def arguments_of_rays(settings: Settings, where: str) -> RayDistributionArguments:
    """Its sizes. InputError, naming `where`, for what no run wrote."""
    known = {field.name for field in fields(RayDistributionArguments)}
    for name in settings.arguments:
        if name not in known:
            expected = f"one of {', '.join(sorted(known))}"
            raise InputError(f"{where}: settings.arguments", repr(name[:80]), expected)
    return RayDistributionArguments(**settings.arguments)


def load_rays(
    tensors: dict[str, Tensor], settings: Settings, device: torch.device, where: str
) -> TrainedRays:
    """What a checkpoint of rays shows. InputError for what is no run's."""
    found = part_of(tensors, "field.")
    blank = build_rays(settings, torch.device("meta"))
    check_tensors(found, blank.field.state_dict(), f"{where}: of rays")
    trained = build_rays(settings, device)
    trained.field.load_state_dict(found)
    trained.field.requires_grad_(False)
    return trained
