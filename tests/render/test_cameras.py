import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyfield.cuda.errors import InputError
from polyfield.fields.similarity import Similarity
from polyfield.render.cameras import Cameras

PHONE = (0.0578, -0.0805, -0.00098, 0.000156)  # a real one's size of k1, k2, p1, p2
STRONG = (-0.28, 0.07, 0.001, -0.002)  # an action camera
TANGENTIAL = (-0.1, 0.02, 0.03, -0.02)  # a sensor that is not square to its lens
WIDTH, HEIGHT, FOCAL = 270, 480, (343.9, 341.6)

lenses = st.tuples(
    st.floats(-0.15, 0.5), st.floats(-0.03, 0.3), st.floats(-0.01, 0.01), st.floats(-0.01, 0.01)
)


def rotations(n, seed=0):
    random = torch.Generator().manual_seed(seed)
    rotation, _ = torch.linalg.qr(torch.randn(n, 3, 3, generator=random, dtype=torch.float64))
    return rotation * torch.linalg.det(rotation)[:, None, None]


def some_cameras(distortion=PHONE, n=3, model="OPENCV", dtype=torch.float64):
    position = torch.arange(3.0 * n, dtype=torch.float64).view(n, 3, 1) / 3
    return Cameras(
        torch.cat([rotations(n), position], 2),
        torch.tensor([FOCAL], dtype=torch.float64).repeat(n, 1),
        torch.tensor([[138.6, 241.3]], dtype=torch.float64).repeat(n, 1),
        torch.tensor([distortion], dtype=torch.float64).repeat(n, 1),
        torch.full((n,), WIDTH),
        torch.full((n,), HEIGHT),
        model,
    ).to("cpu", dtype)


def positions(n=3, count=500, dtype=torch.float64):
    random = torch.Generator().manual_seed(1)
    place = torch.rand(count, 2, generator=random, dtype=dtype)
    # The corners are where a lens is strongest.
    place[:4] = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=dtype)
    return torch.arange(count) % n, place * torch.tensor([WIDTH, HEIGHT], dtype=dtype)


def straight_ahead(width=4, height=2, focal=2.0):
    """One camera at the origin whose axes are the world's."""
    eye = torch.eye(3, 4, dtype=torch.float64)[None]
    two = torch.tensor([[width / 2, height / 2]], dtype=torch.float64)
    size = torch.tensor([width]), torch.tensor([height])
    return Cameras(eye, torch.full_like(two, focal), two, torch.zeros(1, 4).double(), *size)


def test_centre_of_the_top_left_pixel_is_half_a_pixel_in():
    _, directions = straight_ahead().rays(torch.tensor([0]), torch.tensor([[0.5, 0.5]]).double())
    expected = torch.tensor([[-1.5 / 2, -0.5 / 2, 1.0]]).double()
    torch.testing.assert_close(directions, expected / expected.norm())


def test_axes_are_right_down_forward():
    pixels, depth = straight_ahead().project(
        torch.tensor([0, 0, 0]), torch.tensor([[0, 0, 3], [1, 0, 3], [0, 1, 3]]).double()
    )
    assert depth.tolist() == [3, 3, 3]
    assert (pixels[1] - pixels[0]).sign().tolist() == [1, 0]
    assert (pixels[2] - pixels[0]).sign().tolist() == [0, 1]


def test_field_of_view_is_what_the_focal_length_says():
    camera, edges = torch.tensor([0, 0]), torch.tensor([[0, 1], [4, 1]]).double()
    _, (left, right) = straight_ahead(focal=2.0).rays(camera, edges)
    assert math.isclose(math.acos(float(left @ right)), 2 * math.atan(1.0))


@pytest.mark.parametrize("distortion", [PHONE, STRONG, TANGENTIAL, (0.5, 0.3, 0.01, -0.01)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-3)])
def test_projection_undoes_rays(distortion, dtype, tolerance):
    cameras = some_cameras(distortion, dtype=dtype)
    camera, pixels = positions(dtype=dtype)
    origins, directions = cameras.rays(camera, pixels)
    assert origins.dtype == directions.dtype == dtype
    far = torch.linspace(0.5, 20, len(camera), dtype=dtype)[:, None]
    back, depth = cameras.project(camera, origins + far * directions)
    assert (back - pixels).abs().max() < tolerance
    assert (depth > 0).all()


