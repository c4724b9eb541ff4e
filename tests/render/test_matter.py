import torch

from polyfield.fields.table import build_field
from polyfield.render.matter import POINTS, matter
from polyfield.render.occupancy import full_grid


class Ball:
    """Dense within a radius of 0.25; its features change with the first coordinate, beyond 0.5."""

    warp = None

    def color(self, features, harmonics):
        return features[:, :1].expand(-1, 3)

    def encode_directions(self, directions):
        return directions

    def density(self, x):
        inside = (x - 0.5).norm(dim=1) < 0.25
        return 1000.0 * inside, torch.stack([x[:, 0].clamp_min(0.5) * 3, x[:, 1] * 0], 1)


def test_weights_are_opacity_times_the_slope_of_features():
    x, weights = matter(Ball(), full_grid(1, 32, torch.device("cpu")), 0.01, 7, 3)
    assert x.shape == (POINTS, 3) and x.min() >= 0 and x.max() <= 1
    inside = (x - 0.5).norm(dim=1) < 0.25
    right, left = x[:, 0] > 0.502, x[:, 0] < 0.498
    assert not weights[~inside].any() and not weights[inside & left].any()
    torch.testing.assert_close(
        weights[inside & right], torch.full_like(weights[inside & right], 3.0), atol=2e-3, rtol=0
    )


def test_only_occupied_cells_are_looked_at_and_none_have_no_points():
    grid = full_grid(2, 32, torch.device("cpu"))
    grid.bits.zero_()
    grid.bits[5] = 0b100
    x, _ = matter(Ball(), grid, 0.01, 7, 3)
    assert float((x.amax(0) - x.amin(0)).max()) <= 1 / 64 + 1e-6
    grid.bits.zero_()
    x, weights = matter(Ball(), grid, 0.01, 7, 3)
    assert x.shape == (0, 3) and weights.shape == (0,)


def test_it_is_a_function_of_field_seed_and_step():
    field = build_field("hash-grid", {"levels": 2, "log2_table_size": 8, "finest_resolution": 16})
    grid = full_grid(1, 32, torch.device("cpu"))
    first, again, other = (matter(field, grid, 0.1, step, 3) for step in (7, 7, 8))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert (first[1] >= 0).all() and first[1].isfinite().all()
