"""Images of Gaussians through lenses of any model, and as the world is turned."""

import pytest
import torch
from splat_scenes import gaussians

from polyfield.cuda.errors import InputError
from polyfield.fields.gaussians import gaussians_at
from polyfield.fields.similarity import Similarity
from polyfield.fields.splats import Splats, moved
from polyfield.render.cameras import Cameras
from polyfield.render.splats import (
    light_on,
    project,
    ray_lengths,
    splat_image,
    splat_view,
    world_to_camera,
)

WIDTH, HEIGHT = 61, 45
LENSES = {
    "PINHOLE": (),
    "OPENCV": (0.1, -0.05, 0.01, -0.02),
    "FULL_OPENCV": (0.1, -0.05, 0.01, -0.02, 0.01, 0.05, 0.01, 0.0),
    "OPENCV_FISHEYE": (0.05, -0.01, 0.002, 0.0),
    "THIN_PRISM_FISHEYE": (0.05, -0.01, 0.01, -0.01, 0.002, 0.0, 0.01, 0.02),
}
BLACK = torch.zeros(3)


def cameras(model="PINHOLE", dtype=torch.float32, distortion=None, focal=50.0):
    turn = torch.linalg.matrix_exp(
        torch.tensor([[0, -0.1, 0.2], [0.1, 0, -0.05], [-0.2, 0.05, 0]], dtype=torch.float64)
    )
    pose = torch.cat([turn, torch.tensor([[-0.5], [0.1], [-0.2]]).double()], 1)
    numbers = LENSES[model] if distortion is None else distortion
    return Cameras(
        pose[None].to(dtype),
        torch.full((1, 2), focal, dtype=dtype),
        torch.tensor([[WIDTH / 2 + 1, HEIGHT / 2]], dtype=dtype),
        torch.tensor([numbers], dtype=dtype).view(1, -1),
        torch.tensor([WIDTH]),
        torch.tensor([HEIGHT]),
        model,
    )


def crowd(n=80, seed=0, size=-2.5, degree=2, dtype=torch.float32):
    numbers = gaussians(n, seed, size=size)
    random = torch.Generator().manual_seed(seed + 7)
    harmonics = 0.3 * torch.randn(n, (degree + 1) ** 2, 3, generator=random, dtype=torch.float64)
    return Splats(*(t.to(dtype) for t in (*numbers, harmonics)))


@pytest.mark.parametrize("model", LENSES)
def test_small_gaussians_lie_where_the_lens_maps_their_middles(model):
    view, splats = cameras(model, torch.float64), crowd(size=-7, dtype=torch.float64)
    seen = project(splats, view, 0)
    expected, _ = view.project(torch.zeros(80, dtype=torch.int64), splats.means)
    assert len(seen.rows) > 40
    assert (seen.means2d - expected[seen.rows]).abs().max() < 1e-2


def test_points_of_a_gaussian_tell_what_slopes_tell_where_both_may_be_asked():
    """A lens of no distortion is a pinhole; of a small Gaussian both say the same."""
    splats = crowd(size=-5, dtype=torch.float64)
    by_slopes = project(splats, cameras("PINHOLE", torch.float64), 0)
    by_points = project(splats, cameras("OPENCV", torch.float64, (0.0, 0, 0, 0)), 0)
    assert by_slopes.rows.tolist() == by_points.rows.tolist()
    torch.testing.assert_close(by_points.means2d, by_slopes.means2d, rtol=0, atol=0.02)
    torch.testing.assert_close(by_points.conics, by_slopes.conics, rtol=0.02, atol=0.01)
    torch.testing.assert_close(by_points.depths, by_slopes.depths)


def test_points_of_a_wide_gaussian_tell_its_variance_better_than_slopes():
    """By a million rays through a Gaussian of width 0.2 at depth 2, askew."""
    splats = Splats(
        torch.tensor([[0.6, 0.3, 2.0]]).double(),
        torch.tensor([[0.2, 0.2, 0.2]]).double().log(),
        torch.tensor([[1.0, 0, 0, 0]]).double(),
        torch.tensor([5.0]).double(),
        torch.zeros(1, 1, 3).double(),
    )
    straight = torch.cat([torch.eye(3), torch.zeros(3, 1)], 1).double()[None]
    found = {}
    for model, lens in (("PINHOLE", ()), ("OPENCV", (0.0, 0, 0, 0))):
        view = cameras(model, torch.float64, lens, focal=100.0)
        wide = Cameras(
            straight, view.focal, torch.tensor([[200.0, 200]]).double(), view.distortion,
            torch.tensor([400]), torch.tensor([400]), model,
        )  # fmt: skip
        found[model] = project(splats, wide, 0)
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(1_000_000, 3, generator=random, dtype=torch.float64)
    points = splats.means + 0.2 * noise
    pixels = 100 * points[:, :2] / points[:, 2:] + 200
    true_mean, true_variance = pixels.mean(0), pixels.var(0) + 0.3
    for model, seen in found.items():
        a, b, c = seen.conics[0].tolist()
        det = a * c - b * b
        variance = torch.tensor([c / det, a / det]).double()
        found[model] = (
            (seen.means2d[0] - true_mean).norm().item(),
            (variance / true_variance - 1).abs().max().item(),
        )
    assert found["OPENCV"][0] < 0.3 * found["PINHOLE"][0]
    assert found["OPENCV"][1] < found["PINHOLE"][1] < 0.2


