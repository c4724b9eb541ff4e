"""`polyfield distill`: what one field has learned, as another kind of field."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from polyfield.apps import checkpoint
from polyfield.apps.device import choose_device
from polyfield.apps.distill_options import (
    DISTANCES,
    MOST_VIEWS,
    Distill,
    training_options,
    usual_stages,
)
from polyfield.apps.distill_task import DistillTask, Stages
from polyfield.apps.eval import EvalResult, measure
from polyfield.apps.formats.json_fields import Fields
from polyfield.apps.images import scene_images
from polyfield.apps.interruption import Interrupted
from polyfield.apps.loop import run
from polyfield.apps.memory_plan import default_limit
from polyfield.apps.point_teacher import point_teacher
from polyfield.apps.progress import Progress
from polyfield.apps.radiance_task import RadianceTask
from polyfield.apps.ray_task import RayTask, box_of
from polyfield.apps.refined_task import RefinedTask
from polyfield.apps.run_folder import RunFolder
from polyfield.apps.run_report import report_run
from polyfield.apps.scene import Scene
from polyfield.apps.schedule import MOST_STEPS, read_schedule
from polyfield.apps.settings import Settings, read_settings, scene_of
from polyfield.apps.shown import Shown
from polyfield.apps.splat_start import splats_to_train
from polyfield.apps.splat_task import SplatTask
from polyfield.apps.splat_teacher import load_teacher
from polyfield.apps.task import Task
from polyfield.apps.taught_views import HELD_OUT, TaughtViews, taught_scene, usual_views
from polyfield.apps.train_plan import measured_sentence, plan_sentence
from polyfield.apps.train_settings import (
    known_memory,
    most_parameters,
    new_schedule,
    new_settings,
)
from polyfield.apps.trained import build
from polyfield.apps.trained_rays import build_rays
from polyfield.apps.trained_splats import build_splats
from polyfield.cuda.errors import InputError
from polyfield.fields.gaussians import GAUSSIANS
from polyfield.fields.ray_distribution import RAY_DISTRIBUTION
from polyfield.fields.table import FIELDS

INTO = *FIELDS, GAUSSIANS, RAY_DISTRIBUTION
STAGES = "feature", "point"
HEAD = "hidden", "harmonics_degree"  # sizes that networks of colour follow from
EVALUATION_SECONDS = 60.0  # of the report, for each of two measurements


@dataclass(frozen=True)
class DistillResult:
    """What became of a field."""

    run: str
    teacher: str
    steps: int
    ended: str
    seconds: float
    rendering_seconds: float
    """Of them, what the teacher's views took."""
    teacher_psnr: float | None
    """Mean over held-out views of the teacher, in dB; None without a report."""
    test_psnr: float | None
    """Mean over the scene's own held-out views, in dB; None where it is no longer there."""
    parameters: int
    checkpoint: str
    report: str | None
    """Where report.html lies."""


