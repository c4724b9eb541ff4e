"""The lenses that files name, as those of render.lenses: one model for all frames of a scene."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float64
from torch import Tensor

from polyfield.cuda.errors import InputError
from polyfield.render.cameras import Cameras
from polyfield.render.lenses import MODELS

# The engine's lens for each of COLMAP's models, and the names of the parameters that follow focal
# lengths and centre.
COLMAP_LENSES: dict[str, tuple[str, str]] = {
    "SIMPLE_PINHOLE": ("PINHOLE", ""),
    "PINHOLE": ("PINHOLE", ""),
    "SIMPLE_RADIAL": ("OPENCV", "k1"),
    "RADIAL": ("OPENCV", "k1 k2"),
    "OPENCV": ("OPENCV", "k1 k2 p1 p2"),
    "FULL_OPENCV": ("FULL_OPENCV", "k1 k2 p1 p2 k3 k4 k5 k6"),
    "SIMPLE_RADIAL_FISHEYE": ("OPENCV_FISHEYE", "k1"),
    "RADIAL_FISHEYE": ("OPENCV_FISHEYE", "k1 k2"),
    "OPENCV_FISHEYE": ("OPENCV_FISHEYE", "k1 k2 k3 k4"),
    "THIN_PRISM_FISHEYE": ("THIN_PRISM_FISHEYE", "k1 k2 p1 p2 k3 k4 sx1 sy1"),
    "RAD_TAN_THIN_PRISM_FISHEYE": (
        "RAD_TAN_THIN_PRISM_FISHEYE",
        "k0 k1 k2 k3 k4 k5 p0 p1 s0 s1 s2 s3",
    ),
}
# Each is these wider ones with zeros for what it lacks; its own coefficients keep their names.
_WIDER = {
    "PINHOLE": ("OPENCV", "FULL_OPENCV"),
    "OPENCV": ("FULL_OPENCV",),
    "OPENCV_FISHEYE": ("THIN_PRISM_FISHEYE",),
}
_COLUMNS = max(len(lens.coefficients) for lens in MODELS.values())


@dataclass(frozen=True)
class Lens:
    """The lens of one frame: a model of render.lenses, and its coefficients that are not zero."""

    model: str
    coefficients: Mapping[str, float]


def common_lens(lenses: Sequence[Lens], where: str) -> tuple[str, Float64[Tensor, "n c"]]:
    """One model for all frames, the narrower ones being the widest with zeros; coefficients of it.

    InputError, beginning with `where`, for lenses that no single model holds.
    """
    models = sorted({lens.model for lens in lenses})
    for model in models:
        if all(model in (one, *_WIDER.get(one, ())) for one in models):
            break
    else:
        got, remedy = f"frames taken through {' and '.join(models)}", "Make a scene of each."
        expected = "lenses of one kind, all perspective or all fisheye"
        raise InputError(where, got, expected, remedy)
    names = MODELS[model].coefficients
    rows = torch.zeros(len(lenses), _COLUMNS, dtype=torch.float64)
    for row, lens in zip(rows, lenses, strict=True):
        values = [lens.coefficients.get(name, 0.0) for name in names]
        row[: len(names)] = torch.tensor(values, dtype=torch.float64)
    return model, rows


def lenses_of(cameras: Cameras) -> list[Lens]:
    """The lens of each camera, all of their common model."""
    names = MODELS[cameras.model].coefficients
    rows = cameras.distortion[:, : len(names)].tolist()
    return [Lens(cameras.model, dict(zip(names, row, strict=True))) for row in rows]


def joined(parts: Sequence[Cameras], where: str) -> Cameras:
    """The cameras of several files as one. InputError for lenses that no single model holds."""
    model, distortion = common_lens([lens for part in parts for lens in lenses_of(part)], where)
    names = [field.name for field in fields(Cameras) if field.name not in ("model", "distortion")]
    others = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    return Cameras(**others, distortion=distortion, model=model)
