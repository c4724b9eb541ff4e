"""Training that is killed again and again: `polyfield bench kills`."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from polyfield.apps import checkpoint
from polyfield.apps.fuzz_samples import synthetic_scene
from polyfield.apps.fuzz_trees import write_tree
from polyfield.apps.run_folder import RunFolder
from polyfield.cuda.errors import PolyfieldError

KILLS, STEPS = 10, 300
# The command itself, except that a checkpoint comes every tenth of a second: many moments of these
# short runs lie within one.
_PROGRAM = """
import sys
from polyfield.apps import loop, main
loop.CHECKPOINT_SECONDS = 0.1
sys.exit(main.main())
"""
_LOOK_SECONDS, _MOST_DELAY = 0.002, 0.1


def train_words(scene: Path, out: Path, steps: int) -> list[str]:
    """The command line of a short training run with many checkpoints, on the CPU."""
    options = ["--out", str(out), "--steps", str(steps), "--device", "cpu", "--seed", "5"]
    return [sys.executable, "-c", _PROGRAM, "train", str(scene), *options]


def killed_moments(scene: Path, out: Path, steps: int, kills: int, random: Random) -> list[int]:
    """Train in `out`, kill it that many times and let it end; where it went on each time, in steps.

    Kills come by kill -9 at moments drawn from `random`, in every part of the run. PolyfieldError
    where the command ends by itself before it is killed, or refuses to go on.
    """
    words, began = train_words(scene, out, steps), []
    for kill in range(kills):
        window = steps // kills
        target = window * kill + random.randrange(1, max(2, window))
        delay = random.uniform(0, _MOST_DELAY)
        more = ["--resume"] if kill else []
        with subprocess.Popen(
            [*words, *more], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as process:
            while process.poll() is None and _steps_done(out) < target:
                time.sleep(_LOOK_SECONDS)
            time.sleep(delay)
            process.kill()
            said = process.communicate()[1].decode(errors="replace")
        if process.returncode != -signal.SIGKILL:
            ended = f"ended by itself with {process.returncode}: {said.strip()[-300:]}"
            raise PolyfieldError(f"bench kills: train {ended}")
        began.append(max(checkpoint.steps_in(out / "checkpoints"), default=0))
    _finish([*words, "--resume"])
    return began


def kill_rows(
    seed: int, kills: int = KILLS, steps: int = STEPS, scene: Path | None = None
) -> list[dict[str, object]]:
    """One row {name, seed, steps, moments, findings} of a run that was killed again and again.

    moments: the steps at which it went on. findings: sentences, where its last checkpoint is not,
    byte for byte, that of a run that nobody interrupted, or where anything else was left behind.
    scene: a folder to train on; a small one of its own if not given.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = scene or Path(place) / "scene"
        if scene is None:
            write_tree(folder, synthetic_scene())
        whole, killed = Path(place) / "whole", Path(place) / "killed"
        _finish(train_words(folder, whole, steps))
        moments = killed_moments(folder, killed, steps, kills, Random(seed))
        last = [checkpoint.step_path(run / "checkpoints", steps) for run in (whole, killed)]
        findings = []
        if last[0].read_bytes() != last[1].read_bytes():
            findings.append("the last checkpoint differs from that of an uninterrupted run")
        resumed = [
            record["step"]
            for record in RunFolder.open(killed).records()
            if record.get("event") == "resume"
        ]
        if resumed != moments:
            findings.append(f"it went on at steps {resumed} where checkpoints of {moments} lay")
        findings += [f"{path.name} was left behind" for path in killed.rglob("*.partial")]
    row = {"name": "kills", "seed": seed, "steps": steps, "moments": moments}
    return [{**row, "findings": findings}]


def kill_summary(rows: list[dict]) -> str:
    """What was done, and what came of it."""
    row = rows[0]
    lines = [
        f"killed {len(row['moments'])} times in {row['steps']} steps (seed {row['seed']}), "
        f"went on at steps {', '.join(map(str, row['moments']))}",
        *row["findings"],
    ]
    if not row["findings"]:
        lines.append("the last checkpoint is that of an uninterrupted run, byte for byte")
    return "\n".join(lines)


def _steps_done(out: Path) -> int:
    """The last step in the records of a run that may be going on."""
    return max((record["step"] for record in RunFolder(out).records()), default=0)


def _finish(words: list[str]) -> None:
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise PolyfieldError(f"bench kills: train refuses: {done.stderr.strip()[-300:]}")
