"""What a run trained and everything needed to render it: built anew, or from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from polyfield.apps import checkpoint
from polyfield.apps.formats.json_fields import LARGEST, Fields
from polyfield.apps.image_files import MOST_PIXELS
from polyfield.apps.run_folder import RunFolder
from polyfield.apps.scene import Scene, load_scene
from polyfield.apps.train_options import MOST_DISTORTION, Pixel
from polyfield.cuda.errors import InputError
from polyfield.fields.field import TrainableField
from polyfield.fields.proposal import ProposalNetwork
from polyfield.fields.similarity import Similarity
from polyfield.fields.table import FIELDS, build_field
from polyfield.render.cameras import Cameras
from polyfield.render.importance import Importance
from polyfield.render.losses import LossKind
from polyfield.render.occupancy import OccupancyGrid, full_grid
from polyfield.render.proposal import Proposal
from polyfield.render.samplers import Guide, SamplerKind
from polyfield.render.view import View, render_bands, render_view
from polyfield.render.volume import Sampling

GRID_RESOLUTION = 64
PROPOSAL_RESOLUTION = 128  # along the side of the finest grid
STEPS_ACROSS = (128, 640)  # samples along the side of the finest grid: one a pixel, within bounds
CONE = 1 / 96  # growth of steps with distance where cubes are nested
SAMPLES_PER_PIXEL = 1  # a field trained through centres shows a pixel's mean there already
MOST_SAMPLES_PER_PIXEL = 1024
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


@dataclass
class Trained:
    """A field in its unit cube with its occupancy grid and the way back to the user's frame."""

    settings: Settings
    field: TrainableField
    grid: OccupancyGrid
    to_field: Similarity
    proposal: ProposalNetwork | None = None
    """Where samples lie, if that is learned."""
    memory_bytes: int = 1 << 28
    """For rendering."""

    @property
    def guide(self) -> Guide:
        """What says where samples lie along rays."""
        # Nested grids mean that there is more to see than what is looked at.
        far = self.settings.grid_levels > 1
        if self.proposal is not None:
            return Proposal(self.proposal, disparity=far)
        return Importance(disparity=far) if self.settings.sampler == "importance" else self.grid

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
            self.guide,
            cameras,
            index,
            background or self.settings.background,
            self.settings.sampling,
            samples_per_pixel=samples_per_pixel,
            memory_bytes=self.memory_bytes,
        )

    def color(
        self,
        cameras: Cameras,
        index: int,
        *,
        samples_per_pixel: int = SAMPLES_PER_PIXEL,
        background: Color | None = None,
    ) -> Float[Tensor, "height width 3"]:
        """The colour of `view`, on the CPU: nothing else of a large view is ever held whole."""
        image = torch.empty(int(cameras.height[index]), int(cameras.width[index]), 3)
        top = 0
        for band in render_bands(
            self.field,
            self.guide,
            cameras,
            index,
            background or self.settings.background,
            self.settings.sampling,
            samples_per_pixel=samples_per_pixel,
            memory_bytes=self.memory_bytes,
        ):
            image[top : top + len(band.color)] = band.color
            top += len(band.color)
        return image

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
            self.guide,
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
    images: str | None = None,
    sampler: SamplerKind = "occupancy",
    distortion: float = 0.0,
) -> Settings:
    """The settings of a new run on a scene."""
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
            step=coarser
            * max(finest_side / STEPS_ACROSS[1], min(finest_side / STEPS_ACROSS[0], detail)),
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
        pixel=pixel,
        loss=loss,
        images=images,
        sampler=sampler,
        distortion=distortion,
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
    for key, known in (("pixel", get_args(Pixel)), ("loss", get_args(LossKind)), ("field", FIELDS)):
        if found.text(key) not in known:
            raise found.refuse(key, f"one of {', '.join(known)}")
    # Runs of earlier versions knew neither.
    if found.values.get("sampler", "occupancy") not in get_args(SamplerKind):
        raise found.refuse("sampler", f"one of {', '.join(get_args(SamplerKind))}")
    if "distortion" in found.values:
        found.real("distortion", 0.0, MOST_DISTORTION)
    if found.text("scene") is None:
        raise found.refuse("scene", "a folder's path")
    found.text("images")
    found.part("to_field")
    arguments = found.part("arguments")
    for name in arguments.values:
        arguments.whole(name, 0, 1 << 20)
    try:
        poses = torch.tensor(orbit.items("camera_to_world"), dtype=torch.float64)
        gram = poses[:, :, :3].mT @ poses[:, :, :3]
        sound = poses.shape[1:] == (3, 4) and bool(poses.float().isfinite().all())
        sound = sound and float((gram - torch.eye(3)).abs().max()) < 1e-3
    except (TypeError, ValueError, RuntimeError, IndexError, OverflowError):
        sound = False
    if not sound:
        raise orbit.refuse("camera_to_world", "poses: 3 rows of 4 numbers each, a rotation first")
    steps: dict[str, Any] = sampling.values
    others: dict[str, Any] = {k: v for k, v in found.values.items() if k != "sampling"}
    others["background"] = tuple(color)
    try:
        return Settings(sampling=Sampling(**steps), **others)
    except TypeError as error:  # a name that is missing or unknown
        raise InputError(found.where, str(error)[:200], "those of a run") from error


