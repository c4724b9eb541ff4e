"""What rebuilds a field without its scene: chosen for a scene, or read from a run's files."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field as attribute
from pathlib import Path
from typing import Any, get_args

import torch

from polyfield.apps.formats.json_fields import LARGEST, Fields
from polyfield.apps.image_files import MOST_PIXELS
from polyfield.apps.scene import Scene, load_scene
from polyfield.apps.schedule import MOST_STEPS
from polyfield.apps.train_options import (
    MOST_DISTORTION,
    MOST_HARD,
    Densify,
    Networks,
    Pixel,
    Surface,
)
from polyfield.cuda.errors import InputError
from polyfield.fields.gaussians import GAUSSIANS
from polyfield.fields.nested_numbers import has_shape
from polyfield.fields.ray_distribution import RAY_DISTRIBUTION
from polyfield.fields.table import FIELDS
from polyfield.fields.warp import build_warp
from polyfield.render.losses import LossKind
from polyfield.render.samplers import SamplerKind
from polyfield.render.volume import Sampling

GRID_RESOLUTION = 64
STEPS_ACROSS = (128, 640)  # samples along the side of the finest grid: one a pixel, within bounds
CONE = 1 / 96  # growth of steps with distance where cubes are nested
MOST_GAUSSIANS = 1 << 26  # that a file may ask for
MOST_PHOTOGRAPHS = 1 << 20  # whose exposures a file may ask for
Color = tuple[float, float, float]  # sRGB, 0 to 1
BACKGROUNDS: dict[str, Color] = {"white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0)}


@dataclass(frozen=True)
class Settings:
    """What rebuilds a field without its scene: plain values, in config.json and checkpoints."""

    field: str
    arguments: dict[str, int]
    to_field: dict
    grid_levels: int
    grid_resolution: int
    sampling: Sampling
    background: Color
    """Colour behind the field when it is shown."""
    orbit: dict
    """Training poses in the unit cube, focal length and size: what a turntable follows."""
    scene: str
    seed: int
    samples_per_step: int
    image_bytes: int
    """Of the cache of photographs: it decides which of them a step can draw from."""
    pixel: Pixel = "centre"
    """Where training rays go through their pixels."""
    loss: LossKind = "squared"
    """What training minimises."""
    images: str | None = None
    """Folder in the scene whose copies of the photographs are used, where somebody chose one."""
    sampler: SamplerKind = "occupancy"
    """Where samples lie along rays, in training and in views."""
    distortion: float = 0.0
    """Weight of the distortion loss."""
    hard_rays: float = 0.0
    """Part of a batch that are rays which were wrong before, once enough of them are known."""
    total_variation: float = 0.0
    """Weight of the roughness of planes."""
    depth: float = 0.0
    """Weight of what depth images say."""
    learned_background: bool = False
    """What lies behind the field is learned by direction, from `background` on."""
    exposures: int = 0
    """Photographs whose exposure is learned; 0 where all count as alike."""
    surface: Surface = "none"
    """How the field's density follows from a distance, where it does."""
    eikonal: float = 0.0
    """Weight of the error of slopes of distances."""
    curvature: float = 0.0
    """Weight of the curvature of distances."""
    coarse_to_fine: int = 0
    """Steps over which the levels of a surface's hash grid open; 0: all at once."""
    networks: Networks = "polyfield"
    """Whose kernels train the grid and the networks."""
    densify: Densify = "mcmc"
    """How the number of Gaussians changes."""
    antialiased: bool = False
    """Gaussians keep their light where they are smaller than a pixel."""
    poses: int = 0
    """Photographs whose poses are refined; 0 where they are taken as they are."""
    init: str | None = None
    """Run on whose surface Gaussians began."""
    warp: dict = attribute(default_factory=dict)
    """What the field does with positions before it encodes them, see `build_warp`."""

    @property
    def taken(self) -> str:
        """What a step takes some of."""
        return {GAUSSIANS: "pixels", RAY_DISTRIBUTION: "rays"}.get(self.field, "samples")


def settings_of(
    scene: Scene,
    field: str,
    arguments: dict[str, int],
    seed: int,
    samples_per_step: int,
    image_bytes: int,
) -> Settings:
    """The settings of a new run on a scene, all that a user may choose as it is by default."""
    train = scene.cameras.select(scene.splits["train"]).transformed(scene.to_field)
    # Behind photographs lies their mean colour: another would be covered, and at first by fog right
    # before the cameras.
    background = BACKGROUNDS["white"] if scene.has_alpha else scene.mean_color
    if scene.backdrop is not None:
        red, green, blue = scene.backdrop
        background = red / 255, green / 255, blue / 255
    least, most = STEPS_ACROSS
    coarser = 1.0 if scene.grid_levels == 1 else CONE * 256
    finest_side, detail = 2.0 ** (1 - scene.grid_levels), pixel_size(scene)
    return Settings(
        field=field,
        arguments=arguments,
        to_field=scene.to_field.to_json(),
        grid_levels=scene.grid_levels,
        grid_resolution=GRID_RESOLUTION,
        sampling=Sampling(
            step=coarser * max(finest_side / most, min(finest_side / least, detail)),
            cone=0.0 if scene.grid_levels == 1 else CONE,
            near=scene.near,
            fade=scene.focus,
        ),
        background=background,
        orbit={
            "camera_to_world": train.camera_to_world.tolist(),
            "focal": train.focal[0].tolist(),
            "size": [int(train.width[0]), int(train.height[0])],
        },
        scene=str(scene.folder),
        seed=seed,
        samples_per_step=samples_per_step,
        image_bytes=image_bytes,
    )


