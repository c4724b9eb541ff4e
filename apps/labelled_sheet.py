"""Pictures in lines, each with a few words above it: one sheet to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from polyfield.apps.png_files import to_8bit, write_png

GAP = 6  # pixels between pictures
FONT_OF_HEIGHT, LABEL_OF_FONT = 1 / 15, 1.4  # of pictures and of letters


def write_sheet(
    path: Path,
    lines: Sequence[Sequence[tuple[str, Float[Tensor, "height width 3"]]]],
    height: int,
) -> None:
    """Write a PNG of lines of labelled pictures, in [0, 1], each scaled to so many pixels high."""
    font_size = round(height * FONT_OF_HEIGHT)
    label_height = round(LABEL_OF_FONT * font_size)
    drawn = [[(label, _scaled(color, height)) for label, color in line] for line in lines]
    widths = [sum(picture.width + GAP for _, picture in line) for line in drawn]
    size = max(1, max(widths, default=GAP) - GAP), max(1, len(drawn) * (height + label_height))
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(font_size)
    for number, line in enumerate(drawn):
        top, left = number * (height + label_height), 0
        for label, picture in line:
            draw.text((left + 2, top + 1), label, fill="black", font=font)
            sheet.paste(picture, (left, top + label_height))
            left += picture.width + GAP
    write_png(path, np.asarray(sheet))


def _scaled(color: Tensor, height: int) -> Image.Image:
    picture = Image.fromarray(to_8bit(color.cpu()))
    width = max(1, round(picture.width * height / picture.height))
    return picture.resize((width, height), Image.Resampling.LANCZOS)
