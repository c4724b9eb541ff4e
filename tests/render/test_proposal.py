"""The proposal: what its loss asks of it, whom it teaches, and that it learns where matter is."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyfield.fields.optimiser import FieldOptimiser
from polyfield.fields.proposal import ProposalNetwork
from polyfield.render.losses import ray_loss
from polyfield.render.proposal import (
    Proposal,
    annealing,
    interlevel_loss,
    learn_proposal,
    proposal_samples,
    updates,
)
from polyfield.render.volume import Sampling

SAMPLING = Sampling(1 / 64, 0.0, 0.0)
few = settings(max_examples=25, deadline=None)


def row(*numbers):
    return torch.tensor([numbers], dtype=torch.float64)


def test_the_loss_is_the_one_of_the_notes():
    # Section 12 of the notes on encodings: bounds 0.5, 0.3, 0.7 on weights 0.1, 0.5, 0.2.
    found = interlevel_loss(
        row(0.2, 0.4, 0.5, 0.9), row(0.1, 0.5, 0.2), row(0.0, 0.3, 0.6, 1.0), row(0.2, 0.3, 0.4)
    )
    torch.testing.assert_close(found, row(0.0, 0.08, 0.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.mean(), torch.tensor(0.0266667).double(), atol=1e-7, rtol=0)


@few
@given(st.lists(st.floats(0, 1), min_size=6, max_size=6))
def test_an_exact_coarsening_costs_nothing_and_a_lack_of_mass_does(weights):
    fine = torch.tensor([weights]).double()
    edges = torch.linspace(0, 1, 7)[None].double()
    coarse = fine.view(1, 3, 2).sum(2)
    assert interlevel_loss(edges, fine, edges[:, ::2], coarse).abs().max() < 1e-15
    assert interlevel_loss(edges, fine, edges, fine).abs().max() < 1e-15
    lacking = interlevel_loss(edges, fine + 0.1, edges, 0.5 * fine)
    assert (lacking > 0).all()


def test_an_interval_that_only_touches_is_not_counted():
    edges, bounds = row(0.25, 0.5), row(0.0, 0.25, 0.5, 1.0)
    found = interlevel_loss(edges, row(0.5), bounds, row(0.9, 0.2, 0.9))
    torch.testing.assert_close(found, row(0.3**2 / 0.5), atol=1e-6, rtol=0)


def test_only_the_proposal_is_taught():
    weights, edges = row(0.1, 0.5, 0.2).requires_grad_(), row(0.2, 0.4, 0.5, 0.9).requires_grad_()
    bounds, proposed = row(0.0, 0.3, 0.6, 1.0).requires_grad_(), row(0.2, 0.3, 0.4).requires_grad_()
    interlevel_loss(edges, weights, bounds, proposed).sum().backward()
    assert weights.grad is None and edges.grad is None and bounds.grad is None
    torch.testing.assert_close(proposed.grad, row(0.0, -2 * 0.2 / 0.5, 0.0), atol=1e-5, rtol=0)


def test_the_loss_has_its_numerical_gradient():
    random = torch.Generator().manual_seed(0)
    weights, proposed = torch.rand(2, 5, 8, generator=random, dtype=torch.float64)
    edges, bounds = torch.rand(2, 5, 9, generator=random, dtype=torch.float64).sort(2).values
    proposed = (0.3 * proposed).requires_grad_()
    loss = lambda p: interlevel_loss(edges, weights, bounds, p)  # noqa: E731
    assert loss(proposed).any()
    assert torch.autograd.gradcheck(loss, proposed)


def test_annealing_goes_from_even_to_trust():
    assert annealing(0) == 0 and annealing(1000) == annealing(5000) == 1
    assert annealing(100) == pytest.approx(1 / 1.9)
    assert all(annealing(i) < annealing(i + 1) for i in range(1000))


def test_updates_become_rarer():
    assert all(updates(i) for i in range(1000))
    assert [sum(updates(i) for i in range(n, n + 1000)) for n in (1000, 3000, 9000)] == [
        500,
        250,
        200,
    ]


class Wall:
    """Opaque from z = 0.6 on; nothing to learn."""

    def density(self, x):
        return 400.0 * (x[:, 2] > 0.6), x

    def encode_directions(self, directions):
        return directions

    def color(self, features, harmonics):
        return features.clamp(0, 1) * torch.ones(1, requires_grad=True)


class SoftWall(Wall):
    """The same with a density that has a gradient."""

    def __init__(self):
        self.scale = torch.ones(1, requires_grad=True)

    def density(self, x):
        return self.scale * super().density(x)[0], x


def rays(count=64, stream=0):
    random = torch.Generator().manual_seed(stream)
    origins = torch.rand(count, 3, generator=random) * torch.tensor([1.0, 1.0, 0.0])
    directions = torch.tensor([[0.0, 0.0, 1.0]]).expand(count, 3).contiguous()
    return origins - torch.tensor([0.0, 0.0, 1.0]), directions


def network(seed=0):
    return ProposalNetwork(64, generator=torch.Generator().manual_seed(seed))


def learn(guide, field, step, count=64):
    origins, directions = rays(count, step)
    black = torch.zeros(count, 3)
    loss_of = ray_loss(black, "squared")
    return learn_proposal(field, guide, origins, directions, black, loss_of, SAMPLING, 3, step)


def test_a_proposal_learns_where_the_wall_is():
    guide = Proposal(network(), 32, 16)
    optimiser = FieldOptimiser(guide.network)

    def near():
        z = proposal_samples(guide, *rays(), 0.0).position[:, 2]
        return float(((z - 0.6).abs() < 0.08).float().mean())

    before = near()
    for step in range(60):
        optimiser.clear()
        learn(guide, SoftWall(), step)
        optimiser.step(step, 1.0)
    assert before < 0.25 and near() > 0.5


def test_each_learns_from_its_own_loss_alone():
    guide, field = Proposal(network(), 32, 16), SoftWall()
    optimiser = FieldOptimiser(guide.network)
    optimiser.clear()
    learn(guide, field, 0)
    assert field.scale.grad is not None and guide.network.weights.grad.any()
    assert guide.network.encoding.deferred
    # In a step without an update the field learns all the same.
    optimiser.clear()
    field.scale.grad = None
    learn(guide, field, 1001)
    assert field.scale.grad is not None and guide.network.weights.grad is None
    assert not guide.network.encoding.deferred


def test_its_gradient_is_the_mean_over_rays_however_many_there_are():
    sizes = []
    for count in (64, 1024):
        guide = Proposal(network(), 32, 16)
        FieldOptimiser(guide.network).clear()
        learn(guide, SoftWall(), 0, count)
        sizes.append(float(guide.network.weights.grad.norm()))
    assert sizes[1] == pytest.approx(sizes[0], rel=0.5) and sizes[0] > 0


def test_where_a_part_of_the_samples_teaches_the_field_is_asked_for_less():
    class Counting(SoftWall):
        learned_from = 0

        def density(self, x):
            self.learned_from += len(x) if torch.is_grad_enabled() else 0
            return super().density(x)

    counts = []
    for thin in (False, True):
        field, (origins, directions) = Counting(), rays()
        black = torch.zeros(64, 3)
        loss_of, guide = ray_loss(black, "squared"), Proposal(network(), 32, 16)
        FieldOptimiser(guide.network).clear()
        learn_proposal(field, guide, origins, directions, black, loss_of, SAMPLING, 3, 0, thin=thin)
        counts.append(field.learned_from)
    assert 0 < counts[1] < 0.7 * counts[0]


def test_first_steps_sample_evenly_whatever_is_proposed():
    guide = Proposal(network(), 32, 16)
    with torch.no_grad():
        guide.network.weights.mul_(50)
        guide.network.encoding.table.normal_(generator=torch.Generator().manual_seed(1))
    asked = []

    class Noting(SoftWall):
        def density(self, x):
            asked.append(x)
            return super().density(x)

    lengths = []
    for step in (0, 1000):
        asked.clear()
        learn(guide, Noting(), step)
        z = asked[0].view(64, 16, 3)[:, :, 2]
        lengths.append(float(z.diff(dim=1).max()))
    assert lengths[0] < 2.1 / 16 < lengths[1]


def test_samples_of_a_view_tile_the_ray():
    samples = proposal_samples(Proposal(network(), 32, 16), *rays(8), 0.0)
    assert samples.ray_offsets.tolist() == list(range(0, 129, 16))
    torch.testing.assert_close(samples.length.view(8, 16).sum(1), torch.ones(8))


def test_rays_that_all_miss_the_cube_teach_nothing():
    guide = Proposal(network(), 32, 16)
    origins, directions = rays(4)
    white = torch.ones(4, 3)
    seen, loss = learn_proposal(
        SoftWall(),
        guide,
        origins + 5,
        directions,
        white,
        ray_loss(0 * white, "squared"),
        SAMPLING,
        0,
        0,
    )
    assert torch.equal(seen.color, white) and loss == 1
    assert all(p.grad is None for p in guide.network.parameters())
