"""Where Gaussians begin: at sparse points, within silhouettes, along rays, on another field."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor

from polyfield.apps import checkpoint
from polyfield.apps.images import ImageStore
from polyfield.apps.mask_files import HALF
from polyfield.apps.run_folder import RunFolder
from polyfield.apps.scene import Scene, evenly_spread
from polyfield.apps.settings import Settings
from polyfield.apps.shown import Shown
from polyfield.apps.splat_teacher import load_teacher
from polyfield.apps.trained import orbit_cameras
from polyfield.apps.trained_splats import arguments_of_splats, extent_of, read_splats_state
from polyfield.fields.gaussians import gaussians_at
from polyfield.fields.splats import Splats
from polyfield.render.cameras import Cameras

FEWEST = 16  # sparse points that say where a scene is
SHARE = 0.3  # of the Gaussians there may be at most, that there are at the beginning
LOOKS = 24  # photographs that silhouettes and colours are taken from
DRAWS = 50  # batches of random points, until enough of them lie within silhouettes
DEEPEST = 30.0  # times the extent of the cameras, of points along rays
OPACITY, SHRINK = 0.5, 0.3  # of the first Gaussians, beside the way to their neighbours
HAZE, WHOLE = 0.1, 1.0  # the same where there are to be more of them by what pulls at them


@dataclass(frozen=True, eq=False)
class _Capture:
    """What is known of a scene before there are Gaussians."""

    scene: Scene
    images: ImageStore
    cameras: Cameras
    """In the unit cube, as points are."""
    views: Int64[Tensor, " v"]
    """Frames that are looked at."""
    extent: float
    """How far about the cameras are."""
    near: float
    """How near to a camera nothing is."""
    count: int
    """Of points that are wanted."""
    random: Generator


def splats_to_train(
    settings: Settings,
    scene: Scene,
    images: ImageStore,
    device: torch.device,
    resumed: Path | None = None,
) -> tuple[Splats, tuple[str, ...]]:
    """The Gaussians of a run as it begins, or goes on from its last checkpoint; what to say of it.

    InputError where the run that they are to begin on cannot be read.
    """
    if resumed is not None and os.path.isfile(resumed / "config.json"):
        if saved := checkpoint.latest(RunFolder.open(resumed).checkpoints):
            return read_splats_state(saved.tensors, settings, str(saved.path)), ()
    teacher = None if settings.init is None else load_teacher(Path(settings.init), device)
    splats, note = starting_splats(scene, settings, images, teacher)
    return replace(splats, antialiased=settings.antialiased), (note,)


def starting_splats(
    scene: Scene, settings: Settings, images: ImageStore, teacher: Shown | None = None
) -> tuple[Splats, str]:
    """The Gaussians that training begins with, in the scene's unit cube, and where they are from.

    A part of as many as the settings allow. On what a trained field shows, where one is given; else
    at the scene's sparse points; else, where photographs have alpha, at random within all
    silhouettes; else at random depths along rays of photographs. A function of the settings' seed.
    InputError for settings of another field.
    """
    arguments = arguments_of_splats(settings, "settings")
    capture = _Capture(
        scene,
        images,
        scene.cameras.transformed(scene.to_field),
        evenly_spread(scene.splits["train"], LOOKS),
        extent_of(settings),
        settings.sampling.near,
        max(4, int(SHARE * arguments.splats)),
        Generator().manual_seed(settings.seed),
    )
    if teacher is not None:
        points, colors = surface_points(teacher, capture.count, capture.random)
        points = scene.to_field.apply(teacher.to_field.inverse().apply(points.double())).float()
        what = "on the surface that the run shows"
    elif scene.points is not None and len(scene.points) >= FEWEST:
        points, colors = _sparse_points(capture, scene.points)
        what = "at the scene's sparse points"
    elif scene.has_alpha:
        points, colors = _within_silhouettes(capture)
        what = "within the silhouettes"
    else:
        points, colors = _along_rays(capture)
        what = "along rays of the photographs"
    if len(points) < 4:  # nothing is seen in common: anywhere
        points = torch.rand(capture.count, 3, generator=capture.random)
        colors, what = torch.full_like(points, 0.5), "at random in the scene's cube"
    look = (OPACITY, SHRINK) if settings.densify == "mcmc" else (HAZE, WHOLE)
    splats = gaussians_at(points.contiguous(), colors.clamp(0, 1), arguments.degree, *look)
    return splats, f"{len(points):,} Gaussians {what}"


def surface_points(
    teacher: Shown, count: int, random: Generator
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
    """Points where some training views of a run look at something, and their colours there.

    In the unit cube of the run; at most `count`, fewer where little is to be seen.
    """
    poses = torch.tensor(teacher.settings.orbit["camera_to_world"])
    chosen = evenly_spread(torch.arange(len(poses)), LOOKS)
    width, height = teacher.settings.orbit["size"]
    cameras = orbit_cameras(teacher.settings, poses[chosen], (int(width), int(height)))
    cameras = cameras.to(teacher.device)
    share = -(-2 * count // len(cameras))
    points, colors = [], []
    for index in range(len(cameras)):
        view = teacher.view(cameras, index)
        places = (view.opacity >= 0.5).nonzero().cpu()
        if not len(places):
            continue
        some = torch.randint(len(places), (share,), generator=random)
        row, column = places[some].to(teacher.device).unbind(1)
        pixels = torch.stack([column, row], 1) + 0.5
        origins, directions = cameras.rays(torch.full_like(row, index), pixels)
        points.append((origins + directions * view.depth[row, column][:, None]).cpu())
        colors.append(view.color[row, column].cpu())
    if not points:
        return torch.zeros(0, 3), torch.zeros(0, 3)
    every, shown = torch.cat(points), torch.cat(colors)
    some = torch.randperm(len(every), generator=random)[:count]
    return every[some], shown[some]


def _sparse_points(capture: _Capture, found: Float[Tensor, "p 3"]) -> tuple[Tensor, Tensor]:
    scene, random = capture.scene, capture.random
    points = scene.to_field.apply(found).float()
    middle = capture.cameras.camera_to_world[scene.splits["train"], :, 3].mean(0)
    near = (points - middle).norm(dim=1) < DEEPEST * capture.extent  # stray ones lie anywhere
    kept = near.nonzero()[:, 0]
    kept = kept[torch.randperm(len(kept), generator=random)[: capture.count]]
    points = points[kept]
    if scene.point_colors is not None:
        return points, scene.point_colors[kept].float() / 255
    return points, _mean_colors(capture, points)[0]


def _within_silhouettes(capture: _Capture) -> tuple[Tensor, Tensor]:
    count, side = capture.count, 2.0 ** (1 - capture.scene.grid_levels)
    found: list[Tensor] = []
    shades: list[Tensor] = []
    enough = 0
    for _ in range(DRAWS):
        points = 0.5 + side * (torch.rand(8 * count, 3, generator=capture.random) - 0.5)
        colors, within = _mean_colors(capture, points)
        found.append(points[within])
        shades.append(colors[within])
        enough += int(within.sum())
        if enough >= count:
            break
    return torch.cat(found)[:count], torch.cat(shades)[:count]


def _mean_colors(
    capture: _Capture, points: Float[Tensor, "n 3"]
) -> tuple[Float[Tensor, "n 3"], Bool[Tensor, " n"]]:
    """The mean of the pixels that points project to, and which lie in no view's transparent part.

    Nor beside all views.
    """
    scene = capture.scene
    total, seen = points.new_zeros(len(points), 3), points.new_zeros(len(points))
    within = torch.ones(len(points), dtype=torch.bool)
    for frame in capture.views.tolist():
        pixels, depth = capture.cameras.project(torch.full((len(points),), frame), points)
        width, height = scene.sizes[frame]
        inside = (depth > 0) & (pixels >= 0).all(1)
        inside &= (pixels[:, 0] < width) & (pixels[:, 1] < height)
        column, row = pixels[inside].long().unbind(1)
        shown = capture.images.gather(torch.full_like(row, frame), row, column)
        total[inside] += shown[:, :3].float() / 255
        seen += inside
        if scene.has_alpha:
            within[inside] &= shown[:, 3] > HALF
    colors = torch.where(seen[:, None] > 0, total / seen.clamp_min(1)[:, None], 0.5)
    return colors, within & (seen > 0)


def _along_rays(capture: _Capture) -> tuple[Tensor, Tensor]:
    """At distances whose logarithm is even, from what is near to cameras to what is far of them."""
    count, views, random = capture.count, capture.views, capture.random
    frames = views[torch.randint(len(views), (count,), generator=random)]
    size = torch.tensor(capture.scene.sizes)[frames]
    pixels = torch.minimum(torch.rand(count, 2, generator=random) * size, size - 1e-3)
    column, row = pixels.long().unbind(1)
    colors = capture.images.gather(frames, row, column)[:, :3].float() / 255
    origins, directions = capture.cameras.rays(frames, pixels.float())
    nearest = max(capture.near, 0.1 * capture.extent)
    reach = torch.rand(count, 1, generator=random)
    distance = nearest * (max(DEEPEST * capture.extent, 2 * nearest) / nearest) ** reach
    return origins + directions * distance, colors
