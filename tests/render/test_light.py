import pytest
import torch

from polyfield.fields.appearance import InLightOf
from polyfield.fields.table import build_field
from polyfield.render.exposure import at_mean_exposure
from polyfield.render.light import Light, fit_light
from polyfield.render.occupancy import full_grid
from polyfield.render.volume import Sampling, render_rays

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


def shown(field, code=None):
    lit = field if code is None else InLightOf(field, code[None], 0)
    grid = full_grid(1, 32, torch.device("cpu"))
    with torch.no_grad():
        return render_rays(lit, grid, *rays(), SAMPLING).color


def fitted(field, target, exposure):
    grid = full_grid(1, 32, torch.device("cpu"))
    return fit_light(field, grid, *rays(), target, SAMPLING, exposure=exposure)


def test_stops_of_a_photograph_are_found(field):
    stops = torch.tensor([0.7, 0.0, -0.5])
    plain = build_plain(field)
    target = Light(stops, None).on(shown(plain))
    assert target.max() < 1  # nothing is cut off
    found = fitted(plain, target, exposure=True)
    assert found.code is None
    torch.testing.assert_close(found.stops, stops, atol=0.02, rtol=0)
    torch.testing.assert_close(found.on(shown(plain)), target, atol=0.01, rtol=0)


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


def test_with_nothing_to_find_the_light_is_that_of_the_mean(field):
    plain = build_plain(field)
    found = fitted(plain, shown(plain) * 0.5, exposure=False)
    assert torch.equal(found.stops, torch.zeros(3)) and found.code is None
    torch.testing.assert_close(found.on(shown(plain)), shown(plain), atol=1e-6, rtol=1e-5)


def test_a_light_puts_on_what_the_exposure_takes_off():
    color = torch.rand(5, 7, 3, generator=torch.Generator().manual_seed(0)) * 0.5
    stops = torch.tensor([0.5, -0.2, 0.1])
    back = at_mean_exposure(Light(stops, None).on(color), stops.expand(5, 7, 3))
    torch.testing.assert_close(back, color, atol=1e-5, rtol=1e-4)


def test_the_field_is_left_as_it_was(field):
    before = {name: tensor.clone() for name, tensor in field.state_dict().items()}
    fitted(field, shown(field) * 0.5, exposure=True)
    for name, tensor in field.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert all(parameter.grad is None for parameter in field.parameters())
