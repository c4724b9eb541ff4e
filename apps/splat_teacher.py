"""What has no photographs as what a run shows, looked at from all around: Gaussians, a fit."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch

from polyfield.apps.fit_surface import load_surface
from polyfield.apps.fitted import is_fit
from polyfield.apps.formats.splat_files import read_splat_file
from polyfield.apps.formats.splat_values import World
from polyfield.apps.scene import Scene
from polyfield.apps.settings import settings_of
from polyfield.apps.shown import Shown, load_shown
from polyfield.apps.splat_render import ANGLE, BACKGROUND, around, reach_of
from polyfield.apps.trained_splats import TrainedSplats, build_splats
from polyfield.cuda.errors import InputError
from polyfield.extract.surfels import surfels
from polyfield.fields.gaussians import GAUSSIANS, GaussianArguments
from polyfield.fields.similarity import Similarity
from polyfield.fields.splats import Splats, moved
from polyfield.fields.table import arguments_of
from polyfield.render.cameras import Cameras

SURFELS = 30_000  # of a fit, where nobody says
SIZE = (400, 400)  # of views where no photograph says
CIRCLES, ON_EACH = (-15.0, 10.0, 35.0, 60.0), 16  # degrees that cameras look down; cameras
FAR, MOST_LEVELS = 0.999, 6  # of the opacity, that the outermost of nested cubes holds; cubes
ALONE = 2.0  # times as far as most of it, up to which all of it is one object
ROOM = 1.1  # about what the finest cube holds


def load_teacher(path: Path, device: torch.device) -> Shown:
    """What a run, a fit of a mesh, or a file of Gaussians, shows. InputError where it is none."""
    if is_fit(path):
        return surfel_teacher(path, device)
    return splat_teacher(path, device) if path.is_file() else load_shown(path, device)


def splat_teacher(path: Path, device: torch.device) -> TrainedSplats:
    """A file of Gaussians, whoever wrote it, as a run. InputError where it cannot be read."""
    file = read_splat_file(path)
    if file.splats.count < 4:
        raise InputError(str(path), f"{file.splats.count} Gaussians", "four at least")
    return _looked_at(path, file.splats, file.world, device)


def surfel_teacher(
    path: Path, device: torch.device, count: int = SURFELS, seed: int = 0
) -> TrainedSplats:
    """The surface of what `polyfield fit` learned of a mesh, as a run of Gaussians, see `surfels`.

    In the mesh's frame, whose z is up. InputError for a fit of anything else, or without a surface.
    """
    mesh, fitted = load_surface(path, device)
    to_field = Similarity.from_json(fitted.settings.to_field or {})
    # In the unit cube: numbers of single precision say little of what lies far from the origin.
    two_sided = fitted.settings.target == "udf"
    splats = surfels(mesh.transformed(to_field), count, seed, two_sided)
    trained = _looked_at(path, moved(splats, to_field.inverse()), "z-up", device)
    trained.settings = replace(trained.settings, seed=seed, init=str(path))
    return trained


def _looked_at(path: Path, splats: Splats, world: World, device: torch.device) -> TrainedSplats:
    """Gaussians as a run on photographs from circles about them.

    Its unit cube holds nearly all that is opaque; where that reaches far beyond most of it, the
    finest of nested cubes holds most.
    """
    middle, reach = reach_of(splats)
    _, far = reach_of(splats, FAR)
    if far < ALONE * reach:
        levels, held = 1, far
    else:
        levels, held = min(MOST_LEVELS, 1 + math.ceil(math.log2(far / reach))), reach
    scale = 2.0**-levels / (ROOM * held)
    to_field = Similarity(scale, torch.eye(3, dtype=torch.float64), 0.5 - scale * middle)
    scene = _scene_about(path, splats, world, to_field, levels)
    arguments = GaussianArguments(splats.count, splats.degree)
    settings = settings_of(scene, GAUSSIANS, arguments_of(arguments), 0, SIZE[0] * SIZE[1], 1)
    trained = build_splats(settings, moved(splats, to_field), device)
    trained.gaussians.requires_grad_(False)
    return trained


def _scene_about(
    path: Path, splats: Splats, world: World, to_field: Similarity, levels: int
) -> Scene:
    rings = [around(splats, world, ON_EACH, ANGLE, SIZE, math.radians(a)) for a in CIRCLES]
    poses = torch.cat(rings)
    count = len(poses)
    focal = SIZE[1] / 2 / math.tan(math.radians(ANGLE) / 2)
    cameras = Cameras(
        camera_to_world=poses.double(),
        focal=torch.full((count, 2), focal, dtype=torch.float64),
        center=torch.tensor([[SIZE[0] / 2, SIZE[1] / 2]]).double().expand(count, 2).contiguous(),
        distortion=torch.zeros(count, 4, dtype=torch.float64),
        width=torch.full((count,), SIZE[0]),
        height=torch.full((count,), SIZE[1]),
        model="PINHOLE",
    )
    middle, reach = reach_of(splats)
    nearest = float((poses[:, :, 3].double() - middle).norm(dim=1).min()) - reach
    return Scene(
        name=path.stem,
        folder=path,
        kind="splats",
        frame_names=tuple(f"about-{number:03}" for number in range(count)),
        image_paths=tuple(path for _ in range(count)),
        cameras=cameras,
        splits={"train": torch.arange(count)},
        to_field=to_field,
        grid_levels=levels,
        near=max(0.0, 0.5 * nearest * to_field.scale),
        focus=0.0,
        has_alpha=True,
        mean_color=BACKGROUND,
        backdrop=None,
        notes=(),
    )
