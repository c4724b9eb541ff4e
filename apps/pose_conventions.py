"""The ways in which poses are commonly written down wrongly, and what the true ones would be."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float64
from torch import Tensor

from polyfield.render.cameras import Cameras


@dataclass(frozen=True, eq=False)
class Convention:
    """One reading of the poses: what would be wrong with the files, and the cameras if it were."""

    fault: str
    """Empty for the poses as they are."""
    remedy: str
    cameras: Cameras


_AXES = (
    ("", (1, 1, 1)),
    ("y and z", (1, -1, -1)),
    ("x and z", (-1, 1, -1)),
    ("x and y", (-1, -1, 1)),
)
_OPENGL = torch.diag(torch.tensor([1.0, -1, -1, 1], dtype=torch.float64))


def conventions(cameras: Cameras, kind: str) -> list[Convention]:
    """The poses as they are, first, and what they would be if the files held something else.

    kind: of the scene; it says what its files should hold. Tried are flipped camera axes (OpenGL's
    for OpenCV's; pictures upside down or seen from behind), world-to-camera for camera-to-world,
    the rotation alone transposed, and a world-to-camera translation beside a camera-to-world
    rotation, the last three with either convention of axes.
    """
    colmap = kind == "colmap"
    bottom = torch.tensor([0.0, 0, 0, 1]).double().expand(len(cameras), 1, 4)
    loaded = torch.cat([cameras.camera_to_world.double(), bottom], 1)
    stored = torch.linalg.inv(loaded) if colmap else loaded @ _OPENGL
    part = "rows" if colmap else "columns"
    is_, be = ("camera-to-world", "world-to-camera")
    if not colmap:
        is_, be = be, is_
    readings = [
        ("", "", stored),
        (
            f"they are {is_} matrices where {be} ones belong",
            "Invert each 4x4 matrix",
            torch.linalg.inv(stored),
        ),
        (
            "their rotations are transposed (their positions are right)",
            "Transpose the 3x3 rotation of each matrix",
            _joined(stored[:, :3, :3].transpose(1, 2), stored[:, :3, 3]),
        ),
        (
            f"their translations are {is_} beside rotations that are {be}",
            "Replace each translation t by -R t",
            _joined(stored[:, :3, :3], -(stored[:, :3, :3] @ stored[:, :3, 3:])[:, :, 0]),
        ),
    ]
    found = []
    for fault, remedy, matrices in readings:
        poses = torch.linalg.inv(matrices) if colmap else matrices @ _OPENGL
        for axes, signs in _AXES if not fault else _AXES[:2]:
            flip = torch.diag(torch.tensor([*signs, 1], dtype=torch.float64))
            names, todo = [fault] if fault else [], [remedy] if remedy else []
            if axes:
                names.append(_axes_fault(axes, kind))
                todo.append(
                    f"{'negate' if todo else 'Negate'} the {part} of {axes} of the rotation"
                )
            turned = replace(cameras, camera_to_world=(poses @ flip)[:, :3])
            found.append(Convention(", and ".join(names), ", then ".join(todo), turned))
    return found


def _axes_fault(axes: str, kind: str) -> str:
    if axes != "y and z":
        what = "upside down" if axes == "x and y" else "from behind"
        return f"the cameras' {axes} axes point the wrong way (pictures are seen {what})"
    stands, belongs = "OpenCV", "OpenGL"
    if kind not in ("transforms.json", "nerf-synthetic"):
        stands, belongs = belongs, stands
    return f"the cameras have {stands}'s axes where {belongs}'s belong (y and z flipped)"


def _joined(rotation: Tensor, position: Tensor) -> Float64[Tensor, "n 4 4"]:
    bottom = torch.tensor([0.0, 0, 0, 1]).double().expand(len(rotation), 1, 4)
    return torch.cat([torch.cat([rotation, position[:, :, None]], 2), bottom], 1)
