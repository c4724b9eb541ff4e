"""`polyfield render`: held-out views as images, or a turntable as a video."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from tyro.conf import Positional

from polyfield.apps.device import choose_device
from polyfield.apps.files import make_folder, replacing
from polyfield.apps.formats.png_rows import png_rows
from polyfield.apps.option_help import DEVICE, optional
from polyfield.apps.trained import (
    SAMPLES_PER_PIXEL,
    Trained,
    check_samples_per_pixel,
    load,
    orbit_cameras,
    scene_of,
)
from polyfield.apps.video import write_video
from polyfield.cuda.errors import InputError
from polyfield.fields.similarity import Similarity
from polyfield.render.paths import turntable
from polyfield.render.view import View

MOST_FRAMES = 100_000


@dataclass(frozen=True)
class Render:
    """Render views of a trained run."""

    run: Positional[Path]
    """Folder that `polyfield train` wrote."""
    views: Literal["test", "turntable"] = "turntable"
    """The held-out views as images, or a way around the subject as a video."""
    out: Annotated[Path | None, optional("DIR|FILE")] = None
    """A folder for the images, or a file .mp4 or .webp for the turntable; else in the run."""
    size: Annotated[str | None, optional("WxH")] = None
    """In pixels. The default is the photographs' size."""
    samples_per_pixel: int = SAMPLES_PER_PIXEL
    """Rays through each pixel."""
    frames: int = 90
    """How many the turntable has."""
    fps: float = 30.0
    """Frames a second of the turntable."""
    scene: Annotated[Path | None, optional("SCENE")] = None
    """Folder of the scene, if it is no longer where it was trained from."""
    memory: float = 0.25
    """GB to render in, whatever the images' size, beside the run itself and a frame of a film."""
    device: Annotated[str, DEVICE] = "auto"
    """Where to compute. auto takes a usable GPU, else the CPU."""


@dataclass(frozen=True)
class RenderResult:
    """What was written."""

    files: tuple[str, ...]


def render(options: Render) -> RenderResult:
    """Render what the options ask for; prints nothing.

    A turntable is a film. Test views are PNG files named after the frame's image: `r_0.png` (sRGB
    on the run's background), `r_0.opacity.png` (8 bits), `r_0.depth.png` (16 bits: thousandths of
    the scene's unit along the ray; 0 where most light passes, 65535 for that and more) and
    `r_0.normal.png` (0.5 + 0.5 n of the normal in the user's axes, see render.view.View).
    Raises InputError for a run, size or place of no use.
    """
    device = choose_device(options.device)
    if not 0 < options.memory <= 1e6:
        raise InputError("--memory", str(options.memory), "GB above 0, at most a million")
    if not 2 <= options.frames <= MOST_FRAMES:
        raise InputError("--frames", str(options.frames)[:80], f"2 to {MOST_FRAMES:,}")
    check_samples_per_pixel(options.samples_per_pixel)
    size = _size(options.size)
    trained = load(options.run, device)
    trained.memory_bytes = int(options.memory * 1e9)
    if options.views == "test":
        return _render_test(options, trained, size, device)
    out = options.out or options.run / "renders" / "turntable.mp4"
    frames = turntable_frames(trained, options.frames, size, options.samples_per_pixel)
    write_video(out, frames, options.fps)
    return RenderResult((str(out),))


def turntable_frames(
    trained: Trained,
    frames: int,
    size: tuple[int, int] | None = None,
    samples_per_pixel: int = SAMPLES_PER_PIXEL,
) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """Images of one turn around what the training cameras look at."""
    poses = torch.tensor(trained.settings.orbit["camera_to_world"])
    path = turntable(poses, frames)
    width, height = size or tuple(trained.settings.orbit["size"])
    cameras = orbit_cameras(trained.settings, path, (width, height)).to(trained.grid.bits.device)
    for index in range(frames):
        bands = trained.bands(cameras, index, samples_per_pixel=samples_per_pixel)
        yield np.concatenate([to_8bit(band.color) for band in bands])


def to_8bit(image: Float[Tensor, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """[0, 1] to 0..255, rounded."""
    return (image.cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def _render_test(
    options: Render, trained: Trained, size: tuple[int, int] | None, device: torch.device
) -> RenderResult:
    scene = scene_of(trained.settings, options.scene)
    test = scene.splits["test"].tolist()
    if not test:
        raise InputError("--views test", "the scene has no test views", "a scene with a test split")
    cameras = scene.cameras.transformed(trained.to_field)
    if size is not None:
        cameras = cameras.resized(*size)
    cameras = cameras.to(device)
    out = options.out or options.run / "renders" / "test"
    if os.path.isfile(out) or out.suffix.lower() in (".mp4", ".webp"):
        raise InputError(f"--out {out}", "is a file", "a folder for the images")
    make_folder(out)
    files: list[str] = []
    for frame in test:
        bands = trained.bands(
            cameras, frame, samples_per_pixel=options.samples_per_pixel, normals=True
        )
        shape = int(cameras.width[frame]), int(cameras.height[frame])
        files += write_view(out, scene.frame_names[frame], shape, bands, trained.to_field)
    return RenderResult(tuple(files))


def write_view(
    out: Path, name: str, size: tuple[int, int], bands: Iterable[View], to_field: Similarity
) -> list[str]:
    """Write the PNG files that `render` describes, of (width, height); where they lie.

    bands: of one view with normals, from top to bottom, in the field's frame, to which to_field
    leads from the user's. The four files appear whole or not at all. Raises InputError where they
    cannot be written.
    """
    kinds = {"": (3, 8), ".opacity": (1, 8), ".depth": (1, 16), ".normal": (3, 8)}
    paths = {kind: out / f"{name}{kind}.png" for kind in kinds}
    to_user = to_field.rotation.T.float()
    with ExitStack() as stack:
        write = {}
        for kind, (channels, bits) in kinds.items():
            file = stack.enter_context(replacing(paths[kind]))
            write[kind] = stack.enter_context(png_rows(file, *size, channels, bits))
        for band in bands:
            write[""](to_8bit(band.color))
            write[".opacity"](to_8bit(band.opacity))
            depth = (band.depth.cpu() / to_field.scale * 1000).clamp(0, 65535).round()
            depth[band.opacity.cpu() < 0.5] = 0  # a haze of a thousandth has a mean distance too
            write[".depth"](depth.to(torch.int32).numpy().astype(np.uint16))
            if band.normal is not None:
                write[".normal"](to_8bit(0.5 + 0.5 * band.normal.cpu() @ to_user.T))
    return [str(path) for path in paths.values()]


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(
        p.isascii() and p.isdigit() and 0 < int(p) < 32769 for p in parts
    ):
        raise InputError("--size", repr(text), "WxH in pixels, such as 800x600")
    return int(parts[0]), int(parts[1])


def summary(result: RenderResult) -> str:
    """Where the pictures are."""
    first = result.files[0]
    more = f" and {len(result.files) - 1} more" if len(result.files) > 1 else ""
    return f"wrote {first}{more}"
