"""Learning from given samples: in pieces as at once, and from a part as from all on average."""

import pytest
import torch

from polyfield.cuda.counter_random import random_unit
from polyfield.cuda.march import march
from polyfield.fields.nerf_mlp import NerfMlp, NerfMlpArguments
from polyfield.render import learning
from polyfield.render.learning import density_in_pieces, learn_samples, worth_learning
from polyfield.render.losses import ray_loss
from polyfield.render.occupancy import full_grid
from polyfield.render.volume import Sampling, render_rays

RAYS = 20
SAMPLING = Sampling(1 / 24, 0.0, 0.0)


def field():
    made = NerfMlp(NerfMlpArguments(3, 16, 3, 1), torch.Generator().manual_seed(0))
    with torch.no_grad():
        made.density_layer.weight *= 3  # matter enough to hide what lies behind it
        made.density_layer.bias.fill_(1.0)
    return made


def rays():
    random = torch.Generator().manual_seed(2)
    origins = torch.tensor([0.5, 0.5, -1.0]) + 0.2 * torch.rand(RAYS, 3, generator=random)
    towards = 0.2 + 0.6 * torch.rand(RAYS, 3, generator=random)
    directions = torch.nn.functional.normalize(towards - origins, dim=1)
    background, target = torch.rand(2, RAYS, 3, generator=random)
    return origins, directions, background, target


def learned(thin=None, model=None, distortion=0.01, fade=0.0):
    model = model or field()
    origins, directions, background, target = rays()
    grid = full_grid(1, 32, torch.device("cpu"))
    samples = march(origins, directions, grid.bits, 1, 32, 1 / 24, 0.0, 0.0, 99, 0, 0, False)
    loss = ray_loss(target, "squared", 1, distortion)
    out = learn_samples(model, samples, directions, background, loss, 0.05, fade, thin)
    return out, torch.cat([p.grad.view(-1) for p in model.parameters()])


def test_it_is_what_autograd_makes_of_the_whole():
    out, found = learned(distortion=0.0)
    model = field()
    origins, directions, background, target = rays()
    grid = full_grid(1, 32, torch.device("cpu"))
    seen = render_rays(model, grid, origins, directions, background, SAMPLING)
    loss = (seen.color - target).square().mean()
    loss.backward()
    torch.testing.assert_close(out.loss, loss.detach(), atol=3e-2, rtol=0)  # of what is cut off
    torch.testing.assert_close(out.color, seen.color.detach(), atol=0.05, rtol=0)
    expected = torch.cat([p.grad.view(-1) for p in model.parameters()])
    assert torch.nn.functional.cosine_similarity(found, expected, 0) > 0.95


def test_pieces_do_not_show(monkeypatch):
    whole, gradient = learned()
    monkeypatch.setitem(learning.PIECE, "cpu", 17)
    parts, of_parts = learned()
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(gradient, of_parts, atol=1e-6, rtol=1e-4)
    x = torch.rand(50, 3)
    torch.testing.assert_close(density_in_pieces(field(), x), field().density(x)[0].detach())


def test_weights_are_those_of_all_samples_in_their_order():
    out, _ = learned()
    assert not out.visible.all() and (out.weights[~out.visible] == 0).all()
    assert (out.weights[out.visible] > 0).all()
    torch.testing.assert_close(out.weights.sum(), out.opacity.sum())


def test_a_second_batch_adds_to_the_gradients_of_the_first():
    model = field()
    _, once = learned(model=model)
    _, twice = learned(model=model)
    torch.testing.assert_close(twice, 2 * once)


def test_what_lies_nearer_than_the_fade_is_shown_and_hardly_teaches():
    (plain, whole), (out, faint) = learned(), learned(fade=1e3)
    torch.testing.assert_close(out.color, plain.color, atol=1e-5, rtol=1e-5)
    assert 0 < faint.norm() < 1e-5 * whole.norm()  # all samples lie within 3, of 1000


def test_a_part_of_the_samples_teaches_the_same_on_average():
    _, whole = learned()
    parts = torch.stack([learned((3, stream))[1] for stream in range(200)])
    error, spread = parts.mean(0) - whole, parts.std(0)
    assert spread.norm() > 0.01 * whole.norm()
    assert error.norm() < 2.0 * spread.norm() / 200**0.5


def test_what_a_ray_shows_does_not_depend_on_which_samples_teach():
    for one, other in zip(learned()[0], learned((1, 2))[0], strict=True):
        assert torch.equal(one, other)


def test_samples_above_the_mean_stay_and_others_count_for_more():
    density = torch.ones(2000)
    of_density = torch.cat([torch.full((1000,), -0.1), torch.full((1000,), 1.9)])
    kept, factor = worth_learning(density, of_density, torch.zeros(2000, 3), 1, 2)
    assert kept[1000:].all() and (factor[-1000:] == 1).all()
    assert 60 < kept[:1000].sum() < 140
    torch.testing.assert_close(factor[:-1000], torch.full_like(factor[:-1000], 10.0))
    again, _ = worth_learning(density, of_density, torch.zeros(2000, 3), 1, 2)
    others = [
        worth_learning(density, of_density, torch.zeros(2000, 3), *d)[0] for d in ((2, 2), (1, 3))
    ]
    assert torch.equal(kept, again) and not any(torch.equal(kept, other) for other in others)


def test_what_counts_is_the_gradient_to_the_logarithm_of_a_density():
    density = torch.cat([torch.full((1000,), 0.05), torch.full((1000,), 1.95)])
    kept, _ = worth_learning(density, torch.ones(2000), torch.zeros(2000, 3), 1, 2)
    assert kept[1000:].all() and 20 < kept[:1000].sum() < 90


def test_which_samples_teach_does_not_hang_together_with_the_jitter_of_rays():
    of_density = torch.cat([torch.full((1000,), 0.1), torch.full((1000,), 1.9)])
    kept, _ = worth_learning(torch.ones(2000), of_density, torch.zeros(2000, 3), 1, 2)
    jitter = random_unit(1, 2, torch.arange(1000))
    assert not torch.equal(kept[:1000], jitter < 0.1)


@pytest.mark.parametrize("size", [0.0, float("nan")])
def test_gradients_of_nothing_teach_nothing(size):
    kept, factor = worth_learning(torch.ones(5), torch.full((5,), size), torch.zeros(5, 3), 0, 0)
    assert not kept.any() and len(factor) == 0
