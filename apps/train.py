"""`polyfield train`: a field from posed images."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import get_args

import torch

from polyfield.apps import checkpoint
from polyfield.apps.bounds import common_view
from polyfield.apps.clock import command_start
from polyfield.apps.depth_images import depth_bytes
from polyfield.apps.device import choose_device
from polyfield.apps.diagnosis_cameras import camera_warnings
from polyfield.apps.eval import EvalResult, measure
from polyfield.apps.formats.json_fields import Fields
from polyfield.apps.images import ImageStore, scene_images
from polyfield.apps.loop import Outcome, run
from polyfield.apps.memory_plan import MemoryPlan, default_limit, known_plan, plan_memory
from polyfield.apps.progress import Progress, live_progress
from polyfield.apps.radiance_task import RadianceTask
from polyfield.apps.report import duration
from polyfield.apps.run_folder import RunFolder, read_config
from polyfield.apps.run_report import report_run
from polyfield.apps.scene import Scene, load_scene
from polyfield.apps.schedule import Schedule, read_schedule
from polyfield.apps.settings import Settings, pixel_size, read_settings, settings_of
from polyfield.apps.terminal import say
from polyfield.apps.tiny_cuda_nn_library import tiny_cuda_nn_library
from polyfield.apps.train_options import Networks, Surface, Train, check
from polyfield.apps.train_plan import measured_sentence, plan_sentence
from polyfield.apps.trained import Trained, build
from polyfield.cuda.errors import InputError
from polyfield.fields.table import FIELDS, arguments_of, smoothed, with_appearance, with_sizes
from polyfield.fields.tiny_cuda_nn_field import TinyCudaNnRadiance
from polyfield.render.samplers import SamplerKind

DISTORTION, MASKED_DISTORTION = 0.01, 0.1  # weights where nobody says, see BENCHMARKS.md
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
    if options.field not in FIELDS:
        raise InputError("--field", repr(options.field), f"one of {', '.join(FIELDS)}")
    choices = (
        ("--sampler", options.sampler, get_args(SamplerKind)),
        ("--networks", options.networks, get_args(Networks)),
        ("--surface", options.surface, get_args(Surface)),
    )
    for name, choice, kinds in choices:
        if choice not in kinds:
            raise InputError(name, repr(choice), f"one of {', '.join(kinds)}")
    device = choose_device(options.device, tell)
    known = _known_config(options)
    known_from = f"--from {options.from_config}" if options.from_config else "config.json"
    known_settings = None if known is None else read_settings(known.get("settings"), known_from)
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
        settings, memory = known_settings, _known_memory(known_settings, scene, limit - depths)
    else:
        settings, memory = _new_settings(scene, options, limit - depths)
    trained = build(settings, device)
    if settings.networks == "tiny-cuda-nn":
        trained.field = TinyCudaNnRadiance(trained.field, tiny_cuda_nn_library(device)).to(device)
        tell("tiny-cuda-nn computes the grid and the networks, in half precision")
    parameters = sum(p.numel() for _, p in trained.field.named_parameters())
    trained.memory_bytes = memory.view_bytes
    out = options.out or Path("runs") / f"{scene.name}-{settings.field}"
    if known is None:
        schedule = Schedule(None)
        if options.steps is not None:
            schedule = schedule.fixed(options.steps)
    else:
        schedule = read_schedule(Fields(f"{known_from}:", known).part("schedule"))
    minutes = None if schedule.steps is not None else options.minutes or 3.0
    images = scene_images(scene, settings.image_bytes, settings.seed)
    task = RadianceTask(trained, scene, images, device)
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
            on_plan=lambda found, seconds: tell(
                measured_sentence(found, seconds, settings.samples_per_step)
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
        parameters=parameters,
        loading_seconds=loading,
        drawn=drawn,
        decoded=decoded,
        decoding_seconds=decoding,
        waiting_seconds=waiting,
        checkpoint_bytes=outcome.checkpoint_bytes,
        checkpoint=str(outcome.checkpoint),
        report=report,
    )


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


def wished_sizes(scene: Scene, options: Train) -> tuple[int, int]:
    """Details a side of the unit cube that the photographs can show, and parameters to hold them.

    One detail to a pixel at the distance of what the cameras look at: finer ones no photograph
    supervises. Parameters grow with the time there is to fill them.
    """
    finest = 2 ** round(math.log2(min(8192.0, max(128.0, 1 / pixel_size(scene)))))
    longer = (options.minutes or 3.0) > 10 or (options.steps or 0) > 40_000
    parameters = (1 << 23 if longer else 1 << 21) * (2 if scene.grid_levels > 1 else 1)
    return finest, parameters


def _new_settings(scene: Scene, options: Train, limit: int) -> tuple[Settings, MemoryPlan]:
    resolution, parameters = wished_sizes(scene, options)
    plan = plan_memory(
        limit, scene.sizes, 4 if scene.has_alpha else 3, parameters, scene.mask_sizes
    )
    warp, resolution = chosen_warp(scene, options, resolution)
    arguments = FIELDS[options.field].arguments.fitted(resolution, plan.parameters)
    if options.surface != "none":
        arguments = smoothed(arguments)
    if options.sizes:
        arguments = with_sizes(arguments, options.sizes)
    if options.appearance:
        arguments = with_appearance(arguments, options.appearance, len(scene.splits["train"]))
    settings = settings_of(
        scene,
        options.field,
        arguments_of(arguments),
        options.seed,
        min(plan.samples_per_step, arguments.samples_per_step),
        plan.image_bytes,
    )
    surface = options.surface != "none"
    settings = replace(
        settings,
        sampling=replace(settings.sampling, pieces=options.surface in ("neus", "neudf")),
        surface=options.surface,
        eikonal=options.eikonal if surface else 0.0,
        curvature=options.curvature if surface else 0.0,
        coarse_to_fine=options.coarse_to_fine,
        pixel=options.pixel,
        loss=options.loss,
        images=options.images,
        sampler=options.sampler,
        distortion=default_distortion(scene) if options.distortion is None else options.distortion,
        depth=options.depth,
        total_variation=options.total_variation,
        learned_background=options.learned_background,
        networks=options.networks,
        exposures=len(scene.splits["train"]) if options.exposure else 0,
        warp=warp,
    )
    return settings, plan if not options.sizes else _known_memory(settings, scene, limit)


def chosen_warp(scene: Scene, options: Train, resolution: int) -> tuple[dict, int]:
    """What the field does with positions, and details a side of the cube that they go to.

    resolution: details a side of the unit cube. InputError where cameras look many ways but --space
    says that they do not.
    """
    if options.space == "unbounded":
        # The finest of the nested cubes, 1 / 2^(levels - 1) of the side, becomes a half of it.
        return {"contraction": scene.grid_levels}, resolution * 4 >> scene.grid_levels
    if options.space != "ndc":
        return {}, resolution
    cameras = scene.cameras.select(scene.splits["train"]).transformed(scene.to_field)
    found = common_view(cameras, scene.near)
    if found is None:
        got = "the cameras look many ways"
        raise InputError("--space ndc", got, "a forward-facing capture", "Leave it out.")
    pixels = 2 * float((cameras.focal.amax(1) * max(found["extent"])).median())
    return {"projection": found}, 2 ** round(math.log2(min(8192.0, max(128.0, pixels))))


def default_distortion(scene: Scene) -> float:
    """Weight of the distortion loss where nobody says.

    No mask is exact, so there is more fog to clear about an object that masks tell from its
    background.
    """
    told = any(mask is not None and mask.meaning == "object" for mask in scene.masks)
    return MASKED_DISTORTION if told else DISTORTION


def _known_memory(settings: Settings, scene: Scene, limit: int) -> MemoryPlan:
    # Counted before there is memory for them: a file may ask for any number.
    field = build(settings, torch.device("meta")).field
    parameters = sum(p.numel() for _, p in field.named_parameters())
    samples, images = settings.samples_per_step, settings.image_bytes
    return known_plan(limit, scene.sizes, parameters, samples, images, scene.mask_sizes)


def _final_report(
    folder: Path,
    trained: Trained,
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
