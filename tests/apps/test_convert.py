"""A scene written as a transforms.json is the same scene: the loaders' test, format by format."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from polyfield.apps.convert import Convert, convert
from polyfield.apps.formats.colmap_model import PARAMETERS
from polyfield.apps.formats.nerf_synthetic import write_nerf_synthetic
from polyfield.apps.formats.point_ply import Points, write_points
from polyfield.apps.main import main
from polyfield.apps.scene import load_scene

DATA = Path(os.environ.get("POLYFIELD_DATA", Path(__file__).parents[2] / "../shared/data"))
WIDTH, HEIGHT, COUNT = 24, 16, 10
BENDS = (0.011, -0.007, 0.004, -0.003, 0.006, 0.002, -0.005, 0.001, 0.003, -0.002, 0.004, 0.002)


def pose(index):
    """camera_to_world [3, 4] with OpenCV axes, whose camera looks at the origin."""
    angle, height = 0.7 * index, 0.3 * math.sin(index)
    way = torch.tensor([math.cos(angle), math.sin(angle), height], dtype=torch.float64)
    forward = -way / way.norm()
    right = torch.linalg.cross(forward, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
    right = right / right.norm()
    return torch.stack([right, torch.linalg.cross(forward, right), forward, 4 * way], 1)


def photograph(path, index, mode="RGB", size=(WIDTH, HEIGHT)):
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = len(mode) if mode != "I;16" else 1
    noise = np.random.default_rng(index).integers(0, 255, (size[1], size[0], channels))
    noise = noise.astype(np.uint16 if mode == "I;16" else np.uint8)
    Image.fromarray(noise[..., 0] if channels == 1 else noise).save(path)


def synthetic(folder, lists=("train", "val", "test")):
    noise = torch.randint(0, 255, (COUNT, HEIGHT, WIDTH, 4), dtype=torch.uint8)
    views = [(f"r_{i}", pose(i), noise[i]) for i in range(COUNT)]
    parts = {"train": views, "val": views[:2], "test": views[3:7]}
    write_nerf_synthetic(folder, {split: parts[split] for split in lists}, 0.7)


def synthetic_sharing_its_images(folder):
    """Frames of both splits are the same files, which one transforms.json must not name twice."""
    synthetic(folder, ("train", "test"))
    path = folder / "transforms_test.json"
    path.write_text(path.read_text().replace("./test/", "./train/"))


def transforms(folder, **values):
    """nerfstudio's, with everything that it can hold."""
    frames = []
    for index in range(COUNT):
        file, depth = f"images/cam{index % 2}/{index // 2}.png", f"depth/{index}.png"
        photograph(folder / file, index)
        flip = torch.tensor([1.0, -1.0, -1.0, 1.0])
        matrix = [*(pose(index) * flip).tolist(), [0, 0, 0, 1]]
        frames.append({"file_path": file, "transform_matrix": matrix, "fl_x": 20.0 + index})
        if index % 3:
            photograph(folder / depth, index, "I;16", (6, 4))
            frames[-1]["depth_file_path"] = depth
    color = torch.randint(0, 255, (50, 3), dtype=torch.uint8)
    write_points(folder / "cloud.ply", Points(torch.randn(50, 3).double(), color))
    files = [frame["file_path"] for frame in frames]
    lists = {"train_filenames": files[:6], "val_filenames": files[6:8], "test_filenames": files[8:]}
    lens = {"fl_y": 21.0, "cx": 12.5, "cy": 7.5, "w": WIDTH, "h": HEIGHT, "k1": 0.02, "p2": 1e-3}
    more = {
        "ply_file_path": "cloud.ply",
        "applied_transform": [[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0.5]],
        "applied_scale": 0.5,
        "depth_unit_scale_factor": 0.002,
    }
    (folder / "transforms.json").write_text(
        json.dumps({**lens, **more, **lists, **values, "frames": frames})
    )


