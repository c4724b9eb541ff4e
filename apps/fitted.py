"""A field that was fitted to a signal: built anew, read from a run, and evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from polyfield.apps import checkpoint
from polyfield.apps.compact_file import SUFFIX, read_compact
from polyfield.apps.fit_settings import FitSettings, read_fit_settings
from polyfield.apps.pixel_values import file_values
from polyfield.apps.run_folder import RunFolder
from polyfield.apps.trained import check_tensors, part_of
from polyfield.cuda.errors import InputError
from polyfield.fields.signal import Signal, distance_outside
from polyfield.fields.table import build_signal

PIECE = 1 << 16  # points at once
SURE = 100.0  # of a logit, for each side of the cube beyond the box of what has an inside


@dataclass(frozen=True, eq=False)
class Fitted:
    """A field over the unit cube and what its values mean."""

    settings: FitSettings
    signal: Signal
    device: torch.device

    @torch.no_grad()
    def values(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n channels"]:
        """What the field holds at points of the unit cube, as it was learned; on the CPU.

        Of a mesh: distances in sides of the cube, or the logit of being inside.
        """
        parts = [self.signal.value(part.to(self.device)).cpu() for part in x.split(PIECE)]
        return torch.cat(parts) if parts else torch.zeros(0, self.settings.channels)

    def slope(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """The gradient of the first channel at points; on the CPU."""
        slopes = []
        for part in x.split(PIECE):
            leaf = part.to(self.device).requires_grad_()
            with torch.enable_grad():
                total = self.signal.value(leaf)[:, 0].sum()
            slopes.append(torch.autograd.grad(total, leaf)[0].cpu())
        return torch.cat(slopes) if slopes else torch.zeros_like(x)

    def frame(self, number: float | int, width: int, height: int) -> Float[Tensor, "h w channels"]:
        """A picture of an image, or of a film at frame `number`, in that many pixels.

        Values as the files hold them: sRGB in [0, 1], or light of any size. Between frames a film
        goes on. The picture is the whole one, whatever its width and height.
        """
        settings = self.settings
        rows = []
        columns = (torch.arange(width) + 0.5) / width * aspect(settings)[1]
        when = (number + 0.5) / settings.size[0]
        for some in torch.arange(height).split(max(1, PIECE // width)):
            down = (some + 0.5) / height * aspect(settings)[0]
            x = torch.stack(torch.meshgrid(columns, down, indexing="xy"), 2).view(-1, 2)
            if settings.kind == "film":
                x = torch.cat([x, torch.full((len(x), 1), when)], 1)
            rows.append(self.values(x).view(len(some), width, -1))
        return file_values(torch.cat(rows), settings.values)


def aspect(settings: FitSettings) -> tuple[float, float]:
    """How much of the unit square a picture fills, down and across."""
    _, height, width = settings.size
    longer = max(height, width)
    return height / longer, width / longer


def numbers_of(fitted: Fitted) -> int:
    """All numbers that a file of a field holds."""
    return sum(tensor.numel() for tensor in fitted.signal.state_dict().values())


def build_fitted(settings: FitSettings, device: torch.device) -> Fitted:
    """A fresh field as the settings say. InputError where they make no sense.

    On the device "meta" it takes no memory, whatever sizes a file asks for, and has no values.
    """
    meta = device.type == "meta"
    generator = None if meta else Generator().manual_seed(settings.seed)
    with device if meta else nullcontext():
        signal = build_signal(
            settings.field,
            settings.arguments,
            settings.dimensions,
            settings.channels,
            generator,
        )
    if settings.kind == "distance":
        steep = -SURE if settings.target == "occupancy" else 1.0
        signal.base = partial(_outside, sides=settings.sides, steep=steep)
    signal.to(device)
    return Fitted(settings, signal, device)


def _outside(x: Tensor, sides: Sequence[float], steep: float) -> Tensor:
    return steep * distance_outside(x, sides)


def load_fitted(path: Path, device: torch.device) -> Fitted:
    """The field of a run's newest readable checkpoint, or of the small file that a run wrote.

    InputError where there is none, or it holds another.
    """
    if path.name.endswith(SUFFIX):
        tensors, metadata = read_compact(path)
        where = str(path)
    else:
        saved = checkpoint.latest(RunFolder.open(path).checkpoints)
        if saved is None:
            raise InputError(str(path), "holds no checkpoint", "a run that has learned something")
        tensors, metadata = part_of(saved.tensors, "signal."), saved.metadata
        where = str(saved.path)
    settings = read_fit_settings(metadata.get("settings"), where)
    expected = build_fitted(settings, torch.device("meta")).signal.state_dict()
    check_tensors(tensors, expected, where)
    fitted = build_fitted(settings, device)
    fitted.signal.load_state_dict(tensors)
    fitted.signal.requires_grad_(False)
    return fitted


def is_fit(path: Path) -> bool:
    """Whether a path is what `polyfield fit` wrote. Of no run at all, whoever loads it says so."""
    if path.name.endswith(SUFFIX):
        return True
    try:
        settings = RunFolder.open(path).config().get("settings")
    except InputError:
        return False
    return isinstance(settings, dict) and "kind" in settings
