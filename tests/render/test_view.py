"""Views of fields whose image is known: a ball with a soft surface, and fog."""

import pytest
import torch

from polyfield.cuda.errors import InputError
from polyfield.render.cameras import Cameras
from polyfield.render.occupancy import full_grid
from polyfield.render.shading import BYTES_SHADED, density_normals
from polyfield.render.view import BYTES_A_PIXEL, render_bands, render_view, subpixel_offsets
from polyfield.render.volume import Sampling

RADIUS, SIDE = 0.25, 24
SAMPLING = Sampling(step=1 / 512, cone=0.0, near=0.0)
BACKGROUND = (0.1, 0.2, 0.3)


class Ball:
    """Dense within the radius around the cube's middle; its colour is its position.

    It notes how many points it was asked for at once, and whether for a gradient.
    """

    def __init__(self, thickness=5e3, softness=0.002):
        self.thickness, self.softness = thickness, softness
        self.asked, self.gradients = [], 0

    def density(self, x):
        self.asked.append(len(x))
        self.gradients += x.requires_grad
        depth = (RADIUS - (x - 0.5).norm(dim=1)) / self.softness
        return self.thickness * torch.sigmoid(depth), x

    def encode_directions(self, directions):
        return directions

    def color(self, features, harmonics):
        return features


class Fog(Ball):
    """The same everywhere: every sample of every ray can be seen."""

    def density(self, x):
        self.asked.append(len(x))
        return torch.full((len(x),), 0.5) + 0 * x[:, 0], x


@pytest.fixture
def camera():
    """One camera of 24 x 24 pixels that looks along +z at the middle of the cube, in float32."""
    pose = torch.cat([torch.eye(3), torch.tensor([[0.5], [0.5], [-1.0]])], 1)[None]
    return Cameras(
        pose,
        torch.full((1, 2), 2.5 * SIDE),
        torch.full((1, 2), SIDE / 2),
        torch.zeros(1, 4),
        torch.tensor([SIDE]),
        torch.tensor([SIDE]),
    )


def seen(field, camera, **options):
    grid = full_grid(1, 32, torch.device("cpu"))
    return render_view(field, grid, camera, 0, BACKGROUND, SAMPLING, **options)


def surface(camera):
    """Where the rays through the pixels' centres meet the ball [h, w, 3], and which do [h, w]."""
    pixel = torch.cartesian_prod(torch.arange(SIDE), torch.arange(SIDE)).flip(1) + 0.5
    origins, directions = camera.rays(torch.zeros(SIDE**2, dtype=torch.int64), pixel)
    offset = origins - 0.5
    along = (offset * directions).sum(1)
    root = along**2 - (offset * offset).sum(1) + RADIUS**2
    points = origins + (-along - root.clamp_min(0).sqrt())[:, None] * directions
    # The very rim is grazed: its rays see a good part of the soft surface.
    return points.view(SIDE, SIDE, 3), (root > 0.02).view(SIDE, SIDE)


def test_colour_depth_and_opacity_are_those_of_the_surface(camera):
    view = seen(Ball(), camera)
    points, hit = surface(camera)
    assert hit.sum() > 60
    torch.testing.assert_close(view.color[hit], points[hit], atol=0.02, rtol=0)
    depth = (points[hit] - camera.camera_to_world[0, :, 3]).norm(dim=1)
    torch.testing.assert_close(view.depth[hit], depth, atol=0.02, rtol=0)
    assert (view.opacity[hit] > 0.999).all()


def test_normals_point_out_of_the_ball_and_are_unit_where_it_is_opaque(camera):
    view = seen(Ball(), camera, normals=True)
    points, hit = surface(camera)
    expected = (points - 0.5) / RADIUS
    torch.testing.assert_close(view.normal[hit], expected[hit], atol=0.06, rtol=0)
    assert (view.normal.norm(dim=2) <= view.opacity + 1e-5).all()


def test_where_nothing_is_the_background_shows_and_all_else_is_zero(camera):
    view = seen(Ball(), camera, normals=True)
    torch.testing.assert_close(view.color[0, 0], torch.tensor(BACKGROUND))
    for channel in (view.opacity, view.depth, view.normal):
        torch.testing.assert_close(channel[0, 0], torch.zeros_like(channel[0, 0]))


def test_normals_cost_nothing_where_they_are_not_asked_for(camera):
    field = Ball()
    assert seen(field, camera).normal is None and field.gradients == 0
    seen(field, camera, normals=True)
    assert field.gradients > 0


def test_a_normal_is_one_long_however_small_the_gradient():
    field = Ball(thickness=1e-16, softness=0.02)
    x = 0.5 + torch.tensor([[0.3, 0, 0], [0, -0.49, 0], [0.28, 0.28, 0.28]])
    expected = torch.nn.functional.normalize(x - 0.5, dim=1)
    torch.testing.assert_close(density_normals(field, x), expected)
    torch.testing.assert_close(density_normals(Fog(), x), torch.zeros(3, 3))


@pytest.mark.parametrize("normals", [False, True])
def test_the_memory_changes_no_pixel(camera, normals):
    whole = seen(Fog(), camera, normals=normals)
    for memory in (1, 1 << 20):
        tiled = seen(Fog(), camera, normals=normals, memory_bytes=memory)
        for one, other in zip(tiled, whole, strict=True):
            assert one is other is None or torch.equal(one, other)


def test_memory_bounds_samples_and_rows_however_many_there_are(camera):
    field, memory = Fog(), 1 << 20
    grid, sampling = full_grid(1, 32, torch.device("cpu")), Sampling(1 / 64, 0.0, 0.0, limit=128)
    wide = camera.resized(400, 30)
    bands = list(render_bands(field, grid, wide, 0, BACKGROUND, sampling, memory_bytes=memory))
    assert sum(len(band.color) for band in bands) == 30
    assert max(band.opacity.numel() for band in bands) * BYTES_A_PIXEL <= memory / 4
    assert sum(field.asked) > 12_000 * 20  # every one of them is dense
    assert max(field.asked) * BYTES_SHADED <= memory / 4


def test_several_rays_a_pixel_are_their_mean(camera):
    fine = seen(Ball(), camera.resized(2 * SIDE, 2 * SIDE), normals=True)
    view = seen(Ball(), camera, samples_per_pixel=4, normals=True)

    def mean(image):
        return image.reshape(SIDE, 2, SIDE, 2, -1).mean((1, 3))

    torch.testing.assert_close(view.color, mean(fine.color), atol=1e-4, rtol=0)
    torch.testing.assert_close(view.normal, mean(fine.normal), atol=1e-4, rtol=0)
    depth = mean(fine.depth * fine.opacity) / mean(fine.opacity).clamp_min(1e-6)
    solid = view.opacity > 1e-3
    torch.testing.assert_close(view.depth[solid], depth[..., 0][solid], atol=1e-4, rtol=0)


def test_less_than_one_ray_a_pixel_is_refused(camera):
    with pytest.raises(InputError, match="samples per pixel: 0"):
        seen(Ball(), camera, samples_per_pixel=0)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 9, 17])
def test_the_rays_of_a_pixel_lie_in_it_apart_and_around_its_centre(count):
    offsets = subpixel_offsets(count)
    assert offsets.shape == (count, 2) and ((offsets > 0) & (offsets < 1)).all()
    torch.testing.assert_close(offsets.mean(0), torch.tensor([0.5, 0.5]), atol=1e-6, rtol=0)
    apart = torch.cdist(offsets.double(), offsets.double()) + 2 * torch.eye(count)
    assert apart.min() > 0.5 / count
