"""Images as 8 bits a channel, and as PNG files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from polyfield.apps.files import replacing


def to_8bit(image: Float[Tensor, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """[0, 1] to 0..255, rounded."""
    return (image.cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def png_bytes(image: UInt8[np.ndarray, "height width channels"]) -> bytes:
    """The content of a PNG file of 3 channels, or 4 with straight alpha."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def write_png(path: Path, image: UInt8[np.ndarray, "height width channels"]) -> None:
    """Writes 3 channels, or 4 with straight alpha, whole or not at all; see `replacing`."""
    with replacing(path) as file:
        Image.fromarray(image).save(file, "PNG")
