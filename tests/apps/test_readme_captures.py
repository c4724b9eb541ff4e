"""Every line of README's table of captures does what it says, on a small capture of that kind."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from polyfield.apps.formats.nerf_synthetic import write_nerf_synthetic
from polyfield.apps.main import main
from polyfield.apps.scene import load_scene

README = (Path(__file__).parents[2] / "README.md").read_text()
TABLE = README[README.index("| your capture |") : README.index("`SCENE` is a folder")]
ROWS = dict(re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|$", TABLE, re.M)[2:])
SHRINK = 5  # times, of the pictures of the room
FRAMES = 4  # of a film
MORE = {
    "train": "--steps 3 --no-report --device cpu",
    "render": f"--out film.webp --size 24x16 --frames {FRAMES} --device cpu",
    "eval": "--device cpu",
    "export": "--resolution 24 --level 0.5 --keep-unseen --device cpu",
    "splats": "--device cpu",
}


@pytest.fixture(scope="module")
def small_room(room):
    poses, pictures = room
    small = torch.nn.functional.avg_pool2d(pictures.permute(0, 3, 1, 2).float(), SHRINK)
    return poses, small.permute(0, 2, 3, 1).round().to(torch.uint8), 150.0 / SHRINK


class Capture:
    """Writes the room in a folder, as different tools would."""

    def __init__(self, folder, poses, pictures, focal):
        self.folder, self.poses, self.pictures, self.focal = folder, poses, pictures, focal
        _, self.height, self.width, _ = pictures.shape
        self.names = [f"{number:02}" for number in range(len(pictures))]

    def save(self, place, times=1):
        path = self.folder / place
        path.mkdir(parents=True)
        for name, picture in zip(self.names, self.pictures.numpy(), strict=True):
            large = picture.repeat(times, 0).repeat(times, 1)
            Image.fromarray(large).save(path / f"{name}.png")

    def nerfstudio(self, frame_of=lambda number: {}, **document):
        self.save("images")
        frames = []
        for number, (name, pose) in enumerate(zip(self.names, self.poses.numpy(), strict=True)):
            matrix = np.vstack([pose * [1, -1, -1, 1], [0, 0, 0, 1]])
            frame = {"file_path": f"images/{name}.png", "transform_matrix": matrix.tolist()}
            frames.append(frame | frame_of(number))
        lens = {"fl_x": self.focal, "fl_y": self.focal, "w": self.width, "h": self.height}
        (self.folder / "transforms.json").write_text(
            json.dumps(lens | document | {"frames": frames})
        )

    def nerf_synthetic(self):
        angle = float(2 * np.arctan(self.width / 2 / self.focal))
        opaque = torch.full((*self.pictures.shape[:3], 1), 255, dtype=torch.uint8)
        images = torch.cat([self.pictures, opaque], 3)
        views = list(zip(self.names, self.poses.float(), images, strict=True))
        write_nerf_synthetic(self.folder, {"train": views[2:], "test": views[:2]}, angle)

    def colmap(self):
        self.save("images", times=2)
        self.save("images_2")
        place = self.folder / "sparse" / "0"
        place.mkdir(parents=True)
        lens = [2 * self.width, 2 * self.height, 2 * self.focal, self.width, self.height]
        (place / "cameras.txt").write_text(f"1 SIMPLE_PINHOLE {' '.join(map(str, lens))}\n")
        lines = []
        for number, (name, pose) in enumerate(zip(self.names, self.poses.numpy(), strict=True)):
            turn = pose[:, :3].T
            w = np.sqrt(max(1e-9, 1 + np.trace(turn))) / 2
            off = np.array(
                [turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]]
            )
            numbers = [float(v) for v in (w, *(off / (4 * w)), *(-turn @ pose[:, 3]))]
            lines += [f"{number + 1} {' '.join(map(repr, numbers))} 1 {name}.png", ""]
        (place / "images.txt").write_text("\n".join(lines) + "\n")
        (place / "points3D.txt").write_text("")

    def llff(self):
        self.save("images")
        rows = []
        for pose in self.poses.numpy():
            right, down, forward, position = pose.T
            size = np.array([self.height, self.width, self.focal])
            matrix = np.stack([down, right, -forward, position, size], 1)
            rows.append([*matrix.ravel(), 0.5, 10.0])
        np.save(self.folder / "poses_bounds.npy", np.array(rows))

    def neus(self):
        self.save("image")
        (self.folder / "mask").mkdir()
        matrices = {}
        for number, (name, pose) in enumerate(zip(self.names, self.poses.numpy(), strict=True)):
            lens = np.array(
                [
                    [self.focal, 0, self.width / 2 - 0.5],
                    [0, self.focal, self.height / 2 - 0.5],
                    [0, 0, 1],
                ]
            )
            turn = pose[:, :3].T
            world = np.eye(4)
            world[:3] = lens @ np.column_stack([turn, -turn @ pose[:, 3]])
            scale = np.diag([2.0, 2.0, 2.0, 1.0])
            matrices |= {f"world_mat_{number}": world, f"scale_mat_{number}": scale}
            mask = np.zeros((self.height, self.width), np.uint8)
            mask[5:-5, 5:-5] = 255
            Image.fromarray(mask).save(self.folder / "mask" / f"{name}.png")
        np.savez(self.folder / "cameras_sphere.npz", **matrices)

    def with_depth(self):
        def frame(number):
            depth = np.full((self.height, self.width), 3000, np.uint16)
            Image.fromarray(depth).save(self.folder / f"{number}.depth.png")
            return {"depth_file_path": f"{number}.depth.png"}

        self.nerfstudio(frame)

    def with_masks(self):
        self.nerfstudio()
        (self.folder / "masks").mkdir()
        for name in self.names:
            mask = np.full((self.height, self.width), 255, np.uint8)
            mask[:10] = 0
            Image.fromarray(mask).save(self.folder / "masks" / f"{name}.png.png")

    def panoramas(self):
        self.width, self.height = 40, 20
        self.pictures = self.pictures[:, :20, :40]
        self.nerfstudio(camera_model="EQUIRECTANGULAR")

    def object(self):
        ball = torch.full_like(self.pictures, 20)
        ball[:, 10:20, 15:25] = self.pictures[:, 10:20, 15:25] // 2 + 120
        self.pictures = ball
        self.nerfstudio()


WRITERS = {
    "NeRF-synthetic": Capture.nerf_synthetic,
    "COLMAP, large photographs": Capture.colmap,
    "LLFF, facing forward": Capture.llff,
    "NeuS, IDR, DTU, with masks": Capture.neus,
    "an object before a plain backdrop": Capture.object,
    "panoramas": Capture.panoramas,
    "with depth images": Capture.with_depth,
    "with people or cars that passed": Capture.with_masks,
}
KINDS = {
    "NeRF-synthetic": "nerf-synthetic",
    "COLMAP, large photographs": "colmap",
    "LLFF, facing forward": "llff",
    "NeuS, IDR, DTU, with masks": "neus",
}


def test_the_table_has_a_line_for_every_kind():
    assert len(ROWS) >= 15 and WRITERS.keys() <= ROWS.keys()
    assert all("`polyfield " in row for row in ROWS.values())


@pytest.mark.parametrize("row", ROWS)
def test_the_line_works_as_it_stands(row, small_room, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "SCENE").mkdir()
    WRITERS.get(row, Capture.nerfstudio)(Capture(tmp_path / "SCENE", *small_room))
    assert load_scene(tmp_path / "SCENE").kind == KINDS.get(row, "transforms.json")
    commands = re.findall(r"`(polyfield [^`]+)`", ROWS[row])
    for command in commands:
        _, verb, *rest = shlex.split(command)
        kind = "splats" if "scene.spz" in rest else verb
        rest += shlex.split(MORE.get(kind, ""))
        if verb == "train":
            rest += ["--out", "RUN"]
        assert main([verb, *rest]) == 0, capsys.readouterr().err
    verbs = {command.split()[1] for command in commands}
    if "render" in verbs:
        assert Image.open("film.webp").n_frames == FRAMES
    if "train" in verbs:
        assert main(["eval", "RUN", "--device", "cpu", "--json", "eval.json"]) == 0
        assert 3 < json.loads(Path("eval.json").read_text())["psnr"] < 60
        assert main(["render", "RUN", "--views", "test", "--out", "views", "--device", "cpu"]) == 0
        assert len(list(Path("views").glob("*.png"))) >= 4
    for made in ("mesh.glb", "scene.spz", "page.html", "COPY/transforms.json"):
        if made.split("/")[0] in ROWS[row]:
            assert Path(made).stat().st_size > 500
