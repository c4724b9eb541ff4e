"""Camera paths for videos: where to fly, worked out from where the pictures were taken."""

import math

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn.functional import normalize

from polyfield.cuda.errors import InputError

WIDEST_GAP = math.radians(120)  # cameras that leave more of the circle empty stood on one side


def up_axis(camera_to_world: Float[Tensor, "n 3 4"]) -> Float[Tensor, " 3"]:
    """The world's upwards direction (unit) by how the cameras were held, OpenCV axes.

    People hold cameras level: up is the direction most square to all x axes of the images. Where
    those are too alike to say (all cameras side by side), it is the mean of the images' upwards
    directions. Raises InputError for no camera.
    """
    _refuse_none(camera_to_world)
    right, down = camera_to_world[:, :, 0].double(), camera_to_world[:, :, 1].double()
    mean = normalize(-down.mean(0), dim=0)
    spread, axes = torch.linalg.eigh(right.T @ right / len(right))  # ascending
    # The second spread is that across the most common x axis: of 1 in all, 0.02 is about 8 degrees.
    if spread[1] < 0.02 or spread[0] > 0.5 * spread[1]:
        return mean
    level = axes[:, 0]
    return level if level @ mean >= 0 else -level


def look_at_point(camera_to_world: Float[Tensor, "n 3 4"]) -> Float[Tensor, " 3"]:
    """The point nearest to all viewing axes in the sense of least squares, OpenCV axes.

    Where the axes hardly differ in direction and meet nowhere, the point is as far in front of the
    cameras as these lie apart. Raises InputError for no camera.
    """
    _refuse_none(camera_to_world)
    position, forward = camera_to_world[:, :, 3].double(), camera_to_world[:, :, 2].double()
    point = nearest_to_axes(camera_to_world)
    if point is not None and ((point - position) * forward).sum(1).median() > 0:
        return point
    middle = position.mean(0)
    apart = (position - middle).norm(dim=1).max().clamp(min=1e-3)
    return middle + 2 * apart * normalize(forward.mean(0), dim=0)


def nearest_to_axes(camera_to_world: Float[Tensor, "n 3 4"]) -> Float64[Tensor, " 3"] | None:
    """The point nearest to all viewing axes in the sense of least squares, OpenCV axes.

    It may lie behind cameras. None where the axes run (nearly) parallel and meet nowhere.
    """
    position, forward = camera_to_world[:, :, 3].double(), camera_to_world[:, :, 2].double()
    across = torch.eye(3).double() - forward[:, :, None] * forward[:, None, :]
    total = across.mean(0)
    if torch.linalg.eigvalsh(total)[0] < 1e-4:
        return None
    # Relative to the middle: positions may be far from the origin.
    middle = position.mean(0)
    offset = (across @ (position - middle)[:, :, None]).mean(0)[:, 0]
    return middle + torch.linalg.solve(total, offset)


def turntable(
    camera_to_world: Float[Tensor, "n 3 4"],
    frames: int,
    up: Float[Tensor, " 3"] | None = None,
) -> Float[Tensor, "{frames} 3 4"]:
    """Poses of a closed, even flight around what the cameras look at, OpenCV axes.

    Always at the cameras' median elevation and distance from their look-at point, upright (up: the
    world's, unit, estimated where None), forward axis to that point. Cameras all around give a full
    circle, counter-clockwise seen from above; where they leave a gap of over 120 degrees the flight
    swings to and fro within their arc, for nobody knows the other side. Frame 0 follows the last.
    Raises InputError for fewer than 2 frames or no camera.
    """
    if frames < 2:
        raise InputError("turntable frames", str(frames), "at least 2")
    up = up_axis(camera_to_world) if up is None else normalize(up.double(), dim=0)
    target = look_at_point(camera_to_world)
    way = camera_to_world[:, :, 3].double() - target
    distance = way.norm(dim=1).clamp(min=1e-9)
    sine = (way @ up / distance).median().clamp(-0.98, 0.98)  # straight up has no upright
    first, second = _level_axes(up, way)
    start, arc = _covered(torch.atan2(way @ second, way @ first))

    turn = 2 * math.pi * torch.arange(frames).double() / frames
    azimuth = turn + start if arc is None else start + arc * (1 - turn.cos()) / 2
    level = azimuth.cos()[:, None] * first + azimuth.sin()[:, None] * second
    outward = (1 - sine * sine).sqrt() * level + sine * up
    position = target + distance.median() * outward
    right = torch.linalg.cross(up.expand_as(outward), outward)
    right = normalize(right, dim=1)
    down = torch.linalg.cross(-outward, right)
    return torch.stack([right, down, -outward, position], 2).to(camera_to_world.dtype)


def _level_axes(up: Tensor, way: Tensor) -> tuple[Tensor, Tensor]:
    """Two unit axes square to up: the first towards the first camera, if it is not overhead."""
    first = way[0] - (way[0] @ up) * up
    if first.norm() < 1e-3 * way[0].norm():
        first = torch.eye(3).double()[up.abs().argmin()]
        first = first - (first @ up) * up
    first = normalize(first, dim=0)
    return first, torch.linalg.cross(up, first)


def _covered(azimuth: Tensor) -> tuple[float, float | None]:
    """Start and length of the arc that the azimuths cover: length None for the whole circle."""
    ordered = azimuth.sort().values
    gaps = torch.cat([ordered[1:], ordered[:1] + 2 * math.pi]) - ordered
    widest = gaps.argmax()
    if gaps[widest] <= WIDEST_GAP:
        return 0.0, None
    return ordered[(widest + 1) % len(ordered)].item(), (2 * math.pi - gaps[widest]).item()


def _refuse_none(camera_to_world: Tensor) -> None:
    if len(camera_to_world) == 0:
        raise InputError("cameras", "none", "at least one")
