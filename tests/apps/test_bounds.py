import math
from dataclasses import replace

import pytest
import torch

from polyfield.apps.bounds import (
    Bounds,
    border,
    camera_bounds,
    common_view,
    find_backdrop,
    gaze,
    looked_at,
    object_bounds,
    object_mask,
    synthetic_bounds,
)
from polyfield.fields.projection import Projection
from polyfield.render.cameras import Cameras

SIZE, ANGLE = 64, 0.69
TARGET = torch.tensor([12.0, -7.0, 3.0], dtype=torch.float64)


def cameras_at(position, forward):
    """Cameras of the given positions and viewing directions [n, 3], x horizontal."""
    n = len(position)
    forward = forward / forward.norm(dim=1, keepdim=True)
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64).expand(n, 3)
    right = torch.linalg.cross(forward, up)
    right = right / right.norm(dim=1, keepdim=True)
    down = torch.linalg.cross(forward, right)
    focal = 0.5 * SIZE / math.tan(0.5 * ANGLE)
    return Cameras(
        torch.stack([right, down, forward, position], 2),
        torch.full((n, 2), focal).double(),
        torch.full((n, 2), SIZE / 2).double(),
        torch.zeros(n, 4).double(),
        torch.full((n,), SIZE),
        torch.full((n,), SIZE),
    )


def sphere(n=24, distance=4.0, target=TARGET, seed=0):
    random = torch.Generator().manual_seed(seed)
    direction = torch.randn(n, 3, generator=random, dtype=torch.float64)
    direction = direction / direction.norm(dim=1, keepdim=True)
    return cameras_at(target + distance * direction, -direction)


def zoomed(cameras, factor):
    return replace(cameras, focal=cameras.focal * factor)


def ball_masks(cameras, center, radius):
    """Exact silhouettes of a ball."""
    steps = torch.arange(SIZE, dtype=torch.float64) + 0.5
    rows, columns = torch.meshgrid(steps, steps, indexing="ij")
    pixels = torch.stack([columns, rows], 2).view(-1, 2)
    masks = []
    for camera in range(len(cameras)):
        which = torch.full((len(pixels),), camera)
        origins, directions = cameras.rays(which, pixels)
        offset = center - origins
        closest = offset - (offset * directions).sum(1, keepdim=True) * directions
        masks.append((closest.norm(dim=1) < radius).view(SIZE, SIZE))
    return masks


def inside(bounds, points):
    field = bounds.to_field().apply(points)
    return bool(((field >= 0) & (field <= 1)).all())


def test_cameras_around_an_object_look_at_its_middle():
    seen = gaze(sphere())
    torch.testing.assert_close(seen.target, TARGET)
    torch.testing.assert_close(seen.distance, torch.full((24,), 4.0).double())
    assert seen.inward


def test_cameras_that_look_outwards_have_no_common_target():
    outward = sphere(distance=1.0)
    turned = cameras_at(outward.camera_to_world[..., 3], -outward.camera_to_world[..., 2])
    seen = gaze(turned)
    assert not seen.inward
    torch.testing.assert_close(seen.target, turned.camera_to_world[..., 3].mean(0))


@pytest.mark.parametrize(("away", "inward"), [(4, True), (8, False)])
def test_cameras_look_at_one_thing_where_three_in_four_do(away, inward):
    around = sphere()
    forward = around.camera_to_world[..., 2].clone()
    forward[:away] *= -1
    assert gaze(cameras_at(around.camera_to_world[..., 3], forward)).inward == inward


def test_parallel_cameras_look_ahead():
    position = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 0, 1], [1, 0, 1]]).double()
    forward = torch.tensor([[0.0, 1.0, 0.0]]).double().expand(4, 3)
    seen = gaze(cameras_at(position, forward))
    assert seen.inward
    torch.testing.assert_close(seen.target, torch.tensor([0.5, 4 * 0.5**0.5, 0.5]).double())


def test_the_unit_cube_is_the_cube_of_the_bounds():
    bounds = Bounds(TARGET, 5.0, 1, 0.1, "")
    corners = TARGET + torch.tensor([[-2.5, -2.5, -2.5], [2.5, 2.5, 2.5]]).double()
    expected = torch.tensor([[0, 0, 0], [1, 1, 1]]).double()
    torch.testing.assert_close(bounds.to_field().apply(corners), expected)


