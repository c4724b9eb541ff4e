"""Which points the cameras saw, by the depth that they saw."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

FACING = 4  # power of a cosine: a grazing view shows a smear
HIDDEN, UNSEEN = 1e-3, 1e-9  # weights beside one from straight ahead

Project = Callable[
    [Int64[Tensor, " r"], Float[Tensor, "r 3"]],
    tuple[Float[Tensor, "r 2"], Float[Tensor, " r"]],
]


def seen_in_depth_maps(
    project: Project,
    depth_maps: Float[Tensor, "views height width"],
    tolerance: float,
) -> Callable[[Float[Tensor, "n 3"]], Bool[Tensor, " n"]]:
    """A test for points: not behind what at least one view shows, by more than the tolerance.

    project maps (view, points) to pixels in the depth maps' own size (centre of the top-left one at
    (0.5, 0.5)) and depth in the measure of the maps, positive in front: Cameras.project does.
    depth_maps hold the depth of what each pixel shows, infinity where nothing is. tolerance in the
    points' unit: about two lattice cells of the surface, for depth changes within a pixel.
    """
    views, height, width = depth_maps.shape
    flat = depth_maps.reshape(-1)

    def visible(points: Float[Tensor, "n 3"]) -> Bool[Tensor, " n"]:
        seen = torch.zeros(len(points), dtype=torch.bool, device=points.device)
        for view in range(views):
            hidden = (~seen).nonzero()[:, 0]
            pixels, depth = project(torch.full_like(hidden, view), points[hidden])
            column, row = pixels.floor().long().unbind(1)
            shown = (depth > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
            index = (view * height + row[shown]) * width + column[shown]
            seen[hidden[shown]] = depth[shown] <= flat[index] + tolerance
        return seen

    return visible


def color_in_views(
    project: Project,
    depth_maps: Float[Tensor, "views height width"],
    images: Float[Tensor, "views height width 3"],
    origins: Float[Tensor, "views 3"],
    tolerance: float,
) -> Callable[[Float[Tensor, "n 3"], Float[Tensor, "n 3"]], Float[Tensor, "n 3"]]:
    """The colour of points in the views that see them, those most that do so from straight ahead.

    As `seen_in_depth_maps`; images: of the same views, origins: where from. The function takes
    points with the unit directions that they are to be seen along; a point that no view sees has
    the colour of what hides it, and one beside all views is grey.
    """
    views, height, width = depth_maps.shape
    flat, shades = depth_maps.reshape(-1), images.reshape(-1, 3)

    def color(points: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"]) -> Tensor:
        total = points.new_full((len(points), 3), 0.5 * UNSEEN)
        weight = points.new_full((len(points), 1), UNSEEN)
        for view in range(views):
            pixels, depth = project(torch.full_like(points[:, 0], view).long(), points)
            column, row = pixels.floor().long().unbind(1)
            shown = (depth > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
            index = (view * height + row[shown]) * width + column[shown]
            along = torch.nn.functional.normalize(points[shown] - origins[view], dim=1)
            facing = (along * directions[shown]).sum(1).clamp_min(0) ** FACING
            seen = depth[shown] <= flat[index] + tolerance
            share = torch.where(seen, facing + HIDDEN, HIDDEN**2)[:, None]
            total[shown] += share * shades[index]
            weight[shown] += share
        return total / weight

    return color
