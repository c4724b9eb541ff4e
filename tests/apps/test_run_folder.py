import errno
import json
import math
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from polyfield.apps import run_folder
from polyfield.apps.run_folder import RunFolder
from polyfield.cuda.errors import InputError

HOLD = """
import sys, time
from pathlib import Path
from polyfield.apps.run_folder import RunFolder
run = RunFolder.open(Path(sys.argv[1]), writing=True)
print("locked", flush=True)
time.sleep(60)
"""


def listing(path):
    return sorted(str(p.relative_to(path)) for p in path.rglob("*"))


def test_a_new_run_has_its_places_and_its_config(tmp_path):
    path = tmp_path / "runs" / "lego-hash-grid"
    with RunFolder.create(path, {"field": "hash-grid", "rate": math.inf}) as run:
        assert run.config() == {"field": "hash-grid", "rate": None}
    assert listing(path) == [".lock", "checkpoints", "config.json", "renders"]
    assert RunFolder.open(path).config() == {"field": "hash-grid", "rate": None}


def test_writing_the_config_is_atomic(tmp_path, monkeypatch):
    with RunFolder.create(tmp_path / "run", {"a": 1}) as run:

        def fail(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(InputError, match="config.json.*no room"):
            run.write_config({"a": 2})
        assert run.config() == {"a": 1}


def test_a_run_is_not_written_over_unless_that_is_asked_for(tmp_path):
    path = tmp_path / "run"
    with RunFolder.create(path, {"a": 1}) as run:
        run.append({"step": 1})
        (run.checkpoints / "step_00000001.safetensors").write_text("")
        (path / "notes.txt").write_text("the user's own")
    before = listing(path)
    with pytest.raises(InputError, match="holds a run already.*--resume"):
        RunFolder.create(path, {"a": 2})
    assert listing(path) == before and RunFolder.open(path).config() == {"a": 1}
    with RunFolder.create(path, {"a": 2}, replace=True) as run:
        assert run.config() == {"a": 2} and run.records() == []
    assert listing(path) == [".lock", "checkpoints", "config.json", "notes.txt", "renders"]


@pytest.mark.parametrize(
    "content", ["{", "[1]", '{"name": "my app"}', '{"config_version": 2}', "[" * 10**5, "\xff"]
)
def test_a_config_that_is_not_ours_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(content.encode("latin-1"))
    for act in (
        lambda: RunFolder.open(tmp_path),
        lambda: RunFolder.create(tmp_path, {}, replace=True),
    ):
        with pytest.raises(InputError, match="config.json"):
            act()
    assert path.read_bytes() == content.encode("latin-1")


def test_what_holds_no_run_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError, match="holds no config.json.*polyfield train"):
            RunFolder.open(path, writing=True)
    assert listing(tmp_path) == []


def test_a_place_that_cannot_be_a_folder_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(InputError, match="cannot be written"):
            RunFolder.create(path, {})


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not stop root")
def test_a_read_only_folder_is_one_sentence(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="cannot be written"):
        RunFolder.create(tmp_path / "run", {})


@pytest.mark.parametrize("call", ["mkdir", "open"])
def test_a_refusal_of_the_system_is_one_sentence_and_frees_the_lock(tmp_path, monkeypatch, call):
    RunFolder.create(tmp_path / "run", {}).close()
    with monkeypatch.context() as patch:

        def refuse(*_args, **_named):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        if call == "mkdir":
            patch.setattr(run_folder.Path, "mkdir", refuse)
        else:
            patch.setattr("builtins.open", refuse)
        with pytest.raises(InputError, match="Read-only file system"):
            RunFolder.open(tmp_path / "run", writing=True)
    RunFolder.open(tmp_path / "run", writing=True).close()


def test_a_second_writer_is_refused_and_readers_are_not(tmp_path):
    path = tmp_path / "run"
    with RunFolder.create(path, {}):
        for act in (
            lambda: RunFolder.open(path, writing=True),
            lambda: RunFolder.create(path, {}, replace=True),
        ):
            with pytest.raises(InputError, match=f"in use by another .* .number {os.getpid()}"):
                act()
        assert RunFolder.open(path).config() == {}
    RunFolder.open(path, writing=True).close()


