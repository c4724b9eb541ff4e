"""The scene of `polyfield demo`: exact images, cameras, depth and mesh, made without any data."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, UInt8
from torch import Tensor
from torch.nn.functional import max_pool2d, normalize

from polyfield.apps.demo_light import encoded, first_hit, irradiance, shade
from polyfield.apps.demo_solids import Solid, merged
from polyfield.apps.demo_still_life import still_life
from polyfield.apps.formats.nerf_synthetic import View
from polyfield.apps.torch_threads import torch_threads
from polyfield.cuda.errors import InputError

ANGLE_X = 0.6911112070083618  # radians, the field of view of the NeRF-synthetic scenes
CAMERA_DISTANCE = 3.9
LOOK_AT = (0.0, 0.0, -0.22)
SUPERSAMPLING = 3  # rays a side of a pixel with an edge
EDGE = 0.05  # change of sRGB from pixel to pixel that light alone does not cause
RAYS_AT_ONCE = 600_000  # some 200 MB of working memory


@dataclass(frozen=True, eq=False)
class DemoScene:
    """A scene of which everything is known. World z is up, all lies in [-1.5, 1.5]^3.

    names: one a view, unique. images: straight alpha, sRGB, box-filtered over each pixel.
    camera_to_world: OpenCV axes. Every view is a pinhole of horizontal field angle_x (radians), its
    principal point in the middle of the square image. depth: along the forward axis through the
    pixel's centre, scene units, 0 where there is nothing. Vertices lie exactly on the surface, all
    of which can be seen from somewhere; faces are counter-clockwise from outside; vertex_colours
    are the diffuse ones, sRGB. splits: train, val, test -> indices of views.
    """

    names: tuple[str, ...]
    images: UInt8[np.ndarray, "views size size 4"]
    camera_to_world: Float32[Tensor, "views 3 4"]
    depth: Float32[np.ndarray, "views size size"]
    vertices: Float[Tensor, "v 3"]
    faces: Int[Tensor, "f 3"]
    vertex_colours: UInt8[np.ndarray, "v 3"]
    splits: dict[str, Int[Tensor, " _"]]
    angle_x: float

    def nerf_synthetic_splits(self) -> dict[str, list[View]]:
        """The views of each split, as `write_nerf_synthetic` takes them."""
        images = torch.from_numpy(self.images)
        return {
            split: [
                (self.names[view], self.camera_to_world[view], images[view])
                for view in indices.tolist()
            ]
            for split, indices in self.splits.items()
        }


def demo_scene(seed: int = 0, size: int = 200, views: int = 60) -> DemoScene:
    """Render the still life of `demo_still_life` from all around, `views` images of size x size.

    The seed moves the cameras, nothing else. Of 15 views 12 are for training, 1 for validation and
    2 for testing, spread evenly over heights. Raises InputError for fewer than 15 views or a size
    under 8. Some 11 s on one core for the defaults; torch's thread count is 1 meanwhile.
    """
    if views < 15 or size < 8:
        raise InputError("demo scene", f"{views} views of {size} x {size}", "at least 15 of 8 x 8")
    solids = still_life()
    poses = camera_poses(seed, views)
    # Thousands of small steps gain nothing from a second thread, and wait for it: on a busy machine
    # of two cores, two took six times as long as one.
    with torch_threads(1):
        images, depth = render_views(poses, size, solids)
    splits = _splits(views)
    vertices, faces = merged([solid.mesh() for solid in solids])
    return DemoScene(
        names=_names(splits, views),
        images=images,
        camera_to_world=poses,
        depth=depth,
        vertices=vertices,
        faces=faces,
        vertex_colours=_vertex_colours(solids),
        splits=splits,
        angle_x=ANGLE_X,
    )


def camera_poses(seed: int, views: int) -> Float32[Tensor, "views 3 4"]:
    """Poses all around the scene, OpenCV axes, upright, looking at its middle.

    A golden-angle spiral over heights: four fifths look from above, the rest from below, so that
    the slab's underside and rim are seen too.
    """
    random = torch.Generator().manual_seed(seed)
    start, jitter, nearness = torch.rand(3, views, generator=random, dtype=torch.float64)
    at = (torch.arange(views).double() + jitter) / views
    above = (at - 0.2).clamp(min=0) / 0.8
    # More of the low views: only they see under the balls.
    sine = torch.where(at < 0.2, -0.6 + 2.5 * at, 0.04 + 0.9 * above**1.4)
    azimuth = torch.arange(views) * (math.pi * (3 - math.sqrt(5))) + start[0] * 2 * math.pi
    level = (1 - sine.square()).sqrt()
    outward = torch.stack([level * azimuth.cos(), level * azimuth.sin(), sine], 1)
    position = torch.tensor(LOOK_AT) + CAMERA_DISTANCE * (0.97 + 0.06 * nearness[:, None]) * outward
    return looking_at(position, torch.tensor(LOOK_AT)).float()


def looking_at(
    position: Float[Tensor, "n 3"], target: Float[Tensor, " 3"]
) -> Float[Tensor, "n 3 4"]:
    """Poses at positions, forward axis to the target, world z upwards in the image."""
    forward = normalize(target - position, dim=1)
    up = torch.tensor([0, 0, 1], dtype=forward.dtype).expand_as(forward)
    right = normalize(torch.linalg.cross(forward, up), dim=1)
    down = torch.linalg.cross(forward, right)
    return torch.stack([right, down, forward, position], 2)


def render_views(
    camera_to_world: Float32[Tensor, "views 3 4"], size: int, solids: list[Solid]
) -> tuple[UInt8[np.ndarray, "views size size 4"], Float32[np.ndarray, "views size size"]]:
    """RGBA images with straight alpha, and the depth at the pixels' centres (0 for nothing).

    A pixel in which something ends, of shape or of paint, is the mean of SUPERSAMPLING^2 rays on a
    regular grid; any other is its centre's ray, for light alone varies slowly. The mean is taken of
    sRGB values: fields that are trained on such images blend those, too.
    """
    # Some views at once: a step of few rays costs as much as one of many.
    groups = camera_to_world.split(max(1, RAYS_AT_ONCE // size**2))
    parts = [_render_group(poses, size, solids) for poses in groups]
    images, depth = (torch.cat(part) for part in zip(*parts, strict=True))
    return images.numpy(), depth.numpy()


def _render_group(poses: Tensor, size: int, solids: list[Solid]) -> tuple[Tensor, Tensor]:
    rows = (torch.arange(size) + 0.5).float()
    y, x = torch.meshgrid(rows, rows, indexing="ij")
    pixels = torch.stack([x, y], 2).reshape(-1, 2).repeat(len(poses), 1)
    view = torch.arange(len(poses)).repeat_interleave(size * size)
    rgba, depth, which = _look(poses[view], pixels, size, solids)

    edges = _has_edge(rgba, which, (len(poses), size, size)).nonzero()[:, 0]
    at = (torch.arange(SUPERSAMPLING) + 0.5) / SUPERSAMPLING - 0.5
    offsets = torch.cartesian_prod(at, at)
    for some in edges.split(RAYS_AT_ONCE // len(offsets)):
        spread = (pixels[some, None] + offsets).reshape(-1, 2)
        fine_poses = poses[view[some]].repeat_interleave(len(offsets), 0)
        fine, _, _ = _look(fine_poses, spread, size, solids)
        fine = fine.view(len(some), len(offsets), 4)
        alpha = fine[..., 3:].mean(1)
        colour = (fine[..., :3] * fine[..., 3:]).mean(1) / alpha.clamp(min=1e-6)
        rgba[some] = torch.cat([colour, alpha], 1)
    shape = (len(poses), size, size)
    return (rgba.clamp(0, 1) * 255).round().to(torch.uint8).view(*shape, 4), depth.view(shape)


def _has_edge(rgba: Tensor, which: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Pixels around which the solid changes, or the colour by more than light does."""
    values = torch.cat([rgba[:, :3], which[:, None]], 1).view(*shape, 4).movedim(3, 1)
    highest, lowest = (max_pool2d(sign * values, 3, 1, 1) for sign in (1, -1))
    change = (highest + lowest).movedim(1, 3).reshape(-1, 4)
    return (change > change.new_tensor([EDGE, EDGE, EDGE, 0.5])).any(1)


