"""Sheets that end, seen along rays: what they hide, from which side, and where; closed forms."""

import math

import pytest
import torch
from torch.nn.functional import normalize, softplus

from polyfield.cuda.errors import InputError
from polyfield.fields.field import SurfaceField, TrainableField
from polyfield.fields.open_surface import CLOSED, HALF, LEAST, RIM_SHARE, OpenSurfaceRadiance
from polyfield.fields.surface_radiance import BAND, MOST_SHARPNESS, SHARE, to_sphere
from polyfield.fields.table import FIELDS, arguments_of, build_field
from polyfield.fields.warp import build_warp

RADIUS = 0.3
SIZES = {"levels": 3, "log2_table_size": 10, "base_resolution": 4, "finest_resolution": 16}
PLANE = 0.4


def made(sharpness=100.0, smoothstep=1):
    """A field that is still its sphere: the network adds nothing that counts."""
    random = torch.Generator().manual_seed(0)
    radiance = build_field("hash-grid", SIZES | {"smoothstep": smoothstep}, random)
    field = OpenSurfaceRadiance(radiance, RADIUS)
    with torch.no_grad():
        field.log_sharpness.fill_(math.log(sharpness))
    return field


def showing(monkeypatch, across, beyond, sharpness=500.0):
    """A field whose network says just what makes these two distances."""
    field = made(sharpness)

    def features(x):
        found = torch.zeros(len(x), 16, dtype=x.dtype)
        found[:, 0] = (across(x) - to_sphere(x, RADIUS)) / SHARE
        found[:, 1] = (beyond(x) + CLOSED / sharpness) / RIM_SHARE
        return found

    monkeypatch.setattr(field.radiance, "features", features)
    return field


def plane(x):
    return PLANE - x[:, 2]


def well_within(x):
    return torch.full_like(x[:, 0], -0.5)


def along(origin, direction, begin, end, pieces):
    """Middles of pieces of a ray, and their halves as vectors."""
    direction = normalize(torch.tensor(direction, dtype=torch.float64), dim=0)
    edges = torch.linspace(begin, end, pieces + 1, dtype=torch.float64)
    middle = 0.5 * (edges[1:] + edges[:-1])
    half = (0.5 * edges.diff())[:, None] * direction
    return torch.tensor(origin).double() + middle[:, None] * direction, half, middle


def weights_of(field, x, half):
    with torch.no_grad():
        thickness = field.density(x, half)[0] * 2 * half.norm(dim=1)
    left = torch.exp(-thickness.cumsum(0))
    before = torch.cat([left.new_ones(1), left[:-1]])
    return before - left, left


def zeta(distance, sharpness):
    return sharpness * distance / (1 + sharpness * distance)


@pytest.mark.parametrize("name", ["hash-grid", "tri-plane", "rbf"])
def test_it_begins_as_a_whole_sphere_whatever_the_encoding(name):
    sizes = arguments_of(FIELDS[name].arguments.fitted(64, 1 << 14))
    field = OpenSurfaceRadiance(build_field(name, sizes), RADIUS)
    assert isinstance(field, TrainableField) and isinstance(field, SurfaceField) and field.ends
    x = torch.rand(500, 3, generator=torch.Generator().manual_seed(1))
    away = (x - 0.5).norm(dim=1)
    off = (field.distance(x) - (away - RADIUS).abs()).abs()[away > 0.1]
    assert off.max() < {"hash-grid": 2e-3, "tri-plane": 0.01, "rbf": 0.05}[name]
    assert (field.signed_distances(x)[:, 1] < -0.1).all()


