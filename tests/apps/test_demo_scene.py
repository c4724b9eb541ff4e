import math

import numpy as np
import pytest
import torch
from torch.nn.functional import max_pool2d, normalize

from polyfield.apps import demo_light, demo_scene
from polyfield.apps.demo_still_life import GROUND, still_life
from polyfield.cuda.errors import InputError

SIZE, VIEWS = 48, 15
SOLIDS = still_life()
GLOSSY = 1


@pytest.fixture(scope="module")
def scene():
    return demo_scene.demo_scene(seed=3, size=SIZE, views=VIEWS)


def focal(size):
    return 0.5 * size / math.tan(0.5 * demo_scene.ANGLE_X)


def project(pose, points, size):
    """Pixels and depths by the pinhole's definition, OpenCV axes."""
    x, y, z = ((points - pose[:, 3]) @ pose[:, :3]).unbind(1)
    return torch.stack([x / z, y / z], 1) * focal(size) + size / 2, z


def nearest_triangle(origin, directions, triangles):
    """Moeller and Trumbore's intersection: distance to the first triangle, inf for none."""
    a = triangles[:, 0]
    e1, e2 = triangles[:, 1] - a, triangles[:, 2] - a
    found = []
    for direction in directions:
        p = torch.linalg.cross(direction.expand_as(e2), e2)
        scale = 1 / (e1 * p).sum(1)
        from_a = origin - a
        u = (from_a * p).sum(1) * scale
        q = torch.linalg.cross(from_a, e1)
        v = (q @ direction) * scale
        t = (e2 * q).sum(1) * scale
        t[~((u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0))] = math.inf
        found.append(t.min())
    return torch.stack(found)


def test_depth_is_that_of_the_exact_mesh(scene):
    triangles = scene.vertices[scene.faces]
    random = np.random.default_rng(0)
    for view in (0, 9):
        rows, columns = random.integers(0, SIZE, (2, 60))
        pose = scene.camera_to_world[view].double()
        local = np.stack([(columns + 0.5 - SIZE / 2), (rows + 0.5 - SIZE / 2)], 1) / focal(SIZE)
        ray = torch.cat([torch.from_numpy(local), torch.ones(60, 1).double()], 1)
        # Unnormalised, with forward component 1: its parameter is the depth.
        expected = nearest_triangle(pose[:, 3], ray @ pose[:, :3].T, triangles)
        expected = torch.where(expected.isinf(), 0, expected)
        found = torch.from_numpy(scene.depth[view][rows, columns]).double()
        assert (expected > 0).sum() > 10
        close = (found - expected).abs() < 2e-3
        assert close.sum() >= 59  # one ray may pass between a chord and its arc
        assert (found - expected).abs()[close].max() < 2e-3


def test_first_hit_of_a_ball_is_the_quadratic_formula():
    ball = [SOLIDS[GLOSSY]]
    random = torch.Generator().manual_seed(0)
    origins = ball[0].position + 3 * normalize(torch.randn(4000, 3, generator=random), dim=1)
    aims = ball[0].position + 0.5 * torch.randn(4000, 3, generator=random)
    directions = normalize(aims - origins, dim=1)
    relative = (ball[0].position - origins).double()
    middle = (relative * directions).sum(1)
    inside = 0.4**2 - relative.square().sum(1) + middle**2
    expected = torch.where(inside > 0, middle - inside.clamp(min=0).sqrt(), math.inf)
    found, which = demo_light.first_hit(origins.float(), directions.float(), ball)
    clear = inside.abs() > 1e-4
    assert torch.equal(which[clear] == 0, inside[clear] > 0)
    torch.testing.assert_close(found[clear].double(), expected[clear], rtol=0, atol=2e-4)


def test_rays_end_on_the_surface_and_never_behind_one():
    poses = demo_scene.camera_poses(0, 15)
    pixels = 200 * torch.rand(15, 1500, 2, generator=torch.Generator().manual_seed(0))
    for pose, some in zip(poses[::4], pixels, strict=False):
        directions, _ = demo_scene.pixel_rays(pose.expand(len(some), 3, 4), some, 200)
        origins = pose[:, 3].expand_as(directions).contiguous()
        distance, which = demo_light.first_hit(origins, directions, SOLIDS)
        met = which >= 0
        ends = origins[met] + distance[met, None] * directions[met]
        gaps = torch.stack([solid.distance(ends.double()) for solid in SOLIDS], 1)
        assert gaps.gather(1, which[met, None]).abs().max() < 5e-6
        for part in torch.linspace(0.05, 0.999, 40):
            on_the_way = origins + (part * distance.clamp(max=8.0))[:, None] * directions
            assert min(solid.distance(on_the_way).min() for solid in SOLIDS) > -1e-5


