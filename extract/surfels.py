"""A surface as Gaussians: flat discs that lie on it, evenly spread."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from polyfield.cuda.errors import InputError
from polyfield.cuda.nearest import center_tree, nearest
from polyfield.extract.mesh import Mesh
from polyfield.extract.mesh_metrics import SurfaceSamples, sample_surface
from polyfield.fields.splats import CONSTANT, Splats

DRAWN = 8  # points of the surface for each disc, that say what is around it
ROUNDS = 4  # in which discs move to the middle of those
NEIGHBOURS = 6  # whose distance is a disc's size: as many as are around it
FEWEST = NEIGHBOURS + 1
WIDTH = 0.66  # standard deviation of a disc in that distance: less lets through what lies behind
FLAT = 0.1  # thickness of a disc in its width
OPACITY = 0.995
LIGHT = (
    0.40,
    -0.53,
    0.75,
)  # where it comes from, of a world with +z up: no axis looks like another
SHADED, LIT = (0.27, 0.32, 0.43), (0.93, 0.89, 0.82)  # sRGB: cool away from it, warm towards it


def surfels(mesh: Mesh, count: int, seed: int = 0, two_sided: bool = False) -> Splats:
    """Nearly opaque discs all over a mesh, in its frame, their thin axis the surface's normal.

    Evenly spread, whatever the faces are like, and as wide as to close the surface between them.
    Nobody knows its colours: they are those of clay in a light from above, of two sides alike where
    neither is the outer one. A function of its arguments.
    Raises InputError for fewer than FEWEST, or a mesh without area.
    Source, of how they spread: Lloyd, Least squares quantization in PCM (1982).
    """
    if count < FEWEST:
        raise InputError("surfels", f"{count} of them", f"{FEWEST} at least")
    points, normals = _spread(sample_surface(mesh, DRAWN * count, seed), count)
    rows = nearest(points, center_tree(points), NEIGHBOURS + 1).long()[:, 1:]
    width = WIDTH * (points[rows] - points[:, None]).square().sum(2).mean(1).sqrt()
    log_scales = width.log()[:, None] + width.new_tensor([0.0, 0.0, math.log(FLAT)])
    logits = width.new_full((len(width),), math.log(OPACITY / (1 - OPACITY)))
    harmonics = (_clay(normals, two_sided) - 0.5) / CONSTANT
    return Splats(points, log_scales, _towards(normals), logits, harmonics[:, None])


def _spread(drawn: SurfaceSamples, count: int) -> tuple[Tensor, Tensor]:
    """Some of the points, evenly spread, and the mean normal around each."""
    every = drawn.points.float()
    centers = every[::DRAWN]  # as even as the faces that they were drawn from, one after the other
    for _ in range(ROUNDS):
        owner = nearest(every, center_tree(centers), 1)[:, 0].long()
        sums = torch.zeros_like(centers).index_add(0, owner, every)
        members = owner.bincount(minlength=count)[:, None]
        centers = torch.where(members > 0, sums / members.clamp_min(1), centers)
    # The middle of what is bent lies beside it.
    beside = nearest(centers, center_tree(every), 1)[:, 0].long()
    normals = drawn.normals[beside]
    off = ((centers - every[beside]) * normals).sum(1, keepdim=True)
    points = (centers - off * normals).float()
    owner = nearest(every, center_tree(points), 1)[:, 0].long()
    # Where two sides are nearer to each other than discs are, or faces are turned anyhow.
    same = (drawn.normals * normals[owner]).sum(1, keepdim=True).sign()
    sums = torch.zeros_like(normals).index_add(0, owner, same * drawn.normals)
    return points, normalize(sums, dim=1, eps=1e-60).float()


def _towards(normals: Float[Tensor, "n 3"]) -> Float[Tensor, "n 4"]:
    """The least rotations that lay z along normals, or against them: a disc has no two sides."""
    x, y, z = torch.where(normals[:, 2:] < 0, -normals, normals).unbind(1)
    return normalize(torch.stack([1 + z, -y, x, torch.zeros_like(z)], 1), dim=1)


def _clay(normals: Float[Tensor, "n 3"], two_sided: bool) -> Float[Tensor, "n 3"]:
    """Colours by how far normals turn to the light. Source: Gooch shading (SIGGRAPH 1998)."""
    facing = normals @ normalize(normals.new_tensor(LIGHT), dim=0)
    share = (facing.abs() if two_sided else 0.5 + 0.5 * facing)[:, None]
    return (1 - share) * normals.new_tensor(SHADED) + share * normals.new_tensor(LIT)