@pytest.mark.parametrize("model", ["PINHOLE", "OPENCV_FISHEYE", "OPENCV"])
def test_a_turned_world_with_its_camera_looks_the_same(model):
    splats, view = crowd(dtype=torch.float64), cameras(model, torch.float64)
    turn = torch.linalg.matrix_exp(
        torch.tensor([[0, -2.0, 1], [2, 0, -0.5], [-1, 0.5, 0]]).double()
    )
    way = Similarity(1.7, turn, torch.tensor([3.0, -2, 0.5]).double())
    background = torch.tensor([0.1, 0.4, 0.9]).double()
    here = splat_view(splats, view, 0, background)
    there = splat_view(
        moved(splats, way), view.transformed(way, torch.float64), 0, background, near=0.017
    )
    assert here.opacity.max() > 0.5
    torch.testing.assert_close(there.color, here.color, rtol=0, atol=1e-6)
    torch.testing.assert_close(there.depth, 1.7 * here.depth, rtol=1e-6, atol=1e-6)
    unturned = Splats(*(getattr(moved(splats, way), n) for n in (
        "means", "log_scales", "quaternions", "opacity_logits")), splats.harmonics)  # fmt: skip
    wrong = splat_view(unturned, view.transformed(way, torch.float64), 0, background, near=0.017)
    assert (wrong.color - here.color).abs().max() > 0.05


def test_what_is_behind_shows_where_nothing_is_before_it():
    view, splats = cameras(), crowd()
    random = torch.Generator().manual_seed(3)
    background = torch.rand(HEIGHT, WIDTH, 3, generator=random)
    shown = splat_view(splats, view, 0, background, half_depth=True)
    dark = splat_view(splats, view, 0, BLACK)
    expected = dark.color + (1 - dark.opacity)[..., None] * background
    torch.testing.assert_close(shown.color, expected)
    empty = shown.opacity == 0
    assert empty.any() and torch.equal(shown.color[empty], background[empty])
    assert not shown.depth[empty].any() and not shown.half_depth[empty].any()


@pytest.mark.parametrize("model", ["PINHOLE", "OPENCV"])
def test_the_depth_of_a_wall_is_its_own(model):
    """A wall of Gaussians before a straight camera."""
    ticks = torch.linspace(-2, 2, 81)
    x, y = torch.meshgrid(ticks, ticks, indexing="ij")
    n = x.numel()
    wall = Splats(
        torch.stack([x.reshape(-1), y.reshape(-1), torch.full((n,), 2.5)], 1),
        torch.tensor([0.06, 0.06, 1e-4]).log().expand(n, 3),
        torch.tensor([1.0, 0, 0, 0]).expand(n, 4),
        torch.full((n,), 3.0),
        torch.zeros(n, 1, 3),
    )
    straight = cameras(model, distortion=(0.0, 0, 0, 0))
    pose = torch.cat([torch.eye(3), torch.zeros(3, 1)], 1)[None]
    view = Cameras(
        pose, straight.focal, straight.center, straight.distortion, straight.width,
        straight.height, model,
    )  # fmt: skip
    shown = splat_view(wall, view, 0, BLACK, normals=True, half_depth=True)
    assert shown.opacity.min() > 0.99
    wanted = -shown.opacity[..., None] * torch.tensor([0.0, 0, 1])
    torch.testing.assert_close(shown.normal, wanted, rtol=0, atol=1e-5)
    assert (shown.depth - 2.5).abs().max() < 1e-3 and (shown.half_depth - 2.5).abs().max() < 1e-3


@pytest.mark.parametrize("model", ["PINHOLE", "OPENCV_FISHEYE", "OPENCV"])
def test_a_camera_s_pose_can_be_learned(model):
    """Gradients to it are finite differences, of all that is drawn of each Gaussian."""
    splats, view = crowd(60, dtype=torch.float64), cameras(model, torch.float64)
    rows = project(splats, view, 0).rows
    kept = Splats(*(getattr(splats, name)[rows[:25]] for name in (
        "means", "log_scales", "quaternions", "opacity_logits", "harmonics")))  # fmt: skip
    random = torch.Generator().manual_seed(4)
    weight = torch.randn(25, 6, generator=random, dtype=torch.float64)

    def loss(pose):
        there = Cameras(
            pose[None], view.focal, view.center, view.distortion, view.width, view.height, model
        )
        seen = project(kept, there, 0)
        columns = seen.means2d, 10 * seen.conics, seen.depths[:, None]
        return (weight * torch.cat(columns, 1)).sum()

    assert torch.autograd.gradcheck(loss, view.camera_to_world[0].clone().requires_grad_())


