"""Flights through and beside the places where the pictures were taken."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn.functional import normalize

from polyfield.cuda.errors import InputError
from polyfield.cuda.rotations import exponential, logarithm, matrices, product, quaternions, slerp
from polyfield.render.paths import look_at_point

FACING = 0.5  # least length of the mean of all forward axes that counts as one direction
REACH = 0.9  # the quantile of the cameras' offsets that a spiral goes out to
RADIANS_A_SECOND = 1.0  # of a flight between views, if that takes neither of the times below
SHORTEST, LONGEST = 2.0, 60.0  # seconds
_PIECES = 64  # that the length of a flight from view to view is added up from
_SAME = 1e-6  # radians between two poses that are one and the same


class Flight(NamedTuple):
    """A smooth flight through key poses, of which poses that repeat are left out.

    keys: unit quaternions (w, x, y, z), neighbours of one sign, and positions. turn, speed: their
    rates of change at the keys, in radians and lengths a unit of `knots`. Distances: of both what
    is more, the turn or the way as seen from `scale` off, in radians.
    """

    rotation: Float64[Tensor, "keys 4"]
    position: Float64[Tensor, "keys 3"]
    turn: Float64[Tensor, "keys 3"]
    speed: Float64[Tensor, "keys 3"]
    knots: Float64[Tensor, " keys"]
    scale: float

    def poses(self, at: Float64[Tensor, " n"]) -> Float64[Tensor, "n 3 4"]:
        """Poses at places of the flight, from 0 to knots[-1]; those at the knots are the keys."""
        rotation, position = self._at(at)
        return torch.cat([matrices(rotation), position[:, :, None]], 2)

    def measured(self) -> tuple[Float64[Tensor, " n"], Float64[Tensor, " n"]]:
        """Places along the flight, ascending, and the distance flown to each of them."""
        steps = torch.arange(_PIECES, dtype=torch.float64) / _PIECES
        inner = self.knots[:-1, None] + steps * self.knots.diff()[:, None]
        at = torch.cat([inner.flatten(), self.knots[-1:]])
        rotation, position = self._at(at)
        flown = _distances(rotation, position, self.scale).cumsum(0)
        return at, torch.cat([flown.new_zeros(1), flown])

    def _at(self, at: Tensor) -> tuple[Tensor, Tensor]:
        if len(self.knots) == 1:
            return self.rotation.expand(len(at), 4), self.position.expand(len(at), 3)
        left = torch.searchsorted(self.knots, at, right=True).sub(1).clamp(0, len(self.knots) - 2)
        width = self.knots.diff()[left, None]
        t = (at - self.knots[left])[:, None] / width
        turn, speed = self.turn / 3, self.speed / 3
        a, b = self.position[left], self.position[left + 1]
        position = _bezier(a, a + width * speed[left], b - width * speed[left + 1], b, t)
        p, q = self.rotation[left], self.rotation[left + 1]
        after = product(p, exponential(width * turn[left]))
        before = product(q, exponential(-width * turn[left + 1]))
        # De Casteljau's scheme with slerp in the place of straight lines. Source: Shoemake,
        # Animating Rotation with Quaternion Curves (SIGGRAPH 1985).
        first, middle, last = slerp(p, after, t), slerp(after, before, t), slerp(before, q, t)
        return slerp(slerp(first, middle, t), slerp(middle, last, t), t), position


def flight(camera_to_world: Float[Tensor, "n 3 4"]) -> Flight:
    """The flight through poses in their order, by cubic curves of positions and of rotations.

    Of the two ways to turn from one to the next it takes the shorter. Knots are as far apart as the
    poses: unevenly spaced views of a circle are joined near the circle. Raises InputError for no
    camera.
    """
    if len(camera_to_world) == 0:
        raise InputError("cameras", "none", "at least one")
    poses = camera_to_world.double()
    scale = float((look_at_point(poses) - poses[:, :, 3]).norm(dim=1).median().clamp(min=1e-9))
    rotation, position = quaternions(poses[:, :, :3]), poses[:, :, 3]
    moved = _distances(rotation, position, scale) > _SAME
    kept = torch.cat([moved.new_ones(1), moved])
    rotation, position = rotation[kept], position[kept]
    flips = ((rotation[1:] * rotation[:-1]).sum(1) < 0).long().cumsum(0) % 2
    rotation = torch.cat([rotation[:1], rotation[1:] * (1 - 2 * flips)[:, None]])
    # Two dropped neighbours of a pose may have been more than _SAME apart from one another.
    widths = _distances(rotation, position, scale).clamp(min=_SAME)
    inverse = rotation[:-1] * rotation.new_tensor([1.0, -1.0, -1.0, -1.0])
    turns = logarithm(product(inverse, rotation[1:])) / widths[:, None]
    return Flight(
        rotation,
        position,
        _rates(turns, widths),
        _rates(position.diff(dim=0) / widths[:, None], widths),
        torch.cat([widths.new_zeros(1), widths.cumsum(0)]),
        scale,
    )


def interpolate(camera_to_world: Float[Tensor, "n 3 4"], frames: int) -> Float[Tensor, "_ 3 4"]:
    """Poses evenly along the `flight` from the first to the last: constant speed.

    Speed is what moves the picture: of the turn, and the way over the distance to what is looked
    at, that which is more. Poses that are all one give that one. Raises InputError for no camera or
    no frame.
    """
    if frames < 1:
        raise InputError("frames", str(frames), "at least 1")
    path = flight(camera_to_world)
    at, flown = path.measured()
    wanted = torch.linspace(0, 1, frames, dtype=torch.float64) * flown[-1]
    if len(flown) == 1:
        return path.poses(wanted).to(camera_to_world.dtype)
    right = torch.searchsorted(flown, wanted).clamp(1, len(flown) - 1)
    part = (wanted - flown[right - 1]) / (flown[right] - flown[right - 1]).clamp(min=1e-300)
    places = at[right - 1] + part.clamp(0, 1) * (at[right] - at[right - 1])
    return path.poses(places).to(camera_to_world.dtype)


def interpolation_seconds(camera_to_world: Float[Tensor, "n 3 4"]) -> float:
    """How long a flight through these poses should take."""
    length = float(flight(camera_to_world).measured()[1][-1])
    return min(max(length / RADIANS_A_SECOND, SHORTEST), LONGEST)


def middle_pose(camera_to_world: Float[Tensor, "n 3 4"]) -> Float64[Tensor, "3 4"]:
    """The pose in the middle of cameras that face one way, OpenCV axes.

    Raises InputError for no camera, and where they face all ways.
    """
    if len(camera_to_world) == 0:
        raise InputError("cameras", "none", "at least one")
    _, down, forward, position = camera_to_world.double().mean(0).T
    if forward.norm() < FACING:
        raise InputError(
            "spiral",
            "the cameras look in all directions",
            "those of a forward-facing capture",
            "Take the turntable.",
        )
    forward = normalize(forward, dim=0)
    right = torch.linalg.cross(down, forward)
    if right.norm() < 1e-3:  # held every which way: no upright
        right = torch.linalg.cross(torch.eye(3).double()[forward.abs().argmin()], forward)
    right = normalize(right, dim=0)
    return torch.stack([right, torch.linalg.cross(forward, right), forward, position], 1)


def spiral(
    camera_to_world: Float[Tensor, "n 3 4"], frames: int, focus: float
) -> Float[Tensor, "{frames} 3 4"]:
    """Poses of a closed flight within a forward-facing capture, OpenCV axes, upright.

    They circle twice about `middle_pose`, as far out along each of its axes as nine in ten of the
    cameras stand (half the focus at most), and once to and fro, always looking at the point `focus`
    lengths ahead of the middle. Frame 0 follows the last. Raises InputError for no camera, cameras
    that face all ways, fewer than 2 frames, or a focus that is not above 0.
    Source: LLFF (arXiv:1905.00889), its `render_path_spiral`.
    """
    if frames < 2 or not 0 < focus < math.inf:
        raise InputError("spiral", f"{frames} frames, focus {focus}", "at least 2, above 0")
    middle = middle_pose(camera_to_world)
    axes, center = middle[:, :3], middle[:, 3]
    offset = (camera_to_world[:, :, 3].double() - center) @ axes
    reach = torch.quantile(offset.abs(), REACH, dim=0).clamp(max=focus / 2)
    angle = 4 * math.pi * torch.arange(frames, dtype=torch.float64) / frames
    away = torch.stack([angle.cos(), angle.sin(), (angle / 2).sin()], 1)
    position = center + (away * reach) @ axes.T
    forward = normalize(center + focus * axes[:, 2] - position, dim=1)
    right = normalize(torch.linalg.cross(axes[:, 1].expand_as(forward), forward), dim=1)
    down = torch.linalg.cross(forward, right)
    return torch.stack([right, down, forward, position], 2).to(camera_to_world.dtype)


def _distances(rotation: Tensor, position: Tensor, scale: float) -> Tensor:
    """From each pose to the next, in radians. Of the turn and the seen way what is more."""
    # By sums and differences: exact where the angle is small, which a scalar product is not.
    apart = (rotation[1:] - rotation[:-1]).norm(dim=1)
    other = (rotation[1:] + rotation[:-1]).norm(dim=1)
    angle = 4 * torch.atan2(torch.minimum(apart, other), torch.maximum(apart, other))
    return torch.maximum(angle, position.diff(dim=0).norm(dim=1) / scale)


def _rates(slopes: Float64[Tensor, "k 3"], widths: Float64[Tensor, " k"]) -> Tensor:
    """The rate of change at each knot, from the slopes between them: parabolas, free ends."""
    if len(slopes) == 0:
        return slopes.new_zeros(1, 3)
    before, after = widths[:-1, None], widths[1:, None]
    inner = (slopes[:-1] * after + slopes[1:] * before) / (before + after)
    ends = torch.cat([inner[:1], inner[-1:]]) if len(inner) else slopes.expand(2, 3)
    outer = 1.5 * slopes[[0, -1]] - 0.5 * ends
    return torch.cat([outer[:1], inner, outer[1:]])


def _bezier(a: Tensor, b: Tensor, c: Tensor, d: Tensor, t: Tensor) -> Tensor:
    s = 1 - t
    return s * s * s * a + 3 * s * s * t * b + 3 * s * t * t * c + t * t * t * d
