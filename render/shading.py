"""What a trained field shows along rays: marched, cut to what is seen, shaded piece by piece."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from polyfield.cuda.composite import composite, visible_samples
from polyfield.cuda.march import Samples
from polyfield.fields import fused_rays
from polyfield.fields.field import RadianceField
from polyfield.render.cones import density_of
from polyfield.render.packed import keep_samples, runs_of_rays, some_rays
from polyfield.render.samplers import Guide, most_samples_of_a_ray, place_samples
from polyfield.render.volume import STOP, Sampling

BYTES_A_RAY = 640  # the march's notes, and what the ray shows
# Bytes that are alive at once, measured on the hash grid: samples along rays, and their shading
# with all that lies between position and colour.
BYTES_A_SAMPLE, BYTES_SHADED, BYTES_OF_A_GRADIENT = 32, 640, 1600
AT_ONCE = 1 << 14  # samples shaded on a CPU: a wide network's hidden values leave its cache


class Shaded(NamedTuple):
    """What rays see, without a background; sums weighted by what reaches the eye.

    depth: distance along the ray, in the unit cube, times weight. normal: unit normals times
    weight, so that its length is at most the opacity; None unless it was asked for.
    """

    color: Float[Tensor, "rays 3"]
    opacity: Float[Tensor, " rays"]
    depth: Float[Tensor, " rays"]
    normal: Float[Tensor, "rays 3"] | None


@torch.no_grad()
def shade_rays(
    field: RadianceField,
    guide: Guide,
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    sampling: Sampling,
    *,
    normals: bool = False,
    memory_bytes: int = 1 << 28,
) -> Shaded:
    """What the field shows along rays of the unit cube (directions unit). Not differentiable.

    A field that has a kernel of its own for it takes that, unless normals are asked for. Rays are
    marched, and samples shaded, so many at a time that what lies between takes at most
    about memory_bytes, however many cells are occupied; a single ray is never cut. With normals,
    the gradient of the density is asked of the field at every sample that can be seen: the normal
    is minus it, of length 1, in the axes of the unit cube.
    Source: NeRF (arXiv:2003.08934), eq. 3; normals: Ref-NeRF (arXiv:2112.03907).
    """
    longest = most_samples_of_a_ray(guide, sampling)
    marched = max(1, memory_bytes // 4 // (longest * BYTES_A_SAMPLE + BYTES_A_RAY))
    most = memory_bytes // 2 // (BYTES_OF_A_GRADIENT if normals else BYTES_SHADED)
    if origins.device.type == "cpu":
        most = min(most, AT_ONCE)
    fused = None if normals else fused_rays.fused_field(field)
    parts = []
    for origin, direction in zip(origins.split(marched), directions.split(marched), strict=True):
        samples = place_samples(field, guide, origin, direction, sampling)
        if fused is not None:
            black = torch.zeros_like(direction)
            view = fused_rays.view_rays(fused, samples, direction, black, STOP)
            weight = view.opacity.clamp_min(1e-6)
            parts.append(Shaded(view.color, view.opacity, view.depth * weight, None))
            continue
        harmonics = field.encode_directions(direction)
        for first, last in runs_of_rays(samples, most):
            part = some_rays(samples, first, last)
            parts.append(_shade(field, part, harmonics[first:last], normals, sampling.pieces))
    return Shaded(
        torch.cat([part.color for part in parts]),
        torch.cat([part.opacity for part in parts]),
        torch.cat([part.depth for part in parts]),
        torch.cat([part.normal for part in parts if part.normal is not None]) if normals else None,
    )


def density_normals(
    field: RadianceField, x: Float[Tensor, "samples 3"]
) -> Float[Tensor, "samples 3"]:
    """Unit vectors out of the dense: minus the gradient of the density. Zero where it is constant.

    In the axes of the unit cube, where x lies.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(field.density(x)[0].sum(), x)
    # Far from all matter a gradient is a tiny number, but it points somewhere all the same.
    largest = gradient.abs().amax(1, keepdim=True)
    return normalize(-gradient / largest.clamp_min(torch.finfo(gradient.dtype).tiny), dim=1)


def _shade(
    field: RadianceField, samples: Samples, harmonics: Tensor, normals: bool, pieces: bool
) -> Shaded:
    density, features = density_of(field, samples.position, samples.extent)
    kept = visible_samples(density, samples.length, samples.ray_offsets, STOP)
    samples, density, features = keep_samples(samples, kept), density[kept], features[kept]
    color = field.color(features, harmonics[samples.ray.long()])
    channels = [color, samples.distance[:, None]]
    if normals:
        normal = density_normals(field, samples.position)
        if pieces and samples.extent is not None:
            # A piece may end behind the surface that it meets; whatever is seen faces the eye.
            away = (normal * samples.extent).sum(1, keepdim=True) > 0
            normal = torch.where(away, -normal, normal)
        channels.append(normal)
    out = composite(density, samples.length, torch.cat(channels, 1), samples.ray_offsets)
    values = out.values
    return Shaded(values[:, :3], out.opacity, values[:, 3], values[:, 4:] if normals else None)
