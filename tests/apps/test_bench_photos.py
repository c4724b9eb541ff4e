"""`bench photos` at a tiny size: what it measures, and when it fails."""

import json
from collections import namedtuple
from dataclasses import replace

import pytest

from polyfield.apps import bench, bench_photos
from polyfield.apps.bench_photos import train_capture, train_photographs
from polyfield.apps.main import main
from polyfield.apps.photo_capture import write_capture
from polyfield.cuda.errors import InputError, PolyfieldError


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captures") / "capture"
    write_capture(folder, 16, 0.001)
    return folder


@pytest.fixture(scope="module")
def found(capture, tmp_path_factory):
    return train_capture(capture, tmp_path_factory.mktemp("runs") / "run", 1.0, 3, 1.5)


def test_a_real_training_is_measured(found):
    assert (found.images, found.size, found.steps) == (16, "32x24", 3)
    assert 100e6 < found.peak_bytes <= found.memory_limit_bytes == 10**9 and found.within
    assert found.loading_seconds > 0 and found.training_seconds >= found.step_seconds > 0
    assert found.training_seconds >= found.waiting_seconds > 0 and found.capture_seconds == 1.5
    assert 14 <= found.decoded <= 16 and found.drawn_share == 1 and found.decoding_seconds > 0
    assert found.first_psnr_step == 1 and 3 < found.first_psnr < 40 and 3 < found.psnr < 40


def test_nothing_but_checkpoints_and_a_little_text_is_written(found):
    assert found.checkpoint_bytes > 1e6
    if found.other_written_bytes is not None:
        assert 0 <= found.other_written_bytes < 1e6


def test_the_summary_says_each_figure(found):
    text = bench.summary([vars(found)])
    for word in (
        "16 photographs of 32x24",
        "within 1 GB",
        "3 steps",
        "100.0 %",
        "dB after 1 steps",
    ):
        assert word in text


def test_where_the_memory_is_exceeded_the_exit_code_is_1(found, monkeypatch, capsys, tmp_path):
    asked = []

    def measured(*sizes):
        asked.append(sizes)
        return replace(found, peak_bytes=1_000_000_001, within=len(asked) == 1)

    monkeypatch.setattr(bench, "train_photographs", measured)
    command = ["bench", "photos", "--images", "16", "--megapixels", "0.5", "--memory", "1"]
    assert main([*command, "--steps", "3"]) == 0
    assert main([*command, "--json", str(tmp_path / "rows.json")]) == 1
    assert asked == [(16, 0.5, 1.0, 3), (16, 0.5, 1.0, 200)]
    assert "NOT WITHIN 1 GB" in capsys.readouterr().out
    assert json.loads((tmp_path / "rows.json").read_text())[0]["within"] is False


def test_training_that_fails_says_why(capture, tmp_path):
    with pytest.raises(PolyfieldError, match="torch itself included"):
        train_capture(capture, tmp_path / "run", 0.01, 3)


def test_a_disk_without_room_is_refused_before_anything_is_made(monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(bench_photos.shutil, "disk_usage", lambda folder: usage(10**9, 0, 10**9))
    monkeypatch.setattr(bench_photos, "write_capture", lambda *sizes: pytest.fail("made"))
    with pytest.raises(InputError, match="TMPDIR"):
        train_photographs(1000, 12.0, 2.0, 200)


@pytest.mark.parametrize("option", ["--images=9", "--megapixels=1", "--memory=1", "--steps=9"])
def test_sizes_without_photos_are_refused(option, capsys):
    assert main(["bench", "kernels", option]) == 2
    assert option.split("=")[0] in capsys.readouterr().err
