import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from polyfield.apps.formats.nerf_synthetic import write_nerf_synthetic
from polyfield.apps.images import ImageStore
from polyfield.apps.scene import load_scene
from polyfield.apps.settings import pixel_size
from polyfield.cuda.errors import InputError

DATA = Path(os.environ.get("POLYFIELD_DATA", Path(__file__).parents[2] / "../shared/data"))
SIZE, ANGLE = 32, 0.69


def camera(angle, height, distance, target):
    """camera_to_world [3, 4] with OpenCV axes, which looks at the target; z is up."""
    offset = torch.tensor([math.cos(angle), math.sin(angle), height], dtype=torch.float64)
    forward = -offset / offset.norm()
    right = torch.linalg.cross(forward, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
    right = right / right.norm()
    position = torch.tensor(target, dtype=torch.float64) - distance * forward
    return torch.stack([right, torch.linalg.cross(forward, right), forward, position], 1)


def write_disc(folder, target=(0.0, 0.0, 0.0), distance=4.0, alpha=True, border=(0, 0, 0)):
    """Views of a ball that fills a third of the picture, on alpha or on a plain border."""
    steps = torch.arange(SIZE) + 0.5 - SIZE / 2
    disc = (steps[:, None] ** 2 + steps[None] ** 2).sqrt() < SIZE / 6
    image = torch.zeros(SIZE, SIZE, 4, dtype=torch.uint8)
    image[..., :3] = torch.tensor(border)
    image[..., 3] = 0 if alpha else 255
    image[disc] = torch.tensor([200, 100, 50, 255], dtype=torch.uint8)
    frames = [
        (f"r_{i}", camera(2.4 * i, (i % 5 - 2) / 2, distance, target), image) for i in range(20)
    ]
    write_nerf_synthetic(folder, {"train": frames, "test": frames[:3]}, ANGLE)
    return folder


def ball_in_field(scene, target, distance):
    """Centre and radius of the ball of `write_disc` in the field's frame."""
    radius = distance * math.tan(0.5 * ANGLE) / 3 * scene.to_field.scale
    return scene.to_field.apply(torch.tensor(target, dtype=torch.float64)), radius


def test_the_usual_synthetic_scene_has_the_usual_box(tmp_path):
    scene = load_scene(write_disc(tmp_path))
    assert scene.to_field.scale == pytest.approx(1 / 3) and scene.grid_levels == 1
    assert scene.backdrop is None


@pytest.mark.parametrize(("alpha", "backdrop"), [(True, None), (False, (9, 0, 70))])
def test_an_object_elsewhere_is_found_by_its_outline(tmp_path, alpha, backdrop):
    target, distance = (12.8, 13.2, 5.7), 9.0
    scene = load_scene(write_disc(tmp_path, target, distance, alpha, (9, 0, 70)))
    center, radius = ball_in_field(scene, target, distance)
    assert scene.backdrop == backdrop
    assert (center - 0.5).abs().max() < 0.06
    assert 0.25 < radius < 0.5 - 0.04
    assert scene.has_alpha


def test_photographs_without_a_box_get_nested_cubes_with_all_cameras_inside(tmp_path):
    write_disc(tmp_path)
    document = json.loads((tmp_path / "transforms_train.json").read_text())
    noise = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
    for frame in document["frames"]:
        Image.fromarray(noise).save(tmp_path / f"{frame['file_path']}.png")
    (tmp_path / "transforms_train.json").unlink()
    (tmp_path / "transforms.json").write_text(json.dumps(document))
    scene = load_scene(tmp_path)
    positions = scene.cameras.transformed(scene.to_field).camera_to_world[..., 3]
    assert scene.grid_levels == 4 and scene.backdrop is None
    assert ((positions > 0) & (positions < 1)).all()


def test_cameras_of_the_input_are_float64_and_of_the_field_float32(tmp_path):
    scene = load_scene(write_disc(tmp_path))
    assert scene.cameras.camera_to_world.dtype == torch.float64
    assert scene.cameras.transformed(scene.to_field).camera_to_world.dtype == torch.float32


def test_photographs_without_poses_are_told_the_next_step(tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "images" / "a.jpg")
    for folder in (tmp_path, tmp_path / "images"):
        with pytest.raises(InputError, match=r"without poses.*ns-process-data.*COLMAP"):
            load_scene(folder)


@pytest.mark.parametrize("file", ["sparse/0/cameras.bin", "colmap/sparse/0/cameras.txt"])
def test_half_a_model_is_named(tmp_path, file):
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).touch()
    with pytest.raises(InputError, match="sparse: a COLMAP model without cameras or images"):
        load_scene(tmp_path)


