"""A race of Gaussians drawn, against plain torch: one after another over whole images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import normalize

from polyfield.apps.bench_race import Race
from polyfield.cuda.splat_project import Projected, SplatCamera, splat_project
from polyfield.cuda.splat_raster import Drawn, splat_raster, splat_raster_reference
from polyfield.fields.splats import Splats

COUNT, SIDE = 2_000, 200
FILLS = 0.7  # of the image's height


def ball(count: int, side: int, seed: int = 0) -> tuple[Splats, SplatCamera]:
    """Flat Gaussians that tile a sphere of radius 1, some faint and some opaque, and a camera."""
    random = torch.Generator().manual_seed(seed)
    outward = normalize(torch.randn(count, 3, generator=random), dim=1)
    turns = torch.cat([1 + outward[:, 2:], -outward[:, 1:2], outward[:, :1], 0 * outward[:, :1]], 1)
    apart = (4 * torch.pi / count) ** 0.5
    widths = torch.tensor([0.7 * apart, 0.7 * apart, 0.1 * apart])
    opacity = torch.rand(count, generator=random) ** 2
    opacity = torch.where(torch.rand(count, generator=random) < 0.4, 1 - opacity, opacity)
    splats = Splats(
        outward + torch.tensor([0.0, 0, 4]),
        widths.log().expand(count, 3).contiguous(),
        normalize(turns, dim=1),
        opacity.clamp(0.01, 0.99).logit(),
        torch.randn(count, 1, 3, generator=random),
    )
    pose = torch.cat([torch.eye(3), torch.zeros(3, 1)], 1)
    focal = torch.full((2,), FILLS * 4 * side / 2)
    center = torch.full((2,), side / 2)
    return splats, SplatCamera(pose, focal, center, torch.zeros(4), side, side)


def seen_of(splats: Splats, camera: SplatCamera) -> Projected:
    """The Gaussians that the camera sees."""
    return splat_project(
        splats.means, splats.log_scales, splats.quaternions, splats.opacity_logits, camera
    )


def drawn_against_reference(count: int = COUNT, side: int = SIDE) -> Race:
    """Binned, sorted and drawn, three channels; what is seen is the same for both sides."""
    splats, camera = ball(count, side)
    seen = seen_of(splats, camera)
    tint = splats.harmonics[seen.rows, 0]

    def image(draw: Callable[..., Drawn]) -> tuple[Tensor, ...]:
        drawn = draw(seen, tint, side, side)
        return drawn.sums, drawn.left

    return Race(
        against="reference",
        version=f"torch {torch.__version__}",
        ours=partial(image, splat_raster),
        theirs=partial(image, splat_raster_reference),
        # A Gaussian whose opacity rounds to either side of 1 / 255 is a colour of 0.004.
        tolerance=5e-3,
    )
