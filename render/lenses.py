"""Camera models: from directions before the lens to the plane behind it, and back."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# Newton doubles the digits a step. From the distorted point itself, three steps are enough for a
# phone and five for k1 = -0.2 with its corners close to the fold (1e-9 px in either case).
# `Cameras.invertible` finds out for the lens at hand.
NEWTON_STEPS = 5
FISHEYE_STEPS = 8  # wider views, polynomials of higher degree
SAME_DIRECTION = 1e-3  # radians


class Lens(NamedTuple):
    """One camera model; the plane is in units of the focal length, its origin the principal point.

    Components come first, so that each is one contiguous run of numbers.
    """

    coefficients: tuple[str, ...]
    """Names of the columns of the distortion that the model reads, in their order."""
    project: Callable[[Tensor, Tensor], Tensor]
    """(points [3, r] in the camera's axes, distortion [c, r]) -> plane [2, r], inf if unseen."""
    unproject: Callable[[Tensor, Tensor], Tensor]
    """(plane [2, r], distortion [c, r]) -> directions [3, r], of any length."""


class Bend(NamedTuple):
    """How a lens moves a point (x, y) of its plane; r^2 = x^2 + y^2.

    By the ratio of the polynomials 1 + a_1 r^2 + a_2 r^4 + ... and 1 + b_1 r^2 + ...; then by the
    tangential (p1, p2) and thin-prism (s1 to s4) terms of the point before that, or, if chained,
    after it.
    """

    upper: tuple[Tensor, ...]
    lower: tuple[Tensor, ...] = ()
    tangential: tuple[Tensor, Tensor] | None = None
    prism: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
    chained: bool = False


class Moved(NamedTuple):
    """A bent point, and the derivatives of its coordinates: xy is that of x by the straight y."""

    x: Tensor
    y: Tensor
    xx: Tensor
    xy: Tensor
    yx: Tensor
    yy: Tensor


def _radial(x: Tensor, y: Tensor, bend: Bend) -> Moved:
    r2 = x * x + y * y
    factor, slope = _polynomial(r2, bend.upper)
    if bend.lower:
        below, below_slope = _polynomial(r2, bend.lower)
        factor, slope = factor / below, (slope - below_slope * factor / below) / below
    across = 2 * x * y * slope
    j_xx, j_yy = factor + 2 * x * x * slope, factor + 2 * y * y * slope
    return Moved(x * factor, y * factor, j_xx, across, across, j_yy)


def _polynomial(t: Tensor, coefficients: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    value, slope = torch.zeros_like(t), torch.zeros_like(t)
    for c in reversed(coefficients):
        slope, value = slope * t + value, value * t + c
    return value * t + 1, slope * t + value


def _shift(x: Tensor, y: Tensor, bend: Bend) -> Moved:
    zero = torch.zeros_like(x)
    dx, dy, j_xx, j_xy, j_yx, j_yy = zero, zero, zero, zero, zero, zero
    r2 = x * x + y * y
    if bend.tangential:
        p1, p2 = bend.tangential
        along, across = 2 * (p1 * y + p2 * x), 2 * (p1 * x + p2 * y)
        dx, dy = p2 * r2 + along * x, p1 * r2 + along * y
        j_xx, j_xy, j_yx, j_yy = 6 * p2 * x + 2 * p1 * y, across, across, 6 * p1 * y + 2 * p2 * x
    if bend.prism:
        s1, s2, s3, s4 = bend.prism
        dx, dy = dx + r2 * (s1 + r2 * s2), dy + r2 * (s3 + r2 * s4)
        slope_x, slope_y = 2 * (s1 + 2 * r2 * s2), 2 * (s3 + 2 * r2 * s4)
        j_xx, j_xy = j_xx + slope_x * x, j_xy + slope_x * y
        j_yx, j_yy = j_yx + slope_y * x, j_yy + slope_y * y
    return Moved(dx, dy, j_xx, j_xy, j_yx, j_yy)


def _moved(x: Tensor, y: Tensor, bend: Bend) -> Moved:
    radial = _radial(x, y, bend)
    if bend.tangential is None and bend.prism is None:
        return radial
    if not bend.chained:
        return Moved(*(a + b for a, b in zip(radial, _shift(x, y, bend), strict=True)))
    shift = _shift(radial.x, radial.y, bend)
    xx, yy = 1 + shift.xx, 1 + shift.yy
    return Moved(
        radial.x + shift.x,
        radial.y + shift.y,
        xx * radial.xx + shift.xy * radial.yx,
        xx * radial.xy + shift.xy * radial.yy,
        shift.yx * radial.xx + yy * radial.yx,
        shift.yx * radial.xy + yy * radial.yy,
    )


def _straightened(plane: Tensor, bend: Bend, steps: int) -> Tensor:
    """Newton's method from the bent point."""
    x, y = plane
    for _ in range(steps):
        at = _moved(x, y, bend)
        error_x, error_y = at.x - plane[0], at.y - plane[1]
        determinant = at.xx * at.yy - at.xy * at.yx
        x = x - (at.yy * error_x - at.xy * error_y) / determinant
        y = y - (at.xx * error_y - at.yx * error_x) / determinant
    return torch.stack([x, y])


def _perspective(coefficients: str, bend_of: Callable[[Tensor], Bend]) -> Lens:
    """A lens that bends the plane z = 1."""

    def unproject(plane: Tensor, distortion: Tensor) -> Tensor:
        straight = _straightened(plane, bend_of(distortion), NEWTON_STEPS)
        return torch.cat([straight, torch.ones_like(plane[:1])])

    def project(points: Tensor, distortion: Tensor) -> Tensor:
        x, y = points[:2] / points[2]
        plane = torch.stack(_moved(x, y, bend_of(distortion))[:2])
        # Beyond its fold the polynomial leads back towards the centre: points far outside the view
        # would land on the sensor, on the pixel of another ray. So would those behind the camera.
        own = _same_direction(points, unproject(plane, distortion))
        return torch.where(own, plane, torch.inf)

    return Lens(tuple(coefficients.split()), project, unproject)


def _fisheye(coefficients: str, bend_of: Callable[[Tensor], Bend]) -> Lens:
    """A lens that bends the plane of angles: as far from the middle as a ray is from the axis."""

    def unproject(plane: Tensor, distortion: Tensor) -> Tensor:
        straight = _straightened(plane, bend_of(distortion), FISHEYE_STEPS)
        (x, y), angle = straight, straight.norm(dim=0)  # whose gradient is finite on the axis
        sine = torch.sinc(angle / math.pi)
        # Past 180 degrees there is no direction left.
        around = torch.stack([x * sine, y * sine, torch.cos(angle)])
        return torch.where(angle <= math.pi, around, torch.nan)

    def project(points: Tensor, distortion: Tensor) -> Tensor:
        x, y, z = points
        across = (x * x + y * y).sqrt()
        angle = torch.atan2(across, z)
        # On the axis, where both are 0, angle / across is 1 / z.
        scale = torch.where(across > 0, angle / across, 1 / z)
        plane = torch.stack(_moved(x * scale, y * scale, bend_of(distortion))[:2])
        own = _same_direction(points, unproject(plane, distortion))
        return torch.where(own, plane, torch.inf)

    return Lens(tuple(coefficients.split()), project, unproject)


def _same_direction(
    points: Float[Tensor, "3 r"], directions: Float[Tensor, "3 r"]
) -> Bool[Tensor, " r"]:
    unit = points / points.norm(dim=0)
    return (unit - directions / directions.norm(dim=0)).norm(dim=0) < SAME_DIRECTION


def _project_pinhole(points: Tensor, distortion: Tensor) -> Tensor:
    return torch.where(points[2] > 0, points[:2] / points[2], torch.inf)


def _unproject_pinhole(plane: Tensor, distortion: Tensor) -> Tensor:
    return torch.cat([plane, torch.ones_like(plane[:1])])


def _project_equirectangular(points: Tensor, distortion: Tensor) -> Tensor:
    x, y, z = points
    return torch.stack([torch.atan2(x, z), torch.atan2(y, (x * x + z * z).sqrt())])


def _unproject_equirectangular(plane: Tensor, distortion: Tensor) -> Tensor:
    longitude, down = plane
    level = torch.cos(down)
    return torch.stack(
        [level * torch.sin(longitude), torch.sin(down), level * torch.cos(longitude)]
    )


# Names, coefficients and their order are COLMAP's. Its simpler models are these with zeros.
MODELS: dict[str, Lens] = {
    "PINHOLE": Lens((), _project_pinhole, _unproject_pinhole),
    "OPENCV": _perspective("k1 k2 p1 p2", lambda d: Bend((d[0], d[1]), (), (d[2], d[3]))),
    "FULL_OPENCV": _perspective(
        "k1 k2 p1 p2 k3 k4 k5 k6",
        lambda d: Bend((d[0], d[1], d[4]), (d[5], d[6], d[7]), (d[2], d[3])),
    ),
    "OPENCV_FISHEYE": _fisheye("k1 k2 k3 k4", lambda d: Bend((d[0], d[1], d[2], d[3]))),
    "THIN_PRISM_FISHEYE": _fisheye(
        "k1 k2 p1 p2 k3 k4 sx1 sy1",
        lambda d: Bend(
            (d[0], d[1], d[4], d[5]), (), (d[2], d[3]), (d[6], 0 * d[6], d[7], 0 * d[7])
        ),
    ),
    "RAD_TAN_THIN_PRISM_FISHEYE": _fisheye(
        "k0 k1 k2 k3 k4 k5 p0 p1 s0 s1 s2 s3",
        lambda d: Bend(tuple(d[:6]), (), (d[7], d[6]), (d[8], d[9], d[10], d[11]), True),
    ),
    # A focal length of (width / 2 pi, height / pi) shows the whole sphere, once.
    "EQUIRECTANGULAR": Lens((), _project_equirectangular, _unproject_equirectangular),
}
