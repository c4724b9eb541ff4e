"""What each kind of field makes of a scene in the same minutes: `polyfield bench scenes`."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from polyfield.apps.compact_file import placed_tensors, write_compact
from polyfield.apps.device import choose_device
from polyfield.apps.eval import Eval, evaluate
from polyfield.apps.files import make_folder, parse_json, read_plain, write_json
from polyfield.apps.images import scene_images
from polyfield.apps.labelled_sheet import write_sheet
from polyfield.apps.measured_process import run_measured
from polyfield.apps.scene import load_scene
from polyfield.apps.settings import scene_of
from polyfield.apps.shown import Shown, load_shown
from polyfield.apps.splat_info import write_run_splats
from polyfield.apps.trained import Trained
from polyfield.apps.trained_splats import TrainedSplats
from polyfield.apps.true_view import true_view
from polyfield.cuda.errors import InputError
from polyfield.fields.gaussians import GAUSSIANS
from polyfield.fields.table import FIELDS

PICTURE_HEIGHT = 240  # pixels of the strip
MINUTES = 3.0  # of each training where nobody says otherwise
MOST_BYTES = 1 << 20  # of the rows of another time


@dataclass(frozen=True)
class SceneRow:
    """What a field made of a scene."""

    name: str
    """Of the run's folder: scene, field, budget and seed."""
    scene: str
    field: str
    budget: str
    """What training was given: "3 minutes", or "500 steps"."""
    seed: int
    minutes: float
    """That it took, reading the scene included."""
    steps: int
    psnr: float
    """Mean over the held-out views, in dB, as `eval` measures it."""
    ssim: float
    constant_psnr: float
    """Of a picture of the mean training colour."""
    parameters: int
    packed_bytes: int
    """Of all that was learned in halves, packed; what is placed as it is."""
    checkpoint_bytes: int
    """Of one checkpoint, with all that training goes on from."""
    view_seconds: float
    view_size: str
    peak_bytes: int
    """Resident memory of the training process, at most."""


def scene_rows(
    scenes: tuple[Path, ...],
    out: Path,
    *,
    minutes: float = MINUTES,
    steps: int | None = None,
    seed: int = 0,
    fields: tuple[str, ...] = (),
    on_row: Callable[[SceneRow], None] | None = None,
) -> list[dict[str, object]]:
    """A row for each scene and field of the table, see `SceneRow`, and a picture of them all.

    Every run is `polyfield train SCENE --field F --minutes M --seed S` in a process of its own,
    into a folder of OUT, of so many steps where they are given; one that was cut goes on, but the
    memory that it took before is not counted. OUT/rows.json keeps what was measured, and what it
    has of the same budget and seed is not done again. OUT/strip.png: of each scene the first
    held-out view and what fields show of it. fields: some of the table, all where none is given.
    Raises InputError for what is no scene or has no test view, two of one name, an unknown field or
    a folder of something else; PolyfieldError where a training fails.
    """
    known = (*FIELDS, GAUSSIANS)
    chosen = fields or known
    if not minutes > 0 or not math.isfinite(minutes):
        raise InputError("--minutes", str(minutes), "above 0")
    if steps is not None and steps < 1:
        raise InputError("--steps", str(steps), "at least 1")
    budget = f"{minutes:g} minutes" if steps is None else f"{steps} steps"
    for field in chosen:
        if field not in known:
            raise InputError("--only", repr(field[:80]), f"some of {', '.join(known)}")
    names = [scene.resolve().name for scene in scenes]
    if len(set(names)) < len(names):
        raise InputError("bench scenes", f"folders named {', '.join(names)}", "each name once")
    for scene in scenes:
        if not len(load_scene(scene).splits.get("test", ())):
            raise InputError(str(scene), "no test views", "some, to measure fields on")
    make_folder(out)
    done = _read_rows(out / "rows.json")
    rows = []
    for scene, name in zip(scenes, names, strict=True):
        for field in chosen:
            row = done.get((name, field, budget, seed))
            if row is None:
                row = _measure(scene, name, field, budget, seed, out)
                done[name, field, budget, seed] = row
                write_json(out / "rows.json", [asdict(each) for each in done.values()])
            if on_row is not None:
                on_row(row)
            rows.append(row)
    write_sheet(out / "strip.png", strip(rows, out), PICTURE_HEIGHT)
    return [asdict(row) for row in rows]


