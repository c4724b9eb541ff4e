"""Density from a signed distance: where rays end, by both rules, against closed forms."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from polyfield.cuda.errors import InputError
from polyfield.fields.field import SurfaceField, TrainableField
from polyfield.fields.surface_radiance import BAND, MOST_SHARPNESS, SHARE, SurfaceRadiance
from polyfield.fields.table import FIELDS, arguments_of, build_field
from polyfield.fields.warp import build_warp

RADIUS = 0.3
SIZES = {"levels": 3, "log2_table_size": 10, "base_resolution": 4, "finest_resolution": 16}


def made(rule="neus", sharpness=100.0, seed=0, smoothstep=1):
    """A field that is still its sphere: the network adds nothing that counts."""
    random = torch.Generator().manual_seed(seed)
    radiance = build_field("hash-grid", SIZES | {"smoothstep": smoothstep}, random)
    field = SurfaceRadiance(radiance, rule, RADIUS)
    with torch.no_grad():
        field.log_sharpness.fill_(math.log(sharpness))
    return field


def along(origin, direction, begin, end, pieces):
    """Middles of pieces of a ray, and their halves as vectors."""
    direction = normalize(torch.tensor(direction), dim=0)
    edges = torch.linspace(begin, end, pieces + 1)
    middle = 0.5 * (edges[1:] + edges[:-1])
    half = (0.5 * edges.diff())[:, None] * direction
    return torch.tensor(origin) + middle[:, None] * direction, half, middle


def transmittance(field, x, half):
    density, _ = field.density(x, half)
    return torch.exp(-(density * 2 * half.norm(dim=1)).cumsum(0))


@pytest.mark.parametrize("name", ["hash-grid", "tri-plane", "rbf"])
def test_it_begins_as_a_sphere_whatever_the_encoding(name):
    sizes = arguments_of(FIELDS[name].arguments.fitted(64, 1 << 14))
    field = SurfaceRadiance(build_field(name, sizes), "neus", RADIUS)
    assert isinstance(field, TrainableField) and isinstance(field, SurfaceField)
    x = torch.rand(500, 3, generator=torch.Generator().manual_seed(1))
    expected = (x - 0.5).norm(dim=1) - RADIUS
    away = (x - 0.5).norm(dim=1) > 0.1
    found = field.distance(x)
    assert (found - expected)[away].abs().max() < {
        "hash-grid": 2e-3,
        "tri-plane": 0.01,
        "rbf": 0.05,
    }[name]
    assert not isinstance(build_field("hash-grid", SIZES), SurfaceField)


@pytest.mark.parametrize("pieces", [4, 32, 300])
@pytest.mark.parametrize("aside", [0.0, 0.15, 0.28])
@pytest.mark.parametrize("sharpness", [20.0, 200.0, 2000.0])
def test_what_is_left_of_a_ray_is_phi_of_the_distance_however_it_is_cut(pieces, aside, sharpness):
    """As long as the distance falls: head on, aslant and grazing."""
    field = made(sharpness=sharpness)
    x, half, _ = along([0.5 + aside, 0.5, 0.0], [0.0, 0.0, 1.0], 0.0, 0.45, pieces)
    with torch.no_grad():
        left = transmittance(field, x, half)
        begin = field.distance((x - half)[:1])
        end = field.distance(x + half)
    log_phi = torch.nn.functional.logsigmoid
    expected = torch.exp(log_phi(sharpness * end) - log_phi(sharpness * begin))
    torch.testing.assert_close(left, expected, atol=2e-4, rtol=2e-3)


def test_rays_end_at_the_surface_not_before_it():
    for aside in (0.0, 0.15, 0.25):
        field = made(sharpness=500.0)
        x, half, middle = along([0.5 + aside, 0.5, 0.0], [0.0, 0.0, 1.0], 0.0, 0.5, 128)
        with torch.no_grad():
            left = transmittance(field, x, half)
        hit = 0.5 - math.sqrt(RADIUS**2 - aside**2)
        last = int((left > 0.5).sum())  # the piece within which it falls below a half
        assert abs(float(middle[last]) - hit) < 0.5 / 128


def test_what_a_ray_leaves_it_does_not_see():
    field = made(sharpness=100.0)
    x, half, _ = along([0.5, 0.5, 0.5], [0.0, 0.0, 1.0], 0.05, 0.5, 40)
    with torch.no_grad():
        density, _ = field.density(x, half)
    assert (density == 0).all()


def test_without_a_piece_the_density_is_that_of_a_short_one_head_on():
    field = made(sharpness=100.0)
    x, half, _ = along([0.5, 0.5, 0.0], [0.0, 0.0, 1.0], 0.1, 0.3, 4000)
    with torch.no_grad():
        short, point = field.density(x, half)[0], field.density(x)[0]
    torch.testing.assert_close(short, point, rtol=0.1, atol=0.2)  # float32 ends, 5e-5 apart


def test_volsdf_is_the_laplace_distribution_within_whatever_the_ray():
    field = made("volsdf", sharpness=100.0)
    x, half, _ = along([0.5, 0.5, 0.0], [0.0, 0.0, 1.0], 0.0, 0.4, 4000)
    with torch.no_grad():
        density, distance = field.density(x)[0], field.distance(x)
        assert torch.equal(field.density(x, half)[0], density)
    outside = distance > 0
    expected = torch.where(
        outside, 50 * torch.exp(-100 * distance), 100 - 50 * torch.exp(100 * distance)
    )
    torch.testing.assert_close(density, expected, rtol=1e-4, atol=1e-4)
    # Before the surface, head on: 1 - exp(-1/2), independent of the sharpness.
    thickness = float((density * 2 * half.norm(dim=1))[outside].sum())
    assert 1 - math.exp(-thickness) == pytest.approx(1 - math.exp(-0.5), abs=2e-3)


def test_features_of_a_piece_are_the_mean_of_its_ends():
    field = made()
    x, half, _ = along([0.5, 0.4, 0.1], [0.1, 0.0, 1.0], 0.0, 0.3, 8)
    with torch.no_grad():
        _, features = field.density(x, half)
        ends = field.density(x - half)[1], field.density(x + half)[1]
    torch.testing.assert_close(features, 0.5 * (ends[0] + ends[1]), atol=1e-6, rtol=1e-5)


def test_where_pieces_follow_each_other_no_end_is_asked_for_twice(monkeypatch):
    field, asked = made(), []
    x, half, _ = along([0.5, 0.4, 0.1], [0.1, 0.0, 1.0], 0.0, 0.3, 8)
    y, other, _ = along([0.4, 0.5, 0.0], [0.0, 0.1, 1.0], 0.0, 0.3, 5)
    kept = torch.tensor([0, 1, 2, 5, 6, 7])  # of the first ray, what lay between was left out
    x, half = torch.cat([x[kept], y]), torch.cat([half[kept], other])
    features = field.radiance.features
    monkeypatch.setattr(
        field.radiance, "features", lambda places: asked.append(len(places)) or features(places)
    )
    with torch.no_grad():
        density, found = field.density(x, half)
        assert asked == [len(x) + 3]
        apart = [field.density(x[i : i + 1], half[i : i + 1]) for i in range(len(x))]
    torch.testing.assert_close(density, torch.cat([d for d, _ in apart]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found, torch.cat([f for _, f in apart]))


@pytest.mark.parametrize("rule", ["neus", "volsdf"])
def test_all_that_is_learned_has_its_gradient_against_finite_differences(rule):
    field = made(rule, sharpness=30.0)
    x, half, _ = along([0.55, 0.45, 0.05], [0.0, 0.1, 1.0], 0.0, 0.35, 24)
    with torch.no_grad():
        field.radiance.encoding.table.mul_(1e3)
        wanted = torch.rand(24, generator=torch.Generator().manual_seed(3))

    def error():
        return (field.density(x, half)[0] * wanted).sum()

    parameters = [
        field.log_sharpness,
        field.radiance.density_weights,
        field.radiance.encoding.table,
    ]
    gradients = torch.autograd.grad(error(), parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        way = gradient / gradient.norm()
        step = 1e-2 if parameter is field.log_sharpness else 3e-3
        with torch.no_grad():
            parameter.add_(step * way)
            above = float(error())
            parameter.sub_(2 * step * way)
            below = float(error())
            parameter.add_(step * way)
        assert (above - below) / (2 * step) == pytest.approx(float(gradient.norm()), rel=0.02)


def test_the_first_feature_moves_the_surface_by_a_tenth():
    field, x = made(), torch.rand(64, 3, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        before, features = field.distance(x), field.radiance.features(x)
        field.radiance.density_weights.mul_(-1.0)
        flipped = field.radiance.features(x)
        after = field.distance(x)
    torch.testing.assert_close(after - before, SHARE * (flipped - features)[:, 0])


def test_near_the_surface_is_a_band_that_never_gets_thinner_than_a_cell():
    x, _, _ = along([0.5, 0.5, 0.0], [0.0, 0.0, 1.0], 0.0, 0.45, 900)
    for sharpness in (20.0, 5000.0):
        field = made(sharpness=sharpness)
        with torch.no_grad():
            near, _ = field.near_surface().density(x)
            distance = field.distance(x)
        width = min(sharpness, BAND)
        expected = width / torch.cosh(width * distance / 2) ** 2
        torch.testing.assert_close(near, expected, rtol=1e-3, atol=1e-5)


def test_sharpness_has_an_end():
    field = made(sharpness=1e9)
    assert field.sharpness.item() == MOST_SHARPNESS
    density, _ = field.density(torch.full((1, 3), 0.5))
    assert torch.isfinite(density).all()


def test_colours_and_their_codes_are_the_radiance_field_s():
    sizes = SIZES | {"appearance": 2, "photographs": 3}
    field = SurfaceRadiance(build_field("hash-grid", sizes), "neus", RADIUS)
    assert field.codes is field.radiance.codes and len(field.codes) == 3
    random = torch.Generator().manual_seed(4)
    x = torch.rand(5, 3, generator=random)
    way = normalize(torch.randn(5, 3, generator=random), dim=1)
    features = field.density(x)[1]
    harmonics = field.encode_directions(way, field.codes[:1].expand(5, -1))
    expected = field.radiance.color(
        features, field.radiance.encode_directions(way, field.codes[:1].expand(5, -1))
    )
    assert torch.equal(field.color(features, harmonics), expected)


def test_fields_without_an_encoding_and_warped_ones_are_refused():
    with pytest.raises(InputError, match="--surface: NerfMlp"):
        SurfaceRadiance(build_field("mlp", {"layers": 2, "width": 16}), "neus", RADIUS)
    warped = build_field("hash-grid", SIZES, None, build_warp({"contraction": 2}))
    with pytest.raises(InputError, match="--space bounded"):
        SurfaceRadiance(warped, "neus", RADIUS)
