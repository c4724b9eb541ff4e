"""`polyfield train`: a field from posed images."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import torch

from polyfield.apps import checkpoint
from polyfield.apps.clock import command_start
from polyfield.apps.depth_images import depth_bytes
from polyfield.apps.device import choose_device
from polyfield.apps.diagnosis_cameras import camera_warnings
from polyfield.apps.eval import EvalResult, measure
from polyfield.apps.formats.json_fields import Fields
from polyfield.apps.images import ImageStore, scene_images
from polyfield.apps.loop import Outcome, run
from polyfield.apps.memory_plan import default_limit
from polyfield.apps.progress import Progress, live_progress
from polyfield.apps.radiance_task import RadianceTask
from polyfield.apps.report import duration
from polyfield.apps.run_folder import RunFolder, read_config
from polyfield.apps.run_report import report_run
from polyfield.apps.scene import Scene, load_scene
from polyfield.apps.schedule import Schedule, read_schedule
from polyfield.apps.settings import Settings, read_settings
from polyfield.apps.shown import Shown
from polyfield.apps.splat_start import splats_to_train
from polyfield.apps.splat_task import SplatTask
from polyfield.apps.terminal import say
from polyfield.apps.tiny_cuda_nn_library import tiny_cuda_nn_library
from polyfield.apps.train_options import Densify, Networks, Surface, Train, check
from polyfield.apps.train_plan import measured_sentence, plan_sentence
from polyfield.apps.train_settings import (
    known_memory,
    most_parameters,
    new_schedule,
    new_settings,
)
from polyfield.apps.trained import build
from polyfield.apps.trained_splats import build_splats
from polyfield.cuda.errors import InputError
from polyfield.fields.gaussians import GAUSSIANS
from polyfield.fields.ray_distribution import RAY_DISTRIBUTION
from polyfield.fields.table import FIELDS
from polyfield.fields.tiny_cuda_nn_field import TinyCudaNnRadiance
from polyfield.render.samplers import SamplerKind

EVALUATION_SECONDS = 60.0  # of the report; `polyfield eval` measures all views
MEASURE_STEPS = 256  # the occupancy grid has settled by then, so a step's time is typical


@dataclass(frozen=True)
class TrainResult:
    """How a training run ended."""

    run: str
    steps: int
    ended: str
    seconds: float
    psnr: float
    """Of the held-out view that training watched, in dB."""
    test_psnr: float | None
    """Mean over the held-out views of the report, in dB; None without a report or such views."""
    test_ssim: float | None
    rewinds: int
    parameters: int
    loading_seconds: float
    """Of the time, what reading the scene and building the field took."""
    drawn: int
    """Photographs that batches drew from."""
    decoded: int
    """Photographs that training decoded, one that came again counted again."""
    decoding_seconds: float
    """Of processor time, that this took, most of it beside the steps."""
    waiting_seconds: float
    """That steps stood still until photographs were decoded."""
    checkpoint_bytes: int
    """Of all checkpoints that were written, also those that others have replaced."""
    checkpoint: str
    report: str | None
    """Where report.html lies."""


def train(
    options: Train,
    *,
    on_message: Callable[[str], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    started: float | None = None,
) -> TrainResult:
    """Train a field as the options say; the run's folder holds everything. Prints nothing.

    started: time.monotonic() where `minutes` begin, now if not given. Raises InputError for options
    or a scene that cannot be used, Interrupted on Ctrl-C after writing a checkpoint.
    """
    started = time.monotonic() if started is None else started
    check(options)
    tell = on_message or (lambda message: None)
    _check_trainable(options.field)
    choices = (
        ("--field", options.field, (*FIELDS, GAUSSIANS)),
        ("--sampler", options.sampler, get_args(SamplerKind)),
        ("--networks", options.networks, get_args(Networks)),
        ("--surface", options.surface, get_args(Surface)),
        ("--densify", options.densify, get_args(Densify)),
    )
    for name, choice, kinds in choices:
        if choice not in kinds:
            raise InputError(name, repr(choice[:80]), f"one of {', '.join(kinds)}")
    device = choose_device(options.device, tell)
    known = _known_config(options)
    known_from = f"--from {options.from_config}" if options.from_config else "config.json"
    known_settings = None if known is None else read_settings(known.get("settings"), known_from)
    if known_settings is not None:
        _check_trainable(known_settings.field)
    scene_path = options.scene or (Path(known_settings.scene) if known_settings else None)
    if scene_path is None:
        raise InputError("SCENE", "is not given", "a folder of posed images")
    images_folder = known_settings.images if known_settings else options.images
    if options.images not in (None, images_folder):
        got = f"the run has {images_folder or 'none'}"
        raise InputError(f"--images {options.images[:80]}", got, "the folder that it began with")
    scene = load_scene(scene_path, images_folder, unbounded=options.space in ("unbounded", "ndc"))
    for note in scene.notes:
        tell(note)
    if options.learned_background and scene.has_alpha:
        got = "the photographs have an alpha channel"
        raise InputError("--learned-background", got, "opaque photographs", "Leave it out.")
    for warning in camera_warnings(scene):
        tell(f"warning: {warning} See polyfield info.")
    limit = int(options.memory * 1e9) if options.memory else default_limit()
    depth = known_settings.depth if known_settings else options.depth
    depths = depth_bytes(scene) if depth else 0
    if known_settings:
        settings, memory = known_settings, known_memory(known_settings, scene, limit - depths)
    else:
        settings, memory = new_settings(scene, options, limit - depths)
    out = options.out or Path("runs") / f"{scene.name}-{settings.field}"
    if known is None:
        schedule = new_schedule(settings.field, options.steps)
    else:
        schedule = read_schedule(Fields(f"{known_from}:", known).part("schedule"))
    minutes = None if schedule.steps is not None else options.minutes or 3.0
    images = scene_images(scene, settings.image_bytes, settings.seed)
    trained, task = _task(settings, scene, images, device, out if options.resume else None, tell)
    trained.memory_bytes = memory.view_bytes
    parameters = most_parameters(settings)
    with _run_folder(options, out, settings, schedule) as folder:
        saved = checkpoint.latest(folder.checkpoints) if options.resume else None
        if options.resume and saved is None:
            tell(f"{out} holds no checkpoint: training starts at step 0")
        tell(f"{scene.name}: {_views(scene)}; training on {device} into {out}")
        needed = memory.total_bytes + depths
        tell(plan_sentence(settings, parameters, needed, limit, schedule, minutes))
        loading = time.monotonic() - started
        if minutes is not None and loading > 0.5 * 60 * minutes:
            spent, given = duration(loading), duration(60 * minutes)
            tell(f"warning: loading took {spent} of {given}; give it more time")
        outcome = run(
            task,
            folder,
            schedule,
            settings=asdict(settings),
            started=started,
            minutes=minutes,
            resume_from=saved,
            measure_steps=MEASURE_STEPS,
            foreseen=task.seconds_a_step if isinstance(task, SplatTask) else None,
            on_plan=lambda found, seconds: tell(
                measured_sentence(found, seconds, settings.samples_per_step, settings.taken)
            ),
            on_progress=on_progress,
        )
        decoded, decoding = images.decoded, images.decoding_seconds
        waiting, drawn = images.waiting_seconds, len(task.offered)
        del saved, task
        if memory.measuring_image_bytes < images.resident_bytes:
            images.close()
            del images  # before there is another: views are measured in its place
            images = scene_images(scene, memory.measuring_image_bytes, settings.seed)
        result, report = None, None
        if options.report:
            tell("measuring held-out views and writing the report")
            times = {"of it, waiting for photographs": waiting} if waiting >= 1 else {}
            result, report = _final_report(folder.path, trained, scene, images, outcome, times)
    return TrainResult(
        run=str(out),
        steps=outcome.step,
        ended=outcome.ended,
        seconds=outcome.seconds,
        psnr=outcome.metrics["psnr"],
        test_psnr=None if result is None else result.psnr,
        test_ssim=None if result is None else result.ssim,
        rewinds=outcome.rewinds,
        parameters=trained.parameters,
        loading_seconds=loading,
        drawn=drawn,
        decoded=decoded,
        decoding_seconds=decoding,
        waiting_seconds=waiting,
        checkpoint_bytes=outcome.checkpoint_bytes,
        checkpoint=str(outcome.checkpoint),
        report=report,
    )


def _check_trainable(field: str) -> None:
    """InputError for a field that photographs do not teach."""
    if field == RAY_DISTRIBUTION:
        advice = f"Train one, then: polyfield distill RUN --into {field}"
        raise InputError("--field", f"{field} needs a teacher", "a field with densities", advice)


def _task(
    settings: Settings,
    scene: Scene,
    images: ImageStore,
    device: torch.device,
    resumed: Path | None,
    tell: Callable[[str], None],
) -> tuple[Shown, RadianceTask | SplatTask]:
    """What is to be trained, as it begins, and how. resumed: the run that is gone on with."""
    if settings.field == GAUSSIANS:
        splats, notes = splats_to_train(settings, scene, images, device, resumed)
        for note in notes:
            tell(note)
        gaussians = build_splats(settings, splats, device)
        return gaussians, SplatTask(gaussians, scene, images, device)
    trained = build(settings, device)
    if settings.networks == "tiny-cuda-nn":
        trained.field = TinyCudaNnRadiance(trained.field, tiny_cuda_nn_library(device)).to(device)
        tell("tiny-cuda-nn computes the grid and the networks, in half precision")
    return trained, RadianceTask(trained, scene, images, device)


def train_command(options: Train) -> TrainResult:
    """`train` with its messages and a live line on the terminal."""
    with live_progress() as progress:
        return train(
            options,
            on_message=say,
            on_progress=progress,
            started=command_start(),
        )


def summary(result: TrainResult) -> str:
    """A few lines for the terminal."""
    lines = [f"{result.ended} after {result.steps} steps and {result.seconds:.0f} s"]
    if result.test_psnr is None:
        lines[0] += f": {result.psnr:.2f} dB on the watched view"
    else:
        lines[0] += f": held-out views {result.test_psnr:.2f} dB, SSIM {result.test_ssim:.4f}"
    if result.report:
        lines.append(f"open {result.report}")
    lines.append(f"next: polyfield render {result.run}, polyfield eval {result.run}")
    return "\n".join(lines)


def _final_report(
    folder: Path,
    trained: Shown,
    scene: Scene,
    images: ImageStore,
    outcome: Outcome,
    waiting: dict[str, float],
) -> tuple[EvalResult | None, str]:
    begin = time.monotonic()
    result = None
    if len(scene.splits["test"]):
        result = measure(trained, scene, images, "test", within=EVALUATION_SECONDS)
    times = {
        "training": outcome.seconds,
        "of it, checkpoints": outcome.checkpoint_seconds,
        **waiting,
        "evaluation": time.monotonic() - begin,
    }
    if result is not None:
        times["rendering a held-out view"] = result.seconds_per_view
    return result, str(report_run(folder, trained, scene, images, result, times))


def _views(scene: Scene) -> str:
    return ", ".join(f"{len(frames)} views to {split}" for split, frames in scene.splits.items())


def _known_config(options: Train) -> dict | None:
    """The config of the run that is repeated or gone on with."""
    if options.from_config is not None:
        return read_config(options.from_config)
    if options.resume:
        out = options.out
        if out is None and options.scene is not None:
            out = Path("runs") / f"{options.scene.resolve().name}-{options.field}"
        if out is not None and os.path.isfile(out / "config.json"):
            return RunFolder.open(out).config()
    return None


def _run_folder(
    options: Train,
    out: Path,
    settings: Settings,
    schedule: Schedule,
) -> RunFolder:
    if options.resume and os.path.isfile(out / "config.json"):
        return RunFolder.open(out, writing=True)
    config = {"settings": asdict(settings), "schedule": asdict(schedule)}
    return RunFolder.create(out, config)
