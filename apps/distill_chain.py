"""`polyfield distill RUN --chain FIELD,FIELD`: one field into the next, and what survives of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from polyfield.apps.device import choose_device
from polyfield.apps.distill import INTO, distill, truth_of
from polyfield.apps.distill_options import DISTANCES, Distill
from polyfield.apps.eval import measure
from polyfield.apps.files import make_folder
from polyfield.apps.labelled_sheet import write_sheet
from polyfield.apps.progress import Progress
from polyfield.apps.scene import Scene
from polyfield.apps.shown import Shown, load_shown
from polyfield.apps.splat_teacher import load_teacher
from polyfield.apps.taught_views import TaughtViews, taught_scene
from polyfield.cuda.errors import InputError
from polyfield.fields.gaussians import GAUSSIANS

HEIGHT = 240  # pixels of the pictures


@dataclass(frozen=True)
class Link:
    """A field of a chain."""

    run: str
    field: str
    first_psnr: float
    """Of views of it against the same ones of the chain's beginning, mean in dB."""
    test_psnr: float | None
    """Against the scene's held-out photographs; None where they are no longer there."""
    parameters: int
    seconds: float


@dataclass(frozen=True)
class ChainResult:
    """What became of a field on its way through others."""

    run: str
    """The last link's folder."""
    teacher: str
    teacher_psnr: float | None
    """Of the beginning, against the scene's held-out photographs."""
    links: tuple[Link, ...]
    picture: str
    """One view of the beginning and of every link, side by side."""


def distill_chain(
    options: Distill,
    *,
    on_message: Callable[[str], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> ChainResult:
    """Distil a field into the first of `chain`, that into the second, and so on.

    Every link is a run of its own in a folder of `out`, with the budget of `options`. With `resume`
    links that are done stay. Raises InputError as `distill`, before anything is done where a name
    is no field's.
    """
    fields = [name.strip() for name in options.chain.split(",")]
    for name in fields:
        if name in DISTANCES:
            got, remedy = f"{name} shows no views", f"Make it by --into {name}."
            raise InputError("--chain", got, f"some of {', '.join(INTO)}", remedy)
        if name not in INTO:
            raise InputError("--chain", repr(name[:80]), f"some of {', '.join(INTO)}")
    if options.sizes:
        raise InputError("--set", "beside --chain", "one or the other: fields have other sizes")
    if options.teacher is None:
        raise InputError("RUN", "is not given", "what the chain begins with")
    path = options.teacher.resolve()
    out = options.out or Path("runs") / f"{path.stem if path.is_file() else path.name}-chain"
    first = load_teacher(path, choose_device(options.device, lambda message: None))
    scene = taught_scene(first, 1, options.seed)
    views = TaughtViews(first, scene, sum(width * height * 4 for width, height in scene.sizes))
    make_folder(out)
    teacher, links = path, []
    pictures = [("the beginning", _looked_at(first, scene))]
    for number, name in enumerate(fields, 1):
        run = out / f"{number}-{name}"
        begun = options.resume and (run / "config.json").is_file()
        link = replace(
            options,
            teacher=teacher,
            into=name,
            out=run,
            chain="",
            splats=options.splats if name == GAUSSIANS else None,
            resume=begun,
            report=False,
        )
        made = distill(
            link, on_message=on_message, on_progress=on_progress, started=time.monotonic()
        )
        shown = load_shown(run, first.device)
        psnr = measure(shown, scene, views, "test").psnr
        truth = truth_of(shown) if options.report else None
        test = None if truth is None else truth.psnr
        links.append(Link(str(run), name, psnr, test, made.parameters, made.seconds))
        pictures.append((f"{name} {psnr:.2f} dB", _looked_at(shown, scene)))
        teacher = run
    write_sheet(out / "chain.png", [pictures], HEIGHT)
    truth = truth_of(first) if options.report else None
    return ChainResult(
        run=links[-1].run,
        teacher=str(path),
        teacher_psnr=None if truth is None else truth.psnr,
        links=tuple(links),
        picture=str(out / "chain.png"),
    )


def _looked_at(shown: Shown, scene: Scene) -> Float[Tensor, "height width 3"]:
    """The first held-out view of the chain's beginning, of any link."""
    cameras = scene.cameras.transformed(shown.to_field).to(shown.device)
    return shown.color(cameras, int(scene.splits["test"][0]))


def chain_summary(result: ChainResult) -> str:
    """A table for the terminal."""
    lines = [f"{'field':<18}  to the beginning  to the scene  parameters  seconds"]
    if result.teacher_psnr is not None:
        lines.append(f"{'the beginning':<18}  {'':>16}  {result.teacher_psnr:9.2f} dB")
    for link in result.links:
        truth = "" if link.test_psnr is None else f"{link.test_psnr:.2f} dB"
        lines.append(
            f"{link.field:<18}  {link.first_psnr:13.2f} dB  {truth:>12}  {link.parameters:10,}"
            f"  {link.seconds:7.0f}"
        )
    return "\n".join([*lines, f"look at {result.picture}"])
