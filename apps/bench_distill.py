"""What is left of a field in another one: every pair of fields, `polyfield bench distill`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from polyfield.apps.device import choose_device
from polyfield.apps.eval import measure
from polyfield.apps.files import make_folder, parse_json, read_plain, write_json
from polyfield.apps.images import scene_images
from polyfield.apps.labelled_sheet import write_sheet
from polyfield.apps.measured_process import run_measured
from polyfield.apps.scene import Scene, evenly_spread, load_scene
from polyfield.apps.shown import load_shown
from polyfield.apps.true_view import true_view
from polyfield.cuda.errors import InputError
from polyfield.fields.gaussians import GAUSSIANS
from polyfield.fields.table import FIELDS

USUAL_MINUTES = 1.5  # of a distillation where nobody says; dense layers have twice as long
TEACHER_MINUTES = {"rbf": 4.0}  # of a training from photographs; 2 of the others
VIEWS = 25  # held-out views that fields are measured on
MOST_BYTES = 1 << 20  # of the rows of another time
HEIGHT = 160  # pixels of the pictures


@dataclass(frozen=True)
class DistillRow:
    """What is left of a teacher in a student, both against the scene's held-out photographs."""

    name: str
    """Of the student's folder."""
    teacher: str
    student: str
    budget: str
    seed: int
    teacher_seconds: float
    """That the teacher was trained for from photographs."""
    seconds: float
    """That the distillation took, all of it."""
    views_seconds: float
    """Of these, what the teacher's views took."""
    steps: int
    teacher_psnr: float
    """Mean over evenly spread held-out views, in dB."""
    psnr: float
    parameters: int
    view_seconds: float


def distill_rows(
    path: Path,
    out: Path,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    fields: tuple[str, ...] = (),
    on_row: Callable[[DistillRow], None] | None = None,
) -> list[dict[str, object]]:
    """A row for each ordered pair of fields on a scene, see `DistillRow`, and a picture of them.

    Teachers are trained from the photographs, `polyfield train SCENE --field F --minutes M`, once
    for all seeds, and each is distilled into every other field, `polyfield distill RUN --into F
    --minutes M --seed S`, in processes of their own and in folders of OUT. OUT/rows.json keeps what
    was measured: of the same budget and seed it is not done again, and a run that was cut goes on.
    The rows of all seeds in it are returned. OUT/matrix.png: a line for each teacher, of one view.
    minutes: of each distillation, twice as long into dense layers; or `steps`. fields: some, all
    where none is given. Raises InputError for no scene or no test view, an unknown field, or a
    folder of something else; PolyfieldError where a run fails.
    """
    known = (*FIELDS, GAUSSIANS)
    chosen = fields or known
    if minutes is not None and not (minutes > 0 and math.isfinite(minutes)):
        raise InputError("--minutes", str(minutes), "above 0")
    for field in chosen:
        if field not in known:
            raise InputError("--only", repr(field[:80]), f"some of {', '.join(known)}")
    scene = load_scene(path)
    if not len(scene.splits.get("test", ())):
        raise InputError(str(path), "no test views", "some, to measure fields on")
    make_folder(out)
    done = _read_rows(out / "rows.json")
    scores: dict[str, float] = {}
    rows = []
    for teacher in chosen:
        for student in chosen:
            if teacher == student:
                continue
            budget = _budget(student, minutes, steps)
            row = done.get((teacher, student, budget, seed))
            if row is None:
                row = _measured(scene, teacher, student, budget, seed, out, scores)
                done[teacher, student, budget, seed] = row
                write_json(out / "rows.json", [asdict(each) for each in done.values()])
            if on_row is not None:
                on_row(row)
            rows.append(row)
    write_sheet(out / "matrix.png", matrix(scene, rows, out), HEIGHT)
    asked = {(row.teacher, row.student, row.budget) for row in rows}
    every = [row for row in done.values() if (row.teacher, row.student, row.budget) in asked]
    return [asdict(row) for row in every]


def matrix(scene: Scene, rows: list[DistillRow], out: Path) -> list[list[tuple[str, Tensor]]]:
    """A line for each teacher: the first held-out photograph, the teacher's view, its students'."""
    frame = int(scene.splits["test"][0])
    lines: dict[str, list[tuple[str, Tensor]]] = {}
    for row in rows:
        line = lines.setdefault(row.teacher, [])
        if not line:
            teacher = load_shown(_teacher(out, row.teacher), choose_device("auto"))
            images = scene_images(scene, 1 << 28)
            truth = true_view(scene, images, frame, teacher.settings.background)
            line.append(("photograph", truth.color))
            label = f"{row.teacher} {row.teacher_psnr:.2f} dB"
            line.append((label, _seen(_teacher(out, row.teacher), scene, frame)))
        label = f"{row.student} {row.psnr:.2f} dB"
        line.append((label, _seen(out / row.name, scene, frame)))
    return list(lines.values())


