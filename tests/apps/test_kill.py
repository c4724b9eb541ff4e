"""`polyfield train` as a process: killed at any moment, on a full disk, in a read-only folder."""

import random
import shutil
import subprocess
from functools import cache

import pytest

from polyfield.apps import checkpoint
from polyfield.apps.bench_kills import killed_moments, train_words
from polyfield.apps.run_folder import RunFolder
from polyfield.apps.train import train
from polyfield.apps.train_options import Train

STEPS = 90


@pytest.fixture(scope="module")
def uninterrupted(disc_scene, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    train(Train(scene=disc_scene, out=out, steps=STEPS, device="cpu", seed=5))
    return out


def command(scene, out, *more):
    return [*train_words(scene, out, STEPS), *more]


def final_bytes(run):
    return checkpoint.step_path(run / "checkpoints", STEPS).read_bytes()


def test_three_kills_at_random_moments_change_no_bit(disc_scene, uninterrupted, tmp_path):
    seed = random.randrange(10**6)
    print(f"seed {seed}")  # shown if the test fails
    run = tmp_path / "run"
    began_at = killed_moments(disc_scene, run, STEPS, 3, random.Random(seed))
    assert 0 < began_at[-1] < STEPS
    assert final_bytes(run) == final_bytes(uninterrupted)
    events = [r for r in RunFolder.open(run).records() if r.get("event") == "resume"]
    assert [event["step"] for event in events] == began_at
    assert not list(run.rglob("*.partial"))


@cache
def own_mounts():
    """Why this user cannot mount what only one process sees; nothing where that is possible."""
    if not shutil.which("unshare"):
        return "no program unshare"
    done = subprocess.run(
        ["unshare", "-Urm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, text=True
    )
    return "" if not done.returncode else f"no mounts of one's own: {done.stderr.strip()}"


def with_mounts(script, *arguments):
    """Runs a script of sh that may mount things: no privilege is needed, and nobody else sees."""
    if reason := own_mounts():
        pytest.skip(reason)
    words = ["unshare", "-Urm", "sh", "-ec", script, "sh", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True)


def is_one_sentence(text, *words):
    lines = text.strip().splitlines()
    return len(lines) == 1 and lines[0].startswith("polyfield: ") and all(w in text for w in words)


def test_a_full_disk_is_one_sentence_and_the_run_can_go_on(disc_scene, uninterrupted, tmp_path):
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    room = len(final_bytes(uninterrupted)) * 3 // 2  # for one checkpoint and a half
    script = """
        mount -t tmpfs -o size=$3 tmpfs "$1"
        disk=$1 kept=$2; shift 3
        code=0; "$@" > /dev/null || code=$?
        cp -r "$disk/run" "$kept"
        exit $code
    """
    done = with_mounts(script, disk, kept, room, *command(disc_scene, disk / "run"))
    assert done.returncode == 2
    assert is_one_sentence(done.stderr, str(disk / "run"), "no room for it"), done.stderr
    saved = checkpoint.latest(kept / "checkpoints")
    assert saved is not None and not saved.damaged and saved.step < STEPS
    assert not list(kept.rglob("*.partial"))
    resumed = subprocess.run(command(disc_scene, kept, "--resume"), capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert final_bytes(kept) == final_bytes(uninterrupted)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("place", ["a run", "a new folder"])
def test_a_read_only_folder_is_one_sentence_and_nothing_changes(
    disc_scene, uninterrupted, tmp_path, place
):
    folder = tmp_path / "folder"
    out, more = folder / "new", []
    folder.mkdir()
    if place == "a run":
        out, more = folder / "run", ["--resume"]
        shutil.copytree(uninterrupted, out)
    before = contents(folder)
    assert bool(before) == (place == "a run")
    script = """
        mount --bind "$1" "$1"
        mount -o remount,bind,ro "$1"
        shift
        exec "$@"
    """
    done = with_mounts(script, folder, *command(disc_scene, out, *more))
    assert done.returncode == 2
    assert is_one_sentence(done.stderr, str(out)), done.stderr
    assert contents(folder) == before
