"""What a run trained and everything needed to render it: built anew, or from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from polyfield.apps import checkpoint
from polyfield.apps.checkpoint import Saved
from polyfield.apps.run_folder import RunFolder
from polyfield.apps.settings import Color, Settings, read_settings
from polyfield.cuda.errors import InputError
from polyfield.fields.appearance import InLightOf
from polyfield.fields.coarse_to_fine import CoarseToFine
from polyfield.fields.contraction import Contraction
from polyfield.fields.environment import Environment
from polyfield.fields.field import Part, RadianceField, TrainableField
from polyfield.fields.gaussians import GAUSSIANS
from polyfield.fields.open_surface import OpenSurfaceRadiance
from polyfield.fields.proposal import ProposalNetwork
from polyfield.fields.radiance import Radiance
from polyfield.fields.ray_distribution import RAY_DISTRIBUTION
from polyfield.fields.similarity import Similarity
from polyfield.fields.surface_radiance import SurfaceRadiance
from polyfield.fields.table import build_field
from polyfield.fields.tri_plane import Planes
from polyfield.fields.warp import build_warp
from polyfield.render.cameras import Cameras
from polyfield.render.cones import pixel_radius
from polyfield.render.exposure import Exposure
from polyfield.render.importance import Importance
from polyfield.render.light import Light
from polyfield.render.nerfacc_callbacks import FieldAlongRays
from polyfield.render.occupancy import OccupancyGrid, full_grid
from polyfield.render.proposal import Proposal
from polyfield.render.samplers import Guide
from polyfield.render.view import Background, View, render_bands, render_view
from polyfield.render.volume import Sampling

PROPOSAL_RESOLUTION = 128  # along the side of the finest grid
SPHERE = 0.3  # of the finest grid's side: radius of what surfaces begin as
SAMPLES_PER_PIXEL = 1  # a field trained through centres shows a pixel's mean there already
MOST_SAMPLES_PER_PIXEL = 1024


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
    environment: Environment | None = None
    """What lies behind the field, if that is learned."""
    exposure: Exposure | None = None
    """Of each training photograph, if that is learned."""

    @property
    def parts(self) -> dict[str, Part]:
        """All that is learned, by name."""
        parts = {
            "field": self.field,
            "proposal": self.proposal,
            "environment": self.environment,
            "exposure": self.exposure,
        }
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.grid.bits.device

    @property
    def parameters(self) -> int:
        """How many numbers were learned for the field."""
        return sum(p.numel() for _, p in self.field.named_parameters())

    @property
    def has_light(self) -> bool:
        """Whether views depend on a photograph's light."""
        return self.exposure is not None or self.field.codes is not None

    @property
    def background(self) -> Background:
        """What lies behind the field: one colour, or one for each direction."""
        return self.settings.background if self.environment is None else self.environment

    @property
    def guide(self) -> Guide:
        """What says where samples lie along rays."""
        # Nested grids mean that there is more to see than what is looked at.
        far = self.settings.grid_levels > 1
        if self.proposal is not None:
            return Proposal(self.proposal, disparity=far)
        return Importance(disparity=far) if self.settings.sampler == "importance" else self.grid

    def sampling_of(self, cameras: Cameras, index: int) -> Sampling:
        """How the rays of a camera of the unit cube are cut: lines, or the cones behind pixels."""
        if not self.field.cones:
            return self.settings.sampling
        return replace(self.settings.sampling, pixel=float(pixel_radius(cameras.focal)[index]))

    def along(self, origins: Tensor, directions: Tensor) -> FieldAlongRays:
        """The field along rays of the user's frame, as the callbacks that nerfacc takes.

        origins and directions [rays, 3], on the field's device. Where views skip the cells of the
        grid that are off, nothing is there.
        """
        guide = self.guide
        grid = guide if isinstance(guide, OccupancyGrid) else None
        return FieldAlongRays(self.field, origins, directions, self.to_field, grid)

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
            background or self.background,
            self.sampling_of(cameras, index),
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
        light: Light | None = None,
    ) -> Float[Tensor, "height width 3"]:
        """The colour of `view`, on the CPU: nothing else of a large view is ever held whole.

        light: that of the mean photograph where none is given.
        """
        image = torch.empty(int(cameras.height[index]), int(cameras.width[index]), 3)
        top = 0
        for band in self.bands(
            cameras,
            index,
            samples_per_pixel=samples_per_pixel,
            background=background,
            light=light,
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
        background: Color | None = None,
        light: Light | None = None,
    ) -> Iterator[View]:
        """`view` from top to bottom, in bands of rows that fit into the memory.

        light: that of the mean photograph where none is given.
        """
        field: RadianceField = self.field
        if light is not None and light.code is not None:
            field = InLightOf(self.field, light.code[None], 0)
        for band in render_bands(
            field,
            self.guide,
            cameras,
            index,
            background or self.background,
            self.sampling_of(cameras, index),
            samples_per_pixel=samples_per_pixel,
            normals=normals,
            memory_bytes=self.memory_bytes,
        ):
            if light is None:
                yield band
                continue
            # Only photographs without alpha have a learned background, and with it one light.
            constant = torch.tensor(background or self.settings.background).to(band.color)
            lit = light.on(band.color, band.opacity, constant.view(1, 1, 3)).clamp(max=1)
            yield band._replace(color=lit)


