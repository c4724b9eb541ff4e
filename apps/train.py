"""`polyfield train`: a field from posed images."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from polyfield.apps import checkpoint
from polyfield.apps.clock import command_start
from polyfield.apps.images import ImageStore
from polyfield.apps.loop import Progress, run
from polyfield.apps.progress import live_progress
from polyfield.apps.radiance_task import RadianceTask
from polyfield.apps.run_folder import CONFIG_VERSION, RunFolder
from polyfield.apps.scene import Scene, load_scene
from polyfield.apps.schedule import Schedule
from polyfield.apps.train_options import Train, check
from polyfield.apps.trained import Settings, build, read_settings, settings_of
from polyfield.cuda.errors import InputError
from polyfield.fields.table import FIELDS, arguments_of

SAMPLES_PER_STEP = 1 << 15
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
    rewinds: int
    parameters: int
    checkpoint: str


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
    device = choose_device(options.device, tell)
    known = _known_config(options)
    known_settings = read_settings(known.get("settings"), "config.json") if known else None
    scene_path = options.scene or (Path(known_settings.scene) if known_settings else None)
    if scene_path is None:
        raise InputError("SCENE", "is not given", "a folder of posed images")
    if options.field not in FIELDS:
        raise InputError("--field", repr(options.field), f"one of {', '.join(FIELDS)}")
    scene = load_scene(scene_path)
    for note in scene.notes:
        tell(note)
    if known_settings:
        settings = known_settings
    else:
        arguments = arguments_of(FIELDS[options.field][0](**grid_sizes(scene, options)))
        settings = settings_of(scene, options.field, arguments, options.seed, SAMPLES_PER_STEP)
    out = options.out or Path("runs") / f"{scene.name}-{settings.field}"
    minutes = options.minutes if options.steps or options.minutes else 3.0
    schedule = _known_schedule(known) if known else Schedule(options.steps)
    if schedule.steps is not None:
        minutes = None
    with _run_folder(options, out, settings, schedule, tell) as folder:
        saved = checkpoint.latest(folder.checkpoints) if options.resume else None
        if options.resume and saved is None:
            tell(f"{out} holds no checkpoint: training starts at step 0")
        trained = build(settings, device)
        parameters = sum(p.numel() for p in trained.field.parameters())
        limit = int((options.memory or 4.0) * 1e9 / 2)
        images = ImageStore(
            scene.image_paths, scene.sizes, 4 if scene.has_alpha else 3, limit, settings.seed
        )
        task = RadianceTask(trained, scene, images, device)
        views = {name: len(frames) for name, frames in scene.splits.items()}
        tell(
            f"{scene.name}: {views} views; {settings.field}, {parameters:,} parameters, "
            f"{settings.samples_per_step:,} samples a step, "
            + (f"{minutes:g} minutes" if minutes else f"{schedule.steps} steps")
            + f" on {device}; into {out}"
        )
        outcome = run(
            task,
            folder,
            schedule,
            settings=asdict(settings),
            started=started,
            minutes=minutes,
            resume_from=saved,
            measure_steps=MEASURE_STEPS,
            on_plan=lambda s, seconds: tell(
                f"plan: {s.steps} steps of {1000 * seconds:.1f} ms"
                + (
                    " - too few for a good result; give it more time"
                    if (s.steps or 0) < 1000
                    else ""
                )
            ),
            on_progress=on_progress,
        )
    return TrainResult(
        run=str(out),
        steps=outcome.step,
        ended=outcome.ended,
        seconds=outcome.seconds,
        psnr=outcome.metrics["psnr"],
        rewinds=outcome.rewinds,
        parameters=parameters,
        checkpoint=str(outcome.checkpoint),
    )


def train_command(options: Train) -> TrainResult:
    """`train` with its messages and a live line on the terminal."""
    with live_progress() as progress:
        return train(
            options,
            on_message=lambda message: print(message, flush=True),
            on_progress=progress,
            started=command_start(),
        )


def summary(result: TrainResult) -> str:
    """One line for the terminal."""
    return (
        f"{result.ended} after {result.steps} steps and {result.seconds:.0f} s: "
        f"{result.psnr:.2f} dB on the watched view. polyfield eval {result.run} measures it."
    )


def choose_device(wish: str, tell: Callable[[str], None]) -> torch.device:
    """auto takes a usable GPU and says so. InputError where a wished device is absent."""
    if wish == "auto":
        wish = "cuda" if torch.cuda.is_available() else "cpu"
        if wish == "cuda":
            tell(f"training on {torch.cuda.get_device_name()}")
    device = torch.device(wish)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("--device", wish, "a device that torch can use", "Run polyfield doctor.")
    return device


def grid_sizes(scene: Scene, options: Train) -> dict[str, int]:
    """Sizes of the hash grid for a scene and a budget.

    The finest level has two nodes to a pixel at the distance of what the cameras look at: finer
    ones no photograph supervises. Tables grow with the time there is to fill them.
    """
    cameras = scene.cameras.select(scene.splits["train"]).transformed(scene.to_field)
    distance = (cameras.camera_to_world[:, :, 3] - 0.5).norm(dim=1)
    pixel = (distance / cameras.focal.amax(1)).median()
    finest = 2 ** round(math.log2(min(8192.0, max(128.0, 2 / float(pixel)))))
    longer = (options.minutes or 3.0) > 10 or (options.steps or 0) > 40_000
    tables = (18 if longer else 16) + (1 if scene.grid_levels > 1 else 0)
    return {"finest_resolution": finest, "log2_table_size": tables}


def _known_config(options: Train) -> dict | None:
    """The config of the run that is repeated or gone on with."""
    if options.from_config is not None:
        path = options.from_config
        try:
            config = json.loads(path.read_bytes())
            whole = config["config_version"] == CONFIG_VERSION
            whole = whole and set(config) >= {"settings", "schedule"}
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"--from {path}", str(error), "a run's config.json") from error
        if not whole:
            raise InputError(f"--from {path}", "is not whole", "a run's config.json")
        return config
    if options.resume:
        out = options.out
        if out is None and options.scene is not None:
            out = Path("runs") / f"{options.scene.resolve().name}-{options.field}"
        if out is not None and (out / "config.json").is_file():
            return RunFolder.open(out).config()
    return None


def _known_schedule(config: dict) -> Schedule:
    try:
        return Schedule(**config["schedule"])
    except (KeyError, TypeError) as error:
        raise InputError("config.json: schedule", str(error)[:200], "that of a run") from error


def _run_folder(
    options: Train,
    out: Path,
    settings: Settings,
    schedule: Schedule,
    tell: Callable[[str], None],
) -> RunFolder:
    if options.resume and (out / "config.json").is_file():
        return RunFolder.open(out, writing=True)
    config = {"settings": asdict(settings), "schedule": asdict(schedule)}
    return RunFolder.create(out, config)
