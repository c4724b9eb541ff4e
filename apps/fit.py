"""`polyfield fit`: learn an image, a film or the distances to a mesh."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from polyfield.apps import checkpoint
from polyfield.apps.clock import command_start
from polyfield.apps.device import choose_device
from polyfield.apps.distances import DistanceSource, read_distances
from polyfield.apps.fit_options import LEAST_PARAMETERS, MOST_PARAMETERS, Fit, Target, check
from polyfield.apps.fit_outputs import Outputs, write_distances, write_raster
from polyfield.apps.fit_settings import FitSettings, read_fit_settings
from polyfield.apps.fitted import Fitted, build_fitted, numbers_of
from polyfield.apps.formats.json_fields import Fields
from polyfield.apps.formats.mesh_files import READ_SUFFIXES
from polyfield.apps.interruption import Interrupted
from polyfield.apps.loop import run
from polyfield.apps.memory_plan import BASE_BYTES, BYTES_A_PARAMETER, default_limit
from polyfield.apps.progress import Progress, live_progress
from polyfield.apps.rasters import Raster, RasterSource, read_raster
from polyfield.apps.run_folder import RunFolder, read_config
from polyfield.apps.schedule import Schedule, read_schedule
from polyfield.apps.signal_task import SignalTask
from polyfield.apps.terminal import say
from polyfield.cuda.errors import InputError
from polyfield.extract.mesh_report import mesh_report
from polyfield.extract.shapes import MeshShape
from polyfield.fields.table import arguments_of, signal_backend, smoothed, with_sizes

MINUTES = 1.0
MESH_PARAMETERS, MESH_DETAILS = 1 << 21, 512
OPEN = 0.05  # rims over the root of the area, above which a mesh counts as open
DISTANCE_SAMPLES, PIXEL_SAMPLES = 1 << 14, 1 << 16  # a step, at most
FILM_PIXELS = 8  # for each of which a film's field has a number
MEASURE_STEPS = 100


@dataclass(frozen=True, kw_only=True)
class FitResult(Outputs):
    """What became of a signal."""

    run: str
    kind: str
    steps: int
    ended: str
    seconds: float
    parameters: int
    """All numbers that the field keeps."""
    learned: int
    """Those of them that training changed."""
    checkpoint: str


def fit(
    options: Fit,
    *,
    on_message: Callable[[str], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    started: float | None = None,
    beside: dict[str, str] | None = None,
) -> FitResult:
    """Learn a signal as the options say; the run's folder holds everything. Prints nothing.

    started: time.monotonic() where `minutes` begin, now if not given. beside: what else config.json
    of a new run is to say. Raises InputError for options or a signal that cannot be used,
    Interrupted on Ctrl-C after writing a checkpoint.
    """
    started = time.monotonic() if started is None else started
    check(options)
    tell = on_message or (lambda message: None)
    signal_backend(options.field)
    device = choose_device(options.device, tell)
    known = _known(options)
    where = "config.json"
    settings = None if known is None else read_fit_settings(known.get("settings"), where)
    path = options.signal or Path(settings.signal if settings else "")
    mask = options.mask
    if settings is not None:  # whatever is asked for, a run goes on as it began
        mask = Path(settings.mask) if settings.mask else None
    seed = settings.seed if settings else options.seed
    target = settings.target if settings else options.target
    source = read_source(path, mask, seed, target)
    if isinstance(source, DistanceSource) and source.target != "udf":
        warning = openness(source)
        if warning is not None:
            tell(warning)
    if settings is None:
        settings = settings_for(source, path, options)
    _check_same(source, settings, path)
    fitted = build_fitted(settings, device)
    numbers = numbers_of(fitted)
    learned = sum(p.numel() for p in fitted.signal.parameters())
    out = options.out or default_out(path, settings.field)
    schedule = Schedule(None)
    if known is not None:
        schedule = read_schedule(Fields(f"{where}:", known).part("schedule"))
    elif options.steps is not None:
        schedule = schedule.fixed(options.steps)
    minutes = None if schedule.steps is not None else options.minutes or MINUTES
    with _run_folder(options, out, settings, schedule, beside or {}) as folder:
        saved = checkpoint.latest(folder.checkpoints) if options.resume else None
        if options.resume and saved is None:
            tell(f"{out} holds no checkpoint: learning starts at step 0")
        sizes = ", ".join(f"{name} {value}" for name, value in settings.arguments.items())
        tell(f"{path.name}: {described(source)}; learning on {device} into {out}")
        tell(f"plan: {settings.field} ({sizes}), {numbers:,} numbers, {learned:,} of them learned")
        try:
            outcome = run(
                SignalTask(fitted, source),
                folder,
                schedule,
                settings=asdict(settings),
                started=started,
                minutes=minutes,
                resume_from=saved,
                measure_steps=MEASURE_STEPS,
                on_plan=lambda found, seconds: tell(
                    f"plan: {found.steps or 0:,} steps of {1000 * seconds:.1f} ms"
                ),
                on_progress=on_progress,
            )
        except Interrupted as stop:
            stop.verb = "fit"
            raise
        tell("measuring it and writing what it looks like")
        fitted.signal.requires_grad_(False)  # so a gradient to positions costs none to the numbers
        outputs = _outputs(folder, fitted, source, outcome.seconds, numbers)
    return FitResult(
        **vars(outputs),
        run=str(out),
        kind=settings.kind,
        steps=outcome.step,
        ended=outcome.ended,
        seconds=outcome.seconds,
        parameters=numbers,
        learned=learned,
        checkpoint=str(outcome.checkpoint),
    )


def read_source(
    path: Path, mask: Path | None, seed: int, target: Target = "sdf"
) -> RasterSource | DistanceSource:
    """What a file, or a folder of frames, holds. InputError where it is no signal."""
    if path.suffix.lower() in READ_SUFFIXES and not path.is_dir():
        if mask is not None:
            raise InputError(f"--mask {mask}", "a mesh has no pixels", "an image or a film")
        return read_distances(path, seed, target)
    if target != "sdf":
        raise InputError(f"--as {target}", f"{path} is no mesh", "a mesh to learn distances of")
    return RasterSource(read_raster(path, mask, default_limit() // 2), seed)


def settings_for(source: RasterSource | DistanceSource, path: Path, options: Fit) -> FitSettings:
    """The settings of a new run. InputError where no field is of the size that is asked for."""
    raster = source.raster if isinstance(source, RasterSource) else None
    if raster is None:
        parameters, details, channels = MESH_PARAMETERS, MESH_DETAILS, 1
        size, most = (1, 1, 1), DISTANCE_SAMPLES
    else:
        frames, height, width, channels = raster.pixels.shape
        size, most = (frames, height, width), PIXEL_SAMPLES
        pixels = frames * height * width
        parameters = pixels if raster.kind == "image" else pixels // FILM_PIXELS
        details = max(height, width) // (1 if raster.kind == "image" else 2)
    wished = options.parameters or max(LEAST_PARAMETERS, min(MOST_PARAMETERS, parameters))
    kind = raster.kind if raster is not None else "distance"
    dimensions = 2 if kind == "image" else 3
    arguments = signal_backend(options.field).arguments.fitted(dimensions, details, wished)
    if kind == "distance":
        arguments = smoothed(arguments)
    if options.sizes:
        arguments = with_sizes(arguments, options.sizes)
    settings = FitSettings(
        kind=kind,
        field=options.field,
        arguments=arguments_of(arguments),
        channels=channels,
        signal=str(path.resolve()),
        seed=options.seed,
        samples_per_step=min(arguments.samples_per_step, most),
        size=size,
        values=raster.values if raster is not None else "srgb",
        frames_per_second=raster.frames_per_second if raster is not None else 25.0,
        mask=None if options.mask is None else str(options.mask.resolve()),
        target=source.target if isinstance(source, DistanceSource) else "sdf",
        sides=source.sides if isinstance(source, DistanceSource) else (0.0, 0.0, 0.0),
        to_field=source.to_field.to_json() if isinstance(source, DistanceSource) else None,
    )
    # Counted before there is memory for them.
    numbers = numbers_of(build_fitted(settings, torch.device("meta")))
    needed, limit = BASE_BYTES + numbers * BYTES_A_PARAMETER, default_limit()
    if needed > limit:
        got = f"{numbers:,} numbers take {needed / 1e9:.2f} GB"
        option = "--set" if options.sizes else "--parameters"
        raise InputError(option, got, f"at most {limit / 1e9:.2f} GB")
    return settings


def openness(source: DistanceSource) -> str | None:
    """A warning where so much of a mesh's surface is missing that inside means little."""
    if not isinstance(source.shape, MeshShape):
        return None
    report = mesh_report(source.shape.mesh)
    rim = sum(each.length for each in report.openings) / source.shape.area**0.5
    if rim <= OPEN:
        return None
    openings = (
        f"{report.boundary_loops:,} openings, their rims {rim:.2g} times the root of its area"
    )
    return f"warning: the mesh is open ({openings}): its inside is a guess; --as udf needs none"


