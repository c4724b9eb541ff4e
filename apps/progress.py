"""The live line of a training run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text

from polyfield.apps.loop import Progress


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