def instant_ngp(folder):
    transforms(folder, is_fisheye=True, k4=0.001, aabb_scale=4, scale=0.4, offset=[0.5, 0.4, 0.6])


def panorama(folder, half_turn=(96.0, 96.0)):
    """The part of one that has so many pixels to half a turn, along and across the horizon."""
    lens = {"cx": 12.0, "cy": 8.0, "k1": 0.0, "p2": 0.0, "fl_y": half_turn[1]}
    transforms(folder, camera_model="EQUIRECTANGULAR", **lens)
    path = folder / "transforms.json"
    document = json.loads(path.read_text())
    for frame in document["frames"]:
        frame["fl_x"] = half_turn[0]
    path.write_text(json.dumps(document))


def colmap(model, name="{side}/{index:02}.png", place="images"):
    """A writer of a scene with this lens, its photographs in folders, of two sizes."""

    def make(folder):
        (folder / "sparse" / "0").mkdir(parents=True)
        lead = 3 if PARAMETERS[model] < 6 and model not in ("PINHOLE",) else 4
        lens = (20.0, 12.5, 7.5) if lead == 3 else (20.0, 21.0, 12.5, 7.5)
        parameters = " ".join(map(str, lens + BENDS[: PARAMETERS[model] - lead]))
        (folder / "sparse/0/cameras.txt").write_text(f"1 {model} {WIDTH} {HEIGHT} {parameters}\n")
        rows = []
        for index in range(COUNT):
            file = name.format(side="ab"[index % 2], index=index // 2)
            photograph(
                folder / place / file,
                index,
                size=((1 + index % 3) * WIDTH, (1 + index % 3) * HEIGHT),
            )
            half = 0.35 * index
            rows += [f"{index} {math.cos(half)} 0 {math.sin(half)} 0 0.1 0.2 4 1 {file}", ""]
        (folder / "sparse/0/images.txt").write_text("\n".join(rows) + "\n")
        points = [f"{i} {0.1 * i} {1 / (i + 1)} -3e-5 {i} 2 250 0.5" for i in range(9)]
        (folder / "sparse/0/points3D.txt").write_text("\n".join(points) + "\n")

    return make


def llff(folder):
    rows = []
    for index in range(COUNT):
        right, down, forward, position = pose(index).T.numpy()
        matrix = np.stack([down, right, -forward, position, [2 * HEIGHT, 2 * WIDTH, 41.7]], 1)
        rows.append([*matrix.ravel(), 1, 50])
        photograph(folder / "images_2" / f"IMG_{index}.png", index)
    np.save(folder / "poses_bounds.npy", np.array(rows))


SCENES = {
    "nerf-synthetic": synthetic,
    "nerf-synthetic without val": lambda f: synthetic(f, ("train", "test")),
    "nerf-synthetic without test": lambda f: synthetic(f, ("train", "val")),
    "nerf-synthetic, train only": lambda f: synthetic(f, ("train",)),
    "nerf-synthetic, images shared": synthetic_sharing_its_images,
    "nerfstudio": transforms,
    "nerfstudio, rational": lambda f: transforms(f, camera_model="FULL_OPENCV", k3=0.01, k5=0.02),
    "instant-ngp": instant_ngp,
    "part of a panorama": panorama,
    "panorama": lambda folder: panorama(folder, (12.0, 16.0)),
    "llff": llff,
    **{model: colmap(model) for model in PARAMETERS},
    "COLMAP, images beside it": colmap("OPENCV", place="."),
    "COLMAP, names of one camera": colmap("OPENCV", name="{side}{index}.png", place="input"),
}


def everywhere(scene):
    """A ray through 50 positions of every sensor, its border included."""
    n = len(scene.cameras)
    which = torch.arange(n).repeat_interleave(50)
    size = torch.stack([scene.cameras.width, scene.cameras.height], 1).double()
    random = torch.Generator().manual_seed(0)
    place = torch.rand(len(which), 2, generator=random, dtype=torch.float64)
    place[::50] = place[::50].round()
    return scene.cameras.rays(which, place * size[which])


def assert_same(again, scene):
    for new, old in zip(everywhere(again), everywhere(scene), strict=True):
        torch.testing.assert_close(new, old, rtol=1e-9, atol=1e-12)
    assert again.sizes == scene.sizes and again.frame_names == scene.frame_names
    assert {k: v.tolist() for k, v in again.splits.items()} == {
        k: v.tolist() for k, v in scene.splits.items()
    }
    assert (again.has_alpha, again.depth_unit) == (scene.has_alpha, scene.depth_unit)
    for name in ("points", "point_colors"):
        new, old = getattr(again, name), getattr(scene, name)
        assert (new is None) == (old is None) and (old is None or torch.equal(new, old))
    for new, old in zip(again.image_paths, scene.image_paths, strict=True):
        assert new.read_bytes() == old.read_bytes()
    nothing = (None,) * len(scene.image_paths)
    depths = zip(again.depth_paths or nothing, scene.depth_paths or nothing, strict=True)
    assert all((new and new.read_bytes()) == (old and old.read_bytes()) for new, old in depths)


@pytest.mark.parametrize("name", SCENES)
def test_what_is_written_loads_to_the_same_scene(tmp_path, name):
    SCENES[name](tmp_path / "scene")
    scene = load_scene(tmp_path / "scene")
    result = convert(Convert(tmp_path / "scene", tmp_path / "out"))
    again = load_scene(tmp_path / "out")
    assert again.kind == "transforms.json" and result.kind == scene.kind
    assert result.frames == len(again.image_paths)
    assert result.splits == {split: len(frames) for split, frames in scene.splits.items()}
    assert result.points == (0 if scene.points is None else len(scene.points))
    assert_same(again, scene)
    assert all(path.is_relative_to(tmp_path / "out" / "images") for path in again.image_paths)
    # And once more: what it writes is a scene like any other.
    convert(Convert(tmp_path / "out", tmp_path / "twice"))
    assert_same(load_scene(tmp_path / "twice"), scene)


@pytest.fixture
def made(tmp_path):
    transforms(tmp_path / "scene")
    return tmp_path / "scene"


def written(folder):
    return json.loads((folder / "transforms.json").read_text())


def test_sub_folders_stay_and_what_all_frames_share_stands_at_the_top(made, tmp_path):
    result = convert(Convert(made, tmp_path / "out"))
    document = written(tmp_path / "out")
    assert (result.camera_model, result.depths) == ("OPENCV", 6)
    assert document["camera_model"] == "OPENCV"
    assert (document["w"], document["h"], document["k1"]) == (WIDTH, HEIGHT, 0.02)
    assert "fl_x" not in document and document["frames"][3]["fl_x"] == 23.0
    assert "fl_y" not in document["frames"][3]
    assert document["frames"][3]["file_path"] == "images/cam1/1.png"
    assert document["frames"][4]["depth_file_path"] == "depths/cam0/2.png"
    assert document["ply_file_path"] == "sparse_pc.ply"
    for key in ("applied_transform", "applied_scale", "depth_unit_scale_factor"):
        assert document[key] == written(made)[key]


def test_masks_that_stay_behind_are_said(made, tmp_path):
    assert not any("mask" in note for note in convert(Convert(made, tmp_path / "a")).notes)
    photograph(made / "masks" / "cam1" / "1.png", 0)
    notes = convert(Convert(made, tmp_path / "b")).notes
    assert "warning: the masks of 1 photographs are not carried over" in notes


def test_axes_are_opengl_s(made, tmp_path):
    convert(Convert(made, tmp_path / "out"))
    for new, old in zip(written(tmp_path / "out")["frames"], written(made)["frames"], strict=True):
        np.testing.assert_allclose(new["transform_matrix"], old["transform_matrix"], atol=1e-12)


def test_frames_of_nerf_synthetic_lie_in_folders_of_their_splits(tmp_path):
    synthetic(tmp_path / "scene")
    convert(Convert(tmp_path / "scene", tmp_path / "out"))
    document = written(tmp_path / "out")
    assert document["train_filenames"][3] == "images/train/r_3.png"
    assert document["val_filenames"] == ["images/val/r_0.png", "images/val/r_1.png"]
    assert document["test_filenames"][0] == "images/test/r_3.png"
    assert Image.open(tmp_path / "out" / "images" / "val" / "r_1.png").mode == "RGBA"


@pytest.mark.parametrize("name", ["instant-ngp", "the usual box"])
def test_a_box_that_the_format_means_is_kept(tmp_path, name):
    if name == "instant-ngp":
        instant_ngp(tmp_path / "scene")
    else:
        noise = torch.randint(0, 255, (16, 16, 4), dtype=torch.uint8)
        views = [(f"r_{i}", pose(i), noise) for i in range(COUNT)]
        write_nerf_synthetic(tmp_path / "scene", {"train": views, "test": views}, 0.7)
    convert(Convert(tmp_path / "scene", tmp_path / "out"))
    scene, again = load_scene(tmp_path / "scene"), load_scene(tmp_path / "out")
    assert any("aabb_scale" in note for note in again.notes)
    assert again.grid_levels == scene.grid_levels
    corner = torch.tensor([[0.3, 0.4, -0.2]], dtype=torch.float64)
    torch.testing.assert_close(again.to_field.apply(corner), scene.to_field.apply(corner))


def test_a_chosen_folder_of_photographs_is_what_is_written(made, tmp_path):
    for path in (made / "images").rglob("*.png"):
        target = made / "images_2" / path.relative_to(made / "images").with_suffix(".jpg")
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).resize((WIDTH // 2, HEIGHT // 2)).save(target)
    convert(Convert(made, tmp_path / "out", images="images_2"))
    assert written(tmp_path / "out")["frames"][3]["file_path"] == "images/cam1/1.jpg"
    assert_same(load_scene(tmp_path / "out"), load_scene(made, "images_2"))


def test_depths_of_images_that_differ_by_their_suffix_do_not_clash(made, tmp_path):
    path = made / "transforms.json"
    document = json.loads(path.read_text())
    for index, name in enumerate(("a.jpg", "a.png")):
        photograph(made / "images" / name, index)
        document["frames"][1 + index]["file_path"] = f"images/{name}"
    lists = {key: None for key in document if key.endswith("_filenames")}
    path.write_text(json.dumps(document | lists))
    convert(Convert(made, tmp_path / "out"))
    assert_same(load_scene(tmp_path / "out"), load_scene(made))


def test_the_command_says_what_it_wrote_and_what_comes_next(made, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["convert", str(made), "--out", str(out), "--json", str(tmp_path / "j")]) == 0
    text = capsys.readouterr().out
    for part in (f"wrote {out} from transforms.json", "10 views (6 to train", "50 points"):
        assert part in text
    assert f"next: polyfield train {out}" in text
    result = json.loads((tmp_path / "j").read_text())
    assert result["splits"] == {"train": 6, "val": 2, "test": 2} and result["points"] == 50
    for arguments in ([str(made)], [str(tmp_path / "none"), "--out", str(tmp_path / "b")]):
        assert main(["convert", *arguments]) == 2
    assert main(["convert", str(made), "--out", str(out)]) == 2
    assert "is not empty" in capsys.readouterr().err and not (tmp_path / "b").exists()


@pytest.mark.parametrize("name", ["colmap_can", "llff_fern", "fox_270", "nerf_lego_200"])
def test_real_captures_are_the_same_after(tmp_path, name):
    if not (DATA / name).is_dir():
        pytest.skip(f"no {name} among the real scenes ($POLYFIELD_DATA)")
    convert(Convert(DATA / name, tmp_path / "out"))
    assert_same(load_scene(tmp_path / "out"), load_scene(DATA / name))
