"""Gaussians that a run trained and everything needed to show them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.apps.settings import Color, Settings
from polyfield.apps.trained import SAMPLES_PER_PIXEL, check_tensors, part_of
from polyfield.cuda.errors import InputError
from polyfield.fields.gaussians import GaussianArguments, Gaussians
from polyfield.fields.similarity import Similarity
from polyfield.fields.splats import Splats
from polyfield.render.cameras import Cameras
from polyfield.render.exposure import Exposure
from polyfield.render.light import Light
from polyfield.render.pose_refinement import PoseRefinement
from polyfield.render.splats import NEAR, splat_image
from polyfield.render.view import View

CAMERAS_ABOUT = 1.1  # times the way from their middle to the farthest camera


@dataclass
class TrainedSplats:
    """Gaussians in the unit cube of their scene, and the way back to the user's frame."""

    settings: Settings
    gaussians: Gaussians
    to_field: Similarity
    exposure: Exposure | None = None
    """Of each training photograph, if that is learned."""
    poses: PoseRefinement | None = None
    """Corrections of each training photograph's, if those are learned."""
    memory_bytes: int = 1 << 28
    """Not looked at: a view takes little beside itself."""

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.gaussians.means.device

    @property
    def parameters(self) -> int:
        """Numbers of all Gaussians there are."""
        return sum(p.numel() for p in self.gaussians.parameters())

    @property
    def has_light(self) -> bool:
        """Whether views depend on a photograph's light."""
        return self.exposure is not None

    @property
    def beside(self) -> dict[str, Exposure | PoseRefinement]:
        """What is learned beside the Gaussians, by name."""
        parts = {"exposure": self.exposure, "poses": self.poses}
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def extent(self) -> float:
        """Of the scene, see `extent_of`."""
        return extent_of(self.settings)

    @property
    def near(self) -> float:
        """In sides of the unit cube, how near to a camera nothing is shown."""
        return max(NEAR * self.extent, 0.5 * self.settings.sampling.near)

    def view(
        self,
        cameras: Cameras,
        index: int,
        *,
        samples_per_pixel: int = SAMPLES_PER_PIXEL,
        background: Color | None = None,
    ) -> View:
        """The image of one camera of the unit cube, on the device of the Gaussians.

        background: the run's own where none is given. InputError for more than one sample a pixel:
        a Gaussian is drawn as what a pixel sees of it.
        """
        (band,) = self.bands(
            cameras, index, samples_per_pixel=samples_per_pixel, background=background
        )
        return band

    def color(
        self,
        cameras: Cameras,
        index: int,
        *,
        samples_per_pixel: int = SAMPLES_PER_PIXEL,
        background: Color | None = None,
        light: Light | None = None,
    ) -> Float[Tensor, "height width 3"]:
        """The colour of `view`, on the CPU; light: that of the mean photograph where none is."""
        refuse_samples(samples_per_pixel)
        behind = background or self.settings.background
        view = splat_image(self.gaussians, cameras, index, behind, self.near, depth=False)
        return self._in_light(view, behind, light).color.cpu()

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
        """`view` as one band; light: that of the mean photograph where none is given."""
        refuse_samples(samples_per_pixel)
        behind = background or self.settings.background
        view = splat_image(self.gaussians, cameras, index, behind, self.near, normals)
        yield self._in_light(view, behind, light)

    def _in_light(self, view: View, behind: Color, light: Light | None) -> View:
        if light is None:
            return view
        constant = torch.tensor(behind).to(view.color)
        lit = light.on(view.color, view.opacity, constant.view(1, 1, 3)).clamp(max=1)
        return view._replace(color=lit)


def refuse_samples(samples_per_pixel: int) -> None:
    """InputError for more than one sample a pixel: a Gaussian is drawn as what a pixel sees of it.

    For whoever writes a file of views, before there is one.
    """
    if samples_per_pixel != 1:
        got = f"{samples_per_pixel} with Gaussians"
        raise InputError("--samples-per-pixel", got, "1: they are drawn pixel by pixel")


def extent_of(settings: Settings) -> float:
    """How far about the training cameras are, in sides of the unit cube; above 0.

    Source: 3D Gaussian splatting (arXiv:2308.04079), whose rates are in it.
    """
    position = torch.tensor(settings.orbit["camera_to_world"])[:, :, 3]
    away = (position - position.mean(0)).norm(dim=1).max()
    return CAMERAS_ABOUT * max(float(away), 1e-6)


def build_splats(settings: Settings, splats: Splats, device: torch.device) -> TrainedSplats:
    """Gaussians as the settings have them, from what they are at the beginning."""
    exposure = Exposure(settings.exposures).to(device) if settings.exposures else None
    poses = None
    if settings.poses:
        poses = PoseRefinement(settings.poses, extent_of(settings)).to(device)
    to_field = Similarity.from_json(settings.to_field)
    return TrainedSplats(settings, Gaussians(splats).to(device), to_field, exposure, poses)


def arguments_of_splats(settings: Settings, where: str) -> GaussianArguments:
    """Their sizes. InputError, naming `where`, for what no run wrote."""
    known = {field.name for field in fields(GaussianArguments)}
    for name in settings.arguments:
        if name not in known:
            expected = f"one of {', '.join(sorted(known))}"
            raise InputError(f"{where}: settings.arguments", repr(name[:80]), expected)
    found = GaussianArguments(**settings.arguments)
    if not 0 <= found.degree <= 3 or found.splats < 4:  # with fewer none has three neighbours
        got = f"{found.splats} Gaussians of degree {found.degree}"
        raise InputError(f"{where}: settings.arguments", got, "4 at least, of degree 0 to 3")
    return found


def read_splats_state(tensors: dict[str, Tensor], settings: Settings, where: str) -> Splats:
    """The Gaussians of a checkpoint. InputError for what is not a run's of these settings."""
    arguments = arguments_of_splats(settings, where)
    found = part_of(tensors, "gaussians.")
    count = len(found["means"]) if "means" in found and found["means"].ndim else 0
    if count > arguments.splats:
        expected = f"at most {arguments.splats:,}"
        raise InputError(f"{where}: tensor 'gaussians.means'", f"{count:,} Gaussians", expected)
    check_tensors(found, _empty(count, arguments.degree), f"{where}: of Gaussians")
    means, log_scales, quaternions, logits, harmonics = (found[n] for n in Gaussians.NAMES)
    return Splats(means, log_scales, quaternions, logits, harmonics, settings.antialiased)


def load_splats(
    tensors: dict[str, Tensor], settings: Settings, device: torch.device, where: str
) -> TrainedSplats:
    """What a checkpoint of Gaussians shows. InputError for what is no run's."""
    splats = read_splats_state(tensors, settings, where)
    trained = build_splats(settings, splats, device)
    trained.gaussians.requires_grad_(False)
    for name, part in trained.beside.items():
        found = part_of(tensors, f"{name}.")
        check_tensors(found, part.state_dict(), f"{where}: of {name}")
        part.load_state_dict(found)
        part.requires_grad_(False)
    return trained


def _empty(count: int, degree: int) -> dict[str, Tensor]:
    """Of the shapes of so many Gaussians, without their memory."""
    shapes = {
        "means": (count, 3),
        "log_scales": (count, 3),
        "quaternions": (count, 4),
        "opacity_logits": (count,),
        "harmonics": (count, (degree + 1) ** 2, 3),
    }
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
