"""Images of Gaussians seen by cameras of any model."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import pad

from polyfield.cuda.errors import InputError
from polyfield.cuda.rotations import matrices
from polyfield.cuda.splat_color import splat_color
from polyfield.cuda.splat_points import BentCamera, splat_points
from polyfield.cuda.splat_project import (
    FAINTEST,
    Projected,
    SplatCamera,
    footprint,
    splat_project,
)
from polyfield.cuda.splat_raster import splat_raster
from polyfield.fields.gaussians import Gaussians
from polyfield.fields.splats import Splats
from polyfield.render.cameras import Cameras
from polyfield.render.lenses import MODELS
from polyfield.render.view import View

DILATION = 0.3  # square pixels
NEAR = 0.01
BEYOND = 0.1  # of the sensor's sides: how far beside it a point of a Gaussian may say where it is
NOTHING = 1e-10  # opacity, below which a pixel has no depth
BENT_MODELS = ("OPENCV", "FULL_OPENCV")  # coefficients in this order
KERNEL_MODELS = {"PINHOLE": "pinhole", "OPENCV_FISHEYE": "fisheye"}


class SplatView(NamedTuple):
    """What a camera sees. Colours as they are trained, sRGB; not cut at 1."""

    color: Float[Tensor, "height width 3"]
    opacity: Float[Tensor, "height width"]
    depth: Float[Tensor, "height width"] | None
    """Mean along the optical axis, of a fisheye along the ray, of what is seen; 0 for nothing. None
    where it is not wanted."""
    half_depth: Float[Tensor, "height width"] | None
    """Where half of the light is gone; 0 where it never is. None unless asked for."""
    normal: Float[Tensor, "height width 3"] | None
    """Sum of unit normals by weight, in the axes of the Gaussians; None unless asked for."""
    seen: Projected
    """The Gaussians in it, one a row, with gradients where they were asked for."""
    spread: Float[Tensor, "v 2"] | None
    """Whose gradient is the absolute one to the means in pixels, see `splat_raster`; None unless
    asked for."""


def splat_view(
    splats: Splats | Gaussians,
    cameras: Cameras,
    index: int,
    background: Float[Tensor, " 3"] | Float[Tensor, "height width 3"],
    degree: int | None = None,
    near: float = NEAR,
    absolute: bool = False,
    normals: bool = False,
    half_depth: bool = False,
    depth: bool = True,
) -> SplatView:
    """The image of one camera, in the frame of the Gaussians.

    Pinholes and Kannala and Brandt's fisheyes by the lens's slopes; any other lens by where it maps
    seven points of each Gaussian, without undistorting. degree: of the harmonics, all where none is
    given. near: nothing is seen at a smaller depth. absolute: with `spread`. normals: of each
    Gaussian the axis along which it is thinnest, towards the camera. Differentiable in the
    Gaussians, the background and the camera's pose. Raises InputError for an equirectangular
    camera, whose Gaussians would be cut at its border.
    """
    seen = project(splats, cameras, index, near)
    width, height = int(cameras.width[index]), int(cameras.height[index])
    eye = cameras.camera_to_world[index, :, 3].to(splats.means)
    color = splat_color(splats.means, splats.harmonics, eye, seen.rows, degree)
    parts = [color]
    if depth:
        parts.append(seen.depths[:, None])
    if normals:
        parts.append(facing(splats, eye, seen.rows))
    channels = color if len(parts) == 1 else torch.cat(parts, 1)
    spread = torch.zeros_like(seen.means2d, requires_grad=True) if absolute else None
    flat = background.dim() == 1
    behind = pad(background.to(color), (0, channels.shape[1] - 3)) if flat else None
    drawn = splat_raster(
        seen, channels, width, height, spread=spread, half=half_depth, background=behind
    )
    sums, left = drawn.sums[0], drawn.left[0]
    opacity = 1 - left
    return SplatView(
        color=sums[..., :3] if flat else sums[..., :3] + left[..., None] * background.to(sums),
        opacity=opacity,
        depth=sums[..., 3] / opacity.clamp_min(NOTHING) if depth else None,
        half_depth=None if drawn.half is None else drawn.half[0],
        normal=sums[..., -3:] if normals else None,
        seen=seen,
        spread=spread,
    )


def light_on(seen: Projected, marks: Float[Tensor, "height width c"]) -> Float[Tensor, "v c"]:
    """How much of the light of each Gaussian that is seen lies on marks, summed over pixels.

    That is the gradient of what is drawn to the Gaussians' channels.
    """
    height, width, count = marks.shape
    with torch.enable_grad():
        ones = marks.new_ones(len(seen.rows), count, requires_grad=True)
        sums = splat_raster(seen, ones, width, height).sums
        (found,) = torch.autograd.grad(sums, ones, marks[None])
    return found


@torch.no_grad()
def splat_image(
    splats: Splats | Gaussians,
    cameras: Cameras,
    index: int,
    background: tuple[float, float, float],
    near: float = NEAR,
    normals: bool = False,
    depth: bool = True,
) -> View:
    """`splat_view` as views of other fields are: colours cut at 1, depth along rays.

    depth: without it, it is 0 everywhere, and the view sooner there.
    """
    behind = torch.tensor(background)
    shown = splat_view(splats, cameras, index, behind, near=near, normals=normals, depth=depth)
    along = torch.zeros_like(shown.opacity) if shown.depth is None else shown.depth
    if depth and cameras.model != "OPENCV_FISHEYE":
        along = along * ray_lengths(cameras, index)
    return View(shown.color.clamp(0, 1), shown.opacity, along, shown.normal)


def ray_lengths(cameras: Cameras, index: int) -> Float[Tensor, "height width"]:
    """How long a pixel's ray is that goes forward by 1, of a lens that sees forward alone."""
    width, height = int(cameras.width[index]), int(cameras.height[index])
    place = torch.arange(width * height, device=cameras.focal.device)
    middle = torch.stack([place % width, place // width], 1) + 0.5
    _, directions = cameras.rays(torch.full_like(place, index), middle)
    along = directions @ cameras.camera_to_world[index, :, 2]
    return (1 / along.clamp_min(NOTHING)).view(height, width)


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
    if cameras.model in BENT_MODELS:
        bends = pose.new_zeros(8)
        known = cameras.distortion[index, : len(MODELS[cameras.model].coefficients)].to(pose)
        bends[: len(known)] = known
        focal, center = cameras.focal[index].to(pose), cameras.center[index].to(pose)
        size = int(cameras.width[index]), int(cameras.height[index])
        bent = BentCamera(pose, focal, center, bends, *size)
        return splat_points(*numbers, bent, near, DILATION, splats.antialiased)
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
    size = splats.means.new_tensor([int(cameras.width[index]), int(cameras.height[index])])
    with torch.no_grad():
        # First, without gradients, which of them: what no lens maps has none that are numbers.
        rows = torch.arange(len(splats.means), device=splats.means.device)
        local, pixels = _mapped(splats, rows, pose, cameras, index)
        usable = pixels.isfinite().all(2) & (local[..., 2] > near)
        valid = usable & ((pixels > -BEYOND * size) & (pixels < (1 + BEYOND) * size)).all(2)
        kept = torch.nonzero(usable.all(1) & valid.any(1))[:, 0]
    local, pixels = _mapped(splats, kept, pose, cameras, index)
    mean = pixels[:, 1:].mean(1)
    off = pixels - mean[:, None]
    covariance = (off[:, 1:, :, None] * off[:, 1:, None, :]).mean(1)
    covariance = covariance + 2 * off[:, 0, :, None] * off[:, 0, None, :]
    det = covariance[:, 0, 0] * covariance[:, 1, 1] - covariance[:, 0, 1] ** 2
    logits = splats.opacity_logits[kept]
    drawn = footprint(covariance, det.clamp_min(0), logits, DILATION, splats.antialiased)
    inside = (mean + drawn.half > 0) & (mean - drawn.half < size)
    rows = torch.nonzero((drawn.opacity >= FAINTEST) & inside.all(1))[:, 0]
    columns = mean, drawn.conic, drawn.opacity, local[:, 0, 2], drawn.half
    return Projected(kept[rows], *(column[rows] for column in columns))


def _mapped(
    splats: Splats | Gaussians,
    rows: Int64[Tensor, " m"],
    pose: Tensor,
    cameras: Cameras,
    index: int,
) -> tuple[Float[Tensor, "m 7 3"], Float[Tensor, "m 7 2"]]:
    """The middle of each Gaussian and six points about it: before the camera, and on the sensor."""
    means = splats.means[rows]
    axes = matrices(splats.quaternions[rows]) * splats.log_scales[rows].exp()[:, None]
    about = 3**0.5 * torch.cat([axes.mT, -axes.mT], 1)
    points = torch.cat([means[:, None], means[:, None] + about], 1)
    local = points @ pose[:, :3].T + pose[:, 3]
    flat = local.reshape(-1, 3).T
    distortion = cameras.distortion[index].to(means)[:, None].expand(-1, flat.shape[1])
    plane = MODELS[cameras.model].project(flat, distortion).T.view(-1, 7, 2)
    return local, plane * cameras.focal[index].to(means) + cameras.center[index].to(means)
