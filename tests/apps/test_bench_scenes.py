"""`bench scenes`: trainings in processes of their own, measured once, and a picture of them all."""

import json
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
from PIL import Image

from polyfield.apps import bench_scenes
from polyfield.apps.bench import Bench, bench, summary
from polyfield.apps.bench_scenes import PICTURE_HEIGHT, scene_rows
from polyfield.apps.checkpoint import steps_in
from polyfield.apps.eval import Eval, evaluate
from polyfield.apps.labelled_sheet import GAP
from polyfield.apps.main import main
from polyfield.apps.run_folder import RunFolder
from polyfield.cuda.errors import InputError, PolyfieldError

STEPS, FIELDS = 120, ("hash-grid", "tri-plane")
LABEL_HEIGHT = 22


@pytest.fixture(scope="module")
def scene(ball_scene):
    return ball_scene(lambda number, pose, image: image)


def rows_of(scene, out, steps=STEPS, seed=3, fields=FIELDS, on_row=None):
    return scene_rows((scene,), out, steps=steps, seed=seed, fields=fields, on_row=on_row)


@pytest.fixture(scope="module")
def found(scene, tmp_path_factory):
    out = tmp_path_factory.mktemp("bench") / "scenes"
    said = []
    return out, rows_of(scene, out, on_row=said.append), said


def test_each_field_is_trained_and_measured(found):
    out, rows, said = found
    assert [row["name"] for row in rows] == [
        "ball-hash-grid-120-steps-3",
        "ball-tri-plane-120-steps-3",
    ]
    assert [row.field for row in said] == list(FIELDS)
    for row in rows:
        run = out / row["name"]
        assert max(steps_in(run / "checkpoints")) == row["steps"] == STEPS
        assert row["budget"] == "120 steps" and 0 < row["minutes"] < 5
        config = json.loads((run / "config.json").read_text())
        assert config["settings"]["field"] == row["field"] and config["settings"]["seed"] == 3
        assert 100e6 < row["peak_bytes"] < 3e9 and row["view_size"] == "40x40"
        assert 1e4 < row["packed_bytes"] < 2 * row["parameters"] + 1e5 < row["checkpoint_bytes"]
        assert 0 < row["view_seconds"] < 5


def test_the_figures_are_those_of_eval(found):
    out, rows, _ = found
    for row in rows:
        measured = evaluate(Eval(out / row["name"]))
        assert row["psnr"] == pytest.approx(measured.psnr, abs=1e-6)
        assert row["ssim"] == pytest.approx(measured.ssim, abs=1e-6)
        assert row["psnr"] > row["constant_psnr"] + 3


def test_what_was_measured_is_not_measured_again(found, scene, monkeypatch):
    out, rows, _ = found
    asked = []

    def fail(arguments):
        asked.append(arguments)
        raise PolyfieldError("no")

    monkeypatch.setattr(bench_scenes, "run_measured", fail)
    assert rows_of(scene, out, fields=FIELDS[1:]) == rows[1:]
    assert Image.open(out / "strip.png").width == 2 * PICTURE_HEIGHT + GAP
    assert rows_of(scene, out) == rows and not asked
    for steps, seed in ((STEPS, 4), (2 * STEPS, 3)):
        with pytest.raises(PolyfieldError):
            rows_of(scene, out, steps, seed)
    assert [words[-5:] for words in asked] == [
        ["--resume", "--steps", "120", "--seed", "4"],
        ["--resume", "--steps", "240", "--seed", "3"],
    ]
    assert len({words[words.index("--out") + 1] for words in asked}) == 2


def test_a_training_that_was_cut_goes_on(found, scene, tmp_path):
    """Up to its end, but nothing measured: as a bench that was killed leaves it."""
    out, rows, _ = found
    name = rows[0]["name"]
    copytree(out / name, tmp_path / name)
    (again,) = rows_of(scene, tmp_path, fields=FIELDS[:1])
    assert again["psnr"] == rows[0]["psnr"] and again["steps"] == STEPS
    records = RunFolder.open(tmp_path / name).records()
    assert len([record for record in records if "loss" in record]) == STEPS  # none of them again


