"""Films of rendered frames: MP4 through ffmpeg, animated WebP through Pillow."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import imageio_ffmpeg
import numpy as np
from PIL import Image

from polyfield.apps.files import make_folder, replacing
from polyfield.cuda.errors import InputError

Frame = np.ndarray  # uint8 [height, width, 3], sRGB
QUALITY = 18  # of x264: 0 is without loss, 23 its default


def write_video(path: Path, frames: Iterable[Frame], fps: float = 30.0) -> None:
    """Write frames as a film: `.mp4` (H.264, yuv420p) or `.webp` (an endless animation), by name.

    Frames are sRGB, all of one size, and are taken one by one: a generator of them needs no memory
    for all (WebP's encoder keeps them). H.264 wants even sizes: an odd one repeats its last row or
    column. The file appears whole or not at all, in a folder that is made if it is missing. Raises
    InputError for another suffix, a rate that is not positive, no frame, frames of several sizes,
    or a place that cannot be written.
    """
    writers = {".mp4": _write_mp4, ".webp": _write_webp}
    path = Path(path)
    if path.suffix.lower() not in writers:
        raise InputError(str(path), f"suffix '{path.suffix}'", " or ".join(writers))
    if not 0 < fps <= 1000:
        raise InputError("fps", str(fps), "more than 0, at most 1000")
    make_folder(path.parent)
    with replacing(path) as file:
        writers[path.suffix.lower()](file, _alike(path, frames), fps)


def _alike(path: Path, frames: Iterable[Frame]) -> Iterator[Frame]:
    """The frames, each checked against the first."""
    first = None
    for number, frame in enumerate(frames):
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise InputError(
                f"{path}: frame {number}",
                f"{frame.dtype} of shape {frame.shape}",
                "uint8 of shape (height, width, 3)",
            )
        first = frame.shape if first is None else first
        if frame.shape != first:
            raise InputError(
                f"{path}: frame {number}", f"shape {frame.shape}", f"that of frame 0, {first}"
            )
        yield frame
    if first is None:
        raise InputError(str(path), "no frames", "at least one")


def _write_mp4(file: BinaryIO, frames: Iterator[Frame], fps: float) -> None:
    encoder = None
    try:
        for frame in frames:
            height, width = frame.shape[:2]
            if height % 2 or width % 2:
                frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            if encoder is None:
                encoder = imageio_ffmpeg.write_frames(
                    file.name,
                    (frame.shape[1], frame.shape[0]),
                    fps=fps,
                    codec="libx264",
                    pix_fmt_out="yuv420p",
                    macro_block_size=2,
                    quality=None,
                    # The index in front: a browser plays the film while it still loads.
                    output_params=["-crf", str(QUALITY), "-movflags", "+faststart", "-f", "mp4"],
                )
                encoder.send(None)
            encoder.send(np.ascontiguousarray(frame))
    finally:
        if encoder is not None:
            encoder.close()


def _write_webp(file: BinaryIO, frames: Iterator[Frame], fps: float) -> None:
    first, *others = (Image.fromarray(frame) for frame in frames)
    if max(first.size) > 16383:  # 14 bits in the format
        got = f"frames of {first.width}x{first.height}"
        raise InputError(".webp", got, "at most 16383 pixels a side", "Write an .mp4.")
    first.save(
        file,
        format="WEBP",
        save_all=True,
        append_images=others,
        duration=max(1, round(1000 / fps)),
        loop=0,
        quality=80,
        method=4,
    )
