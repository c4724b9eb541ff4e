"""Images of a field seen by a camera."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.cuda.errors import InputError
from polyfield.fields.field import RadianceField
from polyfield.render.cameras import Cameras
from polyfield.render.samplers import Guide
from polyfield.render.shading import shade_rays
from polyfield.render.volume import Sampling

BYTES_A_PIXEL = 192  # alive while a band of an image is made
BYTES_BEHIND = 256  # more, where each direction has its background


Background = tuple[float, float, float] | Callable[[Tensor], Tensor]
"""sRGB in [0, 1]: one colour, or colours [r, 3] of unit directions [r, 3]."""


class View(NamedTuple):
    """A rendered image, or a band of rows of it.

    Colour in [0, 1] on the background; opacity in [0, 1]; depth: mean distance along the ray, in
    sides of the unit cube, 0 for nothing. normal: mean of the unit normals that the pixel sees
    (minus the density's gradient), in the axes of the unit cube; its length is at most the opacity,
    and less where normals differ within the pixel. None unless it was asked for.
    """

    color: Float[Tensor, "height width 3"]
    opacity: Float[Tensor, "height width"]
    depth: Float[Tensor, "height width"]
    normal: Float[Tensor, "height width 3"] | None = None


def subpixel_offsets(count: int) -> Float[Tensor, "count 2"]:
    """Where in a pixel its rays go through, 0 to 1.

    The centre for 1, a stratified grid for a square number, else pairs that mirror each other in
    the centre, from the R2 low-discrepancy sequence. Their mean is always the centre: were it not,
    the image would be shifted by a part of a pixel.
    """
    side = round(count**0.5)
    if side * side == count:
        ticks = (torch.arange(side) + 0.5) / side
        return torch.cartesian_prod(ticks, ticks).reshape(-1, 2)
    index = torch.arange(count // 2, dtype=torch.float64)[:, None]
    first = torch.tensor([[0.25, 0.75]], dtype=torch.float64)
    steps = torch.tensor([[0.7548776662466927, 0.5698402909980532]], dtype=torch.float64)
    points = (first + index * steps).remainder(1)
    center = torch.full((count % 2, 2), 0.5, dtype=torch.float64)
    return torch.cat([center, points, 1 - points]).float()


def render_bands(
    field: RadianceField,
    guide: Guide,
    cameras: Cameras,
    index: int,
    background: Background,
    sampling: Sampling,
    *,
    samples_per_pixel: int = 1,
    normals: bool = False,
    memory_bytes: int = 1 << 28,
) -> Iterator[View]:
    """The image of camera `index` (cameras in the unit cube) from top to bottom, in bands of rows.

    All that is alive at once takes at most about memory_bytes, whatever the size of the image and
    the number of samples; a band has one row at least. Raises InputError for less than one ray a
    pixel.
    """
    if samples_per_pixel < 1:
        raise InputError("samples per pixel", str(samples_per_pixel), "at least 1")
    device = cameras.camera_to_world.device
    width, height = int(cameras.width[index]), int(cameras.height[index])
    pixel_bytes = BYTES_A_PIXEL + BYTES_BEHIND * callable(background)
    rows = max(1, memory_bytes // 4 // (pixel_bytes * width))
    offsets = subpixel_offsets(samples_per_pixel).to(device)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        pixels = torch.arange(top * width, bottom * width, device=device)
        corner = torch.stack([pixels % width, pixels // width], 1).float()
        camera = torch.full_like(pixels, index)
        total: list[Tensor] = []
        for offset in offsets:
            origins, directions = cameras.rays(camera, corner + offset)
            # Beyond what a fisheye shows, 180 degrees from its axis, a pixel has no ray.
            there = directions.isfinite().all(1)
            directions[~there] = directions.new_tensor([0.0, 0.0, 1.0])
            seen = shade_rays(
                field,
                guide,
                origins,
                directions,
                sampling,
                normals=normals,
                memory_bytes=memory_bytes // 2,
            )
            found = [channel for channel in seen if channel is not None]
            for channel in found:
                channel[~there] = 0
            far = behind(background, directions)
            if callable(background):  # no direction, no colour
                far = far * there[:, None]
            found[0] += (1 - seen.opacity)[:, None] * far
            total = [a + b for a, b in zip(total, found, strict=True)] if total else found
        color, opacity, depth, *normal = (channel / samples_per_pixel for channel in total)
        shape = (bottom - top, width)
        yield View(
            color.clamp(0, 1).reshape(*shape, 3),
            opacity.reshape(shape),
            (depth / opacity.clamp_min(1e-6)).reshape(shape),
            normal[0].reshape(*shape, 3) if normal else None,
        )


@torch.no_grad()
def behind(background: Background, directions: Float[Tensor, "rays 3"]) -> Float[Tensor, "rays 3"]:
    """What lies behind a field along rays of these unit directions: sRGB in [0, 1]."""
    if callable(background):
        return background(directions)
    return torch.tensor(background, device=directions.device).expand_as(directions)


def render_view(
    field: RadianceField,
    guide: Guide,
    cameras: Cameras,
    index: int,
    background: Background,
    sampling: Sampling,
    *,
    samples_per_pixel: int = 1,
    normals: bool = False,
    memory_bytes: int = 1 << 28,
) -> View:
    """The whole image at once; memory_bytes, as `render_bands` takes it, does not count it."""
    bands = render_bands(
        field,
        guide,
        cameras,
        index,
        background,
        sampling,
        samples_per_pixel=samples_per_pixel,
        normals=normals,
        memory_bytes=memory_bytes,
    )
    color, opacity, depth, normal = zip(*bands, strict=True)
    return View(
        torch.cat(color),
        torch.cat(opacity),
        torch.cat(depth),
        torch.cat(normal) if normals else None,
    )
