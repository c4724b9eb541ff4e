"""What `polyfield fit` can be told. Apart from fit.py, so that its help needs no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from polyfield.apps.option_help import DEVICE, optional
from polyfield.apps.schedule import MOST_STEPS
from polyfield.cuda.errors import InputError

Target = Literal["sdf", "udf", "occupancy"]
LEAST_PARAMETERS, MOST_PARAMETERS = 1 << 13, 1 << 28


@dataclass(frozen=True)
class Fit:
    """Learn an image, a film or the distances to a mesh as a field."""

    signal: Annotated[Positional[Path | None], optional("[SIGNAL]")] = None
    """An image (PNG, JPEG, EXR, ...), a film (MP4, ..., or a folder of frames), or a mesh (OBJ,
    PLY, OFF, STL, GLB) or points (PLY), whose distances are learned. Not needed with --resume."""
    field: str = "hash-grid"
    """Kind of field to learn it with."""
    parameters: Annotated[int | None, optional("N")] = None
    """Numbers that the field may keep, centres and shapes of kernels counted. The default is one
    for each pixel of an image, for every eighth of a film, and two million for a mesh."""
    sizes: Annotated[str, arg(metavar="NAME=VALUE,...", name="set", help_behavior_hint="")] = ""
    """Sizes of the field in place of those that would be chosen, such as levels=12,hidden=64; what
    it says of its plan has their names. Of mlp, waves=256 puts random waves before plain layers; of
    rbf, placed=0, sines=0 and levels=0 leave out a part each."""
    steps: Annotated[int | None, optional("S")] = None
    """Number of optimisation steps, instead of a time budget."""
    minutes: Annotated[float | None, optional("M")] = None
    """Time budget, from the command's start to the last checkpoint. The default is 1."""
    mask: Annotated[Path | None, optional("MASK")] = None
    """Image of the same size, black where pixels are to be ignored: the field fills them in."""
    target: Annotated[Target, arg(name="as")] = "sdf"
    """What is learned of a mesh. sdf: signed distances, negative inside, where holes do not matter.
    udf: distances without a sign, for what is open: cloth, leaves, sheets. occupancy: whether a
    point is inside."""
    out: Annotated[Path | None, optional("RUN")] = None
    """Folder for everything the run writes. The default is runs/<signal>-<field>."""
    device: Annotated[str, DEVICE] = "auto"
    """Where to compute. auto takes a usable GPU, else the CPU, and says which."""
    seed: Annotated[int, arg(metavar="S")] = 0
    """Seed of every random number of the run."""
    resume: Annotated[bool, arg(help_behavior_hint="")] = False
    """Go on with the run in --out from its last checkpoint, with the plan it began with."""


def check(options: Fit) -> None:
    """Refuse what makes no sense together or out of range, before anything is read or written.

    Raises InputError, which names the option.
    """
    if options.minutes is not None and options.steps is not None:
        raise InputError("--minutes and --steps", "both are given", "one of them")
    if options.signal is None and not options.resume:
        raise InputError("SIGNAL", "is not given", "an image, a film or a mesh")
    if options.signal is None and options.out is None:
        raise InputError("--resume", "neither SIGNAL nor --out is given", "the run to go on with")
    if options.minutes is not None and not 0 < options.minutes <= 1e6:
        got = str(options.minutes)
        raise InputError("--minutes", got, "a number above 0, at most a million")
    whole = (
        ("--steps", options.steps, 1, MOST_STEPS),
        ("--parameters", options.parameters, LEAST_PARAMETERS, MOST_PARAMETERS),
        ("--seed", options.seed, 0, 2**63 - 1),
    )
    for name, value, least, most in whole:
        if value is not None and not least <= value <= most:
            raise InputError(name, str(value)[:80], f"{least:,} to {most:,}")
