"""What a run trained and everything needed to render it: built anew, or from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Generator

from polyfield.apps import checkpoint
from polyfield.apps.run_folder import RunFolder
from polyfield.apps.scene import Scene
from polyfield.apps.train_options import Pixel
from polyfield.cuda.errors import InputError
from polyfield.fields.radiance import Radiance
from polyfield.fields.similarity import Similarity
from polyfield.fields.table import build_field
from polyfield.render.cameras import Cameras
from polyfield.render.occupancy import OccupancyGrid, full_grid
from polyfield.render.view import View, render_bands, render_view
from polyfield.render.volume import LossKind, Sampling

GRID_RESOLUTION = 64
STEPS_ACROSS = (128, 640)  # samples along the side of the finest grid: one a pixel, within bounds
SAMPLES_PER_PIXEL = 1  # a field trained through centres shows a pixel's mean there already
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


@dataclass
class Trained:
    """A field in its unit cube with its occupancy grid and the way back to the user's frame."""

    settings: Settings
    field: Radiance
    grid: OccupancyGrid
    to_field: Similarity
    memory_bytes: int = 1 << 28
    """For rendering."""

    def view(
        self,
        cameras: Cameras,
        index: int,
        *,
        samples_per_pixel: int = SAMPLES_PER_PIXEL,
        background: Color | None = None,
    ) -> View:
        """The image of one camera (cameras in the unit cube, on the field's device).

        background: the run's own where none is given.
        """
        return render_view(
            self.field,
            self.grid,
            cameras,
            index,
            background or self.settings.background,
            self.settings.sampling,
            samples_per_pixel=samples_per_pixel,
            memory_bytes=self.memory_bytes,
        )

    def bands(
        self,
        cameras: Cameras,
        index: int,
        *,
        samples_per_pixel: int = SAMPLES_PER_PIXEL,
        normals: bool = False,
    ) -> Iterator[View]:
        """`view` from top to bottom, in bands of rows that fit into the memory."""
        return render_bands(
            self.field,
            self.grid,
            cameras,
            index,
            self.settings.background,
            self.settings.sampling,
            samples_per_pixel=samples_per_pixel,
            normals=normals,
            memory_bytes=self.memory_bytes,
        )


def settings_of(
    scene: Scene,
    field: str,
    arguments: dict[str, int],
    seed: int,
    samples_per_step: int,
    image_bytes: int,
    pixel: Pixel = "centre",
    loss: LossKind = "squared",
) -> Settings:
    """The settings of a new run on a scene."""
    train = scene.cameras.select(scene.splits["train"]).transformed(scene.to_field)
    background = BACKGROUNDS["white" if scene.has_alpha else "black"]
    if scene.backdrop is not None:
        red, green, blue = scene.backdrop
        background = red / 255, green / 255, blue / 255
    finest_side, detail = 2.0 ** (1 - scene.grid_levels), pixel_size(scene)
    return Settings(
        field=field,
        arguments=arguments,
        to_field=scene.to_field.to_json(),
        grid_levels=scene.grid_levels,
        grid_resolution=GRID_RESOLUTION,
        sampling=Sampling(
            step=max(finest_side / STEPS_ACROSS[1], min(finest_side / STEPS_ACROSS[0], detail)),
            cone=0.0 if scene.grid_levels == 1 else 1 / 256,
            near=scene.near,
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
        pixel=pixel,
        loss=loss,
    )


def pixel_size(scene: Scene) -> float:
    """Side of what a training pixel covers at the distance of the scene's middle, in the unit cube.

    The median over the training cameras: finer than that no photograph shows anything.
    """
    cameras = scene.cameras.select(scene.splits["train"]).transformed(scene.to_field)
    distance = (cameras.camera_to_world[:, :, 3] - 0.5).norm(dim=1)
    return float((distance / cameras.focal.amax(1)).median())


def read_settings(values: Any, where: str) -> Settings:
    """Settings from what a file held. InputError, naming `where`, for what no run wrote."""
    try:
        red, green, blue = values["background"]
        sampling = Sampling(**values["sampling"])
        parts = {"background": (red, green, blue), "sampling": sampling}
        settings = Settings(**{**values, **parts})
        numbers = [red, green, blue, *vars(sampling).values(), settings.seed]
        numbers += [
            settings.samples_per_step,
            settings.image_bytes,
            settings.grid_levels,
            settings.grid_resolution,
        ]
        sound = all(type(number) in (int, float) for number in numbers)
        sound = sound and settings.pixel in get_args(Pixel) and settings.loss in get_args(LossKind)
        poses = torch.tensor(settings.orbit["camera_to_world"])
        sound = sound and poses.shape[1:] == (3, 4)
        sound = sound and len(settings.orbit["focal"]) == len(settings.orbit["size"]) == 2
        sound = sound and isinstance(settings.arguments, dict) and isinstance(settings.scene, str)
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise InputError(f"{where}: settings", str(error)[:200], "those of a run") from error
    if not sound:
        raise InputError(f"{where}: settings", "of another form", "those of a run")
    return settings


def build(settings: Settings, device: torch.device) -> Trained:
    """A fresh field as the settings say. InputError where they make no sense."""
    generator = Generator().manual_seed(settings.seed)
    field = build_field(settings.field, settings.arguments, generator).to(device)
    if not 1 <= settings.grid_levels <= 8 or settings.grid_resolution not in (32, 64, 128, 256):
        got = f"{settings.grid_levels} levels of {settings.grid_resolution}"
        raise InputError("settings: occupancy grid", got, "1 to 8 levels of 32, 64, 128 or 256")
    grid = full_grid(settings.grid_levels, settings.grid_resolution, device)
    return Trained(settings, field, grid, Similarity.from_json(settings.to_field))


def load(path: Path, device: torch.device) -> Trained:
    """The field of a run's newest readable checkpoint. InputError where there is none."""
    run = RunFolder.open(path)
    saved = checkpoint.latest(run.checkpoints)
    if saved is None:
        raise InputError(str(path), "holds no checkpoint", "a run that has trained", "Train first.")
    try:
        trained = build(read_settings(saved.metadata["settings"], str(saved.path)), device)
        state = {k[6:]: v for k, v in saved.tensors.items() if k.startswith("field.")}
        trained.field.load_state_dict(state)
        trained.field.requires_grad_(False)  # so a gradient to positions costs none to the weights
        trained.grid.values.copy_(saved.tensors["grid.values"])
        trained.grid.bits.copy_(saved.tensors["grid.bits"])
    except (KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            str(saved.path), f"does not fit ({reason})", "a run's checkpoint"
        ) from error
    return trained


def orbit_cameras(
    settings: Settings, camera_to_world: torch.Tensor, size: tuple[int, int]
) -> Cameras:
    """Pinhole cameras at the given poses (unit cube) that see what the training cameras saw."""
    n = len(camera_to_world)
    width, height = size
    old = settings.orbit["size"]
    focal = settings.orbit["focal"][1] * height / old[1]
    return Cameras(
        camera_to_world=camera_to_world.float(),
        focal=torch.full((n, 2), float(focal)),
        center=torch.tensor([[width / 2, height / 2]]).expand(n, 2).contiguous(),
        distortion=torch.zeros(n, 4),
        width=torch.full((n,), width),
        height=torch.full((n,), height),
        model="PINHOLE",
    )
