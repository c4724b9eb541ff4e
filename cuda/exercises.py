"""Every kernel made to run once, on small data, by the operations that launch it.

For tools that ask how kernels behave and not what they compute, sanitizers for instance: there are
several tiles and the last is not full. Rows have no multiple of 5 numbers, the count of threads in
a replayed block: else the lanes that write a number and those that read it could share a thread.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from polyfield.cuda.box import intersect_box
from polyfield.cuda.composite import composite, visible_samples
from polyfield.cuda.hash_grid import HashGridLayout, hash_grid
from polyfield.cuda.march import Samples, march
from polyfield.cuda.mlp import ACTIVATIONS, OUTPUT_ACTIVATIONS, initial_weights, mlp
from polyfield.cuda.nearest import center_tree, nearest
from polyfield.cuda.occupancy import cell_points, pack_bits, update_occupancy_
from polyfield.cuda.photograph import photograph
from polyfield.cuda.planes import Combine, PlaneLayout, planes
from polyfield.cuda.radiance import RadianceShape, radiance_gradients, radiance_view
from polyfield.cuda.ray_profile import ray_profile
from polyfield.cuda.rbf import Family, factor_numbers, rbf_blend, rbf_weights
from polyfield.cuda.spherical_harmonics import spherical_harmonics
from polyfield.cuda.splat_color import splat_color
from polyfield.cuda.splat_field import splat_field, splat_tree
from polyfield.cuda.splat_points import BentCamera, splat_points
from polyfield.cuda.splat_project import SplatCamera, SplatModel, splat_project
from polyfield.cuda.splat_raster import splat_raster
from polyfield.cuda.splat_shake import splat_shake_
from polyfield.cuda.ssim import image_error
from polyfield.cuda.surface import surfaces
from polyfield.cuda.table_adam import hash_grid_adam_, row_adam_
from polyfield.cuda.tangent_planes import Placement, place_vertices, quads_that_go


def hash_grid_exercise(dimensions: int, features: int, smoothstep: bool) -> list[Tensor]:
    """Values, both gradients, the second order, and two steps of lazy Adam on the table."""
    layout = HashGridLayout(dimensions, 3, features, 9, 4, 40, smoothstep)
    random = torch.Generator().manual_seed(1)
    x = torch.rand(150, dimensions, generator=random).requires_grad_()
    table = torch.randn(layout.entries, features, generator=random).requires_grad_()
    out = hash_grid(x, table, layout)
    grad_x, grad_table = torch.autograd.grad(out.square().sum(), (x, table), create_graph=True)
    second = torch.autograd.grad(grad_x.square().sum() + grad_table.square().sum(), (x, table))
    state = table.detach().clone(), torch.zeros_like(table), torch.zeros_like(table)
    visits = torch.zeros_like(table, dtype=torch.int32)
    grad_out = torch.randn(out.shape, generator=random)
    for step, steps in enumerate((None, visits), 1):
        scratch = torch.zeros_like(table)
        hash_grid_adam_(*state, steps, x.detach(), grad_out, layout, scratch, 0.01, step)
    return [out, grad_x, grad_table, *second, *state, visits]


def planes_exercise(dimensions: int, combine: Combine) -> list[Tensor]:
    """Values and both gradients, in two scales of two blocks."""
    layout = PlaneLayout(dimensions, (3, 6), 16, combine)
    random = torch.Generator().manual_seed(10)
    x = torch.rand(150, dimensions, generator=random).requires_grad_()
    table = torch.randn(layout.entries, 8, generator=random).requires_grad_()
    out = planes(x, table, layout)
    return [out, *torch.autograd.grad(out.square().sum(), (x, table))]


def nearest_exercise(dimensions: int) -> list[Tensor]:
    """Neighbours of points in a crowd of centres, beside it and far outside."""
    random = torch.Generator().manual_seed(11)
    centers = torch.rand(90, dimensions, generator=random) ** 4
    x = 1.6 * torch.rand(150, dimensions, generator=random) - 0.3
    return [nearest(x, center_tree(centers), 5)]


def rbf_exercise(dimensions: int, form: str, family: Family, normalize: bool) -> list[Tensor]:
    """Weights and blended features with all their gradients; some neighbours are missing."""
    random = torch.Generator().manual_seed(12)
    x = torch.rand(150, dimensions, generator=random).requires_grad_()
    centers = torch.rand(23, dimensions, generator=random).requires_grad_()
    numbers = factor_numbers(dimensions)[form]
    factors = (0.5 + torch.rand(23, numbers, generator=random)).requires_grad_()
    index = torch.randint(-1, 23, (150, 3), generator=random, dtype=torch.int32)
    features = torch.randn(2, 23, 8, generator=random).requires_grad_()
    frequencies = 4 * torch.rand(2, 8, generator=random) * (torch.arange(16).view(2, 8) > 3)
    weights = rbf_weights(x, centers, factors, index, family, normalize)
    out = rbf_blend(weights, index, features, frequencies)
    return [weights, out, *torch.autograd.grad(out.sum(), (x, centers, factors, features))]


def mlp_exercise(widths: tuple[int, ...], activation: str, output: str) -> list[Tensor]:
    """Values and both gradients; points enough for two tiles in one slice of the gradient."""
    random = torch.Generator().manual_seed(2)
    weights = initial_weights(widths, random).requires_grad_()
    x = torch.randn(1050, widths[0], generator=random).requires_grad_()
    out = mlp(x, weights, widths, activation, output)
    grads = torch.autograd.grad(out.square().sum(), (x, weights))
    few = mlp(x[:70].detach(), weights, widths, activation, output)
    (without_x,) = torch.autograd.grad(few.sum(), (weights,))
    return [out, *grads, without_x]


def composite_exercise(channels: int) -> list[Tensor]:
    """Values and all gradients of rays with 0 to 7 samples, and which samples are visible."""
    random = torch.Generator().manual_seed(3)
    counts = torch.randint(8, (70,), generator=random)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).int()
    n = int(offsets[-1])
    density = (9 * torch.rand(n, generator=random)).requires_grad_()
    length = torch.rand(n, generator=random).requires_grad_()
    values = torch.rand(n, channels, generator=random).requires_grad_()
    out = composite(density, length, values, offsets)
    inputs = density, length, values
    every = torch.stack([part.square().sum() for part in out]).sum()
    grads: list[Tensor] = []
    for loss in (every, out.opacity.sum()):
        grads += torch.autograd.grad(loss, inputs, retain_graph=True)
    return [*out, *grads, visible_samples(density, length, offsets)]


def march_exercise(levels: int, jitter: bool, cone: float = 0.01) -> list[Tensor]:
    """Rays from outside and inside, some that miss, through cells of which a part is occupied.

    Steps that grow, in a grid too small for blocks; or, for a cone of 0, even ones over blocks.
    """
    random = torch.Generator().manual_seed(4)
    origins = 3 * torch.rand(70, 3, generator=random) - 1
    directions = torch.nn.functional.normalize(
        torch.rand(70, 3, generator=random) - origins + 0.2, dim=1
    )
    directions[0] = torch.tensor([0.0, 0.0, 1.0])
    resolution = 8 if cone else 16
    bits = torch.randint(256, (levels * resolution**3 // 8,), generator=random, dtype=torch.uint8)
    if not cone:
        bits[torch.rand(len(bits), generator=random) < 0.97] = 0
    # More samples than counting writes down, so that some rays are walked twice.
    sizes = levels, resolution, 0.004, cone, 0.05, 200
    return list(march(origins, directions, bits, *sizes, 7, 1, jitter)[:5])


def radiance_exercise(features: int, smoothstep: bool) -> list[Tensor]:
    """Views, and the gradients of a loss, of rays with no sample, few, and more than a wave."""
    shape = RadianceShape(HashGridLayout(3, 3, features, 8, 4, 30, smoothstep), 32, 16, 4)
    random = torch.Generator().manual_seed(6)
    counts = torch.tensor([0, 3, 90, 1, 0, 9, 17, 2, 40, 5, 0, 0, 66, 7, 8, 1, 30, 0, 4, 12])
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).int()
    n, rays = int(offsets[-1]), len(counts)
    ray = torch.repeat_interleave(torch.arange(rays), counts).int()
    distance, length, position = torch.rand(5, n, generator=random).split([1, 1, 3])
    samples = Samples(offsets, distance[0], 0.3 * length[0], position.T.contiguous(), ray)
    harmonics, background, target = torch.rand(rays, 10, generator=random).split([4, 3, 3], 1)
    table = 4 * torch.rand(shape.layout.entries, features, generator=random) - 2
    first = initial_weights(shape.density_widths, random)
    second = initial_weights(shape.color_widths, random)
    view = radiance_view(samples, harmonics, background, table, first, second, shape)
    _, gradients = radiance_gradients(
        samples, harmonics, background, target, table, first, second, shape, 1e-4, 0.1, 2, 0.4, 0.3
    )
    return [*view, gradients.loss, gradients.encoded[gradients.kept], *gradients[3:]]


def box_exercise() -> list[Tensor]:
    """Rays into a box, past it, and along its faces."""
    random = torch.Generator().manual_seed(8)
    origins, directions = torch.randn(2, 300, 3, generator=random)
    directions[::7, 1] = 0
    near, far = intersect_box(origins, directions, torch.zeros(3), torch.ones(3))
    return [near, far.clamp_min(-1)]  # minus infinity where a ray runs past the box


def occupancy_exercise() -> list[Tensor]:
    """A point in each of some cells of nested grids, and what densities there leave of the bits."""
    random = torch.Generator().manual_seed(9)
    values = torch.rand(2, 8**3, generator=random) - 0.1
    update_occupancy_(values, None, torch.rand(values.numel(), generator=random), 0.9)
    cells = torch.randint(values.numel(), (700,), generator=random, dtype=torch.int32)
    update_occupancy_(values, cells, torch.rand(700, generator=random), 0.8)
    return [cell_points(2, 8, cells, 7, 1), values, pack_bits(values, 0.5)]


def surface_exercise(level: float) -> list[Tensor]:
    """The surface of noise: rows of one word and more, cells with faces that alternate."""
    values = torch.randn(2, 9, 8, 37, generator=torch.Generator().manual_seed(12))
    return list(surfaces(values, level))


def spherical_harmonics_exercise(degree: int) -> list[Tensor]:
    """Values and gradient."""
    random = torch.Generator().manual_seed(5)
    directions = torch.randn(70, 3, generator=random)
    directions = torch.nn.functional.normalize(directions, dim=1).requires_grad_()
    out = spherical_harmonics(directions, degree)
    (grad,) = torch.autograd.grad(out.square().sum(), (directions,))
    return [out, grad]


def tangent_planes_exercise() -> list[Tensor]:
    """Vertices of cells whose planes are anyhow, and quads between them."""
    random = torch.Generator().manual_seed(14)
    low, foot, normal = torch.rand(3, 70, 3, generator=random, dtype=torch.float64)
    normal = torch.nn.functional.normalize(normal - 0.5, dim=1)
    reliable = torch.rand(70, generator=random) < 0.8
    rows = torch.randint(70, (70, 27), generator=random)
    found = place_vertices(low, 0.5, foot, normal, reliable, rows, Placement())
    quad = torch.randint(70, (70, 4), generator=random)
    return [*found, *quads_that_go(quad, found)]


def splats_exercise(model: SplatModel | Literal["bent"], channels: int) -> list[Tensor]:
    """Gaussians seen by a camera and drawn, with all gradients; lists longer than a batch."""
    random = torch.Generator().manual_seed(15)
    means, log_scales, more = torch.randn(3, 150, 4, generator=random)
    middles = 0.5 * means[:, :3] + torch.tensor([0.0, 0, 2])
    numbers = middles, log_scales[:, :3] - 2, more, means[:, 3].clone()
    harmonics = torch.randn(150, 9, 3, generator=random)
    color = torch.rand(150, channels, generator=random)
    pose = torch.cat([torch.eye(3), torch.full((3, 1), 0.1)], 1)
    leaves = [tensor.requires_grad_() for tensor in (*numbers, harmonics, color, pose)]
    lens = torch.tensor([[20.0, 22], [18, 15], [0.1, 0.02], [0.0, 0]])
    means, scales, turns, logits = leaves[:4]
    if model == "bent":
        bends = torch.cat([lens[2:].reshape(-1), torch.tensor([0.01, 0.02, 0.0, 0.01])])
        bent = BentCamera(leaves[-1], lens[0], lens[1], bends, 37, 30)
        seen = splat_points(means, scales, turns, logits, bent, antialiased=True)
    else:
        view = SplatCamera(leaves[-1], lens[0], lens[1], lens[2:].reshape(-1), 37, 30, model)
        seen = splat_project(means, scales, turns, logits, view, antialiased=True)
    tint = splat_color(means, harmonics, pose.detach()[:, 3], seen.rows)
    behind = 0.3 * torch.ones(channels)
    drawn = splat_raster(seen, color[seen.rows], 37, 30, half=True, background=behind)
    loss = drawn.sums.square().sum() + drawn.left.square().sum() + seen.depths.sum() + tint.sum()
    grads = torch.autograd.grad(loss, leaves)
    first, second = torch.zeros(2, 150, 3)
    row_adam_(means.detach(), grads[0].clone(), first, second, torch.full((3,), 0.01), 1)
    splat_shake_(means.detach(), scales.detach(), turns.detach(), logits.detach(), 0.1, 3)
    return [*seen, tint, drawn.sums, drawn.left, *grads, means, first, second]


def splat_field_exercise(degree: int) -> list[Tensor]:
    """Points among Gaussians of all sizes, beside them, and far outside."""
    random = torch.Generator().manual_seed(18)
    means, log_scales, turns, more = torch.randn(4, 150, 4, generator=random)
    harmonics = torch.randn(150, (degree + 1) ** 2, 3, generator=random)
    numbers = means[:, :3], 1.5 * log_scales[:, :3] - 3, turns, more[:, 0]
    x = 2 * torch.randn(150, 3, generator=random)
    return list(splat_field(x, splat_tree(*numbers, harmonics)))


def ssim_exercise() -> list[Tensor]:
    """Two images of two channels, and the gradient to the first."""
    random = torch.Generator().manual_seed(16)
    x, y = torch.rand(2, 2, 21, 35, 2, generator=random)
    found = image_error(x.requires_grad_(), y)
    return [found, *torch.autograd.grad(found, x)]


def photograph_exercise() -> list[Tensor]:
    """Opaque and transparent bytes, as they are and in squares, some of which are left over."""
    random = torch.Generator().manual_seed(17)
    pixels = torch.randint(0, 256, (41, 53, 4), generator=random, dtype=torch.uint8)
    behind = torch.tensor([0.1, 0.5, 0.9])
    found = (photograph(p, behind, n) for p in (pixels, pixels[..., :3]) for n in (1, 3))
    return [part for pair in found for part in pair if part is not None]


def ray_profile_exercise(weights: bool) -> list[Tensor]:
    """Pixels of rays, some of which end early, and the gradient, by way of weights or without."""
    random = torch.Generator().manual_seed(18)
    coefficients = 3 * torch.randn(70, 12, 4, generator=random)
    basis = torch.randn(9, 12, generator=random)
    place = torch.rand(9, generator=random).sort().values
    found = ray_profile(coefficients.requires_grad_(), basis, place, place / 4, weights=weights)
    parts = [part for part in found if part is not None]
    loss = torch.stack([part.square().sum() for part in parts]).sum()
    return [*parts, *torch.autograd.grad(loss, coefficients)]


NARROW, WIDE, FLAT = (7, 64, 16, 3), (4, 128, 16, 6), (6, 3)

# One instantiation at least of every struct that has a KERNEL line.
ONE_OF_EACH: dict[str, Callable[[], list[Tensor]]] = {
    "hash_grid": partial(hash_grid_exercise, 3, 2, False),
    "planes": partial(planes_exercise, 3, "product"),
    "nearest": partial(nearest_exercise, 3),
    "rbf": partial(rbf_exercise, 3, "a", "ivq", True),
    "mlp": partial(mlp_exercise, NARROW, "relu", "sigmoid"),
    "mlp of one matrix": partial(mlp_exercise, FLAT, "none", "truncated_exp"),
    "composite": partial(composite_exercise, 6),
    "march": partial(march_exercise, 2, True),
    "march over blocks": partial(march_exercise, 2, True, 0.0),
    "radiance": partial(radiance_exercise, 4, False),
    "box": box_exercise,
    "occupancy": occupancy_exercise,
    "surface": partial(surface_exercise, 0.0),
    "spherical_harmonics": partial(spherical_harmonics_exercise, 3),
    "splats": partial(splats_exercise, "pinhole", 3),
    "splats of a fisheye": partial(splats_exercise, "fisheye", 1),
    "splats through a bent lens": partial(splats_exercise, "bent", 1),
    "splat_field": partial(splat_field_exercise, 2),
    "ssim": ssim_exercise,
    "photograph": photograph_exercise,
    "ray_profile": partial(ray_profile_exercise, True),
    "tangent_planes": tangent_planes_exercise,
}

# Every instantiation, and what chooses branches within one.
ALL: dict[str, Callable[[], list[Tensor]]] = {
    **{
        f"hash_grid {d} {f}{' smoothstep' * smooth}": partial(hash_grid_exercise, d, f, smooth)
        for d in (2, 3, 4)
        for f in (1, 2, 4, 8)
        for smooth in (False, True)
    },
    **{
        f"planes {d} {combine}": partial(planes_exercise, d, combine)
        for d in (2, 3, 4)
        for combine in ("product", "sum")
    },
    **{f"nearest {d}": partial(nearest_exercise, d) for d in (2, 3)},
    **{
        f"rbf {d} {form} {family}{' normalized' * normalize}": partial(
            rbf_exercise, d, form, family, normalize
        )
        for d in (2, 3)
        for form in ("s", "d", "a")
        for family in ("ivq", "nlin")
        for normalize in (False, True)
    },
    **{
        f"mlp {widths} {activation} {output}": partial(mlp_exercise, widths, activation, output)
        for widths in (NARROW, WIDE, FLAT)
        for activation in ACTIVATIONS
        for output in OUTPUT_ACTIVATIONS
    },
    **{f"composite {channels}": partial(composite_exercise, channels) for channels in (1, 3, 6)},
    **{
        f"march {levels}{' jitter' * jitter}{cone}": partial(march_exercise, levels, jitter, cone)
        for levels in (1, 2, 4)
        for jitter in (False, True)
        for cone in (0.0, 0.01)
    },
    **{
        f"radiance {features}{' smoothstep' * smooth}": partial(radiance_exercise, features, smooth)
        for features in (1, 2, 4, 8)
        for smooth in (False, True)
    },
    "box": box_exercise,
    "occupancy": occupancy_exercise,
    **{f"surface {level}": partial(surface_exercise, level) for level in (-1.0, 0.0, 9.0)},
    **{
        f"spherical_harmonics {degree}": partial(spherical_harmonics_exercise, degree)
        for degree in range(8)
    },
    **{
        f"splats {model} {channels}": partial(splats_exercise, model, channels)
        for model in ("pinhole", "fisheye")
        for channels in (1, 3, 4, 8)
    },
    "splats bent": partial(splats_exercise, "bent", 3),
    **{f"splat_field {degree}": partial(splat_field_exercise, degree) for degree in range(4)},
    "ssim": ssim_exercise,
    "photograph": photograph_exercise,
    "ray_profile": partial(ray_profile_exercise, True),
    "ray_profile without weights": partial(ray_profile_exercise, False),
    "tangent_planes": tangent_planes_exercise,
}