def build(settings: Settings, device: torch.device) -> Trained:
    """A fresh field as the settings say. InputError where they make no sense.

    On the device "meta" it takes no memory, whatever sizes a file asks for, and has no values.
    """
    meta = device.type == "meta"
    generator = None if meta else Generator().manual_seed(settings.seed)
    with device if meta else nullcontext():
        warp = build_warp(settings.warp)
        field = build_field(settings.field, settings.arguments, generator, warp)
        if settings.surface != "none":
            radius = SPHERE * 2.0 ** (1 - settings.grid_levels)
            if settings.coarse_to_fine and isinstance(field, Radiance):
                field.encoding = CoarseToFine(field.encoding, settings.coarse_to_fine)
            if settings.surface == "neudf":
                field = OpenSurfaceRadiance(field, radius)
            else:
                field = SurfaceRadiance(field, settings.surface, radius)
        for _, module in field.named_modules():
            if isinstance(module, Planes):
                module.total_variation = settings.total_variation
        proposal = None
        if settings.sampler == "proposal":
            nested = settings.grid_levels > 1
            if warp is None and nested:  # it is asked everywhere, also where the grid is coarse
                warp = Contraction(settings.grid_levels)
            proposal = ProposalNetwork(
                PROPOSAL_RESOLUTION * (2 if nested else 1), warp, generator=generator
            )
        environment = Environment(settings.background) if settings.learned_background else None
        exposure = Exposure(settings.exposures) if settings.exposures else None
    if settings.grid_resolution not in (32, 64, 128, 256):
        got = f"{settings.grid_resolution}"
        raise InputError("settings.grid_resolution", got, "32, 64, 128 or 256")
    grid = full_grid(settings.grid_levels, settings.grid_resolution, device)
    to_field = Similarity.from_json(settings.to_field)
    trained = Trained(
        settings, field, grid, to_field, proposal, environment=environment, exposure=exposure
    )
    for part in trained.parts.values():
        part.to(device)
    return trained


def load(path: Path, device: torch.device) -> Trained:
    """The field of a run's newest readable checkpoint. InputError where there is none.

    And for a run of Gaussians or of rays, which no point has a density of.
    """
    saved, settings = read_run(path)
    if settings.field == GAUSSIANS:
        raise InputError(str(path), "a run of Gaussians", "one of a field with densities")
    if settings.field == RAY_DISTRIBUTION:
        raise InputError(str(path), "a run of rays", "one of a field with densities at points")
    return load_saved(saved, settings, device)


def read_run(path: Path) -> tuple[Saved, Settings]:
    """A run's newest readable checkpoint, and its settings. InputError where there is none."""
    run = RunFolder.open(path)
    saved = checkpoint.latest(run.checkpoints)
    if saved is None:
        raise InputError(str(path), "holds no checkpoint", "a run that has trained", "Train first.")
    found = saved.metadata.get("settings")
    if isinstance(found, dict) and "kind" in found:
        got = f"a fitted {str(found['kind'])[:20]}"
        raise InputError(str(path), got, "a run of `polyfield train`")
    return saved, read_settings(found, str(saved.path))


def load_saved(saved: Saved, settings: Settings, device: torch.device) -> Trained:
    """The field of a checkpoint. InputError for tensors that are none of it."""
    where = str(saved.path)
    blank = build(settings, torch.device("meta"))
    expected = {
        f"{name}.{key}": tensor
        for name, part in blank.parts.items()
        for key, tensor in part.state_dict().items()
    }
    expected |= {"grid.values": blank.grid.values, "grid.bits": blank.grid.bits}
    found = {k: v for k, v in saved.tensors.items() if not k.startswith("optimiser.")}
    check_tensors(found, expected, where)
    trained = build(settings, device)
    for name, part in trained.parts.items():
        part.load_state_dict(part_of(found, f"{name}."))
        part.requires_grad_(False)  # so a gradient to positions costs none to the weights
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
