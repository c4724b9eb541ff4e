from dataclasses import replace

import pytest
import torch

from polyfield.apps import bench_splats
from polyfield.apps.bench import Bench, bench
from polyfield.apps.bench_race import hold
from polyfield.apps.bench_scenes import _packed_bytes
from polyfield.apps.bench_splats import ball, drawn_against_reference, seen_of
from polyfield.apps.checkpoint import latest
from polyfield.apps.export import Export, export
from polyfield.apps.shown import load_shown
from polyfield.apps.train import train
from polyfield.apps.train_options import Train
from polyfield.cuda.errors import InputError
from polyfield.fields.densification import every


@pytest.fixture(scope="module")
def run(scene, tmp_path_factory):
    out = tmp_path_factory.mktemp("bench") / "run"
    train(Train(scene, field="gaussians", splats=120, steps=12, out=out, report=False))
    return out


def test_both_sides_come_to_the_same():
    row = hold("splats", drawn_against_reference(60, 40), 2)
    assert row.ratio is not None and row.ratio > 0


def test_the_ball_fills_most_of_the_image():
    seen = seen_of(*ball(3000, 100))
    assert len(seen.rows) == 3000
    away = (seen.means2d - 50).norm(dim=1)
    assert 0.68 < away.max() / 50 < 0.76


def test_drawing_and_training_are_timed_of_a_run(run, monkeypatch):
    """With few Gaussians; nothing of the run changes."""
    monkeypatch.setattr(bench_splats, "COUNT", 50)
    monkeypatch.setattr(bench_splats, "REFERENCE_SECONDS", 0.01)
    monkeypatch.setattr(bench_splats, "GROWTH", (100, 200))
    monkeypatch.setattr(bench_splats, "GROWTH_SIDE", 40)
    monkeypatch.setattr(bench_splats, "STEPS", 2)
    before = latest(run / "checkpoints").path.read_bytes()
    rows = bench(Bench("splats", (run,), rounds=2))
    count = len(load_shown(run, torch.device("cpu")).gaussians)
    names = [str(row["name"]) for row in rows]
    assert names[0].startswith("splats-drawn-") and names[0].endswith("/reference")
    assert names[1:] == [
        "splats-both-ways-100",
        "splats-both-ways-200",
        f"splats-step-{count}-40x40",
        f"splats-both-ways-{count}-80x80",
        f"splats-view-{count}-40x40",
    ]
    assert all(0 < row["ours"] < 1e5 and row["unit"] == "ms" for row in rows)
    assert rows[0]["ratio"] == pytest.approx(rows[0]["theirs"] / rows[0]["ours"])
    assert latest(run / "checkpoints").path.read_bytes() == before


def test_steps_that_are_timed_change_no_number_of_gaussians():
    """A change is due every so many steps, which are not among them."""
    first = bench_splats.USUAL_STEPS // 2 + 1
    done = range(first + 1, first + bench_splats.STEPS + 1)
    assert not any(number % every(bench_splats.USUAL_STEPS) == 0 for number in done)


def test_views_of_gaussians_are_timed_with_one_ray_a_pixel(run):
    rows = bench(Bench("view", (run,), rounds=2))
    assert [row["name"] for row in rows] == ["view-40x40/1-ray-a-pixel"] and rows[0]["ours"] > 0


def test_packed_gaussians_are_an_spz(run, tmp_path):
    trained = load_shown(run, torch.device("cpu"))
    export(Export(run, tmp_path / "scene.spz", device="cpu"))
    assert _packed_bytes(trained) == (tmp_path / "scene.spz").stat().st_size


def test_a_run_of_another_field_is_refused(scene, tmp_path):
    train(Train(scene, steps=2, out=tmp_path / "run", report=False))
    with pytest.raises(InputError, match="a run of hash-grid; expected one of Gaussians"):
        bench(replace(Bench("splats"), run=(tmp_path / "run",)))
