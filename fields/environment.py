"""What lies behind a field, as far away as the sky: a colour for each direction, learned."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyfield.cuda.spherical_harmonics import spherical_harmonics

DEGREE = 5  # features of about 36 degrees: finer ones are the field's to learn


class Environment(nn.Module):
    """Unit directions -> colours in [0, 1]: sigmoid of spherical harmonics up to degree 5.

    color: what it shows everywhere before it has learned, in (0, 1).
    """

    learning_rate = 3e-2

    def __init__(self, color: tuple[float, float, float]):
        super().__init__()
        weights = torch.zeros((DEGREE + 1) ** 2, 3)
        constant_harmonic = math.sqrt(1 / (4 * math.pi))
        weights[0] = torch.tensor(color).clamp(0.01, 0.99).logit() / constant_harmonic
        self.weights = nn.Parameter(weights)

    def forward(self, directions: Float[Tensor, "r 3"]) -> Float[Tensor, "r 3"]:
        return torch.sigmoid(spherical_harmonics(directions, DEGREE) @ self.weights)
