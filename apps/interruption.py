"""Ctrl-C that lets a step finish."""

import shlex
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from polyfield.cuda.errors import PolyfieldError


class Interrupted(PolyfieldError):
    """The user stopped a run; its checkpoint is written. The command line exits with 130."""

    def __init__(self, folder: Path, step: int, steps: int | None):
        super().__init__(folder, step, steps)
        self.folder, self.step, self.steps = folder, step, steps
        self.verb = "train"  # that goes on with the run

    def __str__(self) -> str:
        total = "" if self.steps is None else f" of {self.steps}"
        return (
            f"interrupted; the checkpoint of step {self.step}{total} is written. "
            f"Go on with: polyfield {self.verb} --out {shlex.quote(str(self.folder))} --resume"
        )


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """A function that says whether SIGINT or SIGTERM has come since the block began.

    The first signal only sets the answer; the second acts as it would have without the block, for
    whoever cannot wait. Outside the main thread, where Python hands out no signals, it never comes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    requested = threading.Event()
    before: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in before.items():
            # None: the handler was not set from Python, and cannot be set back from it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def handle(number: int, frame: FrameType | None) -> None:
        requested.set()
        restore()

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, handle)
    try:
        yield requested.is_set
    finally:
        restore()