@pytest.mark.parametrize("name", ["none", "x" * 5000, "file.json", "empty", "loop"])
def test_what_is_no_scene_is_refused(tmp_path, name):
    (tmp_path / "file.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(InputError):
        load_scene(tmp_path / name)


def test_a_relative_folder_has_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(write_disc(tmp_path))
    assert load_scene(Path(".")).name == tmp_path.name


def real(name):
    if not (DATA / name).is_dir():
        pytest.skip(f"{name} is not beside the repository; POLYFIELD_DATA can name its folder")
    return load_scene(DATA / name)


@pytest.mark.parametrize("name", ["nerf_lego_200", "nerf_chair_200", "nerf_lego_400"])
def test_real_synthetic_scenes(name):
    scene = real(name)
    assert {split: len(frames) for split, frames in scene.splits.items()} == {
        "train": 100,
        "val": 10,
        "test": 25,
    }
    assert scene.frame_names[scene.splits["test"][1]] == "r_8"
    assert scene.to_field.scale == pytest.approx(1 / 3) and scene.has_alpha


def test_real_synthetic_masks_agree_with_the_cameras():
    """Every pixel with alpha 255 sees the box; and alpha's middle is near the origin's pixel."""
    scene = real("nerf_chair_200")
    store = ImageStore(scene.image_paths, scene.sizes, 4, 1 << 30)
    origin, _ = scene.cameras.project(torch.arange(100), torch.zeros(100, 3).double())
    for frame in range(0, 100, 10):
        rows, columns = (store.image(frame)[..., 3] > 127).nonzero(as_tuple=True)
        middle = torch.tensor([columns.double().mean() + 0.5, rows.double().mean() + 0.5])
        assert (middle - origin[frame]).norm() < 25


def test_the_real_fox_has_distorted_rays_that_meet():
    scene = real("fox_270")
    assert (len(scene.frame_names), scene.cameras.model, scene.grid_levels) == (50, "OPENCV", 3)
    assert [len(scene.splits[split]) for split in ("train", "test")] == [43, 7]
    assert scene.frame_names[scene.splits["test"][0]] == "0001"
    # Points two thirds of the way to the origin stand before nearly every camera, in its picture.
    origins = scene.cameras.camera_to_world[..., 3]
    pixels, _ = scene.cameras.project(torch.arange(50), 0.0 * origins)
    size = torch.tensor([270, 480])
    assert ((pixels > 0) & (pixels < size)).all(1).double().mean() > 0.9


def test_the_real_rose_fills_its_cube():
    scene = real("synth_rose_224")
    field = scene.to_field
    center = field.apply(torch.tensor([12.7725, 13.1756, 5.654], dtype=torch.float64))
    assert (center - 0.5).abs().max() < 0.15
    assert scene.backdrop == (0, 0, 0) and scene.grid_levels == 1
    assert 3.5 < 1 / field.scale < 5


def test_a_camera_that_only_turns_is_a_scene_to_train_on(tmp_path):
    write_disc(tmp_path)
    for path in tmp_path.glob("*.json"):
        document = json.loads(path.read_text())
        for frame in document["frames"]:
            for row in frame["transform_matrix"][:3]:
                row[3] = 0.0
        path.write_text(json.dumps(document))
    scene = load_scene(tmp_path)
    pixel = 0.69 / SIZE  # radians
    assert pixel_size(scene) == pytest.approx(2.0**-scene.grid_levels * pixel, rel=0.1)