@pytest.mark.parametrize("pieces", [4, 32, 301])
@pytest.mark.parametrize("aslant", [0.0, 1.5])
@pytest.mark.parametrize("sharpness", [20.0, 500.0])
def test_what_is_left_before_a_plane_is_zeta_of_the_distance_however_it_is_cut(
    monkeypatch, pieces, aslant, sharpness
):
    field = showing(monkeypatch, plane, well_within, sharpness)
    end = 0.39 * math.hypot(1, aslant)
    x, half, _ = along([0.2, 0.5, 0.0], [aslant, 0.0, 1.0], 0.0, end, pieces)
    _, left = weights_of(field, x, half)
    ends = plane(x + half)
    expected = zeta(ends, sharpness) / zeta(torch.tensor(PLANE), sharpness)
    torch.testing.assert_close(left, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sides", [1, -1])
@pytest.mark.parametrize("pieces", [64, 65, 128, 255])
def test_a_ray_ends_in_the_piece_that_meets_the_plane_from_either_side(monkeypatch, sides, pieces):
    field = showing(monkeypatch, lambda x: sides * plane(x), well_within, 2000.0)
    for aslant in (0.0, 1.0):
        x, half, _ = along([0.2, 0.5, 0.0], [aslant, 0.0, 1.0], 0.0, 0.8, pieces)
        weights, _ = weights_of(field, x, half)
        met = int((plane(x + half) < 0).int().argmax())
        assert abs(int(weights.argmax()) - met) <= 1
        assert float(weights[met + 1 :].sum()) < 1e-3
        assert float(weights.sum()) > 0.999


def test_of_two_parallel_planes_only_the_first_is_seen(monkeypatch):
    field = showing(monkeypatch, lambda x: (x[:, 2] - 0.5).abs() - 0.1, well_within, 1000.0)
    x, half, _ = along([0.5, 0.5, 0.0], [0.1, 0.0, 1.0], 0.0, 0.95, 200)
    weights, _ = weights_of(field, x, half)
    assert float(weights[x[:, 2] > 0.45].sum()) < 1e-3
    back, _ = weights_of(field, x.flip(0), -half.flip(0))
    assert float(back[x.flip(0)[:, 2] < 0.55].sum()) < 1e-3


@pytest.mark.parametrize("beyond", [-0.01, 0.0, 0.002, 0.02, 0.3])
def test_a_lifted_sheet_lets_through_zeta_of_its_lift_twice(monkeypatch, beyond):
    """The opacity of distances that do not reach 0."""
    sharpness = 500.0
    field = showing(monkeypatch, plane, lambda x: torch.full_like(x[:, 0], beyond), sharpness)
    for pieces in (1, 7, 64):
        x, half, _ = along([0.5, 0.5, 0.0], [0.0, 0.0, 1.0], 0.0, 0.8, pieces)
        _, left = weights_of(field, x, half)
        lift = softplus(torch.tensor(sharpness * beyond).double()) / sharpness + LEAST
        ends = zeta(torch.hypot(lift, torch.tensor(PLANE)), sharpness)
        expected = (zeta(lift, sharpness) / ends) ** 2
        assert float(left[-1]) == pytest.approx(float(expected), rel=2e-3)


def test_a_sheet_ends_where_it_hides_a_half(monkeypatch):
    sharpness = 800.0
    field = showing(
        monkeypatch, plane, lambda x: torch.full_like(x[:, 0], HALF / sharpness), sharpness
    )
    x, half, _ = along([0.5, 0.5, 0.0], [0.0, 0.0, 1.0], 0.0, 0.8, 33)
    _, left = weights_of(field, x, half)
    ends = float(zeta(torch.tensor(PLANE), sharpness)) ** 2  # as much is left at both ends
    assert float(left[-1]) * ends == pytest.approx(0.5, rel=1e-3)
    rim = field.signed_distances(torch.tensor([[0.5, 0.5, PLANE]]))
    torch.testing.assert_close(rim, torch.zeros(1, 2), atol=1e-6, rtol=0)


def test_distances_are_those_of_a_half_plane_with_its_rim(monkeypatch):
    field = showing(monkeypatch, plane, lambda x: x[:, 0] - 0.5 + HALF / 500.0, 500.0)
    x = torch.rand(400, 3, generator=torch.Generator().manual_seed(2))
    expected = torch.hypot(plane(x), (x[:, 0] - 0.5).clamp_min(0))
    torch.testing.assert_close(field.distance(x), expected, atol=1e-6, rtol=1e-5)
    on = torch.tensor([[0.3, 0.8, PLANE], [0.49, 0.1, PLANE]])
    assert (field.distance(on) < 1e-6).all()


def test_a_sheet_closed_for_good_stays_finite_and_a_fresh_one_can_open(monkeypatch):
    x, half, _ = along([0.5, 0.5, 0.0], [0.0, 0.0, 1.0], 0.0, 0.39, 16)
    x, half = x.float(), half.float()
    field = made(1e9)
    assert field.sharpness.item() == MOST_SHARPNESS
    density, _ = field.density(x, half)
    density.sum().backward()
    assert density.isfinite().all()
    assert all(p.grad.isfinite().all() for p in field.parameters() if p.grad is not None)
    # At the sharpness of the beginning light that wants through lifts the sheet where it is met.
    pull = []
    field = showing(monkeypatch, plane, lambda x: pull[-1], 20.0)
    pull.append(torch.full((17,), -CLOSED / 20, requires_grad=True))
    x, half, _ = along([0.5, 0.5, 0.0], [0.0, 0.0, 1.0], 0.0, 0.8, 16)
    density, _ = field.density(x.float(), half.float())
    opacity = -torch.expm1(-(density * 0.05).sum())
    (slope,) = torch.autograd.grad(opacity, pull[-1])
    assert (slope <= 1e-3).all() and float(slope.sum()) < -0.2


def test_without_a_piece_the_density_is_that_of_a_short_one_head_on(monkeypatch):
    field = showing(monkeypatch, plane, well_within, 100.0)
    x, half, _ = along([0.5, 0.5, 0.0], [0.0, 0.0, 1.0], 0.1, 0.39, 4000)
    with torch.no_grad():
        short, point = field.density(x, half)[0], field.density(x)[0]
    torch.testing.assert_close(short, point, rtol=1e-3, atol=1e-3)


def test_features_of_a_piece_are_the_mean_of_its_ends():
    field = made()
    x, half, _ = along([0.5, 0.4, 0.1], [0.1, 0.0, 1.0], 0.0, 0.3, 8)
    x, half = x.float(), half.float()
    with torch.no_grad():
        _, features = field.density(x, half)
        ends = field.density(x - half)[1], field.density(x + half)[1]
    torch.testing.assert_close(features, 0.5 * (ends[0] + ends[1]), atol=1e-6, rtol=1e-5)


def test_all_that_is_learned_has_its_gradient_against_finite_differences():
    field = made(sharpness=15.0)
    x, half, _ = along([0.55, 0.45, 0.0], [0.0, 0.1, 1.0], 0.0, 0.9, 24)
    x, half = x.float(), half.float()
    with torch.no_grad():
        field.radiance.encoding.table.mul_(1e3)
        wanted = torch.rand(24, generator=torch.Generator().manual_seed(3))
        across = field.signed_distances(torch.cat([x - half, x[-1:] + half[-1:]]))[:, 0]
    assert int((across[1:] * across[:-1] < 0).sum()) == 2  # in and out of the sphere

    def error():
        thickness = field.density(x, half)[0] * 2 * half.norm(dim=1)
        return (thickness * wanted).sum()

    parameters = [
        field.log_sharpness,
        field.radiance.density_weights,
        field.radiance.encoding.table,
    ]
    gradients = torch.autograd.grad(error(), parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        way = gradient / gradient.norm()
        step = 1e-2 if parameter is field.log_sharpness else 1e-3
        with torch.no_grad():
            parameter.add_(step * way)
            above = float(error())
            parameter.sub_(2 * step * way)
            below = float(error())
            parameter.add_(step * way)
        assert (above - below) / (2 * step) == pytest.approx(float(gradient.norm()), rel=0.02)


def test_near_the_sheet_is_a_band_that_never_gets_thinner_than_a_cell(monkeypatch):
    x, _, _ = along([0.5, 0.5, 0.0], [0.0, 0.0, 1.0], 0.0, 0.9, 300)
    for sharpness in (20.0, 5000.0):
        field = showing(monkeypatch, plane, well_within, sharpness)
        near, _ = field.near_surface().density(x)
        width = min(sharpness, BAND)
        expected = width / torch.cosh(width * plane(x) / 2) ** 2
        torch.testing.assert_close(near.double(), expected, rtol=1e-3, atol=1e-5)


def test_fields_without_an_encoding_and_warped_ones_are_refused():
    with pytest.raises(InputError, match="--surface: NerfMlp"):
        OpenSurfaceRadiance(build_field("mlp", {"layers": 2, "width": 16}), RADIUS)
    warped = build_field("hash-grid", SIZES, None, build_warp({"contraction": 2}))
    with pytest.raises(InputError, match="--space bounded"):
        OpenSurfaceRadiance(warped, RADIUS)
