"""Random Gaussians and a camera in front of them, in float64."""

import torch

from polyfield.cuda.splat_project import SplatCamera

FLOAT64 = torch.float64


def gaussians(n, seed=0, spread=0.6, size=-2.2):
    """Means, log scales, quaternions of any length, and logits.

    In front of the camera and beside it; three are behind it.
    """
    random = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=random, dtype=FLOAT64)

    means = 2 * torch.rand(n, 3, generator=random, dtype=FLOAT64) - 1
    means[:, 2] += 3
    means[:3, 2] = -1
    return [means, spread * normal(n, 3) + size, normal(n, 4), 2 * normal(n)]


def camera(model="pinhole", width=53, height=37, dtype=FLOAT64):
    """A little turned and moved; neither side is a multiple of 16."""
    turn = torch.linalg.matrix_exp(
        torch.tensor([[0, -0.05, 0.1], [0.05, 0, -0.02], [-0.1, 0.02, 0]], dtype=FLOAT64)
    )
    moved = torch.tensor([[0.1], [0.05], [0.2]], dtype=FLOAT64)
    return SplatCamera(
        torch.cat([turn, moved], 1).to(dtype),
        torch.tensor([40.0, 45.0], dtype=dtype),
        torch.tensor([25.0, 19.0], dtype=dtype),
        torch.tensor([0.1, -0.02, 0.003, 0.0], dtype=dtype),
        width,
        height,
        model,
    )


def loss_of(seen, seed=1):
    """A sum of all that is seen, each by a weight of its own and as large as the others."""
    random = torch.Generator().manual_seed(seed)
    total = 0
    for part in (seen.means2d, seen.conics, seen.opacities, seen.depths):
        weight = torch.randn(part.shape, generator=random, dtype=torch.float64)
        scale = part.detach().abs().mean()
        total = total + (weight.to(part) * part / scale).sum()
    return total