@given(lenses)
@settings(max_examples=40, deadline=None)
def test_a_lens_called_invertible_is_inverted_everywhere(distortion):
    cameras = some_cameras(distortion)
    camera, pixels = positions()
    origins, directions = cameras.rays(camera, pixels)
    back, _ = cameras.project(camera, origins + directions)
    if cameras.invertible().all():
        assert (back - pixels).abs().max() < 1e-6


def test_distortion_is_the_definition_of_opencv():
    k1, k2, p1, p2 = STRONG
    camera = straight_ahead(focal=1.0)
    camera = Cameras(
        camera.camera_to_world,
        camera.focal,
        torch.zeros(1, 2).double(),
        torch.tensor([STRONG]).double(),
        camera.width,
        camera.height,
        "OPENCV",
    )
    x, y = 0.3, -0.4
    r2 = x * x + y * y
    radial = 1 + k1 * r2 + k2 * r2**2
    expected = (
        x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
        y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
    )
    pixels, _ = camera.project(torch.tensor([0]), torch.tensor([[2 * x, 2 * y, 2]]).double())
    assert pixels[0].tolist() == pytest.approx(expected, abs=1e-7)


def test_without_distortion_opencv_is_the_pinhole():
    camera, pixels = positions()
    zeros = (0.0, 0.0, 0.0, 0.0)
    lens, pinhole = some_cameras(zeros), some_cameras(zeros, model="PINHOLE")
    for a, b in zip(lens.rays(camera, pixels), pinhole.rays(camera, pixels), strict=True):
        torch.testing.assert_close(a, b)


def test_rays_start_at_their_own_camera_with_unit_length():
    cameras = some_cameras()
    camera, pixels = positions()
    origins, directions = cameras.rays(camera, pixels)
    assert torch.equal(origins, cameras.camera_to_world[camera, :, 3])
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(len(camera)).double())


@pytest.mark.parametrize("model", ["PINHOLE", "OPENCV"])
def test_what_lies_behind_a_camera_is_on_no_pixel(model):
    cameras = some_cameras(model=model)
    camera, pixels = positions()
    origins, directions = cameras.rays(camera, pixels)
    back, depth = cameras.project(camera, origins - directions)
    assert torch.isinf(back).all() and (depth < 0).all()


def test_points_beyond_the_fold_of_the_lens_do_not_land_on_the_sensor():
    # r (1 - 0.1 r^2) falls back to 0 at r = 3.16: a point far outside of the view.
    cameras = some_cameras((-0.1, 0.0, 0.0, 0.0), n=1)
    pose = cameras.camera_to_world[0]
    wide = pose[:, 3] + pose[:, :3] @ torch.tensor([3.16, 0.0, 1.0]).double()
    pixels, depth = cameras.project(torch.tensor([0]), wide[None])
    assert torch.isinf(pixels).all() and depth.item() == pytest.approx(1)


@pytest.mark.parametrize(
    "distortion",
    [(-0.5, 0, 0, 0), (-0.3, 0, 0, 0), (0, 0, 0, 0.9), (5.0, -9.0, 0, 0), (0, -0.9, 0.2, 0)],
)
def test_a_lens_that_folds_within_the_image_is_not_invertible(distortion):
    assert not some_cameras(distortion).invertible().any()


def test_invertibility_is_told_camera_by_camera():
    good, bad = some_cameras(n=1), some_cameras((-0.5, 0, 0, 0), n=1)
    lenses = torch.cat([good.distortion, bad.distortion, good.distortion])
    both = Cameras(
        rotations(3).new_zeros(3, 3, 4),
        good.focal.repeat(3, 1),
        good.center.repeat(3, 1),
        lenses,
        good.width.repeat(3),
        good.height.repeat(3),
        "OPENCV",
    )
    assert both.invertible().tolist() == [True, False, True]


def test_a_similarity_moves_the_world_and_not_the_pictures():
    move = Similarity(0.37, rotations(1, 5)[0], torch.tensor([5.0, -2.0, 0.5]).double())
    cameras = some_cameras()
    camera, pixels = positions()
    origins, directions = cameras.rays(camera, pixels)
    points = origins + 3 * directions
    moved = cameras.transformed(move, torch.float64)
    back, depth = moved.project(camera, move.apply(points))
    torch.testing.assert_close(back, pixels)
    before = cameras.project(camera, points)[1]
    torch.testing.assert_close(depth, 0.37 * before)
    assert cameras.transformed(move).camera_to_world.dtype == torch.float32