def test_alpha_is_the_silhouette_of_the_mesh(scene):
    for view in range(VIEWS):
        pixels, depth = project(scene.camera_to_world[view].double(), scene.vertices, SIZE)
        assert depth.min() > 1
        column, row = pixels.floor().long().unbind(1)
        assert row.min() >= 0 and column.min() >= 0 and max(row.max(), column.max()) < SIZE
        alpha = torch.from_numpy(scene.images[view, :, :, 3])
        # A vertex just outside of all sample rays of its pixel has covered neighbours.
        grown = max_pool2d(alpha[None].float(), 3, 1, 1)[0]
        assert grown[row, column].min() > 0
        covered = torch.zeros(SIZE, SIZE)
        covered[row, column] = 1
        near = max_pool2d(covered[None], 3, 1, 1)[0]
        assert near[alpha > 0].min() == 1
        assert 0.05 < (alpha == 255).float().mean() < 0.9
        assert ((alpha > 0) & (alpha < 255)).any()


def test_a_pixel_with_an_edge_is_the_straight_alpha_mean_of_its_rays(monkeypatch):
    pose, n = demo_scene.camera_poses(0, 15)[6:7], 3
    image, depth = demo_scene.render_views(pose, SIZE, SOLIDS)
    monkeypatch.setattr(demo_scene, "SUPERSAMPLING", 1)
    fine, fine_depth = demo_scene.render_views(pose, n * SIZE, SOLIDS)
    fine = fine.reshape(SIZE, n, SIZE, n, 4).astype(float) / 255
    alpha = fine[..., 3].mean((1, 3))
    colour = (fine[..., :3] * fine[..., 3:]).sum((1, 3))
    colour /= np.maximum(fine[..., 3].sum((1, 3)), 1e-9)[..., None]
    found = image[0].astype(float) / 255
    assert np.abs(found[..., 3] - alpha).max() < 0.003
    solid = alpha > 0
    error = np.abs(found[..., :3] - colour)[solid].max(1)
    assert error[(alpha[solid] < 1)].max() < 0.005
    assert error.max() < 0.06 and np.median(error) < 0.004
    middle = fine_depth[0, 1::3, 1::3]
    assert np.array_equal(depth[0] > 0, middle > 0)
    assert np.abs(depth[0] - middle).max() < 1e-3


def test_nothing_is_transparent_black(scene):
    assert not scene.images[scene.images[..., 3] == 0].any()
    partly = (scene.images[..., 3] > 0) & (scene.images[..., 3] < 255)
    assert scene.images[partly][:, :3].max(1).min() > 30  # not darkened by the empty part


def test_poses_are_upright_rotations_outside_of_everything(scene):
    rotation = scene.camera_to_world[:, :, :3].double()
    eye = torch.eye(3).double().expand(VIEWS, 3, 3)
    torch.testing.assert_close(rotation @ rotation.mT, eye, rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(VIEWS).double())
    assert rotation[:, 2, 0].abs().max() < 1e-6  # the image's x axis is level
    assert rotation[:, 2, 1].max() < 0  # its y axis goes down
    assert scene.camera_to_world[:, :, 3].norm(dim=1).min() > 3
    assert scene.vertices.abs().max() < 1.5


