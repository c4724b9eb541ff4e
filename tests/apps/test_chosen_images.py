"""`train --images` as a user meets it: what was chosen holds for every later command."""

import json

import pytest
from PIL import Image

from polyfield.apps.main import main


@pytest.fixture
def photographs(scene, tmp_path):
    """The scene as a transforms.json, with a folder of copies of half the size in folders."""
    made = tmp_path / "photographs"
    assert main(["convert", str(scene), "--out", str(made)]) == 0
    for path in (made / "images").rglob("*.png"):
        small = made / "images_2" / path.relative_to(made / "images")
        small.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).resize((20, 20)).save(small)
    return made


def test_the_chosen_photographs_are_those_of_every_later_command(photographs, tmp_path, capsys):
    out, again = tmp_path / "run", tmp_path / "again"
    command = ["train", str(photographs), "--images", "images_2", "--steps", "2", "--no-report"]
    assert main([*command, "--out", str(out)]) == 0
    assert "photographs of images_2" in capsys.readouterr().out
    assert json.loads((out / "config.json").read_text())["settings"]["images"] == "images_2"
    moved = tmp_path / "moved"
    photographs.rename(moved)
    for index, arguments in enumerate(([], ["--split", "train"])):
        path = tmp_path / f"{index}.json"
        options = [str(out), "--scene", str(moved), *arguments, "--json", str(path)]
        assert main(["eval", *options]) == 0
        assert json.loads(path.read_text())["protocol"]["resolution"] == ["20x20"]
    views = tmp_path / "views"
    options = ["--views", "test", "--scene", str(moved), "--out", str(views)]
    assert main(["render", str(out), *options]) == 0
    assert Image.open(views / "r_1.png").size == (20, 20)
    cameras = tmp_path / "cameras.json"
    options = ["--as", "cameras", "--scene", str(moved), "--out", str(cameras)]
    assert main(["export", str(out), *options]) == 0
    assert json.loads(cameras.read_text())["frames"][0]["w"] == 20
    moved.rename(photographs)
    assert (
        main(["train", "--from", str(out / "config.json"), "--out", str(again), "--no-report"]) == 0
    )
    assert "photographs of images_2" in capsys.readouterr().out
    assert main(["train", "--resume", "--out", str(out), "--no-report"]) == 0
    assert "photographs of images_2" in capsys.readouterr().out
    for options in (["--resume"], ["--from", str(out / "config.json")]):
        other = [*options, "--images", "images", "--out", str(out if options[1:] == [] else again)]
        assert main(["train", *other]) == 2
        assert "--images images: the run has images_2" in capsys.readouterr().err


def test_a_folder_of_photographs_that_is_none_is_refused_and_nothing_written(
    photographs, tmp_path, capsys
):
    for name, sentence in {
        "images_4": "--images images_4: no such folder",
        "../photographs_2": "leads out of the scene",
    }.items():
        command = ["train", str(photographs), "--images", name, "--steps", "1"]
        assert main([*command, "--out", str(tmp_path / "run")]) == 2
        err = capsys.readouterr().err
        assert sentence in err and err.count("\n") == 1 and not (tmp_path / "run").exists()
