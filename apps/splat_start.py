"""Where Gaussians begin: at sparse points, within silhouettes, along rays, on another field."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor

from polyfield.apps import checkpoint
from polyfield.apps.images import ImageStore
from polyfield.apps.mask_files import HALF
from polyfield.apps.run_folder import RunFolder
from polyfield.apps.scene import Scene
from polyfield.apps.settings import Settings
from polyfield.apps.shown import Shown, load_shown
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
SAME = 1e-3  # sides of the unit cube


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
    arguments = arguments_of_splats(settings, "settings")
    if resumed is not None and os.path.isfile(resumed / "config.json"):
        if saved := checkpoint.latest(RunFolder.open(resumed).checkpoints):
            return read_splats_state(saved.tensors, settings, str(saved.path)), ()
    teacher = None if settings.init is None else load_shown(Path(settings.init), device)
    splats, note = starting_splats(
        scene,
        settings,
        images,
        arguments.splats,
        arguments.degree,
        extent_of(settings),
        teacher,
    )
    return replace(splats, antialiased=settings.antialiased), (note,)


def starting_splats(
    scene: Scene,
    settings: Settings,
    images: ImageStore,
    most: int,
    degree: int,
    extent: float,
    teacher: Shown | None = None,
) -> tuple[Splats, str]:
    """The Gaussians that training begins with, in the scene's unit cube, and where they are from.

    At most `most`. On what a trained field shows, where one is given; else at the scene's sparse
    points; else, where photographs have alpha, at random within all silhouettes; else at random
    depths along rays of photographs. extent: how far about the cameras are, in sides of the cube.
    A function of the settings' seed.
    """
    random = Generator().manual_seed(settings.seed)
    count = max(4, int(SHARE * most))
    cameras = scene.cameras.transformed(scene.to_field)
    views = _spread(scene.splits["train"], LOOKS)
    if teacher is not None:
        points, colors = surface_points(teacher, count, random)
        points = scene.to_field.apply(teacher.to_field.inverse().apply(points.double())).float()
        what = "on the surface that the run shows"
    elif scene.points is not None and len(scene.points) >= FEWEST:
        points, colors = _sparse_points(scene, cameras, images, views, count, extent, random)
        what = "at the scene's sparse points"
    else:
        points, colors, what = _random_points(
            scene, cameras, images, views, count, extent, settings, random
        )
    if len(points) < 4:  # nothing is seen in common: anywhere
        points = torch.rand(count, 3, generator=random)
        colors, what = torch.full_like(points, 0.5), "at random in the scene's cube"
    look = (OPACITY, SHRINK) if settings.densify == "mcmc" else (HAZE, WHOLE)
    splats = gaussians_at(points.contiguous(), colors.clamp(0, 1), degree, *look)
    return splats, f"{len(points):,} Gaussians {what}"


def surface_points(
    teacher: Shown, count: int, random: Generator
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
    """Points where some training views of a run look at something, and their colours there.

    In the unit cube of the run; at most `count`, fewer where little is to be seen.
    """
    poses = torch.tensor(teacher.settings.orbit["camera_to_world"])
    chosen = _spread(torch.arange(len(poses)), LOOKS)
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


def _sparse_points(
    scene: Scene,
    cameras: Cameras,
    images: ImageStore,
    views: Int64[Tensor, " v"],
    count: int,
    extent: float,
    random: Generator,
) -> tuple[Tensor, Tensor]:
    found = scene.points if scene.points is not None else torch.zeros(0, 3)
    points = scene.to_field.apply(found).float()
    middle = cameras.camera_to_world[scene.splits["train"], :, 3].mean(0)
    near = (points - middle).norm(dim=1) < DEEPEST * extent  # stray ones lie anywhere
    kept = near.nonzero()[:, 0]
    kept = kept[torch.randperm(len(kept), generator=random)[:count]]
    points = points[kept]
    if scene.point_colors is not None:
        return points, scene.point_colors[kept].float() / 255
    return points, _mean_colors(scene, cameras, images, views, points)[0]


def _random_points(
    scene: Scene,
    cameras: Cameras,
    images: ImageStore,
    views: Int64[Tensor, " v"],
    count: int,
    extent: float,
    settings: Settings,
    random: Generator,
) -> tuple[Tensor, Tensor, str]:
    if not scene.has_alpha:
        points, colors = _along_rays(scene, cameras, images, views, count, extent, settings, random)
        return points, colors, "along rays of the photographs"
    side = 2.0 ** (1 - scene.grid_levels)
    found: list[Tensor] = []
    shades: list[Tensor] = []
    enough = 0
    for _ in range(DRAWS):
        points = 0.5 + side * (torch.rand(8 * count, 3, generator=random) - 0.5)
        colors, within = _mean_colors(scene, cameras, images, views, points)
        found.append(points[within])
        shades.append(colors[within])
        enough += int(within.sum())
        if enough >= count:
            break
    points, colors = torch.cat(found)[:count], torch.cat(shades)[:count]
    return points, colors, "within the silhouettes"


def _mean_colors(
    scene: Scene,
    cameras: Cameras,
    images: ImageStore,
    views: Int64[Tensor, " v"],
    points: Float[Tensor, "n 3"],
) -> tuple[Float[Tensor, "n 3"], Bool[Tensor, " n"]]:
    """The mean of the pixels that points project to, and which lie in no view's transparent part.

    Nor beside all views.
    """
    total, seen = points.new_zeros(len(points), 3), points.new_zeros(len(points))
    within = torch.ones(len(points), dtype=torch.bool)
    for frame in views.tolist():
        pixels, depth = cameras.project(torch.full((len(points),), frame), points)
        width, height = scene.sizes[frame]
        inside = (depth > 0) & (pixels >= 0).all(1)
        inside &= (pixels[:, 0] < width) & (pixels[:, 1] < height)
        column, row = pixels[inside].long().unbind(1)
        shown = images.gather(torch.full_like(row, frame), row, column)
        total[inside] += shown[:, :3].float() / 255
        seen += inside
        if scene.has_alpha:
            within[inside] &= shown[:, 3] > HALF
    colors = torch.where(seen[:, None] > 0, total / seen.clamp_min(1)[:, None], 0.5)
    return colors, within & (seen > 0)


def _along_rays(
    scene: Scene,
    cameras: Cameras,
    images: ImageStore,
    views: Int64[Tensor, " v"],
    count: int,
    extent: float,
    settings: Settings,
    random: Generator,
) -> tuple[Tensor, Tensor]:
    """At distances whose logarithm is even, from what is near to cameras to what is far of them."""
    frames = views[torch.randint(len(views), (count,), generator=random)]
    size = torch.tensor(scene.sizes)[frames]
    pixels = torch.minimum(torch.rand(count, 2, generator=random) * size, size - 1e-3)
    column, row = pixels.long().unbind(1)
    colors = images.gather(frames, row, column)[:, :3].float() / 255
    origins, directions = cameras.rays(frames, pixels.float())
    nearest = max(settings.sampling.near, 0.1 * extent)
    reach = torch.rand(count, 1, generator=random)
    distance = nearest * (max(DEEPEST * extent, 2 * nearest) / nearest) ** reach
    return origins + directions * distance, colors


def _spread(frames: Int64[Tensor, " n"], count: int) -> Int64[Tensor, " m"]:
    step = torch.linspace(0, len(frames) - 1, min(count, len(frames)))
    return frames[step.round().long()]
