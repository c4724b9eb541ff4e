"""A race of Gaussians drawn, against plain torch: one after another over whole images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import normalize

from polyfield.apps.bench_race import Race
from polyfield.cuda.splat_project import SplatCamera, splat_project
from polyfield.cuda.splat_raster import Drawn, splat_raster, splat_raster_reference

COUNT, SIDE = 2_000, 200
FILLS = 0.7  # of the image's height


def ball(count: int, side: int, seed: int = 0) -> tuple[tuple[Tensor, ...], SplatCamera, Tensor]:
    """Flat Gaussians that tile a sphere of radius 1, some faint and some opaque, and a camera.

    Their numbers as `splat_project` takes them; the camera; their colours [count, 3].
    """
    random = torch.Generator().manual_seed(seed)
    outward = normalize(torch.randn(count, 3, generator=random), dim=1)
    turns = torch.cat([1 + outward[:, 2:], -outward[:, 1:2], outward[:, :1], 0 * outward[:, :1]], 1)
    apart = (4 * torch.pi / count) ** 0.5
    widths = torch.tensor([0.7 * apart, 0.7 * apart, 0.1 * apart])
    opacity = torch.rand(count, generator=random) ** 2
    opacity = torch.where(torch.rand(count, generator=random) < 0.4, 1 - opacity, opacity)
    logits = opacity.clamp(0.01, 0.99).logit()
    means = outward + torch.tensor([0.0, 0, 4])
    pose = torch.cat([torch.eye(3), torch.zeros(3, 1)], 1)
    focal = torch.full((2,), FILLS * 4 * side / 2)
    camera = SplatCamera(pose, focal, torch.full((2,), side / 2), torch.zeros(4), side, side)
    numbers = means, widths.log().expand(count, 3).contiguous(), normalize(turns, dim=1), logits
    return numbers, camera, torch.rand(count, 3, generator=random)


def drawn_against_reference(count: int = COUNT, side: int = SIDE) -> Race:
    """Binned, sorted and drawn, three channels; what is seen is the same for both sides."""
    numbers, camera, color = ball(count, side)
    seen = splat_project(*numbers, camera)
    tint = color[seen.rows]

    def image(draw: Callable[..., Drawn]) -> tuple[Tensor, ...]:
        return tuple(draw(seen, tint, side, side))

    return Race(
        against="reference",
        version=f"torch {torch.__version__}",
        ours=partial(image, splat_raster),
        theirs=partial(image, splat_raster_reference),
        # A Gaussian whose opacity rounds to either side of 1 / 255 is a colour of 0.004.
        tolerance=5e-3,
    )
