import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyfield.cuda.errors import InputError
from polyfield.render.cameras import Cameras
from polyfield.render.lenses import MODELS

WIDTH, HEIGHT = 640, 480
# Of the size that calibrations of real lenses have.
REAL = {
    "PINHOLE": (),
    "OPENCV": (-0.11, 0.03, 0.0008, -0.0011),
    "FULL_OPENCV": (0.4, -0.2, 0.0008, -0.0011, 0.03, 0.45, -0.1, 0.01),
    "OPENCV_FISHEYE": (-0.03, 0.008, -0.005, 0.001),
    "THIN_PRISM_FISHEYE": (-0.03, 0.008, 0.0007, -0.0009, -0.005, 0.001, 0.0006, -0.0004),
    "RAD_TAN_THIN_PRISM_FISHEYE": (-0.02, 0.09, -0.06, 0.004, 0.003, -0.0006)
    + (0.0009, -0.0005, -0.0003, 0.0002, -0.0006, 0.0001),
    "EQUIRECTANGULAR": (),
}
WIDE = [name for name in REAL if "FISHEYE" in name]
FOCAL = {
    **{name: (310.0, 305.0) for name in REAL},
    "OPENCV_FISHEYE": (190.0, 188.0),  # 240 degrees from corner to corner
    "THIN_PRISM_FISHEYE": (190.0, 188.0),
    "EQUIRECTANGULAR": (WIDTH / (2 * math.pi), HEIGHT / math.pi),
}


def float64(values):
    return torch.tensor(values, dtype=torch.float64)


def camera(model, coefficients=None, focal=None, dtype=torch.float64):
    """One at the origin, its axes those of the world."""
    fx, fy = focal or FOCAL[model]
    numbers = REAL[model] if coefficients is None else coefficients
    return Cameras(
        torch.eye(3, 4)[None].double(),
        float64([[fx, fy]]),
        float64([[WIDTH / 2, HEIGHT / 2]]),
        float64([numbers]).view(1, -1),
        torch.tensor([WIDTH]),
        torch.tensor([HEIGHT]),
        model,
    ).to("cpu", dtype)


def everywhere(dtype=torch.float64, inset=1e-3):
    """Positions over the whole sensor, its borders included but for a thousandth of a pixel."""
    x = torch.linspace(inset, WIDTH - inset, 41, dtype=dtype)
    y = torch.linspace(inset, HEIGHT - inset, 31, dtype=dtype)
    return torch.cartesian_prod(x, y)


def first(n):
    return torch.zeros(n, dtype=torch.int64)


def test_every_model_is_tried_here():
    assert REAL.keys() == MODELS.keys()
    assert all(len(REAL[name]) == len(lens.coefficients) for name, lens in MODELS.items())


@pytest.mark.parametrize("model", REAL)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-3)])
def test_projection_undoes_rays_all_over_the_sensor(model, dtype, tolerance):
    lens, pixels = camera(model, dtype=dtype), everywhere(dtype)
    _, directions = lens.rays(first(len(pixels)), pixels)
    back, _ = lens.project(first(len(pixels)), 2.5 * directions)
    assert (back - pixels).abs().max() < tolerance


def test_a_prism_far_stronger_than_real_ones_is_undone_to_the_last_digit():
    strong = (-0.04, *[0.0] * 6, -0.01, -0.04, -0.02, 0.03, -0.03)
    lens = camera("RAD_TAN_THIN_PRISM_FISHEYE", strong, focal=(305.0, 305.0))
    pixels = everywhere()
    _, directions = lens.rays(first(len(pixels)), pixels)
    back, _ = lens.project(first(len(pixels)), directions)
    assert (back - pixels).abs().max() < 1e-9


def test_past_half_a_turn_a_fisheye_has_no_ray():
    lens = camera("OPENCV_FISHEYE", (0.0,) * 4, focal=(50.0, 50.0))
    off = float64([[50 * 3.1, 0.0], [50 * 3.2, 0.0], [0.0, -50 * 3.2]])
    _, directions = lens.rays(first(3), off + float64([WIDTH / 2, HEIGHT / 2]))
    assert directions.isnan().any(1).tolist() == [False, True, True]


def theta_of(x, y, z):
    return math.atan2(math.hypot(x, y), z)


