"""Cameras that nobody stood at: between those that took photographs, and about what they show."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64
from torch import Generator, Tensor
from torch.nn.functional import normalize

from polyfield.cuda.rotations import exponential, matrices, product, quaternions, slerp
from polyfield.render.paths import look_at_point, up_axis

REAL, BETWEEN = 0.3, 0.3  # of all, cameras as they stand and ways to neighbours; the rest is about
NEIGHBOURS = 4
TURNED = 0.05  # radians, that a camera is turned from where it would look
AWAY = 0.05  # of its distance to what is looked at, that it is moved


def invented_poses(
    camera_to_world: Float[Tensor, "n 3 4"], count: int, generator: Generator, around: bool
) -> Float[Tensor, "{count} 3 4"]:
    """Poses from which a scene is worth seeing, OpenCV axes, shuffled.

    Three tenths are the given cameras, as many lie on the way from one to a near one; the others
    look at the point that the cameras look at, from a direction between those of any two, upright.
    around: without it these, too, lie between neighbours: for what cameras stand within. Invented
    ones are turned and moved a little. A function of the generator. Raises InputError for no
    camera.
    Source: PVD (arXiv:2211.15977), whose random poses lie on a sphere.
    """
    poses = camera_to_world.double()
    target = look_at_point(poses)
    first = torch.randint(len(poses), (count,), generator=generator)
    near = _neighbours(poses)[first]
    pick = torch.randint(near.shape[1], (count,), generator=generator)
    second = near[torch.arange(count), pick]
    any_other = torch.randint(len(poses), (count,), generator=generator)
    t = torch.rand(count, 1, generator=generator, dtype=torch.float64)
    kind = torch.rand(count, generator=generator)
    between = _between(poses[first], poses[second], t)
    if around:
        about = _about(poses[first], poses[any_other], t, target, up_axis(poses))
        between = torch.where((kind > REAL + BETWEEN)[:, None, None], about, between)
    moved = _shaken(between, target, generator)
    found = torch.where((kind < REAL)[:, None, None], poses[first], moved)
    return found.to(camera_to_world.dtype)


def _neighbours(poses: Float64[Tensor, "n 3 4"]) -> Tensor:
    """Of each camera itself and the nearest others, by where they stand and where they look."""
    place = torch.cat([poses[:, :, 3], poses[:, :, 2]], 1)
    spread = place[:, :3].std(0, correction=0).norm().clamp_min(1e-9)
    place = torch.cat([place[:, :3] / spread, place[:, 3:]], 1)
    count = min(NEIGHBOURS + 1, len(poses))
    return torch.cdist(place, place).topk(count, largest=False).indices


def _between(one: Tensor, other: Tensor, t: Tensor) -> Tensor:
    p, q = quaternions(one[:, :, :3]), quaternions(other[:, :, :3])
    q = torch.where((p * q).sum(1, keepdim=True) < 0, -q, q)
    position = one[:, :, 3] + t * (other[:, :, 3] - one[:, :, 3])
    return torch.cat([matrices(slerp(p, q, t)), position[:, :, None]], 2)


def _about(one: Tensor, other: Tensor, t: Tensor, target: Tensor, up: Tensor) -> Tensor:
    """Upright cameras that look at the target, from between the directions of two of them."""
    way, goal = one[:, :, 3] - target, other[:, :, 3] - target
    distance = (1 - t) * way.norm(dim=1, keepdim=True) + t * goal.norm(dim=1, keepdim=True)
    outward = (1 - t) * normalize(way, dim=1) + t * normalize(goal, dim=1)
    # From opposite sides the middle of the way is no direction: then it stays where it was.
    short = outward.norm(dim=1, keepdim=True) < 0.1
    outward = normalize(torch.where(short, way, outward), dim=1)
    right = torch.linalg.cross(up.expand_as(outward), outward)
    level = right.norm(dim=1, keepdim=True) > 1e-3
    right = normalize(torch.where(level, right, one[:, :, 0]), dim=1)
    down = normalize(torch.linalg.cross(-outward, right), dim=1)
    right = torch.linalg.cross(down, -outward)
    return torch.stack([right, down, -outward, target + distance * outward], 2)


def _shaken(poses: Tensor, target: Tensor, generator: Generator) -> Tensor:
    count = len(poses)
    turn, step = torch.randn(2, count, 3, generator=generator, dtype=torch.float64)
    turned = product(quaternions(poses[:, :, :3]), exponential(TURNED * turn / 3**0.5))
    far = (poses[:, :, 3] - target).norm(dim=1, keepdim=True)
    position = poses[:, :, 3] + AWAY * far * step / 3**0.5
    return torch.cat([matrices(turned), position[:, :, None]], 2)