def test_the_original_synthetic_cameras_keep_their_box():
    bounds = synthetic_bounds(sphere(distance=4.03, target=torch.zeros(3).double()))
    assert (bounds.side, bounds.grid_levels, bounds.center.tolist()) == (3.0, 1, [0, 0, 0])
    # The box's corners are nearest, 4.03 - 2.6 away; near leaves them whole.
    assert 0.05 < bounds.near < 1.4


@pytest.mark.parametrize(
    "cameras",
    [
        sphere(),
        sphere(distance=1.0, target=torch.zeros(3).double()),
        sphere(distance=20.0, target=torch.zeros(3).double()),
        sphere(target=torch.tensor([0.0, 0.9, 0.0]).double()),
        zoomed(sphere(distance=4.0, target=torch.zeros(3).double()), 3.0),
        zoomed(sphere(distance=20.0, target=torch.zeros(3).double()), 5.0),
    ],
    ids=["far off", "close", "large", "shifted", "narrow", "narrow from afar"],
)
def test_other_cameras_do_not_get_the_synthetic_box(cameras):
    assert synthetic_bounds(cameras) is None


@pytest.mark.parametrize("shift", [0.0, 0.4])
@pytest.mark.parametrize("radius", [0.3, 0.9])
def test_the_hull_is_a_tight_cube_about_the_object(shift, radius):
    cameras, center = sphere(), TARGET + shift
    bounds = object_bounds(cameras, ball_masks(cameras, center, radius), "test")
    ball = torch.cat([torch.eye(3), -torch.eye(3)]).double() * radius + center
    assert inside(bounds, ball)
    assert bounds.side < 1.5 * 2 * radius + 0.25
    assert bounds.grid_levels == 1


def test_a_hole_in_one_mask_does_not_cut_the_object():
    cameras = sphere()
    masks = ball_masks(cameras, TARGET, 0.8)
    whole = object_bounds(cameras, masks, "test")
    masks[3] = torch.zeros_like(masks[3])
    assert object_bounds(cameras, masks, "test").side == pytest.approx(whole.side, rel=0.1)


def test_empty_masks_have_no_hull():
    masks = [torch.zeros(SIZE, SIZE, dtype=torch.bool)] * 24
    assert object_bounds(sphere(), masks, "test") is None


@pytest.mark.parametrize("distance", [0.5, 4.0, 300.0])
def test_nested_cubes_hold_all_cameras_and_centre_on_what_they_see(distance):
    cameras = sphere(distance=distance)
    bounds = camera_bounds(cameras)
    position = bounds.to_field().apply(cameras.camera_to_world[..., 3])
    # Level 1 of 4 has side 1/4: every camera within, and the target in the middle of the finest.
    assert (position - 0.5).abs().max() <= 0.125 + 1e-9
    assert (position - 0.5).abs().max() > 0.1
    middle = bounds.to_field().apply(TARGET)
    torch.testing.assert_close(middle, torch.full((3,), 0.5).double())
    assert bounds.grid_levels == 4
    assert 0 < bounds.near < 0.1 * distance


@pytest.mark.parametrize("reach", [0.05, 0.5, 3.0, 40.0, 1e4])
def test_sparse_points_tell_how_fine_and_how_wide_the_cubes_are(reach):
    cameras, random = sphere(), torch.Generator().manual_seed(0)
    points = TARGET + reach * (2 * torch.rand(500, 3, generator=random).double() - 1)
    bounds = camera_bounds(cameras, points)
    farthest = float((cameras.camera_to_world[..., 3] - TARGET).abs().max())
    off = (points - TARGET).abs().amax(1)
    finest = bounds.side / 2 ** (bounds.grid_levels - 1)
    assert farthest / 8 <= finest * (1 + 1e-9) and finest <= 2 * farthest * (1 + 1e-9)
    assert (off < finest / 2).double().mean() >= 0.7 or finest == pytest.approx(2 * farthest)
    assert inside(bounds, cameras.camera_to_world[..., 3])
    assert 2 <= bounds.grid_levels <= 7
    assert off.quantile(0.98) < bounds.side / 2 or bounds.grid_levels == 7
    # No level more than that takes.
    assert bounds.side / 4 < max(1.2 * farthest, 1.1 * off.max()) or bounds.grid_levels == 2