def build(settings: Settings, device: torch.device) -> Trained:
    """A fresh field as the settings say. InputError where they make no sense.

    On the device "meta" it takes no memory, whatever sizes a file asks for, and has no values.
    """
    meta = device.type == "meta"
    generator = None if meta else Generator().manual_seed(settings.seed)
    with device if meta else nullcontext():
        field = build_field(settings.field, settings.arguments, generator)
        proposal = None
        if settings.sampler == "proposal":
            nested = settings.grid_levels if settings.grid_levels > 1 else 0
            proposal = ProposalNetwork(
                PROPOSAL_RESOLUTION * (2 if nested else 1), nested, generator=generator
            ).to(device)
    field = field.to(device)
    if settings.grid_resolution not in (32, 64, 128, 256):
        got = f"{settings.grid_resolution}"
        raise InputError("settings.grid_resolution", got, "32, 64, 128 or 256")
    grid = full_grid(settings.grid_levels, settings.grid_resolution, device)
    return Trained(settings, field, grid, Similarity.from_json(settings.to_field), proposal)


def load(path: Path, device: torch.device) -> Trained:
    """The field of a run's newest readable checkpoint. InputError where there is none."""
    run = RunFolder.open(path)
    saved = checkpoint.latest(run.checkpoints)
    if saved is None:
        raise InputError(str(path), "holds no checkpoint", "a run that has trained", "Train first.")
    where = str(saved.path)
    settings = read_settings(saved.metadata.get("settings"), where)
    blank = build(settings, torch.device("meta"))
    expected = {f"field.{name}": tensor for name, tensor in blank.field.state_dict().items()}
    expected |= {"grid.values": blank.grid.values, "grid.bits": blank.grid.bits}
    if blank.proposal is not None:
        expected |= {f"proposal.{k}": v for k, v in blank.proposal.state_dict().items()}
    found = {k: v for k, v in saved.tensors.items() if not k.startswith("optimiser.")}
    check_tensors(found, expected, where)
    trained = build(settings, device)
    trained.field.load_state_dict(part_of(found, "field."))
    if trained.proposal is not None:
        trained.proposal.load_state_dict(part_of(found, "proposal."))
        trained.proposal.requires_grad_(False)
    trained.field.requires_grad_(False)  # so a gradient to positions costs none to the weights
    trained.grid.values.copy_(found["grid.values"])
    trained.grid.bits.copy_(found["grid.bits"])
    return trained


def part_of(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, by the rest of their names."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def check_tensors(found: dict[str, Tensor], expected: dict[str, Tensor], where: str) -> None:
    """Refuse tensors of a file that are not, by name, shape, type and finite values, as expected.

    Raises InputError, naming `where` and the first one.
    """
    for name in sorted(found.keys() | expected.keys()):
        wanted = f"{_form(expected[name])}" if name in expected else "no such tensor"
        got = f"{_form(found[name])}" if name in found else "missing"
        if got == wanted and found[name].is_floating_point():
            got = got if bool(found[name].isfinite().all()) else "values that are not finite"
        if got != wanted:
            raise InputError(f"{where}: tensor {name[:80]!r}", got, wanted)


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"


def check_samples_per_pixel(count: int) -> None:
    """InputError for what the option --samples-per-pixel cannot mean, before anything is done."""
    if not 1 <= count <= MOST_SAMPLES_PER_PIXEL:
        got = str(count)[:80]
        raise InputError("--samples-per-pixel", got, f"1 to {MOST_SAMPLES_PER_PIXEL}")


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