def strip(rows: list[SceneRow], out: Path) -> list[list[tuple[str, torch.Tensor]]]:
    """A line for each scene: its first held-out view, then what each field shows of it."""
    lines: dict[str, list[tuple[str, torch.Tensor]]] = {}
    for row in rows:
        trained = load_shown(out / row.name, choose_device("auto"))
        scene = scene_of(trained.settings)
        frame = int(scene.splits["test"][0])
        line = lines.setdefault(row.scene, [])
        if not line:
            truth = true_view(
                scene, scene_images(scene, 1 << 28), frame, trained.settings.background
            )
            line.append((row.scene, truth.color))
        cameras = scene.cameras.transformed(trained.to_field).to(trained.device)
        line.append((f"{row.field} {row.psnr:.2f} dB", trained.color(cameras, frame)))
    return list(lines.values())


def scenes_summary(rows: list[dict[str, Any]]) -> str:
    """A table for the terminal."""
    width = max(len(str(row["name"])) for row in rows)
    lines = [
        f"{'run':<{width}}      PSNR    SSIM  minutes   steps  parameters    packed"
        "  checkpoint      view   memory"
    ]
    lines += [
        f"{row['name']:<{width}}  {row['psnr']:5.2f} dB  {row['ssim']:6.4f}  {row['minutes']:7.2f}"
        f"  {row['steps']:6,}  {row['parameters']:10,}  {row['packed_bytes'] / 1e6:5.2f} MB"
        f"  {row['checkpoint_bytes'] / 1e6:7.1f} MB  {row['view_seconds']:6.3f} s"
        f"  {row['peak_bytes'] / 1e6:4.0f} MB"
        for row in rows
    ]
    return "\n".join([*lines, f"({torch.get_num_threads()} threads)"])


def _measure(scene: Path, name: str, field: str, budget: str, seed: int, out: Path) -> SceneRow:
    number, unit = budget.split()
    run = out / f"{name}-{field}-{number}-{unit}-{seed}"
    arguments = ["train", str(scene), "--out", str(run), "--field", field, "--no-report"]
    arguments += ["--resume", f"--{unit}", number, "--seed", str(seed)]
    process = run_measured(arguments)
    measured = evaluate(Eval(run))
    packed = _packed_bytes(load_shown(run, choose_device("auto")))
    resolution = measured.protocol["resolution"]
    return SceneRow(
        name=run.name,
        scene=name,
        field=field,
        budget=budget,
        seed=seed,
        minutes=process.result["seconds"] / 60,
        steps=process.result["steps"],
        psnr=measured.psnr,
        ssim=measured.ssim,
        constant_psnr=measured.constant_psnr,
        parameters=process.result["parameters"],
        packed_bytes=packed,
        checkpoint_bytes=Path(process.result["checkpoint"]).stat().st_size,
        view_seconds=measured.seconds_per_view,
        view_size=", ".join(map(str, resolution)) if isinstance(resolution, list) else "",
        peak_bytes=process.peak_bytes,
    )


def _packed_bytes(trained: Shown) -> int:
    """Of a field as halves, packed; of Gaussians as SPZ."""
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(trained, TrainedSplats):
            file = Path(folder, "scene.spz")
            write_run_splats(trained, file)
            return file.stat().st_size
        packed = 0
        for part, learned in trained.parts.items() if isinstance(trained, Trained) else ():
            exact = placed_tensors(learned)
            packed += write_compact(Path(folder, part), learned.state_dict(), {}, exact)
    return packed


def _read_rows(path: Path) -> dict[tuple[str, str, str, int], SceneRow]:
    """What was measured before. InputError for a file that this bench did not write."""
    if not path.exists():
        return {}
    try:
        rows = [SceneRow(**row) for row in parse_json(read_plain(path, MOST_BYTES))]
        return {(row.scene, row.field, row.budget, row.seed): row for row in rows}
    except (TypeError, ValueError) as error:
        raise InputError(str(path), "no rows of this bench", "another folder for --out") from error
