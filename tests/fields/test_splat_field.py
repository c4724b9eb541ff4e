"""Gaussians as a field: what rays see of them, and their colours along directions."""

import math
from dataclasses import replace

import pytest
import torch

from polyfield.fields.field import RadianceField
from polyfield.fields.gaussians import Gaussians
from polyfield.fields.splat_field import SplatField
from polyfield.fields.splats import CONSTANT, Splats
from polyfield.render.cameras import Cameras
from polyfield.render.metrics import psnr_8bit
from polyfield.render.occupancy import full_grid
from polyfield.render.splat_grid import splat_grid
from polyfield.render.splats import DILATION, splat_image
from polyfield.render.view import render_view
from polyfield.render.volume import Sampling

CPU = torch.device("cpu")
SIZE, FOCAL = 48, 60.0
STEP = 0.002
SAMPLING = Sampling(step=STEP, cone=0.0, near=0.01, limit=2048)
BLACK = (0.0, 0.0, 0.0)


def camera():
    """Before the cube's middle, 1.2 away, looking along +z."""
    pose = torch.cat([torch.eye(3), torch.tensor([[0.5], [0.5], [-0.7]])], 1)
    whole = torch.tensor([SIZE])
    center = torch.full((1, 2), SIZE / 2)
    return Cameras(
        pose[None], torch.full((1, 2), FOCAL), center, torch.zeros(1, 4), whole, whole, "PINHOLE"
    )


def splats(means, scales, opacities, harmonics, turns=None):
    n = len(means)
    turns = torch.tensor([[1.0, 0, 0, 0]]).expand(n, 4) if turns is None else turns
    logits = torch.logit(torch.as_tensor(opacities))
    return Splats(means, scales.log(), turns, logits, harmonics)


def some(n=60, seed=0):
    """Round ones and others of one colour each, some behind others."""
    random = torch.Generator().manual_seed(seed)
    means = 0.25 + 0.5 * torch.rand(n, 3, generator=random)
    scales = 0.03 * (0.4 * torch.randn(n, 3, generator=random)).exp()
    opacities = 0.1 + 0.85 * torch.rand(n, generator=random)
    harmonics = 2 * torch.rand(n, 1, 3, generator=random) - 1
    return splats(means, scales, opacities, harmonics, torch.randn(n, 4, generator=random))


def test_it_is_a_field():
    assert isinstance(SplatField(some()), RadianceField)
    x = torch.rand(100, 3)
    one, other = SplatField(some()), SplatField(Gaussians(some()))
    assert torch.equal(one.density(x)[0], other.density(x)[0])
    assert not other.density(x)[1].requires_grad


def test_a_blur_makes_antialiased_ones_fainter():
    sharp = some()
    kept, less = (SplatField(replace(sharp, antialiased=a), 0.02) for a in (False, True))
    assert (less.density(sharp.means)[0] < 0.9 * kept.density(sharp.means)[0]).all()


@pytest.mark.parametrize("opacity", [0.3, 0.98])
def test_a_round_one_looks_as_its_splat_does(opacity):
    """To the closed form, o exp(-d^2 / 2), and to the rasteriser, at every pixel."""
    width, blur = 0.06, DILATION**0.5 * 1.2 / FOCAL
    one = splats(torch.full((1, 3), 0.5), torch.full((1, 3), width), [opacity], torch.ones(1, 1, 3))
    grid = full_grid(1, 32, CPU)
    seen = render_view(SplatField(one, blur), grid, camera(), 0, BLACK, SAMPLING)
    drawn = splat_image(one, camera(), 0, BLACK)
    assert (seen.opacity - drawn.opacity).abs().max() < 0.012
    _, ways = camera().rays(
        torch.zeros(SIZE, dtype=torch.int64), torch.stack([torch.arange(SIZE) + 0.5] * 2, 1)
    )
    beside = 1.2 * (1 - ways[:, 2] ** 2).sqrt()  # of the middle, where the ray is next to it
    expected = opacity * torch.exp(-(beside**2) / (2 * (width**2 + blur**2)))
    diagonal = seen.opacity.diagonal()
    assert (diagonal - expected).abs().max() < 0.012
    shade = 0.5 + CONSTANT
    torch.testing.assert_close(seen.color[..., 0], shade * seen.opacity, atol=1e-4, rtol=0)


def test_many_look_as_their_splats_do():
    all_, blur = some(), DILATION**0.5 * 1.2 / FOCAL
    field = SplatField(all_, blur)
    seen = render_view(field, splat_grid(field, 1, 32, STEP), camera(), 0, BLACK, SAMPLING)
    drawn = splat_image(all_, camera(), 0, BLACK)
    assert psnr_8bit(seen.color, drawn.color) > 29
    assert (seen.opacity - drawn.opacity).abs().mean() < 0.02
    assert abs((seen.opacity - drawn.opacity).mean()) < 0.006


def test_colours_are_harmonics_along_directions():
    """One is red from the right and blue from above; of two at a place, the mean by density."""
    harmonics = torch.zeros(2, 4, 3)
    harmonics[0, 3, 0], harmonics[0, 2, 2] = -0.4, 0.6  # -x, +z; see `spherical_harmonics`
    harmonics[1, 0] = torch.tensor([1.0, -1.0, 9.0])
    means = torch.tensor([[0.3, 0.5, 0.5], [0.7, 0.5, 0.5]])
    both = splats(means, torch.full((2, 3), 0.2), [0.5, 0.6], harmonics)
    field = SplatField(both)
    ways = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    basis = field.encode_directions(ways)
    slope = math.sqrt(3 / (4 * math.pi))
    _, features = field.density(means[:1].expand(4, 3))
    weights = [SplatField(splats(means[i : i + 1], torch.full((1, 3), 0.2), [o], harmonics[:1]))
               for i, o in ((0, 0.5), (1, 0.6))]  # fmt: skip
    own, beside = (float(each.density(means[:1])[0]) for each in weights)
    share = own / (own + beside)
    mean = share * harmonics[0] + (1 - share) * harmonics[1]
    expected = torch.full((4, 3), 0.5) + CONSTANT * mean[0]
    for row, (x, _, z) in enumerate(ways.tolist()):
        expected[row] += slope * (z * mean[2] - x * mean[3])
    torch.testing.assert_close(
        field.color(features, basis), expected.clamp(0, 1), atol=1e-5, rtol=0
    )
    assert 0.5 < share < 1
    far = field.density(means[1:].expand(4, 3))[1]
    assert (field.color(far, basis)[:, 2] == 1).all()  # cut


def test_no_point_at_all_has_no_colour():
    field = SplatField(some())
    density, features = field.density(torch.zeros(0, 3))
    assert len(density) == 0
    assert field.color(features, field.encode_directions(torch.zeros(0, 3))).shape == (0, 3)