def distill_summary(rows: list[dict[str, Any]]) -> str:
    """A table for the terminal: of each pair the median over the seeds, and the worst of them."""
    pairs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        pairs.setdefault((row["teacher"], row["student"]), []).append(row)
    lines = [f"{'pair':<26}  teacher   student     lost    worst  seeds   steps  parameters"]
    for (teacher, student), of_pair in pairs.items():
        lost = [row["teacher_psnr"] - row["psnr"] for row in of_pair]
        lines.append(
            f"{teacher + ' > ' + student:<26}  {of_pair[0]['teacher_psnr']:5.2f} dB"
            f"  {median(row['psnr'] for row in of_pair):5.2f} dB  {median(lost):5.2f} dB"
            f"  {max(lost):5.2f} dB  {len(lost):5}  {median(row['steps'] for row in of_pair):6.0f}"
            f"  {of_pair[0]['parameters']:10,}"
        )
    return "\n".join([*lines, f"({torch.get_num_threads()} threads)"])


def _budget(student: str, minutes: float | None, steps: int | None) -> str:
    if steps is not None:
        return f"{steps} steps"
    longer = 2 if student == "mlp" else 1  # a step of dense layers teaches a third as much
    return f"{longer * (minutes or USUAL_MINUTES):g} minutes"


def _measured(
    scene: Scene,
    teacher: str,
    student: str,
    budget: str,
    seed: int,
    out: Path,
    scores: dict[str, float],
) -> DistillRow:
    number, unit = budget.split()
    run = _teacher(out, teacher)
    if not (run / "trained.json").is_file():
        minutes = TEACHER_MINUTES.get(teacher, 2.0)
        given = ["--steps", number] if unit == "steps" else ["--minutes", f"{minutes:g}"]
        arguments = ["train", str(scene.folder), "--out", str(run), "--field", teacher]
        trained = run_measured([*arguments, *given, "--no-report", "--resume"]).result
        write_json(run / "trained.json", {"seconds": trained["seconds"]})
    if teacher not in scores:
        scores[teacher] = _score(run, scene)[0]
    taught = out / f"{teacher}-into-{student}-{number}-{unit}-{seed}"
    arguments = ["distill", str(run), "--into", student, "--out", str(taught), "--no-report"]
    result = run_measured([*arguments, f"--{unit}", number, "--seed", str(seed), "--resume"]).result
    psnr, seconds = _score(taught, scene)
    return DistillRow(
        name=taught.name,
        teacher=teacher,
        student=student,
        budget=budget,
        seed=seed,
        teacher_seconds=parse_json(read_plain(run / "trained.json", MOST_BYTES))["seconds"],
        seconds=result["seconds"],
        views_seconds=result["rendering_seconds"],
        steps=result["steps"],
        teacher_psnr=scores[teacher],
        psnr=psnr,
        parameters=result["parameters"],
        view_seconds=seconds,
    )


def _teacher(out: Path, field: str) -> Path:
    return out / f"teacher-{field}"


def _score(run: Path, scene: Scene) -> tuple[float, float]:
    """Mean PSNR over evenly spread held-out views, and the seconds that one takes."""
    trained = load_shown(run, choose_device("auto"))
    some = evenly_spread(scene.splits["test"], VIEWS)
    few = replace(scene, splits={**scene.splits, "test": some})
    found = measure(trained, few, scene_images(scene, 1 << 28), "test")
    return found.psnr, found.seconds_per_view


def _seen(run: Path, scene: Scene, frame: int) -> Tensor:
    trained = load_shown(run, choose_device("auto"))
    cameras = scene.cameras.transformed(trained.to_field).to(trained.device)
    return trained.color(cameras, frame)


def _read_rows(path: Path) -> dict[tuple[str, str, str, int], DistillRow]:
    """What was measured before. InputError for a file that this bench did not write."""
    if not path.exists():
        return {}
    try:
        rows = [DistillRow(**row) for row in parse_json(read_plain(path, MOST_BYTES))]
        return {(row.teacher, row.student, row.budget, row.seed): row for row in rows}
    except (TypeError, ValueError) as error:
        raise InputError(str(path), "no rows of this bench", "another folder for --out") from error
