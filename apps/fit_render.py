"""Fitted images and films in any size: pictures of a field that has no pixels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from polyfield.apps.files import make_folder
from polyfield.apps.fitted import load_fitted
from polyfield.apps.formats.exr import write_exr
from polyfield.apps.pixel_values import shown_values
from polyfield.apps.png_files import to_8bit, write_png
from polyfield.apps.video import write_video
from polyfield.cuda.errors import InputError

FILMS = (".mp4", ".webp")
ENLARGED = 2  # times its own size, where nobody says


def render_fit(
    path: Path,
    out: Path | None,
    size: tuple[int, int] | None,
    frames: int | None,
    fps: float | None,
    device: torch.device,
) -> list[str]:
    """Writes an image as a .png (of light, also as .exr), a film as .mp4 or .webp; their names.

    path: a run, or its small file. size: width and height, twice those of the signal where None.
    frames: of a film, spread over its length: more of them than it had are between its own. In a
    folder, frames become PNG files. Raises InputError where the signal has no pixels, the suffix is
    another, or the file cannot be written.
    """
    fitted = load_fitted(path, device)
    settings = fitted.settings
    if settings.kind == "distance":
        got = "the distances to a mesh"
        raise InputError(str(path), got, "an image or a film", "polyfield export writes its mesh.")
    count, height, width = settings.size
    width, height = size or (ENLARGED * width, ENLARGED * height)
    folder = path / "renders" if path.is_dir() else path.parent
    if settings.kind == "image":
        out = out or folder / f"{width}x{height}.png"
        if out.suffix.lower() not in (".png", ".exr"):
            raise InputError(f"--out {out}", f"suffix {out.suffix!r}", ".png or .exr")
        if frames is not None:
            raise InputError("--frames", "an image has none", "a film")
        make_folder(out.parent)
        values = fitted.frame(0, width, height)
        if out.suffix.lower() == ".exr":
            write_exr(out, values)
        else:
            write_png(out, to_8bit(shown_values(values, settings.values)))
        return [str(out)]
    wanted = count if frames is None else frames
    if not 1 <= wanted <= 1 << 20:
        raise InputError("--frames", str(wanted)[:80], "1 to 2^20")
    rate = fps or settings.frames_per_second * wanted / count
    out = out or folder / f"{width}x{height}.mp4"

    def pictures() -> Iterator[np.ndarray]:
        for number in range(wanted):
            moment = (number + 0.5) * count / wanted - 0.5
            yield to_8bit(fitted.frame(moment, width, height))

    if out.suffix.lower() in FILMS:
        write_video(out, (picture[..., :3] for picture in pictures()), rate)
        return [str(out)]
    make_folder(out)
    files = []
    for number, picture in enumerate(pictures()):
        files.append(str(out / f"{number:05d}.png"))
        write_png(out / f"{number:05d}.png", picture)
    return files
