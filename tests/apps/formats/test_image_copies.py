import shutil

import numpy as np
import pytest
from PIL import Image

from polyfield.apps.formats import llff, posed_images
from polyfield.apps.formats.image_copies import common_folder, copies_within, smaller_copies
from polyfield.apps.formats.nerf_synthetic import read as read_nerf_synthetic
from polyfield.apps.scene import load_scene
from polyfield.cuda.errors import InputError


def touch(root, *names):
    paths = [root / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def test_copies_keep_the_sub_folders_and_come_by_their_number(tmp_path):
    originals = touch(tmp_path, "images/left/1.jpg", "images/right/1.jpg")
    eighths = touch(tmp_path, "images_8/left/1.jpg", "images_8/right/1.jpg")
    halves = touch(tmp_path, "images_2/left/1.png", "images_2/right/1.png")  # another format
    tenths = touch(tmp_path, "images_10/left/1.jpg", "images_10/right/1.jpg")
    touch(tmp_path, "images_4/left/1.jpg")  # half a set
    touch(tmp_path, "images_b/left/1.jpg", "images_b/right/1.jpg")
    assert common_folder(originals) == tmp_path / "images"
    assert list(smaller_copies(originals, tmp_path)) == [halves, eighths, tenths]
    assert list(smaller_copies(halves, tmp_path)) == [eighths, tenths]
    # All photographs in one folder of them: their copies are where they were, or beside.
    assert list(smaller_copies(originals[:1], tmp_path))[0] == halves[:1]
    beside = touch(tmp_path, "images/left_2/1.jpg")
    assert list(smaller_copies(originals[:1], tmp_path))[0] == beside


def test_a_number_that_tells_cameras_apart_is_no_size(tmp_path):
    originals = touch(tmp_path, "cam_1/1.jpg", "cam_1/2.jpg")
    touch(tmp_path, "cam_2/1.jpg", "cam_2/2.jpg")
    assert list(smaller_copies(originals, tmp_path)) == []


def test_one_file_is_no_copy_of_two(tmp_path):
    originals = touch(tmp_path, "images/1.jpg", "images/1.png")
    touch(tmp_path, "images_2/1.png")
    assert list(smaller_copies(originals, tmp_path)) == []


def test_copies_outside_of_the_scene_are_none(tmp_path):
    root = tmp_path / "scene"
    originals = touch(root, "images/1.jpg")
    touch(tmp_path, "images_2/1.jpg")
    (root / "images_2").symlink_to(tmp_path / "images_2")
    assert list(smaller_copies(originals, root)) == []
    with pytest.raises(InputError, match="--images images_2: leads out of the scene"):
        copies_within(originals, root, "images_2")


def test_a_folder_is_chosen_by_its_name(tmp_path):
    originals = touch(tmp_path, "data/images/left/1.jpg", "data/images/left/2.jpg")
    named = touch(tmp_path, "data/small/left/1.jpg", "data/small/left/2.jpg")
    for name in ("small", "data/small", "./data/small", "data/small/left"):
        assert copies_within(originals, tmp_path, name) == named
    for name in ("images", "data/images"):
        assert copies_within(originals, tmp_path, name) == originals


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("images_3", "--images images_3: no such folder; expected a folder within scene"),
        ("half", "--images half: no copy of 2.jpg in it; expected a copy of every"),
        ("images/1.jpg", "no such folder"),
        ("..", "leads out"),
        ("../scene_2", "leads out"),
        ("/etc", "leads out"),
        ("a\0b", "no file name"),
        ("x" * 5000, "no file name|no such folder"),
        ("loop", "no file name|no such folder|leads out"),
    ],
)
def test_a_folder_that_is_none_is_refused_by_the_option(tmp_path, name, pattern):
    root = tmp_path / "scene"
    originals = touch(root, "images/1.jpg", "images/2.jpg")
    touch(root, "half/1.jpg")
    touch(tmp_path, "scene_2/1.jpg", "scene_2/2.jpg")
    (root / "loop").symlink_to(root / "loop")
    with pytest.raises(InputError, match=pattern) as refused:
        copies_within(originals, root, name)
    assert len(str(refused.value)) < 300


