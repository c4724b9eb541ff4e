"""Hostile files against every reader: `polyfield bench fuzz`.

Mutations are drawn from explicit seeds and not by hypothesis: a case must be opened in another
process, which may hang or crash, thousands of times a minute, and each is named by the seed, the
reader and its number. So the bench needs no extra.
"""

from __future__ import annotations

import itertools
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from random import Random

from polyfield.apps.files import make_folder
from polyfield.apps.fuzz_cases import hostile
from polyfield.apps.fuzz_targets import TARGETS, Target, allowance
from polyfield.apps.fuzz_trees import Tree, write_tree
from polyfield.apps.fuzz_worker import FAULTS, Ending, Limits, Outcome, Worker
from polyfield.cuda.errors import BackendError, InputError, PolyfieldError

_KEPT = 3  # reproducers of one finding
LIMITS = Limits()


@dataclass(frozen=True)
class Finding:
    """Something that opening files must not do, the first time that it was seen."""

    ending: Ending
    text: str
    place: str
    """The line of polyfield that it came from, where one is known."""
    case: int
    mutation: str
    files: str
    """The folder that shows it."""
    count: int
    """How many cases ended so, at this place."""


@dataclass
class _Tally:
    """What the cases of one reader came to."""

    cases: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest: int = 0
    ratio: float = 0.0
    found: dict[tuple[str, str], Finding] = field(default_factory=dict)


def fuzz_rows(
    minutes: float,
    only: Sequence[str],
    seed: int,
    out: Path,
    targets: Sequence[Target] = TARGETS,
    cases: int | None = None,
    limits: Limits = LIMITS,
) -> list[dict[str, object]]:
    """{name, seed, cases, refused, slowest_seconds, slowest_case, peak_ratio, findings} of each.

    Each reader gets that many minutes, or `cases` where they are given. peak_ratio: resident memory
    at the peak over what files and limits allow, at most. findings: as Finding. Their files go into
    `out`/NAME/CASE, with a finding.json beside them. InputError for names that are no reader's,
    minutes of no time, and an `out` that cannot be written; BackendError on another system than
    Linux; PolyfieldError where a sound sample is not read.
    """
    known = [target.name for target in targets]
    if unknown := [name for name in only if name not in known]:
        raise InputError("--only", repr(unknown[0][:80]), f"some of {', '.join(known)}")
    if not 0 < minutes <= 10_000:
        raise InputError("--minutes", f"{minutes:g}", "above 0, at most 10,000")
    if sys.platform != "linux":
        raise BackendError("bench fuzz measures with Linux's /proc, which is not there")
    make_folder(out)
    chosen = [target for target in targets if not only or target.name in only]
    return [_fuzz(target, 60 * minutes, cases, seed, out, limits) for target in chosen]


def case_of(target: Target, samples: Sequence[Tree], seed: int, case: int) -> tuple[Tree, str]:
    """The hostile folder of a number, and what was done to it: a function of seed and number."""
    random = Random(f"{seed} {target.name} {case}")
    return hostile(random.choice(samples), target.main, random)


def _fuzz(
    target: Target, seconds: float, cases: int | None, seed: int, out: Path, limits: Limits
) -> dict[str, object]:
    samples = target.samples()
    allowed = partial(allowance, stated_bytes=target.stated_bytes)
    tally, end = _Tally(), time.monotonic() + seconds
    # Within `out`, so that what is found needs only another name.
    with tempfile.TemporaryDirectory(dir=out, prefix=".fuzz") as place:
        folder = Path(place) / "files"
        for sample in samples:
            write_tree(folder, sample)
            _read_sound(target, folder)
        with Worker(target.read, allowed, limits) as worker:
            for case in range(cases) if cases is not None else itertools.count():
                if cases is None and time.monotonic() > end:
                    break
                tree, mutation = case_of(target, samples, seed, case)
                write_tree(folder, tree)
                outcome = worker.open(folder)
                if outcome.ending in FAULTS:
                    # A second time, in a process of its own: the first may have met a busy machine.
                    worker.close()
                    outcome = worker.open(folder)
                _count(tally, outcome, case)
                if outcome.ending in FAULTS:
                    kept = out / target.name / f"{case:06}"
                    _keep(tally, outcome, case, mutation, folder, kept, seed)
    return {
        "name": target.name,
        "seed": seed,
        "cases": tally.cases,
        "refused": tally.refused,
        "slowest_seconds": round(tally.seconds, 3),
        "slowest_case": tally.slowest,
        "peak_ratio": round(tally.ratio, 3),
        "findings": [asdict(finding) for finding in tally.found.values()],
    }


def _read_sound(target: Target, folder: Path) -> None:
    """Here and not in the worker, so that what is imported on the way is no file's cost."""
    try:
        target.read(folder)
    except Exception as error:
        got = f"{type(error).__name__}: {error}"
        raise PolyfieldError(
            f"bench fuzz: a sound sample of {target.name} is refused: {got}"
        ) from error


def _count(tally: _Tally, outcome: Outcome, case: int) -> None:
    tally.cases += 1
    tally.refused += outcome.ending == "refused"
    if outcome.seconds > tally.seconds:
        tally.seconds, tally.slowest = outcome.seconds, case
    if outcome.allowed_bytes:
        tally.ratio = max(tally.ratio, outcome.peak_bytes / outcome.allowed_bytes)


def _keep(
    tally: _Tally,
    outcome: Outcome,
    case: int,
    mutation: str,
    folder: Path,
    kept: Path,
    seed: int,
) -> None:
    # What has no place is told apart by what was done to the first file.
    key = (outcome.ending, outcome.place or mutation.split(":")[0])
    known = tally.found.get(key)
    count = 1 if known is None else known.count + 1
    if count <= _KEPT:
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True)
        folder.rename(kept / "files")
        record = {"seed": seed, "case": case, "mutation": mutation, **asdict(outcome)}
        (kept / "finding.json").write_text(json.dumps(record, indent=1) + "\n")
    if known is None:
        known = Finding(outcome.ending, outcome.text, outcome.place, case, mutation, str(kept), 1)
    tally.found[key] = Finding(**{**asdict(known), "count": count})


def fuzz_summary(rows: list[dict]) -> str:
    """A line for each reader and for each finding."""
    lines = [f"{'reader':<16} {'cases':>8} {'refused':>8}  slowest     peak of allowed  findings"]
    for row in rows:
        lines.append(
            f"{row['name']:<16} {row['cases']:>8} {row['refused']:>8}  "
            f"{row['slowest_seconds']:.3f} s     {100 * row['peak_ratio']:5.0f} %           "
            f"{len(row['findings']) or 'none'}"
        )
        for found in row["findings"]:
            lines.append(
                f"  {found['ending']} {found['place']} ({found['count']}): {found['text']}"
            )
            lines.append(f"    case {found['case']}, {found['mutation']}; see {found['files']}")
    if rows:
        lines.append(f"(seed {rows[0]['seed']})")
    return "\n".join(lines)
