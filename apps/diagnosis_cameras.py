"""What cameras, bounds and splits alone tell: where views lie, and what cannot train so."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from polyfield.apps.bounds import gaze
from polyfield.apps.diagnosis import Warning, file_of
from polyfield.apps.scene import Scene
from polyfield.render.paths import up_axis

_FEWEST_VIEWS = 10
_LARGE, _SMALL = 1e5, 1e-4  # input units across the cameras; metres, millimetres lie between
_ONE_PLACE = 1e-4  # spread of the cameras over their distance to what they look at
_STEPS = 6  # a side of the grid of points looked for in each view
_WIDE = math.radians(30)


@dataclass(frozen=True)
class Coverage:
    """From which directions the scene was photographed, seen from what the cameras look at."""

    inward: bool
    """Whether they look at one thing; else the figures say nothing."""
    sphere: float
    """Share of all directions that lie within 30 degrees of a camera's."""
    widest_gap: float
    """Degrees of azimuth, about the up axis, in which no camera stands."""
    lowest: float
    """Degrees of elevation of the lowest camera."""
    highest: float
    distance: tuple[float, float]
    """The nearest and the farthest camera, in input units."""

    def __str__(self) -> str:
        near, far = self.distance
        if not self.inward:
            return "the cameras look outwards"
        return (
            f"{100 * self.sphere:.0f} % of all directions within 30 degrees of a camera, elevation "
            f"{self.lowest:.0f} to {self.highest:.0f} degrees, widest gap in azimuth "
            f"{self.widest_gap:.0f} degrees, distance {near:.3g} to {far:.3g}"
        )


def camera_coverage(scene: Scene) -> Coverage:
    """The directions from which the training views look."""
    cameras = scene.cameras.select(scene.splits["train"])
    seen = gaze(cameras)
    up = up_axis(cameras.camera_to_world)
    way = cameras.camera_to_world[:, :, 3].double() - seen.target
    distance = seen.distance.clamp(min=1e-300)
    way = way / distance[:, None]
    sine = (way @ up).clamp(-1, 1)
    elevation = torch.rad2deg(sine.asin())
    first = torch.linalg.cross(up, torch.eye(3).double()[up.abs().argmin()])
    first = first / first.norm()
    second = torch.linalg.cross(up, first)
    azimuth = torch.atan2(way @ second, way @ first).sort().values
    gaps = torch.cat([azimuth[1:], azimuth[:1] + 2 * math.pi]) - azimuth
    nearest = torch.stack([(part @ _sphere().T).amax(0) for part in way.split(4096)]).amax(0)
    return Coverage(
        seen.inward,
        float((nearest > math.cos(_WIDE)).double().mean()),
        math.degrees(float(gaps.max())),
        float(elevation.min()),
        float(elevation.max()),
        (float(seen.distance.min()), float(seen.distance.max())),
    )


def camera_warnings(scene: Scene) -> list[Warning]:
    """What is wrong with cameras, scale, splits and bounds. No pixel is decoded."""
    # Of cameras in one place the spread is rounding, which has no scale.
    size = _one_place(scene) or _scale(scene)
    return [*_counts(scene), *size, *_past_the_bounds(scene)]


def finest_box(scene: Scene) -> tuple[Float64[Tensor, " 3"], Float64[Tensor, " 3"]]:
    """Lowest and highest corner, in the input's frame, of the cube with the finest grid."""
    half = 0.5 / 2 ** (scene.grid_levels - 1)
    corners = torch.tensor([[0.5 - half] * 3, [0.5 + half] * 3], dtype=torch.float64)
    low, high = scene.to_field.inverse().apply(corners)
    return torch.minimum(low, high), torch.maximum(low, high)


def _counts(scene: Scene) -> list[Warning]:
    warnings = []
    train, test = len(scene.splits["train"]), len(scene.splits["test"])
    if train < _FEWEST_VIEWS:
        sentence = f"too few views: {train} to train on."
        remedy = "Take 30 or more, from all the directions that it shall be seen from."
        warnings.append(Warning("few views", scene.name, sentence, remedy))
    if not test:
        sentence = "no view is held out, so that nothing measures the result."
        remedy = "List some frames as test_filenames, or in transforms_test.json."
        warnings.append(Warning("no test", scene.name, sentence, remedy))
    return warnings


