"""`polyfield demo`: the whole way from photographs to a mesh, without any data at hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch

from polyfield.apps.demo_scene import demo_scene
from polyfield.apps.eval import measure
from polyfield.apps.formats.mesh_files import write_mesh
from polyfield.apps.formats.nerf_synthetic import write_nerf_synthetic
from polyfield.apps.images import scene_images
from polyfield.apps.option_help import optional
from polyfield.apps.progress import Progress, live_progress
from polyfield.apps.render import turntable_frames
from polyfield.apps.run_folder import RunFolder
from polyfield.apps.run_report import report_run
from polyfield.apps.run_surface import surface_of
from polyfield.apps.scene import load_scene
from polyfield.apps.terminal import say
from polyfield.apps.train import train
from polyfield.apps.train_options import Train, check
from polyfield.apps.trained import load
from polyfield.apps.video import write_video
from polyfield.cuda.errors import InputError
from polyfield.extract.mesh import Mesh
from polyfield.extract.mesh_metrics import f_score

MOST_VIEWS, MOST_SIZE = 10_000, 4096


@dataclass(frozen=True)
class Demo:
    """Make a small scene, train on it, evaluate, render and export: needs no data."""

    out: Path = Path("runs/demo")
    """Folder for the scene and the run."""
    minutes: float = 2.0
    """Time to train."""
    steps: Annotated[int | None, optional("N")] = None
    """Number of steps, instead of minutes."""
    size: int = 200
    """Pixels a side of the images."""
    views: int = 60
    """Number of images."""
    seed: int = 0
    """Seed of the cameras and of training."""


@dataclass(frozen=True)
class DemoResult:
    """Where everything lies and how good it is."""

    run: str
    report: str
    turntable: str
    mesh: str
    psnr: float
    ssim: float
    mesh_f_score: float
    """At 1 % of the diagonal, against the exact surface."""
    steps: int
    seconds: float


def demo(
    options: Demo,
    *,
    on_message: Callable[[str], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> DemoResult:
    """Render the demo scene, train, evaluate, make a turntable, a mesh and the report.

    Prints nothing. A demo that lies in the folder is replaced. Raises InputError for
    options that make no demo, or where the folder cannot be written.
    """
    tell = on_message or (lambda message: None)
    begin = time.monotonic()
    scene_folder, run_folder = options.out / "scene", options.out / "run"
    training = Train(
        scene=scene_folder,
        out=run_folder,
        minutes=None if options.steps is not None else options.minutes,
        steps=options.steps,
        seed=options.seed,
        report=False,
    )
    check(training)
    if options.views > MOST_VIEWS or options.size > MOST_SIZE:
        got = f"{options.views} views of {options.size} x {options.size}"
        raise InputError("demo scene", got, f"at most {MOST_VIEWS} of {MOST_SIZE} x {MOST_SIZE}")
    tell(f"drawing {options.views} views of the demo scene")
    made = demo_scene(options.seed, options.size, options.views)
    write_nerf_synthetic(scene_folder, made.nerf_synthetic_splits(), made.angle_x)
    truth = Mesh(made.vertices.float(), made.faces.long())
    write_mesh(scene_folder / "truth.ply", truth)
    drawn = time.monotonic()
    _forget(run_folder)
    outcome = train(training, on_message=tell, on_progress=on_progress)
    trained_at = time.monotonic()
    trained = load(run_folder, torch.device("cpu"))
    scene = load_scene(scene_folder)
    tell("measuring the held-out views")
    images = scene_images(scene, 1 << 28)
    result = measure(trained, scene, images, "test")
    tell("rendering a turntable, cutting the mesh, writing the report")
    turntable = run_folder / "renders" / "turntable.mp4"
    write_video(turntable, turntable_frames(trained, 60, samples_per_pixel=1), 30.0)
    mesh, _ = surface_of(trained, resolution=192)
    write_mesh(run_folder / "mesh.ply", mesh)
    score = f_score(mesh, truth, 0.01 * truth.diagonal()).f_score
    times = {
        "training": trained_at - drawn,
        "drawing the scene": drawn - begin,
        "evaluation, video and mesh": time.monotonic() - trained_at,
    }
    report = report_run(run_folder, trained, scene, images, result, times)
    return DemoResult(
        run=str(run_folder),
        report=str(report),
        turntable=str(turntable),
        mesh=str(run_folder / "mesh.ply"),
        psnr=result.psnr,
        ssim=result.ssim,
        mesh_f_score=score,
        steps=outcome.steps,
        seconds=time.monotonic() - begin,
    )


def demo_command(options: Demo) -> DemoResult:
    """`demo` with its messages and a live line on the terminal."""
    with live_progress() as progress:
        return demo(
            options,
            on_message=say,
            on_progress=progress,
        )


def summary(result: DemoResult) -> str:
    """What came of it."""
    return (
        f"held-out views {result.psnr:.2f} dB, SSIM {result.ssim:.4f}; mesh F-score "
        f"{result.mesh_f_score:.3f} at 1 % of the diagonal; {result.seconds:.0f} s in all.\n"
        f"open {result.report}, {result.turntable} and {result.mesh}"
    )


def _forget(run_folder: Path) -> None:
    """Makes room for the demo's run, if what lies there is one."""
    if (run_folder / "config.json").is_file():
        RunFolder.create(run_folder, {}, replace=True).close()
        (run_folder / "config.json").unlink()
