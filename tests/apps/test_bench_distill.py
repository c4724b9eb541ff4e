"""`bench distill`: every ordered pair of fields, measured once, and a picture of them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from polyfield.apps import bench_distill
from polyfield.apps.bench import Bench, bench, summary
from polyfield.apps.bench_distill import HEIGHT, distill_rows
from polyfield.apps.main import main
from polyfield.cuda.errors import InputError, PolyfieldError

FIELDS = ("hash-grid", "gaussians")


@pytest.fixture(scope="module")
def scene(ball_scene):
    return ball_scene(lambda number, pose, image: image)


@pytest.fixture(scope="module")
def found(scene, tmp_path_factory):
    out = tmp_path_factory.mktemp("bench") / "pairs"
    said = []
    return out, distill_rows(scene, out, steps=80, fields=FIELDS, on_row=said.append), said


def test_each_teaches_every_other_one(found):
    out, rows, said = found
    pairs = [(row["teacher"], row["student"]) for row in rows]
    assert pairs == [("hash-grid", "gaussians"), ("gaussians", "hash-grid")]
    assert [(row.teacher, row.student) for row in said] == pairs
    for row in rows:
        assert row["steps"] == 80 and row["budget"] == "80 steps" and row["seed"] == 0
        assert row["psnr"] > 14 and row["teacher_psnr"] > 17
        assert 0 < row["views_seconds"] < row["seconds"] and row["teacher_seconds"] > 0
        assert (out / row["name"] / "checkpoints").is_dir()


def test_what_was_measured_is_not_measured_again_and_another_seed_is(found, scene, monkeypatch):
    out, rows, _ = found
    asked = []

    def fail(arguments):
        asked.append(arguments)
        raise PolyfieldError("no")

    monkeypatch.setattr(bench_distill, "run_measured", fail)
    assert distill_rows(scene, out, steps=80, fields=FIELDS) == rows and not asked
    with pytest.raises(PolyfieldError):
        distill_rows(scene, out, steps=80, fields=FIELDS, seed=1)
    (words,) = asked  # the teacher is there already
    assert words[0] == "distill" and words[-5:] == ["--steps", "80", "--seed", "1", "--resume"]


def test_the_picture_has_a_line_for_each_teacher(found):
    out, _, _ = found
    sheet = np.asarray(Image.open(out / "matrix.png"))
    assert sheet.shape[0] > 2 * HEIGHT and sheet.shape[1] > 3 * HEIGHT
    assert sheet.std() > 20


def test_the_table_has_medians_and_the_worst_of_the_seeds(found):
    _, rows, _ = found
    one, other = dict(rows[0]), dict(rows[0])
    one["psnr"], other["psnr"] = one["psnr"] - 1, one["psnr"] - 4
    one["seed"], other["seed"] = 1, 2
    head, line, _ = summary([dict(rows[0]), one, other]).splitlines()
    lost = rows[0]["teacher_psnr"] - rows[0]["psnr"]
    assert "worst" in head and f"{lost + 1:.2f} dB" in line and f"{lost + 4:.2f} dB" in line


def test_dense_layers_have_twice_the_minutes(monkeypatch, scene, tmp_path):
    asked = []

    def fail(arguments):
        asked.append(arguments)
        raise PolyfieldError("no")

    monkeypatch.setattr(bench_distill, "run_measured", fail)
    monkeypatch.setattr(bench_distill, "_score", lambda run, scene: (1.0, 1.0))
    for field, minutes in (("mlp", "3"), ("rbf", "1.5")):
        (tmp_path / field / "teacher-tri-plane").mkdir(parents=True)
        (tmp_path / field / "teacher-tri-plane" / "trained.json").write_text('{"seconds": 1}')
        with pytest.raises(PolyfieldError):
            distill_rows(scene, tmp_path / field, fields=("tri-plane", field))
        assert asked[-1][asked[-1].index("--minutes") + 1] == minutes


def test_what_cannot_be_measured_is_refused_before_any_training(scene, tmp_path, monkeypatch):
    monkeypatch.setattr(bench_distill, "run_measured", lambda arguments: pytest.fail("ran"))
    out = tmp_path / "out"
    for path, options in (
        (scene, {"minutes": 0.0}),
        (scene, {"minutes": float("nan")}),
        (scene, {"fields": ("no-such",)}),
        (tmp_path / "missing", {}),
    ):
        with pytest.raises(InputError):
            distill_rows(path, out, **options)
    assert not out.exists()
    for content in ('[{"name": "x"}]', "{", '{"a": 1}', "null"):
        (tmp_path / "rows.json").write_text(content)
        with pytest.raises(InputError, match="rows.json"):
            distill_rows(scene, tmp_path)


def test_the_command_gives_scene_budget_and_fields(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "polyfield.apps.bench.distill_rows",
        lambda path, out, **options: asked.append((path, out, options)) or [],
    )
    bench(Bench("distill", (Path("a"),)))
    main(["bench", "distill", "a", "--minutes", "2", "--only", "mlp,rbf", "--out", "here"])
    usual = {"minutes": None, "steps": None, "seed": 0, "fields": ()}
    assert asked == [
        (Path("a"), Path("distill"), usual),
        (Path("a"), Path("here"), usual | {"minutes": 2.0, "fields": ("mlp", "rbf")}),
    ]
    with pytest.raises(InputError, match="RUN"):
        bench(Bench("distill"))
