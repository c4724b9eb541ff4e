"""A scene small enough to be trained on in seconds."""

import json

import pytest
import torch
from PIL import Image

from polyfield.apps.formats.nerf_synthetic import write_nerf_synthetic

SIZE, RADIUS, DISTANCE, ANGLE = 40, 0.8, 4.0, 0.7


def poses(count):
    """Cameras all around the origin, OpenCV axes."""
    z = torch.linspace(-0.8, 0.8, count)
    turn = torch.arange(count) * 2.4
    way = torch.stack([(1 - z * z).sqrt() * turn.cos(), (1 - z * z).sqrt() * turn.sin(), z], 1)
    forward = -way
    right = torch.nn.functional.normalize(
        torch.linalg.cross(forward, torch.tensor([0.0, 0, 1]).expand(count, 3)), dim=1
    )
    down = torch.linalg.cross(forward, right)
    return torch.stack([right, down, forward, DISTANCE * way], 2)


def ball(pose):
    """The exact image of a ball coloured by its normal: RGBA, 4 x 4 rays a pixel."""
    fine = SIZE * 4
    focal = 0.5 * fine / torch.tan(torch.tensor(ANGLE / 2))
    ticks = (torch.arange(fine) + 0.5 - fine / 2) / focal
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    rays = torch.stack([x, y, torch.ones_like(x)], 2) @ pose[:, :3].T
    rays = torch.nn.functional.normalize(rays, dim=2)
    along = rays @ pose[:, 3]
    root = along**2 - DISTANCE**2 + RADIUS**2
    hit = root > 0
    points = pose[:, 3] + (-along - root.clamp_min(0).sqrt())[..., None] * rays
    color = (0.5 + 0.4 * points / RADIUS) * hit[..., None]
    both = torch.cat([color, hit[..., None].float()], 2)
    both = both.reshape(SIZE, 4, SIZE, 4, 4).mean((1, 3))
    straight = both[..., :3] / both[..., 3:].clamp_min(1e-6)
    return (torch.cat([straight, both[..., 3:]], 2).clamp(0, 1) * 255).round().to(torch.uint8)


@pytest.fixture(scope="session")
def ball_scene(tmp_path_factory):
    """Writes the scene of one lit ball, its pictures changed: (number, pose, image) -> image.

    again: numbers of views that are taken from where another one was.
    """

    def write(change, again=()):
        folder = tmp_path_factory.mktemp("scenes") / "ball"
        taken = poses(24)
        for number, other in dict(again).items():
            taken[number] = taken[other]
        made = [(f"r_{i}", pose, change(i, pose, ball(pose))) for i, pose in enumerate(taken)]
        splits = {"train": made[2:], "val": made[:1], "test": made[1:2]}
        write_nerf_synthetic(folder, splits, ANGLE)
        return folder

    return write


@pytest.fixture(scope="session")
def scene(ball_scene):
    """A scene of one lit ball around the origin in 22 views to train, 1 to val and 1 to test."""
    return ball_scene(lambda number, pose, image: image)


class AnalyticBall(torch.nn.Module):
    """The ball of `scene`, dense and of its colours, in the unit cube of a similarity."""

    learning_rate, costly, cones, codes, warp = 0.01, False, False, None, None

    def __init__(self, to_field):
        super().__init__()
        self.to_user = to_field.inverse()

    def density(self, x):
        points = self.to_user.apply(x)
        return 2000 * torch.sigmoid(500 * (RADIUS - points.norm(dim=1))), points

    def encode_directions(self, directions, codes=None):
        return directions

    def color(self, features, harmonics):
        return (0.5 + 0.4 * features / RADIUS).clamp(0, 1)


@pytest.fixture
def analytic_ball():
    """The exact field of `scene`: a class, of the similarity into the unit cube."""
    return AnalyticBall


@pytest.fixture
def ball_run(scene, monkeypatch, tmp_path):
    """A run of `scene` whose field is exact: what the commands load, whatever run they are given.

    Its folder; `render` and `eval` find it there.
    """
    from polyfield.apps.scene import load_scene
    from polyfield.apps.settings import settings_of
    from polyfield.apps.trained import Trained
    from polyfield.render.occupancy import full_grid

    found = load_scene(scene)
    settings = settings_of(found, "hash-grid", {}, 0, 1024, 1 << 20)
    grid = full_grid(found.grid_levels, 64, torch.device("cpu"))
    run = Trained(settings, AnalyticBall(found.to_field), grid, found.to_field)
    for verb in ("render", "eval"):
        monkeypatch.setattr(f"polyfield.apps.{verb}.load_shown", lambda path, device: run)
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


