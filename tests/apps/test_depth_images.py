"""Depth images in training: read, counted, and drawing matter to where they say."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from polyfield.apps.depth_images import DepthImages, depth_bytes
from polyfield.apps.scene import load_scene
from polyfield.apps.train import train
from polyfield.apps.train_options import Train
from polyfield.apps.trained import load
from polyfield.cuda.errors import InputError

CPU = torch.device("cpu")
SIZE, VIEWS, FAR = 32, 8, 3.0
FOCAL = 40.0


def write_wall(folder, depth=True, scale=1):
    """Cameras side by side before a plain grey wall: no photograph says how far it is."""
    folder.mkdir()
    frames = []
    for number in range(VIEWS):
        shade = np.full((SIZE, SIZE, 3), 120, np.uint8)
        shade[: SIZE // 2] = 140
        Image.fromarray(shade).save(folder / f"{number}.png")
        matrix = np.eye(4)
        matrix[0, 3] = 0.2 * (number - VIEWS / 2)
        frame = {"file_path": f"{number}.png", "transform_matrix": matrix.tolist()}
        if depth and number != 2:
            side = SIZE // scale
            steps = np.full((side, side), round(1000 * FAR), np.uint16)
            steps[:, : side // 8] = 0  # not measured
            Image.fromarray(steps).save(folder / f"{number}.depth.png")
            frame["depth_file_path"] = f"{number}.depth.png"
        frames.append(frame)
    camera = {"fl_x": FOCAL, "fl_y": FOCAL, "cx": SIZE / 2, "cy": SIZE / 2, "w": SIZE, "h": SIZE}
    names = [frame["file_path"] for frame in frames]
    document = camera | {"frames": frames, "train_filenames": names, "test_filenames": names[:1]}
    (folder / "transforms.json").write_text(json.dumps(document))
    return folder


@pytest.mark.parametrize("scale", [1, 2])
def test_a_depth_image_is_looked_up_where_its_photograph_is(tmp_path, scale):
    scene = load_scene(write_wall(tmp_path / "wall", scale=scale))
    assert depth_bytes(scene) == 2 * 7 * (SIZE // scale) ** 2
    depths = DepthImages(scene)
    frames = torch.tensor([0, 0, 2, 5])
    points = torch.tensor([[0.5, 9.0], [31.9, 31.9], [20.0, 20.0], [4.1, 0.0]])
    found = depths.gather(frames, points, torch.full((4, 2), SIZE))
    torch.testing.assert_close(found, torch.tensor([0.0, FAR, 0.0, FAR]))


def test_an_oblong_depth_image_is_looked_up_to_its_last_column_and_row(tmp_path):
    scene = load_scene(write_wall(tmp_path / "wall"))
    steps = 1000 * np.arange(1, 25, dtype=np.uint16).reshape(4, 6)
    Image.fromarray(steps).save(tmp_path / "oblong.png")
    scene = replace(scene, depth_paths=(tmp_path / "oblong.png", *scene.depth_paths[1:]))
    scene = replace(scene, splits=scene.splits | {"train": torch.tensor([0, 1])})
    depths = DepthImages(scene)
    x, y = (t.flatten() for t in torch.meshgrid(torch.arange(12), torch.arange(8), indexing="ij"))

    def gather(points, frame=0):
        sizes = torch.tensor([[12, 8]]).expand(len(points), 2)
        return depths.gather(torch.full((len(points),), frame), points, sizes)

    expected = torch.from_numpy(steps.astype(np.float32) / 1000)[y // 2, x // 2]
    for inside in (0.01, 0.5, 0.99):
        torch.testing.assert_close(gather(torch.stack([x, y], 1) + inside), expected)
    corners = gather(torch.tensor([[12.0, 8.0], [12.0, 0.0]]))
    torch.testing.assert_close(corners, torch.tensor([24.0, 6.0]))
    assert not gather(torch.tensor([[5.0, 5.0]]), frame=4).any()  # none that is trained on


def test_the_unit_of_a_scene_s_depth_images_is_taken(tmp_path):
    folder = write_wall(tmp_path / "wall")
    document = json.loads((folder / "transforms.json").read_text())
    document["depth_unit_scale_factor"] = 0.01  # steps of a centimetre
    (folder / "transforms.json").write_text(json.dumps(document))
    depths = DepthImages(load_scene(folder))
    found = depths.gather(torch.tensor([0]), torch.tensor([[20.0, 20.0]]), torch.tensor([[32, 32]]))
    assert found.tolist() == pytest.approx([10 * FAR])


def depth_error(out, scene):
    """Of the middle of a view, against the wall, as a share of its distance."""
    run = load(out, CPU)
    view = run.view(scene.cameras.transformed(run.to_field), 0)
    middle = slice(8, 24)
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    across = ((x + 0.5 - SIZE / 2) ** 2 + (y + 0.5 - SIZE / 2) ** 2).sqrt() / FOCAL
    expected = FAR * (1 + across**2).sqrt() * run.to_field.scale
    return float(((view.depth - expected).abs() / expected)[middle, middle].mean())


def test_matter_gathers_where_depth_images_say(tmp_path):
    folder = write_wall(tmp_path / "wall")
    scene = load_scene(folder)
    options = {"steps": 100, "device": "cpu", "report": False}
    train(Train(folder, out=tmp_path / "with", depth=0.5, **options))
    train(Train(folder, out=tmp_path / "without", **options))
    informed, blind = (depth_error(tmp_path / name, scene) for name in ("with", "without"))
    assert informed < 0.03 and informed < 0.3 * blind
    assert load(tmp_path / "with", CPU).settings.depth == 0.5


def test_a_scene_without_depth_images_is_refused(tmp_path):
    folder = write_wall(tmp_path / "wall", depth=False)
    with pytest.raises(InputError, match="--depth.*none"):
        train(Train(folder, out=tmp_path / "run", steps=2, depth=0.1, device="cpu"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("weight", [-1.0, 1e9, math.nan])
def test_a_weight_that_makes_no_sense_is_refused(tmp_path, weight):
    with pytest.raises(InputError, match="--depth"):
        train(Train(tmp_path, out=tmp_path / "run", steps=2, depth=weight, device="cpu"))
