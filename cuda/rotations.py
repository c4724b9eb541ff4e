"""Rotations as unit quaternions (w, x, y, z): what is needed to go evenly from one to another."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn.functional import normalize


def quaternions(rotation: Float[Tensor, "n 3 3"]) -> Float64[Tensor, "n 4"]:
    """Unit quaternions of rotation matrices; of the two that are one rotation, either.

    Source: Bar-Itzhack, New method for extracting the quaternion from a rotation matrix (2000): the
    largest eigenvector of a symmetric matrix, well-conditioned for every angle, and the nearest
    rotation where the matrix is not quite one.
    """
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = (
        row.unbind(1) for row in rotation.double().unbind(1)
    )
    rows = [
        torch.stack([xx + yy + zz, zy - yz, xz - zx, yx - xy], 1),
        torch.stack([zy - yz, xx - yy - zz, xy + yx, xz + zx], 1),
        torch.stack([xz - zx, xy + yx, yy - xx - zz, yz + zy], 1),
        torch.stack([yx - xy, xz + zx, yz + zy, zz - xx - yy], 1),
    ]
    return torch.linalg.eigh(torch.stack(rows, 1)).eigenvectors[:, :, 3]


def matrices(rotation: Float[Tensor, "n 4"]) -> Float[Tensor, "n 3 3"]:
    """Rotation matrices of quaternions, whose length does not matter. Differentiable."""
    w, x, y, z = normalize(rotation, dim=1).unbind(1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], 1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], 1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], 1),
    ]
    return torch.stack(rows, 1)


def product(p: Float64[Tensor, "n 4"], q: Float64[Tensor, "n 4"]) -> Float64[Tensor, "n 4"]:
    """The rotation that turns by q and then by p."""
    scalar = p[:, :1] * q[:, :1] - (p[:, 1:] * q[:, 1:]).sum(1, keepdim=True)
    vector = p[:, :1] * q[:, 1:] + q[:, :1] * p[:, 1:] + torch.linalg.cross(p[:, 1:], q[:, 1:])
    return torch.cat([scalar, vector], 1)


def exponential(turn: Float64[Tensor, "n 3"]) -> Float64[Tensor, "n 4"]:
    """The rotation about the axis `turn` by its length in radians."""
    half = turn.norm(dim=1, keepdim=True) / 2
    return torch.cat([half.cos(), torch.sinc(half / torch.pi) * turn / 2], 1)


def logarithm(rotation: Float64[Tensor, "n 4"]) -> Float64[Tensor, "n 3"]:
    """Axis times angle, from -pi to pi radians about it: the inverse of `exponential`."""
    rotation = torch.where(rotation[:, :1] < 0, -rotation, rotation)
    sine = rotation[:, 1:].norm(dim=1, keepdim=True)
    half = torch.atan2(sine, rotation[:, :1])
    return 2 * rotation[:, 1:] / torch.sinc(half / torch.pi)


def slerp(
    p: Float64[Tensor, "n 4"], q: Float64[Tensor, "n 4"], t: Float64[Tensor, "n 1"]
) -> Float64[Tensor, "n 4"]:
    """The quaternion at t, from 0 to 1, of the way on the sphere from p to q, at constant speed.

    Signs are taken as they are: q and -q are one rotation at the end of two ways.
    """
    cross, along = (q - p).norm(dim=1, keepdim=True), (q + p).norm(dim=1, keepdim=True)
    angle = 2 * torch.atan2(cross, along)
    whole = torch.sinc(angle / torch.pi).clamp(min=1e-12)
    first = (1 - t) * torch.sinc((1 - t) * angle / torch.pi) / whole
    return first * p + t * torch.sinc(t * angle / torch.pi) / whole * q
