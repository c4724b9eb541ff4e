"""Pictures inside a page: data URIs, error maps, and the frames of an orbit in one sheet."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

WIDEST_PICTURE = 480  # pixels that a picture has in the page
WIDEST_FRAME = 240  # of an orbit
COLUMNS = 9
BLOCK = 8  # pixels a side of what a JPEG with colours in full resolution codes alone


def error_map(
    prediction: UInt8[np.ndarray, "h w 3"], truth: UInt8[np.ndarray, "h w 3"], full: float
) -> UInt8[np.ndarray, "h w 3"]:
    """Absolute error, mean over channels, as colour: `full` (in [0, 1]) and beyond is the last."""
    error = np.abs(prediction.astype(np.float64) - truth).mean(2) / 255
    return heat(np.clip(error / full, 0, 1))


def heat(values: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape 3"]:
    """Values in [0, 1] as colours from black to white, lightness rising evenly, hue turning.

    Source: cubehelix (D. A. Green, 2011, arXiv:1108.5083), start 0.35, -0.9 rotations, hue 1.1.
    """
    angle = 2 * np.pi * (0.35 / 3 + 1 - 0.9 * values)
    swing = 1.1 * values * (1 - values) / 2
    cosine, sine = np.cos(angle), np.sin(angle)
    rows = ((-0.14861, 1.78277), (-0.29227, -0.90649), (1.97294, 0.0))
    colour = np.stack([values + swing * (a * cosine + b * sine) for a, b in rows], -1)
    return (np.clip(colour, 0, 1) * 255).round().astype(np.uint8)


def data_uri(image: UInt8[np.ndarray, "h w 3"], lossless: bool = False, quality: int = 92) -> str:
    """The picture as a JPEG (lossless: PNG) for an src attribute, no wider than 480 pixels."""
    picture = _no_wider(image, WIDEST_PICTURE)
    buffer = io.BytesIO()
    if lossless:
        picture.save(buffer, "PNG", optimize=True)
    else:
        picture.save(buffer, "JPEG", quality=quality, subsampling=0)
    kind = "png" if lossless else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


@dataclass(frozen=True)
class Sheet:
    """Frames side by side in one picture: frame n at column n % columns, row n // columns.

    Sizes in pixels; cells are a little larger than the frames, whose borders go on in them.
    """

    uri: str
    frames: int
    columns: int
    width: int
    height: int
    cell_width: int
    cell_height: int


def frame_sheet(frames: list[UInt8[np.ndarray, "h w 3"]]) -> Sheet:
    """All frames (of one size, at least one) as one JPEG, each no wider than 240 pixels."""
    small = [np.asarray(_no_wider(frame, WIDEST_FRAME)) for frame in frames]
    height, width = small[0].shape[:2]
    # Whole blocks for each frame, and colours in full resolution, which decoders would else smooth
    # across blocks: nothing of its neighbour bleeds over the border.
    cell_height, cell_width = (-(-side // BLOCK) * BLOCK for side in (height, width))
    columns = min(COLUMNS, len(small))
    rows = -(-len(small) // columns)
    sheet = np.full((rows * cell_height, columns * cell_width, 3), 255, np.uint8)
    margin = ((0, cell_height - height), (0, cell_width - width), (0, 0))
    for number, frame in enumerate(small):
        top, left = number // columns * cell_height, number % columns * cell_width
        sheet[top : top + cell_height, left : left + cell_width] = np.pad(frame, margin, "edge")
    buffer = io.BytesIO()
    # Not "optimize": Pillow's buffer for it is too small for noise, which a bad field is.
    Image.fromarray(sheet).save(buffer, "JPEG", quality=80, subsampling=0)
    uri = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Sheet(uri, len(small), columns, width, height, cell_width, cell_height)


def _no_wider(image: np.ndarray, widest: int) -> Image.Image:
    picture = Image.fromarray(np.ascontiguousarray(image))
    if picture.width <= widest:
        return picture
    height = max(1, round(picture.height * widest / picture.width))
    return picture.resize((widest, height), Image.Resampling.LANCZOS)
