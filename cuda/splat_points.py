"""Gaussians seen through lenses that bend straight lines, by where those map points about each."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polyfield.cuda.backend import backend_of
from polyfield.cuda.kernel import constant
from polyfield.cuda.rotations import matrices
from polyfield.cuda.splat_project import FAINTEST, Projected, footprint, projected

APART = 3**0.5  # standard deviations, of the points from the middle
BESIDE = 0.1  # of the sensor's sides, within which a point says where it is
UNBOUNDED = 1e12  # a square of a slope that no picture shows


class BentCamera(NamedTuple):
    """One view through a lens of OpenCV's; axes and pixels as `SplatCamera` has them."""

    world_to_camera: Float[Tensor, "3 4"]
    focal: Float[Tensor, " 2"]
    """In pixels."""
    center: Float[Tensor, " 2"]
    distortion: Float[Tensor, " 8"]
    """k1, k2, p1, p2, k3 to k6, in OpenCV's order and meaning."""
    width: int
    height: int


def splat_points(
    means: Float[Tensor, "n 3"],
    log_scales: Float[Tensor, "n 3"],
    quaternions: Float[Tensor, "n 4"],
    opacity_logits: Float[Tensor, " n"],
    camera: BentCamera,
    near: float = 0.01,
    dilation: float = 0.3,
    antialiased: bool = False,
) -> Projected:
    """As `splat_project`, through a lens that is not straight: by the unscented transform.

    Of a Gaussian the middle and six points, 3^(1/2) standard deviations along its axes, are mapped;
    the mean of the six, and the scatter of all about it, are what is drawn. A Gaussian with a point
    nearer than `near`, or past where the lens folds, is not; nor is one all of whose points lie far
    beside the sensor. Differentiable once in the Gaussians and the camera's pose.
    Source: 3DGUT (arXiv:2412.12507), with alpha 1, beta 2 and kappa 0: of the middle's weights only
    that in the covariance is not 0, and no difference of large numbers arises.
    """
    numbers = means, log_scales, quaternions, opacity_logits
    if backend_of(means.device) == "reference" or means.dtype != torch.float32:
        return splat_points_reference(*numbers, camera, near, dilation, antialiased)
    farthest = torch.tensor([fold(camera.distortion)])
    lens = torch.cat([camera.focal, camera.center, camera.distortion, farthest.to(camera.focal)])
    sizes = camera.width, camera.height, near, dilation, antialiased
    place, model = camera.world_to_camera.to(means), constant("splat_points", "SPLAT_BENT")
    return projected(*numbers, place, lens.to(means), sizes, model)


def splat_points_reference(
    means: Float[Tensor, "n 3"],
    log_scales: Float[Tensor, "n 3"],
    quaternions: Float[Tensor, "n 4"],
    opacity_logits: Float[Tensor, " n"],
    camera: BentCamera,
    near: float = 0.01,
    dilation: float = 0.3,
    antialiased: bool = False,
) -> Projected:
    """The specification in plain torch, any floating type."""
    place = camera.world_to_camera.to(means)
    axes = matrices(quaternions) * log_scales.exp()[:, None]
    about = APART * torch.cat([axes.mT, -axes.mT], 1)
    points = torch.cat([means[:, None], means[:, None] + about], 1)  # [n, 7, 3]
    local = points @ place[:, :3].T + place[:, 3]
    plane, there = bent(local, camera.distortion, near)
    pixels = plane * camera.focal.to(means) + camera.center.to(means)
    size = means.new_tensor([camera.width, camera.height])
    within = ((pixels > -BESIDE * size) & (pixels < (1 + BESIDE) * size)).all(2)
    rows = torch.nonzero(there.all(1) & within.any(1) & (quaternions != 0).any(1))[:, 0]
    pixels = pixels[rows]
    mean = pixels[:, 1:].mean(1)
    by = pixels.new_tensor([2.0, *[1 / 6] * 6]).sqrt()
    x, y = ((pixels - mean[:, None]) * by[:, None]).unbind(2)
    cross = x[:, :, None] * y[:, None] - y[:, :, None] * x[:, None]
    det = cross.square().sum((1, 2)) / 2  # a sum of squares: no difference of large numbers
    xx, xy, yy = (x * x).sum(1), (x * y).sum(1), (y * y).sum(1)
    covariance = torch.stack([xx, xy, xy, yy], 1).view(-1, 2, 2)
    drawn = footprint(covariance, det, opacity_logits[rows], dilation, antialiased)
    inside = (mean + drawn.half > 0) & (mean - drawn.half < size)
    inside &= ((drawn.opacity >= FAINTEST) & (drawn.area > 0) & (drawn.area < 3e38))[:, None]
    kept = torch.nonzero(inside.all(1))[:, 0]
    columns = mean, drawn.conic, drawn.opacity, local[rows][:, 0, 2], drawn.half
    return Projected(rows[kept], *(column[kept] for column in columns))


def bent(
    local: Float[Tensor, "*n 3"], distortion: Float[Tensor, " 8"], near: float
) -> tuple[Float[Tensor, "*n 2"], Bool[Tensor, "*n"]]:
    """Points before the camera on the plane behind the lens, and whether it maps them there."""
    k1, k2, p1, p2, k3, k4, k5, k6 = distortion.to(local).unbind()
    away = local[..., 2] > near
    z = torch.where(away, local[..., 2], torch.ones_like(local[..., 2]))
    a, b = local[..., 0] / z, local[..., 1] / z
    r2 = a * a + b * b
    there = away & (r2 < fold(distortion))
    r2 = torch.where(there, r2, torch.zeros_like(r2))
    g = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    x = a * g + 2 * p1 * a * b + p2 * (r2 + 2 * a * a)
    y = b * g + p1 * (r2 + 2 * b * b) + 2 * p2 * a * b
    return torch.stack([x, y], -1), there


def fold(distortion: Float[Tensor, " 8"]) -> float:
    """The r^2 at which a lens turns back to its middle: what is farther out has no own place.

    By its radial part alone; where it never does, more than any picture shows.
    """
    k1, k2, _, _, k3, k4, k5, k6 = distortion.double().tolist()
    upper, lower = np.array([1, k1, k2, k3]), np.array([1, k4, k5, k6])
    grows = upper * (1 + 2 * np.arange(4))  # of r times the upper polynomial, along r
    falls = lower * 2 * np.arange(4)
    slope: np.ndarray = np.polynomial.polynomial.polysub(
        np.convolve(grows, lower), np.convolve(upper, falls)
    )
    found = [UNBOUNDED]
    for polynomial in (slope, lower):
        roots = np.polynomial.polynomial.polyroots(np.trim_zeros(polynomial, "b"))
        real = roots[np.abs(roots.imag) < 1e-9 * (1 + np.abs(roots))].real
        found += real[real > 0].tolist()
    return float(min(found))
