"""The bench of kills: what it says of a run that comes out another, and of one that refuses."""

import pytest

from polyfield.apps import bench as bench_module
from polyfield.apps import bench_kills, checkpoint
from polyfield.apps.bench_kills import kill_rows, kill_summary
from polyfield.apps.main import main
from polyfield.apps.run_folder import RunFolder
from polyfield.cuda.errors import PolyfieldError

STEPS = 20


@pytest.fixture
def trained(monkeypatch):
    """In the place of training: the runs that it would leave, the killed one as `spoil` has it."""

    def make(spoil):
        def finish(words):
            out = words[words.index("--out") + 1]
            write_run(bench_kills.Path(out), b"whole")

        def killed(scene, out, steps, kills, random):
            write_run(out, b"whole")
            with RunFolder.open(out) as run:
                run.append({"step": 7, "event": "resume"})
            spoil(out)
            return [7]

        monkeypatch.setattr(bench_kills, "_finish", finish)
        monkeypatch.setattr(bench_kills, "killed_moments", killed)

    return make


def write_run(out, content):
    with RunFolder.create(out, {}) as run:
        checkpoint.step_path(run.checkpoints, STEPS).write_bytes(content)


SPOILT = [
    (lambda out: None, []),
    (
        lambda out: checkpoint.step_path(out / "checkpoints", STEPS).write_bytes(b"wholE"),
        ["the last checkpoint differs from that of an uninterrupted run"],
    ),
    (
        lambda out: RunFolder(out).append({"step": 9, "event": "resume"}),
        ["it went on at steps [7, 9] where checkpoints of [7] lay"],
    ),
    (lambda out: (out / ".a.partial").write_bytes(b""), [".a.partial was left behind"]),
]


@pytest.mark.parametrize(("spoil", "findings"), SPOILT)
def test_each_difference_is_a_finding(trained, spoil, findings):
    trained(spoil)
    (row,) = kill_rows(3, kills=1, steps=STEPS)
    assert row["findings"] == findings
    assert (row["seed"], row["moments"]) == (3, [7])
    text = kill_summary([row])
    assert "(seed 3)" in text and "at steps 7" in text
    assert ("byte for byte" in text) == (not findings)
    assert all(finding in text for finding in findings)


def test_a_training_that_ends_by_itself_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(bench_kills, "_PROGRAM", "import sys; sys.exit('no such scene')")
    with pytest.raises(PolyfieldError, match="train .*no such scene"):
        kill_rows(0, kills=1, steps=STEPS, scene=tmp_path)
    with pytest.raises(PolyfieldError, match="ended by itself with 1: no such scene"):
        bench_kills.killed_moments(tmp_path, tmp_path / "run", STEPS, 1, bench_kills.Random(0))


@pytest.mark.parametrize(("findings", "code"), [([], 0), (["another"], 1)])
def test_the_command_ends_with_1_where_something_was_found(monkeypatch, findings, code):
    row = {"name": "kills", "seed": 4, "steps": 9, "moments": [1], "findings": findings}
    monkeypatch.setattr(bench_module, "kill_rows", lambda seed: [row | {"seed": seed}])
    assert main(["bench", "kills", "--seed", "4"]) == code
