"""Pieces of cones: their moments are those of the solid itself, and samples carry them."""

import pytest
import torch
from torch import Generator

from polyfield.fields.nerf_mlp import NerfMlp, NerfMlpArguments
from polyfield.fields.proposal import ProposalNetwork
from polyfield.render.cones import density_of, frustum_moments, pixel_radius, through_cones
from polyfield.render.importance import Importance, importance_samples
from polyfield.render.learning import density_in_pieces
from polyfield.render.occupancy import full_grid
from polyfield.render.packed import interval_samples, keep_samples, some_rays
from polyfield.render.proposal import Proposal
from polyfield.render.samplers import learn_rays, place_samples
from polyfield.render.volume import Sampling, render_rays

CPU = torch.device("cpu")


def integrals(begin, end, radius):
    """Mean, variance along and across, summed over thin slices of the solid."""
    edges = torch.linspace(begin, end, 200_001, dtype=torch.float64)
    t = 0.5 * (edges[1:] + edges[:-1])
    area = t.square() / t.square().sum()
    mean = (area * t).sum()
    across = radius**2 / 4 * (area * t.square()).sum()  # of a disc, along either axis
    return mean, (area * (t - mean).square()).sum(), across


@pytest.mark.parametrize(("begin", "end"), [(1.3, 2.1), (0.0, 1.0), (0.01, 5.0), (3.0, 3.001)])
def test_moments_are_those_of_the_solid(begin, end):
    ends = [torch.tensor([value], dtype=torch.float64) for value in (begin, end)]
    for found, expected in zip(
        frustum_moments(*ends, 0.3), integrals(begin, end, 0.3), strict=True
    ):
        assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_specification_s_figures():
    mean, along, across = frustum_moments(torch.tensor([1.3]), torch.tensor([2.1]), 1.0)
    assert mean.item() == pytest.approx(1.761608, abs=1e-6)
    assert along.item() == pytest.approx(0.050311, abs=1e-6)
    assert across.item() == pytest.approx(0.788394, abs=1e-6)


def test_thin_pieces_far_away_keep_a_variance_in_single_precision():
    middle = torch.logspace(-1, 3, 60)
    half = 1e-4 * middle
    found = frustum_moments(middle - half, middle + half, 0.01)
    exact = frustum_moments((middle - half).double(), (middle + half).double(), 0.01)
    for value, truth in zip(found, exact, strict=True):
        assert (value > 0).all()
        torch.testing.assert_close(value.double(), truth, rtol=1e-3, atol=0)


def test_a_pixel_s_disc_spreads_as_the_pixel_does():
    focal = torch.tensor([[50.0, 50.0]])
    radius = pixel_radius(focal).item()
    side = 1 / 50
    # A disc of radius r spreads r^2 / 4 along an axis, a square of side s s^2 / 12.
    assert radius**2 / 4 == pytest.approx(side**2 / 12, rel=1e-6)
    wide = pixel_radius(torch.tensor([[25.0, 100.0]]))
    assert wide.item() == pytest.approx(radius)


def rays(n=6, seed=0):
    random = Generator().manual_seed(seed)
    origins = torch.rand(n, 3, generator=random) * torch.tensor([1.0, 1.0, 0.0]) - 0.0
    aim = torch.rand(n, 3, generator=random)
    directions = torch.nn.functional.normalize(aim - origins + torch.tensor([0.0, 0, 0.5]), dim=1)
    return origins, directions


def cut(n=6):
    origins, directions = rays(n)
    edges = torch.linspace(0.05, 0.4, 8).expand(n, -1)
    return interval_samples(origins, directions, torch.ones(n, dtype=torch.bool), edges), directions


def test_a_sample_s_covariance_is_along_its_ray_and_across_it():
    samples, directions = cut()
    found = through_cones(samples, directions, 0.02)
    half = samples.length / 2
    mean, along, across = frustum_moments(samples.distance - half, samples.distance + half, 0.02)
    axis = directions[samples.ray.long()]
    outer = axis[:, :, None] * axis[:, None, :]
    eye = torch.eye(3)
    covariance = along[:, None, None] * outer + across[:, None, None] * (eye - outer)
    torch.testing.assert_close(found.extent, covariance.diagonal(dim1=1, dim2=2))
    shift = found.position - samples.position
    torch.testing.assert_close(shift, (mean - samples.distance)[:, None] * axis, atol=1e-6, rtol=0)
    assert torch.equal(found.distance, samples.distance) and torch.equal(found.ray, samples.ray)


def test_each_ray_has_its_own_cone():
    samples, directions = cut()
    radius = torch.tensor([0.01, 0.02, 0.03, 0.01, 0.02, 0.03])
    found = through_cones(samples, directions, radius)
    for value in (0.01, 0.02, 0.03):
        rows = radius[samples.ray.long()] == value
        same = through_cones(samples, directions, value).extent
        torch.testing.assert_close(found.extent[rows], same[rows])


def test_lines_stay_lines():
    samples, directions = cut()
    assert through_cones(samples, directions, 0.0) is samples and samples.extent is None