def test_harmonics_beyond_a_degree_may_be_left_out():
    view, splats = cameras(), crowd(degree=2)
    flat = Splats(
        splats.means, splats.log_scales, splats.quaternions, splats.opacity_logits,
        splats.harmonics[:, :1],
    )  # fmt: skip
    found = splat_view(splats, view, 0, BLACK, degree=0)
    assert torch.equal(found.color, splat_view(flat, view, 0, BLACK).color)
    assert not torch.equal(found.color, splat_view(splats, view, 0, BLACK).color)


def test_an_antialiased_model_shrinks_opacities_in_a_coarse_view():
    splats = crowd(size=-6)
    tagged = Splats(
        splats.means, splats.log_scales, splats.quaternions, splats.opacity_logits,
        splats.harmonics, antialiased=True,
    )  # fmt: skip
    for model in ("PINHOLE", "OPENCV"):
        view = cameras(model)
        plain, mip = (splat_view(s, view, 0, BLACK).opacity.sum() for s in (splats, tagged))
        assert mip < 0.5 * plain


def test_the_inverse_of_a_pose_leads_back():
    pose = cameras(dtype=torch.float64).camera_to_world[0]
    back = world_to_camera(pose)
    product = back[:, :3] @ pose[:, :3], back[:, :3] @ pose[:, 3] + back[:, 3]
    torch.testing.assert_close(product[0], torch.eye(3).double())
    torch.testing.assert_close(product[1], torch.zeros(3).double(), rtol=0, atol=1e-12)


def test_an_equirectangular_camera_is_refused():
    view = cameras(distortion=(0.0, 0, 0, 0))
    around = Cameras(
        view.camera_to_world, view.focal, view.center, view.distortion, view.width, view.height,
        "EQUIRECTANGULAR",
    )  # fmt: skip
    with pytest.raises(InputError, match="equirectangular"):
        splat_view(crowd(), around, 0, BLACK)


