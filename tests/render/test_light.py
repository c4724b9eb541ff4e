from dataclasses import replace

import pytest
import torch

from polyfield.cuda.composite import visible_samples
from polyfield.fields.appearance import InLightOf
from polyfield.fields.surface_radiance import SurfaceRadiance
from polyfield.fields.table import build_field
from polyfield.render.exposure import MOST_STOPS, at_mean_exposure
from polyfield.render.light import Light, fit_light, fit_stops
from polyfield.render.occupancy import full_grid
from polyfield.render.samplers import place_samples
from polyfield.render.volume import STOP, Sampling, render_rays

SAMPLING = Sampling(step=1 / 64, cone=0.0, near=0.0)
RAYS = 400
BACKGROUND = (0.2, 0.3, 0.4)


@pytest.fixture
def field():
    arguments = {"levels": 2, "log2_table_size": 10, "finest_resolution": 16, "hidden": 16}
    made = build_field(
        "hash-grid",
        arguments | {"appearance": 4, "photographs": 3},
        torch.Generator().manual_seed(3),
    )
    random = torch.Generator().manual_seed(4)
    with torch.no_grad():
        made.encoding.table.normal_(0.0, 1.0, generator=random)
        made.codes.normal_(0.0, 1.0, generator=random)
    return made.requires_grad_(False)


def rays():
    random = torch.Generator().manual_seed(5)
    origins = torch.rand(RAYS, 3, generator=random) * torch.tensor([1.0, 1.0, 0.0])
    directions = torch.tensor([[0.0, 0.0, 1.0]]).expand(RAYS, 3).contiguous()
    return origins, directions, torch.tensor(BACKGROUND).expand(RAYS, 3).contiguous()


def rendered(field, code=None):
    lit = field if code is None else InLightOf(field, code[None], 0)
    grid = full_grid(1, 32, torch.device("cpu"))
    with torch.no_grad():
        return render_rays(lit, grid, *rays(), SAMPLING)


def shown(field, code=None):
    return rendered(field, code).color


def on(light, field):
    """What a photograph in this light shows."""
    seen = rendered(field)
    return light.on(seen.color, seen.opacity, rays()[2])


def fitted(field, target, exposure, whole=True):
    grid = full_grid(1, 32, torch.device("cpu"))
    return fit_light(field, grid, *rays(), target, SAMPLING, exposure=exposure, whole=whole)


@pytest.mark.parametrize("whole", [True, False])
def test_stops_of_a_photograph_are_found(field, whole):
    stops = torch.tensor([0.7, 0.0, -0.5])
    plain = build_plain(field)
    target = on(Light(stops, None, whole), plain)
    found = fitted(plain, target, True, whole)
    assert found.code is None
    torch.testing.assert_close(found.stops, stops, atol=0.02, rtol=0)
    torch.testing.assert_close(on(found, plain), target, atol=0.01, rtol=0)


def test_what_lies_behind_a_transparent_photograph_has_a_light_of_its_own():
    color, behind = torch.tensor([[0.5, 0.4, 0.3]]), torch.tensor([[0.2, 0.3, 0.4]])
    light = Light(torch.ones(3), None, whole=False)
    nothing = light.on(behind, torch.zeros(1), behind)
    torch.testing.assert_close(nothing, behind)
    half = light.on(0.5 * color + 0.5 * behind, torch.full((1,), 0.5), behind)
    brighter = Light(torch.ones(3), None).on(color, torch.ones(1), behind)
    torch.testing.assert_close(half, 0.5 * brighter + 0.5 * behind)


def build_plain(field):
    """The same geometry in one light only."""
    plain = build_field(
        "hash-grid",
        {"levels": 2, "log2_table_size": 10, "finest_resolution": 16, "hidden": 16},
        torch.Generator().manual_seed(6),
    ).requires_grad_(False)
    plain.encoding.table.copy_(field.encoding.table)
    plain.density_weights.copy_(field.density_weights)
    return plain


def test_a_code_is_found_that_shows_the_photograph(field):
    code = field.codes[0] * 0.5
    target = shown(field, code)
    found = fitted(field, target, exposure=False)
    assert torch.equal(found.stops, torch.zeros(3))
    before = (shown(field) - target).square().mean()
    after = (shown(field, found.code) - target).square().mean()
    assert after < 0.05 * before


