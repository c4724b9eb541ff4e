import pytest
import torch
from torch import Generator

from polyfield.cuda.errors import InputError
from polyfield.cuda.nearest import center_tree, nearest
from polyfield.cuda.rbf import rbf_weights
from polyfield.fields.rbf_placement import (
    cluster_factors,
    gradient_weights,
    kernels_within,
    lattice,
    packed,
    weighted_centers,
)


def clouds(sizes, seed=0):
    """Clouds of points about (0, 0), (10, 0), (20, 0), ..."""
    random = Generator().manual_seed(seed)
    parts = [
        torch.randn(size, 2, generator=random) + torch.tensor([10.0 * i, 0.0])
        for i, size in enumerate(sizes)
    ]
    return torch.cat(parts)


def random(seed=0):
    return Generator().manual_seed(seed)


def test_kernels_gather_where_the_weight_is():
    points = clouds([500, 500])
    weights = torch.cat([torch.full((500,), 9.0), torch.ones(500)])
    counts = [
        int((weighted_centers(points, weights, 10, random(seed))[:, 0] < 5).sum())
        for seed in range(10)
    ]
    assert 8 <= sum(counts) / 10 <= 9.6


def test_one_centre_is_the_weighted_mean():
    points, weights = clouds([50, 70]), torch.rand(120, generator=random())
    expected = (points * weights[:, None]).sum(0) / weights.sum()
    found = weighted_centers(points, weights, 1, random())
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=0)


def test_centres_are_the_means_of_the_points_that_are_nearest_to_them():
    points, weights = clouds([400]), torch.rand(400, generator=random(3))
    centers = weighted_centers(points, weights, 7, random(), iterations=200)
    label = nearest(points, center_tree(centers), 1)[:, 0]
    for number in range(7):
        own = label == number
        mean = (points[own] * weights[own, None]).sum(0) / weights[own].sum()
        torch.testing.assert_close(centers[number], mean, atol=1e-5, rtol=0)


def test_points_of_no_weight_draw_no_kernel():
    points = clouds([100, 100])
    weights = torch.cat([torch.zeros(100), torch.ones(100)])
    assert (weighted_centers(points, weights, 20, random())[:, 0] > 5).all()


def test_no_point_begins_two_kernels_while_there_are_enough():
    points = clouds([60])
    found = weighted_centers(points, torch.ones(60), 60, random(), iterations=0)
    assert len(found.unique(dim=0)) == 60
    more = weighted_centers(points[:5], torch.ones(5), 12, random())
    assert more.shape == (12, 2) and len(more.unique(dim=0)) == 5


def test_placement_repeats_with_its_seed():
    points, weights = clouds([300]), torch.rand(300, generator=random(3))
    found = [weighted_centers(points, weights, 9, random(seed)) for seed in (4, 4, 5)]
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


@pytest.mark.parametrize(
    ("weights", "count", "message"),
    [
        (torch.ones(9), 0, "kernels: 0"),
        (torch.zeros(9), 3, "weights of points"),
        (-torch.ones(9), 3, "weights of points"),
        (torch.full((9,), torch.nan), 3, "weights of points"),
    ],
)
def test_what_places_no_kernel_is_refused(weights, count, message):
    with pytest.raises(InputError, match=message):
        weighted_centers(torch.rand(9, 2), weights, count, random())


def spread(form, family="ivq", inflation=1.0):
    """The squared widths of one kernel about points of a known covariance."""
    wanted = torch.tensor([[0.04, 0.015], [0.015, 0.01]])
    lower = torch.linalg.cholesky(wanted)
    points = torch.randn(60_000, 2, generator=random()) @ lower.T
    # A frame, so that no width meets the limits of the extent.
    points = torch.cat([points, torch.tensor([[-3.0, -3.0], [3.0, 3.0]])])
    weights = torch.ones(60_002)
    weights[-2:] = 1e-12
    factors = cluster_factors(points, weights, torch.zeros(1, 2), form, family, inflation)
    return wanted, factors


def width_of(factors, family, way):
    """Where along a direction a kernel has fallen to a half."""
    steps = torch.linspace(0, 3, 30_001)[:, None]
    index = torch.zeros(30_001, 1, dtype=torch.int32)
    x = steps * torch.nn.functional.normalize(torch.tensor([way]), dim=1)
    value = rbf_weights(x, torch.zeros(1, 2), factors, index, family, False)
    return float(steps[int((value[:, 0] < 0.5).nonzero()[0])])


