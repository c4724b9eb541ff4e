"""OpenEXR images: light as float32, read and written by the package OpenEXR."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.apps.files import open_plain, replacing
from polyfield.cuda.errors import InputError, MissingExtraError

MOST_SIDE = 1 << 16


def read_exr(path: Path, memory_bytes: int) -> Float[Tensor, "height width channels"]:
    """The first part's colours, linear: R, G and B, and A where it is not 1 everywhere.

    One channel of brightness becomes three. Raises MissingExtraError where the package is absent,
    InputError where the file is no image of colours, holds NaN or infinities, or takes more than
    memory_bytes.
    """
    exr = _package(path)
    try:
        open_plain(path).close()
        header = exr.File(str(path), header_only=True).header()
        low, high = header["dataWindow"]
        width, height = (int(b) - int(a) + 1 for a, b in zip(low, high, strict=True))
        if not 0 < width <= MOST_SIDE or not 0 < height <= MOST_SIDE:
            raise ValueError(f"{width} x {height} pixels")
        needed = width * height * 4 * max(4, len(header["channels"]))
        if needed > memory_bytes:
            got = f"{needed / 1e9:.2f} GB when it is decoded"
            raise InputError(str(path), got, f"at most {memory_bytes / 1e9:.2f} GB")
        channels = {
            k: v.pixels for k, v in exr.File(str(path), separate_channels=True).channels().items()
        }
        names = "RGB" if "R" in channels else "YYY"
        colors = [np.asarray(channels[name], np.float32) for name in names]
        if "A" in channels and (np.asarray(channels["A"]) != 1).any():
            colors.append(np.asarray(channels["A"], np.float32))
        image = torch.from_numpy(np.stack(colors, 2))
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(str(path), "no such file", "an image") from error
    except Exception as error:  # the package raises whatever its reader came upon
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        got = f"not readable as an image ({reason})"
        raise InputError(str(path), got, "an OpenEXR image with R, G and B, or Y") from error
    if not bool(image.isfinite().all()):
        raise InputError(str(path), "values that are not finite", "finite light")
    return image


def write_exr(path: Path, image: Float[Tensor, "height width channels"]) -> None:
    """Writes 1, 3 or 4 channels of light as float32, whole or not at all.

    Raises MissingExtraError where the package is absent, InputError where the system refuses.
    """
    exr = _package(path)
    names = {1: "Y", 3: "RGB", 4: "RGBA"}[image.shape[2]]
    pixels = np.ascontiguousarray(image.cpu().float().numpy())
    header = {"compression": exr.ZIP_COMPRESSION, "type": exr.scanlineimage}
    with replacing(path) as file, tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = os.path.join(folder, "image.exr")  # the package writes by name only
        exr.File(header, {names: pixels if len(names) > 1 else pixels[..., 0]}).write(made)
        file.write(Path(made).read_bytes())


def _package(path: Path) -> ModuleType:
    try:
        import OpenEXR
    except ImportError as error:
        raise MissingExtraError("OpenEXR", "exr", f"Light in a file such as {path.name}") from error
    return OpenEXR
