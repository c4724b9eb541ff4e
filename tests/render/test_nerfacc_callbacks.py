"""What nerfacc makes of our fields through the callbacks is what we make of them ourselves."""

import inspect

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from polyfield.cuda.composite import composite
from polyfield.cuda.errors import InputError
from polyfield.cuda.rotations import matrices
from polyfield.fields.similarity import Similarity
from polyfield.fields.surface_radiance import SurfaceRadiance
from polyfield.fields.table import FIELDS, arguments_of, build_field
from polyfield.render.nerfacc_callbacks import FieldAlongRays
from polyfield.render.occupancy import full_grid
from polyfield.render.packed import interval_samples
from polyfield.render.volume import Sampling, march_rays, render_rays

RAYS, SAMPLES = 17, 24
CPU = torch.device("cpu")
TURN = matrices(normalize(torch.tensor([[0.3, -0.5, 0.2, 0.8]]).double()))[0]
FRAME = Similarity(0.21, TURN, torch.tensor([0.4, 0.6, 0.5]).double())
BACKGROUND = torch.tensor([0.2, 0.5, 0.9])


@pytest.fixture
def nerfacc():
    return pytest.importorskip("nerfacc", reason="the extra `nerfacc` is not installed")


def built(name):
    """A small field whose matter is thin enough that every ray sees through all of it."""
    random = torch.Generator().manual_seed(3)
    field = build_field(name, arguments_of(FIELDS[name].arguments.fitted(64, 1 << 14)), random)
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=random))
    return field


def rays():
    """Rays of the unit cube that cross its middle, whose directions have many lengths."""
    random = torch.Generator().manual_seed(0)
    away = normalize(torch.randn(RAYS, 3, generator=random), dim=1)
    aim = 0.3 + 0.4 * torch.rand(RAYS, 3, generator=random)
    return aim - 1.2 * away, away * (0.5 + torch.rand(RAYS, 1, generator=random))


def edges():
    """Ascending distances [RAYS, SAMPLES + 1], uneven, the first and last outside of the cube."""
    random = torch.Generator().manual_seed(1)
    gaps = torch.rand(RAYS, SAMPLES + 1, generator=random).cumsum(1)
    return 0.2 + 2.0 * gaps / gaps[:, -1:]


def ours(field, origins, directions, distances):
    """Colour on the background, opacity and mean distance, by our own kernels."""
    norms = directions.norm(dim=1, keepdim=True)
    every = torch.ones(len(origins)).bool()
    samples = interval_samples(origins, directions / norms, every, distances * norms)
    inside = ((samples.position >= 0) & (samples.position <= 1)).all(1)
    density, features = field.density(samples.position)
    color = field.color(features, field.encode_directions(directions / norms)[samples.ray.long()])
    values = torch.cat([color, samples.distance[:, None]], 1)
    out = composite(density * inside, samples.length, values, samples.ray_offsets)
    opacity = out.opacity[:, None]
    depth = out.values[:, 3:] / opacity.clamp_min(1e-6) / norms
    return out.values[:, :3] + (1 - opacity) * BACKGROUND, opacity, depth