def test_the_lock_goes_with_the_process_however_it_ends(tmp_path):
    path = tmp_path / "run"
    RunFolder.create(path, {}).close()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(InputError, match=f"number {other.pid}"):
            RunFolder.open(path, writing=True)
        other.send_signal(signal.SIGKILL)
        other.wait()
    RunFolder.open(path, writing=True).close()


def test_a_file_system_without_locks_is_refused(tmp_path, monkeypatch):
    def unable(handle):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(run_folder, "_exclusive_lock", lambda: unable)
    with pytest.raises(InputError, match="cannot be locked.*local disk"):
        RunFolder.create(tmp_path / "run", {})


def test_windows_locks_its_way(tmp_path, monkeypatch):
    locked = set()

    def locking(handle, mode, count):
        assert (mode, count, os.lseek(handle, 0, os.SEEK_CUR)) == (2, 1, 0)
        file = os.fstat(handle).st_ino
        if file in locked:
            raise PermissionError(errno.EACCES, "Permission denied")
        locked.add(file)

    RunFolder.create(tmp_path / "run", {}).close()
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK=2))
    monkeypatch.setattr(run_folder, "sys", SimpleNamespace(platform="win32"))
    with RunFolder.open(tmp_path / "run", writing=True):
        with pytest.raises(InputError, match=f"number {os.getpid()}"):
            RunFolder.open(tmp_path / "run", writing=True)


def test_records_come_back_in_order_and_numbers_json_does_not_know_are_null(tmp_path):
    with RunFolder.create(tmp_path / "run", {}) as run:
        assert run.records() == []
        run.append({"step": 1, "loss": 0.5})
        run.append({"step": 2, "psnr": math.inf})
        assert run.records() == [{"step": 1, "loss": 0.5}, {"step": 2, "psnr": None}]
        for line in run.metrics_path.read_text().splitlines():
            json.loads(line, parse_constant=pytest.fail)


@pytest.mark.parametrize("half", [b'{"step": 3, "lo', b"{", b"\xc3", b'{"step": 3, "loss": 1}'])
def test_a_half_written_last_line_is_passed_over_and_goes_on_resume(tmp_path, half):
    with RunFolder.create(tmp_path / "run", {}) as run:
        run.append({"step": 1})
        with open(run.metrics_path, "ab") as file:
            file.write(half)
        assert run.records()[0] == {"step": 1}
        run.forget_after(2)
        run.append({"step": 2})
        assert run.records() == [{"step": 1}, {"step": 2}]


def test_a_damaged_line_elsewhere_is_named(tmp_path):
    with RunFolder.create(tmp_path / "run", {}) as run:
        run.metrics_path.write_text('{"step": 1}\n12\n{"step": 2}\n')
        with pytest.raises(InputError, match="metrics.jsonl: line 2"):
            run.records()
        assert run.forget_after(5) == 1
        assert run.records() == [{"step": 1}, {"step": 2}]


def test_forgetting_keeps_the_step_itself(tmp_path):
    with RunFolder.create(tmp_path / "run", {}) as run:
        for step in range(5):
            run.append({"step": step})
        assert run.forget_after(2) == 2
        assert [r["step"] for r in run.records()] == [0, 1, 2]


def test_opening_for_writing_clears_what_a_killed_writer_left(tmp_path):
    RunFolder.create(tmp_path / "run", {}).close()
    left = tmp_path / "run/checkpoints/.step_00000001.safetensors.0a.partial"
    left.write_text("half")
    (tmp_path / "run/renders").rmdir()
    RunFolder.open(tmp_path / "run")
    assert left.exists()
    RunFolder.open(tmp_path / "run", writing=True).close()
    assert listing(tmp_path / "run") == [".lock", "checkpoints", "config.json", "renders"]


