"""A ball in the unit cube, and exact depth maps of it from cameras all around."""

import torch
from torch.nn.functional import normalize

SIZE, FOCAL, RADIUS = 72, 80.0, 0.3
CENTER = torch.tensor([0.51, 0.49, 0.505])


def poses(count=12):
    """Rotations (axes of cameras as rows) and places around the cube, looking at its middle."""
    z = torch.linspace(-0.85, 0.85, count)
    turn = 2.4 * torch.arange(count)
    back = torch.stack([(1 - z * z).sqrt() * turn.cos(), (1 - z * z).sqrt() * turn.sin(), z], 1)
    right = normalize(torch.linalg.cross(torch.tensor([0.0, 0, 1]).expand(count, 3), back), dim=1)
    down = torch.linalg.cross(-back, right)
    return torch.stack([right, down, -back], 1), 0.5 + 1.3 * back


ROTATION, PLACE = poses()


def project(view, points):
    local = ((points - PLACE[view])[:, None] @ ROTATION[view].mT)[:, 0]
    pixels = FOCAL * local[:, :2] / local[:, 2:] + SIZE / 2
    return pixels, torch.where(local[:, 2] > 0, local.norm(dim=1), -local.norm(dim=1))


def depth_maps(shift=0.0, views=tuple(range(12))):
    """Exact distances along the rays of pixels' middles to a ball; infinite beside it."""
    ticks = torch.arange(SIZE) + 0.5 + shift - SIZE / 2
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    rays = normalize(torch.stack([x, y, torch.full_like(x, FOCAL)], 2), dim=2)
    maps = []
    for view in views:
        way = rays @ ROTATION[view]
        to = PLACE[view] - CENTER
        half = (way * to).sum(2)
        root = half.square() - to.square().sum() + RADIUS**2
        maps.append(torch.where(root > 0, -half - root.clamp_min(0).sqrt(), torch.inf))
    return torch.stack(maps)


def off(mesh):
    return (mesh.vertices - CENTER).norm(dim=1) - RADIUS
