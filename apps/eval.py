"""`polyfield eval`: how well a run shows the views it has not seen."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from tyro.conf import Positional

from polyfield.apps.device import choose_device
from polyfield.apps.images import ImageStore, scene_images
from polyfield.apps.option_help import DEVICE, optional
from polyfield.apps.radiance_task import shown_image
from polyfield.apps.scene import Scene
from polyfield.apps.trained import (
    BACKGROUNDS,
    SAMPLES_PER_PIXEL,
    Color,
    Trained,
    check_samples_per_pixel,
    load,
    scene_of,
)
from polyfield.cuda.errors import InputError
from polyfield.render.metrics import psnr_8bit, ssim


@dataclass(frozen=True)
class Eval:
    """Measure a trained run on the views it has not seen."""

    run: Positional[Path]
    """Folder that `polyfield train` wrote."""
    split: Literal["test", "val", "train"] = "test"
    """Which views to measure."""
    background: Literal["auto", "white", "black"] = "auto"
    """Behind transparent pixels. auto: white, or a scene's own backdrop. Figures on different
    backgrounds do not compare."""
    samples_per_pixel: int = SAMPLES_PER_PIXEL
    """Rays through each pixel."""
    scene: Annotated[Path | None, optional("SCENE")] = None
    """Folder of the scene, if it is no longer where it was trained from."""
    device: Annotated[str, DEVICE] = "auto"
    """Where to compute. auto takes a usable GPU, else the CPU."""


@dataclass(frozen=True)
class EvalResult:
    """Means over images, each image by name, and the protocol they were measured with."""

    psnr: float
    ssim: float
    images: dict[str, dict[str, float]]
    protocol: dict[str, object]
    seconds_per_view: float


def evaluate(options: Eval) -> EvalResult:
    """PSNR in dB and SSIM of each view of a split, and their means. Prints nothing.

    InputError if this is no run, its scene is gone, or the split holds no view.
    """
    check_samples_per_pixel(options.samples_per_pixel)
    device = choose_device(options.device)
    trained = load(options.run, device)
    scene = scene_of(trained.settings, options.scene)
    images = scene_images(scene, 1 << 28)
    background = BACKGROUNDS.get(options.background)
    return measure(trained, scene, images, options.split, background, options.samples_per_pixel)


def measure(
    trained: Trained,
    scene: Scene,
    images: ImageStore,
    split: str,
    background: Color | None = None,
    samples_per_pixel: int = SAMPLES_PER_PIXEL,
    within: float = math.inf,
) -> EvalResult:
    """`evaluate` for a field and scene at hand, of as many evenly spread views as seconds allow.

    The first one tells how long a view takes. background: the run's own where none is given.
    """
    background = background or trained.settings.background
    held = scene.splits.get(split, torch.zeros(0)).tolist()
    frames = held
    if not frames:
        there = {name: len(views) for name, views in scene.splits.items()}
        raise InputError(f"--split {split}", "holds no view", f"one with views: {there}")
    device = trained.grid.bits.device
    cameras = scene.cameras.transformed(trained.to_field).to(device)
    found: dict[str, dict[str, float]] = {}
    seconds = 0.0
    while len(found) < len(frames):
        frame = frames[len(found)]
        begin = time.perf_counter()
        view = trained.view(
            cameras,
            frame,
            samples_per_pixel=samples_per_pixel,
            background=background,
        )
        seconds += time.perf_counter() - begin
        truth = shown_image(images.image(frame), background)
        color = view.color.cpu()
        found[scene.frame_names[frame]] = {
            "psnr": psnr_8bit(color, truth),
            "ssim": ssim(color, truth),
        }
        if frame == held[0] and seconds * len(held) > within:
            frames = spread(held, max(1, int(within / seconds)))
    sizes = sorted({scene.sizes[frame] for frame in frames})
    return EvalResult(
        psnr=sum(v["psnr"] for v in found.values()) / len(found),
        ssim=sum(v["ssim"] for v in found.values()) / len(found),
        images=found,
        protocol={
            "split": split,
            "views": f"{len(frames)} of {len(held)}",
            "background": list(background),
            "resolution": [f"{w}x{h}" for w, h in sizes],
            "rounding": "both images to 8 bits, PSNR per image, mean over images",
            "ssim": "11x11 Gaussian window, sigma 1.5, valid windows only",
            "samples_per_pixel": samples_per_pixel,
        },
        seconds_per_view=seconds / len(found),
    )


def spread(frames: list[int], count: int) -> list[int]:
    """At most `count` of the frames, at even distances."""
    count = min(count, len(frames))
    return [frames[index * len(frames) // count] for index in range(count)]


def summary(result: EvalResult) -> str:
    """A table for the terminal."""
    rows = [f"{n:>12}  {v['psnr']:6.2f} dB  {v['ssim']:.4f}" for n, v in result.images.items()]
    protocol = ", ".join(f"{key} {value}" for key, value in result.protocol.items())
    mean = f"{'mean':>12}  {result.psnr:6.2f} dB  {result.ssim:.4f}"
    return "\n".join([*rows, mean, f"({protocol}; {result.seconds_per_view:.2f} s a view)"])
