"""What lies before cameras that all look one way, as they see it: normalised device coordinates."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyfield.cuda.errors import InputError


class Projection(nn.Module):
    """Positions of the unit cube -> those of a pyramid before a plane, straightened to a cube.

    With p = axes (x - origin), whose rows point right, down and ahead, and z = max(p_z, near):
    the first two coordinates are (p_xy / (z extent) + 1) / 2, clamped to [0, 1], the third is
    1 - near / z. So a detail is as large as a pixel at every distance, however far, and straight
    lines before the near plane stay straight. origin and near in sides of the unit cube; extent:
    tangents of half the angles that the pyramid spans; axes: orthonormal.
    Raises InputError for numbers that are no projection.
    Source: NeRF (arXiv:2003.08934), appendix C, with the near plane at 0 and infinity at 1.
    """

    axes: Tensor
    origin: Tensor
    extent: Tensor

    def __init__(
        self,
        axes: Sequence[Sequence[float]],
        origin: Sequence[float],
        extent: Sequence[float],
        near: float,
    ):
        super().__init__()
        parts = (axes, origin, extent)
        try:
            # On the CPU even where parameters go nowhere, to "meta".
            numbers = [torch.tensor(p, dtype=torch.float64, device="cpu") for p in parts]
            shapes = [tuple(part.shape) for part in numbers]
            sound = shapes == [(3, 3), (3,), (2,)] and near > 0 and math.isfinite(near)
            sound = sound and all(bool(part.abs().amax() < 1e9) for part in numbers)
            sound = sound and bool((numbers[2] > 1e-9).all())
            gram = numbers[0] @ numbers[0].T if sound else None
        except (TypeError, ValueError, RuntimeError):
            gram = None
        eye = torch.eye(3, dtype=torch.float64, device="cpu")
        if gram is None or float((gram - eye).abs().max()) > 1e-3:
            expected = "orthonormal axes [3, 3], origin [3], extent [2] and near above 0"
            raise InputError("projection", "numbers that are none", expected)
        self.near = float(near)
        for name, part in zip(("axes", "origin", "extent"), numbers, strict=True):
            self.register_buffer(name, part.float(), persistent=False)

    def forward(self, x: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        p = (x - self.origin) @ self.axes.T
        z = p[:, 2:].clamp_min(self.near)
        across = (p[:, :2] / (z * self.extent)).clamp(-1, 1)
        return torch.cat([0.5 + 0.5 * across, 1 - self.near / z], 1)
