"""Films as pixels: whatever ffmpeg decodes, frame by frame."""

from __future__ import annotations

from pathlib import Path

import imageio_ffmpeg
import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from polyfield.apps.files import open_plain
from polyfield.cuda.errors import InputError

FILM_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi")
_EXPECTED = "a film that ffmpeg decodes"


def read_film(path: Path, memory_bytes: int) -> tuple[UInt8[Tensor, "frames h w 3"], float]:
    """All frames as sRGB, and how many a second.

    Raises InputError where there is no film, it holds no frame, or takes more than memory_bytes.
    """
    where = str(path)
    try:
        open_plain(path).close()
        # By a protocol that is files alone: a playlist is not to open what it names.
        reader = imageio_ffmpeg.read_frames(
            where, pix_fmt="rgb24", input_params=["-protocol_whitelist", "file"]
        )
        facts = next(reader)
        width, height = facts["size"]
        rate = float(facts.get("fps") or 0)
        frames: list[np.ndarray] = []
        most = memory_bytes // (2 * width * height * 3)  # a list of frames, and all in one
        try:
            for content in reader:
                if len(frames) == most:
                    got = f"more than {most} frames of {width}x{height}"
                    expected = f"at most {memory_bytes / 1e9:.2f} GB when it is decoded"
                    raise InputError(where, got, expected, "Shorten it, or make it smaller.")
                frames.append(np.frombuffer(content, np.uint8).reshape(height, width, 3))
        finally:
            reader.close()
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(where, "no such file", _EXPECTED) from error
    except Exception as error:  # ffmpeg's own words, or those of whoever runs it
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(where, f"cannot be read ({reason})", _EXPECTED) from error
    if not frames:
        raise InputError(where, "holds no frame", _EXPECTED)
    return torch.from_numpy(np.stack(frames)), rate if 0 < rate <= 1000 else 25.0