def _look(
    poses: Tensor, pixels: Tensor, size: int, solids: list[Solid]
) -> tuple[Tensor, Tensor, Tensor]:
    """RGBA, depth and number of the solid (-1 for none) that one ray a pose finds."""
    directions, along_axis = pixel_rays(poses, pixels, size)
    origins = poses[:, :, 3]
    distance, which = first_hit(origins, directions, solids)
    met = (which >= 0).nonzero()[:, 0]
    points = origins[met] + distance[met, None] * directions[met]
    rgba = torch.zeros(len(poses), 4)
    rgba[met, :3] = encoded(shade(points, directions[met], which[met], solids))
    rgba[met, 3] = 1
    return rgba, torch.where(which >= 0, distance * along_axis, 0), which


def pixel_rays(
    poses: Float32[Tensor, "rays 3 4"], pixels: Float32[Tensor, "rays 2"], size: int
) -> tuple[Float32[Tensor, "rays 3"], Float32[Tensor, " rays"]]:
    """Unit directions through pixels (x, y) of the poses' images, and their forward components.

    The centre of the first pixel is (0.5, 0.5).
    """
    focal = 0.5 * size / math.tan(0.5 * ANGLE_X)
    flat = (pixels - size / 2) / focal
    along_axis = (1 + flat.square().sum(1)).rsqrt()
    right, down, forward = poses[:, :, 0], poses[:, :, 1], poses[:, :, 2]
    directions = flat[:, :1] * right + flat[:, 1:] * down + forward
    return directions * along_axis[:, None], along_axis


def _splits(views: int) -> dict[str, Int[Tensor, " _"]]:
    place = torch.arange(views) % 15
    test, val = (place == 3) | (place == 11), place == 7
    kinds = {"train": ~(test | val), "val": val, "test": test}
    return {name: chosen.nonzero()[:, 0] for name, chosen in kinds.items()}


def _names(splits: dict[str, Tensor], views: int) -> tuple[str, ...]:
    names = [""] * views
    for split, indices in splits.items():
        for number, view in enumerate(indices.tolist()):
            names[view] = f"{split}_{number}"
    return tuple(names)


def _vertex_colours(solids: list[Solid]) -> UInt8[np.ndarray, "v 3"]:
    colours = []
    for number, solid in enumerate(solids):
        points = solid.mesh()[0].float()
        normal = solid.normal(points)
        which = torch.full((len(points),), number)
        light = solid.albedo(points) * irradiance(points, normal, which, solids)
        colours.append((encoded(light) * 255).round().to(torch.uint8))
    return torch.cat(colours).numpy()