ROOM_SIZE, ROOM_VIEWS, ROOM_FOCAL = (200, 150), 14, 150.0


def room_poses(count):
    """Cameras on an arc, which look at the corner of a room; OpenCV axes, z is up."""
    turn = torch.linspace(-0.7, 0.7, count).double()
    height = 1.0 + 0.35 * (5 * turn).sin()
    position = torch.stack([3 * turn.sin(), -3 * turn.cos(), height], 1)
    forward = torch.tensor([0.0, 0.6, 0.5]).double() - position
    forward = torch.nn.functional.normalize(forward, dim=1)
    up = torch.tensor([0.0, 0, 1]).double().expand(count, 3)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up), dim=1)
    return torch.stack([right, torch.linalg.cross(forward, right), forward, position], 2)


def room_view(pose):
    """The exact picture of a floor and a wall with papers of noise, with 3 x 3 rays a pixel."""
    width, height = ROOM_SIZE
    random = torch.Generator().manual_seed(5)
    papers = torch.nn.functional.interpolate(
        torch.rand(2, 3, 150, 150, generator=random), 600, mode="nearest"
    ).double()
    x = ((torch.arange(3 * width) + 0.5) / 3 - width / 2).double() / ROOM_FOCAL
    y = ((torch.arange(3 * height) + 0.5) / 3 - height / 2).double() / ROOM_FOCAL
    y, x = torch.meshgrid(y, x, indexing="ij")
    rays = torch.stack([x, y, torch.ones_like(x)], 2) @ pose[:, :3].T
    to_floor = -pose[2, 3] / rays[..., 2]
    to_wall = (2 - pose[1, 3]) / rays[..., 1]
    floor = (to_floor > 0) & ((to_floor < to_wall) | (to_wall <= 0))
    at = pose[:, 3] + torch.where(floor, to_floor, to_wall)[..., None] * rays
    place = torch.where(floor[..., None], at[..., :2], at[..., ::2]) / 6
    both = torch.nn.functional.grid_sample(papers, place.expand(2, -1, -1, 2), align_corners=False)
    colour = torch.where(floor, both[0], both[1])
    colour = torch.nn.functional.avg_pool2d(colour, 3).permute(1, 2, 0)
    return (255 * (0.1 + 0.8 * colour)).round().to(torch.uint8)


@pytest.fixture(scope="session")
def room():
    """(poses, pictures) of a room photographed without masks: what a phone would take."""
    places = room_poses(ROOM_VIEWS)
    return places, torch.stack([room_view(pose) for pose in places])


@pytest.fixture
def write_room(room, tmp_path):
    """Writes the room as a transforms.json with `stored` (matrices [n, 4, 4]) for its poses."""

    def write(change=lambda matrices: matrices, pictures=None):
        poses, images = room
        images = images.clone() if pictures is None else pictures(images.clone())
        bottom = torch.tensor([0.0, 0, 0, 1]).double().expand(len(poses), 1, 4)
        opengl = torch.diag(torch.tensor([1.0, -1, -1, 1]).double())
        matrices = change(torch.cat([poses, bottom], 1) @ opengl)
        frames = []
        for i, image in enumerate(images):
            name = f"room_{i:02}.png"
            Image.fromarray(image.numpy()).save(tmp_path / name)
            frames.append({"file_path": name, "transform_matrix": matrices[i].tolist()})
        width, height = ROOM_SIZE
        document = {"fl_x": ROOM_FOCAL, "fl_y": ROOM_FOCAL, "w": width, "h": height}
        (tmp_path / "transforms.json").write_text(json.dumps(document | {"frames": frames}))
        return tmp_path

    return write


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    """The folder of a whole run of least squares."""
    from least_squares import SCHEDULE, LeastSquares, train

    path = tmp_path_factory.mktemp("runs") / "whole"
    train(path, LeastSquares(), SCHEDULE)
    return path