def test_far_worlds_keep_their_digits_on_the_way_to_the_field():
    # Map coordinates: float32 has steps of 0.5 at 5e6.
    cameras = some_cameras()
    away = torch.tensor([4.5e5, 5.4e6, 120.0], dtype=torch.float64)
    shift = Similarity(1.0, torch.eye(3).double(), away)
    there = cameras.transformed(shift, torch.float64)
    back = there.transformed(shift.inverse())
    torch.testing.assert_close(back.camera_to_world, cameras.camera_to_world.float())


def test_single_precision_cameras_move_in_double_where_that_is_asked_for():
    far = Similarity(1 / 3, torch.eye(3, dtype=torch.float64), torch.tensor([1e6, 0, 0]).double())
    single = some_cameras(dtype=torch.float32)
    moved = single.transformed(far, torch.float64).camera_to_world[:, :, 3]
    expected = single.camera_to_world[:, :, 3].double() / 3 + torch.tensor([1e6, 0, 0])
    torch.testing.assert_close(moved, expected, rtol=1e-14, atol=0)


def test_resizing_keeps_every_ray():
    cameras = some_cameras()
    camera, pixels = positions()
    small = cameras.resized(WIDTH // 2, HEIGHT // 3)
    assert small.width.tolist() == [135] * 3 and small.height.tolist() == [160] * 3
    scaled = pixels / torch.tensor([2, 3])
    for a, b in zip(cameras.rays(camera, pixels), small.rays(camera, scaled), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("stride", [1, 3, 5, 7])
def test_every_third_pixel_of_a_view_has_the_ray_it_has_in_the_whole(stride):
    whole = some_cameras()
    few = whole.every(stride)
    for camera in range(len(whole)):
        width, height = int(few.width[camera]), int(few.height[camera])
        assert width == whole.width[camera] // stride and height == whole.height[camera] // stride
        pixels = torch.cartesian_prod(torch.arange(width), torch.arange(height))
        which = torch.full((len(pixels),), camera)
        inside = few.rays(which, pixels + 0.5)
        expected = whole.rays(which, pixels * stride + stride // 2 + 0.5)
        for got, true in zip(inside, expected, strict=True):
            torch.testing.assert_close(got, true)


@pytest.mark.parametrize("stride", [0, -1, 2, 10**6 + 1])
def test_an_even_stride_or_one_without_pixels_is_refused(stride):
    with pytest.raises(InputError, match="an odd number"):
        some_cameras().every(stride)


@pytest.mark.parametrize("size", [(9, 5), (5, 9)])
def test_the_shortest_side_of_all_views_bounds_the_stride(size):
    few = replace(some_cameras(), width=torch.tensor([size[0], 9, 9]))
    few = replace(few, height=torch.tensor([size[1], 9, 9]))
    assert few.every(5).width.tolist() == [size[0] // 5, 1, 1]
    with pytest.raises(InputError, match="stride: 7; expected an odd number from 1 to 5"):
        few.every(7)


def test_selecting_takes_cameras_in_the_order_asked_for():
    cameras = some_cameras()
    chosen = cameras.select(torch.tensor([2, 0]))
    assert len(chosen) == 2 and chosen.model == "OPENCV"
    assert torch.equal(chosen.camera_to_world, cameras.camera_to_world[[2, 0]])


def test_rays_have_gradients_to_the_pose():
    cameras = some_cameras()
    camera, pixels = positions(count=4)

    def shoot(pose):
        fields = (cameras.focal, cameras.center, cameras.distortion, cameras.width, cameras.height)
        return torch.cat(Cameras(pose, *fields, "OPENCV").rays(camera, pixels), 1)

    assert torch.autograd.gradcheck(shoot, cameras.camera_to_world.clone().requires_grad_())


def test_an_unknown_model_is_refused_by_name():
    with pytest.raises(InputError, match="FOV.*PINHOLE, OPENCV"):
        some_cameras(model="FOV")


def test_a_size_without_pixels_is_refused():
    with pytest.raises(InputError, match="0x10"):
        some_cameras().resized(0, 10)