def test_rays_begin_where_sparse_points_do_and_stray_ones_do_not_count():
    cameras, random = sphere(), torch.Generator().manual_seed(0)
    way = torch.nn.functional.normalize(torch.randn(1000, 3, generator=random).double(), dim=1)
    near = camera_bounds(cameras, TARGET + 0.9 * way).near
    assert 0.35 * 3.1 < near < 0.5 * 3.1  # the ball begins 3.1 ahead
    stray = cameras.camera_to_world[:5, :, 3] + 0.05 * cameras.camera_to_world[:5, :, 2]
    with_stray = camera_bounds(cameras, torch.cat([TARGET + 0.9 * way, stray])).near
    assert with_stray == pytest.approx(near, rel=0.05)


def test_points_behind_a_panorama_s_camera_are_not_the_nearest():
    cameras, random = sphere(), torch.Generator().manual_seed(0)
    focal = torch.tensor([[SIZE / (2 * math.pi), SIZE / math.pi]]).double().expand(24, 2)
    around = replace(cameras, model="EQUIRECTANGULAR", focal=focal)
    way = torch.nn.functional.normalize(torch.randn(500, 3, generator=random).double(), dim=1)
    points = torch.cat([TARGET + 0.9 * way, TARGET + 100 * way])
    assert camera_bounds(around, points).near > 0.35 * 3.1


def test_a_camera_that_looks_outwards_has_no_focus():
    outward = sphere(distance=1.0)
    turned = cameras_at(outward.camera_to_world[..., 3], -outward.camera_to_world[..., 2])
    assert camera_bounds(turned).focus == 0
    assert camera_bounds(sphere()).focus == pytest.approx(4.0)


def test_one_camera_alone_still_has_bounds():
    single = sphere(n=1)
    seen = gaze(single)
    assert seen.inward and seen.distance > 0
    bounds = camera_bounds(single)
    assert inside(bounds, single.camera_to_world[..., 3]) and bounds.side > 0 < bounds.near


def test_near_never_reaches_the_object_s_cube():
    for distance in (1.5, 4.0):
        cameras = sphere(distance=distance)
        bounds = object_bounds(cameras, ball_masks(cameras, TARGET, 0.3), "test")
        assert 0 < bounds.near <= max(distance - 0.87 * bounds.side, 0.05 * distance)
        away = float((cameras.camera_to_world[..., 3] - bounds.center).norm(dim=1).min())
        quarter = 0.25 * (away - 0.5 * math.sqrt(3) * bounds.side)
        assert bounds.near == pytest.approx(max(quarter, 0.05 * away))


def test_a_box_counts_as_looked_at_if_the_target_is_in_it():
    assert looked_at(sphere(), Bounds(TARGET + 0.4, 1.0, 1, 0.1, ""))
    assert not looked_at(sphere(), Bounds(TARGET + 0.6, 1.0, 1, 0.1, ""))


def test_a_plain_border_is_a_backdrop():
    random = torch.Generator().manual_seed(0)
    images = []
    for _ in range(3):
        image = torch.randint(0, 256, (20, 30, 4), generator=random, dtype=torch.uint8)
        image[:2], image[-2:], image[:, :2], image[:, -2:] = (
            torch.tensor([10, 200, 30, 255], dtype=torch.uint8),
        ) * 4
        images.append(image)
    assert find_backdrop([border(image) for image in images]) == (10, 200, 30)
    images[1][:, 0, 0] = 90
    assert find_backdrop([border(image) for image in images]) is None


def test_masks_are_alpha_or_difference_from_the_backdrop():
    image = torch.zeros(1, 3, 4, dtype=torch.uint8)
    image[0, 1] = torch.tensor([3, 0, 0, 1])
    image[0, 2] = torch.tensor([0, 0, 30, 255])
    assert object_mask(image, None).tolist() == [[False, True, True]]
    assert object_mask(image, (0, 0, 0)).tolist() == [[False, False, True]]