def test_variances_stay_with_their_samples_when_these_are_cut_and_thinned():
    samples = through_cones(*cut(), 0.05)
    some = some_rays(samples, 2, 4)
    assert torch.equal(some.extent, samples.extent[14:28])
    odd = torch.arange(len(samples.distance)) % 2 == 1
    assert torch.equal(keep_samples(samples, odd).extent, samples.extent[odd])


def field(integrated=1):
    return NerfMlp(NerfMlpArguments(3, 32, 8, 2, integrated), Generator().manual_seed(0))


def test_a_field_is_asked_for_rooms_where_samples_have_some():
    samples = through_cones(*cut(), 0.05)
    at_points, _ = density_of(field(), samples.position, None)
    in_rooms, features = density_of(field(), samples.position, samples.extent)
    assert (at_points - in_rooms).abs().max() > 1e-3 and features.shape[1] == 32
    pieces = density_in_pieces(field(), samples.position, samples.extent)
    torch.testing.assert_close(pieces, in_rooms.detach())


@pytest.mark.parametrize("guide", [Importance(8, 8), full_grid(1, 32, CPU)])
def test_views_and_training_see_the_field_through_the_same_cones(guide):
    """A wide cone: the same field by lines shows something else, however it is asked."""
    origins, directions = rays(64)
    behind, target = torch.zeros(64, 3), torch.full((64, 3), 0.5)
    shown = {}
    for pixel in (0.0, 0.3):
        sampling = Sampling(0.05, 0.0, 0.01, pixel=pixel)
        samples = place_samples(field(), guide, origins, directions, sampling)
        assert (samples.extent is None) == (pixel == 0)
        one = field()
        seen, loss = learn_rays(
            one, guide, origins, directions, behind, target, sampling, seed=1, stream=2
        )
        loss_by_ray = learn_rays(
            field(),
            guide,
            origins,
            directions,
            behind,
            target,
            Sampling(0.05, 0.0, 0.01, pixel=torch.full((64,), pixel)),
            seed=1,
            stream=2,
        )[1]
        if pixel:
            torch.testing.assert_close(loss_by_ray, loss)
        gradient = torch.cat([p.grad.reshape(-1) for p in one.parameters()])
        shown[pixel] = seen.color, loss, gradient
    for line, cone in zip(shown[0.0], shown[0.3], strict=True):
        assert (line - cone).abs().max() > 1e-4


def test_the_gradients_are_those_of_the_whole_rendered_at_once():
    origins, directions = rays(32)
    behind, target = torch.zeros(32, 3), torch.full((32, 3), 0.5)
    grid, sampling = full_grid(1, 32, CPU), Sampling(0.05, 0.0, 0.01, pixel=0.2)
    pieces, whole = field(), field()
    learn_rays(pieces, grid, origins, directions, behind, target, sampling, seed=1, stream=2)
    seen = render_rays(
        whole, grid, origins, directions, behind, sampling, seed=1, stream=2, jitter=True
    )
    (seen.color - target).square().mean().backward()
    for one, other in zip(pieces.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-6)


def test_importance_looks_with_cones_in_both_rounds():
    origins, directions = rays()
    lines = importance_samples(field(), Importance(8, 8), origins, directions, 0.01)
    cones = importance_samples(field(), Importance(8, 8), origins, directions, 0.01, pixel=0.4)
    assert (lines.distance - cones.distance).abs().max() > 1e-5


@pytest.mark.parametrize("guide", ["occupancy", "importance", "proposal"])
def test_every_sampler_gives_samples_halves_of_their_pieces_where_the_field_wants_them(guide):
    """Pieces of a ray follow each other from end to end."""
    random = Generator().manual_seed(2)
    origins = torch.tensor([[0.5, 0.45, -0.5]]).expand(3, -1)
    way = torch.tensor([0.0, 0.0, 1.0]) + 0.1 * torch.randn(3, 3, generator=random)
    directions = torch.nn.functional.normalize(way, dim=1)
    guides = {
        "occupancy": full_grid(1, 32, CPU),
        "importance": Importance(coarse=16, fine=16),
        "proposal": Proposal(ProposalNetwork(32, None, generator=random)),
    }

    class Fog:
        def density(self, x, extent=None):
            return torch.ones(len(x)), x

        def color(self, features, harmonics):
            return features

        def encode_directions(self, directions):
            return directions

    sampling = Sampling(step=1 / 32, cone=0.0, near=0.0, pieces=True)
    samples = place_samples(Fog(), guides[guide], origins, directions, sampling)
    ray = samples.ray.long()
    expected = 0.5 * samples.length[:, None] * directions[ray]
    torch.testing.assert_close(samples.extent, expected)
    begin, end = samples.position - samples.extent, samples.position + samples.extent
    following = ray[1:] == ray[:-1]
    assert following.any()
    torch.testing.assert_close(begin[1:][following], end[:-1][following], atol=1e-5, rtol=0)
    lines = Sampling(step=1 / 32, cone=0.0, near=0.0)
    assert place_samples(Fog(), guides[guide], origins, directions, lines).extent is None
