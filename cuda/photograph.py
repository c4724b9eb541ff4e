"""Photographs of bytes as pictures of floats, coarser if need be, on a background."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import avg_pool2d

from polyfield.cuda.backend import backend_of
from polyfield.cuda.errors import InputError
from polyfield.cuda.kernel import constant, kernel, launch


def photograph(
    pixels: UInt8[Tensor, "height width c"], background: Float[Tensor, " 3"], times: int = 1
) -> tuple[Float[Tensor, "h w 3"], Float[Tensor, "h w"] | None]:
    """What a photograph shows on a background, in [0, 1], and its alpha, where it has one.

    pixels: sRGB, and alpha if there are four channels, not yet multiplied with it. times: each
    number is the mean over a square of so many pixels a side, colours by alpha; what is left over
    at the right and at the bottom is left out. Raises InputError where nothing remains, or for
    another number of channels.
    """
    height, width, channels = pixels.shape
    rows, columns = height // times, width // times
    if channels not in (3, 4) or not rows * columns:
        got = f"{height} x {width} pixels of {channels} bytes, squares of {times}"
        raise InputError("photograph", got, "3 or 4 channels, and one square at least")
    if backend_of(pixels.device) == "reference":
        return photograph_reference(pixels, background, times)
    color = torch.empty(rows, columns, 3, device=pixels.device)
    matte = color.new_empty(rows, columns) if channels == 4 else None
    grid = -(-rows * columns // constant("photograph", "PHOTOGRAPH_PIXELS")), 1
    inputs = pixels.contiguous(), background.to(color).contiguous()
    sizes = width, times, columns, rows * columns
    launch(kernel("photograph", f"Photograph<{channels}>"), grid, *inputs, color, matte, *sizes)
    return color, matte


def photograph_reference(
    pixels: UInt8[Tensor, "height width c"], background: Float[Tensor, " 3"], times: int
) -> tuple[Float[Tensor, "h w 3"], Float[Tensor, "h w"] | None]:
    """The specification in plain torch; as exact as the background's type."""
    found = pixels.to(background.dtype) / 255
    opaque = found.shape[2] == 3
    if not opaque:
        found = torch.cat([found[..., :3] * found[..., 3:], found[..., 3:]], 2)
    found = avg_pool2d(found.permute(2, 0, 1)[None], times)[0].permute(1, 2, 0)
    if opaque:
        return found, None
    color, matte = found[..., :3], found[..., 3]
    return color + (1 - matte)[..., None] * background.to(color), matte
