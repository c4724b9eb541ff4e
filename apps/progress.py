"""Where a training run stands, and the live line that shows it."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.live import Live
from rich.text import Text

from polyfield.apps.memory import resident_bytes

_SECONDS = 0.2  # between two looks


@dataclass(frozen=True)
class Progress:
    """Where a run stands."""

    step: int
    """Steps done."""
    steps: int | None
    """Steps of the whole run, None until they are fixed."""
    loss: float
    psnr: float | None
    """Of the last validation, in dB."""
    samples_per_second: float
    memory_bytes: int
    """Resident memory of this process."""
    seconds_left: float | None


@dataclass
class Meter:
    """Reads off where a run stands, not too often."""

    read_at: float
    """time.monotonic() of the last reading, or of the run's start."""
    samples: float = 0.0
    """Since then."""

    def read(
        self,
        now: float,
        step: int,
        steps: int | None,
        losses: dict[str, float],
        psnr: float | None,
        seconds_left: float,
    ) -> Progress | None:
        """After each step; None where the last reading lies less than a fifth of a second back."""
        self.samples += losses.get("samples", 0)
        seconds = now - self.read_at
        if seconds < _SECONDS and step != steps:
            return None
        rate = self.samples / max(seconds, 1e-9)
        self.read_at, self.samples = now, 0.0
        return Progress(
            step=step,
            steps=steps,
            loss=losses["loss"],
            psnr=psnr,
            samples_per_second=rate,
            memory_bytes=resident_bytes(),
            seconds_left=seconds_left if math.isfinite(seconds_left) else None,
        )


def progress_line(progress: Progress) -> str:
    """Step, loss, PSNR on the held-out view, samples a second, memory, time left: one line."""
    steps = "?" if progress.steps is None else str(progress.steps)
    parts = [f"step {progress.step}/{steps}", f"loss {progress.loss:.2e}"]
    if progress.psnr is not None:
        parts.append(f"held out {progress.psnr:.2f} dB")
    parts.append(f"{_short(progress.samples_per_second)} samples/s")
    parts.append(f"{progress.memory_bytes / 1e9:.2f} GB")
    if progress.seconds_left is not None:
        minutes, seconds = divmod(round(max(progress.seconds_left, 0)), 60)
        hours, minutes = divmod(minutes, 60)
        parts.append(f"{hours}:{minutes:02}:{seconds:02} left")
    return "  ".join(parts)


@contextmanager
def live_progress(console: Console | None = None) -> Iterator[Callable[[Progress], None]]:
    """A callback for `loop.run` that keeps one line of the terminal up to date.

    On anything but a terminal it writes nothing at all.
    """
    console = console or Console()
    if not console.is_terminal:
        yield lambda progress: None
        return
    with Live(console=console, auto_refresh=False) as live:
        yield lambda progress: live.update(
            Text(progress_line(progress), no_wrap=True, overflow="ellipsis"), refresh=True
        )


def _short(count: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:.0f}"