def described(source: RasterSource | DistanceSource) -> str:
    """What a signal is, in a few words."""
    if isinstance(source, DistanceSource):
        if isinstance(source.shape, MeshShape):
            return f"a mesh of {len(source.shape.mesh.faces):,} faces"
        return "a cloud of points"
    raster: Raster = source.raster
    size = f"{source.width} x {source.height}"
    what = f"an image of {size} pixels"
    if raster.kind == "film":
        what = f"a film of {source.frames} frames of {size} pixels"
    if raster.kept is not None:
        share = 1 - float(raster.kept.float().mean())
        what += f", {100 * share:.1f} % of them left out"
    return what


def default_out(path: Path, field: str) -> Path:
    """Where a run goes when nobody says."""
    return Path("runs") / f"{path.resolve().stem}-{field}"


def fit_command(options: Fit) -> FitResult:
    """`fit` with its messages and a live line on the terminal."""
    with live_progress() as progress:
        return fit(options, on_message=say, on_progress=progress, started=command_start())


def summary(result: FitResult) -> str:
    """A few lines for the terminal."""
    head = f"{result.ended} after {result.steps} steps and {result.seconds:.0f} s: "
    size = f"{result.file_bytes:,} bytes"
    if result.distances is not None:
        score = result.distances
        head += "" if score.overlap is None else f"IoU {score.overlap:.4f}, "
        if score.mean_error_near is not None:
            head += f"distances near the surface off by {score.mean_error_near:.3g}, "
        head += f"normals by {score.normal_degrees:.2f} degrees"
    else:
        head += f"{result.psnr:.2f} dB"
        if result.psnr_filled is not None:
            head += f" where it learned, {result.psnr_filled:.2f} dB where it filled in"
        size += f", {result.bits_per_pixel:.2f} bits a pixel, {result.file_psnr:.2f} dB from it"
    return "\n".join([head, f"{result.file}: {size}", f"open {result.report}"])


