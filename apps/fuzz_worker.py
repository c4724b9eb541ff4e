"""A process that opens hostile files for another one, and what it costs and how it ends there."""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import os
import re
import resource
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

import torch

from polyfield.cuda.errors import PolyfieldError

Reader = Callable[[Path], object]
"""Opens what lies in a folder, or refuses it by a PolyfieldError."""

Ending = Literal["read", "refused", "raised", "memory", "slow", "hung", "crashed"]
FAULTS: tuple[Ending, ...] = ("raised", "memory", "slow", "hung", "crashed")

_NO_MEMORY = re.compile("allocate memory|not enough memory|out of memory|bad_alloc", re.IGNORECASE)
_BYTES_A_SECOND = 2e8
_LOOK_SECONDS = 0.1  # between two looks at a worker that has not answered


@dataclass(frozen=True)
class Limits:
    """What opening one folder may cost."""

    seconds: float = 1.0
    """Of the processor: of the clock a busy machine takes any number. One more for each 200 MB that
    the files allow, for a large image, or a text of megabytes, is not read in no time."""
    hung_seconds: float = 10.0
    """Of the processor, or of the clock while it waits for something else than the processor."""
    spare_bytes: int = 1 << 25
    """Beside what the files allow: what allocators and libraries keep for themselves."""


@dataclass(frozen=True)
class Outcome:
    """How opening one folder ended."""

    ending: Ending
    text: str
    """Of the error, or of what was found; empty where it was read."""
    place: str = ""
    """Where in polyfield an error that is none of its own came from."""
    seconds: float = 0.0
    """Of the processor."""
    peak_bytes: int = 0
    """Resident memory at its peak, beyond what there was before."""
    allowed_bytes: int = 0
    """That the files and the limits allow."""


class Worker:
    """Opens folders in a process of its own, which is started anew after each that ends it.

    allowance: bytes that the files of a folder allow, beside the limits' spare ones. Use as a
    context manager. Linux only: its /proc tells the peak of a stretch of a process's life.
    """

    def __init__(self, read: Reader, allowance: Callable[[Path], int], limits: Limits):
        self._read, self._allowance, self._limits = read, allowance, limits
        self._pid = 0
        self._pipe: Connection | None = None

    def open(self, folder: Path) -> Outcome:
        """Open one folder, in a process that is there or a new one; never raises for its sake."""
        if self._pipe is None:
            self._start()
        pipe = self._pipe
        if pipe is None:
            raise RuntimeError("no pipe to the worker")
        try:
            pipe.send(folder)
            stuck = self._stuck(pipe)
            if stuck:
                self.close()
                return Outcome("hung", stuck)
            return pipe.recv()
        except (EOFError, OSError):
            _, status = os.waitpid(self._pid, 0)
            self._pid = 0
            self.close()
            code = os.waitstatus_to_exitcode(status)
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            return Outcome("crashed", name)

    def close(self) -> None:
        """End the process, if there is one."""
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if self._pid:
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close()

    def _start(self) -> None:
        ours, theirs = Pipe()
        gc.freeze()  # what is here already is no garbage of files, and large to look through
        self._pid = os.fork()
        if self._pid:
            gc.unfreeze()
        else:
            try:
                ours.close()
                _serve(theirs, self._read, self._allowance, self._limits)
            finally:
                os._exit(3)  # nothing of the parent's is to be run or flushed here
        theirs.close()
        self._pipe = ours

    def _stuck(self, pipe: Connection) -> str:
        """Empty once an answer (or the end) is there, else why none is waited for any longer."""
        begin = ran = time.monotonic()
        first = last = _processor_seconds(self._pid)
        while not pipe.poll(_LOOK_SECONDS):
            used, runs = _processor_seconds(self._pid), _is_running(self._pid)
            if used != last or runs:
                ran, last = time.monotonic(), used
            if used - first > self._limits.hung_seconds:
                return f"no end after {used - first:.0f} s of the processor"
            if time.monotonic() - ran > self._limits.hung_seconds:
                return f"waits for something that does not come ({ran - begin:.0f} s in)"
        return ""


def _processor_seconds(pid: int) -> float:
    user, system = _stat(pid)[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _is_running(pid: int) -> bool:
    return _stat(pid)[0] == "R"


def _stat(pid: int) -> list[str]:
    """Of a process of ours, which stays there until we wait for it: its state comes first."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()


def _serve(
    pipe: Connection, read: Reader, allowance: Callable[[Path], int], limits: Limits
) -> None:
    """Open folders until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's Ctrl-C ends us by its pipe
    torch.set_num_threads(1)  # the parent's other threads did not come along
    faulthandler.disable()  # how a file ends us is for the parent to tell
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    gc.collect()
    gc.freeze()  # so that looking for garbage is looking at what files left
    with suppress(EOFError):
        while True:
            pipe.send(_measured(pipe.recv(), read, allowance, limits))


def _measured(
    folder: Path, read: Reader, allowance: Callable[[Path], int], limits: Limits
) -> Outcome:
    allowed = allowance(folder) + limits.spare_bytes
    gc.collect()
    _give_back_memory()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _status("VmRSS")
    # Also what is asked for and never touched, which the peak does not show.
    resource.setrlimit(resource.RLIMIT_DATA, (_status("VmData") + allowed, resource.RLIM_INFINITY))
    error, begin = None, time.process_time()
    try:
        result = read(folder)
        del result
    except BaseException as raised:  # whatever a file's reader can raise is what is looked for
        error = raised
    seconds = time.process_time() - begin
    resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    peak = max(0, _status("VmHWM") - before)
    ending, text = _ending(error, seconds, peak, allowed, limits)
    place = _place(error) if error is not None and ending in FAULTS else ""
    return Outcome(ending, text, place, seconds, peak, allowed)


def _ending(
    error: BaseException | None, seconds: float, peak: int, allowed: int, limits: Limits
) -> tuple[Ending, str]:
    said = "" if error is None else f"{type(error).__name__}: {error}"[:500]
    if peak > allowed:
        return "memory", f"{peak >> 20} MiB where {allowed >> 20} are allowed. {said}".rstrip()
    if error is not None and _lacked_memory(error):
        return "memory", f"more than the {allowed >> 20} MiB that are allowed. {said}"
    if error is not None and not isinstance(error, PolyfieldError):
        return "raised", said
    if seconds > limits.seconds + allowed / _BYTES_A_SECOND:
        return "slow", f"{seconds:.1f} s of the processor. {said}".rstrip()
    return ("read", "") if error is None else ("refused", str(error)[:500])


def _lacked_memory(error: BaseException) -> bool:
    """Whether an error, or one that it stands for, came of an allocation that was refused."""
    seen: BaseException | None = error
    for _ in range(20):
        if seen is None:
            return False
        if isinstance(seen, MemoryError) or _NO_MEMORY.search(str(seen)):
            # Python's own parser says so of what is nested too deeply.
            return "pars" not in str(seen) and "too complex" not in str(seen)
        seen = seen.__cause__ or seen.__context__
    return False


def _place(error: BaseException) -> str:
    """The innermost line of polyfield that an error came through, or of another where none is."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "polyfield" in frame.filename] or frames
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""


def _status(key: str) -> int:
    """Bytes that the system counts for this process under a name of /proc/self/status."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split(f"{key}:")[1].split()[0])


def _give_back_memory() -> None:
    """Freed memory would hide what the next file takes."""
    with suppress(AttributeError, OSError):  # a C library without it
        ctypes.CDLL(None).malloc_trim(0)
