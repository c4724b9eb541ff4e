"""Where in the input's frame a scene lies: the cube that becomes the field's unit cube."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, UInt8
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d, max_pool2d, normalize

from polyfield.fields.similarity import Similarity
from polyfield.render.cameras import Cameras
from polyfield.render.paths import nearest_to_axes

Backdrop = tuple[int, int, int]

_CELLS = 24  # a side of the coarse visual hull
_LONGEST_MASK = 1600  # cells of the longer side
_PLAIN = 3  # 8-bit steps by which a plain backdrop may vary
_ENOUGH_POINTS = 50
_MOST_LEVELS = 7
_DIFFERENT = 8  # 8-bit steps from the backdrop that make a pixel the object's


@dataclass(frozen=True, eq=False)
class Bounds:
    """A cube in the input's frame, how many nested grids it needs, and the reason for it."""

    center: Float[Tensor, " 3"]
    side: float
    grid_levels: int
    near: float
    """Input units from a camera within which nothing is: so that no fog sticks to the lens."""
    reason: str
    focus: float = 0.0
    """Input units from a camera to what it looks at, for scenes that surround the cameras. Nearer
    than that the cameras' own views outweigh the others; 0: the object stands alone."""

    def to_field(self) -> Similarity:
        """The input's frame to the unit cube, axes kept."""
        scale = 1 / self.side
        eye = torch.eye(3, dtype=torch.float64)
        return Similarity(scale, eye, 0.5 - scale * self.center.double())


@dataclass(frozen=True, eq=False)
class Gaze:
    """What the cameras look at, as far as their optical axes tell."""

    target: Float[Tensor, " 3"]
    """The point nearest to all axes; the middle of the cameras where they look outwards."""
    distance: Float[Tensor, " n"]
    """From each camera to the target."""
    inward: bool
    """The target lies before most cameras."""


def gaze(cameras: Cameras) -> Gaze:
    """The common target of all optical axes in the least-squares sense.

    Axes that run (nearly) parallel meet nowhere: the target is then put ahead of the middle of the
    cameras by four times their spread, a forward-facing capture's usual depth.
    """
    axis = cameras.camera_to_world[:, :, 2].double()
    position = cameras.camera_to_world[:, :, 3].double()
    middle = position.mean(0)
    target = nearest_to_axes(cameras.camera_to_world)
    if target is None:
        spread = (position - middle).norm(dim=1).max()
        ahead = axis.mean(0)
        target = middle + ahead / ahead.norm().clamp(min=1e-9) * (4 * spread if spread > 0 else 1.0)
    inward = ((target - position) * axis).sum(1) > 0
    if inward.double().mean() < 0.75:
        return Gaze(middle, (position - middle).norm(dim=1), False)
    return Gaze(target, (position - target).norm(dim=1), True)


def looked_at(cameras: Cameras, bounds: Bounds) -> bool:
    """Whether what the cameras look at lies within the bounds, or they look outwards."""
    seen = gaze(cameras)
    return not seen.inward or float((seen.target - bounds.center).abs().max()) < bounds.side / 2


def synthetic_bounds(cameras: Cameras) -> Bounds | None:
    """NeRF-synthetic's box [-1.5, 1.5]^3, unless the cameras say that the scene lies elsewhere.

    In the originals they stand 4.03 from the origin, look at it, and see 1.45 to each side. None
    where they look past the origin, stand among the box, or see much more or less than the box.
    """
    seen = gaze(cameras)
    distance = float(seen.distance.median())
    half_view = distance * float((cameras.width / 2 / cameras.focal[:, 0]).median())
    centred = float(seen.target.norm()) < 0.5
    if not (seen.inward and centred and 2.5 < distance < 8 and 0.75 < half_view < 2.2):
        return None
    center = torch.zeros(3, dtype=torch.float64)
    near = _near_object(cameras, center, 3.0)
    return Bounds(center, 3.0, 1, near, "the NeRF-synthetic box [-1.5, 1.5]^3")


