import errno
import json
import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from polyfield.apps import files
from polyfield.apps.files import (
    open_plain,
    parse_json,
    plain,
    read_plain,
    remove_partial,
    replacing,
    write_json,
)
from polyfield.cuda.errors import InputError


def fail(*_args, **_named):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_the_new_content_stands_when_the_block_ends(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a"]


def test_content_then_name_are_synced_in_this_order(tmp_path, monkeypatch):
    calls = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(handle):
        calls.append("sync folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "sync file")
        real_fsync(handle)

    def replace(old, new):
        calls.append("rename")
        real_replace(old, new)

    monkeypatch.setattr(files.os, "fsync", fsync)
    monkeypatch.setattr(files.os, "replace", replace)
    with replacing(tmp_path / "a") as file:
        file.write(b"x")
    assert calls == ["sync file", "rename", "sync folder"]


@pytest.mark.parametrize("place", ["fsync", "replace"])
def test_a_failure_before_the_rename_leaves_the_old_file_and_nothing_else(
    tmp_path, monkeypatch, place
):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    monkeypatch.setattr(files.os, place, fail)
    with pytest.raises(InputError, match="no room") as caught, replacing(path) as file:
        file.write(b"new")
    assert str(path) in str(caught.value)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a"]


def test_a_failure_after_the_rename_leaves_the_new_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    monkeypatch.setattr(files, "sync_folder", fail)
    with pytest.raises(InputError), replacing(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt()])
def test_an_error_of_the_writer_passes_through_and_cleans_up(tmp_path, error):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(type(error)), replacing(path) as file:
        file.write(b"half")
        raise error
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a"]


def test_a_fault_of_an_encoder_is_not_blamed_on_the_disk(tmp_path):
    with pytest.raises(OSError, match="broken data stream") as caught, replacing(tmp_path / "a"):
        raise OSError("broken data stream")
    assert not isinstance(caught.value, InputError) and os.listdir(tmp_path) == []


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "missing" / "a", tmp_path / "file" / "a"):
        with pytest.raises(InputError, match="cannot be written"), replacing(path):
            pass


def test_a_read_only_file_system_is_one_sentence(tmp_path, monkeypatch):
    def refuse(*_args, **_named):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(InputError, match="cannot be written .Read-only file system"):
        with replacing(tmp_path / "a"):
            pass


def test_remove_partial_takes_what_a_killed_writer_left_and_nothing_else(tmp_path):
    (tmp_path / "kept").write_text("")
    (tmp_path / ".hidden").write_text("")
    block = replacing(tmp_path / "a")
    block.__enter__().write(b"half")  # killed here
    assert len(os.listdir(tmp_path)) == 3
    remove_partial(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".hidden", "kept"]


def test_plain_turns_results_into_what_json_can_hold():
    @dataclass
    class View:
        path: Path
        psnr: float

    value = {"views": [View(Path("r_0.png"), math.inf)], 1: (np.float32(0.5), np.arange(2))}
    expected = {"views": [{"path": "r_0.png", "psnr": None}], "1": [0.5, [0, 1]]}
    assert plain(value) == expected
    assert plain(True) is True
    with pytest.raises(TypeError, match="complex"):
        plain({"a": 1j})


def test_write_json_follows_links_and_leaves_devices_what_they_are(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target.json")
    write_json(tmp_path / "link", {"a": math.nan})
    assert (tmp_path / "link").is_symlink()
    assert json.loads((tmp_path / "target.json").read_text()) == {"a": None}
    (tmp_path / "null").symlink_to(os.devnull)
    write_json(tmp_path / "null", [1])
    assert Path(os.devnull).is_char_device() and (tmp_path / "null").is_symlink()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_device_is_one_sentence():
    with pytest.raises(InputError, match="no room"):
        write_json(Path("/dev/full"), list(range(10000)))


def test_others_may_read_what_they_may_read_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    with replacing(tmp_path / "ours"):
        pass
    modes = {os.stat(tmp_path / name).st_mode for name in ("plain", "ours")}
    assert len(modes) == 1


def test_a_plain_file_is_read_up_to_a_bound(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"12345")
    monkeypatch.setattr(files, "MOST_TEXT_BYTES", 5)
    assert read_plain(tmp_path / "a") == b"12345"
    monkeypatch.setattr(files, "MOST_TEXT_BYTES", 4)
    with pytest.raises(OSError, match="5 bytes are too many"):
        read_plain(tmp_path / "a")
    with pytest.raises(FileNotFoundError):
        read_plain(tmp_path / "b")


@pytest.mark.parametrize("item", ["[]", "{}", "[[1]]", '{"a":{}}', '"\\u4e2d"'])
def test_json_that_is_nothing_but_brackets_is_refused_before_it_becomes_objects(item):
    text = ("[" + ",".join([item] * 600_000) + "]").encode()
    with pytest.raises(ValueError, match="brackets and commas would take"):
        parse_json(text)


def test_json_of_a_large_scene_is_read():
    turn = np.random.default_rng(0).normal(size=(4, 4)).tolist()
    frames = [{"file_path": f"images/{i:05}.png", "transform_matrix": turn} for i in range(20_000)]
    for separators in ((",", ":"), (", ", ": ")):
        text = json.dumps({"frames": frames}, separators=separators).encode()
        assert parse_json(b"\xef\xbb\xbf" + text) == {"frames": frames}


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_plain_file_is_refused_without_waiting_for_it(tmp_path, kind):
    path = Path("/dev/zero") if kind == "device" else tmp_path / "a"
    if kind != "device":
        os.mkfifo(path) if kind == "pipe" else path.mkdir()
    for read in (read_plain, open_plain):
        with pytest.raises(OSError, match="no plain file"):
            read(path)
