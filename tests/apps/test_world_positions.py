"""A known object, put into every format: what is rendered of it lies where it stood in the world.

The still life of the demo gives exact distances. Its world is turned, scaled and shifted before its
cameras are written, by this file, in each format's own words; a field that is dense exactly within
the solids, in whatever unit cube the loader chose, is rendered; and depths are taken back into the
world by the formulas of the format, not by the engine's cameras.
"""

import json
import math
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from polyfield.apps.demo_scene import ANGLE_X, camera_poses, looking_at
from polyfield.apps.demo_still_life import still_life
from polyfield.apps.formats.cameras_json import write_cameras
from polyfield.apps.formats.nerf_synthetic import write_nerf_synthetic
from polyfield.apps.render import Render, render
from polyfield.apps.scene import load_scene
from polyfield.apps.settings import settings_of
from polyfield.apps.trained import Trained
from polyfield.fields.similarity import Similarity
from polyfield.render.cameras import Cameras
from polyfield.render.occupancy import full_grid

SIZE, VIEWS = 40, 9  # the first and the last are held out where every eighth is
FOCAL = 0.5 * SIZE / math.tan(0.5 * ANGLE_X)
TURN = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(3)).double())[0]
WORLD = Similarity(
    0.7, TURN * torch.linalg.det(TURN), torch.tensor([0.8, -0.5, 0.3], dtype=torch.float64)
)
AS_IT_IS = Similarity.identity()


class Solids(torch.nn.Module):
    """Dense within the solids of the still life; in the unit cube that a similarity leads to."""

    learning_rate, costly, cones, codes, warp = 0.01, False, False, None, None

    def __init__(self, to_life):
        super().__init__()
        self.to_life, self.solids = to_life, still_life()

    def density(self, x):
        points = self.to_life.apply(x)
        distance = torch.stack([solid.distance(points) for solid in self.solids]).amin(0)
        return 4000 * torch.sigmoid(-600 * distance), points

    def encode_directions(self, directions, codes=None):
        return directions

    def color(self, features, harmonics):
        return torch.full_like(features, 0.5)


def poses(forward_facing=False):
    """OpenCV axes, in the still life's own frame."""
    if not forward_facing:
        return camera_poses(1, VIEWS).double()
    x = torch.linspace(-0.8, 0.8, VIEWS).double()
    position = torch.stack([x, torch.full_like(x, -3.6), 0.9 + 0.2 * x.cos()], 1)
    return looking_at(position, torch.tensor([0.0, 0.0, -0.3]).double())


def photograph(number):
    """Of a grey card, not quite the same in each: what it shows does not matter."""
    return torch.full((SIZE, SIZE, 4), 100 + number, dtype=torch.uint8)


