"""What every kind of run has in common once it is trained: it shows views."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.apps.settings import Color, Settings
from polyfield.apps.trained import SAMPLES_PER_PIXEL, load_saved, read_run
from polyfield.apps.trained_rays import load_rays
from polyfield.apps.trained_splats import load_splats
from polyfield.fields.gaussians import GAUSSIANS
from polyfield.fields.ray_distribution import RAY_DISTRIBUTION
from polyfield.fields.similarity import Similarity
from polyfield.render.cameras import Cameras
from polyfield.render.light import Light
from polyfield.render.view import View


@runtime_checkable
class Shown(Protocol):
    """A trained field in the unit cube of its scene, of any kind; see `Trained`."""

    settings: Settings
    to_field: Similarity
    memory_bytes: int
    """For rendering."""

    @property
    def device(self) -> torch.device:
        """Where it is, and where cameras have to be."""
        ...

    @property
    def parameters(self) -> int:
        """How many numbers were learned for the field."""
        ...

    @property
    def has_light(self) -> bool:
        """Whether views depend on a photograph's light."""
        ...

    def view(
        self,
        cameras: Cameras,
        index: int,
        *,
        samples_per_pixel: int = SAMPLES_PER_PIXEL,
        background: Color | None = None,
    ) -> View:
        """The image of one camera of the unit cube."""
        ...

    def color(
        self,
        cameras: Cameras,
        index: int,
        *,
        samples_per_pixel: int = SAMPLES_PER_PIXEL,
        background: Color | None = None,
        light: Light | None = None,
    ) -> Float[Tensor, "height width 3"]:
        """Its colour, on the CPU."""
        ...

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
        """The image from top to bottom, in bands of rows that fit into the memory."""
        ...


def load_shown(path: Path, device: torch.device) -> Shown:
    """The field of a run's newest readable checkpoint, of any kind. InputError as `load`."""
    saved, settings = read_run(path)
    if settings.field == GAUSSIANS:
        return load_splats(saved.tensors, settings, device, str(saved.path))
    if settings.field == RAY_DISTRIBUTION:
        return load_rays(saved.tensors, settings, device, str(saved.path))
    return load_saved(saved, settings, device)