def shrink(folder, factor, sides=("",)):
    """images_<factor> with copies of what lies in images."""
    for side in sides:
        target = folder / f"images_{factor}" / side
        target.mkdir(parents=True)
        for path in (folder / "images" / side).iterdir():
            image = Image.open(path)
            image.resize((image.width // factor, image.height // factor)).save(target / path.name)


def longest(monkeypatch, pixels):
    monkeypatch.setattr(posed_images, "LONGEST_SIDE", pixels)
    monkeypatch.setattr(llff, "LONGEST_SIDE", pixels)


@pytest.mark.parametrize(("limit", "width"), [(48, 48), (47, 24), (24, 24), (23, 12), (5, 12)])
def test_the_largest_within_the_limit_are_taken_and_said(
    tmp_path, document, write, monkeypatch, limit, width
):
    contents = document(n=4, w=48, h=32, cx=26.0, cy=14.0)
    for index, frame in enumerate(contents["frames"]):
        frame["file_path"] = f"images/{'left' if index % 2 else 'right'}/{index}.png"
    write(tmp_path, contents, size=(48, 32))
    for factor in (2, 4):
        shrink(tmp_path, factor, ("left", "right"))
    longest(monkeypatch, limit)
    scene = load_scene(tmp_path)
    assert scene.sizes[0] == (width, width * 2 // 3)
    assert scene.cameras.focal[1].tolist() == [10 * width / 48, 11 * width / 48]
    assert scene.cameras.center[1].tolist() == [26 * width / 48, 14 * width / 48]
    assert scene.frame_names == ("0", "1", "2", "3")
    folder = {24: "images_2", 12: "images_4"}.get(width)
    assert folder is None or any(f"took {folder}" in note for note in scene.notes)


def test_a_chosen_folder_scales_the_lens_with_the_files_and_not_their_number(
    tmp_path, document, write
):
    write(tmp_path, document(n=4, w=48, h=32, cx=26.0), size=(48, 32))
    shrink(tmp_path, 4)
    (tmp_path / "images_4").rename(tmp_path / "images_2")
    scene = load_scene(tmp_path, "images_2")
    assert scene.sizes[0] == (12, 8) and scene.image_paths[0].parent.name == "images_2"
    assert scene.cameras.focal[0].tolist() == [2.5, 2.75]
    assert any("photographs of images_2" in note for note in scene.notes)
    assert load_scene(tmp_path).sizes[0] == (48, 32)


def test_a_chosen_folder_of_another_aspect_is_refused(tmp_path, document, write):
    write(tmp_path, document(n=4))
    shutil.copytree(tmp_path / "images", tmp_path / "square")
    Image.new("RGB", (8, 8)).save(tmp_path / "square" / "0002.png")
    with pytest.raises(InputError, match="8x8 pixels where w, h say 12x8"):
        load_scene(tmp_path, "square")


def write_llff(folder):
    """Two sets of the same photographs, whose names differ as in the published captures."""
    rows = []
    for index in range(9):
        matrix = [(0, -1, 0), (1, 0, 0), (0, 0, 1), (0.1 * index, 0, 0), (32, 48, 40)]
        rows.append([*np.array(matrix, float).T.ravel(), 1, 50])
        for place, scale in {"images": 2, "images_2": 1}.items():
            name = f"IMG_{index}.png" if scale == 2 else f"image{index:03}.png"
            (folder / place).mkdir(exist_ok=True)
            Image.new("RGB", (24 * scale, 16 * scale)).save(folder / place / name)
    np.save(folder / "poses_bounds.npy", np.array(rows))
    return folder


def test_copies_of_llff_belong_together_by_their_order(tmp_path, monkeypatch):
    write_llff(tmp_path)
    assert load_scene(tmp_path).sizes[0] == (48, 32)
    chosen = load_scene(tmp_path, "images_2")
    assert chosen.sizes[0] == (24, 16) and chosen.cameras.focal[0].tolist() == [20, 20]
    longest(monkeypatch, 30)
    scene = load_scene(tmp_path)
    assert scene.image_paths == chosen.image_paths and "photographs of images_2" in scene.notes
    (tmp_path / "images_2" / "image000.png").unlink()
    assert load_scene(tmp_path).sizes[0] == (48, 32)  # not a whole set
    for name, pattern in {
        "images_2": "9 rows for 8 images in images_2",
        "images_3": "--images images_3: no such folder",
        "..": "--images ..: leads out",
    }.items():
        with pytest.raises(InputError, match=pattern):
            load_scene(tmp_path, name)


def test_photographs_of_llff_that_lead_out_of_the_scene_are_refused(tmp_path):
    (tmp_path / "scene").mkdir()
    write_llff(tmp_path / "scene")
    Image.new("RGB", (48, 32)).save(tmp_path / "other.png")
    (tmp_path / "scene" / "images" / "IMG_3.png").unlink()
    (tmp_path / "scene" / "images" / "IMG_3.png").symlink_to(tmp_path / "other.png")
    with pytest.raises(InputError, match="leads out of it"):
        load_scene(tmp_path / "scene")


def test_a_scene_of_nerf_synthetic_has_no_folder_to_choose(disc_scene):
    with pytest.raises(InputError, match="--images val: a folder of copies; expected nothing"):
        read_nerf_synthetic(disc_scene, "val")