def test_a_code_is_sought_from_the_mean_of_the_photographs_on(field, monkeypatch):
    monkeypatch.setattr("polyfield.render.light.STEPS", 0)
    found = fitted(field, shown(field) * 0.5, exposure=False)
    torch.testing.assert_close(found.code, field.codes.mean(0))


def test_a_photograph_of_nothing_but_black_has_stops_that_show_something(field):
    plain = build_plain(field)
    found = fitted(plain, torch.zeros(RAYS, 3), exposure=True)
    assert (found.stops < -1).all() and (found.stops > -MOST_STOPS / 2).all()


def test_what_is_hidden_takes_no_part(field):
    plain = build_plain(field)
    plain.encoding.table.mul_(4)  # so dense that light ends within it
    grid = full_grid(1, 32, torch.device("cpu"))
    samples = place_samples(plain, grid, *rays()[:2], SAMPLING)
    density, _ = plain.density(samples.position)
    seen = visible_samples(density, samples.length, samples.ray_offsets, STOP)
    assert 0 < seen.sum() < len(seen)
    stops = torch.full((3,), 0.5)
    found = fitted(plain, on(Light(stops, None), plain), exposure=True)
    torch.testing.assert_close(found.stops, stops, atol=0.02, rtol=0)


def test_with_nothing_to_find_the_light_is_that_of_the_mean(field):
    plain = build_plain(field)
    found = fitted(plain, shown(plain) * 0.5, exposure=False)
    assert torch.equal(found.stops, torch.zeros(3)) and found.code is None
    torch.testing.assert_close(on(found, plain), shown(plain), atol=1e-6, rtol=1e-5)


def test_of_a_field_that_knows_pieces_of_rays_the_light_is_found_over_them(field):
    """Of a wall within one long piece, its middle alone would show something else."""
    surface = SurfaceRadiance(build_plain(field), "neus", 0.3)
    surface.log_sharpness.data.fill_(6.0)
    sampling = replace(SAMPLING, step=0.1, pieces=True)
    grid, stops = full_grid(1, 32, torch.device("cpu")), torch.tensor([0.7, -0.4, 0.2])
    with torch.no_grad():
        seen = render_rays(surface, grid, *rays(), sampling)
    target = Light(stops, None).on(seen.color, seen.opacity, rays()[2])
    found = fit_light(surface, grid, *rays(), target, sampling, exposure=True)
    torch.testing.assert_close(found.stops, stops, atol=0.01, rtol=0)


def test_a_light_puts_on_what_the_exposure_takes_off():
    color = torch.rand(5, 7, 3, generator=torch.Generator().manual_seed(0)) * 0.5
    stops = torch.tensor([0.5, -0.2, 0.1])
    lit = Light(stops, None).on(color, torch.ones(5, 7), torch.zeros(1, 1, 3))
    back = at_mean_exposure(lit, stops.expand(5, 7, 3))
    torch.testing.assert_close(back, color, atol=1e-5, rtol=1e-4)


def test_the_field_is_left_as_it_was(field):
    before = {name: tensor.clone() for name, tensor in field.state_dict().items()}
    fitted(field, shown(field) * 0.5, exposure=True)
    for name, tensor in field.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert all(parameter.grad is None for parameter in field.parameters())


@pytest.mark.parametrize("whole", [True, False])
def test_stops_of_pixels_are_found(whole):
    """Of a view that is half transparent here and there, on a background."""
    random = torch.Generator().manual_seed(0)
    opacity, color = torch.rand(RAYS, generator=random), torch.rand(RAYS, 3, generator=random)
    opacity[:40] = 0
    behind = torch.tensor(BACKGROUND)
    color = 0.6 * color * opacity[:, None] + (1 - opacity[:, None]) * behind
    stops = torch.tensor([0.7, 0.0, -0.5])
    target = Light(stops, None, whole).on(color, opacity, behind)
    found = fit_stops(color, opacity, behind, target, whole=whole)
    assert found.code is None and found.whole is whole and not found.stops.requires_grad
    torch.testing.assert_close(found.stops, stops, atol=0.01, rtol=0)
    again = fit_stops(color, opacity, behind, target, whole=whole)
    assert torch.equal(found.stops, again.stops)
    shown = found.on(color, opacity, behind)
    torch.testing.assert_close(shown, target, atol=0.01, rtol=0)
    other = fit_stops(color, opacity, behind, target, whole=not whole)
    assert (other.stops - stops).abs().max() > 0.02
