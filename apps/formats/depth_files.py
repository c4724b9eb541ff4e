"""Depth images beside photographs: what their files must be, and their pixels in metres."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.apps.files import open_plain
from polyfield.apps.image_files import MOST_PIXELS, open_image, read_header
from polyfield.cuda.errors import InputError

MILLIMETRES = 1e-3  # what one step of a pixel means where the scene does not say
_EXPECTED = "a PNG of one channel of 16 bits"


def check_depth(path: Path) -> tuple[int, int]:
    """(width, height) of a depth image, of which no pixel is decoded.

    InputError names a file that is missing, cut off, too large or no PNG of one 16-bit channel.
    """
    header = read_header(path)
    try:
        with open_plain(path) as file:
            image = open_image(file)
            form, mode = image.format, image.mode
    except Exception as error:  # Pillow's readers raise whatever their bytes lead them to
        raise InputError(str(path), "not readable as an image", _EXPECTED) from error
    # Older versions of Pillow call the same pixels I.
    if form != "PNG" or header.bits != 16 or not mode.startswith("I"):
        raise InputError(str(path), f"{form} of {header.bits} bits, type {mode}", _EXPECTED)
    if header.width * header.height > MOST_PIXELS:
        got = f"{header.width}x{header.height} pixels"
        raise InputError(str(path), got, f"at most {MOST_PIXELS:,} pixels")
    return header.width, header.height


def read_depth(path: Path, unit: float = MILLIMETRES) -> Float[Tensor, "height width"]:
    """Depth along the optical axis, as nerfstudio stores it: metres in float32, 0 where unknown.

    unit: metres that a step of a pixel means, the scene's `depth_unit`. InputError names a file
    that is no depth image or does not decode.
    """
    check_depth(path)
    try:
        with open_plain(path) as file:
            pixels = np.asarray(open_image(file)).astype(np.float64)
    except Exception as error:  # as above
        raise InputError(str(path), "its pixels do not decode", _EXPECTED) from error
    return torch.from_numpy(pixels * unit).float()