def by_hand(model, point, d):
    """The published formulas, number by number."""
    x, y, z = point
    if model == "EQUIRECTANGULAR":
        return math.atan2(x, z), math.asin(y / math.hypot(x, y, z))
    if model in WIDE:
        theta, across = theta_of(x, y, z), math.hypot(x, y)
        u, v = theta * x / across, theta * y / across
    else:
        u, v = x / z, y / z
    r2 = u * u + v * v
    if model == "PINHOLE":
        return u, v
    if model == "OPENCV_FISHEYE":
        k1, k2, k3, k4 = d
        scale = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3 + k4 * r2**4
        return u * scale, v * scale
    if model == "RAD_TAN_THIN_PRISM_FISHEYE":
        scale = 1 + sum(k * r2 ** (i + 1) for i, k in enumerate(d[:6]))
        p0, p1, s0, s1, s2, s3 = d[6:]
        u, v = u * scale, v * scale
        r2 = u * u + v * v
        return (
            u + (2 * u * u + r2) * p0 + 2 * u * v * p1 + s0 * r2 + s1 * r2**2,
            v + (2 * v * v + r2) * p1 + 2 * u * v * p0 + s2 * r2 + s3 * r2**2,
        )
    k1, k2, p1, p2, *rest = d
    du, dv = 2 * p1 * u * v + p2 * (r2 + 2 * u * u), 2 * p2 * u * v + p1 * (r2 + 2 * v * v)
    scale = 1 + k1 * r2 + k2 * r2**2
    if model == "FULL_OPENCV":
        k3, k4, k5, k6 = rest
        scale = (scale + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
    if model == "THIN_PRISM_FISHEYE":
        k3, k4, sx1, sy1 = rest
        scale += k3 * r2**3 + k4 * r2**4
        du, dv = du + sx1 * r2, dv + sy1 * r2
    return u * scale + du, v * scale + dv


@pytest.mark.parametrize("model", REAL)
@pytest.mark.parametrize("point", [(0.3, -0.4, 1.0), (-0.6, 0.1, 0.8), (0.01, 0.5, 2.0)])
def test_projection_is_the_published_formula(model, point):
    # Coefficients larger than life, so that each of them counts.
    strong = tuple(3 * value for value in REAL[model])
    lens = camera(model, strong, focal=(100.0, 90.0))
    pixels, depth = lens.project(first(1), float64([point]))
    x, y = by_hand(model, point, strong)
    assert pixels[0].tolist() == pytest.approx((320 + 100 * x, 240 + 90 * y), abs=1e-9)
    assert depth.item() == point[2]


@pytest.mark.parametrize("model", WIDE)
def test_a_fisheye_sees_what_lies_beside_and_behind_it(model):
    zeros = (0.0,) * len(MODELS[model].coefficients)
    lens = camera(model, zeros, focal=(100.0, 100.0))
    points = float64([[2.0, 0, 0], [0, 3.0, -3.0], [0, 0, 5.0]])
    pixels, depth = lens.project(first(3), points)
    quarter = 100 * math.pi / 2
    expected = float64([[320 + quarter, 240], [320, 240 + 1.5 * quarter], [320, 240]])
    torch.testing.assert_close(pixels, expected)
    assert depth.tolist() == [0, -3, 5]


def test_an_equirectangular_picture_shows_every_direction_once():
    lens, pixels = camera("EQUIRECTANGULAR"), everywhere()
    _, directions = lens.rays(first(len(pixels)), pixels)
    middle = directions.view(41, 31, 3)[20, 15]
    torch.testing.assert_close(middle, float64([0.0, 0, 1]))
    # Right, down, and the seam behind.
    quarters = float64([[480.0, 240], [320, 480], [0, 240], [640, 240]])
    _, found = lens.rays(first(4), quarters)
    expected = float64([[1.0, 0, 0], [0, 1, 0], [0, 0, -1], [0, 0, -1]])
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    "model", [name for name in REAL if name not in ("PINHOLE", "EQUIRECTANGULAR")]
)
def test_a_lens_that_folds_is_not_invertible_and_shows_nothing_twice(model):
    numbers = [0.0] * len(MODELS[model].coefficients)
    numbers[0] = -0.5
    lens = camera(model, tuple(numbers))
    assert not lens.invertible().any()
    # u (1 - u^2 / 2) is largest at u = 0.816; beyond, it comes back to 0 at u = 1.41.
    angle = 1.41 if model in WIDE else math.atan(1.41)
    pixels, _ = lens.project(first(1), float64([[math.sin(angle), 0, math.cos(angle)]]))
    assert torch.isinf(pixels).all()


@given(st.tuples(*[st.floats(-0.05, 0.05)] * 4), st.floats(0.05, 3.0), st.floats(0, 6.28))
@settings(max_examples=60, deadline=None)
def test_a_direction_on_a_fisheye_s_pixel_is_that_pixel_s_ray(numbers, angle, turn):
    lens = camera("OPENCV_FISHEYE", numbers)
    sine = math.sin(angle)
    point = float64([[sine * math.cos(turn), sine * math.sin(turn), math.cos(angle)]])
    pixels, _ = lens.project(first(1), point)
    if torch.isfinite(pixels).all():
        _, direction = lens.rays(first(1), pixels)
        assert (direction - point).norm() < 1e-3


@pytest.mark.parametrize("model", ["OPENCV", "THIN_PRISM_FISHEYE"])
def test_missing_coefficients_are_named(model):
    with pytest.raises(InputError, match=f"{model}: 1 coefficients; expected .*k1 k2 p1 p2"):
        camera(model, (0.1,))


@pytest.mark.parametrize("model", REAL)
def test_rays_have_gradients_to_the_lens(model):
    pixels = float64([[100.0, 80.0], [500.0, 300.0], [WIDTH / 2, HEIGHT / 2]])
    lens = camera(model)

    def shoot(focal, distortion):
        cameras = Cameras(
            lens.camera_to_world, focal, lens.center, distortion, lens.width, lens.height, model
        )
        return cameras.rays(first(3), pixels)[1]

    numbers = lens.focal.clone().requires_grad_(), lens.distortion.clone().requires_grad_()
    assert torch.autograd.gradcheck(shoot, numbers, atol=1e-5)
