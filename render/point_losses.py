"""How far two fields are apart at points of space."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polyfield.fields.field import RadianceField

CLEAREST, SOLIDEST = 4.6e-4, 3.73  # thickness of a sample: what lies beyond looks the same
COLORED = 4.0  # samples, over the length of which colour counts by opacity


def point_error(
    student: RadianceField,
    teacher: RadianceField,
    x: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    there: Bool[Tensor, " n"],
    length: float,
) -> Float[Tensor, ""]:
    """How far densities and colours are apart: norms over all points of the difference of each.

    there: where the teacher's views may show anything; elsewhere it counts as empty.
    Densities by their logarithms, within what samples of this length can tell apart; a student that
    is beyond it on the same side is not off. Colours count as far as the teacher is opaque.
    Source: PVD (arXiv:2211.15977), stage 2, without the dead zone of its clamp.
    """
    with torch.no_grad():
        density, features = teacher.density(x)
        density = density * there
        color = teacher.color(features, teacher.encode_directions(directions))
    own_density, own_features = student.density(x)
    own_color = student.color(own_features, student.encode_directions(directions))
    apart = (own_color - color) * _opacity(density, length)
    return norm(_off(own_density, density, length)) + norm(apart)


def feature_error(
    student: RadianceField,
    teacher: RadianceField,
    x: Float[Tensor, "n 3"],
    there: Bool[Tensor, " n"],
    length: float,
) -> Float[Tensor, ""]:
    """How far densities are apart, see `point_error`, and the features that colours are made of.

    For fields that make colours of features alike, the first of which is the density's logarithm:
    the others then say all colours, from every side. They count as far as the teacher is opaque;
    the first one only within the densities that can be told apart.
    Source: PVD (arXiv:2211.15977), stage 1.
    """
    with torch.no_grad():
        density, features = teacher.density(x)
        density = density * there
    own_density, own_features = student.density(x)
    apart = (own_features - features)[:, 1:] * _opacity(density, length)
    return norm(_off(own_density, density, length)) + norm(apart)


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
