"""Where `polyfield convert` writes, where it does not, and what a failure leaves: nothing."""

import errno
import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from polyfield.apps import convert as convert_module
from polyfield.apps.convert import Convert, convert
from polyfield.apps.files import new_folder
from polyfield.apps.formats.point_ply import Points, write_points
from polyfield.apps.scene import load_scene
from polyfield.cuda.errors import InputError

COUNT = 4


@pytest.fixture
def made(tmp_path):
    """A small scene with points and a depth image."""
    folder, frames = tmp_path / "scene", []
    for index in range(COUNT):
        file = f"images/cam{index % 2}/{index // 2}.png"
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(index).integers(0, 255, (8, 12, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / file)
        matrix = [[1, 0, 0, index], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
        frames.append({"file_path": file, "transform_matrix": matrix})
    Image.fromarray(np.ones((8, 12), np.uint16)).save(folder / "depth.png")
    frames[1]["depth_file_path"] = "depth.png"
    write_points(folder / "sparse_pc.ply", Points(torch.randn(50, 3).double(), None))
    (folder / "transforms.json").write_text(json.dumps({"fl_x": 20.0, "frames": frames}))
    return folder


def listing(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


PLACES = {
    "the scene": ("scene", "is not empty"),
    "in the scene": ("scene/new", "lies in the scene's folder"),
    "deep in the scene": ("scene/new/folder", "lies in the scene's folder"),
    "in the scene by a link": ("link/new", "lies in the scene's folder"),
    "a folder that holds something": ("full", "is not empty; expected a new folder"),
    "a file": ("full/file", "is a file"),
    "below a file": ("full/file/new", "cannot be written|full/file/new: "),
    "a name too long": ("x" * 5000, "--out .*xxx: File name too long"),
    "a loop": ("loop/new", "--out .*loop|cannot be written"),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_place_that_is_taken_is_refused_and_left(made, tmp_path, place):
    name, pattern = PLACES[place]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    (tmp_path / "link").symlink_to(made)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    before = listing(tmp_path)
    with pytest.raises(InputError, match=pattern) as refused:
        convert(Convert(made, tmp_path / name))
    assert len(str(refused.value)) < 800 and listing(tmp_path) == before


def test_an_empty_folder_and_folders_that_must_be_made_are_taken(made, tmp_path):
    (tmp_path / "empty").mkdir()
    for place in ("empty", "new/and/deeper"):
        convert(Convert(made, tmp_path / place))
        assert len(load_scene(tmp_path / place).image_paths) == COUNT


def test_without_links_images_are_copied(made, tmp_path, monkeypatch):
    convert(Convert(made, tmp_path / "links"))
    one = tmp_path / "links" / "images" / "cam0" / "0.png"
    assert one.samefile(made / "images" / "cam0" / "0.png")

    def refuse(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    convert(Convert(made, tmp_path / "copies"))
    assert not (tmp_path / "copies/images/cam0/0.png").samefile(one)
    for path in (tmp_path / "links" / "images").rglob("*.png"):
        copy = tmp_path / "copies" / path.relative_to(tmp_path / "links")
        assert copy.read_bytes() == path.read_bytes()


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def interrupt(*_):
    raise KeyboardInterrupt


FAILURES = {
    "no room for a copy": ("shutil.copyfile", full_disk, InputError, "no room"),
    "no room for points": ("write_points", full_disk, InputError, "no room"),
    "no room for the JSON": ("polyfield.apps.files.os.fsync", full_disk, InputError, "no room"),
    "interrupted": ("write_points", interrupt, KeyboardInterrupt, "^$"),
    "interrupted at the end": ("_check", interrupt, KeyboardInterrupt, "^$"),
    "no rename": ("polyfield.apps.files.os.rename", full_disk, InputError, "no room"),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("place", ["out", "new/out", "empty"])
def test_a_failure_leaves_nothing(made, tmp_path, monkeypatch, failure, place):
    (tmp_path / "empty").mkdir()
    before = listing(tmp_path)
    target, fault, kind, pattern = FAILURES[failure]
    if target == "shutil.copyfile":
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "")))
        monkeypatch.setattr(shutil, "copyfile", fault)
    elif "." in target:
        monkeypatch.setattr(target, fault)
    else:
        monkeypatch.setattr(convert_module, target, fault)
    with pytest.raises(kind, match=pattern):
        convert(Convert(made, tmp_path / place))
    assert listing(tmp_path) == before


def test_what_would_not_load_to_the_same_is_not_written(made, tmp_path, monkeypatch):
    places = convert_module.image_places

    def wrong(posed):
        first, second, *others = places(posed)
        return [second, first, *others]

    monkeypatch.setattr(convert_module, "image_places", wrong)
    with pytest.raises(InputError, match="names or splits"):
        convert(Convert(made, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_new_folder_takes_no_other_s_place(tmp_path):
    with pytest.raises(InputError), new_folder(tmp_path / "a") as unfinished:
        (unfinished / "ours").touch()
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "theirs").touch()
    assert listing(tmp_path) == ["a", "a/theirs"]
