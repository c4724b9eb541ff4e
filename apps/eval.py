"""`polyfield eval`: how well a run shows the views it has not seen."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from tyro.conf import Positional

from polyfield.apps.device import choose_device
from polyfield.apps.images import ImageStore, scene_images
from polyfield.apps.left_half import check_has_light, light_from_left_half
from polyfield.apps.lpips_weights import find_lpips
from polyfield.apps.mask_files import HALF
from polyfield.apps.option_help import DEVICE, optional
from polyfield.apps.scene import Scene
from polyfield.apps.settings import BACKGROUNDS, Color, scene_of
from polyfield.apps.shown import Shown, load_shown
from polyfield.apps.trained import SAMPLES_PER_PIXEL, check_samples_per_pixel
from polyfield.apps.true_view import true_view
from polyfield.cuda.errors import InputError
from polyfield.render.lpips import PerceptualNetwork
from polyfield.render.metrics import psnr_8bit, rounded_to_8bit, ssim

COLORED = 64  # training images, at most, whose mean colour is the constant picture's
LPIPS = "VGG, version 0.1, of both images at 8 bits"
LIGHT = {
    False: "the mean of the training photographs'",
    True: "fitted to the left half of each view; the right half is scored",
}


@dataclass(frozen=True)
class Eval:
    """Measure a trained run on the views it has not seen."""

    run: Positional[Path]
    """Folder that `polyfield train` wrote."""
    split: Literal["test", "val", "train"] = "test"
    """Which views to measure."""
    background: Literal["auto", "white", "black"] = "auto"
    """Behind transparent pixels. auto: the run's own, white where photographs have alpha. Figures
    on different backgrounds do not compare."""
    light: Literal["mean", "left"] = "mean"
    """Exposure and appearance of views, where the run has learned those of its photographs: the
    mean, or what explains the left half of each view best. Then the right half alone is scored."""
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
    """Of each image "psnr", "ssim" and "share", that of its pixels which count (1: all)."""
    protocol: dict[str, object]
    seconds_per_view: float
    constant_psnr: float
    """Mean of what a picture of one colour scores, the mean of the training images."""
    lpips: float | None
    """None where its weights are not on this machine: the protocol says so."""


def evaluate(options: Eval) -> EvalResult:
    """PSNR in dB, SSIM and, where its weights lie at hand, LPIPS of each view of a split.

    Beside each PSNR stands that of a picture of the mean training colour. Prints nothing.
    InputError if this is no run, its scene is gone, or the split holds no view, or none of which
    masks leave anything.
    """
    check_samples_per_pixel(options.samples_per_pixel)
    device = choose_device(options.device)
    trained = load_shown(options.run, device)
    if options.light == "left":
        check_has_light(trained)
    scene = scene_of(trained.settings, options.scene)
    images = scene_images(scene, 1 << 28)
    background = BACKGROUNDS.get(options.background)
    network, why = find_lpips()
    return measure(
        trained,
        scene,
        images,
        options.split,
        background,
        options.samples_per_pixel,
        from_left=options.light == "left",
        network=network,
        without_network=why,
    )


def measure(
    trained: Shown,
    scene: Scene,
    images: ImageStore,
    split: str,
    background: Color | None = None,
    samples_per_pixel: int = SAMPLES_PER_PIXEL,
    within: float = math.inf,
    *,
    from_left: bool = False,
    network: PerceptualNetwork | None = None,
    without_network: str = "",
) -> EvalResult:
    """`evaluate` for a field and scene at hand, of as many evenly spread views as seconds allow.

    The first one tells how long a view takes. background: the run's own where none is given.
    from_left: each view's light is found in its left half, and the right one is measured.
    network: of LPIPS; without_network: why it is not measured where none is given.
    """
    behind = background or trained.settings.background
    held = scene.splits.get(split, torch.zeros(0)).tolist()
    frames = held
    if not frames:
        there = {name: len(views) for name, views in scene.splits.items()}
        raise InputError(f"--split {split}", "holds no view", f"one with views: {there}")
    device = trained.device
    cameras = scene.cameras.transformed(trained.to_field).to(device)
    colored = spread(scene.splits["train"].tolist(), COLORED)
    constant = mean_color(scene, images, colored, behind)
    found: dict[str, dict[str, float]] = {}
    seconds = 0.0
    while len(found) < len(frames):
        frame = frames[len(found)]
        whole = true_view(scene, images, frame, behind)
        truth = whole.half(right=True) if from_left else whole
        if not truth.measurable:
            held = [other for other in held if other != frame]
            frames = [other for other in frames if other != frame]
            continue
        light = None
        if from_left:
            light = light_from_left_half(trained, cameras, frame, whole, scene.has_alpha)
        begin = time.perf_counter()
        color = trained.color(
            cameras,
            frame,
            samples_per_pixel=samples_per_pixel,
            background=background,
            light=light,
        )
        seconds += time.perf_counter() - begin
        score = {
            "psnr": psnr_8bit(color, truth.color, truth.kept),
            "constant_psnr": psnr_8bit(constant.expand_as(color), truth.color, truth.kept),
            "ssim": ssim(color, truth.color, truth.kept),
            "share": truth.share,
        }
        if network is not None:
            if truth.kept is not None:
                color = torch.where(truth.kept[..., None], color, truth.color)
            score["lpips"] = network.distance(rounded_to_8bit(color), rounded_to_8bit(truth.color))
        found[scene.frame_names[frame]] = score
        if frame == held[0] and seconds * len(held) > within:
            frames = spread(held, max(1, int(within / seconds)))
    if not found:
        got = f"ignore all of the {len(scene.splits[split])} views of {split}"
        raise InputError("masks", got, "pixels to measure")

    def mean(name: str) -> float:
        return sum(score[name] for score in found.values()) / len(found)

    some = bool(scene.masks) or from_left
    equal = "; pixels that do not count are set to the photograph's" if some else ""
    said = f"not measured ({without_network})" if without_network else ""
    said = LPIPS + equal if network else said
    sizes = sorted({scene.sizes[frame] for frame in frames})
    windows = "valid windows only" + (" whose middle pixel counts" if some else "")
    left_out = len(scene.splits[split]) - len(held)
    return EvalResult(
        psnr=mean("psnr"),
        ssim=mean("ssim"),
        images=found,
        protocol={
            "split": split,
            "views": f"{len(frames)} of {len(held)}"
            + (f", {left_out} left out that masks ignore" if left_out else ""),
            "background": list(behind),
            "pixels": _measured_pixels(scene, frames),
            "resolution": [f"{w}x{h}" for w, h in sizes],
            "rounding": "both images to 8 bits, PSNR per image, mean over images",
            "ssim": f"11x11 Gaussian window, sigma 1.5, {windows}{equal}",
            "samples_per_pixel": samples_per_pixel,
            "constant picture": f"the mean colour of {len(colored)} training images",
        }
        | ({"light": LIGHT[from_left]} if trained.has_light else {})
        | ({} if not said else {"LPIPS": said}),
        seconds_per_view=seconds / len(found),
        constant_psnr=mean("constant_psnr"),
        lpips=None if network is None else mean("lpips"),
    )


def _measured_pixels(scene: Scene, frames: list[int]) -> str:
    """Which pixels of these frames count, in words."""
    masks = [scene.masks[frame] for frame in frames] if scene.masks else []
    kinds = {"" if mask is None else mask.meaning for mask in masks}
    if "object" in kinds:
        return (
            f"the object's (mask above {HALF}): the photograph as it is, against the view on the"
            " background"
        )
    return "those that no mask ignores" if kinds & {"keep", "ignore"} else "all"


def spread(frames: list[int], count: int) -> list[int]:
    """At most `count` of the frames, at even distances."""
    count = min(count, len(frames))
    return [frames[index * len(frames) // count] for index in range(count)]


def mean_color(
    scene: Scene, images: ImageStore, frames: list[int], background: Color
) -> Float[Tensor, " 3"]:
    """The mean over the pixels that count, then over images, of sRGB as views are compared with it.

    Images are taken one at a time; those of which no pixel counts say nothing.
    """
    total, count = torch.zeros(3, dtype=torch.float64), 0
    for frame in frames:
        truth = true_view(scene, images, frame, background)
        color = truth.color.flatten(0, 1) if truth.kept is None else truth.color[truth.kept]
        if len(color):
            total += color.sum(0, dtype=torch.float64) / len(color)
            count += 1
    return (total / max(1, count)).float()


def summary(result: EvalResult) -> str:
    """A table for the terminal."""
    means = {"psnr": result.psnr, "constant_psnr": result.constant_psnr, "ssim": result.ssim}
    means |= {} if result.lpips is None else {"lpips": result.lpips}
    width = max(12, *map(len, result.images))
    heads = "      PSNR   constant    SSIM" + ("" if result.lpips is None else "   LPIPS")
    lines = [" " * width + heads]
    for name, score in [*result.images.items(), ("mean", means)]:
        line = f"{name:>{width}}  {score['psnr']:6.2f} dB  {score['constant_psnr']:6.2f} dB  "
        line += "  ".join(f"{score[key]:.4f}" for key in ("ssim", "lpips") if key in score)
        part = score.get("share", 1.0)
        lines.append(line + ("" if part == 1 else f"  {100 * part:.3g} % of its pixels"))
    background = f"background {_color_name(result.protocol['background'])}"
    others = {k: v for k, v in result.protocol.items() if k not in ("background", "LPIPS")}
    protocol = ", ".join([background, *(f"{key} {value}" for key, value in others.items())])
    return "\n".join(
        [
            *lines,
            "Beside each figure stands the score of a constant picture of the mean training"
            " colour.",
            *([f"LPIPS: {said}"] if (said := result.protocol.get("LPIPS")) else []),
            f"({protocol}; {result.seconds_per_view:.2f} s a view)",
        ]
    )


def _color_name(color: object) -> str:
    for name, known in BACKGROUNDS.items():
        if color == list(known):
            return name
    return str(color)
