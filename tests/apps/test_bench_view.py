import pytest

from polyfield.apps import bench_view
from polyfield.apps.bench_view import view_seconds
from polyfield.apps.demo_scene import demo_scene
from polyfield.apps.formats.nerf_synthetic import write_nerf_synthetic
from polyfield.apps.train import train
from polyfield.apps.train_options import Train
from polyfield.apps.trained import Trained
from polyfield.cuda.errors import InputError

SIZE, ROUNDS = 12, 3


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    made = demo_scene(size=SIZE, views=15)
    write_nerf_synthetic(folder / "scene", made.nerf_synthetic_splits(), made.angle_x)
    train(Train(scene=folder / "scene", out=folder / "run", steps=1, device="cpu"))
    return folder / "run"


def test_new_views_of_the_photographs_size_are_timed(run, monkeypatch):
    shown = []
    view = Trained.view

    def record(self, cameras, index, **options):  # what is rendered stays as it is
        image = view(self, cameras, index, **options)
        shown.append((index, options["samples_per_pixel"], tuple(image.color.shape)))
        return image

    monkeypatch.setattr(Trained, "view", record)
    rows = view_seconds(run, ROUNDS)
    names = ["view-12x12/1-ray-a-pixel", "view-12x12/4-rays-a-pixel"]
    assert [row.name for row in rows] == names
    assert all(row.ours > 0 and row.unit == "s" and row.ratio is None for row in rows)
    order = [0, 0, 1, 2]  # the first of them only warms
    assert shown == [(i, rays, (SIZE, SIZE, 3)) for rays in (1, 4) for i in order]


def test_the_time_is_the_median_after_a_view_that_only_warms(run, monkeypatch):
    ends = [100, 7, 2, 3] * 2
    clock = iter([t for end in ends for t in (0.0, float(end))])
    monkeypatch.setattr(bench_view, "perf_counter", lambda: next(clock))
    assert [row.ours for row in view_seconds(run, ROUNDS)] == [3, 3]


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(InputError):
        view_seconds(tmp_path, ROUNDS)