def distill(
    options: Distill,
    *,
    on_message: Callable[[str], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    started: float | None = None,
) -> DistillResult:
    """Train a field on what another one knows; the run's folder holds everything. Prints nothing.

    The scene that the teacher learned from is read only to measure, where it is still there.
    started: time.monotonic() where `minutes` begin, now if not given. Raises InputError for options
    or a run that cannot be used, Interrupted on Ctrl-C after writing a checkpoint.
    """
    started = time.monotonic() if started is None else started
    tell = on_message or (lambda message: None)
    training = training_options(options)
    if options.into not in INTO:
        expected = f"one of {', '.join((*INTO, *DISTANCES))}"
        raise InputError("--into", repr(options.into[:80]), expected)
    device = choose_device(options.device, tell)
    out = options.out or default_folder(options)
    known = known_config(options, out)
    path = teacher_of(options, known, out)
    teacher = load_teacher(path, device)
    limit = int(options.memory * 1e9) if options.memory else default_limit()
    limit -= 4 * teacher.parameters  # bytes
    teacher.memory_bytes = min(teacher.memory_bytes, limit // 8)
    if known is None:
        views = options.views or usual_views(teacher, training.minutes)
        scene = taught_scene(teacher, views, options.seed)
        settings, memory = new_settings(scene, training, limit)
        settings = _as_the_teacher_s(settings, teacher, sized=bool(options.sizes))
        stages, refined = Stages(*usual_stages(options)), options.refine
        schedule = new_schedule(settings.field, options.steps)
    else:
        found = Fields("config.json:", known)
        settings = read_settings(known.get("settings"), "config.json")
        scene = taught_scene(teacher, found.whole("views", 1, MOST_VIEWS), settings.seed)
        memory = known_memory(settings, scene, limit)
        schedule = read_schedule(found.part("schedule"))
        features, points = (found.whole(f"{name}_steps", 0, MOST_STEPS) for name in STAGES)
        stages = Stages(features, points)
        refined = found.real("refined", 0.0, 1.0) if "refined" in found else 0.0
    minutes = None if schedule.steps is not None else training.minutes
    images = TaughtViews(teacher, scene, memory.image_bytes, settings.seed)
    if not images.all_fit:
        got = f"they do not fit into {memory.image_bytes / 1e9:.2f} GB"
        expected = f"at most {images.slots - HELD_OUT:,} views of that size"
        count = len(scene.splits["train"])
        raise InputError(f"--views {count}", got, expected, "Or raise --memory.")
    resumed = out if known else None
    trained, task = _task(settings, scene, images, teacher, stages, resumed, tell)
    trained.memory_bytes = memory.view_bytes
    config = {
        "settings": asdict(settings),
        "schedule": asdict(schedule),
        "teacher": str(path),
        "views": len(scene.splits["train"]),
        "feature_steps": stages.features,
        "point_steps": stages.points,
        "refined": refined,
    }
    foreseen = task.seconds_a_step if isinstance(task, SplatTask) else None
    learning: Task = task
    if refined and not isinstance(task, RayTask):
        learning = RefinedTask(task, scene_of(settings), refined)
    create = RunFolder.create(out, config) if known is None else RunFolder.open(out, writing=True)
    with create as folder:
        saved = checkpoint.latest(folder.checkpoints) if options.resume else None
        tell(f"{scene.name}: {scene.notes[0]}; training on {device} into {out}")
        parameters, needed = most_parameters(settings), memory.total_bytes
        tell(plan_sentence(settings, parameters, needed, limit, schedule, minutes))
        images.load(scene.splits["train"])
        tell(f"its views took {images.decoding_seconds:.1f} s")
        try:
            outcome = run(
                learning,
                folder,
                schedule,
                settings=asdict(settings),
                started=started,
                minutes=minutes,
                resume_from=saved,
                measure_steps=stages.points + 100,
                foreseen=foreseen,
                on_plan=lambda found, seconds: tell(
                    measured_sentence(found, seconds, settings.samples_per_step, settings.taken)
                ),
                on_progress=on_progress,
            )
        except Interrupted as stop:
            stop.verb = "distill"
            raise
        result, truth, report = None, None, None
        if options.report:
            tell("measuring held-out views and writing the report")
            result = measure(trained, scene, images, "test", within=EVALUATION_SECONDS)
            truth = truth_of(trained)
            times = {"training": outcome.seconds, "of it, the teacher": images.decoding_seconds}
            report = str(report_run(folder.path, trained, scene, images, result, times))
    return DistillResult(
        run=str(out),
        teacher=str(path),
        steps=outcome.step,
        ended=outcome.ended,
        seconds=outcome.seconds,
        rendering_seconds=images.decoding_seconds,
        teacher_psnr=None if result is None else result.psnr,
        test_psnr=None if truth is None else truth.psnr,
        parameters=trained.parameters,
        checkpoint=str(outcome.checkpoint),
        report=report,
    )


def default_folder(options: Distill) -> Path:
    """Where a run goes when nobody says."""
    path = Path("run") if options.teacher is None else options.teacher.resolve()
    name = path.stem if path.is_file() else path.name
    return Path("runs") / f"{name}-into-{options.into}"


def known_config(options: Distill, out: Path) -> dict | None:
    """The config of the run that is gone on with."""
    if options.resume and os.path.isfile(out / "config.json"):
        return RunFolder.open(out).config()
    return None


def teacher_of(options: Distill, known: dict | None, out: Path) -> Path:
    """The teacher's folder. InputError where a run that is gone on with has another, or none."""
    given = None if options.teacher is None else options.teacher.resolve()
    taught = None if known is None else Fields("config.json:", known).text("teacher")
    if known is not None and taught is None:
        raise InputError(str(out), "was not distilled", "a run of `polyfield distill`")
    if given is None and taught is None:
        raise InputError(str(out), "holds no run", "the run to go on with, or RUN")
    if given is not None and taught is not None and str(given) != taught:
        raise InputError(str(out), f"is taught by {taught[:200]}", "the RUN that it began with")
    return given or Path(str(taught))


def _as_the_teacher_s(settings: Settings, teacher: Shown, sized: bool) -> Settings:
    """The settings of a run whose scene, background and space are those of its teacher.

    And its colour network, unless somebody sized the field: then it can be taken from it.
    """
    known = teacher.settings
    settings = replace(
        settings, scene=known.scene, images=known.images, background=known.background
    )
    if {settings.field, known.field} & {GAUSSIANS, RAY_DISTRIBUTION}:  # they do not march
        return settings
    if not sized and {*HEAD} <= settings.arguments.keys() & known.arguments.keys():
        head = {name: known.arguments[name] for name in HEAD}
        settings = replace(settings, arguments=settings.arguments | head)
    sampling = replace(known.sampling, pieces=False)
    return replace(
        settings, sampling=sampling, warp=known.warp, grid_resolution=known.grid_resolution
    )


def _task(
    settings: Settings,
    scene: Scene,
    images: TaughtViews,
    teacher: Shown,
    stages: Stages,
    resumed: Path | None,
    tell: Callable[[str], None],
) -> tuple[Shown, RadianceTask | DistillTask | SplatTask | RayTask]:
    """What is to be taught, as it begins, and how."""
    device = teacher.device
    if settings.field == GAUSSIANS:
        splats, notes = splats_to_train(settings, scene, images, device, resumed)
        for note in notes:
            tell(note)
        gaussians = build_splats(settings, splats, device)
        return gaussians, SplatTask(gaussians, scene, images, device)
    points = point_teacher(teacher, settings)
    if settings.field == RAY_DISTRIBUTION:
        rays = build_rays(settings, device, box_of(teacher))
        return rays, RayTask(rays, scene, images, points)
    trained = build(settings, device)
    task = RadianceTask(trained, scene, images, device)
    return trained, task if points is None else DistillTask(task, points, stages)


def truth_of(trained: Shown) -> EvalResult | None:
    """How the run does on its scene's own held-out views, if that is still there."""
    try:
        scene = scene_of(trained.settings)
        images = scene_images(scene, trained.settings.image_bytes, trained.settings.seed)
        return measure(trained, scene, images, "test", within=EVALUATION_SECONDS)
    except InputError:
        return None


def summary(result: DistillResult) -> str:
    """A few lines for the terminal."""
    lines = [f"{result.ended} after {result.steps} steps and {result.seconds:.0f} s"]
    if result.teacher_psnr is not None:
        lines[0] += f": views of the teacher {result.teacher_psnr:.2f} dB"
    if result.test_psnr is not None:
        lines[0] += f", the scene's held-out views {result.test_psnr:.2f} dB"
    if result.report:
        lines.append(f"open {result.report}")
    lines.append(f"next: polyfield render {result.run}, polyfield eval {result.run}")
    return "\n".join(lines)
