"""Cameras as tensors: rays through pixels, points onto pixels, one the inverse of the other."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from polyfield.cuda.errors import InputError
from polyfield.fields.similarity import Similarity
from polyfield.render.lenses import MODELS

LensKind = Literal["perspective", "fisheye", "equirectangular"]


@dataclass(frozen=True, eq=False)
class Cameras:
    """n cameras of one model, with OpenCV axes: x right, y down, z forward.

    camera_to_world is a rotation and a position; focal and center are in pixels. Pixel (i, j), of
    column i and row j, covers [i, i + 1] x [j, j + 1]; its centre is (i + 0.5, j + 0.5).
    distortion: the model's coefficients, see render.lenses.MODELS; further columns are not read.
    Raises InputError for a model that is not in MODELS, and where it lacks coefficients.
    """

    camera_to_world: Float[Tensor, "n 3 4"]
    focal: Float[Tensor, "n 2"]
    center: Float[Tensor, "n 2"]
    distortion: Float[Tensor, "n c"]
    width: Int64[Tensor, " n"]
    height: Int64[Tensor, " n"]
    model: str = "PINHOLE"

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise InputError("camera model", self.model, f"one of {', '.join(MODELS)}")
        names = MODELS[self.model].coefficients
        if self.distortion.shape[1] < len(names):
            got = f"{self.distortion.shape[1]} coefficients"
            raise InputError(f"camera model {self.model}", got, f"{len(names)}: {' '.join(names)}")

    def __len__(self) -> int:
        return len(self.camera_to_world)

    def rays(
        self, camera: Int64[Tensor, " r"], pixels: Float[Tensor, "r 2"]
    ) -> tuple[Float[Tensor, "r 3"], Float[Tensor, "r 3"]]:
        """Origins and unit directions, in the world, of the rays through pixel coordinates (x, y).

        Any position on the sensor is allowed: (i + 0.5, j + 0.5) is the centre of a pixel. The
        result has the wider dtype of cameras and pixels, and so has the inversion of the lens.
        """
        axis_x, axis_y, axis_z, origins, focal, center, distortion = self._columns(camera)
        x, y, z = MODELS[self.model].unproject((pixels.T - center) / focal, distortion)
        directions = axis_x * x + axis_y * y + axis_z * z
        directions = directions * (directions * directions).sum(0).rsqrt()
        return origins.T.to(directions.dtype), directions.T.contiguous()

    def project(
        self, camera: Int64[Tensor, " r"], points: Float[Tensor, "r 3"]
    ) -> tuple[Float[Tensor, "r 2"], Float[Tensor, " r"]]:
        """Pixel coordinates (x, y) of points of the world, and their depth along the optical axis.

        What no pixel sees, behind a perspective camera or beyond the fold of the lens polynomial,
        has pixel (inf, inf); the depth is true in either case.
        """
        axis_x, axis_y, axis_z, origins, focal, center, distortion = self._columns(camera)
        offset = points.T - origins
        local = torch.stack([(axis * offset).sum(0) for axis in (axis_x, axis_y, axis_z)])
        pixels = MODELS[self.model].project(local, distortion) * focal + center
        return pixels.T.contiguous(), local[2]

    def invertible(self) -> Bool[Tensor, " n"]:
        """Whether every position on a camera's sensor belongs to exactly one ray.

        Checked in float64 on a grid of 17 x 17 positions up to the border: each comes back within
        1e-6 px. Where a lens folds, positions past the fold have no ray, and Newton's steps end
        nowhere: of 180,000 random lenses 7,800 passed, and none of these turned a cell of the grid.
        """
        coefficients = self.distortion.shape[1]
        sensor = torch.stack([self.width, self.height], 1)
        lenses = torch.cat([sensor, self.focal, self.center, self.distortion], 1).double()
        # Most scenes have one lens for all their photographs.
        lenses, which = lenses.unique(dim=0, return_inverse=True)
        sensor, focal, center, distortion = lenses.T[:, :, None].split([2, 2, 2, coefficients])
        steps = torch.linspace(0, 1, 17, dtype=torch.float64, device=lenses.device)
        grid = torch.cartesian_prod(steps, steps).T[:, None]
        plane = (grid * sensor - center) / focal
        distortion = distortion.expand(coefficients, len(lenses), 289).flatten(1)
        lens = MODELS[self.model]
        directions = lens.unproject(plane.flatten(1), distortion)
        error = (lens.project(directions, distortion).view_as(plane) - plane).abs() * focal
        return (error < 1e-6).all(2).all(0)[which]

    def transformed(self, similarity: Similarity, dtype: torch.dtype = torch.float32) -> Cameras:
        """The same photographs in another frame: positions move and scale, pixels see the same.

        float32 unless asked otherwise: what leads into a field's frame is what the kernels take.
        """
        moved = similarity.apply_to_cameras(self.camera_to_world.double())
        return replace(self, camera_to_world=moved).to(self.camera_to_world.device, dtype)

    def select(self, indices: Int64[Tensor, " m"]) -> Cameras:
        """The cameras with these indices, in their order."""
        return self._map(lambda tensor: tensor.index_select(0, indices))

    def resized(self, width: int, height: int) -> Cameras:
        """The same view on a sensor of width x height pixels: intrinsics scale with each side."""
        if width < 1 or height < 1:
            raise InputError("size", f"{width}x{height}", "at least one pixel a side")
        size = torch.tensor([width, height], device=self.width.device)
        scale = (size / torch.stack([self.width, self.height], 1).double()).to(self.focal.dtype)
        return replace(
            self,
            focal=self.focal * scale,
            center=self.center * scale,
            width=torch.full_like(self.width, width),
            height=torch.full_like(self.height, height),
        )

    def every(self, stride: int) -> Cameras:
        """Of the pixels of each view every stride-th a side, with the rays that they have there.

        stride is odd: pixel (i, j) is the middle of a square of stride x stride ones, (stride i +
        stride // 2, stride j + stride // 2) of the whole view; squares cut off by the border have
        none. Raises InputError for another stride, or one that leaves no pixel of some view.
        """
        least = int(torch.minimum(self.width, self.height).min()) if len(self) else stride
        if stride % 2 == 0 or not 1 <= stride <= least:
            raise InputError("stride", str(stride), f"an odd number from 1 to {least}")
        return replace(
            self,
            focal=self.focal / stride,
            center=self.center / stride,
            width=self.width // stride,
            height=self.height // stride,
        )

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Cameras:
        """The same cameras on another device, their real numbers in `dtype` where one is given."""
        return self._map(lambda t: t.to(device, dtype if t.is_floating_point() else None))

    def _columns(self, camera: Tensor) -> tuple[Tensor, ...]:
        poses = self.camera_to_world.transpose(1, 2).flatten(1)
        table = torch.cat([poses, self.focal, self.center, self.distortion], 1)
        # One gather of rows, then one transposition: gathering columns is four times slower.
        return (
            table.index_select(0, camera)
            .T.contiguous()
            .split([3, 3, 3, 3, 2, 2, len(table[0]) - 16])
        )

    def _map(self, change: Callable[[Tensor], Tensor]) -> Cameras:
        return Cameras(
            change(self.camera_to_world),
            change(self.focal),
            change(self.center),
            change(self.distortion),
            change(self.width),
            change(self.height),
            self.model,
        )


def ideal_cameras(
    camera_to_world: Float[Tensor, "n 3 4"],
    lens: LensKind,
    field_of_view: Float[Tensor, " n"],
    width: int,
    height: int,
) -> Cameras:
    """Cameras without flaws at these poses: square pixels, the axis through the middle.

    field_of_view: degrees from the middle of the upper border to that of the lower, above 0; under
    180 for perspective, at most 360 for a fisheye (equidistant: as many pixels from the middle as
    the ray is degrees from the axis; what is 180 degrees and more from it has no ray).
    equirectangular shows the whole sphere instead, once, the axis in the middle, whatever the size.
    Raises InputError for an angle out of these ranges.
    """
    n = len(camera_to_world)
    angle = field_of_view.double().deg2rad()
    limit = {"perspective": math.pi * (1 - 1e-9), "fisheye": 2 * math.pi * (1 + 1e-9)}.get(lens)
    if limit is not None and not bool(((angle > 0) & (angle < limit)).all()):
        got = f"{field_of_view.amin():g} to {field_of_view.amax():g} degrees"
        expected = "above 0, under 180" if lens == "perspective" else "above 0, at most 360"
        raise InputError(f"field of view of a {lens} lens", got, expected)
    if lens == "perspective":
        focal = (height / 2 / torch.tan(angle / 2))[:, None].expand(n, 2)
    elif lens == "fisheye":
        focal = (height / angle)[:, None].expand(n, 2)
    else:
        both = [[width / (2 * math.pi), height / math.pi]]
        focal = torch.tensor(both, dtype=torch.float64).expand(n, 2)
    models = {"perspective": "PINHOLE", "fisheye": "OPENCV_FISHEYE"}
    dtype = camera_to_world.dtype
    return Cameras(
        camera_to_world=camera_to_world,
        focal=focal.to(dtype),
        center=torch.tensor([[width / 2, height / 2]], dtype=dtype).expand(n, 2),
        distortion=torch.zeros(n, 4, dtype=dtype),
        width=torch.full((n,), width),
        height=torch.full((n,), height),
        model=models.get(lens, "EQUIRECTANGULAR"),
    )
