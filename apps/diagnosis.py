"""What a diagnosis says: one warning a fault, and the statistics that tell faults from variety."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from polyfield.apps.scene import Scene


@dataclass(frozen=True)
class Warning:
    """Something that will make training fail or its result poor."""

    kind: str
    """One word for the kind of fault: "blurred", "convention", "one place", ..."""
    where: str
    """The photograph or file that it is in; the scene's name where it is in all of it."""
    sentence: str
    """What is wrong, with the figure that shows it."""
    remedy: str
    """What to do about it."""
    frames: tuple[int, ...] = ()
    """The scene's frames that it is about; empty where it is about the whole."""

    def __str__(self) -> str:
        return f"{self.where}: {self.sentence} {self.remedy}"


def deviations(values: Float[Tensor, " n"], least: float) -> Float[Tensor, " n"]:
    """How many robust standard deviations each value lies from the median; NaN where it is NaN.

    The deviation is 1.4826 times the median distance from the median, and at least `least`: of
    nearly equal values none is an outlier.
    """
    known = values[~values.isnan()]
    if not len(known):
        return values
    middle = known.median()
    spread = 1.4826 * (known - middle).abs().median()
    return (values - middle) / spread.clamp(min=least)


def file_of(scene: Scene, frame: int) -> str:
    """A frame's photograph, relative to the scene's folder."""
    return name_within(scene, scene.image_paths[frame])


def name_within(scene: Scene, path: Path) -> str:
    """A file relative to the scene's folder, or its bare name if it lies elsewhere."""
    return str(path.relative_to(scene.folder)) if path.is_relative_to(scene.folder) else path.name
