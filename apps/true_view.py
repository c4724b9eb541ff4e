"""The photograph that a rendered view is compared with, and which of its pixels count."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from polyfield.apps.images import ImageStore
from polyfield.apps.mask_files import HALF
from polyfield.apps.scene import Scene
from polyfield.apps.settings import Color
from polyfield.render.metrics import WINDOW

_BAND = 128  # rows converted at once


@dataclass(frozen=True, eq=False)
class TrueView:
    """A photograph in [0, 1], sRGB, with the pixels of it that a measure is taken over."""

    color: Float[Tensor, "height width 3"]
    kept: Bool[Tensor, "height width"] | None
    """None: all of them."""

    @property
    def share(self) -> float:
        """Of its pixels that count, 0 to 1."""
        return 1.0 if self.kept is None else float(self.kept.double().mean())

    @property
    def measurable(self) -> bool:
        """Whether a pixel counts that is the middle of a whole window of SSIM, and so for both."""
        if self.kept is None:
            return True
        margin = WINDOW // 2
        return bool(self.kept[margin:-margin, margin:-margin].any())

    def half(self, right: bool) -> TrueView:
        """The same photograph, of which only the pixels of one half count."""
        there = torch.arange(self.color.shape[1]) >= self.color.shape[1] // 2
        there = (there if right else ~there).expand(self.color.shape[:2])
        return TrueView(self.color, there if self.kept is None else there & self.kept)


def true_view(
    scene: Scene, images: ImageStore, frame: int, background: Color, stride: int = 1
) -> TrueView:
    """What a view of a frame should show, and where; stride: of which pixels, see Cameras.every.

    The pixels that a mask ignores do not count. Where a mask tells the object from a background
    that is not wanted, the object's pixels count (mask above 127), and their colours are the
    photograph's, on no background: it is in the photograph that the object is opaque.
    """
    height, width = (side // stride * stride for side in images.sizes[frame][::-1])
    some = slice(stride // 2, height, stride), slice(stride // 2, width, stride)
    pixels = images.image(frame)[some]
    mask = scene.masks[frame] if scene.masks else None
    if mask is None:
        return TrueView(shown_image(pixels, background), None)
    if mask.meaning == "object":
        return TrueView(pixels[..., :3].float() / 255, pixels[..., 3] > HALF)
    return TrueView(shown_image(pixels, background), images.kept_image(frame)[some])


def shown_image(
    pixels: UInt8[Tensor, "height width channels"], background: Color
) -> Float[Tensor, "height width 3"]:
    """An sRGB image of 3 channels, or of 4 with straight alpha, in [0, 1] on a background."""
    height, width, channels = pixels.shape
    image = torch.empty(height, width, 3)
    for top in range(0, height, _BAND):  # of a whole photograph, each term is as large as it
        band = pixels[top : top + _BAND].float() / 255
        if channels == 4:
            alpha = band[..., 3:]
            band = band[..., :3] * alpha + torch.tensor(background) * (1 - alpha)
        image[top : top + _BAND] = band
    return image
