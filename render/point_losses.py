"""How far two fields are apart at points of space."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polyfield.fields.field import RadianceField

CLEAREST, SOLIDEST = 4.6e-4, 3.73  # thickness of a sample: what lies beyond looks the same
COLORED = 4.0  # samples, over the length of which colour counts by opacity


class Said(NamedTuple):
    """What a field says of points: densities, and colours towards somewhere or features."""

    x: Float[Tensor, "n 3"]
    directions: Float[Tensor, "n 3"]
    density: Float[Tensor, " n"]
    values: Float[Tensor, "n k"]


@torch.no_grad()
def ask(
    teacher: RadianceField,
    x: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    there: Bool[Tensor, " n"],
    *,
    features: bool = False,
) -> Said:
    """What a field says of points of the unit cube, seen along unit directions.

    there: where its views may show anything; elsewhere it counts as empty. features: these in place
    of colours.
    """
    density, values = teacher.density(x)
    if not features:
        values = teacher.color(values, teacher.encode_directions(directions))
    return Said(x, directions, density * there, values)


def point_error(student: RadianceField, said: Said, length: float) -> Float[Tensor, ""]:
    """How far densities and colours are apart: norms over all points of the difference of each.

    Densities by their logarithms, within what samples of this length can tell apart; a student that
    is beyond it on the same side is not off. Colours count as far as the teacher is opaque.
    Source: PVD (arXiv:2211.15977), stage 2, without the dead zone of its clamp.
    """
    density, features = student.density(said.x)
    color = student.color(features, student.encode_directions(said.directions))
    apart = (color - said.values) * _opacity(said.density, length)
    return norm(_off(density, said.density, length)) + norm(apart)


def feature_error(student: RadianceField, said: Said, length: float) -> Float[Tensor, ""]:
    """How far densities are apart, see `point_error`, and the features that colours are made of.

    For fields that make colours of features alike, the first of which is the density's logarithm:
    the others then say all colours, from every side. They count as far as the teacher is opaque;
    the first one only within the densities that can be told apart.
    Source: PVD (arXiv:2211.15977), stage 1.
    """
    density, features = student.density(said.x)
    apart = (features - said.values)[:, 1:] * _opacity(said.density, length)
    return norm(_off(density, said.density, length)) + norm(apart)


def norm(errors: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """The root of the sum of squares, whose gradient is as long however small the errors are.

    Without any error it is 0.
    """
    total = errors.square().sum()
    return torch.where(total > 0, total.clamp_min(1e-30).sqrt(), total)


def _off(own: Tensor, density: Tensor, length: float) -> Tensor:
    low, high = math.log(CLEAREST / length), math.log(SOLIDEST / length)
    wanted = density.clamp_min(1e-30).log().clamp(low, high)
    off = own.clamp_min(1e-30).log() - wanted
    same = ((wanted <= low) & (off < 0)) | ((wanted >= high) & (off > 0))
    return torch.where(same, torch.zeros_like(off), off)


def _opacity(density: Tensor, length: float) -> Float[Tensor, "n 1"]:
    return (1 - torch.exp(-COLORED * length * density))[:, None]
