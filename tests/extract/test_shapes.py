"""Distances to triangles and to points, and what lies inside of them."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from polyfield.cuda.errors import InputError
from polyfield.extract.marching_cubes import distance_mesh
from polyfield.extract.mesh import Mesh
from polyfield.extract.shapes import CloudShape, MeshShape, Shape

pytest.importorskip("igl", reason="the extra surfaces is not installed")
RADIUS = 0.3
X = torch.rand(3000, 3, generator=torch.Generator().manual_seed(0)).double()
TRUE = (X - 0.5).norm(dim=1) - RADIUS


def cloud(count=20_000, oriented=True, seed=1):
    """Points all over a ball."""
    random = torch.Generator().manual_seed(seed)
    away = normalize(torch.randn(count, 3, generator=random, dtype=torch.float64), dim=1)
    return CloudShape.of(0.5 + RADIUS * away, 3.0 * away if oriented else None)


@pytest.fixture(scope="module")
def ball():
    return MeshShape(distance_mesh(lambda x: (x - 0.5).norm(dim=1) - RADIUS, 48))


def test_a_mesh_knows_its_distances_slopes_inside_and_size(ball):
    assert isinstance(ball, Shape)
    distance, slope = ball.distance(X)
    assert (distance - TRUE.abs()).abs().max() < 1e-3
    out = normalize(X - 0.5, dim=1) * TRUE.sign()[:, None]
    assert (slope * out).sum(1)[TRUE.abs() > 0.02].min() > 0.99
    sure = TRUE.abs() > 2e-3
    assert torch.equal(ball.inside(X)[sure], TRUE[sure] < 0)
    assert ball.area == pytest.approx(4 * math.pi * RADIUS**2, rel=5e-3)
    assert (ball.high - ball.low).tolist() == pytest.approx([2 * RADIUS] * 3, abs=2e-3)


def test_a_mesh_turned_inside_out_has_the_same_inside(ball):
    turned = MeshShape(Mesh(ball.mesh.vertices, ball.mesh.faces.flip(1)))
    sure = TRUE.abs() > 2e-3
    assert torch.equal(turned.inside(X)[sure], TRUE[sure] < 0)


@pytest.mark.parametrize("oriented", [True, False])
def test_points_know_their_surface_between_them(oriented):
    """Far closer than points lie apart, 0.007: discs fill what is between."""
    shape = cloud(oriented=oriented)
    assert isinstance(shape, Shape) and shape.oriented == oriented
    distance, slope = shape.distance(X)
    off = (distance - TRUE.abs()).abs()
    assert off.quantile(0.99) < 6e-4 and off.max() < 4e-3
    out = normalize(X - 0.5, dim=1) * TRUE.sign()[:, None]
    assert (slope * out).sum(1)[TRUE.abs() > 0.02].min() > 0.98
    on = 0.5 + RADIUS * normalize(X - 0.5, dim=1)
    assert shape.distance(on)[0].mean() < 3e-4
    assert shape.area == pytest.approx(4 * math.pi * RADIUS**2, rel=0.1)


def test_samples_of_points_lie_on_the_surface_with_its_normals():
    samples = cloud().sample(5000, 3)
    assert ((samples.points - 0.5).norm(dim=1) - RADIUS).abs().max() < 5e-4
    assert (samples.normals * normalize(samples.points - 0.5, dim=1)).sum(1).min() > 0.999
    again = cloud().sample(5000, 3)
    assert torch.equal(samples.points, again.points)
    assert not torch.equal(samples.points, cloud().sample(5000, 4).points)
    halves = (samples.points[:, 0] > 0.5).double().mean()
    assert float(halves) == pytest.approx(0.5, abs=0.03)


def test_where_points_are_dense_a_surface_is_not_sampled_more():
    """Three times the points on one half, the same area."""
    one, other = cloud(20_000).points, cloud(10_000, seed=2).points
    points = torch.cat([one[one[:, 0] > 0.5], other[other[:, 0] <= 0.5]])
    samples = CloudShape.of(points, points - 0.5).sample(20_000, 0)
    dense = (samples.points[:, 0] > 0.5).double().mean()
    assert float(dense) == pytest.approx(0.5, abs=0.03)


def test_inside_of_points_is_where_their_normals_point_away_from():
    sure = TRUE.abs() > 0.01
    assert torch.equal(cloud().inside(X)[sure], TRUE[sure] < 0)
    with pytest.raises(InputError, match="points without normals.*--as udf"):
        cloud(oriented=False).inside(X)


def test_a_sheet_of_points_ends_where_they_end():
    random = torch.Generator().manual_seed(5)
    flat = torch.rand(8000, 3, generator=random, dtype=torch.float64)
    flat[:, 2] = 0.5
    shape = CloudShape.of(0.2 + 0.6 * flat, None)
    height = 0.2 + 0.6 * 0.5
    beside = torch.tensor([[0.9, 0.5, height], [0.5, 0.5, height + 0.2], [0.9, 0.9, height]])
    found, _ = shape.distance(beside.double())
    assert found.tolist() == pytest.approx([0.1, 0.2, 0.1 * 2**0.5], abs=0.012)


def test_too_few_points_and_normals_without_direction_are_refused():
    points = torch.rand(40, 3, dtype=torch.float64)
    with pytest.raises(InputError, match="40 points; expected at least 64"):
        CloudShape.of(points, None)
    points = torch.rand(80, 3, dtype=torch.float64)
    with pytest.raises(InputError, match="normals without direction"):
        CloudShape.of(points, torch.zeros_like(points))
