"""Slopes and curvatures from five values, against functions that are known."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from polyfield.render.occupancy import full_grid
from polyfield.render.surface_losses import distance_error, points_of_space, slope_and_curvature

POINTS = torch.rand(200, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
numbers = st.lists(st.floats(-2, 2), min_size=10, max_size=10)


@given(numbers, st.sampled_from([0.001, 0.03, 0.2]))
def test_of_a_quadratic_the_trace_is_exact_and_the_slope_as_far_off_as_is_said(values, apart):
    a, b, c, ab, ac, bc, *linear, constant = values
    second = torch.tensor([[2 * a, ab, ac], [ab, 2 * b, bc], [ac, bc, 2 * c]]).double()
    first = torch.tensor(linear).double()

    def function(x):
        return 0.5 * (x * (x @ second)).sum(1) + x @ first + constant

    slope, curvature = slope_and_curvature(function, POINTS, apart)
    mixed = torch.tensor([bc, ac, ab]).double()
    expected = POINTS @ second + first
    off = slope - expected
    assert (off.abs() - apart / 3**0.5 * mixed.abs()).abs().max() < 1e-9
    assert (curvature - second.trace()).abs().max() < 1e-6


def test_a_sphere_s_distance_has_no_eikonal_error_and_curvature_2_over_r():
    def distance(x):
        return x.norm(dim=1, keepdim=True) - 0.3

    x = normalize(POINTS - 0.5, dim=1) * 0.4
    assert float(distance_error(distance, x, 1e-3, 1.0, 0.0)) < 1e-5
    for side in (1, -1):  # inside out as much
        error = distance_error(lambda x, s=side: s * distance(x), x, 1e-3, 0.0, 0.5)
        assert float(error) == pytest.approx(0.5 * 5.0, rel=1e-3)


def test_slopes_that_are_not_1_count_by_the_square_of_what_they_are_off():
    for steep in (0.0, 0.5, 3.0):
        error = distance_error(lambda x, k=steep: k * x[:, 1:2], POINTS, 0.01, 2.0, 1.0)
        assert float(error) == pytest.approx(2 * (steep - 1) ** 2, abs=1e-6)


def test_of_what_tells_where_a_surface_ends_only_steep_slopes_count():
    for steep, expected in ((0.0, 0.0), (1.0, 0.0), (3.0, 4.0)):
        # Of two columns, along x, y and z.
        slopes = torch.tensor([[0, steep], [1, 0], [0, 0]], dtype=torch.float64)
        error = distance_error(lambda x, slopes=slopes: x @ slopes, POINTS, 0.01, 0.5, 1.0)
        assert float(error) == pytest.approx(0.5 * expected, abs=1e-6)


def test_slopes_of_columns_are_those_of_each():
    functions = [lambda x: x[:, 0] ** 2 + x[:, 1], lambda x: (3 * x[:, 2]).sin()]
    slope, trace = slope_and_curvature(
        lambda x: torch.stack([f(x) for f in functions], 1), POINTS, 0.05
    )
    assert slope.shape == (200, 2, 3) and trace.shape == (200, 2)
    for column, function in enumerate(functions):
        alone = slope_and_curvature(function, POINTS, 0.05)
        torch.testing.assert_close(slope[:, column], alone[0])
        torch.testing.assert_close(trace[:, column], alone[1])


def test_errors_teach_the_function():
    weight = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    distance_error(lambda x: weight * x[:, 2:], POINTS, 0.01, 1.0, 0.0).backward()
    assert float(weight.grad) == pytest.approx(2 * (0.5 - 1.0))


def test_half_of_the_points_lie_in_cells_that_are_on_the_rest_anywhere():
    grid = full_grid(2, 32, torch.device("cpu"))
    grid.bits[:] = 0
    grid.bits[0] = 1  # the first cell of the finest grid, from 0.25 on
    x = points_of_space(grid, 400, 3, 5)
    assert x.shape == (400, 3) and ((x >= 0.25) & (x <= 0.75)).all()
    inside = ((x - 0.25) < 0.5 / 32).all(1)
    assert 200 <= int(inside.sum()) < 205
    assert torch.equal(x, points_of_space(grid, 400, 3, 5))
    assert not torch.equal(x, points_of_space(grid, 400, 4, 5))
    grid.bits[:] = 0
    assert len(points_of_space(grid, 400, 3, 5)) == 200