def _scale(scene: Scene) -> list[Warning]:
    position = scene.cameras.camera_to_world[:, :, 3].double()
    middle = position.mean(0)
    spread = float((position - middle).norm(dim=1).max())
    if len(position) < 2 or spread == 0:
        return []
    away = float(middle.norm())
    if spread > _LARGE or spread < _SMALL:
        word = "large" if spread > _LARGE else "small"
        sentence = f"absurdly {word}: the cameras lie {spread:.2g} units about their middle."
        remedy = "Scale positions (and points) so that they spread over 1 to 100 units."
        return [Warning("scale", scene.name, sentence, remedy)]
    if away > 1e5 * spread:
        sentence = (
            f"far from the origin: the middle of the cameras is {away:.2g} units away, they spread "
            f"over {spread:.2g}."
        )
        remedy = "Subtract one position from all of them."
        return [Warning("scale", scene.name, sentence, remedy)]
    near = scene.near / scene.to_field.scale
    low, high = finest_box(scene)
    if near > float((high - low).max()) + float((position - (low + high) / 2).norm(dim=1).max()):
        sentence = f"nothing is looked for nearer than {near:.2g} units, past all of the bounds."
        remedy = "Check the unit of the cameras' positions against that of the bounds."
        return [Warning("scale", scene.name, sentence, remedy)]
    return []


def _one_place(scene: Scene) -> list[Warning]:
    """Cameras that only turn: no parallax, no depth."""
    position = scene.cameras.camera_to_world[:, :, 3].double()
    if len(position) < 2:
        return []
    spread = float((position - position.mean(0)).norm(dim=1).max())
    if scene.points is not None and len(scene.points):
        scale = float((scene.points - position.mean(0)).norm(dim=1).median())
    else:
        # Nested cubes take their size from the cameras, so only rounding is left to compare with.
        side = float(scene.to_field.inverse().scale) if scene.grid_levels == 1 else 0.0
        scale = max(side, 1e-3 * float(position.abs().max()))
    if spread > _ONE_PLACE * scale:
        return []
    sentence = f"all cameras stand in one place (within {spread:.2g} units) and only turn."
    remedy = "Depth needs parallax: move the camera. If it did move, the poses are wrong."
    return [Warning("one place", scene.name, sentence, remedy)]


def _past_the_bounds(scene: Scene) -> list[Warning]:
    """Views none of whose pixels sees any of the finest box."""
    if not gaze(scene.cameras).inward:
        return []
    low, high = finest_box(scene)
    steps = torch.linspace(0, 1, _STEPS, dtype=torch.float64)
    points = low + torch.cartesian_prod(steps, steps, steps) * (high - low)
    blind = []
    for frame in range(len(scene.cameras)):
        pixels, _ = scene.cameras.project(torch.full((len(points),), frame), points)
        size = torch.tensor(scene.sizes[frame])
        seen = ((pixels >= 0) & (pixels < size)).all(1)
        if not bool(seen.any()) and not _stands_within(scene, frame, low, high):
            blind.append(frame)
    return [
        Warning(
            "past the subject",
            file_of(scene, frame),
            "it sees nothing of the subject: its camera looks past the bounds.",
            "Check its pose, or leave it out.",
            (frame,),
        )
        for frame in blind
    ]


def _stands_within(scene: Scene, frame: int, low: Tensor, high: Tensor) -> bool:
    position = scene.cameras.camera_to_world[frame, :, 3].double()
    return bool(((position > low) & (position < high)).all())


def _sphere() -> Float64[Tensor, "n 3"]:
    """Directions spread evenly over the sphere (a golden-angle spiral)."""
    n = 500
    z = 1 - (2 * torch.arange(n, dtype=torch.float64) + 1) / n
    turn = torch.arange(n) * (math.pi * (3 - math.sqrt(5)))
    level = (1 - z * z).sqrt()
    return torch.stack([level * turn.cos(), level * turn.sin(), z], 1)
