"""How fast Gaussians are drawn and trained: against plain torch, by their number, of a run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from torch import Tensor
from torch.nn.functional import normalize

from polyfield.apps.bench_race import Race, Row
from polyfield.apps.device import choose_device
from polyfield.apps.images import scene_images
from polyfield.apps.settings import scene_of
from polyfield.apps.shown import load_shown
from polyfield.apps.splat_task import USUAL_STEPS, SplatTask
from polyfield.apps.trained import orbit_cameras
from polyfield.apps.trained_splats import TrainedSplats, build_splats
from polyfield.cuda.errors import InputError
from polyfield.cuda.splat_project import Projected, SplatCamera, splat_project
from polyfield.cuda.splat_raster import Drawn, splat_raster, splat_raster_reference
from polyfield.cuda.ssim import image_error
from polyfield.fields.splats import Splats
from polyfield.render.paths import turntable
from polyfield.render.splats import splat_view

COUNT, SIDE = 2_000, 200
REFERENCE_SECONDS = 60.0  # that the reference may take
GROWTH, GROWTH_SIDE = (50_000, 100_000, 200_000, 400_000), 400
STEPS = 20  # of training, in a round
FILLS = 0.7  # of the image's height


def ball(count: int, side: int, seed: int = 0) -> tuple[Splats, SplatCamera]:
    """Flat Gaussians that tile a sphere of radius 1, some faint and some opaque, and a camera."""
    random = torch.Generator().manual_seed(seed)
    outward = normalize(torch.randn(count, 3, generator=random), dim=1)
    turns = torch.cat([1 + outward[:, 2:], -outward[:, 1:2], outward[:, :1], 0 * outward[:, :1]], 1)
    apart = (4 * torch.pi / count) ** 0.5
    widths = torch.tensor([0.7 * apart, 0.7 * apart, 0.1 * apart])
    opacity = torch.rand(count, generator=random) ** 2
    opacity = torch.where(torch.rand(count, generator=random) < 0.4, 1 - opacity, opacity)
    splats = Splats(
        outward + torch.tensor([0.0, 0, 4]),
        widths.log().expand(count, 3).contiguous(),
        normalize(turns, dim=1),
        opacity.clamp(0.01, 0.99).logit(),
        torch.randn(count, 1, 3, generator=random),
    )
    pose = torch.cat([torch.eye(3), torch.zeros(3, 1)], 1)
    focal = torch.full((2,), FILLS * 4 * side / 2)
    center = torch.full((2,), side / 2)
    return splats, SplatCamera(pose, focal, center, torch.zeros(4), side, side)


def seen_of(splats: Splats, camera: SplatCamera) -> Projected:
    """The Gaussians that the camera sees."""
    return splat_project(
        splats.means, splats.log_scales, splats.quaternions, splats.opacity_logits, camera
    )


def drawn_against_reference(count: int = COUNT, side: int = SIDE) -> Race:
    """Binned, sorted and drawn, three channels; what is seen is the same for both sides."""
    splats, camera = ball(count, side)
    seen = seen_of(splats, camera)
    tint = splats.harmonics[seen.rows, 0]

    def image(draw: Callable[..., Drawn]) -> tuple[Tensor, ...]:
        drawn = draw(seen, tint, side, side)
        return drawn.sums, drawn.left

    return Race(
        against="reference",
        version=f"torch {torch.__version__}",
        ours=partial(image, splat_raster),
        theirs=partial(image, splat_raster_reference),
        # A Gaussian whose opacity rounds to either side of 1 / 255 is a colour of 0.004.
        tolerance=5e-3,
    )


def splat_rows(run: Path, rounds: int) -> list[Row]:
    """What drawing Gaussians costs, in medians of `rounds`; of a run of them, on its scene.

    Drawn against plain torch, as many as that draws within a minute; drawn and their gradients, by
    their number, on the same pixels; of the run's, a training step, both ways at twice the
    photographs' size, and a view. InputError for another run, or where its scene is gone.
    """
    trained = load_shown(run, choose_device("auto"))
    if not isinstance(trained, TrainedSplats):
        raise InputError(str(run), f"a run of {trained.settings.field}", "one of Gaussians")
    return [_largest_race(rounds), *_growth(rounds), *_of_run(trained, rounds)]


def _largest_race(rounds: int) -> Row:
    """Forward alone; the reference runs once, after it has said with few how long it takes."""
    few = drawn_against_reference()
    few.ours()
    begin = perf_counter()
    few.theirs()
    many = 0.8 * REFERENCE_SECONDS / (perf_counter() - begin)
    count = int(min(max(many, 1.0), 50.0) * COUNT)
    race = drawn_against_reference(count)
    race.ours()
    ours = median(_seconds(race.ours) for _ in range(rounds))
    theirs = _seconds(race.theirs)
    name = f"splats-drawn-{count:,}/{race.against}"
    return Row(name, race.against, race.version, 1e3 * ours, 1e3 * theirs, "ms", theirs / ours)


def _growth(rounds: int) -> list[Row]:
    """Both ways, of spheres of more and more Gaussians, each as much smaller."""
    takes = []
    for count in GROWTH:
        splats, camera = ball(count, GROWTH_SIDE)
        numbers = [splats.means, splats.log_scales, splats.quaternions, splats.opacity_logits]
        learned = [number.clone().requires_grad_() for number in numbers]
        tint = splats.harmonics[:, 0].clone().requires_grad_()
        takes.append(partial(_both_ways, learned, tint, camera))
    for take in takes:
        take()
    times = [[_seconds(take) for take in takes] for _ in range(rounds)]
    return [
        Row(f"splats-both-ways-{count:,}", "", "", 1e3 * median(column), None, "ms", None)
        for count, column in zip(GROWTH, zip(*times, strict=True), strict=True)
    ]


def _both_ways(learned: list[Tensor], tint: Tensor, camera: SplatCamera) -> None:
    means, log_scales, quaternions, logits = learned
    seen = splat_project(means, log_scales, quaternions, logits, camera)
    drawn = splat_raster(seen, tint[seen.rows], camera.width, camera.height)
    (drawn.sums.mean() + drawn.left.mean()).backward()
    for tensor in (*learned, tint):
        tensor.grad = None


def _of_run(trained: TrainedSplats, rounds: int) -> list[Row]:
    settings, device = trained.settings, trained.device
    scene = scene_of(settings)
    learned = build_splats(settings, trained.gaussians.splats, device)
    task = SplatTask(learned, scene, scene_images(scene, settings.image_bytes), device)
    number = USUAL_STEPS // 2 + 1  # whole pictures, all bands; no change of their number
    poses = turntable(torch.tensor(settings.orbit["camera_to_world"]), max(2, rounds))
    size = int(settings.orbit["size"][0]), int(settings.orbit["size"][1])
    views = orbit_cameras(settings, poses, size).to(device)
    larger = orbit_cameras(settings, poses, (2 * size[0], 2 * size[1])).to(device)
    background = torch.tensor(settings.background)
    target = torch.full((2 * size[1], 2 * size[0], 3), 0.5, device=device)

    def both_ways(index: int) -> None:
        shown = splat_view(learned.gaussians, larger, index, background, depth=False)
        image_error(shown.color[None], target[None]).backward()
        for parameter in learned.gaussians.parameters():
            parameter.grad = None

    steps, both, shown = [], [], []
    for turn in (0, *range(rounds)):
        for step in range(STEPS):
            steps.append(_seconds(partial(task.step, number + step, 1e-3, USUAL_STEPS)))
        both.append(_seconds(partial(both_ways, turn)))
        shown.append(_seconds(partial(trained.color, views, turn)))
    count = f"{len(trained.gaussians):,}"
    names = {
        f"splats-step-{count}-{size[0]}x{size[1]}": steps[STEPS:],
        f"splats-both-ways-{count}-{2 * size[0]}x{2 * size[1]}": both[1:],
        f"splats-view-{count}-{size[0]}x{size[1]}": shown[1:],
    }
    return [Row(name, "", "", 1e3 * median(t), None, "ms", None) for name, t in names.items()]


def _seconds(call: Callable[[], object]) -> float:
    begin = perf_counter()
    call()
    return perf_counter() - begin
