"""The opacity of points: where rays lose half their light, and what all views have lost it for."""

import math

import pytest
import torch
from ball_views import CENTER, RADIUS, depth_maps, off, project

from polyfield.cuda.errors import InputError
from polyfield.cuda.march import Samples
from polyfield.extract.fusion import MOST_RESOLUTION
from polyfield.extract.mesh_report import mesh_report
from polyfield.extract.opacity import half_depths, least_hidden, opacity_mesh


def samples_of(counts, length):
    """Rays from 1 on, one sample after the other."""
    offsets = torch.tensor([0, *counts]).cumsum(0).int()
    within = torch.cat([torch.arange(count) for count in counts])
    ray = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)).int()
    total = len(within)
    distance = 1 + (within + 0.5) * length
    return Samples(offsets, distance, torch.full((total,), length), torch.zeros(total, 3), ray)


def test_half_of_the_light_is_lost_where_beer_and_lambert_say():
    samples = samples_of((40, 0, 40, 40, 3), 0.05)
    density = torch.tensor([2.0, 0.1, 7.0, 50.0])[samples.ray.long().clamp(min=1) - 1]
    found = half_depths(density, samples)
    assert found[1] == math.inf and found[4] > 1
    for ray, thickness in ((0, 2.0), (2, 0.1), (3, 7.0), (4, 50.0)):
        exact = 1 + math.log(2) / thickness
        end = 1 + (2.0 if ray != 4 else 0.15)
        assert float(found[ray]) == pytest.approx(exact if exact < end else math.inf, rel=1e-6)


def test_no_ray_hears_of_the_one_before():
    """A ray behind a million samples of fog: its own light is whole."""
    samples = samples_of((1_000_000, 20), 0.01)
    density = torch.where(samples.ray == 0, 3.0, 1.0)
    assert float(half_depths(density, samples)[1]) == math.inf
    density = torch.where(samples.ray == 0, 3.0, 10.0)
    assert float(half_depths(density, samples)[1]) == pytest.approx(1 + math.log(2) / 10, abs=1e-6)
    nothing = samples_of((0, 0), 0.01)
    assert half_depths(torch.zeros(0), nothing).tolist() == [math.inf, math.inf]


def test_a_ball_is_found_between_pixels_and_cells():
    resolution = 64
    mesh = opacity_mesh(project, depth_maps(), resolution)
    report = mesh_report(mesh)
    assert (report.components, report.euler, report.watertight) == (1, 2, True)
    assert off(mesh).abs().mean() < 1 / resolution / 8
    assert (mesh.face_vectors() * (mesh.vertices[mesh.faces].mean(1) - CENTER)).sum(1).min() > 0


def test_of_the_views_the_one_that_sees_deepest_decides_in_any_order():
    """Views that meet a larger ball hide nothing that another sees."""
    maps, order = depth_maps(), torch.tensor([3, 1, 0, 2, *range(4, 12)])
    near = maps.clone()
    near[::2] -= 0.04

    def shuffled(view, points):
        return project(order[view], points)

    band = 3 / 48
    exact = least_hidden(project, maps, 48, band)
    torch.testing.assert_close(least_hidden(shuffled, maps[order], 48, band), exact)
    some = least_hidden(project, near, 48, band)
    only = least_hidden(lambda view, points: project(2 * view + 1, points), maps[1::2], 48, band)
    assert (some <= exact).all() and (some >= only - 1e-6).all()
    ticks = torch.arange(49) / 48
    away = (torch.cartesian_prod(ticks, ticks, ticks) - CENTER).norm(dim=1).view(49, 49, 49)
    # A ray is as far from the surface as a point, or farther.
    assert (exact[away < RADIUS - band] == -1).all()
    near_it = (away > RADIUS) & (away < RADIUS + band / 4)
    assert (exact[near_it] > 0).double().mean() > 0.95


def test_it_lies_as_deep_as_the_ray_that_meets_it_head_on_says():
    """A ball of fog: all rays go so far into it, and slanted ones do not come so deep."""
    depth = 0.02
    inward = -off(opacity_mesh(project, depth_maps() + depth, 64))
    assert inward.max() < 1.1 * depth and inward.median() > 0.7 * depth


def test_what_is_opaque_is_hidden_from_all_views_that_show_its_place_and_from_two_at_least():
    maps = depth_maps()
    walls = torch.full_like(maps, 0.3)  # before the whole cube

    def shown_by(views):
        def project_some(view, points):
            pixels, depth = project(view, points)
            return torch.where(view[:, None] < views, pixels, -5.0), depth

        return opacity_mesh(project_some, walls, 12)

    assert len(shown_by(0).faces) == len(shown_by(1).faces) == 0
    full = mesh_report(shown_by(2))
    assert full.watertight and full.euler == 2 and full.volume > 0.5

    def behind_most(view, points):  # all cameras but two look the other way
        pixels, depth = project(view, points)
        return pixels, torch.where(view < 2, depth, -depth)

    assert torch.equal(opacity_mesh(behind_most, walls, 12).faces, shown_by(2).faces)
    empty = torch.full_like(maps, torch.inf)
    assert len(opacity_mesh(project, empty, 24).faces) == 0
    for resolution in (1, MOST_RESOLUTION + 1):
        with pytest.raises(InputError, match="resolution"):
            opacity_mesh(project, empty, resolution)