def test_every_part_of_the_surface_is_seen_by_several_training_cameras():
    poses = demo_scene.camera_poses(0, 60)
    train = poses[demo_scene._splits(60)["train"]]
    for solid in SOLIDS:
        vertices, _ = solid.mesh()
        points = vertices[:: max(1, len(vertices) // 300)]
        points = (points + 2e-3 * solid.normal(points)).float()
        way = points - train[:, None, :, 3]
        length = way.norm(dim=2)
        origins = train[:, None, :, 3].expand_as(way).reshape(-1, 3)
        directions = (way / length[..., None]).view(-1, 3)
        distance, _ = demo_light.first_hit(origins, directions, SOLIDS)
        seen = (distance.view(length.shape) > length).sum(0)
        others = [other.distance(points) for other in SOLIDS if other is not solid]
        gap = torch.stack(others).amin(0)
        assert (seen[gap > 0.03] >= 2).all(), solid.name  # all but the closest to a contact
        assert (seen[gap > 0.1] >= 4).all(), solid.name
        assert (gap > 0.03).float().mean() > 0.7


def test_splits_cover_the_views_once_and_names_tell_them_apart(scene):
    assert {k: len(v) for k, v in demo_scene._splits(60).items()} == {
        "train": 48,
        "val": 4,
        "test": 8,
    }
    together = torch.cat(list(scene.splits.values()))
    assert torch.equal(together.sort().values, torch.arange(VIEWS))
    assert len(set(scene.names)) == VIEWS
    frames = scene.nerf_synthetic_splits()
    assert [len(frames[k]) for k in ("train", "val", "test")] == [12, 1, 2]
    for split, indices in scene.splits.items():
        for (name, pose, image), view in zip(frames[split], indices.tolist(), strict=True):
            assert name == scene.names[view]
            assert torch.equal(pose, scene.camera_to_world[view])
            assert np.array_equal(image, scene.images[view])


def test_the_seed_moves_the_cameras_and_repeats():
    assert torch.equal(demo_scene.camera_poses(5, 20), demo_scene.camera_poses(5, 20))
    assert not torch.allclose(demo_scene.camera_poses(5, 20), demo_scene.camera_poses(6, 20))


def test_sun_is_hidden_behind_a_ball_and_free_elsewhere():
    sun = normalize(torch.tensor(demo_light.SUN), dim=0)
    ball = SOLIDS[GLOSSY]
    behind = ball.position.float() - 0.6 * sun
    aside = behind + torch.tensor([-0.9, 0.0, 0.0])
    points = torch.stack([behind, aside])
    share = demo_light.sunlight(points, torch.ones(2), torch.tensor([0, 0]), [SOLIDS[0], ball])
    assert share[0] < 1e-6
    assert share[1] > 1 - 1e-6


def test_a_shadow_has_a_soft_edge_that_widens_with_distance():
    sun = normalize(torch.tensor(demo_light.SUN), dim=0)
    across = normalize(torch.linalg.cross(sun, torch.tensor([0.0, 0.0, 1.0])), dim=0)
    ball = SOLIDS[GLOSSY]
    at = torch.linspace(0, 1.0, 400)

    def width(fall):
        points = ball.position.float() - fall * sun + at[:, None] * across
        index = torch.zeros(len(at), dtype=torch.int64)
        share = demo_light.sunlight(points, torch.ones(len(at)), index, [SOLIDS[0], ball])
        assert (share.diff() > -1e-3).all() and share[0] < 1e-6 and share[-1] > 1 - 1e-6
        return ((share > 0.02) & (share < 0.98)).sum().item()

    assert 5 < width(0.5) < width(1.0)


def test_light_is_darker_where_a_solid_stands():
    near, far = torch.tensor([[0.42, -0.28, GROUND]]), torch.tensor([[-0.1, -0.2, GROUND]])
    up = torch.tensor([[0.0, 0.0, 1.0]])
    assert demo_light.openness(near, up, SOLIDS) < 0.6
    assert demo_light.openness(far, up, SOLIDS) > 0.8


def test_only_the_glossy_ball_changes_with_the_view():
    for number, solid in enumerate(SOLIDS):
        vertices = solid.mesh()[0].float()
        points = vertices[:: len(vertices) // 60]
        normal = solid.normal(points)
        which = torch.full((len(points),), number)
        tilted = normalize(normal + 0.8 * normalize(normal.roll(1, 1), dim=1), dim=1)
        one, other = (demo_light.shade(points, -way, which, SOLIDS) for way in (normal, tilted))
        assert ((one - other).abs().max() > 0.02) == (number == GLOSSY)


def test_vertex_colours_are_those_of_the_pictures(scene):
    """Seen head-on, a vertex of a matte solid has the colour of its pixel."""
    errors = []
    for view in range(VIEWS):
        pixels, depth = project(scene.camera_to_world[view].double(), scene.vertices, SIZE)
        column, row = pixels.floor().long().unbind(1)
        visible = (torch.from_numpy(scene.depth[view])[row, column] - depth).abs() < 0.01
        inner = torch.from_numpy(scene.images[view])[row, column]
        errors.append(
            (inner[:, :3].int() - torch.from_numpy(scene.vertex_colours).int())[visible].abs()
        )
    assert torch.cat(errors).float().median() < 8


def test_the_thread_count_is_given_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        demo_scene.demo_scene(size=8, views=15)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_unusable_sizes_are_refused():
    with pytest.raises(InputError, match="14 views"):
        demo_scene.demo_scene(views=14)
    with pytest.raises(InputError, match="4 x 4"):
        demo_scene.demo_scene(size=4)
