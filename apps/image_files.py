"""One photograph on disk: what its header says, whether it is whole, and its pixels as uint8."""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageFile
from torch import Tensor

from polyfield.apps.files import open_plain
from polyfield.cuda.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "MPO")  # MPO: JPEG of phones, with a second view
MOST_PIXELS = 1 << 26  # of an image that is used
_MOST_BYTES = 8 * MOST_PIXELS  # of a file: what so many pixels take without being packed
_BITS_A_BYTE = 8 * 1032  # that deflate makes of one, at most: a PNG's pixels are no more
_PIXELS_A_BYTE = 512  # of a JPEG, which spends at least a bit on a block of 64
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by the type of colour in its header
_HEADER_PIXELS = 1 << 14  # of an image that is nothing but its header
_MOST_CHUNKS = 1 << 15  # of a PNG; each costs Pillow as much as many pixels
_MOST_SEGMENTS = 1 << 12  # of a JPEG before its pixels
_MOST_BETWEEN = 1 << 14  # bytes that belong to none of them
_MOST_PACKED = 64  # of them that Pillow unpacks, to a megabyte each, before it looks at a pixel
_BAND_PIXELS = 1 << 20  # converted at once
_MODES = ("RGB", "RGBA", "L", "LA", "P", "PA", "1", "CMYK", "I;16", "I;16B", "I;16L")
_EXPECTED = f"an image that decodes: {', '.join(_FORMATS[:5])}"


@dataclass(frozen=True)
class ImageHeader:
    """What a file says of itself before its pixels are read."""

    width: int
    height: int
    has_alpha: bool
    bits: int
    """A channel. Files of 16 are read as 8: value / 257, or its high byte."""
    turned: bool
    """EXIF asks viewers to turn or mirror it. Poses belong to the pixels as they are stored."""


def read_header(path: Path) -> ImageHeader:
    """Size and kind of one image file, whose end marker is checked; no pixel is decoded.

    InputError names the file if it is missing, cut off, of an unknown format or of a pixel type
    that has no 8-bit meaning (32-bit integers, floats).
    """
    try:
        with open_plain(path) as file:
            cut_off = _cut_off(file)
            image = open_image(file)
            mode, (width, height) = image.mode, image.size
            transparent = "A" in mode or "transparency" in image.info
            sixteen = mode.startswith("I;16") or any(";16" in str(tile[3]) for tile in image.tile)
            turned = image.format != "PNG" and image.getexif().get(0x0112, 1) != 1
    except FileNotFoundError as error:
        raise InputError(str(path), "no such file", "an image") from error
    except Exception as error:  # Pillow's readers raise whatever their bytes lead them to
        if path.is_file() and path.stat().st_size == 0:
            raise InputError(str(path), "an empty file", "an image") from error
        raise InputError(
            str(path), f"not readable as an image ({_sentence(error)})", _EXPECTED
        ) from error
    if cut_off:
        raise InputError(str(path), cut_off, "a whole image", "Copy or export it again.")
    if mode not in _MODES:
        raise InputError(str(path), f"pixels of type {mode}", "8 or 16 bits a channel")
    return ImageHeader(width, height, transparent, 16 if sixteen else 8, turned)