def save_photographs(folder, alpha=False):
    folder.mkdir(parents=True)
    for number in range(VIEWS):
        pixels = photograph(number).numpy()
        pixels[: SIZE // 2, :, :3] //= 2  # no backdrop of one colour
        Image.fromarray(pixels[:, :, : 4 if alpha else 3]).save(folder / f"{number:02}.png")


# Each writes poses (OpenCV axes, in its world) and returns how it takes a pixel (x, y) of view n
# and a distance along its ray into that world.


def opengl(matrix, x, y, distance):
    """A camera-to-world matrix of NeRF's, through pixel coordinates from the upper left corner."""
    right, up, back = (x - SIZE / 2) / FOCAL, -(y - SIZE / 2) / FOCAL, -1.0
    ray = np.array([right, up, back]) / math.sqrt(right**2 + up**2 + 1)
    return np.asarray(matrix)[:3, :3] @ (distance * ray) + np.asarray(matrix)[:3, 3]


def as_nerf_synthetic(folder, cameras):
    views = [(f"{n:02}", pose, photograph(n)) for n, pose in enumerate(cameras)]
    write_nerf_synthetic(folder, {"train": views[1:], "test": views[:1]}, ANGLE_X)
    frame = json.loads((folder / "transforms_test.json").read_text())["frames"][0]
    return lambda name, x, y, t: opengl(frame["transform_matrix"], x, y, t)


def as_transforms_json(folder, cameras):
    save_photographs(folder / "images")
    paths = [folder / "images" / f"{n:02}.png" for n in range(VIEWS)]
    size = torch.full((VIEWS,), SIZE)
    lenses = [torch.full((VIEWS, 2), FOCAL), torch.full((VIEWS, 2), SIZE / 2)]
    made = Cameras(
        cameras, *[lens.double() for lens in lenses], torch.zeros(VIEWS, 4).double(), size, size
    )
    splits = {"train": torch.arange(1, VIEWS), "test": torch.arange(1)}
    write_cameras(folder / "transforms.json", made, paths, splits)
    frames = json.loads((folder / "transforms.json").read_text())["frames"]
    matrix = {frame["file_path"][-6:-4]: frame["transform_matrix"] for frame in frames}
    return lambda name, x, y, t: opengl(matrix[name], x, y, t)


def quaternion(rotation):
    """(w, x, y, z) of a rotation matrix that is less than half a turn."""
    w = math.sqrt(max(1e-12, 1 + np.trace(rotation))) / 2
    a, b, c = (
        rotation[2, 1] - rotation[1, 2],
        rotation[0, 2] - rotation[2, 0],
        rotation[1, 0] - rotation[0, 1],
    )
    return w, a / (4 * w), b / (4 * w), c / (4 * w)


def in_colmap(model):
    """COLMAP's inverse of x' = R(q) x + t, with the principal point in the image's middle."""

    def to_world(name, x, y, distance):
        (w, a, b, c), shift = model[name]
        turn = np.array(
            [
                [1 - 2 * (b * b + c * c), 2 * (a * b - w * c), 2 * (a * c + w * b)],
                [2 * (a * b + w * c), 1 - 2 * (a * a + c * c), 2 * (b * c - w * a)],
                [2 * (a * c - w * b), 2 * (b * c + w * a), 1 - 2 * (a * a + b * b)],
            ]
        )
        ray = np.array([(x - SIZE / 2) / FOCAL, (y - SIZE / 2) / FOCAL, 1.0])
        return turn.T @ (distance * ray / np.linalg.norm(ray) - np.array(shift))

    return to_world


def colmap_model(cameras):
    model = {}
    for number, pose in enumerate(cameras.numpy()):
        turn = pose[:, :3].T
        model[f"{number:02}"] = quaternion(turn), (-turn @ pose[:, 3]).tolist()
    return model


def as_colmap_text(folder, cameras):
    save_photographs(folder / "images")
    model, place = colmap_model(cameras), folder / "sparse" / "0"
    place.mkdir(parents=True)
    half = SIZE / 2
    (place / "cameras.txt").write_text(
        f"1 PINHOLE {SIZE} {SIZE} {FOCAL!r} {FOCAL!r} {half} {half}\n"
    )
    lines = []
    for number, (name, (turn, shift)) in enumerate(model.items()):
        lines += [
            " ".join(map(repr, (number + 1, *map(float, turn), *map(float, shift), 1)))
            + f" {name}.png",
            "",
        ]
    (place / "images.txt").write_text("\n".join(lines) + "\n")
    (place / "points3D.txt").write_text("")
    return in_colmap(model)


def as_colmap_binary(folder, cameras):
    save_photographs(folder / "images")
    model, place = colmap_model(cameras), folder / "sparse" / "0"
    place.mkdir(parents=True)
    head = struct.pack("<QiiQQ", 1, 1, 1, SIZE, SIZE)
    (place / "cameras.bin").write_bytes(head + struct.pack("<4d", FOCAL, FOCAL, SIZE / 2, SIZE / 2))
    rows = [struct.pack("<Q", VIEWS)]
    for number, (name, (turn, shift)) in enumerate(model.items()):
        rows.append(struct.pack("<i7di", number + 1, *turn, *shift, 1))
        rows.append(f"{name}.png".encode() + b"\0" + struct.pack("<Q", 0))
    (place / "images.bin").write_bytes(b"".join(rows))
    (place / "points3D.bin").write_bytes(struct.pack("<Q", 0))
    return in_colmap(model)


def as_llff(folder, cameras):
    save_photographs(folder / "images")
    matrices, rows = {}, []
    for number, pose in enumerate(cameras.numpy()):
        right, down, forward, position = pose.T
        matrix = np.stack([down, right, -forward, position, np.array([SIZE, SIZE, FOCAL])], 1)
        matrices[f"{number:02}"] = matrix
        rows.append([*matrix.ravel(), 1.0, 10.0])
    np.save(folder / "poses_bounds.npy", np.array(rows))

    def to_world(name, x, y, distance):
        down, right, back, position, (height, width, focal) = matrices[name].T
        across, below = (x - width / 2) / focal, (y - height / 2) / focal
        ray = across * right + below * down - back
        return position + distance * ray / np.linalg.norm(ray)

    return to_world


FORMATS = [
    ("nerf-synthetic", as_nerf_synthetic, AS_IT_IS, False),  # its box is where it is
    ("transforms.json", as_transforms_json, WORLD, False),
    ("colmap", as_colmap_text, WORLD, False),
    ("colmap", as_colmap_binary, WORLD, False),
    ("llff", as_llff, WORLD, True),
]


@pytest.fixture
def exact(monkeypatch):
    """Makes `render` find, for a scene's folder, a run whose field is the still life itself."""

    def run_of(folder, world):
        found = load_scene(folder)
        to_life = world.inverse().compose(found.to_field.inverse())
        settings = settings_of(found, "hash-grid", {}, 0, 1024, 1 << 20)
        # Short steps: a depth is no more exact than they are.
        sampling = settings.sampling
        sampling = replace(sampling, step=sampling.step / 3, cone=sampling.cone / 3)
        settings = replace(settings, sampling=sampling)
        grid = full_grid(found.grid_levels, 64, torch.device("cpu"))
        run = Trained(settings, Solids(to_life), grid, found.to_field)
        monkeypatch.setattr("polyfield.apps.render.load_shown", lambda path, device: run)
        return found

    return run_of


def off_the_surface(points, world):
    """How far points of the world lie from the nearest solid, in the still life's unit."""
    own = world.inverse().apply(torch.from_numpy(np.array(points)))
    return torch.stack([solid.distance(own) for solid in still_life()]).amin(0).abs()


@pytest.mark.parametrize(
    "kind, write, world, forward", FORMATS, ids=lambda v: getattr(v, "__name__", "")
)
def test_rendered_depth_lies_on_the_object_in_the_world_of_the_input(
    tmp_path, exact, kind, write, world, forward
):
    folder = tmp_path / "scene"
    folder.mkdir()
    to_world = write(folder, world.apply_to_cameras(poses(forward)))
    assert exact(folder, world).kind == kind
    out = tmp_path / "out"
    (tmp_path / "run").mkdir()
    render(Render(tmp_path / "run", "test", out, device="cpu"))
    names = sorted(path.name[:-10] for path in out.glob("*.depth.png"))
    assert "00" in names
    for name in names:
        depth = np.asarray(Image.open(out / f"{name}.depth.png")) / 1000
        rows, columns = np.nonzero(depth)
        assert len(rows) > 0.15 * SIZE**2
        points = [
            to_world(name, x + 0.5, y + 0.5, depth[y, x])
            for y, x in zip(rows, columns, strict=True)
        ]
        off = off_the_surface(points, world)
        # Where a pixel grazes a solid its light comes from more than one depth.
        assert float(off.median()) < 0.01 and float((off < 0.04).double().mean()) > 0.9


def test_a_camera_path_is_in_the_world_of_the_input_too(tmp_path, exact):
    folder = tmp_path / "scene"
    folder.mkdir()
    cameras = WORLD.apply_to_cameras(poses())
    as_colmap_text(folder, cameras)
    exact(folder, WORLD)
    matrix = (cameras[2] * torch.tensor([1.0, -1.0, -1.0, 1.0])).tolist() + [[0, 0, 0, 1]]
    frame = {"camera_to_world": sum(matrix, []), "fov": math.degrees(ANGLE_X), "aspect": 1}
    document = {"render_width": SIZE, "render_height": SIZE, "camera_path": [frame]}
    (tmp_path / "path.json").write_text(json.dumps(document))
    (tmp_path / "run").mkdir()
    render(Render(tmp_path / "run", str(tmp_path / "path.json"), tmp_path / "out", device="cpu"))
    depth = np.asarray(Image.open(tmp_path / "out" / "frame_00000.depth.png")) / 1000
    rows, columns = np.nonzero(depth)
    points = [
        opengl(matrix, x + 0.5, y + 0.5, depth[y, x]) for y, x in zip(rows, columns, strict=True)
    ]
    off = off_the_surface(points, WORLD)
    assert len(points) > 0.15 * SIZE**2
    assert float(off.median()) < 0.01 and float((off < 0.04).double().mean()) > 0.9
