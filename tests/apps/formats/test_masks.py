"""Which mask belongs to which photograph, and what it means, by each tool's own rules."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from polyfield.apps.formats.json_fields import Fields
from polyfield.apps.formats.masks import find_masks, is_mask
from polyfield.apps.formats.nerf_synthetic import write_nerf_synthetic
from polyfield.apps.image_files import read_header
from polyfield.apps.scene import load_scene
from polyfield.cuda.errors import InputError

SIZE = (24, 16)


def picture(path, size=SIZE, value=255):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)
    return path


def found_for(folder, photographs, used=None, written=None):
    originals = [
        path if path.is_file() else picture(path)
        for path in (folder / name for name in photographs)
    ]
    paths = [folder / name for name in used] if used else originals
    entries = [Fields(f"frames[{i}]:", {"mask_path": w}) for i, w in enumerate(written or [])]
    headers = [read_header(path) for path in paths]
    notes: list[str] = []
    masks = find_masks(originals, paths, headers, folder, notes, entries)
    return [mask and (mask.path.relative_to(folder).as_posix(), mask.meaning) for mask in masks]


@pytest.mark.parametrize(
    "photograph, mask, meaning",
    [
        ("images/a.jpg", "masks/a.jpg.png", "keep"),  # COLMAP
        ("images/a.jpg", "masks/a.png", "keep"),  # Brush
        ("images/left/a.jpg", "masks/left/a.jpg.png", "keep"),
        ("images/left/a.jpg", "masks/left/a.png", "keep"),
        ("images_4/a.jpg", "masks_4/a.png", "keep"),
        ("images_4/a.jpg", "masks/a.png", "keep"),
        ("input/a.jpg", "masks/a.png", "keep"),
        ("scan/images/a.jpg", "scan/masks/a.png", "keep"),
        ("train/a.png", "masks/train/a.png", "keep"),
        ("a.jpg", "masks/a.png", "keep"),
        ("Images/a.jpg", "masks/a.png", "keep"),
        ("images/a.jpg", "images/a_mask.png", "keep"),  # 3DGRUT
        ("images/a.jpg", "images/dynamic_mask_a.png", "ignore"),  # instant-ngp
    ],
)
def test_each_tool_s_place_and_meaning(tmp_path, photograph, mask, meaning):
    picture(tmp_path / mask)
    assert found_for(tmp_path, [photograph]) == [(mask, meaning)]


@pytest.mark.parametrize("other", ["masks/b.png", "masks/a.jpg", "train/masks/a.png"])
def test_masks_of_others_are_not_taken(tmp_path, other):
    picture(tmp_path / other)
    assert found_for(tmp_path, ["images/a.jpg"]) == []
    assert found_for(tmp_path, ["train/a.png"]) == []


def test_two_splits_with_the_same_names_share_no_mask(tmp_path):
    picture(tmp_path / "masks/r_0.png")
    assert found_for(tmp_path, ["train/r_0.png", "test/r_0.png"]) == []


def test_the_whole_name_goes_before_the_stem(tmp_path):
    picture(tmp_path / "masks/a.png")
    picture(tmp_path / "masks/a.jpg.png")
    assert found_for(tmp_path, ["images/a.jpg"]) == [("masks/a.jpg.png", "keep")]


def test_a_written_path_wins_and_frames_without_one_are_looked_up(tmp_path):
    for name in ("elsewhere/m.png", "masks/a.png", "masks/b.png"):
        picture(tmp_path / name)
    found = found_for(tmp_path, ["images/a.jpg", "images/b.jpg"], None, ["elsewhere/m.png", None])
    assert found == [("elsewhere/m.png", "keep"), ("masks/b.png", "keep")]


def test_photographs_without_a_mask_have_none(tmp_path):
    picture(tmp_path / "masks/b.png")
    assert found_for(tmp_path, ["images/a.jpg", "images/b.jpg"]) == [None, ("masks/b.png", "keep")]
    assert found_for(tmp_path, ["images/a.jpg"]) == []


@pytest.mark.parametrize("written", [None, ["masks/a.png"]])
def test_smaller_copies_have_smaller_masks_or_the_whole_one_s(tmp_path, written):
    picture(tmp_path / "images_2/a.jpg", (12, 8))
    picture(tmp_path / "masks/a.png")
    arguments = (["images/a.jpg"], ["images_2/a.jpg"], written)
    assert found_for(tmp_path, *arguments) == [("masks/a.png", "keep")]
    picture(tmp_path / "masks_2/a.png", (12, 8))
    assert found_for(tmp_path, *arguments) == [("masks_2/a.png", "keep")]


def test_smaller_copies_have_masks_of_their_own_beside_them(tmp_path):
    picture(tmp_path / "images_2/a.jpg", (12, 8))
    picture(tmp_path / "images/a_mask.png")
    arguments = (["images/a.jpg"], ["images_2/a.jpg"])
    assert found_for(tmp_path, *arguments) == [("images/a_mask.png", "keep")]
    picture(tmp_path / "images_2/a_mask.png", (12, 8))
    assert found_for(tmp_path, *arguments) == [("images_2/a_mask.png", "keep")]


def test_a_mask_of_the_same_aspect_fits_and_of_another_is_refused_by_name(tmp_path):
    picture(tmp_path / "masks/a.png", (240, 160))
    assert found_for(tmp_path, ["images/a.jpg"]) == [("masks/a.png", "keep")]
    picture(tmp_path / "masks/a.png", (16, 24))
    with pytest.raises(InputError, match=r"masks/a.png: 16x24 pixels for 24x16; expected a mask"):
        found_for(tmp_path, ["images/a.jpg"])


@pytest.mark.parametrize(
    "written, message",
    [
        ("masks/none.png", r"frames\[0\]: mask_path: 'masks/none.png' does not exist"),
        ("../out.png", r"frames\[0\]: mask_path: .* leads out of it"),
        ("/etc/passwd", "leads out of it"),
        ("x" * 5000, "mask_path"),
        ("a\0b", "mask_path"),
        (7, "mask_path: 7; expected a string"),
        ("images/a.txt", "not readable as an image"),
    ],
)
def test_a_written_path_that_is_no_mask_is_refused(tmp_path, written, message):
    scene = tmp_path / "scene"
    picture(tmp_path / "out.png")
    picture(scene / "images/a.jpg")
    (scene / "images/a.txt").write_text("no image")
    with pytest.raises(InputError, match=message):
        found_for(scene, ["images/a.jpg"], None, [written])


def test_a_link_out_of_the_scene_is_not_followed(tmp_path):
    scene = tmp_path / "scene"
    (scene / "masks").mkdir(parents=True)
    (scene / "masks/a.png").symlink_to(picture(tmp_path / "out.png"))
    with pytest.raises(InputError, match="leads out of it"):
        found_for(scene, ["images/a.jpg"])


def test_names_too_long_for_a_file_have_no_mask(tmp_path):
    assert found_for(tmp_path, ["images/" + "x" * 250 + ".jpg"]) == []


@pytest.mark.parametrize("name", ["dynamic_mask_a.png", "a_mask.png"])
def test_masks_beside_photographs_are_no_photographs(tmp_path, name):
    assert is_mask(tmp_path / name)
    assert not is_mask(tmp_path / "a.png") and not is_mask(tmp_path / "mask.png")


def nerfstudio(folder, change=lambda frames: None):
    """Six views around the origin, as transforms.json beside images."""
    views = []
    for index in range(6):
        turn = torch.tensor(1.05 * index)
        forward = -torch.stack([turn.cos(), turn.sin(), torch.tensor(0.0)])
        right = torch.linalg.cross(forward, torch.tensor([0.0, 0.0, 1.0]))
        axes = [right, torch.linalg.cross(forward, right), forward, -4 * forward]
        noise = torch.randint(0, 256, (16, 24, 4), dtype=torch.uint8)
        noise[..., 3] = 255
        views.append((f"r_{index}", torch.stack(axes, 1), noise))
    write_nerf_synthetic(folder, {"train": views}, 0.7)
    (folder / "train").rename(folder / "images")
    document = json.loads((folder / "transforms_train.json").read_text())
    (folder / "transforms_train.json").unlink()
    for frame in document["frames"]:
        frame["file_path"] = frame["file_path"].replace("./train", "images") + ".png"
    change(document["frames"])
    (folder / "transforms.json").write_text(json.dumps(document))
    return folder


def test_a_scene_has_one_entry_a_frame_and_says_what_masks_mean(tmp_path):
    for index in range(5):
        picture(tmp_path / f"m/{index}.png")

    def write_paths(frames):
        for index in range(5):
            frames[index]["mask_path"] = f"m/{index}.png"

    scene = load_scene(nerfstudio(tmp_path, write_paths))
    assert [mask and mask.path.name for mask in scene.masks] == [f"{i}.png" for i in range(5)] + [
        None
    ]
    assert "masks of 5 of 6 photographs: what is black is ignored" in scene.notes
    assert any("100 % of the pixels of 4 views are left" in note for note in scene.notes)


@pytest.mark.parametrize(
    "name, value, meaning",
    [("masks/r_{}.png", 0, "black is ignored"), ("images/dynamic_mask_r_{}.png", 255, "not black")],
)
def test_masks_that_leave_nothing_are_refused_with_their_meaning(tmp_path, name, value, meaning):
    nerfstudio(tmp_path)
    for index in range(6):
        picture(tmp_path / name.format(index), value=value)
    with pytest.raises(InputError, match=rf"nothing of its photograph is left .*{meaning}"):
        load_scene(tmp_path)


def test_single_photographs_may_be_ignored_in_whole(tmp_path):
    nerfstudio(tmp_path)
    picture(tmp_path / "masks/r_1.png", value=0)
    scene = load_scene(tmp_path)
    assert scene.splits["train"][0] == 1 and scene.masks[1] is not None
    assert any("75 % of the pixels of 4 views are left" in note for note in scene.notes)


def test_splits_of_the_synthetic_layout_keep_their_masks_apart(tmp_path):
    pose = torch.eye(4)[:3] + torch.tensor([[0.0, 0, 0, 0], [0] * 4, [0, 0, 0, -4.0]])
    image = torch.full((16, 24, 4), 255, dtype=torch.uint8)
    splits = {"train": [("r_0", pose, image), ("r_1", pose, image)], "test": [("r_0", pose, image)]}
    write_nerf_synthetic(tmp_path, splits, 0.7)
    picture(tmp_path / "masks/test/r_0.png")
    scene = load_scene(tmp_path)
    names = [mask and mask.path.parent.name for mask in scene.masks]
    assert names == [None, None, "test"]


def test_masks_beside_llff_photographs_are_taken_as_masks(tmp_path):
    rows = []
    for index in range(9):
        columns = [(0, -1, 0), (1, 0, 0), (0, 0, 1), (0.1 * index, 0, 0), (16, 24, 20)]
        rows.append([*np.array(columns, dtype=np.float64).T.ravel(), 1.0, 50.0])
        picture(tmp_path / f"images/{index}.png")
        picture(tmp_path / f"images/{index}_mask.png")
    np.save(tmp_path / "poses_bounds.npy", np.array(rows))
    scene = load_scene(tmp_path)
    assert scene.frame_names == tuple(map(str, range(9)))
    assert {mask.meaning for mask in scene.masks} == {"keep"}