def _outputs(
    folder: RunFolder,
    fitted: Fitted,
    source: RasterSource | DistanceSource,
    seconds: float,
    numbers: int,
) -> Outputs:
    if isinstance(source, DistanceSource):
        return write_distances(folder, fitted, source, seconds, numbers)
    return write_raster(folder, fitted, source.raster, seconds, numbers)


def _check_same(source: RasterSource | DistanceSource, settings: FitSettings, path: Path) -> None:
    """InputError where a run would go on with another signal than it began with."""
    if isinstance(source, DistanceSource):
        same = settings.kind == "distance" and settings.to_field == source.to_field.to_json()
        got = described(source)
    else:
        shape = tuple(source.raster.pixels.shape)
        same = (settings.kind, (*settings.size, settings.channels)) == (source.raster.kind, shape)
        got = f"{described(source)}, {shape[3]} channels"
    if not same:
        raise InputError(str(path), got, "the signal that the run began with")


def _known(options: Fit) -> dict | None:
    """The config of the run that is gone on with."""
    if not options.resume:
        return None
    out = options.out
    if out is None and options.signal is not None:
        out = default_out(options.signal, options.field)
    if out is not None and os.path.isfile(out / "config.json"):
        return read_config(out / "config.json")
    return None


def _run_folder(
    options: Fit, out: Path, settings: FitSettings, schedule: Schedule, beside: dict[str, str]
) -> RunFolder:
    if options.resume and os.path.isfile(out / "config.json"):
        return RunFolder.open(out, writing=True)
    config = beside | {"settings": asdict(settings), "schedule": asdict(schedule)}
    return RunFolder.create(out, config)
