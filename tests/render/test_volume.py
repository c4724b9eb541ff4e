"""Learning from rays: the fused way and the composed one, and what both must leave behind."""

from dataclasses import replace

import pytest
import torch

from polyfield.fields.contraction import Contraction
from polyfield.fields.hash_grid import HashGrid
from polyfield.fields.nerf_mlp import NerfMlp, NerfMlpArguments
from polyfield.fields.radiance import Radiance
from polyfield.render.losses import huber, squared_error
from polyfield.render.occupancy import full_grid
from polyfield.render.volume import Sampling, learn_rays, render_rays

SAMPLING = Sampling(step=1 / 40, cone=0.0, near=0.0)
RAYS = 24


def field():
    generator = torch.Generator().manual_seed(1)
    made = Radiance(HashGrid(3, 4, 8, 4, 16, generator=generator), 16, 1, generator=generator)
    with torch.no_grad():  # matter enough to hide what lies behind it
        made.encoding.table.uniform_(-3, 3, generator=generator)
        made.density_weights *= 3
    return made


def rays(count=RAYS):
    random = torch.Generator().manual_seed(2)
    origins = torch.tensor([0.5, 0.5, -1.0]) + 0.2 * torch.rand(count, 3, generator=random)
    target = 0.2 + 0.6 * torch.rand(count, 3, generator=random)
    directions = torch.nn.functional.normalize(target - origins, dim=1)
    background, wanted = torch.rand(2, count, 3, generator=random)
    return origins, directions, background, wanted


def learned(model=None, sampling=SAMPLING, **options):
    model = model or field()
    origins, directions, background, wanted = rays()
    per_pixel = options.get("rays_per_pixel", 1)
    wanted = wanted[::per_pixel].repeat_interleave(per_pixel, 0)
    grid = full_grid(1, 32, torch.device("cpu"))
    seen, loss = learn_rays(
        model,
        grid,
        origins,
        directions,
        background,
        wanted,
        sampling,
        seed=3,
        stream=4,
        **options,
    )
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return seen, loss, gradients, wanted


@pytest.mark.parametrize("fade, contraction", [(0.0, 0), (1.5, 0), (0.0, 2)])
@pytest.mark.parametrize("per_pixel", [1, 2])
@pytest.mark.parametrize("kind", ["squared", "huber"])
def test_the_fused_way_is_the_composed_one(monkeypatch, kind, per_pixel, fade, contraction):
    def both():
        model = field()
        if contraction:
            model.warp = Contraction(contraction)
        sampling = replace(SAMPLING, fade=fade)
        return learned(model, sampling, loss_kind=kind, rays_per_pixel=per_pixel)

    seen, loss, gradients, _ = both()
    monkeypatch.setenv("POLYFIELD_BACKEND", "reference")
    expected_seen, expected_loss, expected, _ = both()
    torch.testing.assert_close(seen.color, expected_seen.color, atol=2e-5, rtol=0)
    torch.testing.assert_close(seen.depth, expected_seen.depth, atol=2e-5, rtol=0)
    assert seen[3:] == expected_seen[3:]
    assert 0 < seen.samples_shaded < seen.samples_marched
    torch.testing.assert_close(loss, expected_loss, atol=0, rtol=1e-5)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        size = expected[name].abs().max()
        torch.testing.assert_close(gradient, expected[name], atol=2e-4 * float(size), rtol=0)


@pytest.mark.parametrize("backend", ["", "reference"])
@pytest.mark.parametrize("of_one_pass", [True, False])
def test_only_fields_without_a_pass_of_their_own_learn_from_a_part(
    monkeypatch, backend, of_one_pass
):
    """What is learned is the field's matter, not that of the backend that it runs on."""
    monkeypatch.setenv("POLYFIELD_BACKEND", backend)

    def gradients(thin):
        layers = NerfMlpArguments(3, 16, 3, 1)
        random = torch.Generator().manual_seed(0)
        found = learned(field() if of_one_pass else NerfMlp(layers, random), thin=thin)[2]
        return torch.cat([each.flatten() for each in found.values()])

    assert torch.equal(gradients(True), gradients(False)) == of_one_pass


@pytest.mark.parametrize("backend", ["", "reference"])
@pytest.mark.parametrize("kind, error", [("squared", squared_error), ("huber", huber)])
def test_the_loss_is_that_of_the_colours_it_returns(monkeypatch, backend, kind, error):
    monkeypatch.setenv("POLYFIELD_BACKEND", backend)
    for per_pixel in (1, 2):
        seen, loss, _, wanted = learned(loss_kind=kind, rays_per_pixel=per_pixel)
        means = [t.detach().view(-1, per_pixel, 3).mean(1) for t in (seen.color, wanted)]
        torch.testing.assert_close(loss, error(*means).mean(), atol=0, rtol=1e-5)


@pytest.mark.parametrize("backend", ["", "reference"])
def test_a_second_batch_adds_to_the_gradients_of_the_first(monkeypatch, backend):
    monkeypatch.setenv("POLYFIELD_BACKEND", backend)
    model, grid = field(), full_grid(1, 32, torch.device("cpu"))
    found = []
    for _ in range(2):
        learn_rays(model, grid, *rays(), SAMPLING, seed=3, stream=4)
        found.append([parameter.grad.clone() for parameter in model.parameters()])
    for once, twice in zip(*found, strict=True):
        torch.testing.assert_close(twice, 2 * once)


@pytest.mark.parametrize("backend", ["", "reference"])
def test_rays_that_meet_nothing_teach_nothing(monkeypatch, backend):
    monkeypatch.setenv("POLYFIELD_BACKEND", backend)
    model, grid = field(), full_grid(1, 32, torch.device("cpu"))
    grid.bits.zero_()
    origins, directions, background, wanted = rays()
    seen, loss = learn_rays(model, grid, origins, directions, background, wanted, SAMPLING)
    assert torch.equal(seen.color, background) and seen.samples_shaded == 0
    torch.testing.assert_close(loss, squared_error(background, wanted).mean())
    assert not any(p.grad is not None and p.grad.any() for p in model.parameters())


def test_rendered_colours_lie_on_the_background_by_opacity():
    origins, directions, background, _ = rays()
    grid = full_grid(1, 32, torch.device("cpu"))
    dark = render_rays(field(), grid, origins, directions, torch.zeros(RAYS, 3), SAMPLING)
    lit = render_rays(field(), grid, origins, directions, background, SAMPLING)
    expected = dark.color + (1 - dark.opacity)[:, None] * background
    torch.testing.assert_close(lit.color, expected)
    assert 0 < dark.opacity.min() and dark.opacity.max() > 0.9
