"""Density and colour of Gaussians at points: against all Gaussians at every point, and rays."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyfield.cuda.errors import InputError
from polyfield.cuda.rotations import matrices
from polyfield.cuda.splat_field import (
    FAINTEST,
    OPAQUEST,
    half_polylogarithm,
    splat_field,
    splat_field_reference,
    splat_tree,
)

pytestmark = pytest.mark.kernels


def crowd(n, seed=0, size=0.03, spread=1.0, degree=1):
    """Means, log-scales, quaternions, logits, harmonics: flat ones and needles of many sizes."""
    random = torch.Generator().manual_seed(seed)
    means, logits = torch.rand(n, 3, generator=random), 2 * torch.randn(n, generator=random)
    log_scales = math.log(size) + spread * torch.randn(n, 3, generator=random)
    turns = torch.randn(n, 4, generator=random)
    return means, log_scales, turns, logits, torch.randn(n, (degree + 1) ** 2, 3, generator=random)


def about(n, seed=1, beside=0.3):
    random = torch.Generator().manual_seed(seed)
    return (1 + 2 * beside) * torch.rand(n, 3, generator=random) - beside


def defined(x, numbers, widened=0.0, antialiased=False):
    """The definition, Gaussian by Gaussian, in float64 and by covariances: the oracle here."""
    means, log_scales, turns, logits, harmonics = (part.double() for part in numbers)
    density, colors = x.new_zeros(len(x)).double(), x.new_zeros(len(x), harmonics[0].numel())
    colors = colors.double()
    powers = torch.arange(1, 1500, dtype=torch.float64)
    for i in range(len(means)):
        axes = matrices(turns[i : i + 1])[0]
        sharp, widths = log_scales[i].exp(), (log_scales[i].exp() ** 2 + widened**2).sqrt()
        opacity = logits[i].sigmoid().item()
        if antialiased:
            opacity *= (sharp / widths).sort().values[1:].prod().item()
        opacity = min(OPAQUEST, opacity)
        off = x.double() - means[i]
        away = (off @ axes @ torch.diag(widths**-2) @ axes.T * off).sum(1)
        splat = opacity * torch.exp(-away / 2)
        near = torch.nonzero(splat >= FAINTEST)[:, 0]
        profile = (splat[near, None] ** powers / powers.sqrt()).sum(1)
        along = (widths**-2).mean().sqrt()  # one over the width along rays
        here = profile * along / math.sqrt(2 * math.pi)
        density[near] += here
        colors[near] += here[:, None] * harmonics[i].flatten()
    return density, colors / density.clamp_min(1e-300)[:, None]


def assert_same(got, expected, rtol=3e-5):
    """To a rounding, but for a point so near to where a Gaussian ends that it tips it over."""
    for a, b in zip(got, expected, strict=True):
        off = (a.double() - b.double()).abs() > rtol * (1 + b.abs()) + 1e-5 * b.abs().mean()
        most = max(1, len(a) // 300)
        assert off.view(len(a), -1).any(1).sum() <= most, off.nonzero()


@pytest.mark.parametrize(("degree", "size"), [(0, 0.3), (1, 0.003), (2, 0.03), (3, 0.1)])
def test_it_is_the_sum_over_all_gaussians(device, size, degree):
    numbers = crowd(90, size=size, degree=degree)
    means = numbers[0]
    x = torch.cat(
        [about(200), means + size * torch.randn(90, 3, generator=torch.Generator().manual_seed(2))]
    )
    tree = splat_tree(*(part.to(device) for part in numbers))
    density, features = splat_field(x.to(device), tree)
    expected = defined(x, numbers)
    assert (expected[0] > 0).sum() > 25
    assert_same((density.cpu(), features.cpu()), expected)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 999),
    count=st.integers(0, 300),
    size=st.sampled_from([1e-5, 1e-3, 0.02, 0.5, 30.0]),
    spread=st.sampled_from([0.0, 0.7, 1.5]),
    scale=st.sampled_from([1e-4, 1.0, 1e4]),
    away=st.sampled_from([0.0, 50.0]),
)
def test_cells_lose_no_gaussian(seed, count, size, spread, scale, away):
    """Of any shape, size and number, far from the origin as well."""
    means, log_scales, turns, logits, harmonics = crowd(count, seed, size, spread, 0)
    means = (scale * (means + away)).float()
    tree = splat_tree(means, log_scales + math.log(scale), turns, logits, harmonics)
    own = means[:150] + (matrices(turns) * (log_scales.exp() * scale)[:, None]).sum(2)[:150]
    x = torch.cat([scale * (about(150, seed) + away), means[:100], own])
    # In float32 a needle has as many digits less as it is longer than wide.
    assert_same(splat_field(x, tree), splat_field_reference(x.double(), tree), 3e-3)


@pytest.mark.parametrize("size", [0.003, 0.02])
def test_cells_hold_a_gaussian_to_its_ends(size):
    """Just within its reach: where its box touches, along its axes and along space's."""
    numbers = crowd(300, size=size, spread=0.8)
    axes = matrices(numbers[2]) * numbers[1].exp()[:, None]
    reach = 2 * (numbers[3].sigmoid() / FAINTEST).clamp_min(1).log()
    poles = (
        axes @ torch.nn.functional.normalize(axes, dim=2).mT
    )  # where it goes farthest in x, y, z
    ends = torch.cat([axes, -axes, poles, -poles], 2).mT
    x = numbers[0][:, None] + 0.995 * reach.sqrt()[:, None, None] * ends
    tree = splat_tree(*numbers)
    x = x.flatten(0, 1)
    density, _ = splat_field(x, tree)
    expected, _ = splat_field_reference(x.double(), tree)
    assert (expected > 0).float().mean() > 0.95
    torch.testing.assert_close(density.double(), expected, rtol=1e-3, atol=1e-3)


