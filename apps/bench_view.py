"""How long a trained run takes to show a view it has not seen."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from time import perf_counter

import torch

from polyfield.apps.bench_race import Row
from polyfield.apps.device import choose_device
from polyfield.apps.shown import load_shown
from polyfield.apps.trained import orbit_cameras
from polyfield.apps.trained_splats import TrainedSplats
from polyfield.render.paths import turntable

RAYS = (1, 4)  # a pixel


def view_seconds(run: Path, rounds: int) -> list[Row]:
    """Seconds of one view at the photographs' size, with one ray a pixel and with four.

    Of Gaussians, which are not asked along rays, with one alone.
    Medians over `rounds` views of a turn around the subject, after one that only warms. Reading the
    run is not counted. InputError where it holds no checkpoint.
    """
    trained = load_shown(run, choose_device("auto"))
    poses = turntable(torch.tensor(trained.settings.orbit["camera_to_world"]), rounds)
    size = tuple(trained.settings.orbit["size"])
    device = trained.device
    cameras = orbit_cameras(trained.settings, poses, size).to(device)
    rows = []
    for rays in (1,) if isinstance(trained, TrainedSplats) else RAYS:
        times = []
        for index in (0, *range(rounds)):
            begin = perf_counter()
            trained.view(cameras, index, samples_per_pixel=rays).color.cpu()
            times.append(perf_counter() - begin)
        name = f"view-{size[0]}x{size[1]}/{rays}-{'ray' if rays == 1 else 'rays'}-a-pixel"
        rows.append(Row(name, "", "", median(times[1:]), None, "s", None))
    return rows
