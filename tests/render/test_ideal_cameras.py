"""Cameras of no photograph: what each lens shows, up to its borders."""

import math

import pytest
import torch

from polyfield.cuda.errors import InputError
from polyfield.render.cameras import ideal_cameras
from polyfield.render.occupancy import full_grid
from polyfield.render.view import render_view
from polyfield.render.volume import Sampling

# Right is the world's +y, down -z, forward -x; it stands at (4, 5, 6).
POSE = torch.tensor([[[0.0, 0, -1, 4], [1, 0, 0, 5], [0, -1, 0, 6]]]).double()
RIGHT, DOWN, FORWARD = POSE[0, :, :3].T


def camera(lens, angle, width=16, height=8):
    return ideal_cameras(POSE, lens, torch.tensor([angle]), width, height)


def direction(cameras, x, y):
    origins, found = cameras.rays(torch.tensor([0]), torch.tensor([[x, y]], dtype=torch.float64))
    assert origins.tolist() == [[4, 5, 6]]
    return found[0]


def degrees(a, b):
    return math.degrees(math.acos(float(a @ b)))


def test_perspective_shows_its_angle_from_border_to_border():
    lens = camera("perspective", 60.0)
    top, bottom = direction(lens, 8.0, 0.0), direction(lens, 8.0, 8.0)
    assert degrees(top, bottom) == pytest.approx(60, abs=1e-6) and top @ DOWN < 0
    torch.testing.assert_close(direction(lens, 8.0, 4.0), FORWARD)
    side = math.degrees(math.atan(2 * math.tan(math.radians(30))))  # square pixels
    assert degrees(direction(lens, 16.0, 4.0), FORWARD) == pytest.approx(side, abs=1e-6)


@pytest.mark.parametrize("angle", [90.0, 180.0, 300.0])
def test_a_fisheye_is_as_many_pixels_off_as_degrees(angle):
    lens = camera("fisheye", angle)
    for pixels in (1.0, 2.5, 4.0):
        for x, y in ((0, -pixels), (0, pixels), (0.6 * pixels, 0.8 * pixels)):
            found = degrees(direction(lens, 8.0 + x, 4.0 + y), FORWARD)
            assert found == pytest.approx(angle * pixels / 8, abs=1e-5)


def test_an_equirectangular_picture_is_the_whole_sphere_once():
    lens = camera("equirectangular", 50.0)  # which has no say
    torch.testing.assert_close(direction(lens, 8.0, 4.0), FORWARD)
    torch.testing.assert_close(direction(lens, 12.0, 4.0), RIGHT)
    torch.testing.assert_close(direction(lens, 8.0, 8.0), DOWN, atol=1e-12, rtol=0)
    pixel = torch.cartesian_prod(torch.arange(16), torch.arange(8)).double() + 0.5
    _, found = lens.rays(torch.zeros(128, dtype=torch.int64), pixel)
    area = torch.cos((pixel[:, 1] / 8 - 0.5) * math.pi)
    # The solid angles of its pixels balance: no direction has more of them than its opposite.
    assert (found * area[:, None]).sum(0).abs().max() < 1e-12


@pytest.mark.parametrize("width, height", [(16, 8), (15, 8), (8, 9)])
def test_opposite_columns_meet_at_the_seam(width, height):
    """The last column's centre is a column's width from the first's, as any two neighbours are."""
    lens = camera("equirectangular", 50.0, width, height)
    for y in (0.5, height / 2, height - 0.5):
        rows = [direction(lens, x + 0.5, y) for x in range(width)]
        gaps = [degrees(rows[k], rows[(k + 1) % width]) for k in range(width)]
        assert max(gaps) - min(gaps) < 1e-9 and min(gaps) > 0
    back = [direction(lens, x, height / 2) for x in (0.0, float(width))]
    torch.testing.assert_close(back[0], -FORWARD, atol=1e-12, rtol=0)
    torch.testing.assert_close(back[1], -FORWARD, atol=1e-12, rtol=0)


def test_the_pole_rows_are_half_a_row_from_the_poles():
    lens = camera("equirectangular", 50.0)
    for x in range(16):
        assert degrees(direction(lens, x + 0.5, 0.5), -DOWN) == pytest.approx(180 / 16, abs=1e-6)
        assert degrees(direction(lens, x + 0.5, 7.5), DOWN) == pytest.approx(180 / 16, abs=1e-6)


@pytest.mark.parametrize(
    "lens, angle",
    [("perspective", 180.0), ("perspective", 0.0), ("fisheye", 361.0), ("fisheye", -1.0)]
    + [("perspective", math.nan), ("fisheye", math.nan), ("fisheye", math.inf)],
)
def test_an_angle_that_no_lens_shows_is_refused(lens, angle):
    with pytest.raises(InputError, match=f"field of view of a {lens} lens"):
        camera(lens, angle)


class Fog:
    def density(self, x):
        return torch.full((len(x),), 50.0), x

    def encode_directions(self, directions):
        return directions

    def color(self, features, harmonics):
        return torch.zeros_like(features)


def test_beyond_a_fisheye_s_circle_there_is_nothing():
    pose = torch.cat([torch.eye(3), torch.full((3, 1), 0.5)], 1)[None]
    lens = ideal_cameras(pose, "fisheye", torch.tensor([360.0]), 40, 20)
    grid = full_grid(1, 32, torch.device("cpu"))
    sampling = Sampling(step=1 / 64, cone=0.0, near=0.0)
    view = render_view(Fog(), grid, lens, 0, (0.2, 0.4, 0.6), sampling)
    y, x = torch.meshgrid(torch.arange(20) + 0.5, torch.arange(40) + 0.5, indexing="ij")
    inside = (x - 20).hypot(y - 10) <= 10
    assert torch.equal(view.opacity > 0.99, inside) and (view.opacity[~inside] == 0).all()
    assert (view.depth[~inside] == 0).all() and bool(view.color.isfinite().all())
    torch.testing.assert_close(view.color[0, 0], torch.tensor([0.2, 0.4, 0.6]))
