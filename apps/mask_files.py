"""Masks beside photographs: which pixels count, or which of them show the object."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from polyfield.apps.image_files import decode
from polyfield.cuda.errors import InputError

Meaning = Literal["keep", "ignore", "object"]
WORDS: dict[Meaning, str] = {
    "keep": "what is black is ignored",
    "ignore": "what is not black is ignored",
    "object": "white is the object, the rest is to be empty",
}
HALF = 127  # a pixel is the object's where its mask is above this


@dataclass(frozen=True)
class Mask:
    """One image that belongs to one photograph, of any size of the same aspect.

    meaning: "keep": black pixels are ignored (COLMAP, Brush, nerfstudio, 3DGRUT); "ignore": all but
    black ones are (instant-ngp); "object": white is the object and black a background that is not
    wanted, so the mask is the photograph's alpha (NeuS, IDR).
    """

    path: Path
    meaning: Meaning
    width: int
    height: int


def read_mask(mask: Mask, width: int, height: int) -> UInt8[Tensor, "{height} {width}"]:
    """The mask as its file has it, the brightest of its channels, at a photograph's size.

    Each pixel has the value at its centre: nothing is mixed, for 1 means another thing than 0.
    InputError names the file where it does not decode or is no longer what its header said.
    """
    pixels = decode(mask.path, 4)
    if pixels.shape[:2] != (mask.height, mask.width):
        got = f"{pixels.shape[1]}x{pixels.shape[0]} pixels"
        expected = f"{mask.width}x{mask.height}, as when it was opened"
        raise InputError(str(mask.path), got, expected)
    columns, rows = (
        (2 * np.arange(wanted) + 1) * there // (2 * wanted)
        for wanted, there in ((width, mask.width), (height, mask.height))
    )
    found = pixels.numpy()
    if (width, height) != (mask.width, mask.height):
        found = found[rows[:, None], columns]
    brightest = np.maximum(np.maximum(found[..., 0], found[..., 1]), found[..., 2])
    return torch.from_numpy(brightest)


def kept_pixels(mask: Mask | None, width: int, height: int) -> Bool[Tensor, "{height} {width}"]:
    """The pixels of a photograph that its mask does not ignore; all where it says nothing of it."""
    if mask is None or mask.meaning == "object":
        return torch.ones(height, width, dtype=torch.bool)
    value = read_mask(mask, width, height)
    return value > 0 if mask.meaning == "keep" else value == 0


def decode_masked(
    path: Path,
    mask: Mask | None,
    channels: int,
    into: UInt8[Tensor, "height width {channels}"] | None = None,
) -> UInt8[Tensor, "height width {channels}"]:
    """`decode`, with the mask of an object in the alpha channel: times the image's own, if any."""
    pixels = decode(path, channels, into)
    if channels == 4 and mask is not None and mask.meaning == "object":
        height, width = pixels.shape[:2]
        alpha, shown = pixels[:, :, 3], read_mask(mask, width, height)
        product = alpha.int() * shown if bool((alpha < 255).any()) else None
        pixels[:, :, 3] = shown if product is None else (product + 127) // 255
    return pixels
