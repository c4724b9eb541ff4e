import math

import pytest
import torch

from polyfield.cuda.errors import InputError
from polyfield.extract.marching_cubes import marching_cubes
from polyfield.extract.mesh import Mesh
from polyfield.extract.mesh_metrics import compare_at, compare_meshes, f_score, sample_surface

SQUARE = torch.tensor([[0, 1, 2], [0, 2, 3]])


def square(height=0.0, side=1.0, tilt=0.0):
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]) * side
    corners[:, 2] = height + tilt * corners[:, 0]
    return Mesh(corners, SQUARE)


def ball(radius=0.7, n=40, center=0.0):
    axis = torch.linspace(-1, 1, n, dtype=torch.float64)
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)
    vertices, faces = marching_cubes(radius - points.norm(dim=-1), 0.0)
    return Mesh((vertices * 2 / (n - 1) - 1 + center).float(), faces)


def test_samples_lie_on_the_surface_uniform_over_its_area():
    # Faces of unequal areas and shapes: any lattice-aligned part gets its share.
    mesh = Mesh(torch.tensor([[0.0, 0, 1], [3, 0, 1], [3, 1, 1], [0, 1, 1]]), SQUARE)
    points, normals = sample_surface(mesh, 40_000, seed=3)
    torch.testing.assert_close(points[:, 2], torch.ones(40_000).double())
    assert bool((normals == torch.tensor([0.0, 0, 1]).double()).all())
    cells = (points[:, :2] * torch.tensor([2.0, 6.0])).floor().long()
    counts = torch.bincount(cells[:, 0] * 6 + cells[:, 1], minlength=36).double()
    assert float(((counts - 40_000 / 36).square() / (40_000 / 36)).sum()) < 36 + 5 * math.sqrt(72)


def test_samples_repeat_with_the_seed_and_change_with_it():
    first, again, other = (sample_surface(ball(), 100, seed).points for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_faces_without_area_get_no_sample():
    mesh = Mesh(square().vertices, torch.tensor([[0, 0, 1], [0, 1, 2], [3, 3, 3]]))
    points = sample_surface(mesh, 1000).points
    assert bool((points[:, 0] >= points[:, 1]).all())
    with pytest.raises(InputError, match="area"):
        sample_surface(Mesh(square().vertices, torch.tensor([[0, 0, 1]])), 10)


def test_parallel_squares_are_as_far_apart_as_they_are():
    score = compare_meshes(square(0.1), square(), threshold=0.11, count=20_000)
    # Distances to samples: the nearest one is about 0.5 sqrt(area / count) aside.
    assert score.chamfer_l1 == pytest.approx(0.1, abs=5e-4)
    assert score.f_score == 1 and score.normal_consistency == pytest.approx(1)
    assert compare_meshes(square(0.1), square(), 0.099, 2000).f_score == 0


def test_one_surface_against_itself_scores_the_floor_that_is_stated():
    score = compare_meshes(ball(), ball(), threshold=0.05, count=20_000)
    assert score.chamfer_l1 == pytest.approx(score.chamfer_floor, rel=0.1)
    assert (score.precision, score.recall, score.f_score) == (1, 1, 1)
    assert score.normal_consistency > 0.999 and score.samples == 20_000


def test_precision_misses_what_is_too_much_and_recall_what_is_missing():
    large, small = square(side=2.0), square(side=1.0)
    precision, recall, f = f_score(large, small, 0.05, 20_000)
    assert precision == pytest.approx((1 + 2 * 0.05) / 4, abs=0.01) and recall == 1
    assert f == pytest.approx(2 * precision * recall / (precision + recall))
    back = f_score(small, large, 0.05, 20_000)
    assert back.recall == pytest.approx((1 + 2 * 0.05) / 4, abs=0.01) and back.precision == 1


def test_f_score_alone_is_that_of_the_comparison():
    mesh, truth = ball(0.68), ball(0.7, n=31)
    score = compare_meshes(mesh, truth, 0.021, 40_000)
    assert f_score(mesh, truth, 0.021, 40_000) == (score.precision, score.recall, score.f_score)
    assert 0 < score.f_score < 1
    assert score.chamfer_l1 == pytest.approx(0.02, rel=0.15)


def test_normal_consistency_is_the_cosine_whatever_the_orientation():
    tilted = square(tilt=math.tan(math.radians(30)))
    score = compare_meshes(tilted, square(), 1.0, 2000)
    assert score.normal_consistency == pytest.approx(math.cos(math.radians(30)), abs=1e-6)
    flipped = compare_meshes(Mesh(tilted.vertices, tilted.faces.flip(1)), square(), 1.0, 2000)
    assert flipped.normal_consistency == pytest.approx(score.normal_consistency)


def test_an_empty_mesh_scores_nothing_and_bad_input_is_refused():
    empty = Mesh(torch.zeros(0, 3), SQUARE[:0])
    assert f_score(empty, square(), 0.1, 100) == (0, 0, 0)
    with pytest.raises(InputError, match="area"):
        f_score(square(), empty, 0.1, 100)
    with pytest.raises(InputError, match="threshold"):
        f_score(square(), square(), 0.0, 100)
    with pytest.raises(InputError, match="threshold"):
        compare_meshes(square(), square(), math.nan, 100)


def test_several_thresholds_are_each_as_if_alone():
    mesh, truth = square(height=0.02), square()
    together = compare_at(mesh, truth, (0.01, 0.05), 2000)
    assert together == tuple(compare_meshes(mesh, truth, t, 2000) for t in (0.01, 0.05))
    assert together[0].f_score < together[1].f_score
    with pytest.raises(InputError, match="threshold"):
        compare_at(mesh, truth, (0.01, 0.0))