def camera_bounds(cameras: Cameras, points: Float[Tensor, "p 3"] | None = None) -> Bounds:
    """Nested cubes about what the cameras look at, for scenes with a background.

    With r the largest distance (along an axis) from the target to a camera, and no points: the
    finest of four cubes has side r and holds what is looked at, the next, of 2 r, holds every
    camera, and the whole, of 8 r, leaves room for what is seen past it: a field that had to explain
    far things on a near wall would put fog before the cameras. Sparse points tell more: the finest
    cube then holds seven tenths of them, the whole all cameras and all points but stray ones.
    Every doubling costs one more level of the occupancy grid, so there is an end to it.
    """
    seen = gaze(cameras)
    position = cameras.camera_to_world[:, :, 3].double()
    reach = float((position - seen.target).abs().max())
    if reach < 1e-9:
        reach = 1.0  # a single station: its unit is the only one there is
    finest, levels = reach, 4
    if points is not None and len(points) >= _ENOUGH_POINTS:
        off = (points.double() - seen.target).abs().amax(1)
        middle, most = torch.quantile(off, torch.tensor([0.7, 0.99], dtype=off.dtype)).tolist()
        finest = min(max(2.5 * middle, reach / 8), 2 * reach)
        levels = 1 + math.ceil(math.log2(max(2.4 * reach, 2.2 * most, finest) / finest))
        levels = min(max(levels, 2), _MOST_LEVELS)
    what = "about the point that the cameras look at"
    if not seen.inward:
        what = "about the cameras, which look outwards"
    reason = f"{levels} nested cubes {what}, the finest of side {finest:.3g}"
    distance = float(seen.distance.median())
    near = max(0.05 * distance if seen.inward else 0.02 * reach, 1e-3 * reach)
    if points is not None and len(points) >= _ENOUGH_POINTS:
        near = max(near, 0.4 * _nearest_points(cameras, points))
    side = finest * 2 ** (levels - 1)
    return Bounds(seen.target, side, levels, near, reason, focus(cameras))


def common_view(cameras: Cameras, near: float) -> dict | None:
    """Axes, origin, extent and near of the `Projection` of what cameras see that look one way.

    cameras: poses in the unit cube. near: sides of it before each camera in which nothing is.
    The plane goes through the rearmost camera. None where one of them looks 60 degrees or more
    away from the mean, or sees that far: there is no such plane then.
    """
    poses = cameras.camera_to_world.double()
    ahead = normalize(poses[:, :, 2].mean(0), dim=0)
    down = normalize(poses[:, :, 1].mean(0) - (poses[:, :, 1].mean(0) @ ahead) * ahead, dim=0)
    axes = torch.stack([torch.linalg.cross(down, ahead), down, ahead])
    own = poses[:, :, 3] @ axes.T
    origin = torch.cat([own[:, :2].mean(0), own[:, 2:].amin(0)]) @ axes
    own = own - axes @ origin
    ticks = torch.linspace(0, 1, 9)
    border = torch.cartesian_prod(ticks, ticks)  # also what a lens bends outwards amid a side
    tangents = []
    for index in range(len(cameras)):
        pixels = border * torch.stack([cameras.width[index], cameras.height[index]])
        camera = torch.full((len(pixels),), index)
        directions = cameras.rays(camera, pixels)[1].double() @ axes.T
        if not bool((directions[:, 2] > 0.5).all()):  # neither if it is not finite
            return None
        close = own[index] + directions * (2 * near / directions[:, 2:])
        tangents += [directions[:, :2] / directions[:, 2:], close[:, :2] / close[:, 2:]]
    extent = torch.cat(tangents).abs().amax(0)
    return {
        "axes": axes.tolist(),
        "origin": origin.tolist(),
        "extent": extent.tolist(),
        "near": near,
    }


def focus(cameras: Cameras) -> float:
    """Input units from a camera to what all look at, the median; 0 where they look outwards."""
    seen = gaze(cameras)
    return float(seen.distance.median()) if seen.inward else 0.0


