"""`polyfield render`: held-out views as images, or a turntable as a video."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import imageio.v3 as imageio
import numpy as np
import torch
from tyro.conf import Positional

from polyfield.apps.files import replacing
from polyfield.apps.scene import load_scene
from polyfield.apps.train import choose_device
from polyfield.apps.trained import SAMPLES_PER_PIXEL, Trained, load, orbit_camera
from polyfield.apps.video import write_video
from polyfield.cuda.errors import InputError
from polyfield.render.paths import turntable
from polyfield.render.view import View


@dataclass(frozen=True)
class Render:
    """Render views of a trained run."""

    run: Positional[Path]
    """Folder that `polyfield train` wrote."""
    views: Literal["test", "turntable"] = "turntable"
    """The held-out views as images, or a way around the subject as a video."""
    out: Path | None = None
    """A folder (images), or a file .mp4 or .webp (turntable). Default: in the run's renders."""
    size: str | None = None
    """WxH in pixels. The default is the photographs' size."""
    samples_per_pixel: int = SAMPLES_PER_PIXEL
    """Rays through each pixel."""
    frames: int = 90
    """Of the turntable."""
    fps: float = 30.0
    """Frames a second of the turntable."""
    scene: Path | None = None
    """Folder of the scene, if it is no longer where it was trained from."""
    memory: float = 0.25
    """GB that the rays in flight may take."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:<number>."""


@dataclass(frozen=True)
class RenderResult:
    """What was written."""

    files: tuple[str, ...]


def render(options: Render) -> RenderResult:
    """Render what the options ask for; prints nothing. InputError for a run or size of no use."""
    device = choose_device(options.device, lambda message: None)
    trained = load(options.run, device)
    size = _size(options.size)
    if options.views == "turntable":
        out = options.out or options.run / "renders" / "turntable.mp4"
        out.parent.mkdir(parents=True, exist_ok=True)
        frames = turntable_frames(
            trained, options.frames, size, options.samples_per_pixel, int(options.memory * 1e9)
        )
        write_video(out, frames, options.fps)
        return RenderResult((str(out),))
    return _render_test(options, trained, size, device)


def turntable_frames(
    trained: Trained,
    frames: int,
    size: tuple[int, int] | None = None,
    samples_per_pixel: int = SAMPLES_PER_PIXEL,
    memory_bytes: int = 1 << 28,
) -> Iterator[np.ndarray]:
    """uint8 images [h, w, 3] of one turn around what the training cameras look at."""
    poses = torch.tensor(trained.settings.orbit["camera_to_world"])
    path = turntable(poses, frames)
    width, height = size or tuple(trained.settings.orbit["size"])
    cameras = orbit_camera(trained.settings, path, (width, height)).to(trained.grid.bits.device)
    for index in range(frames):
        view = trained.view(
            cameras, index, samples_per_pixel=samples_per_pixel, memory_bytes=memory_bytes
        )
        yield to_8bit(view.color)


def to_8bit(image: torch.Tensor) -> np.ndarray:
    """[0, 1] to 0..255, rounded."""
    return (image.cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def _render_test(
    options: Render, trained: Trained, size: tuple[int, int] | None, device: torch.device
) -> RenderResult:
    scene = load_scene(options.scene or Path(trained.settings.scene))
    cameras = scene.cameras.transformed(scene.to_field)
    if size is not None:
        cameras = cameras.resized(*size)
    cameras = cameras.to(device)
    out = options.out or options.run / "renders" / "test"
    if out.is_file():
        raise InputError(f"--out {out}", "is a file", "a folder for the images")
    out.mkdir(parents=True, exist_ok=True)
    files: list[str] = []
    scale = trained.to_field.scale
    for frame in scene.splits.get("test", torch.zeros(0)).tolist():
        view = trained.view(
            cameras,
            frame,
            samples_per_pixel=options.samples_per_pixel,
            memory_bytes=int(options.memory * 1e9),
        )
        files += _write_view(out, scene.frame_names[frame], view, scale)
    if not files:
        raise InputError("--views test", "the scene has no test views", "a scene with a test split")
    return RenderResult(tuple(files))


def _write_view(out: Path, name: str, view: View, scale: float) -> list[str]:
    depth = (view.depth / scale * 1000).clamp(0, 65535).round().cpu()
    written = {
        f"{name}.png": to_8bit(view.color),
        f"{name}.opacity.png": to_8bit(view.opacity),
        f"{name}.depth.png": depth.to(torch.int32).numpy().astype(np.uint16),
    }
    for file, image in written.items():
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        with replacing(out / file) as stream:
            stream.write(imageio.imwrite("<bytes>", image, extension=".png"))
    return [str(out / file) for file in written]


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