@pytest.mark.parametrize("name", FIELDS)
def test_nerfacc_renders_what_we_render_with_the_same_gradients(nerfacc, name):
    field, distances, found = built(name), edges(), []
    for way in ("ours", "nerfacc"):
        origins, directions = (ray.clone().requires_grad_() for ray in rays())
        if way == "ours":
            out = ours(field, origins, directions, distances)
        else:
            begin, end = distances[:, :-1], distances[:, 1:]
            colors = FieldAlongRays(field, origins, directions).rgb_sigma_fn
            out = nerfacc.rendering(begin, end, rgb_sigma_fn=colors, render_bkgd=BACKGROUND)[:3]
        loss = (out[0] * torch.arange(3)).square().sum() + out[1].sum() + out[2].sum()
        inputs = [*field.parameters(), origins, directions]
        found.append((out, torch.autograd.grad(loss, inputs)))
    (mine, my_gradients), (theirs, their_gradients) = found
    assert 0.05 < mine[1].min() and mine[1].max() < 0.99 and mine[0].std(0).min() > 0.01
    for expected, got in zip(mine, theirs, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    for expected, got in zip(my_gradients, their_gradients, strict=True):
        size = float(expected.abs().max())
        assert size > 0
        torch.testing.assert_close(got, expected, atol=1e-5 * size, rtol=1e-5)


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("levels, cone", [(1, 0.0), (2, 0.05)])
def test_marched_samples_give_our_image_where_the_grid_is_partly_off(nerfacc, name, levels, cone):
    field, grid = built(name), full_grid(levels, 32, CPU)
    random = torch.Generator().manual_seed(4)
    off = torch.rand(levels, 16**3 // 8, generator=random) < 0.5  # blocks of cells
    grid.bits = grid.bits.view(-1, 8).masked_fill(off.view(-1)[:, None], 0).view(-1)
    origins, directions = rays()
    directions = normalize(directions, dim=1)
    sampling = Sampling(step=0.03, cone=cone, near=0.1)
    rendered = render_rays(field, grid, origins, directions, BACKGROUND.expand(RAYS, 3), sampling)
    full = march_rays(full_grid(levels, 32, CPU), origins, directions, sampling, 0, 0, False)
    assert rendered.samples_marched < 0.9 * len(full.distance)
    # One row a ray, padded with intervals of no length.
    counts = full.ray_offsets.diff().long()
    begin, end = torch.zeros(2, RAYS, int(counts.max()))
    here = torch.arange(begin.shape[1]) < counts[:, None]
    begin[here], end[here] = full.distance - full.length / 2, full.distance + full.length / 2
    colors = FieldAlongRays(field, origins, directions, grid=grid).rgb_sigma_fn
    color, opacity, *_ = nerfacc.rendering(begin, end, rgb_sigma_fn=colors, render_bkgd=BACKGROUND)
    assert 0.01 < opacity.mean() < 0.99
    torch.testing.assert_close(color, rendered.color, atol=1e-5, rtol=0)
    torch.testing.assert_close(opacity[:, 0], rendered.opacity, atol=1e-5, rtol=0)


def test_a_field_that_knows_pieces_of_rays_is_asked_over_intervals(nerfacc):
    """A surface half of whose rays end within one interval: middles alone would not tell."""
    field = SurfaceRadiance(built("hash-grid"), "neus", 0.3)
    with torch.no_grad():
        field.log_sharpness.fill_(5.0)
    origins, directions = rays()
    directions = normalize(directions, dim=1)
    sampling = Sampling(step=0.05, cone=0.0, near=0.1, pieces=True)
    grid = full_grid(1, 32, CPU)
    rendered = render_rays(field, grid, origins, directions, BACKGROUND.expand(RAYS, 3), sampling)
    full = march_rays(grid, origins, directions, sampling, 0, 0, False)
    counts = full.ray_offsets.diff().long()
    begin, end = torch.zeros(2, RAYS, int(counts.max()))
    here = torch.arange(begin.shape[1]) < counts[:, None]
    begin[here], end[here] = full.distance - full.length / 2, full.distance + full.length / 2
    for back in (Similarity.identity(), FRAME.inverse()):
        away = directions @ back.rotation.T.float()
        seen = FieldAlongRays(field, back.apply(origins), away, back.inverse(), grid)
        ends = begin * back.scale, end * back.scale
        color, opacity, *_ = nerfacc.rendering(
            *ends, rgb_sigma_fn=seen.rgb_sigma_fn, render_bkgd=BACKGROUND
        )
        torch.testing.assert_close(color, rendered.color, atol=2e-3, rtol=0)
        torch.testing.assert_close(opacity[:, 0], rendered.opacity, atol=2e-3, rtol=0)
        _, density = seen.rgb_sigma_fn(*ends)
        assert torch.equal(seen.sigma_fn(*ends), density)
    assert rendered.opacity.max() > 0.9
    points = field.density(full.position)[0] * full.length
    pieces = field.density(full.position, full.extent)[0] * full.length
    assert (points - pieces).abs().max() > 0.5


@pytest.mark.parametrize("name", FIELDS)
def test_rays_of_another_frame_see_the_same(name):
    field, distances = built(name), edges()
    origins, directions = rays()
    inside = FieldAlongRays(field, origins, directions)
    back = FRAME.inverse()
    away = directions @ back.rotation.T.float()
    outside = FieldAlongRays(field, back.apply(origins), away, FRAME)
    scaled = distances * back.scale
    color, density = inside.rgb_sigma_fn(distances[:, :-1], distances[:, 1:])
    color_there, density_there = outside.rgb_sigma_fn(scaled[:, :-1], scaled[:, 1:])
    seen = density > 1e-3
    assert seen.any()
    torch.testing.assert_close(color_there[seen], color[seen], atol=1e-4, rtol=0)
    torch.testing.assert_close(density_there, density * FRAME.scale, atol=1e-4, rtol=1e-3)


class Fog(torch.nn.Module):
    """Of one density everywhere; its colour is the direction it is seen along."""

    def __init__(self, sigma=1.0):
        super().__init__()
        self.sigma = sigma

    def density(self, x):
        return torch.full_like(x[:, 0], self.sigma), x

    def encode_directions(self, directions):
        return directions

    def color(self, features, harmonics):
        return 0.5 + 0.5 * harmonics


@given(st.floats(0.01, 50), st.floats(0.1, 5), st.floats(0.2, 3))
def test_the_optical_depth_of_a_crossing_depends_on_no_frame_and_no_length(scale, sigma, norm):
    # Along the first axis of the field's cube, in a user's frame that is turned, of any scale.
    frame = Similarity(scale, TURN, torch.tensor([0.1, -0.2, 0.3]).double())
    to_user = frame.inverse()
    begin = to_user.apply(torch.tensor([[-0.5, 0.5, 0.5]]))
    away = norm * to_user.rotation.float()[:, 0][None]
    t = torch.linspace(0, 2 / scale / norm, 2001)[None]
    along = FieldAlongRays(Fog(sigma), begin, away, frame)
    color, density = along.rgb_sigma_fn(t[:, :-1], t[:, 1:])
    torch.testing.assert_close((density * t.diff()).sum(), torch.tensor(sigma), rtol=2e-3, atol=0)
    # The view direction reaches the field in the field's axes, of length 1.
    seen = color[density > 0]
    torch.testing.assert_close(seen, torch.tensor([1, 0.5, 0.5]).expand_as(seen), atol=1e-5, rtol=0)


def test_nothing_lies_outside_the_cube_nor_where_the_grid_is_off():
    grid = full_grid(1, 32, CPU)
    grid.bits[: len(grid.bits) // 2] = 0  # z below the middle
    t = torch.linspace(-1, 2, 301)[None]
    up = torch.tensor([[0.0, 0, 1]])
    origin = torch.tensor([[0.5, 0.5, 0]])
    middle = (t[:, 1:] + t[:, :-1]) / 2
    for given_grid, lowest in ((None, 0.0), (grid, 0.5)):
        along = FieldAlongRays(Fog(), origin, up, grid=given_grid)
        expected = ((middle > lowest) & (middle < 1)).float()
        color, density = along.rgb_sigma_fn(t[:, :-1], t[:, 1:])
        assert torch.equal(density, expected)
        assert torch.equal(along.sigma_fn(t[:, :-1], t[:, 1:]), expected)
        assert torch.equal(color.sum(2) > 0, expected > 0)
        points = torch.cat([origin.expand(300, 3)[:, :2], middle[0, :, None]], 1)
        assert torch.equal(along.density(points), expected[0])


def test_density_at_points_is_in_units_of_their_frame():
    middle = FRAME.inverse().apply(torch.full((1, 3), 0.5))
    along = FieldAlongRays(Fog(3.0), middle, torch.tensor([[0.0, 0, 2]]), FRAME)
    torch.testing.assert_close(along.density(middle), torch.tensor([3 * 0.21]))


@pytest.mark.parametrize("name", FIELDS)
def test_packed_intervals_are_the_batched_ones_of_their_rays(name):
    field, distances = built(name), edges()
    along = FieldAlongRays(field, *rays(), FRAME.compose(FRAME.inverse()))
    begin, end = distances[:, :-1], distances[:, 1:]
    color, density = along.rgb_sigma_fn(begin, end)
    kept = torch.rand(RAYS, SAMPLES, generator=torch.Generator().manual_seed(5)) < 0.4
    kept[3] = False
    ray = torch.nonzero(kept)[:, 0]
    for index in (ray, ray.int()):
        packed_color, packed_density = along.rgb_sigma_fn(begin[kept], end[kept], index)
        torch.testing.assert_close(packed_color, color[kept])
        torch.testing.assert_close(packed_density, density[kept])
        assert torch.equal(along.sigma_fn(begin[kept], end[kept], index), packed_density)
    none = torch.zeros(0)
    assert along.sigma_fn(none, none, none.long()).shape == (0,)
    assert along.rgb_sigma_fn(none, none, none.long())[0].shape == (0, 3)


def test_a_look_without_gradients_leaves_those_of_the_next_whole(nerfacc):
    field, distances = built("hash-grid"), edges()
    origins, directions = (ray.requires_grad_() for ray in rays())
    along = FieldAlongRays(field, origins, directions)
    with torch.no_grad():
        along.sigma_fn(distances[:, :-1], distances[:, 1:])
    for _ in range(2):
        out = nerfacc.rendering(
            distances[:, :-1], distances[:, 1:], rgb_sigma_fn=along.rgb_sigma_fn
        )
        gradients = torch.autograd.grad(out[0].sum(), [origins, directions])
        assert all(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("shapes, ray", [
    (((5, 4), (5, 3)), None),
    (((4, 3), (4, 3)), None),
    (((20,), (20,)), None),
    (((20,), (20,)), 19),
    (((5, 4), (5, 4)), 20),
])  # fmt: skip
def test_intervals_that_fit_no_rays_are_refused(shapes, ray):
    along = FieldAlongRays(Fog(), torch.zeros(5, 3), torch.ones(5, 3))
    begin, end = (torch.zeros(shape) for shape in shapes)
    index = None if ray is None else torch.zeros(ray, dtype=torch.int64)
    # Without the shape checks of the tests.
    for ask in map(inspect.unwrap, (FieldAlongRays.sigma_fn, FieldAlongRays.rgb_sigma_fn)):
        with pytest.raises(InputError, match="t_starts|ray_indices"):
            ask(along, begin, end, index)


def test_origins_and_directions_must_be_as_many():
    along = FieldAlongRays(Fog(), torch.zeros(5, 3), torch.ones(5, 3))
    object.__setattr__(along, "directions", torch.ones(4, 3))
    with pytest.raises(InputError, match="origins"):
        along.__post_init__()


@pytest.mark.gpu
@pytest.mark.parametrize("name", FIELDS)
def test_estimators_on_a_gpu_find_our_image(nerfacc, name):
    """nerfacc's marching and packed sums have kernels for CUDA alone."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    device = torch.device("cuda")
    field = built(name).to(device)
    origins, directions = (ray.to(device) for ray in rays())
    directions = normalize(directions, dim=1)
    along = FieldAlongRays(field, origins, directions)
    cube = torch.tensor([0.0, 0, 0, 1, 1, 1], device=device)
    estimator = nerfacc.OccGridEstimator(cube, resolution=32).to(device)
    estimator.binaries = torch.ones_like(estimator.binaries)
    ray, begin, end = estimator.sampling(
        origins, directions, sigma_fn=along.sigma_fn, render_step_size=0.01
    )
    color, opacity, *_ = nerfacc.rendering(
        begin, end, ray, n_rays=RAYS, rgb_sigma_fn=along.rgb_sigma_fn
    )
    black = torch.zeros(RAYS, 3, device=device)
    rendered = render_rays(
        field, full_grid(1, 32, device), origins, directions, black, Sampling(0.01, 0.0, 0.0)
    )
    torch.testing.assert_close(color, rendered.color, atol=5e-3, rtol=0)
    torch.testing.assert_close(opacity[:, 0], rendered.opacity, atol=5e-3, rtol=0)
    proposals = nerfacc.PropNetEstimator().to(device)
    begin, end = proposals.sampling(
        [along.sigma_fn], [64], 64, n_rays=RAYS, near_plane=0.1, far_plane=2.5,
        sampling_type="uniform",
    )  # fmt: skip
    color, opacity, *_ = nerfacc.rendering(begin, end, rgb_sigma_fn=along.rgb_sigma_fn)
    torch.testing.assert_close(color, rendered.color, atol=3e-2, rtol=0)