def test_a_cluster_of_any_shape_has_its_own_widths():
    wanted, factors = spread("a")
    values, axes = torch.linalg.eigh(wanted)
    for value, axis in zip(values, axes.T, strict=True):
        assert width_of(factors, "ivq", axis.tolist()) == pytest.approx(float(value**0.5), rel=0.02)


@pytest.mark.parametrize("family", ["ivq", "ivmq", "nlin"])
def test_every_family_is_a_half_at_its_width(family):
    wanted, factors = spread("d", family)
    for axis in (0, 1):
        way = [float(axis == 0), float(axis == 1)]
        width = float(wanted[axis, axis] ** 0.5)
        assert width_of(factors, family, way) == pytest.approx(width, rel=0.02)


def test_a_round_kernel_has_the_mean_of_the_spreads():
    wanted, factors = spread("s", inflation=2.0)
    expected = float(wanted.diagonal().mean()) * 2
    assert factors.shape == (1, 1)
    assert float(factors[0, 0]) ** -2 == pytest.approx(expected, rel=0.02)


def test_widths_stay_within_the_lattices_spacing_and_the_domain():
    points = torch.cat([torch.rand(1000, 2, generator=random()), torch.zeros(50, 2)])
    centers = torch.tensor([[0.5, 0.5], [0.0, 0.0]])
    factors = cluster_factors(points, torch.ones(1050), centers, "s", "ivq", 1000.0)
    assert float(1 / factors[0, 0]) == pytest.approx(0.1, rel=0.01)
    alone = cluster_factors(points, torch.cat([torch.zeros(1000), torch.ones(50)]), centers, "a",
                            "ivq")  # fmt: skip
    assert alone.isfinite().all()


@pytest.mark.parametrize("form", ["s", "d", "a"])
def test_shapes_are_definite_whatever_the_points(form):
    """Points on a line, in one place, or none: an ellipsoid still has widths."""
    line = torch.rand(40, 1, generator=random()) * torch.ones(1, 3)
    points = torch.cat([line, torch.zeros(5, 3)])
    centers = torch.tensor([[0.6, 0.6, 0.6], [0.0, 0.0, 0.0], [9.0, 9.0, 9.0]])
    factors = cluster_factors(points, torch.ones(45), centers, form, "gauss")
    assert factors.isfinite().all()
    index = torch.zeros(1, 1, dtype=torch.int32)
    for row in (0, 1, 2):
        far = rbf_weights(centers[row : row + 1] + 0.3, centers[row : row + 1],
                          factors[row : row + 1], index, "ivq", False)  # fmt: skip
        assert 0 < float(far) < 1


def test_a_lattice_fills_the_cube_and_its_tents_interpolate():
    centers, factors = lattice(2, 40, "d", "nlin")
    assert centers.shape == (36, 2) and factors.shape == (36, 2)
    assert centers.amin() == pytest.approx(1 / 12) and centers.amax() == pytest.approx(11 / 12)
    x = 1 / 12 + 10 / 12 * torch.rand(100, 2, generator=random())
    weights = rbf_weights(x, centers, factors, nearest(x, center_tree(centers), 16), "nlin", False)
    torch.testing.assert_close(weights.sum(1), torch.ones(100), atol=1e-5, rtol=0)
    assert lattice(3, 30, "a", "ivq")[1].shape == (27, 6)


def test_a_triangle_is_packed_row_by_row():
    lower = torch.tensor([[[1.0, 0.0, 0.0], [2.0, 3.0, 0.0], [4.0, 5.0, 6.0]]])
    assert packed(lower, "a").tolist() == [[1, 2, 3, 4, 5, 6]]
    assert packed(lower, "d").tolist() == [[1, 3, 6]] and packed(lower, "s").tolist() == [[1]]


def test_all_numbers_of_a_kernel_count():
    assert kernels_within(370, 32, 2, "a") == 10
    assert kernels_within(250, 16, 3, "a") == 10 and kernels_within(200, 16, 3, "s") == 10
    with pytest.raises(InputError, match="36 parameters"):
        kernels_within(36, 32, 2, "a")


def test_an_images_weight_is_the_length_of_its_slope():
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(9.0), indexing="ij")
    ramp = torch.stack([3 * columns, 4 * rows, torch.zeros(8, 9)], 2)
    found = gradient_weights(ramp).view(8, 9)
    assert torch.allclose(found[1:-1, 1:-1], torch.full((6, 7), 5.0))
    flat = gradient_weights(torch.full((5, 5, 1), 0.3))
    assert flat.shape == (25,) and flat.abs().max() < 1e-6
