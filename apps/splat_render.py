"""Views of a file of Gaussians, whoever wrote it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor
from torch.nn.functional import normalize

from polyfield.apps.formats.splat_values import World
from polyfield.apps.png_files import to_8bit
from polyfield.apps.shots import (
    TURNTABLE_SECONDS,
    Shots,
    Wish,
    flown,
    length_of_film,
    path_shots,
)
from polyfield.cuda.errors import InputError
from polyfield.fields.similarity import Similarity
from polyfield.fields.splats import Splats
from polyfield.render.cameras import Cameras
from polyfield.render.splats import NEAR, splat_image
from polyfield.render.view import View

SIZE, ANGLE = (800, 800), 50.0  # of views where nobody says; degrees from border to border
ABOVE = math.radians(20)  # that a turntable looks down
MOST = 0.95  # of the opacity that a turntable shows: far haze counts for nothing
ROOM = 1.15  # about that
BACKGROUND = (1.0, 1.0, 1.0)
_UP = {"right-down-forward": (0.0, -1.0, 0.0), "z-up": (0.0, 0.0, 1.0)}


def splat_shots(splats: Splats, world: World, views: str, wish: Wish) -> Shots:
    """A turntable about the Gaussians, or the frames of a camera path in their frame.

    Raises InputError for other views, which only a run has, and for a picture of the whole sphere.
    """
    if wish.lens == "equirectangular":
        raise InputError("--lens equirectangular", "of Gaussians", "perspective or fisheye")
    if Path(views).suffix.lower() == ".json":
        return path_shots(Path(views), wish, Similarity.identity(), lambda _: SIZE, ANGLE)
    if views != "turntable":
        expected = "turntable or a camera path FILE.json: a file of Gaussians has no photographs"
        raise InputError("--views", repr(views[:80]), expected)
    frames, fps = length_of_film(wish.frames, wish.seconds, wish.fps, TURNTABLE_SECONDS)
    degrees = min(wish.field_of_view or ANGLE, ANGLE)
    poses = around(splats, world, frames, degrees, wish.size or SIZE)
    return flown(poses, wish, SIZE, ANGLE, fps)


def around(
    splats: Splats,
    world: World,
    frames: int,
    degrees: float,
    size: tuple[int, int],
    above: float = ABOVE,
) -> Float[Tensor, "frames 3 4"]:
    """Poses on a circle that sees nearly all of what the Gaussians show.

    degrees: from the upper border to the lower one; above: radians that it looks down.
    """
    middle, reach = reach_of(splats)
    width, height = size
    half = math.radians(degrees) / 2
    narrow = math.atan(math.tan(half) * min(1.0, width / height))
    distance = ROOM * reach / math.sin(narrow)
    up = torch.tensor(_UP[world], dtype=torch.float64)
    first = torch.tensor([0.0, 0, -1] if world == "right-down-forward" else [0.0, -1, 0]).double()
    side = torch.linalg.cross(up, first)
    turn = torch.arange(frames, dtype=torch.float64)[:, None] * (2 * math.pi / frames)
    level = turn.cos() * first + turn.sin() * side
    position = middle + distance * (math.cos(above) * level + math.sin(above) * up)
    forward = normalize(middle - position, dim=1)
    right = normalize(torch.linalg.cross(forward, up.expand_as(forward)), dim=1)
    down = torch.linalg.cross(forward, right)
    return torch.stack([right, down, forward, position], 2).float()


def splat_band(splats: Splats, cameras: Cameras, index: int, normals: bool = False) -> View:
    """The whole view of one camera as a single band, on white."""
    near = NEAR * float(splats.means.std(0).norm().clamp_min(1e-6))
    return splat_image(splats, cameras, index, BACKGROUND, near, normals)


def splat_frames(splats: Splats, cameras: Cameras) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """What cameras see, one after the other."""
    for index in range(len(cameras)):
        yield to_8bit(splat_band(splats, cameras, index).color)


def reach_of(splats: Splats, share: float = MOST) -> tuple[Float64[Tensor, " 3"], float]:
    """The middle of what Gaussians show, and how far from it a part of all opacity reaches."""
    opacity = splats.opacity_logits.double().sigmoid()
    means = splats.means.double()
    middle = torch.stack([_median(means[:, axis], opacity) for axis in range(3)])
    reach = float(_median((means - middle).norm(dim=1), opacity, share))
    return middle, reach or float(splats.log_scales.exp().max())


def _median(values: Tensor, weights: Tensor, share: float = 0.5) -> Tensor:
    """Where that share of the weight is below."""
    order = values.argsort()
    total = weights[order].cumsum(0)
    at = int(torch.searchsorted(total, share * total[-1]).clamp(max=len(values) - 1))
    return values[order[at]]