def scene_of(settings: Settings, folder: Path | None = None) -> Scene:
    """The scene that a run was trained on, from the same copies of its photographs.

    folder: where it lies now, if no longer where the settings say. InputError as load_scene.
    """
    return load_scene(folder or Path(settings.scene), settings.images)


def pixel_size(scene: Scene) -> float:
    """Side of what a training pixel covers at the distance of the scene's middle, in the unit cube.

    The median over the training cameras: finer than that no photograph shows anything.
    """
    cameras = scene.cameras.select(scene.splits["train"]).transformed(scene.to_field)
    distance = (cameras.camera_to_world[:, :, 3] - 0.5).norm(dim=1)
    # From the middle itself one looks at what stands around: past the finest grid.
    distance = torch.where(distance < 1e-6, 2.0**-scene.grid_levels, distance)
    return float((distance / cameras.focal.amax(1)).median())


def read_settings(values: Any, where: str) -> Settings:
    """Settings from what a file held. InputError, naming `where`, for what no run wrote."""
    found = Fields(f"{where}:", {"settings": values}).part("settings")
    sampling, orbit = found.part("sampling"), found.part("orbit")
    sampling.real("step", 1e-6, 1.0)
    sampling.real("cone", 0.0, 1.0)
    sampling.real("near", 0.0, LARGEST)
    if "fade" in sampling:
        sampling.real("fade", 0.0, LARGEST)
    if "pixel" in sampling:
        sampling.real("pixel", 0.0, 0.0)  # it depends on the camera
    sampling.flag("pieces")
    if "limit" in sampling:
        sampling.whole("limit", 1, 1 << 16)
    found.whole("grid_levels", 1, 8)
    found.whole("grid_resolution", 32, 256)
    found.whole("seed", 0, 2**63 - 1)
    found.whole("samples_per_step", 1, 1 << 24)
    found.whole("image_bytes", 1, 1 << 50)
    color, focal = found.numbers("background", 3), orbit.numbers("focal", 2)
    if color is None or not all(0 <= value <= 1 for value in color):
        raise found.refuse("background", "3 numbers from 0 to 1")
    if focal is None or min(focal) <= 0:
        raise orbit.refuse("focal", "2 numbers above 0")
    size = orbit.numbers("size", 2) or [0, 0]
    if not all(side >= 1 and side % 1 == 0 for side in size) or size[0] * size[1] > MOST_PIXELS:
        raise orbit.refuse("size", f"width and height of at most {MOST_PIXELS:,} pixels")
    kinds_of_field = (*FIELDS, GAUSSIANS, RAY_DISTRIBUTION)
    required: dict[str, tuple[str, ...]] = {
        "pixel": get_args(Pixel),
        "loss": get_args(LossKind),
        "field": kinds_of_field,
    }
    for key, known in required.items():
        if found.text(key) not in known:
            raise found.refuse(key, f"one of {', '.join(known)}")
    # Runs of earlier versions knew none of what follows.
    later: dict[str, tuple[str, ...]] = {
        "sampler": get_args(SamplerKind),
        "networks": get_args(Networks),
        "surface": get_args(Surface),
        "densify": get_args(Densify),
    }
    for key, kinds in later.items():
        if found.values.get(key, kinds[0]) not in kinds:
            raise found.refuse(key, f"one of {', '.join(kinds)}")
    if "distortion" in found.values:
        found.real("distortion", 0.0, MOST_DISTORTION)
    if "hard_rays" in found.values:
        found.real("hard_rays", 0.0, MOST_HARD)
    for key in ("depth", "total_variation", "eikonal", "curvature"):
        if key in found.values:
            found.real(key, 0.0, MOST_DISTORTION)
    for key in ("learned_background", "antialiased"):
        if type(found.values.get(key, False)) is not bool:
            raise found.refuse(key, "true or false")
    if "coarse_to_fine" in found.values:
        found.whole("coarse_to_fine", 0, MOST_STEPS)
    for key in ("exposures", "poses"):
        if key in found.values:
            found.whole(key, 0, MOST_PHOTOGRAPHS)
    if found.text("scene") is None:
        raise found.refuse("scene", "a folder's path")
    found.text("images")
    found.text("init")
    found.part("to_field")
    if "warp" in found.values:
        values = found.part("warp").values
        try:
            build_warp(values)
        except InputError as error:
            raise found.refuse("warp", "a contraction, a projection or nothing") from error
    arguments = found.part("arguments")
    for name in arguments.values:
        arguments.whole(name, 0, MOST_GAUSSIANS if name == "splats" else 1 << 20)
    if not _are_poses(orbit.items("camera_to_world")):
        raise orbit.refuse("camera_to_world", "poses: 3 rows of 4 numbers each, a rotation first")
    steps: dict[str, Any] = sampling.values
    others: dict[str, Any] = {k: v for k, v in found.values.items() if k != "sampling"}
    others["background"] = tuple(color)
    try:
        return Settings(sampling=Sampling(**steps), **others)
    except TypeError as error:  # a name that is missing or unknown
        raise InputError(found.where, str(error)[:200], "those of a run") from error


def _are_poses(values: list[Any] | None) -> bool:
    """Whether these are rotations, each with a position: [n, 3, 4], one at least."""
    if not values or not has_shape(values, (None, 3, 4)):
        return False
    try:
        poses = torch.tensor(values, dtype=torch.float64)
    except (RuntimeError, OverflowError):  # whole numbers beyond every float
        return False
    gram = poses[:, :, :3].mT @ poses[:, :, :3]
    orthonormal = float((gram - torch.eye(3)).abs().max()) < 1e-3
    return orthonormal and bool(poses.float().isfinite().all())
