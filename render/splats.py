"""Images of Gaussians seen by cameras of any model."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from polyfield.cuda.errors import InputError
from polyfield.cuda.rotations import matrices
from polyfield.cuda.splat_color import splat_color
from polyfield.cuda.splat_project import (
    FAINTEST,
    Projected,
    SplatCamera,
    footprint,
    splat_project,
)
from polyfield.cuda.splat_raster import Drawn, splat_raster
from polyfield.fields.gaussians import Gaussians
from polyfield.fields.splats import Splats
from polyfield.render.cameras import Cameras
from polyfield.render.lenses import MODELS

DILATION = 0.3  # square pixels
NEAR = 0.01
BEYOND = 0.1  # of the sensor's sides: how far beside it a point of a Gaussian may say where it is
NOTHING = 1e-10  # opacity, below which a pixel has no depth
KERNEL_MODELS = {"PINHOLE": "pinhole", "OPENCV_FISHEYE": "fisheye"}


class SplatView(NamedTuple):
    """What a camera sees. Colours as they are trained, sRGB; not cut at 1."""

    color: Float[Tensor, "height width 3"]
    opacity: Float[Tensor, "height width"]
    depth: Float[Tensor, "height width"]
    """Mean along the optical axis, of a fisheye along the ray, of what is seen; 0 for nothing."""
    half_depth: Float[Tensor, "height width"] | None
    """Where half of the light is gone; 0 where it never is. None unless asked for."""
    normal: Float[Tensor, "height width 3"] | None
    """Sum of unit normals by weight, in the axes of the Gaussians; None unless asked for."""
    seen: Projected
    """The Gaussians in it, one a row, with gradients where they were asked for."""


def splat_view(
    splats: Splats | Gaussians,
    cameras: Cameras,
    index: int,
    background: Float[Tensor, " 3"] | Float[Tensor, "height width 3"],
    degree: int | None = None,
    near: float = NEAR,
    spread: Float[Tensor, "v 2"] | None = None,
    normals: bool = False,
    half_depth: bool = False,
) -> SplatView:
    """The image of one camera, in the frame of the Gaussians.

    Pinholes and Kannala and Brandt's fisheyes by the lens's slopes; any other lens by where it maps
    seven points of each Gaussian, without undistorting. degree: of the harmonics, all where none is
    given. near: nothing is seen at a smaller depth. spread: see `splat_raster`. normals: of each
    Gaussian the axis along which it is thinnest, towards the camera. Differentiable in the
    Gaussians, the background and the camera's pose. Raises InputError for an equirectangular
    camera, whose Gaussians would be cut at its border.
    """
    seen = project(splats, cameras, index, near)
    width, height = int(cameras.width[index]), int(cameras.height[index])
    eye = cameras.camera_to_world[index, :, 3].to(splats.means)
    color = splat_color(splats.means, splats.harmonics, eye, seen.rows, degree)
    parts = [color, seen.depths[:, None]]
    if normals:
        parts.append(facing(splats, eye, seen.rows))
    channels = torch.cat(parts, 1)
    drawn = splat_raster(seen, channels, width, height, spread=spread, half=half_depth)
    return _shown(drawn, seen, background)


def _shown(drawn: Drawn, seen: Projected, background: Tensor) -> SplatView:
    sums, left = drawn.sums[0], drawn.left[0]
    half = None if drawn.half is None else drawn.half[0]
    opacity = 1 - left
    color = sums[..., :3] + left[..., None] * background.to(sums)
    depth = sums[..., 3] / opacity.clamp_min(NOTHING)
    normal = sums[..., 4:] if sums.shape[2] > 4 else None
    return SplatView(color, opacity, depth, half, normal, seen)


def facing(
    splats: Splats | Gaussians, eye: Float[Tensor, " 3"], rows: Int64[Tensor, " v"]
) -> Float[Tensor, "v 3"]:
    """Of those Gaussians, the unit axis along which each is thinnest, the way that the eye sees."""
    axes = matrices(splats.quaternions[rows])
    thin = splats.log_scales[rows].argmin(1)
    normal = axes.gather(2, thin[:, None, None].expand(-1, 3, 1))[..., 0]
    away = (normal * (splats.means[rows] - eye)).sum(1, keepdim=True)
    return torch.where(away > 0, -normal, normal)


def project(
    splats: Splats | Gaussians, cameras: Cameras, index: int, near: float = NEAR
) -> Projected:
    """The Gaussians that a camera may see, on its sensor. Raises InputError as `splat_view`."""
    numbers = splats.means, splats.log_scales, splats.quaternions, splats.opacity_logits
    pose = world_to_camera(cameras.camera_to_world[index]).to(splats.means)
    model = KERNEL_MODELS.get(cameras.model)
    if model is None:
        if cameras.model == "EQUIRECTANGULAR":
            raise InputError("splats", "an equirectangular camera", "a lens with a border")
        return _project_points(splats, pose, cameras, index, near)
    distortion = pose.new_zeros(4)
    if model == "fisheye":
        distortion = cameras.distortion[index, :4].to(pose)
    view = SplatCamera(
        pose,
        cameras.focal[index].to(pose),
        cameras.center[index].to(pose),
        distortion,
        int(cameras.width[index]),
        int(cameras.height[index]),
        "fisheye" if model == "fisheye" else "pinhole",
    )
    return splat_project(*numbers, view, near, DILATION, splats.antialiased)


def world_to_camera(camera_to_world: Float[Tensor, "3 4"]) -> Float[Tensor, "3 4"]:
    """The inverse of a rotation and a position."""
    turn = camera_to_world[:, :3].T
    return torch.cat([turn, -turn @ camera_to_world[:, 3:]], 1)


def _project_points(
    splats: Splats | Gaussians, pose: Tensor, cameras: Cameras, index: int, near: float
) -> Projected:
    """By the unscented transform: where the lens maps a Gaussian's middle and six points about it.

    Source: 3DGUT (arXiv:2412.12507), with alpha 1, beta 2 and kappa 0: of the middle's weights only
    that in the covariance is not 0, and no difference of large numbers arises.
    """
    means = splats.means
    axes = matrices(splats.quaternions) * splats.log_scales.exp()[:, None]
    about = 3**0.5 * torch.cat([axes.mT, -axes.mT], 1)
    points = torch.cat([means[:, None], means[:, None] + about], 1)  # [n, 7, 3]
    local = points @ pose[:, :3].T + pose[:, 3]
    lens = MODELS[cameras.model]
    flat = local.reshape(-1, 3).T
    distortion = cameras.distortion[index].to(means)[:, None].expand(-1, flat.shape[1])
    plane = lens.project(flat, distortion).T.view(-1, 7, 2)
    pixels = plane * cameras.focal[index].to(means) + cameras.center[index].to(means)
    size = means.new_tensor([int(cameras.width[index]), int(cameras.height[index])])
    usable = pixels.isfinite().all(2) & (local[..., 2] > near)
    valid = usable & ((pixels > -BEYOND * size) & (pixels < (1 + BEYOND) * size)).all(2)
    there = usable.all(1) & valid.any(1)
    kept = torch.nonzero(there)[:, 0]
    pixels = pixels[kept]
    mean = pixels[:, 1:].mean(1)
    off = pixels - mean[:, None]
    covariance = (off[:, 1:, :, None] * off[:, 1:, None, :]).mean(1)
    covariance = covariance + 2 * off[:, 0, :, None] * off[:, 0, None, :]
    det = covariance[:, 0, 0] * covariance[:, 1, 1] - covariance[:, 0, 1] ** 2
    logits = splats.opacity_logits[kept]
    drawn = footprint(covariance, det.clamp_min(0), logits, DILATION, splats.antialiased)
    inside = (mean + drawn.half > 0) & (mean - drawn.half < size)
    rows = torch.nonzero((drawn.opacity >= FAINTEST) & inside.all(1))[:, 0]
    columns = mean, drawn.conic, drawn.opacity, local[kept, 0, 2], drawn.half
    return Projected(kept[rows], *(column[rows] for column in columns))
