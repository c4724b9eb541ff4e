"""Exact images of a sheet that ends, the lower half of a thin sphere.

`python tests/apps/bowl_scene.py OUT` writes them.
"""

import math
import sys
from pathlib import Path

import torch

from polyfield.apps.demo_scene import ANGLE_X, camera_poses, pixel_rays
from polyfield.apps.formats.mesh_files import write_mesh
from polyfield.apps.formats.nerf_synthetic import write_nerf_synthetic
from polyfield.extract.mesh import Mesh

RADIUS, HEIGHT = 0.9, 0.2  # of the bowl; its middle, and its rim, lie so high
SUN = (0.42, -0.52, 0.745)
FINER = 3  # rays a side of a pixel


def bowl_scene(folder, size=100, views=45):
    """Writes views of the bowl, coloured in blocks within and without, and its mesh, truth.ply."""
    splits = {"train": [], "val": [], "test": []}
    for number, pose in enumerate(camera_poses(0, views)):
        kind = {3: "test", 11: "test", 7: "val"}.get(number % 15, "train")
        splits[kind].append((f"r_{number}", pose, bowl_image(pose, size)))
    write_nerf_synthetic(folder, splits, ANGLE_X)
    write_mesh(folder / "truth.ply", bowl_mesh())
    return folder


def bowl_image(pose, size):
    """RGBA of one view, straight alpha, the mean of FINER^2 rays a pixel."""
    at = (torch.arange(size * FINER) + 0.5) / FINER
    y, x = torch.meshgrid(at, at, indexing="ij")
    pixels = torch.stack([x, y], 2).reshape(-1, 2).float()
    directions, _ = pixel_rays(pose.expand(len(pixels), 3, 4), pixels, size)
    directions = torch.nn.functional.normalize(directions.double(), dim=1)
    origin = pose[:, 3].double()
    from_middle = origin - torch.tensor([0.0, 0.0, HEIGHT])
    along = directions @ from_middle
    root = along.square() - from_middle.square().sum() + RADIUS**2
    distance = torch.full_like(along, math.inf)
    for sign in (1, -1):  # the farther first, the nearer over it
        there = -along + sign * root.clamp_min(0).sqrt()
        below = origin[2] + there * directions[:, 2] <= HEIGHT
        distance = torch.where((root > 0) & below, there, distance)
    met = distance.isfinite()
    image = torch.zeros(len(pixels), 4, dtype=torch.float64)
    image[met, :3] = paint(origin + distance[met, None] * directions[met])
    image[met, 3] = 1
    image = image.view(size, FINER, size, FINER, 4).mean((1, 3))
    image[..., :3] /= image[..., 3:].clamp_min(1e-6)
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)


def paint(points):
    """Red and blue blocks under a sun that shines through the sheet."""
    off = points - torch.tensor([0.0, 0.0, HEIGHT])
    sector = (torch.atan2(off[:, 1], off[:, 0]) * (5 / math.pi)).floor()
    even = (sector + (5 * off[:, 2]).floor()) % 2 == 0
    red, blue = torch.tensor([0.85, 0.3, 0.25]), torch.tensor([0.25, 0.45, 0.8])
    sun = torch.nn.functional.normalize(torch.tensor(SUN, dtype=torch.float64), dim=0)
    light = 0.65 + 0.35 * (off @ sun).abs() / RADIUS
    return torch.where(even[:, None], blue, red).double() * light[:, None]


def bowl_mesh(rows=60, columns=120):
    """The bowl itself, counter-clockwise seen from outside."""
    down = torch.linspace(math.pi / 2, math.pi, rows)[:, None]
    around = torch.arange(columns) * (2 * math.pi / columns)
    place = [down.sin() * around.cos(), down.sin() * around.sin(), down.cos().expand(-1, columns)]
    vertices = RADIUS * torch.stack(place, 2).view(-1, 3) + torch.tensor([0.0, 0.0, HEIGHT])
    row, column = torch.meshgrid(torch.arange(rows - 1), torch.arange(columns), indexing="ij")
    a, b = row * columns + column, row * columns + (column + 1) % columns
    one, other = torch.stack([a, a + columns, b], 2), torch.stack([b, a + columns, b + columns], 2)
    return Mesh(vertices, torch.cat([one, other]).view(-1, 3))


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    bowl_scene(Path(sys.argv[1]))