def _nearest_points(cameras: Cameras, points: Float[Tensor, "p 3"]) -> float:
    """Depth of the nearest sparse points before the cameras, stray ones left out; 0 for none."""
    some = points[:: max(1, len(points) // 4096)].double()
    sizes = torch.stack([cameras.width, cameras.height], 1)
    nearest = []
    for index in range(0, len(cameras), max(1, len(cameras) // 64)):
        pixels, depth = cameras.project(torch.full((len(some),), index), some)
        seen = depth[((pixels >= 0) & (pixels < sizes[index])).all(1) & (depth > 0)]
        if len(seen) >= 10:
            nearest.append(float(torch.quantile(seen, 0.02)))
    return sorted(nearest)[len(nearest) // 10] if nearest else 0.0


def object_bounds(
    cameras: Cameras, masks: Sequence[Bool[Tensor, "_ _"]], what: str
) -> Bounds | None:
    """The cube about a coarse visual hull: one camera and one mask of the object a view.

    A cell belongs to the hull if nine in ten of the views that see it see the object there (a hole
    in one mask must not cut the object), and at least half of the views see it at all. One tenth is
    added to the side. None if nothing is left, so that the caller looks for other evidence.
    """
    seen = gaze(cameras)
    half_view = seen.distance * (cameras.width / 2 / cameras.focal[:, 0]).double()
    low, high = seen.target - 1.2 * half_view.median(), seen.target + 1.2 * half_view.median()
    for resolution in (2 * _CELLS, 4 * _CELLS):
        cells = _hull_cells(cameras, masks, low, high, resolution)
        if not len(cells):
            return None
        half_cell = (high - low) / _CELLS / 2
        low, high = cells.amin(0) - 1.5 * half_cell, cells.amax(0) + 1.5 * half_cell
    center = (low + high) / 2
    side = 1.1 * float((high - low).max())
    return Bounds(center, side, 1, _near_object(cameras, center, side), f"visual hull of {what}")


def sphere_bounds(
    cameras: Cameras, center: Float64[Tensor, " 3"], radius: float, *, background: bool
) -> Bounds:
    """The cube about a sphere that holds the object, as the scene's files say.

    With a background it is the finest of four nested cubes, the largest eight times as wide.
    """
    side, near = 2 * radius, _near_object(cameras, center, 2 * radius)
    if not background:
        return Bounds(center, side, 1, near, "the sphere that the files put about the object")
    reason = "the sphere that the files put about the object, amid four nested cubes"
    return Bounds(center, 8 * side, 4, near, reason)


def _near_object(cameras: Cameras, center: Tensor, side: float) -> float:
    """A quarter of the way to the cube's corners; a twentieth of that to its centre if inside."""
    distance = float((cameras.camera_to_world[:, :, 3].double() - center).norm(dim=1).min())
    return max(0.25 * (distance - 0.5 * math.sqrt(3) * side), 0.05 * distance, 1e-3 * side)


def _hull_cells(
    cameras: Cameras, masks: Sequence[Tensor], low: Tensor, high: Tensor, resolution: int
) -> Tensor:
    """Centres of the cells of the box [low, high] that the views agree on."""
    steps = (torch.arange(_CELLS, dtype=torch.float64) + 0.5) / _CELLS
    cells = low + torch.cartesian_prod(steps, steps, steps) * (high - low)
    views = torch.zeros(len(cells))
    hits = torch.zeros(len(cells))
    sizes = torch.stack([cameras.width, cameras.height], 1)
    for view, mask in enumerate(masks):
        coarse = adaptive_max_pool2d(mask[None].float(), resolution)
        coarse = max_pool2d(coarse, 3, stride=1, padding=1)[0]  # a cell is wider than its centre
        pixels, _ = cameras.project(torch.full((len(cells),), view), cells)
        place = pixels / sizes[view]
        inside = ((place >= 0) & (place < 1)).all(1)
        column, row = (place[inside] * resolution).long().T
        views += inside
        hits[inside] += coarse[row, column]
    return cells[(hits >= 0.9 * views) & (views >= max(1, len(masks) / 2))]


def border(image: UInt8[Tensor, "_ _ 4"]) -> UInt8[Tensor, "n 4"]:
    """The pixels along an image's four sides."""
    return torch.cat([image[0], image[-1], image[:, 0], image[:, -1]])


def find_backdrop(borders: Sequence[UInt8[Tensor, "_ 4"]]) -> Backdrop | None:
    """The one colour that the borders of all these opaque images have, if they have one."""
    edges = [edge.float() for edge in borders]
    colour = torch.cat(edges)[:, :3].median(0).values
    for edge in edges:
        # The object may reach over the border here and there.
        plain = ((edge[:, :3] - colour).abs() <= _PLAIN).all(1)
        if plain.float().mean() < 0.9:
            return None
    red, green, blue = (int(value) for value in colour)
    return red, green, blue


def object_mask(
    image: UInt8[Tensor, "height width 4"], backdrop: Backdrop | None
) -> Bool[Tensor, "rows columns"]:
    """Where an image shows the object: by its alpha, or by its difference from the backdrop.

    Cells of a large image stand for several pixels each: on if the object is in any of them.
    """
    if backdrop is None:
        mask = image[:, :, 3] > 0
    else:
        mask = (image[:, :, :3].short() - torch.tensor(backdrop).short()).abs().amax(2) > _DIFFERENT
    factor = math.ceil(max(mask.shape) / _LONGEST_MASK)
    if factor == 1:
        return mask
    return max_pool2d(mask[None].float(), factor, ceil_mode=True)[0] > 0
