"""The report of a trained run: curves, held-out views beside the truth, and a turntable to drag."""

from __future__ import annotations

from pathlib import Path

import torch

from polyfield.apps.eval import EvalResult
from polyfield.apps.images import ImageStore
from polyfield.apps.radiance_task import shown_image
from polyfield.apps.render import to_8bit, turntable_frames
from polyfield.apps.report import HeldOutView, ReportData, write_report
from polyfield.apps.run_folder import RunFolder
from polyfield.apps.scene import Scene
from polyfield.apps.trained import Trained

SHOWN = 4  # held-out views
ORBIT_FRAMES = 72
ORBIT_SIZE = 240  # pixels of the longer side


def report_run(
    folder: Path, trained: Trained, scene: Scene, result: EvalResult, seconds: dict[str, float]
) -> Path:
    """Write report.html of a run whose views `result` measured; where it lies.

    seconds: named times to show. Raises InputError where the file cannot be written.
    """
    run = RunFolder.open(folder)
    device = trained.grid.bits.device
    cameras = scene.cameras.transformed(scene.to_field).to(device)
    images = ImageStore(scene.image_paths, scene.sizes, 4 if scene.has_alpha else 3, 1 << 27)
    background: tuple[float, ...] = tuple(result.protocol["background"])  # type: ignore[arg-type]
    frames = scene.splits[str(result.protocol["split"])].tolist()
    views = []
    for frame in frames[:: max(1, len(frames) // SHOWN)][:SHOWN]:
        name = scene.frame_names[frame]
        view = trained.view(cameras, frame, background=background)  # type: ignore[arg-type]
        truth = shown_image(images.image(frame), background)
        score = result.images[name]
        views.append(
            HeldOutView(name, to_8bit(view.color), to_8bit(truth), score["psnr"], score["ssim"])
        )
    width, height = trained.settings.orbit["size"]
    shrink = min(1.0, ORBIT_SIZE / max(width, height))
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    orbit = list(turntable_frames(trained, ORBIT_FRAMES, size, samples_per_pixel=1))
    parameters = sum(p.numel() for p in trained.field.parameters())
    data = ReportData(
        scene=scene.name,
        plan={
            "field": trained.settings.field,
            **trained.settings.arguments,
            "parameters": parameters,
            "samples a step": trained.settings.samples_per_step,
            "seed": trained.settings.seed,
        },
        metrics=run.records(),
        views=views,
        scores=[(name, v["psnr"], v["ssim"]) for name, v in result.images.items()],
        protocol=result.protocol,
        seconds=seconds,
        orbit=orbit,
        notes=scene.notes,
    )
    with torch.no_grad():
        write_report(run.report_path, data)
    return run.report_path