def test_huge_and_tiny_ones_lie_together(device):
    """One as large as everything is seen from everywhere, and does not make cells of the others."""
    numbers = crowd(200, size=0.002, spread=0.3)
    numbers[1][0], numbers[3][0] = math.log(20.0), 3.0
    numbers[1][1] = math.log(1e-8)
    numbers[0][2] = torch.tensor([40.0, -30.0, 10.0])  # a lost one
    tree = splat_tree(*(part.to(device) for part in numbers))
    x = torch.cat([about(150), 60 * about(50, 3), numbers[0]])
    density, features = splat_field(x.to(device), tree)
    expected = defined(x, numbers)
    assert (expected[0][150:200] > 0).float().mean() > 0.3
    assert_same((density.cpu(), features.cpu()), expected)
    cells = tree.starts.diff()
    assert cells[1:].max() < 30 and cells[0] < 3


def test_a_gaussian_is_in_few_cells_and_cells_have_few():
    tree = splat_tree(*crowd(4000, size=0.01, spread=0.8))
    assert len(tree.members) < 14 * 4000
    at = torch.bincount(tree.members, minlength=4000)
    assert at.min() >= 1 and at.max() <= 27
    assert at.float().mean() > 5  # as small cells as that allows: lists are short
    assert tree.starts.diff()[0] < 40 and tree.starts.diff().float().mean() < 20
    # Each cell but the first hangs on one other.
    hung = tree.children[tree.children >= 0]
    assert torch.equal(hung.sort().values, torch.arange(1, len(tree.children), dtype=torch.int32))


