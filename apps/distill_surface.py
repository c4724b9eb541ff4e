"""`polyfield distill` of surfaces: into distances and insides, and from these to Gaussians."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from polyfield.apps import checkpoint, fit
from polyfield.apps.device import choose_device
from polyfield.apps.distill import default_folder, known_config, teacher_of
from polyfield.apps.distill_options import DISTANCES, USUAL_MINUTES, Distill
from polyfield.apps.files import make_folder
from polyfield.apps.fit_options import Fit, Target, check
from polyfield.apps.fit_surface import load_surface
from polyfield.apps.fitted import is_fit
from polyfield.apps.formats.mesh_files import write_mesh
from polyfield.apps.interruption import Interrupted
from polyfield.apps.progress import Progress
from polyfield.apps.run_folder import RunFolder
from polyfield.apps.run_surface import fused_surface, surface_of
from polyfield.apps.splat_teacher import SURFELS, load_teacher, surfel_teacher
from polyfield.apps.trained import Trained
from polyfield.cuda.errors import InputError
from polyfield.extract.mesh import Mesh
from polyfield.extract.shapes import libigl
from polyfield.extract.surfels import FEWEST
from polyfield.fields.field import SurfaceField
from polyfield.fields.gaussians import GAUSSIANS

SURFACE = "surface.ply"  # in the run's folder: what was learned from
RESOLUTION = 256  # cells a side of the cube that a run's distances are cut in
FUSED = 128  # the same of depths, all of whose cells every view is asked about: 8 times the work
MOST = 10_000_000  # discs
COLORS = "distances have no colours: its discs are shaded as clay"


@dataclass(frozen=True, kw_only=True)
class DistanceResult(fit.FitResult):
    """What became of a surface. Its figures compare with the surface that was learned from."""

    teacher: str
    surface: str
    """The mesh that was learned from."""
    surface_seconds: float
    """Until there was one."""


@dataclass(frozen=True, kw_only=True)
class SurfelResult:
    """What became of distances."""

    run: str
    teacher: str
    splats: int
    """Gaussians."""
    seconds: float
    checkpoint: str
    notes: tuple[str, ...]


def is_of_surfaces(options: Distill) -> bool:
    """Whether it is for `distill_surface`, not for `distill`. InputError for a damaged run."""
    out = options.out or default_folder(options)
    known = known_config(options, out)
    if known is not None:
        return "surfels" in known or is_fit(out)
    if options.into in DISTANCES:
        return True
    return options.into == GAUSSIANS and options.teacher is not None and is_fit(options.teacher)


def distill_surface(
    options: Distill,
    *,
    on_message: Callable[[str], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    started: float | None = None,
) -> DistanceResult | SurfelResult:
    """The surface of a run as a run of `polyfield fit`, or that of a fit as Gaussians.

    Prints nothing. started: time.monotonic() where `minutes` begin, now if not given. Raises
    InputError for options or a run that cannot be used, before there is a folder, and Interrupted
    on Ctrl-C after writing a checkpoint.
    """
    started = time.monotonic() if started is None else started
    tell = on_message or (lambda message: None)
    out = options.out or default_folder(options)
    known = known_config(options, out)
    if known is not None and "surfels" in known:
        raise InputError(str(out), "was made at once", "a run that takes steps, to go on with")
    if options.teacher is None and known is None:
        raise InputError("RUN", "is not given", "a run, or a file of Gaussians")
    path = teacher_of(options, known, out)
    device = choose_device(options.device, tell)
    if known is None and options.into == GAUSSIANS:
        return _surfels(options, path, out, device, started)
    _refuse_others(options, "minutes", "steps", "sizes", "resume")
    steps = options.steps
    minutes = USUAL_MINUTES if options.minutes is None and steps is None else options.minutes
    if known is not None:
        learning = Fit(out=out, minutes=minutes, steps=steps, device=options.device, resume=True)
        seconds = 0.0
    else:
        learning = Fit(
            out / SURFACE,
            sizes=options.sizes,
            steps=steps,
            minutes=minutes,
            target=_target(options.into),
            out=out,
            device=options.device,
            seed=options.seed,
        )
        check(learning)
        libigl("Learning the distances to a surface")
        _refuse_a_run(out)
        tell(f"cutting the surface that {path.name} shows")
        mesh = shown_surface(path, device)
        seconds = time.monotonic() - started
        tell(f"{len(mesh.faces):,} faces, which took {seconds:.1f} s")
        if minutes is not None and seconds > 60 * minutes:
            got, expected = f"the surface alone took {seconds:.0f} s", "more than that"
            raise InputError(f"--minutes {minutes:g}", got, expected)
    empty = not out.exists()
    try:
        if known is None:
            make_folder(out)
            write_mesh(out / SURFACE, mesh)
        made = fit.fit(
            learning,
            on_message=on_message,
            on_progress=on_progress,
            started=started,
            beside={"teacher": str(path)},
        )
    except Interrupted as stop:
        stop.verb = "distill"
        raise
    except InputError:
        if known is None and not (out / "config.json").exists():
            _remove(out, empty)
        raise
    return DistanceResult(
        **vars(made), teacher=str(path), surface=str(out / SURFACE), surface_seconds=seconds
    )


def shown_surface(path: Path, device: torch.device) -> Mesh:
    """The surface of a run of any kind, a fit or a file of Gaussians, in the user's frame.

    Where its distance is 0, if it has any; else that of the depth that its views show. InputError
    where there is none.
    """
    if is_fit(path):
        return load_surface(path, device)[0]
    shown = load_teacher(path, device)
    if isinstance(shown, Trained) and isinstance(shown.field, SurfaceField):
        return surface_of(shown, RESOLUTION)[0]
    return fused_surface(shown, FUSED)


def _surfels(
    options: Distill, path: Path, out: Path, device: torch.device, started: float
) -> SurfelResult:
    """The surface of a fit as discs, in a run that shows them. Nothing of it takes steps."""
    _refuse_others(options, "minutes", "splats", "resume")
    count = SURFELS if options.splats is None else options.splats
    if not FEWEST <= count <= MOST:
        raise InputError("--splats", f"{count:,}", f"{FEWEST} to {MOST:,}")
    _refuse_a_run(out)
    trained = surfel_teacher(path, device, count, options.seed)
    settings = asdict(trained.settings)
    tensors = {f"gaussians.{k}": v for k, v in trained.gaussians.state_dict().items()}
    found = len(trained.gaussians)
    config = {"settings": settings, "teacher": str(path), "surfels": found}
    with RunFolder.create(out, config) as folder:
        saved = checkpoint.step_path(folder.checkpoints, 0)
        checkpoint.write(saved, tensors, {"step": 0, "settings": settings})
    return SurfelResult(
        run=str(out),
        teacher=str(path),
        splats=found,
        seconds=time.monotonic() - started,
        checkpoint=str(saved),
        notes=(COLORS,),
    )


def _refuse_others(options: Distill, *used: str) -> None:
    """InputError for an option that would change nothing."""
    always = "teacher", "into", "out", "device", "seed"
    for name, usual in vars(Distill()).items():
        if name not in (*always, *used) and getattr(options, name) != usual:
            option = {"sizes": "set", "report": "no-report"}.get(name, name.replace("_", "-"))
            got = f"with --into {options.into} of a surface"
            raise InputError(f"--{option}", got, "to leave it out: nothing would change")


def _target(into: str) -> Target:
    for target in DISTANCES:
        if target == into:
            return target
    raise InputError("--into", repr(into[:80]), f"one of {', '.join(DISTANCES)}")


def _refuse_a_run(out: Path) -> None:
    """What the folder would be refused for, before anything takes time."""
    if (out / "config.json").exists():
        remedy = "Go on with it by --resume, or name another folder with --out."
        raise InputError(str(out), "holds a run already", "a new folder", remedy)


def _remove(out: Path, whole: bool) -> None:
    """What was written before there was a run."""
    (out / SURFACE).unlink(missing_ok=True)
    if whole:
        (out / ".lock").unlink(missing_ok=True)
        with suppress(OSError):  # somebody else has put something there
            out.rmdir()


def surface_summary(result: DistanceResult | SurfelResult) -> str:
    """A few lines for the terminal."""
    if isinstance(result, DistanceResult):
        follows = f"next: polyfield export {result.run}, polyfield distill {result.run}"
        return f"{fit.summary(result)}\n{follows}"
    head = f"{result.splats:,} Gaussians on the surface, in {result.seconds:.0f} s"
    follows = f"next: polyfield render {result.run}, polyfield export {result.run}"
    return "\n".join([*result.notes, head, follows])
