"""Gaussians seen by a camera: where on the sensor they lie, how wide and how opaque."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from polyfield.cuda.backend import backend_of
from polyfield.cuda.errors import InputError
from polyfield.cuda.kernel import constant, kernel, launch
from polyfield.cuda.rotations import matrices

SplatModel = Literal["pinhole", "fisheye"]
MODELS: tuple[SplatModel, ...] = ("pinhole", "fisheye")
FAINTEST = 1 / 255  # of opacities that are drawn
BESIDE = 0.15  # of the sensor's sides, beyond which slopes are those there
LEAST_SHARE = 0.005
WIDEST = 1e18  # square pixels
ALONG_AXIS = 1e-8  # of the squared sine of the angle to it, below which a fisheye is a pinhole


class SplatCamera(NamedTuple):
    """One view. OpenCV axes; pixel (i, j) has its middle at (i + 0.5, j + 0.5)."""

    world_to_camera: Float[Tensor, "3 4"]
    focal: Float[Tensor, " 2"]
    """In pixels."""
    center: Float[Tensor, " 2"]
    distortion: Float[Tensor, " 4"]
    """Of a fisheye, k1 to k4 (Kannala and Brandt); of a pinhole not read."""
    width: int
    height: int
    model: SplatModel = "pinhole"


class Projected(NamedTuple):
    """The Gaussians that a view may show, one a row, in their order."""

    rows: Int64[Tensor, " v"]
    """Which they are."""
    means2d: Float[Tensor, "v 2"]
    """In pixels."""
    conics: Float[Tensor, "v 3"]
    """xx, xy, yy of the inverse covariance on the sensor, in 1 / pixels^2."""
    opacities: Float[Tensor, " v"]
    depths: Float[Tensor, " v"]
    """Along the optical axis; of a fisheye along the ray."""
    extents: Float[Tensor, "v 2"]
    """Half the sides of the rectangle beyond which their opacity is under 1 / 255, in pixels."""


def splat_project(
    means: Float[Tensor, "n 3"],
    log_scales: Float[Tensor, "n 3"],
    quaternions: Float[Tensor, "n 4"],
    opacity_logits: Float[Tensor, " n"],
    camera: SplatCamera,
    near: float = 0.01,
    dilation: float = 0.3,
    antialiased: bool = False,
) -> Projected:
    """Gaussians on a sensor, by the lens's slopes at their middles (EWA); those that it may see.

    log_scales: natural logarithms of standard deviations; quaternions w, x, y, z, of any length but
    0. near: nothing is seen at a smaller depth. dilation: square
    pixels that every covariance grows by; antialiased: opacities shrink as far as areas grow, to
    0.005 at the least. Slopes of what lies farther beside a pinhole's sensor than 0.15 of its sides
    are those there. Left out: what is not before the lens, misses the sensor, has an opacity under
    1 / 255, or numbers that are not finite. Differentiable once, in the Gaussians and in
    world_to_camera. float32 runs on kernels, the rest on the reference. Raises InputError for
    another model. Source: 3D Gaussian splatting (arXiv:2308.04079), Mip-splatting
    (arXiv:2311.16493), section 4.2.
    """
    if camera.model not in MODELS:
        raise InputError("camera of splats", str(camera.model)[:80], f"one of {', '.join(MODELS)}")
    if backend_of(means.device) == "reference" or means.dtype != torch.float32:
        numbers = means, log_scales, quaternions, opacity_logits
        return splat_project_reference(*numbers, camera, near, dilation, antialiased)
    place = camera.world_to_camera.to(means)
    lens = torch.cat([camera.focal, camera.center, camera.distortion]).to(means)
    numbers = means, log_scales, quaternions, opacity_logits
    sizes = camera.width, camera.height, near, dilation, antialiased
    return projected(*numbers, place, lens, sizes, MODELS.index(camera.model))


def projected(
    means: Float[Tensor, "n 3"],
    log_scales: Float[Tensor, "n 3"],
    quaternions: Float[Tensor, "n 4"],
    opacity_logits: Float[Tensor, " n"],
    world_to_camera: Float[Tensor, "3 4"],
    lens: Float[Tensor, " c"],
    sizes: tuple[int, int, float, float, bool],
    model: int,
) -> Projected:
    """What the kernels find through a lens of these numbers, of the model that they number so.

    sizes: width, height, near, dilation and whether it is antialiased, as `splat_project` has them.
    """
    inputs = means, log_scales, quaternions, opacity_logits, world_to_camera, lens
    return Projected(*_Project.apply(*inputs, sizes, model))


def splat_project_reference(
    means: Float[Tensor, "n 3"],
    log_scales: Float[Tensor, "n 3"],
    quaternions: Float[Tensor, "n 4"],
    opacity_logits: Float[Tensor, " n"],
    camera: SplatCamera,
    near: float = 0.01,
    dilation: float = 0.3,
    antialiased: bool = False,
) -> Projected:
    """The specification in plain torch, any floating type."""
    place = camera.world_to_camera.to(means)
    local = means @ place[:, :3].T + place[:, 3]
    factor = place[:, :3] @ matrices(quaternions) * log_scales.exp()[:, None]
    if camera.model == "pinhole":
        pixel, slopes, seen = _pinhole(local, camera)
        depth = local[:, 2]
    else:
        pixel, slopes, seen = _fisheye(local, camera)
        depth = local.norm(dim=1)
    seen = seen & (depth > near) & (quaternions != 0).any(1)
    across = slopes @ factor
    most = across.detach().square().sum(2).amax(1)[:, None, None]
    across = across * torch.where(most > WIDEST, (WIDEST / most).sqrt(), torch.ones_like(most))
    covariance = across @ across.mT
    det = torch.linalg.cross(across[:, 0], across[:, 1]).square().sum(1)
    drawn = footprint(covariance, det, opacity_logits, dilation, antialiased)
    size = pixel.new_tensor([camera.width, camera.height])
    there = seen & (drawn.opacity >= FAINTEST) & (drawn.area > 0) & (drawn.area < 3e38)
    there = there & ((pixel + drawn.half > 0) & (pixel - drawn.half < size)).all(1)
    rows = torch.nonzero(there)[:, 0]
    columns = pixel, drawn.conic, drawn.opacity, depth, drawn.half
    return Projected(rows, *(column[rows] for column in columns))


class Footprint(NamedTuple):
    """What is drawn of Gaussians with some covariances on the sensor."""

    conic: Float[Tensor, "n 3"]
    opacity: Float[Tensor, " n"]
    half: Float[Tensor, "n 2"]
    """As `Projected.extents`; without gradients."""
    area: Float[Tensor, " n"]
    """Determinant of the covariance, dilation included."""


def footprint(
    covariance: Float[Tensor, "n 2 2"],
    det: Float[Tensor, " n"],
    opacity_logits: Float[Tensor, " n"],
    dilation: float,
    antialiased: bool,
) -> Footprint:
    """How covariances of so much determinant, in pixels, are drawn: see `splat_project`."""
    xx, xy, yy = covariance[:, 0, 0], covariance[:, 0, 1], covariance[:, 1, 1]
    area = det + dilation * (xx + yy) + dilation**2
    xx, yy = xx + dilation, yy + dilation
    opacity = opacity_logits.sigmoid()
    if antialiased:
        opacity = opacity * (det / area).clamp_min(LEAST_SHARE**2).sqrt()
    reach = 2 * (255 * opacity.detach()).clamp_min(1).log()
    half = (reach[:, None] * torch.stack([xx, yy], 1).detach()).sqrt()
    return Footprint(torch.stack([yy, -xy, xx], 1) / area[:, None], opacity, half, area)


def _pinhole(local: Tensor, camera: SplatCamera) -> tuple[Tensor, Tensor, Tensor]:
    focal, center = camera.focal.to(local), camera.center.to(local)
    size = local.new_tensor([camera.width, camera.height])
    z = local[:, 2:]
    plane = local[:, :2] / z
    low, high = -(center + BESIDE * size) / focal, (size - center + BESIDE * size) / focal
    bounded = torch.minimum(torch.maximum(plane, low), high)
    zero = torch.zeros_like(z[:, 0])
    f = focal / z
    rows = [[f[:, 0], zero, -f[:, 0] * bounded[:, 0]], [zero, f[:, 1], -f[:, 1] * bounded[:, 1]]]
    slopes = torch.stack([torch.stack(row, 1) for row in rows], 1)
    return plane * focal + center, slopes, torch.ones_like(z[:, 0], dtype=torch.bool)


def _fisheye(local: Tensor, camera: SplatCamera) -> tuple[Tensor, Tensor, Tensor]:
    k = camera.distortion.to(local)
    x, y, z = local.unbind(1)
    across = x * x + y * y
    on_axis = across <= ALONG_AXIS * z * z
    safe = torch.where(on_axis, torch.ones_like(across), across)
    r, square = safe.sqrt(), safe + z * z
    angle = torch.atan2(r, z)
    s = angle**2
    bent = angle * (1 + s * (k[0] + s * (k[1] + s * (k[2] + s * k[3]))))
    grows = 1 + s * (3 * k[0] + s * (5 * k[1] + s * (7 * k[2] + s * 9 * k[3])))
    a, b = grows * z / (square * safe), bent / (r * safe)
    zero = torch.zeros_like(x)
    wide = [
        [x * x * a + y * y * b, x * y * (a - b), -x * grows / square],
        [x * y * (a - b), y * y * a + x * x * b, -y * grows / square],
    ]
    narrow = [[1 / z, zero, -x / z**2], [zero, 1 / z, -y / z**2]]
    slopes = torch.stack(
        [
            torch.stack(
                [torch.where(on_axis, n, w) for n, w in zip(near, far, strict=True)],
                1,
            )
            for near, far in zip(narrow, wide, strict=True)
        ],
        1,
    )
    focal, center = camera.focal.to(local), camera.center.to(local)
    by = torch.where(on_axis, 1 / z, bent / r)
    pixel = local[:, :2] * by[:, None] * focal + center
    return pixel, slopes * focal[:, None], grows > 0


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx, means, log_scales, quaternions, logits, place, lens, sizes, model):
        width, height, near, dilation, antialiased = sizes
        camera = torch.cat([place.reshape(-1), lens])
        inputs = [t.contiguous() for t in (means, log_scales, quaternions, logits)]
        n = len(means)
        means2d, conics, extents = (means.new_empty(n, width) for width in (2, 3, 2))
        opacities, depths = means.new_empty(n), means.new_empty(n)
        columns = means2d, conics, opacities, depths, extents
        plain = n, width, height, near, dilation, int(antialiased)
        body = kernel("splat_project", f"SplatProject<{model}>")
        launch(body, (_tiles(n), 1), *inputs, camera, *columns, *plain)
        index = torch.nonzero(extents[:, 0] > 0)[:, 0]
        # Often all of them are seen: then nothing needs to be moved, or zeroed on the way back.
        packed = columns if len(index) == n else [c.index_select(0, index) for c in columns]
        ctx.save_for_backward(*inputs, camera, index)
        ctx.plain = width, height, dilation, int(antialiased)
        ctx.model = model
        ctx.mark_non_differentiable(index, packed[-1])
        ctx.set_materialize_grads(True)
        return index, *packed

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, _, grad_means2d, grad_conics, grad_opacities, grad_depths, __):
        *inputs, camera, index = ctx.saved_tensors
        v = len(index)
        into = gradients_at(index, *inputs)
        pose = camera.new_zeros(max(1, _tiles(v)), 12)
        grads = [g.contiguous() for g in (grad_means2d, grad_conics, grad_opacities, grad_depths)]
        body = kernel("splat_project", f"SplatProjectPull<{ctx.model}>")
        launch(body, (_tiles(v), 1), *inputs, camera, index, *grads, *into, pose, v, *ctx.plain)
        return *into, pose.sum(0).view(3, 4), None, None, None


def gradients_at(index: Int64[Tensor, " v"], *like: Tensor) -> list[Tensor]:
    """Room for gradients whose rows at index, none twice, are about to be written; 0 in the others.

    Most often these are few, and zeros for all of them would cost as much as what is written.
    """
    n, found = len(like[0]), [torch.empty_like(tensor) for tensor in like]
    if 2 * len(index) < n:
        return [tensor.zero_() for tensor in found]
    if len(index) < n:
        missing = torch.ones(n, dtype=torch.bool, device=index.device)
        missing[index] = False
        rows = torch.nonzero(missing)[:, 0]
        for tensor in found:
            tensor.index_fill_(0, rows, 0)
    return found


def _tiles(n: int) -> int:
    return -(-n // constant("splat_placed", "SPLAT_ROWS"))