def test_the_picture_shows_the_truth_and_each_field(found, scene):
    out, _, _ = found
    picture = np.asarray(Image.open(out / "strip.png"))
    assert picture.shape == (PICTURE_HEIGHT + LABEL_HEIGHT, 3 * PICTURE_HEIGHT + 2 * GAP, 3)
    truth, *fields = (
        picture[LABEL_HEIGHT:, left : left + PICTURE_HEIGHT].astype(float)
        for left in (0, PICTURE_HEIGHT + GAP, 2 * (PICTURE_HEIGHT + GAP))
    )
    assert truth.std() > 30
    for shown in fields:
        assert 0.1 < np.abs(shown - truth).mean() < 25
    assert (picture[:LABEL_HEIGHT] < 128).any()  # labels


def test_the_table_has_a_line_for_each(found):
    _, rows, _ = found
    head, one, other, _ = summary(rows).splitlines()
    assert "packed" in head and one.startswith("ball-hash-grid") and " dB" in other


def test_rows_of_something_else_are_refused(scene, tmp_path):
    for content in ('[{"name": "x"}]', "{", '{"a": 1}', "[3]", "null"):
        (tmp_path / "rows.json").write_text(content)
        with pytest.raises(InputError, match="rows.json"):
            rows_of(scene, tmp_path)


def test_what_cannot_be_measured_is_refused_before_any_training(scene, tmp_path, monkeypatch):
    monkeypatch.setattr(bench_scenes, "run_measured", lambda arguments: pytest.fail("trained"))
    out = tmp_path / "out"
    (tmp_path / "ball").mkdir()
    for scenes, options in (
        ((scene,), {"minutes": 0.0}),
        ((scene,), {"minutes": float("nan")}),
        ((scene,), {"steps": 0}),
        ((scene,), {"fields": ("no-such",)}),
        ((scene, scene), {}),
        ((scene, tmp_path / "missing"), {}),
    ):
        with pytest.raises(InputError):
            scene_rows(scenes, out, **options)
    assert not out.exists()


def test_the_command_gives_scenes_budget_and_fields(monkeypatch):
    asked = []

    def rows(scenes, out, **options):
        asked.append((scenes, out, options))
        return []

    monkeypatch.setattr("polyfield.apps.bench.scene_rows", rows)
    both = Path("a"), Path("b")
    bench(Bench("scenes", both))
    main(["bench", "scenes", "a", "b", "--minutes", "2", "--only", "mlp,rbf", "--out", "here"])
    main(["bench", "scenes", "a", "b", "--steps", "9", "--seed", "1"])
    usual = {"minutes": 3.0, "steps": None, "seed": 0, "fields": ()}
    assert asked == [
        (both, Path("scenes"), usual),
        (both, Path("here"), usual | {"minutes": 2.0, "fields": ("mlp", "rbf")}),
        (both, Path("scenes"), usual | {"steps": 9, "seed": 1}),
    ]


def test_a_training_is_given_its_minutes(scene, tmp_path, monkeypatch):
    asked = []

    def fail(arguments):
        asked.append(arguments)
        raise PolyfieldError("no")

    monkeypatch.setattr(bench_scenes, "run_measured", fail)
    with pytest.raises(PolyfieldError):
        scene_rows((scene,), tmp_path, minutes=2.5)
    assert asked[0][-4:] == ["--minutes", "2.5", "--seed", "0"]


def test_minutes_of_0_and_two_budgets_are_refused(scene):
    for options in ({"minutes": 0.0}, {"minutes": 1.0, "steps": 9}):
        with pytest.raises(InputError, match="--minutes"):
            bench(Bench("scenes", (scene,), **options))


def test_a_scene_without_test_views_is_refused_before_any_training(scene, tmp_path, monkeypatch):
    monkeypatch.setattr(bench_scenes, "run_measured", lambda arguments: pytest.fail("trained"))
    whole = bench_scenes.load_scene

    def without(folder):
        found = whole(folder)
        return replace(found, splits={"train": found.splits["train"]})

    monkeypatch.setattr(bench_scenes, "load_scene", without)
    with pytest.raises(InputError, match="no test views"):
        rows_of(scene, tmp_path / "out")
    assert not (tmp_path / "out").exists()
