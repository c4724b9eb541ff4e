import json
import math
import os

import numpy as np
import pytest
import torch
from PIL import Image

from polyfield.apps.formats.nerf_synthetic import write_nerf_synthetic
from polyfield.apps.scene import load_scene
from polyfield.cuda.errors import InputError

ANGLE = 0.69
SIZE = 16


def look_at_origin(angle, height=1.0, distance=4.0):
    """camera_to_world [3, 4], OpenCV axes, z up in the world."""
    position = torch.tensor([math.cos(angle), math.sin(angle), height]).double()
    position = distance * position / position.norm()
    forward = -position / position.norm()
    right = torch.linalg.cross(forward, torch.tensor([0, 0, 1]).double())
    right = right / right.norm()
    return torch.stack([right, torch.linalg.cross(forward, right), forward, position], 1)


def frame(index, seed=0):
    random = torch.Generator().manual_seed(100 * seed + index)
    image = torch.randint(0, 256, (SIZE, SIZE, 4), generator=random, dtype=torch.uint8)
    return f"r_{index}", look_at_origin(index + seed), image


def splits(**counts):
    return {
        split: [frame(i, seed) for i in range(count)]
        for seed, (split, count) in enumerate(counts.items())
    }


def test_what_is_written_is_read_again(tmp_path):
    written = splits(train=5, val=2, test=3)
    write_nerf_synthetic(tmp_path, written, ANGLE)
    scene = load_scene(tmp_path)
    assert (scene.kind, scene.name, scene.has_alpha) == ("nerf-synthetic", tmp_path.name, True)
    for split, frames in written.items():
        indices = scene.splits[split].tolist()
        assert [scene.frame_names[i] for i in indices] == [name for name, _, _ in frames]
        for index, (_, camera_to_world, image) in zip(indices, frames, strict=True):
            read = scene.cameras.camera_to_world[index]
            torch.testing.assert_close(read, camera_to_world, atol=1e-12, rtol=0)
            assert np.array_equal(np.asarray(Image.open(scene.image_paths[index])), image.numpy())


def test_intrinsics_are_square_and_centred(tmp_path):
    write_nerf_synthetic(tmp_path, splits(train=2, test=1), ANGLE)
    cameras = load_scene(tmp_path).cameras
    focal = 0.5 * SIZE / math.tan(0.5 * ANGLE)
    torch.testing.assert_close(cameras.focal, torch.full((3, 2), focal).double(), rtol=1e-6, atol=0)
    assert (cameras.center == SIZE / 2).all() and cameras.model == "PINHOLE"


def test_the_files_are_in_the_form_that_other_tools_read(tmp_path):
    write_nerf_synthetic(tmp_path, splits(train=1, test=1), ANGLE)
    document = json.loads((tmp_path / "transforms_train.json").read_text())
    assert document["camera_angle_x"] == ANGLE
    assert document["frames"][0]["file_path"] == "./train/r_0"
    matrix = np.array(document["frames"][0]["transform_matrix"])
    # Blender's camera looks along its -z: its third column points from the origin to the camera.
    np.testing.assert_allclose(matrix[:3, 2] * 4, matrix[:3, 3], atol=1e-6)
    assert matrix[2, 1] > 0 and matrix[3].tolist() == [0, 0, 0, 1]


def test_without_test_frames_val_is_held_out(tmp_path):
    write_nerf_synthetic(tmp_path, splits(train=3, val=2), ANGLE)
    scene = load_scene(tmp_path)
    assert scene.splits["test"].tolist() == scene.splits["val"].tolist() == [3, 4]
    assert any("val" in note for note in scene.notes)


def test_train_alone_holds_out_every_eighth(tmp_path):
    write_nerf_synthetic(tmp_path, splits(train=9), ANGLE)
    scene = load_scene(tmp_path)
    assert scene.splits["test"].tolist() == [0, 8] and len(scene.splits["train"]) == 7


def test_the_json_comes_last_and_in_one_step(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_nerf_synthetic(tmp_path, splits(train=2, test=1), ANGLE)
    assert len(list(tmp_path.glob("*/r_*.png"))) == 3
    with pytest.raises(InputError):
        load_scene(tmp_path)


@pytest.mark.parametrize(
    ("written", "angle", "pattern"),
    [
        ({"train": [frame(0), frame(0)]}, ANGLE, "r_0"),
        ({"train": [("../r_0", *frame(0)[1:])]}, ANGLE, "file name"),
        ({"holdout": [frame(0)]}, ANGLE, "holdout"),
        ({"train": []}, ANGLE, "no frame"),
        ({"train": [frame(0)]}, 4.0, "radians"),
    ],
)
def test_what_makes_no_scene_is_not_written(tmp_path, written, angle, pattern):
    with pytest.raises(InputError, match=pattern):
        write_nerf_synthetic(tmp_path, written, angle)
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_fault_is_named_with_its_own_file(tmp_path, split):
    write_nerf_synthetic(tmp_path, splits(train=2, val=2, test=2), ANGLE)
    path = tmp_path / f"transforms_{split}.json"
    document = json.loads(path.read_text())
    document["frames"][1]["file_path"] = "./test/r_9"
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=rf"transforms_{split}\.json: frames\[1\]\.file_path"):
        load_scene(tmp_path)
