"""What `polyfield info` and `export` do with a file of Gaussians."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from polyfield.apps.formats.splat_files import read_splat_file, splat_suffix, write_splats
from polyfield.apps.formats.splat_values import World, array_of
from polyfield.apps.trained_splats import TrainedSplats
from polyfield.cuda.errors import InputError
from polyfield.fields.splats import Splats, clean, moved, splats_to

_OPAQUE = 0.99
_MIDDLE = (0.01, 0.99)


@dataclass(frozen=True)
class SplatInfo:
    """What was found in a file of Gaussians. Lengths are in its units, in the world it is for."""

    file: str
    form: str
    """Format and version."""
    count: int
    """Gaussians that are finite and seen."""
    degree: int
    """Of the harmonics."""
    antialiased: bool
    world: str
    low: tuple[float, float, float]
    """Corners of the box around all means."""
    high: tuple[float, float, float]
    middle: tuple[tuple[float, float, float], tuple[float, float, float]]
    """As well, of the middle 98 % along each axis."""
    scale: float
    """Median of the largest standard deviations."""
    opaque: float
    """Share with an opacity of 0.99 or more."""
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def splat_info(path: Path, frame: str | None = None) -> SplatInfo:
    """Examine a file of Gaussians. InputError where it is none or cannot be read."""
    file = read_splat_file(path, frame)
    splats = file.splats
    means = array_of(splats.means).astype(np.float64)
    middle = np.quantile(means, _MIDDLE, axis=0)
    found = [note for note in file.notes if note.startswith("warning: ")]
    warnings = [note.removeprefix("warning: ") for note in found]
    warnings += _looks_wrong(splats, middle)
    return SplatInfo(
        str(path),
        file.form,
        splats.count,
        splats.degree,
        splats.antialiased,
        file.world,
        _triple(means.min(0)),
        _triple(means.max(0)),
        (_triple(middle[0]), _triple(middle[1])),
        float(splats.log_scales.amax(1).exp().median()),
        float((splats.opacity_logits.sigmoid() >= _OPAQUE).float().mean()),
        tuple(note for note in file.notes if note not in found),
        tuple(warnings),
    )


def convert_splats(path: Path, out: Path, frame: str | None = None) -> tuple[int, tuple[str, ...]]:
    """Write a file of Gaussians in the format of another suffix; how many, and what was lost.

    InputError as reading and writing raise it.
    """
    splat_suffix(out)
    if not out.parent.is_dir():
        raise InputError(f"--out {out}", "its folder does not exist", "one that exists")
    file = read_splat_file(path, frame)
    return file.splats.count, (*file.notes, *write_splats(file.splats, out, file.world))


def write_run_splats(trained: TrainedSplats, out: Path) -> tuple[int, tuple[str, ...]]:
    """Write what a run trained, in the user's frame, as `convert_splats` does."""
    splats = moved(splats_to(trained.gaussians.splats, "cpu"), trained.to_field.inverse())
    up = torch.tensor(trained.settings.orbit["camera_to_world"])[:, :, 1].mean(0).double()
    x, y, z = (-up @ trained.to_field.rotation).tolist()  # where photographs have their upper side
    world: World = "z-up" if z > max(abs(x), abs(y)) else "right-down-forward"
    notes = write_splats(splats, out, world)
    return clean(splats).splats.count, notes


def splat_facts(result: SplatInfo) -> dict[str, str]:
    """What was found, as a name and a line each."""
    low, high = (", ".join(f"{x:.4g}" for x in corner) for corner in (result.low, result.high))
    inner = [", ".join(f"{x:.4g}" for x in corner) for corner in result.middle]
    worlds = {"z-up": "+z up", "right-down-forward": "right, down, forward (x, y, z)"}
    harmonics = "none" if result.degree == 0 else f"degree {result.degree}"
    return {
        "file": f"{result.file} ({result.form})",
        "Gaussians": f"{result.count:,}, {100 * result.opaque:.0f} % of them opaque",
        "harmonics": harmonics,
        "antialiased": "yes" if result.antialiased else "no",
        "world": worlds[result.world],
        "bounds": f"({low}) to ({high})",
        "middle 98 %": f"({inner[0]}) to ({inner[1]})",
        "scale": f"{result.scale:.3g}, the median of the largest",
    }


def _looks_wrong(splats: Splats, middle: np.ndarray) -> list[str]:
    warnings = []
    diagonal = float(np.linalg.norm(middle[1] - middle[0]))
    if splats.count > 1 and diagonal == 0:
        warnings.append("nearly all Gaussians lie in one place: is a scale of positions forgotten?")
    large = int((splats.log_scales.amax(1).exp() > diagonal).sum())
    if diagonal and large:
        warnings.append(f"{large:,} Gaussians are larger than the model's middle 98 %")
    return warnings


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (values + 0.0).tolist()  # no -0
    return x, y, z