def slanted_wall(model, degrees=20.0):
    """A wall of Gaussians and a camera that looks at it askew, and each ray's way to it."""
    ticks = torch.linspace(-4, 4, 161)
    x, y = torch.meshgrid(ticks, ticks, indexing="ij")
    n = x.numel()
    wall = Splats(
        torch.stack([x.reshape(-1), y.reshape(-1), torch.full((n,), 2.5)], 1),
        torch.tensor([0.03, 0.03, 1e-4]).log().expand(n, 3),
        torch.tensor([1.0, 0, 0, 0]).expand(n, 4),
        torch.full((n,), 3.0),
        torch.zeros(n, 1, 3),
    )
    turn = torch.deg2rad(torch.tensor(degrees))
    pose = torch.eye(3, 4)
    pose[0, 0] = pose[2, 2] = turn.cos()
    pose[0, 2], pose[2, 0] = turn.sin(), -turn.sin()
    view = cameras(model)
    camera = Cameras(
        pose[None], 1.4 * view.focal, view.center, view.distortion, view.width, view.height, model
    )
    place = torch.arange(WIDTH * HEIGHT)
    middle = torch.stack([place % WIDTH, place // WIDTH], 1) + 0.5
    _, directions = camera.rays(torch.zeros_like(place), middle)
    return wall, camera, (2.5 / directions[:, 2]).view(HEIGHT, WIDTH), directions


@pytest.mark.parametrize("model", ["PINHOLE", "OPENCV", "OPENCV_FISHEYE", "THIN_PRISM_FISHEYE"])
def test_the_depth_of_an_image_is_along_rays_whatever_the_lens(model):
    wall, camera, expected, _ = slanted_wall(model)
    shown = splat_image(wall, camera, 0, (1.0, 0.0, 0.0), normals=True)
    assert shown.opacity.min() > 0.97 and expected.max() > 1.3 * expected.min()
    assert (shown.depth / expected - 1).abs().max() < 0.04
    assert (shown.depth / expected - 1).abs().mean() < 0.015
    wanted = -shown.opacity[..., None] * torch.tensor([0.0, 0, 1])
    torch.testing.assert_close(shown.normal, wanted, rtol=0, atol=1e-4)


def test_an_image_is_the_view_without_more_light_than_white():
    view, splats = cameras(), crowd()
    bright = Splats(
        splats.means, splats.log_scales, splats.quaternions, splats.opacity_logits,
        splats.harmonics * 6,
    )  # fmt: skip
    raw = splat_view(bright, view, 0, torch.tensor([0.1, 0.5, 0.9]))
    shown = splat_image(bright, view, 0, (0.1, 0.5, 0.9))
    assert raw.color.max() > 1
    torch.testing.assert_close(shown.color, raw.color.clamp(0, 1))
    assert torch.equal(shown.opacity, raw.opacity) and shown.normal is None
    assert not shown.depth[shown.opacity == 0].any()
    assert not splat_image(bright, view, 0, (0.1, 0.5, 0.9), near=100.0).opacity.any()


def test_a_pinhole_s_rays_are_as_long_as_pythagoras_says():
    view = cameras(dtype=torch.float64)
    x = (torch.arange(WIDTH).double() + 0.5 - (WIDTH / 2 + 1)) / 50
    y = (torch.arange(HEIGHT).double() + 0.5 - HEIGHT / 2) / 50
    expected = (1 + x**2 + y[:, None] ** 2).sqrt()
    torch.testing.assert_close(ray_lengths(view, 0), expected)


@pytest.mark.parametrize("model", ["OPENCV", "FULL_OPENCV", "THIN_PRISM_FISHEYE"])
def test_a_point_at_depth_one_on_a_ray_is_as_far_as_the_ray_is_long(model):
    view = cameras(model, torch.float64)
    pixel = torch.tensor([[3.5, 40.5], [30.5, 20.5], [55.5, 1.5]]).double()
    zero = torch.zeros(3).long()
    origins, directions = view.rays(zero, pixel)
    lengths = ray_lengths(view, 0)[[40, 20, 1], [3, 30, 55]]
    back, depth = view.project(zero, origins + lengths[:, None] * directions)
    torch.testing.assert_close(depth, torch.ones(3).double())
    torch.testing.assert_close(back, pixel, atol=1e-6, rtol=0)


def test_light_on_everything_is_the_opacity_that_is_seen():
    seen = project(crowd(), cameras(), 0)
    opacity = splat_view(crowd(), cameras(), 0, BLACK).opacity
    random = torch.Generator().manual_seed(0)
    marks = torch.rand(HEIGHT, WIDTH, 2, generator=random)
    marks[..., 0] = 1
    with torch.no_grad():
        found = light_on(seen, marks)
    assert found.shape == (len(seen.rows), 2) and (found >= 0).all()
    torch.testing.assert_close(found[:, 0].sum(), opacity.sum(), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(
        found[:, 1].sum(), (opacity * marks[..., 1]).sum(), rtol=1e-5, atol=1e-4
    )


def test_light_on_marks_is_what_is_seen_of_each_gaussian_there():
    """One at a time in white, all others black, the sum over the marks."""
    splats, view = crowd(12, dtype=torch.float64), cameras(dtype=torch.float64)
    seen = project(splats, view, 0)
    assert len(seen.rows) > 5
    marks = torch.zeros(HEIGHT, WIDTH, 1, dtype=torch.float64)
    marks[10:30, 20:50] = 1
    found = light_on(seen, marks)[:, 0]
    for place, row in enumerate(seen.rows.tolist()):
        harmonics = torch.full((12, 1, 3), -0.5 / 0.28209479177387814, dtype=torch.float64)
        harmonics[row] *= -1
        alone = Splats(
            splats.means, splats.log_scales, splats.quaternions, splats.opacity_logits, harmonics
        )
        shown = splat_view(alone, view, 0, BLACK.double()).color[..., 0]
        torch.testing.assert_close(
            found[place], (shown * marks[..., 0]).sum(), rtol=1e-6, atol=1e-9
        )
    assert (found == 0).sum() < len(found)


def test_without_its_depth_an_image_has_the_same_colours():
    points, colors = torch.rand(2, 40, 3, generator=torch.Generator().manual_seed(0))
    splats = gaussians_at(points, colors, 0, 0.8)
    camera = Cameras(
        camera_to_world=torch.tensor([[[1.0, 0, 0, 0.5], [0, 1, 0, 0.5], [0, 0, 1, -2]]]),
        focal=torch.full((1, 2), 40.0),
        center=torch.full((1, 2), 16.0),
        distortion=torch.zeros(1, 4),
        width=torch.tensor([32]),
        height=torch.tensor([32]),
    )
    whole = splat_image(splats, camera, 0, (0.1, 0.2, 0.3))
    plain = splat_image(splats, camera, 0, (0.1, 0.2, 0.3), depth=False)
    assert torch.equal(whole.color, plain.color) and torch.equal(whole.opacity, plain.opacity)
    assert whole.depth.any() and not plain.depth.any()
