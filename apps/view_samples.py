"""Each photograph of a scene decoded once, at reduced size, into the little a diagnosis needs."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d

from polyfield.apps.bounds import Backdrop, object_mask
from polyfield.apps.image_files import decode_reduced
from polyfield.apps.mask_files import kept_pixels, read_mask
from polyfield.apps.scene import Scene
from polyfield.cuda.errors import InputError

LONGEST = 800  # pixels of the longer side, at which images are compared
_THUMBNAIL = 128
_THUMBNAIL_BYTES = 1 << 26  # of all views together
_DECODING_PIXELS = 1 << 25  # on their way at once
_FEWEST_PIXELS = 200  # of the subject, for a figure to mean something
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True, eq=False)
class ViewSample:
    """What one photograph shows, as far as a diagnosis asks."""

    thumbnail: UInt8[Tensor, "height width 4"]
    """sRGB with straight alpha; the longer side at most 128 pixels, less in scenes of thousands."""
    mask: Bool[Tensor, "height width"]
    """Of the thumbnail: where the subject is, by alpha, mask of an object or backdrop; everywhere
    without any."""
    kept: Bool[Tensor, "height width"]
    """Of the thumbnail: what a mask does not ignore."""
    digest: str
    """Of the pixels: equal for equal pictures."""
    subject: float
    """Share of the picture that is neither transparent nor plain backdrop nor ignored."""
    brightness: float
    """Median luma of the subject in [0, 1]; NaN where there is none."""
    dark: float
    """Share of the subject with no channel above 4 of 255."""
    bright: float
    """Share of the subject with no channel below 251 of 255."""
    sharpness: Float[Tensor, "4 3"]
    """Along rows, columns and both diagonals, natural logarithms of ratios of the variance of
    second differences: at full size to half, full to quarter, half to eighth. NaN where the subject
    is too small to say."""


def reduced_view(
    scene: Scene, frame: int, longest: int
) -> tuple[UInt8[Tensor, "height width 4"], Bool[Tensor, "height width"]]:
    """A photograph at most `longest` pixels long, and which of its pixels no mask ignores.

    The mask of an object is its alpha. InputError names the file that does not decode.
    """
    pixels = decode_reduced(scene.image_paths[frame], longest)
    height, width = pixels.shape[:2]
    mask = scene.masks[frame] if scene.masks else None
    if mask is not None and mask.meaning == "object":
        shown = read_mask(mask, width, height)
        pixels[:, :, 3] = (pixels[:, :, 3].int() * shown // 255).to(torch.uint8)
    return pixels, kept_pixels(mask, width, height)


def sample_views(scene: Scene) -> Iterator[ViewSample | InputError]:
    """One sample a frame, in order; the error where a photograph does not decode.

    At most some 32 million pixels are being decoded at once, and at most 64 MB are kept of all.
    """
    longest = min(LONGEST, min(max(size) for size in scene.sizes))
    side = math.isqrt(_THUMBNAIL_BYTES // 4 // len(scene.sizes))
    side = max(16, min(_THUMBNAIL, side))
    largest = max(width * height for width, height in scene.sizes)
    together = max(1, min(8, os.cpu_count() or 1, _DECODING_PIXELS // largest))

    def sample(frame: int) -> ViewSample | InputError:
        try:
            pixels, kept = reduced_view(scene, frame, longest)
        except InputError as error:
            return error
        return sample_of(pixels, scene.backdrop, kept, side)

    with ThreadPoolExecutor(together) as pool:
        yield from pool.map(sample, range(len(scene.sizes)))


def sample_of(
    pixels: UInt8[Tensor, "height width 4"],
    backdrop: Backdrop | None,
    kept: Bool[Tensor, "height width"] | None = None,
    side: int = _THUMBNAIL,
) -> ViewSample:
    """The sample of one picture; kept: what no mask ignores; side: of the thumbnail at most."""
    height, width = pixels.shape[:2]
    transparent = bool((pixels[:, :, 3] < 255).any())
    if transparent or backdrop is None:
        mask = pixels[:, :, 3] > 0
    else:
        mask = object_mask(pixels, backdrop)
    luma = pixels[:, :, :3].float() @ torch.tensor(LUMA) / 255
    solid = mask & (pixels[:, :, 3] == 255) if transparent else mask
    solid = solid if kept is None else solid & kept
    count = int(solid.sum())
    brightness = float(luma[solid].median()) if count >= _FEWEST_PIXELS else math.nan
    dark = bright = 0.0
    if count >= _FEWEST_PIXELS:
        channels = pixels[:, :, :3]
        dark = float((channels.amax(2) <= 4)[solid].float().mean())
        bright = float((channels.amin(2) >= 251)[solid].float().mean())
    scale = min(1.0, side / max(height, width))
    small = (max(1, round(width * scale)), max(1, round(height * scale)))
    thumbnail = Image.fromarray(pixels.numpy()).resize(small, Image.Resampling.BOX)

    def reduced(which: Tensor) -> Tensor:
        shares = Image.fromarray(which.numpy().astype(np.uint8) * 255)
        return torch.from_numpy(np.array(shares.resize(small, Image.Resampling.BOX))) > 127

    return ViewSample(
        torch.from_numpy(np.array(thumbnail)),
        reduced(mask),
        reduced(torch.ones_like(mask) if kept is None else kept),
        hashlib.blake2b(pixels.numpy().tobytes(), digest_size=16).hexdigest(),
        float((mask if kept is None else mask & kept).float().mean()),
        brightness,
        dark,
        bright,
        sharpness_of(luma, solid),
    )


def sharpness_of(
    luma: Float[Tensor, "height width"], solid: Bool[Tensor, "height width"]
) -> Float[Tensor, "4 3"]:
    """How the variance of second differences falls over scales, where `solid`: see ViewSample.

    The variance itself tells how much there is to see as much as how sharp it is seen. Its ratio to
    that of the same picture at half and a quarter of the size does not: blur takes the finest
    detail first, and that of a moving hand takes it along one direction only. Compare with the
    values of other views of the same scene.
    """
    rows = []
    picture, inside = luma[None, None], solid.float()[None, None]
    for _ in range(4):
        rows.append(_second_differences(picture, inside))
        if min(picture.shape[2:]) < 4:
            break
        picture, inside = avg_pool2d(picture, 2), (avg_pool2d(inside, 2) > 0.999).float()
    rows += [torch.full((4,), math.nan)] * (4 - len(rows))
    # 8 bits: what lies below a hundredth of their rounding is rounding.
    log = torch.stack(rows).clamp(min=1e-8).log()
    return torch.stack([log[0] - log[1], log[0] - log[2], log[1] - log[3]], 1)


def _second_differences(picture: Tensor, inside: Tensor) -> Tensor:
    """Their mean squares [4] along rows, columns and both diagonals, where all points are inside.

    The Laplacian is the sum of the first two.
    """
    unknown = torch.full((4,), math.nan)
    if min(picture.shape[2:]) < 3:
        return unknown
    kept = -max_pool2d(-inside, 3, stride=1)[0, 0] > 0.5
    if int(kept.sum()) < _FEWEST_PIXELS:
        return unknown
    image = picture[0, 0]
    height, width = image.shape

    def moved(down: int, right: int) -> Tensor:
        return image[1 + down : height - 1 + down, 1 + right : width - 1 + right]

    ways = ((0, 1), (1, 0), (1, 1), (1, -1))
    differences = [moved(*way) + moved(-way[0], -way[1]) - 2 * moved(0, 0) for way in ways]
    return torch.stack([difference[kept].square().mean() for difference in differences])
