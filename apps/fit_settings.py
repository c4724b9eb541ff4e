"""What rebuilds a fitted field without its signal: chosen for one, or read from a run's files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from polyfield.apps.fit_options import Target
from polyfield.apps.formats.json_fields import Fields
from polyfield.apps.pixel_values import Values
from polyfield.cuda.errors import InputError
from polyfield.fields.table import FIELDS

Kind = Literal["image", "film", "distance"]
MOST_SIDE = 1 << 16
DIMENSIONS: dict[str, int] = {"image": 2, "film": 3, "distance": 3}


@dataclass(frozen=True)
class FitSettings:
    """What rebuilds a fitted field without its signal: plain values, in config.json and files."""

    kind: Kind
    field: str
    arguments: dict[str, int]
    channels: int
    signal: str
    """Where the signal lay."""
    seed: int
    samples_per_step: int
    size: tuple[int, int, int] = (1, 1, 1)
    """Frames, height and width of what was learned; of no meaning for distances."""
    values: Values = "srgb"
    """What its pixels mean; of no meaning for distances."""
    frames_per_second: float = 25.0
    mask: str | None = None
    """Where the mask of ignored pixels lay."""
    target: Target = "sdf"
    """What was learned of a mesh."""
    to_field: dict | None = None
    """From the mesh's frame to the unit cube; of distances alone."""
    sides: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Of the mesh's box in the unit cube; of distances alone."""

    @property
    def dimensions(self) -> int:
        """Of the unit cube that the signal fills."""
        return DIMENSIONS[self.kind]


def read_fit_settings(values: Any, where: str) -> FitSettings:
    """Settings from what a file held. InputError, naming `where`, for what no fit wrote."""
    found = Fields(f"{where}:", {"settings": values}).part("settings")
    if "kind" not in found and "sampling" in found:
        got = "a field of a scene"
        raise InputError(where, got, "that of `polyfield fit`")
    for key, known in (("kind", get_args(Kind)), ("field", FIELDS), ("values", get_args(Values))):
        if found.text(key) not in known:
            raise found.refuse(key, f"one of {', '.join(known)}")
    # Fits of earlier versions knew one alone.
    if found.values.get("target", "sdf") not in get_args(Target):
        raise found.refuse("target", f"one of {', '.join(get_args(Target))}")
    if found.text("signal") is None:
        raise found.refuse("signal", "a path")
    found.text("mask")
    found.whole("channels", 1, 4)
    found.whole("seed", 0, 2**63 - 1)
    found.whole("samples_per_step", 1, 1 << 24)
    found.real("frames_per_second", 1e-3, 1e3)
    size = found.numbers("size", 3)
    if size is None or not all(side % 1 == 0 and 1 <= side <= MOST_SIDE for side in size):
        raise found.refuse("size", f"frames, height and width, each 1 to {MOST_SIDE}")
    sides = found.numbers("sides", 3)
    if sides is None or not all(0 <= side <= 1 for side in sides):
        raise found.refuse("sides", "3 numbers from 0 to 1")
    arguments = found.part("arguments")
    for name in arguments.values:
        arguments.whole(name, 0, 1 << 20)
    if "to_field" in found:
        found.part("to_field")
    elif found.values["kind"] == "distance":
        raise found.refuse("to_field", "a similarity")
    kept = dict(found.values)
    kept |= {"size": tuple(int(side) for side in size), "sides": tuple(sides)}
    try:
        return FitSettings(**kept)
    except TypeError as error:  # a name that is missing or unknown
        raise InputError(found.where, str(error)[:200], "those of a fit") from error