def decode(
    path: Path, channels: int, into: UInt8[Tensor, "height width {channels}"] | None = None
) -> UInt8[Tensor, "height width {channels}"]:
    """Pixels as stored: sRGB, with straight alpha if `channels` is 4 (255 where there is none).

    into: where they are written, of the size that the image had when it was opened. Palettes, grey
    and CMYK become RGB. EXIF's orientation is not applied. InputError names the file where a pixel
    cannot be decoded, where it has alpha and only 3 channels were asked for, or another size.
    """
    try:
        with open_plain(path) as file:
            image = open_image(file)
            size = image.size
            if into is not None and size != (into.shape[1], into.shape[0]):
                got, expected = (f"{w}x{h}" for w, h in (size, (into.shape[1], into.shape[0])))
                raise InputError(str(path), f"{got} pixels", f"{expected}, as when it was opened")
            image.load()
            transparent = "A" in image.mode or "transparency" in image.info
            wanted = "RGBA" if channels == 4 else "RGB"
            shape = (image.height, image.width, channels)
            pixels = np.empty(shape, np.uint8) if into is None else into.numpy()
            # In bands: Pillow holds an image three times over while it converts it.
            rows = max(1, _BAND_PIXELS // image.width)
            for top in range(0, image.height, rows):
                band = image.crop((0, top, image.width, min(top + rows, image.height)))
                if image.mode.startswith("I;16"):
                    grey = (np.asarray(band).astype(np.uint32) + 128) // 257
                    band = Image.fromarray(grey.astype(np.uint8))
                pixels[top : top + rows] = np.asarray(band.convert(wanted))
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(str(path), "no such file", "an image") from error
    except Exception as error:  # as above
        raise InputError(
            str(path), f"its pixels do not decode ({_sentence(error)})", _EXPECTED
        ) from error
    if transparent and channels == 3:
        raise InputError(str(path), "an image with alpha", "one without, like its neighbours")
    return torch.from_numpy(pixels)


def decode_reduced(path: Path, longest: int) -> UInt8[Tensor, "height width 4"]:
    """Pixels as `decode` gives them, of an image whose longer side is at most `longest` pixels.

    A larger one becomes the mean over the areas of the new pixels, colours weighted by alpha. A
    JPEG is decoded at an eighth to the whole of its size, whatever is enough: less work and memory.
    InputError names the file where a pixel cannot be decoded.
    """
    try:
        with open_plain(path) as file:
            image = open_image(file)
            whole = max(image.size)
            if image.format in ("JPEG", "MPO") and whole > longest:
                wanted = [max(1, math.ceil(side * longest / whole)) for side in image.size]
                image.draft("RGB", (wanted[0], wanted[1]))
                small = image.convert("RGBA")
            else:
                small = None
    except FileNotFoundError as error:
        raise InputError(str(path), "no such file", "an image") from error
    except Exception as error:  # as above
        raise InputError(
            str(path), f"its pixels do not decode ({_sentence(error)})", _EXPECTED
        ) from error
    if small is None:
        pixels = decode(path, 4)
        if max(pixels.shape[:2]) <= longest:
            return pixels
        small = Image.fromarray(pixels.numpy())
    scale = longest / max(small.size)
    if scale < 1:
        width, height = (max(1, round(side * scale)) for side in small.size)
        small = small.resize((width, height), Image.Resampling.BOX)
    return torch.from_numpy(np.array(small))


def open_image(file: BinaryIO) -> ImageFile.ImageFile:
    """The image in a file, not yet decoded. ValueError where it cannot hold what its header says.

    So nothing is made of the size that a few bytes claim. Whatever else Pillow raises is raised.
    """
    size = _size(file)
    file.seek(0)
    start = file.read(26)
    file.seek(0)
    if start.startswith(b"\xff\xd8"):
        _check_segments(file)
        file.seek(0)
    image = Image.open(file, formats=_FORMATS)
    pixels, most = image.width * image.height, math.inf
    if image.format == "PNG":
        most = size * _BITS_A_BYTE / (start[24] * _PNG_CHANNELS.get(start[25], 1))
    elif image.format in ("JPEG", "MPO"):
        most = size * _PIXELS_A_BYTE
    if pixels > most + _HEADER_PIXELS:
        said = f"{image.width}x{image.height} pixels are not in {size} bytes"
        raise ValueError(f"{said}: cut off, or its header is wrong")
    return image


def _size(file: BinaryIO) -> int:
    size = file.seek(0, 2)
    if size > _MOST_BYTES:
        raise ValueError(f"{size} bytes are too many")
    return size


def _sentence(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().rstrip(".")


def _cut_off(file: BinaryIO) -> str:
    """What is missing at the end of a PNG, JPEG or WebP file; empty if nothing."""
    start, size = file.read(12), _size(file)
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return "" if _png_is_whole(file, size) else "PNG without its end (IEND): cut off"
    if start.startswith(b"\xff\xd8"):
        return "" if _jpeg_is_whole(file, size) else "JPEG without its end marker: cut off"
    if start.startswith(b"RIFF") and start[8:] == b"WEBP":
        whole = size >= struct.unpack("<I", start[4:8])[0] + 8
        return "" if whole else "WebP shorter than its header says: cut off"
    return ""


def _png_is_whole(file: BinaryIO, size: int) -> bool:
    # From chunk to chunk: some writers append bytes of their own behind the last.
    position, packed = 8, 0
    for _ in range(_MOST_CHUNKS):
        if position + 12 > size:
            return False
        file.seek(position)
        length, kind = struct.unpack(">I4s", file.read(8))
        position += length + 12
        if kind == b"IEND":
            return position <= size
        if not kind.isalpha():
            return False
        packed += kind in (b"zTXt", b"iTXt", b"iCCP")
        if packed > _MOST_PACKED:
            raise ValueError(f"more than {_MOST_PACKED} packed texts and profiles")
    raise ValueError(f"more than {_MOST_CHUNKS:,} chunks")


def _jpeg_is_whole(file: BinaryIO, size: int) -> bool:
    file.seek(max(size - 2, 0))
    if file.read(2) == b"\xff\xd9":
        return True
    # Phones append films and maps behind the end. The marker cannot occur within the coded pixels,
    # but it does in a thumbnail before them: skip the segments up to the first scan.
    position = 2
    while position + 4 <= size:
        file.seek(position)
        marker, length = struct.unpack(">HH", file.read(4))
        position += length + 2
        if marker == 0xFFDA:
            file.seek(position)
            return _holds(file, b"\xff\xd9")
        if marker >> 8 != 0xFF:
            return False
    return False


def _check_segments(file: BinaryIO) -> None:
    """ValueError for a JPEG with so much before its pixels that Pillow takes seconds over it.

    Pillow reads what stands between two segments byte by byte, and looks into each segment.
    """
    position, between = 2, 0
    for _ in range(_MOST_SEGMENTS):
        file.seek(position)
        ahead = file.read(4 + _MOST_BETWEEN - between)
        marker = re.search(rb"\xff+[^\x00\xff]", ahead)
        if marker is None:
            if len(ahead) < 4 + _MOST_BETWEEN - between:
                return  # the file ends; Pillow says what is missing
            raise ValueError(f"more than {_MOST_BETWEEN:,} bytes between its segments")
        between += marker.start()
        if marker[0][-1] == 0xDA:  # pixels from here on
            return
        position += marker.end()
        if not 0xD0 <= marker[0][-1] <= 0xD9:  # all others have a length
            length = ahead[marker.end() : marker.end() + 2]
            position += int.from_bytes(length, "big")
    raise ValueError(f"more than {_MOST_SEGMENTS:,} segments")


def _holds(file: BinaryIO, marker: bytes) -> bool:
    """Whether two bytes stand somewhere in what is left of a file."""
    before = b""
    while part := file.read(1 << 20):
        if marker in before + part:
            return True
        before = part[-1:]
    return False
