"""Every kernel, every instantiation, under every sanitizer: `polyfield bench sanitizers`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from time import perf_counter

from polyfield.apps.torch_threads import torch_threads
from polyfield.cuda.backend import backend_asked_for
from polyfield.cuda.errors import BackendError
from polyfield.cuda.exercises import ALL
from polyfield.cuda.kernel import all_kernels
from polyfield.cuda.recording import Recording, recording
from polyfield.cuda.replay import Meaning, Sanitizer, replay

BACKENDS: dict[Meaning, str] = {"block": "emulated", "cpu": "", "reversed": "emulated"}
SANITIZERS: dict[Meaning, tuple[Sanitizer, ...]] = {
    "block": ("thread", "address"),
    "cpu": ("thread", "address"),
    "reversed": ("address",),
}


def sanitizer_rows() -> list[dict[str, object]]:
    """{name, kernels, launches, seconds, findings} of each sanitizer and meaning; minutes of work.

    findings: {kernel, report} of whatever was found. Prints nothing. Raises BackendError where an
    instantiation is launched by no exercise, or the compiler has no such sanitizer.
    """
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for meaning in BACKENDS:
            recorded = record(meaning)
            bodies = tuple(sorted(set(recorded.bodies)))
            missing = {kernel.body for kernel in all_kernels()} - set(bodies)
            # The CPU takes the step of Adam within HashScatter.
            if missing - ({"LazyAdam"} if meaning == "cpu" else set()):
                raise BackendError(f"{sorted(missing)}: no exercise launches them; expected all")
            file = Path(folder, meaning)
            recorded.write(file)
            for sanitizer in SANITIZERS[meaning]:
                begin = perf_counter()
                found = replay(file, bodies, sanitizer, meaning)
                rows.append(
                    {
                        "name": f"{sanitizer}-{meaning}",
                        "kernels": len(bodies),
                        "launches": len(recorded.bodies),
                        "seconds": round(perf_counter() - begin, 1),
                        "findings": [vars(finding) for finding in found],
                    }
                )
    return rows


def record(meaning: Meaning) -> Recording:
    """The launches of all exercises, as a GPU's launch path or as the CPU's makes them."""
    # Two threads: levels of a hash grid are divided among them.
    with backend_asked_for(BACKENDS[meaning]), torch_threads(2), recording() as recorded:
        for exercise in ALL.values():
            exercise()
    return recorded


def sanitizer_summary(rows: list[dict]) -> str:
    """A line for each row and for each finding."""
    lines = []
    for row in rows:
        findings = row["findings"]
        lines.append(
            f"{row['name']:<16} {row['kernels']} kernels, {row['launches']} launches, "
            f"{row['seconds']:.1f} s: " + (f"{len(findings)} findings" if findings else "clean")
        )
        lines += [f"  {each['kernel']}: {each['report']}" for each in findings]
    return "\n".join(lines)
