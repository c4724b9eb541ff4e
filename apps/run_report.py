"""The report of a trained run: curves, held-out views beside the truth, and a turntable to drag."""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.apps.eval import EvalResult, spread
from polyfield.apps.images import ImageStore
from polyfield.apps.png_files import to_8bit
from polyfield.apps.render import turntable_frames
from polyfield.apps.report import ComparedView, ReportData, write_report
from polyfield.apps.run_folder import RunFolder
from polyfield.apps.scene import Scene
from polyfield.apps.shown import Shown
from polyfield.apps.true_view import shown_image

SHOWN = 4  # held-out views
SHOWN_SIDE = 1600  # pixels of their longer side, of which the page shows fewer
ORBIT_FRAMES = 72
ORBIT_SIZE = 240  # pixels of the longer side, fewer where a frame takes too long
ORBIT_SECONDS = 60.0


def report_run(
    folder: Path,
    trained: Shown,
    scene: Scene,
    images: ImageStore,
    result: EvalResult | None,
    seconds: dict[str, float],
) -> Path:
    """Write report.html of a run whose views `result` measured, if any; where it lies.

    result: on the run's own background, on which the views are shown. seconds: named times to show.
    Raises InputError where the file cannot be written.
    """
    run = RunFolder.open(folder)
    device = trained.device
    cameras = scene.cameras.transformed(trained.to_field).to(device)
    views = []
    measured = result.images if result else {}
    held_out = scene.splits[str(result.protocol["split"])].tolist() if result else []
    known = [frame for frame in held_out if scene.frame_names[frame] in measured]
    for frame in spread(known, SHOWN):
        name = scene.frame_names[frame]
        prediction = to_8bit(no_longer(trained.color(cameras, frame)))
        truth = to_8bit(no_longer(shown_image(images.image(frame), trained.settings.background)))
        score = measured[name]
        views.append(ComparedView(name, prediction, truth, score["psnr"], score["ssim"]))
    width, height = trained.settings.orbit["size"]
    size = _no_larger(width, height, ORBIT_SIZE)
    begin = time.monotonic()
    next(turntable_frames(trained, ORBIT_FRAMES, size, samples_per_pixel=1))
    slow = ORBIT_FRAMES * (time.monotonic() - begin) / ORBIT_SECONDS
    if slow > 1:  # what has hardly been trained is fog, and fog takes a hundred times longer
        size = _no_larger(*size, max(24, int(max(size) / slow**0.5)))
    orbit = list(turntable_frames(trained, ORBIT_FRAMES, size, samples_per_pixel=1))
    data = ReportData(
        scene=scene.name,
        plan={
            "field": trained.settings.field,
            **trained.settings.arguments,
            "parameters": trained.parameters,
            "device": str(device),
            f"{trained.settings.taken} a step": trained.settings.samples_per_step,
            "seed": trained.settings.seed,
        },
        metrics=run.records(),
        views=views,
        scores=[(name, v["psnr"], v["ssim"]) for name, v in measured.items()],
        protocol=result.protocol if result else {},
        seconds=seconds,
        orbit=orbit,
        notes=scene.notes,
    )
    write_report(run.report_path, data)
    return run.report_path


def no_longer(image: Float[Tensor, "_ _ 3"]) -> Float[Tensor, "_ _ 3"]:
    """An image in means of squares of its pixels, as few as make it SHOWN_SIDE pixels or less."""
    side = math.ceil(max(image.shape[:2]) / SHOWN_SIDE)
    if side == 1:
        return image
    height, width = (max(1, length // side) for length in image.shape[:2])
    rows = [
        image[top : top + side, : width * side].reshape(-1, width, side, 3).mean((0, 2))
        for top in range(0, height * side, side)
    ]
    return torch.stack(rows)


def _no_larger(width: int, height: int, longest: int) -> tuple[int, int]:
    shrink = min(1.0, longest / max(width, height))
    return max(1, round(width * shrink)), max(1, round(height * shrink))
