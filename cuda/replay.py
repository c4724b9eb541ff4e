"""Recorded launches played again under the sanitizers of the machine's C++ compiler.

They do not load into an ordinary Python, so a small program of their own plays the recording, from
the same sources. `block`: blocks of real threads, two at the same time, as a GPU's grid. `cpu`: the
native module's meaning, two threads sharing the tiles as its launcher shares them. `reversed`: the
same with its lanes backwards.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from polyfield.cuda.errors import BackendError
from polyfield.cuda.host_builds import build, compiled
from polyfield.cuda.native_library import SOURCES

Sanitizer = Literal["thread", "address"]
Meaning = Literal["block", "cpu", "reversed"]

# A prime: two lanes are played by one thread, and a race between them is not seen, only where their
# numbers differ by a multiple of it, and what kernels do has strides of 2, 3 and powers of 2.
BLOCK = 5
_FLAGS = {
    "thread": ("-O1", "-g1", "-fsanitize=thread"),
    "address": (
        "-O1",
        "-g1",
        "-fsanitize=address,undefined,float-cast-overflow",
        "-fno-sanitize-recover=undefined,float-cast-overflow",
    ),
}
_MEANINGS = {
    "block": (f"-DBLOCK_OF_THREADS={BLOCK}",),
    "cpu": (),
    "reversed": ("-DREVERSE_LANES",),
}
# What ThreadSanitizer says of addresses that it did not expect, and not of the program.
_SCATTERED = ("unexpected memory mapping", "ThreadSanitizer failed to allocate")
_SUSPECT = re.compile(
    r"WARNING: ThreadSanitizer: |ERROR: AddressSanitizer|runtime error: |^DIFFERS: ", re.MULTILINE
)
_SETTINGS = {
    # Leaks are not looked for: that needs ptrace, which containers often refuse.
    "ASAN_OPTIONS": "detect_leaks=0",
    "TSAN_OPTIONS": "history_size=4",
}


@dataclass(frozen=True)
class Finding:
    """What a sanitizer reported, or the comparison with the recorded results."""

    kernel: str
    """The body that was running."""
    report: str
    """The report's words."""


def replay(
    recorded: Path,
    bodies: tuple[str, ...],
    sanitizer: Sanitizer,
    meaning: Meaning,
    sources: Path = SOURCES,
) -> list[Finding]:
    """Plays a file of `recording` and returns what was found; nothing is as it should be.

    bodies: the kernels in it. sources: the folder of kernel files to build them from. Raises
    BackendError where the compiler has no such sanitizer, or the program does not run to its end
    without a report.
    """
    flags = _FLAGS[sanitizer]
    name = f"{sanitizer}-{meaning}"
    library = build(name, *flags, *_MEANINGS[meaning], sources=sources, bodies=bodies)
    player = compiled(f"replay-{sanitizer}", SOURCES / "replay.cpp", flags)
    with tempfile.TemporaryDirectory() as folder:
        second = library
        if meaning == "block":  # a tile's memory and barrier are a library's own
            second = Path(shutil.copy(library, Path(folder, "second.so")))
        done = _run([str(player), str(recorded), str(library), str(second)])
    found = _findings(done.stderr)
    if done.returncode and not found:
        raise BackendError(f"replay, {name}: ended with {done.returncode}: {done.stderr[-2000:]}")
    return found


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ.get("PATH", os.defpath)} | _SETTINGS
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    scattered = any(words in done.stderr for words in _SCATTERED)
    if scattered and shutil.which("setarch"):
        # Some kernels scatter addresses more widely than ThreadSanitizer can follow.
        done = subprocess.run(
            ["setarch", "-R", *command], capture_output=True, text=True, env=environment
        )
    return done


def _findings(text: str) -> list[Finding]:
    found: list[Finding] = []
    for part in re.split(r"^launch \d+: ", text, flags=re.MULTILINE)[1:]:
        kernel, _, rest = part.partition("\n")
        if _SUSPECT.search(rest):
            found.append(Finding(kernel, rest[:4000]))
    return found
