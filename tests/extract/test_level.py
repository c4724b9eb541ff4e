import math

import pytest
import torch

from polyfield.cuda.errors import InputError
from polyfield.extract.density_surface import surface_level
from polyfield.extract.level import median_depth_level, median_depths


def rays_along_x(count=9, scale=1.0):
    yz = torch.linspace(0.2, 0.8, count, dtype=torch.float64)
    origins = torch.stack([torch.full_like(yz, -0.5), yz, yz.flip(0)], 1)
    return origins, torch.tensor([[1.0, 0, 0]], dtype=torch.float64).expand(count, 3)


def wall(most, steepness, at=0.5):
    return lambda points: most * torch.sigmoid(steepness * (points[:, 0] - at))


@pytest.mark.parametrize("most, steepness", [(100, 50), (500, 200), (60, 20)])
def test_a_soft_wall_has_its_level_where_half_the_light_is_lost(most, steepness):
    # The optical depth of the wall up to t is (most / steepness) log(1 + exp(steepness t)).
    half = math.log(math.expm1(math.log(2) * steepness / most)) / steepness
    density = wall(most, steepness)
    depth, opacity = median_depths(density, *rays_along_x(), samples=2048)
    torch.testing.assert_close(depth, torch.full_like(depth, 1.0 + half), atol=2e-5, rtol=0)
    level = median_depth_level(density, *rays_along_x(), depth, opacity)
    exact = most / (1 + math.exp(-steepness * half))
    assert level == pytest.approx(exact, rel=2e-3)
    # The checked walls: 29 at -0.018 and 121 at -0.0057.
    if (most, steepness) == (100, 50):
        assert half == pytest.approx(-0.018, abs=5e-4) and level == pytest.approx(29, abs=0.5)
    if (most, steepness) == (500, 200):
        assert half == pytest.approx(-0.0057, abs=5e-5) and level == pytest.approx(121, abs=0.5)


def test_level_solves_the_rule_it_states():
    """The median over rays of (first depth with density >= level) - median depth is zero."""
    generator = torch.Generator().manual_seed(0)
    bumps = torch.rand(5, 6, generator=generator, dtype=torch.float64)

    def density(points):
        # A haze in front and walls of different hardness behind, another for every ray.
        haze = 0.4 * (6 * math.tau * points[:, :1] * bumps[0] + bumps[1]).sin().clamp(min=0).mean(1)
        hardness = 60 + 200 * (7 * points[:, 1] + 3 * points[:, 2]).sin() ** 2
        return haze + hardness * torch.sigmoid(80 * (points[:, 0] - 0.6))

    origins, directions = rays_along_x(41)
    depth, opacity = median_depths(density, origins, directions)
    level = median_depth_level(density, origins, directions, depth, opacity, samples=512)
    t = torch.linspace(0.5, 1.5, 20_001, dtype=torch.float64)
    points = origins[:, None] + t[:, None] * directions[:, None]
    reached = density(points.reshape(-1, 3)).reshape(len(origins), -1) >= level
    first = t[reached.long().argmax(1)]
    assert bool(reached.any(1).all())
    assert abs(float((first - depth).median())) < 2e-3


def test_scaling_the_scene_scales_the_level_inversely():
    origins, directions = rays_along_x()
    depth, opacity = median_depths(wall(100, 50), origins, directions)
    level = median_depth_level(wall(100, 50), origins, directions, depth, opacity)

    def third(points):
        return 3 * wall(100, 50)(3 * points)

    small_depth, small_opacity = median_depths(third, origins / 3, directions, samples=1536)
    got = median_depth_level(third, origins / 3, directions, small_depth, small_opacity)
    assert got == pytest.approx(3 * level, rel=0.02)


def test_the_median_is_over_rays_that_are_opaque():
    origins, directions = rays_along_x(10)

    def density(points):
        # Seven of ten rays see a faint cloud that lets a fifth of the light through.
        faint = 3.2 * (points[:, 0] > 0.5)
        return torch.where(points[:, 1] < 0.63, faint, wall(100, 50)(points))

    depth, opacity = median_depths(density, origins, directions)
    assert int((opacity < 0.9).sum()) == 7 and bool(depth.isfinite().all())
    counted = median_depth_level(density, origins, directions, depth, opacity)
    assert counted == pytest.approx(29, abs=1)
    assert surface_level(density, origins, directions) == counted
    assert median_depth_level(density, origins, directions, depth) == pytest.approx(3.2)


def test_a_dense_skin_that_most_light_passes_still_comes_first():
    """Where the light is halved behind the skin, the rule asks for the first depth: the skin."""
    origins, directions = rays_along_x(9)

    def density(points):
        skin = 20 + 15 * points[:, 1]
        x = points[:, 0]
        return torch.where(x > 0.52, 10.0, torch.where(x > 0.5, skin, 0.0))

    depth, opacity = median_depths(density, origins, directions)
    assert bool((depth > 1.02).all())
    level = median_depth_level(density, origins, directions, depth, opacity, samples=256)
    assert level == pytest.approx(20 + 15 * 0.5)


def test_a_thin_veil_shifts_the_level_only_with_the_light_that_it_takes():
    def density(points):
        veil = 20.0 * ((points[:, 0] - 0.2).abs() < 0.005)
        return veil + wall(100, 50)(points)

    # What is left to lose is log 2 - 20 * 0.01; the veil's own density is lower than the wall's.
    exact = 100 * -math.expm1(-(math.log(2) - 0.2) * 50 / 100)
    level = surface_level(density, *rays_along_x(), samples=4096)
    assert level == pytest.approx(exact, rel=0.02) and exact > 21


def test_median_depth_of_a_constant_medium_is_exact():
    origins, directions = rays_along_x()
    depth, opacity = median_depths(lambda x: torch.full_like(x[:, 0], 3.0), origins, directions, 7)
    torch.testing.assert_close(depth, torch.full_like(depth, 0.5 + math.log(2) / 3))
    torch.testing.assert_close(opacity, torch.full_like(depth, -math.expm1(-3.0)))


def test_rays_that_miss_or_see_through_have_no_median_depth():
    origins = torch.tensor([[-1.0, 0.5, 0.5], [-1.0, 2.0, 0.5], [2.0, 0.5, 0.5], [0.5, 0.5, 0.5]])
    directions = torch.tensor([[1.0, 0, 0]]).expand(4, 3)
    thick = median_depths(lambda x: torch.full_like(x[:, 0], 5.0), origins, directions)
    assert thick.depth.isfinite().tolist() == [True, False, False, True]
    assert thick.opacity[1:3].tolist() == [0, 0]
    assert float(thick.depth[3]) == pytest.approx(math.log(2) / 5, rel=1e-4)
    thin = median_depths(lambda x: torch.full_like(x[:, 0], 0.5), origins, directions)
    assert not bool(thin.depth.isfinite().any())
    assert float(thin.opacity[0]) == pytest.approx(-math.expm1(-0.5), rel=1e-4)
    with pytest.raises(InputError, match="none among 4 rays"):
        median_depth_level(lambda x: x[:, 0], origins, directions, thin.depth, thin.opacity)


def test_an_empty_field_has_no_level():
    origins, directions = rays_along_x()
    depth = torch.ones(len(origins), dtype=torch.float64)
    with pytest.raises(InputError, match="positive density"):
        median_depth_level(lambda x: 0 * x[:, 0], origins, directions, depth)