def test_a_full_disk_under_the_metrics_is_one_sentence(tmp_path, monkeypatch):
    with RunFolder.create(tmp_path / "run", {}) as run:

        def refuse(*_args, **_named):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr("builtins.open", refuse)
        with pytest.raises(InputError, match="metrics.jsonl.*no room"):
            run.append({"step": 1})


@pytest.mark.parametrize("name", ["checkpoints/best.pt", "renders/mine.png", "metrics.jsonl"])
def test_what_another_program_keeps_under_our_names_is_never_removed(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("precious")
    (tmp_path / ".theirs.partial").write_text("a download")
    with pytest.raises(InputError, match=f"holds '{name.split('/')[0]}' and no config.json"):
        RunFolder.create(tmp_path, {}, replace=True)
    assert (tmp_path / name).read_text() == "precious"
    assert (tmp_path / ".theirs.partial").exists() and not (tmp_path / "config.json").exists()


def test_a_lock_that_is_a_link_leaves_alone_what_it_leads_to(tmp_path):
    (tmp_path / "diary").write_text("dear diary")
    RunFolder.create(tmp_path / "run", {}).close()
    (tmp_path / "run/.lock").unlink()
    (tmp_path / "run/.lock").symlink_to(tmp_path / "diary")
    with pytest.raises(InputError, match=r"\.lock"):
        RunFolder.open(tmp_path / "run", writing=True)
    assert (tmp_path / "diary").read_text() == "dear diary"


def test_a_config_that_is_a_dangling_link_is_not_written_through(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="holds no config.json"):
        RunFolder.create(tmp_path / "run", {})
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    "line",
    [
        '{"step": "a"}',
        '{"step": [1]}',
        '{"step": null}',
        '{"step": 1e-300}',
        '{"step": NaN}',
        '{"step": -1}',
        '{"step": 1, "seconds": "x"}',
        '{"step": 1, "seconds": 1e999}',
        '{"step": 1' + "0" * 4000 + "}",
        '{"a": ' + "[" * 10**5 + "]" * 10**5 + "}",
        '"step"',
    ],
)
def test_a_line_that_counts_in_no_numbers_is_damaged(tmp_path, line):
    with RunFolder.create(tmp_path / "run", {}) as run:
        run.metrics_path.write_text(line + '\n{"step": 2, "seconds": null}\n')
        with pytest.raises(InputError, match="metrics.jsonl: line 1"):
            run.records()
        assert run.forget_after(5) == 1
        assert run.records() == [{"step": 2, "seconds": None}]


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl"])
@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_records_that_are_no_files_are_refused_by_name(tmp_path, name, kind):
    RunFolder.create(tmp_path / "run", {}).close()
    path = tmp_path / "run" / name
    path.unlink(missing_ok=True)
    os.mkfifo(path) if kind == "pipe" else path.mkdir()
    with pytest.raises(InputError, match=rf"{name}: cannot be read \(no plain file\)"):
        RunFolder.open(tmp_path / "run", writing=True).forget_after(0)


def test_records_of_nothing_end_at_the_first_that_is_none(tmp_path):
    with RunFolder.create(tmp_path / "run", {}) as run:
        run.metrics_path.write_text('{"step": 1}\n' + "\n" * 3_000_000)
        with pytest.raises(InputError, match="line 2: is no JSON object"):
            run.records()


def test_more_records_than_any_run_writes_are_refused(tmp_path):
    with RunFolder.create(tmp_path / "run", {}) as run:
        run.metrics_path.write_text('{"step":1}\n' * 65_536)
        assert len(run.records()) == 65_536
        run.append({"step": 2})
        for read in (run.records, lambda: run.forget_after(0)):
            with pytest.raises(InputError, match="more than 65,536 lines"):
                read()


def test_a_version_of_any_length_is_a_short_word(tmp_path):
    (tmp_path / "config.json").write_text(f'{{"config_version": {list(range(100_000))}}}')
    with pytest.raises(InputError, match="config_version an array of 100000"):
        RunFolder.open(tmp_path)
