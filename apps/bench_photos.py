"""Training on photographs that take far more memory than there is: `polyfield bench photos`."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

from polyfield.apps.measured_process import run_measured
from polyfield.apps.photo_capture import write_capture
from polyfield.cuda.errors import InputError

_FILE_BYTES_A_PIXEL = 0.4  # more than any photograph of the capture has


@dataclass(frozen=True)
class PhotoTraining:
    """What training on a capture took. Seconds are of the wall unless they say otherwise."""

    images: int
    """Photographs, each a file with bytes of its own."""
    size: str
    """WxH of each."""
    photograph_bytes: int
    """Of all their files."""
    capture_seconds: float
    """That making them took, before anything was measured."""
    memory_limit_bytes: int
    peak_bytes: int
    """Resident memory, at most, of the training process, and of the largest that it started."""
    within: bool
    """Whether that is no more than the limit."""
    steps: int
    loading_seconds: float
    training_seconds: float
    """From there to the last step."""
    step_seconds: float
    """The median step."""
    decoded: int
    """Photographs, one that came again counted again."""
    drawn_share: float
    """Of the photographs to train on, those that batches drew from."""
    decoding_seconds: float
    """Of processor time, on threads beside the steps."""
    waiting_seconds: float
    """That steps stood still for photographs, those of the first batch among them."""
    checkpoint_bytes: int
    """Of all checkpoints that were written."""
    other_written_bytes: int | None
    """Of everything else that was; None where the system does not count it."""
    first_psnr: float
    """Of the held-out view that training watches, in dB, when it was first looked at."""
    first_psnr_step: int
    psnr: float
    """The same after the last step."""


def train_photographs(images: int, megapixels: float, memory: float, steps: int) -> PhotoTraining:
    """Make a synthetic capture, run `polyfield train` on it in a process of its own, and measure.

    memory: in GB of 10^9 bytes, for the whole process. All files lie in a temporary folder, which
    is deleted. Prints nothing. InputError for a capture that cannot be, or a disk without room for
    it; PolyfieldError, with what it said, where training fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        need, free = images * megapixels * 1e6 * _FILE_BYTES_A_PIXEL, shutil.disk_usage(folder).free
        if need > free:
            got, expected = f"{free / 1e9:.1f} GB free", f"{need / 1e9:.1f} GB for the photographs"
            raise InputError(folder, got, expected, "Set TMPDIR to a folder on a larger disk.")
        begin = perf_counter()
        write_capture(Path(folder, "capture"), images, megapixels)
        made = perf_counter() - begin
        return train_capture(Path(folder, "capture"), Path(folder, "run"), memory, steps, made)


def train_capture(
    capture: Path, run: Path, memory: float, steps: int, capture_seconds: float = 0.0
) -> PhotoTraining:
    """`train_photographs` on a capture that is there already, into the folder `run`."""
    arguments = ["train", str(capture), "--out", str(run), "--no-report"]
    arguments += ["--memory", str(memory), "--steps", str(steps)]
    process = run_measured(arguments)
    trained = process.result
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    done = [(record["step"], record["seconds"]) for record in records if "loss" in record]
    watched = [(record["step"], record["psnr"]) for record in records if "psnr" in record]
    pace = [
        (later[1] - former[1]) / (later[0] - former[0])
        for former, later in zip(done, done[1:], strict=False)
    ]
    capture_file = json.loads((capture / "transforms.json").read_text())
    frames = capture_file["frames"]
    other = process.written_bytes - trained["checkpoint_bytes"]
    limit = int(memory * 1e9)
    return PhotoTraining(
        images=len(frames),
        size=f"{capture_file['w']}x{capture_file['h']}",
        photograph_bytes=sum((capture / each["file_path"]).stat().st_size for each in frames),
        capture_seconds=capture_seconds,
        memory_limit_bytes=limit,
        peak_bytes=process.peak_bytes,
        within=process.peak_bytes <= limit,
        steps=trained["steps"],
        loading_seconds=trained["loading_seconds"],
        training_seconds=done[-1][1] - trained["loading_seconds"],
        step_seconds=median(pace or [done[-1][1] - trained["loading_seconds"]]),
        decoded=trained["decoded"],
        drawn_share=trained["drawn"] / (len(frames) - -(-len(frames) // 8)),
        decoding_seconds=trained["decoding_seconds"],
        waiting_seconds=trained["waiting_seconds"],
        checkpoint_bytes=trained["checkpoint_bytes"],
        other_written_bytes=None if process.written_bytes < 0 else other,
        first_psnr=watched[0][1],
        first_psnr_step=watched[0][0],
        psnr=trained["psnr"],
    )


def photos_summary(row: dict) -> str:
    """The figures for the terminal, a line each."""
    written = row["other_written_bytes"]
    verdict = "within" if row["within"] else "NOT WITHIN"
    capture = row["capture_seconds"]
    lines = {
        "capture": f"{row['images']} photographs of {row['size']}, "
        f"{row['photograph_bytes'] / 1e9:.2f} GB, each a file of its own, made in {capture:.0f} s",
        "memory": f"{row['peak_bytes'] / 1e9:.3f} GB at most, {verdict} "
        f"{row['memory_limit_bytes'] / 1e9:g} GB",
        "loading": f"{row['loading_seconds']:.1f} s",
        "training": f"{row['steps']} steps in {row['training_seconds']:.1f} s, "
        f"the median step {1000 * row['step_seconds']:.0f} ms",
        "decoding": f"{row['decoded']} photographs, {row['decoding_seconds']:.1f} s of processor "
        f"time; steps waited {row['waiting_seconds']:.1f} s, "
        f"{100 * row['waiting_seconds'] / max(row['training_seconds'], 1e-9):.0f} % of the time",
        "drawn from": f"{100 * row['drawn_share']:.1f} % of the photographs to train on",
        "written": f"{row['checkpoint_bytes'] / 1e6:.1f} MB of checkpoints, "
        + ("the rest is not counted here" if written is None else f"{written / 1e6:.2f} MB else"),
        "watched view": f"{row['first_psnr']:.2f} dB after {row['first_psnr_step']} steps, "
        f"{row['psnr']:.2f} dB after {row['steps']}",
    }
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {text}" for name, text in lines.items())
