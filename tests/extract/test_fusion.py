"""Depth maps fused: where the surface lies between pixels and views, and what nobody saw."""

import pytest
import torch
from ball_views import CENTER, PLACE, RADIUS, depth_maps, off, project

from polyfield.cuda.errors import InputError
from polyfield.extract.fusion import MOST_RESOLUTION, fused_distances, fused_mesh
from polyfield.extract.mesh_report import mesh_report


def test_a_ball_is_found_between_pixels_and_cells():
    resolution = 64
    mesh = fused_mesh(project, depth_maps(), resolution)
    report = mesh_report(mesh)
    assert (report.components, report.euler, report.watertight) == (1, 2, True)
    assert off(mesh).abs().mean() < 1 / resolution / 20
    assert (mesh.face_vectors() * (mesh.vertices[mesh.faces].mean(1) - CENTER)).sum(1).min() > 0
    shifted = fused_mesh(project, depth_maps(shift=0.5), resolution)
    assert off(shifted).abs().mean() > 3 * off(mesh).abs().mean()  # half a pixel shows


def test_the_order_of_the_views_does_not_matter():
    maps, order = (
        depth_maps(),
        torch.randperm(len(PLACE), generator=torch.Generator().manual_seed(1)),
    )

    def shuffled(view, points):
        return project(order[view], points)

    straight = fused_distances(project, maps, 24, 0.2)
    other = fused_distances(shuffled, maps[order], 24, 0.2)
    torch.testing.assert_close(straight, other, atol=1e-6, rtol=0)


def test_distances_are_parts_of_the_band_before_what_is_seen_and_solid_where_nobody_saw():
    """One view of a wall across the cube, at depth 1 along its axis."""

    def straight(view, points):
        return points[:, :2] * 40, points[:, 2] + 0.5

    wall = torch.full((1, 40, 40), 1.0)
    values = fused_distances(straight, wall, 20, 0.2)
    z = torch.arange(21) / 20
    expected = torch.where(z <= 0.7 + 1e-6, ((0.5 - z) / 0.2).clamp(max=1), torch.tensor(-1.0))
    inner = values[10, 10]
    torch.testing.assert_close(inner, expected, atol=1e-5, rtol=0)
    assert (values[20] == -1).all()  # pixel 40 is beyond the map's 40

    def behind(view, points):
        return points[:, :2] * 40, -points[:, 2] - 0.5

    assert (fused_distances(behind, wall, 8, 0.2) == -1).all()


def test_rays_that_end_nowhere_are_empty_all_along():
    def straight(view, points):
        return points[:, :2] * 40, points[:, 2] + 0.5

    values = fused_distances(straight, torch.full((1, 40, 40), torch.inf), 8, 0.2)
    assert (values[:8, :8] == 1).all()


def test_at_a_step_of_the_depth_nothing_hangs_in_between():
    """A near half and a far half: no node between the two depths takes either for its surface."""

    def straight(view, points):
        return points[:, :2] * 40, points[:, 2]

    stairs = torch.full((1, 40, 40), 0.3)
    stairs[:, :, 20:] = 0.9
    mesh_depth = fused_distances(straight, stairs, 40, 0.1)
    middle = mesh_depth[:40, 20]  # along x and z
    crossing = ((middle[:, :-1] > 0) & (middle[:, 1:] <= 0)).float()
    first = crossing.argmax(1)
    assert set(first.tolist()) <= {11, 12, 35, 36}


def test_an_unseen_side_stays_solid_and_closes_on_the_border():
    above = [view for view in range(len(PLACE)) if PLACE[view, 2] > 0.5]
    index = torch.tensor(above)

    def some(view, points):
        return project(index[view], points)

    mesh = fused_mesh(some, depth_maps(views=above), 32)
    assert mesh_report(mesh).watertight
    height = mesh.vertices[:, 2] - CENTER[2]
    top = height > 0.1
    assert off(mesh)[top].abs().median() < 0.01
    below = mesh.vertices[(mesh.vertices[:, :2] - CENTER[:2]).norm(dim=1) < 0.1]
    assert below[:, 2].min() < CENTER[2] - RADIUS - 0.02  # what lies under it nobody saw


@pytest.mark.parametrize("resolution", [1, MOST_RESOLUTION + 1])
def test_resolutions_out_of_range_are_refused(resolution):
    with pytest.raises(InputError, match=f"resolution: {resolution}"):
        fused_mesh(project, depth_maps(), resolution)