def test_what_is_a_little_darker_than_the_backdrop_is_the_backdrop_still():
    image = torch.tensor([[[8, 198, 30, 255], [10, 190, 30, 255], [19, 200, 30, 255]]])
    assert object_mask(image.byte(), (10, 200, 30)).tolist() == [[False, True, True]]


def test_a_large_mask_is_kept_coarse_and_misses_nothing():
    image = torch.zeros(2, 4000, 4, dtype=torch.uint8)
    image[1, 3999] = 255
    mask = object_mask(image, None)
    assert mask.shape == (1, 1334) and mask.sum() == 1 and mask[0, 1333]
    pixels = torch.zeros(2, 1600, 4, dtype=torch.uint8)
    assert object_mask(pixels, None).shape == (2, 1600)


def test_coarse_masks_bound_the_object_as_fine_ones_do():
    cameras = sphere()
    masks = ball_masks(cameras, TARGET, 0.3)
    fine = object_bounds(cameras, masks, "test")
    coarse = [
        mask[::2, ::2] | mask[1::2, ::2] | mask[::2, 1::2] | mask[1::2, 1::2] for mask in masks
    ]
    found = object_bounds(cameras, coarse, "test")
    assert found.side == pytest.approx(fine.side, rel=0.15)
    torch.testing.assert_close(found.center, fine.center, atol=0.1, rtol=0)


def forward_facing(spread=0.1, count=12):
    """Cameras about a plane, which look the same way but for a few degrees."""
    random = torch.Generator().manual_seed(4)
    off = spread * (2 * torch.rand(count, 3, generator=random, dtype=torch.float64) - 1)
    ahead = torch.tensor([1.0, 1.0, 0.2], dtype=torch.float64)
    turn = 0.1 * torch.randn(count, 3, generator=random, dtype=torch.float64)
    return cameras_at(0.5 + off, ahead + turn)


def test_a_common_view_holds_what_cameras_see_beyond_twice_the_near_distance_and_little_else():
    cameras, near = forward_facing(), 0.2
    project = Projection(**common_view(cameras, near))
    random = torch.Generator().manual_seed(5)
    camera = torch.randint(len(cameras), (20_000,), generator=random)
    pixels = SIZE * torch.rand(20_000, 2, generator=random, dtype=torch.float64)
    origins, directions = cameras.rays(camera, pixels)
    axis = cameras.camera_to_world[camera, :, 2]
    depth = near * (2 + 50 * torch.rand(20_000, 1, generator=random, dtype=torch.float64) ** 4)
    seen = origins + directions * depth / (directions * axis).sum(1, keepdim=True) * 1.1
    found = project(seen.float())
    assert found[:, :2].min() > 0 and found[:, :2].max() < 1 and found[:, 2].min() > 0.4
    assert ((found[:, :2] - 0.5).abs().amax(0) > 0.45).all()
    # Before all cameras, and each detail where its camera sees it: right, down, ahead.
    assert (project(cameras.camera_to_world[:, :, 3].float())[:, 2] <= 0.6).all()
    right, down, ahead = project.axes.double()
    poses = cameras.camera_to_world
    for own, common in zip(poses.mT.unbind(1), (right, down, ahead), strict=False):
        assert (own @ common > 0.9).all()


def test_the_plane_of_a_common_view_goes_through_the_rearmost_camera():
    cameras = forward_facing()
    view = common_view(cameras, 0.3)
    ahead, origin = (torch.tensor(view[key]).double() for key in ("axes", "origin"))
    depth = (cameras.camera_to_world[:, :, 3] - origin) @ ahead[2]
    assert depth.min().abs() < 1e-6 and view["near"] == 0.3


def test_cameras_that_look_many_ways_have_no_common_view():
    assert common_view(sphere(), 0.1) is None
    wide = replace(forward_facing(), model="OPENCV_FISHEYE")
    assert common_view(zoomed(wide, 0.2), 0.1) is None
    assert common_view(zoomed(wide, 2.0), 0.1) is not None