def test_along_a_line_past_a_round_one_it_is_what_the_splat_leaves():
    """So that many in a row, overlapping as they may, hide what splats hide."""
    for opacity in (0.05, 0.5, 0.9, 0.985):
        logit = torch.logit(torch.tensor([opacity]))
        width = 0.02
        scales, turn = torch.full((1, 3), math.log(width)), torch.tensor([[1.0, 0, 0, 0]])
        tree = splat_tree(torch.full((1, 3), 0.5), scales, turn, logit, torch.zeros(1, 1, 3))
        for beside in (0.0, 0.5, 1.0, 1.5):
            t = torch.linspace(-0.2, 0.2, 8001, dtype=torch.float64)
            still = torch.zeros_like(t)
            x = torch.stack([0.5 + t, 0.5 + still, 0.5 + beside * width + still], 1)
            density, _ = splat_field_reference(x, tree)
            seen = 1 - math.exp(-float(density.sum()) * (0.4 / 8000))
            splat = opacity * math.exp(-(beside**2) / 2)
            # The part of it that lies beyond where the splat ends is missing.
            assert splat - 0.012 < seen < splat + 2e-4, (opacity, beside, seen, splat)


def test_of_flat_ones_it_is_the_mean_square_over_directions():
    """What rays through the middle see, over all of them, as a small opacity adds up."""
    logit, scales = torch.tensor([-3.0]), torch.tensor([[0.03, 0.02, 0.001]]).log()
    turn = torch.tensor([[0.3, -0.5, 0.2, 0.9]])
    tree = splat_tree(torch.full((1, 3), 0.5), scales, turn, logit, torch.zeros(1, 1, 3))
    density, _ = splat_field(torch.full((1, 3), 0.5), tree)
    ways = torch.nn.functional.normalize(
        torch.randn(200_000, 3, generator=torch.Generator().manual_seed(4)), dim=1
    )
    inverse_square = (ways / scales.exp()).square().sum(1).mean()
    profile = half_polylogarithm(logit.sigmoid()) / math.sqrt(2 * math.pi)
    torch.testing.assert_close(density, profile * inverse_square.sqrt(), rtol=0.01, atol=0)


def test_the_polylogarithm_is_its_series():
    v = torch.linspace(0, OPAQUEST, 400, dtype=torch.float64)
    k = torch.arange(1, 4000, dtype=torch.float64)
    series = (v[:, None] ** k / k.sqrt()).sum(1)
    torch.testing.assert_close(half_polylogarithm(v), series, rtol=1e-6, atol=0)


@pytest.mark.parametrize("antialiased", [False, True])
def test_blurred_ones_are_wider_and_fainter_only_if_antialiased(antialiased):
    numbers = crowd(60, size=0.01)
    x = torch.cat([about(200, beside=0.0), numbers[0]])
    got = splat_field(x, splat_tree(*numbers, 0.02, antialiased))
    assert_same(got, defined(x, numbers, 0.02, antialiased))


def test_where_nothing_is_there_are_zeros(device):
    empty = splat_tree(*(part.to(device) for part in crowd(0)))
    some = splat_tree(*(part.to(device) for part in crowd(20, size=1e-4)))
    nowhere = torch.tensor([[torch.nan, 0.5, 0.5], [torch.inf, 0, 0], [1e30, 0, 0], [-3, 0.5, 0.5]])
    for tree in (empty, some):
        density, features = splat_field(nowhere.to(device), tree)
        assert not density.any() and not features.any()
        assert splat_field(nowhere[:0].to(device), tree)[1].shape == (0, 12)


def test_harmonics_beyond_degree_3_are_left_out():
    numbers = crowd(20, size=0.1, degree=4)
    tree = splat_tree(*numbers)
    assert tree.degree == 3
    x = about(50)
    expected = defined(x, (*numbers[:4], numbers[4][:, :16]))
    assert_same(splat_field(x, tree), expected)


@pytest.mark.parametrize("which", range(5))
def test_what_is_no_gaussian_is_refused(which):
    numbers = crowd(5)
    numbers[which].view(-1)[3] = torch.nan
    with pytest.raises(InputError, match="not finite"):
        splat_tree(*numbers)
    means, log_scales, turns, logits, harmonics = crowd(5)
    with pytest.raises(InputError, match="harmonics: 3 functions"):
        splat_tree(means, log_scales, turns, logits, harmonics[:, :3])
    for width in (-0.1, math.nan):
        with pytest.raises(InputError, match="widened"):
            splat_tree(means, log_scales, turns, logits, harmonics, width)
