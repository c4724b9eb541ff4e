"""Explicit Gaussians: moved between frames, and cleared of what cannot be shown."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from polyfield.cuda.errors import InputError
from polyfield.cuda.rotations import quaternions
from polyfield.cuda.spherical_harmonics import spherical_harmonics_reference
from polyfield.fields.similarity import Similarity

CONSTANT = 0.28209479177387814  # the harmonic of band 0
HIGHEST_DEGREE = 4  # that a file may hold
SUREST = 13.8155  # logit that stands for an infinite one: of an opacity of 1 - 1e-6
FAINTEST = -math.log(254)  # logit of 1/255, the faintest that is drawn
LARGEST_LOG_SCALE = 46.0  # of either sign
_ROUNDING = 1e-6  # of a logit of 1/255 that went through float32
_AXES = ("RL", "DU", "FB"), ("RL", "FB", "UD")  # letters of x, y, z: y up or down, or z
_DIRECTIONS = 64  # that a rotation of harmonics is found from


@dataclass(frozen=True, eq=False)
class Splats:
    """Gaussians in the frame of whoever has them, as numbers before their activation.

    A standard deviation along a local axis is exp(log_scale), an opacity sigmoid(logit), a colour
    0.5 + sum of harmonics, negative ones cut off, seen along normalise(mean - camera). Local axes
    are the columns of the rotation of (w, x, y, z), a quaternion of any length but 0.
    Source: 3D Gaussian Splatting (arXiv:2308.04079).
    """

    means: Float[Tensor, "n 3"]
    log_scales: Float[Tensor, "n 3"]
    quaternions: Float[Tensor, "n 4"]
    opacity_logits: Float[Tensor, " n"]
    harmonics: Float[Tensor, "n k 3"]
    """Of k = (degree + 1)^2, of red, green and blue; [:, 0] is constant over directions."""
    antialiased: bool = False
    """Trained with the filter of Mip-Splatting: opacities shrink as far as the filter widens."""

    @property
    def count(self) -> int:
        """How many Gaussians."""
        return len(self.means)

    @property
    def degree(self) -> int:
        """Highest band of the harmonics."""
        return math.isqrt(self.harmonics.shape[1]) - 1


class Cleaned(NamedTuple):
    """Gaussians that are all finite and seen, and how many were not."""

    splats: Splats
    mended: int
    """With an infinite opacity, or a scale or quaternion of 0, which now have numbers."""
    not_finite: int
    """Left out."""
    transparent: int
    """Left out: fainter than 1/255."""


def clean(splats: Splats) -> Cleaned:
    """What a renderer can show of the Gaussians, in their order.

    Infinite opacities become +-SUREST, other programs' way to say opaque; log-scales lie within
    +-LARGEST_LOG_SCALE, with -inf at its end; a quaternion of 0 turns nothing. What then has a
    number that is not finite, or an opacity below 1/255, is left out.
    """
    logits, scales, turns = splats.opacity_logits, splats.log_scales, splats.quaternions
    still = (turns == 0).all(1)
    mended = logits.isinf() | scales.isneginf().any(1) | still
    # Only what has to change is copied: models are large.
    if bool(mended.any()):
        logits = torch.where(logits.isinf(), logits.sign() * SUREST, logits)
        turns = torch.where(still[:, None], turns.new_tensor([1.0, 0, 0, 0]), turns)
    if bool((scales.abs() > LARGEST_LOG_SCALE).any()):
        scales = torch.where(scales == torch.inf, torch.nan, scales)
        scales = scales.clamp(-LARGEST_LOG_SCALE, LARGEST_LOG_SCALE)
    rows = (splats.means, scales, turns, logits[:, None], splats.harmonics.flatten(1))
    finite = torch.stack([row.isfinite().all(1) for row in rows]).all(0)
    seen = logits >= FAINTEST - _ROUNDING
    kept = finite & seen
    found = replace(splats, opacity_logits=logits, log_scales=scales, quaternions=turns)
    if not bool(kept.all()):
        found = chosen(found, kept.nonzero()[:, 0])
    counts = (mended & kept).sum(), (~finite).sum(), (finite & ~seen).sum()
    return Cleaned(found, *map(int, counts))


def chosen(splats: Splats, rows: Tensor) -> Splats:
    """The Gaussians whose numbers are given, in that order."""
    return replace(
        splats,
        means=splats.means[rows],
        log_scales=splats.log_scales[rows],
        quaternions=splats.quaternions[rows],
        opacity_logits=splats.opacity_logits[rows],
        harmonics=splats.harmonics[rows],
    )


def splats_to(splats: Splats, device: torch.device | str) -> Splats:
    """The same Gaussians on another device."""
    return replace(
        splats,
        means=splats.means.to(device),
        log_scales=splats.log_scales.to(device),
        quaternions=splats.quaternions.to(device),
        opacity_logits=splats.opacity_logits.to(device),
        harmonics=splats.harmonics.to(device),
    )


def of_degree(splats: Splats, degree: int) -> Splats:
    """The Gaussians with bands up to `degree`, 0 to 4: higher ones cut off, missing ones 0."""
    if not 0 <= degree <= HIGHEST_DEGREE:
        raise InputError("degree", str(degree), f"0 to {HIGHEST_DEGREE}")
    held, wanted = splats.harmonics.shape[1], (degree + 1) ** 2
    if held == wanted:
        return splats
    missing = splats.harmonics.new_zeros(splats.count, max(0, wanted - held), 3)
    return replace(splats, harmonics=torch.cat([splats.harmonics[:, :wanted], missing], 1))


def moved(splats: Splats, similarity: Similarity) -> Splats:
    """The same Gaussians where the similarity leads: x -> k R x + t, with all they look like.

    Log-scales grow by ln k, quaternions are turned by R, and so is each band of the harmonics,
    exact to float64. Numbers come back in their own dtype.
    """
    rotation = similarity.rotation.double().cpu()
    scale = math.log(similarity.scale)
    if torch.equal(rotation.abs(), torch.eye(3, dtype=torch.float64)):
        found = _flipped(splats, rotation.diagonal())  # to the last digit
    else:
        found = _rotated(splats, rotation)
    return replace(
        found,
        means=similarity.apply(splats.means),
        log_scales=splats.log_scales + scale if scale else splats.log_scales,
    )


def turned(splats: Splats, source: str, target: str) -> Splats:
    """The same Gaussians in a frame whose axes are named otherwise: exact, signs alone change.

    Frames are where +x, +y and +z point: R or L, then D or U, then F or B; "RDF" is right, down,
    front, as in 3DGS and COLMAP, "RUB" OpenGL's, "LUF" glTF's; with z up, x is R or L, y F or B,
    z U or D. Mirrors are frames as well. InputError where the two differ by more than signs.
    """
    letters = list(zip(source, target, strict=False))
    for axes in _AXES:
        within = [set(pair) <= set(axis) for pair, axis in zip(letters, axes, strict=False)]
        if len(source) == len(target) == 3 and all(within):
            signs = [1.0 if a == b else -1.0 for a, b in letters]
            return _flipped(splats, torch.tensor(signs, dtype=torch.float64))
    raise InputError(f"frames {source} and {target}", "no signs lead there", "such as RDF and RUB")


def _flipped(splats: Splats, signs: Float64[Tensor, " 3"]) -> Splats:
    """x -> signs * x. A rotation q turns to one about the flipped axis, in mirrors as well."""
    x, y, z = signs.tolist()
    if (x, y, z) == (1, 1, 1):
        return splats
    turns = splats.quaternions.new_tensor([1, y * z, x * z, x * y])
    return replace(
        splats,
        means=splats.means * signs.to(splats.means),
        quaternions=splats.quaternions * turns,
        harmonics=splats.harmonics
        * splats.harmonics.new_tensor(_harmonic_signs((x, y, z), splats.degree))[:, None],
    )


def _harmonic_signs(signs: tuple[float, float, float], degree: int) -> list[float]:
    """Of each harmonic: z^(l - |m|) times the real (m >= 0) or imaginary part of (x + iy)^|m|."""
    x, y, z = signs
    found = []
    for band in range(degree + 1):
        for m in range(-band, band + 1):
            powers = (-m - 1, 1) if m < 0 else (m, 0)
            found.append(x ** powers[0] * y ** powers[1] * z ** (band - abs(m)))
    return found


def _rotated(splats: Splats, rotation: Float64[Tensor, "3 3"]) -> Splats:
    ((w, x, y, z),) = quaternions(rotation[None]).tolist()
    rows = [[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]]
    by = torch.tensor(rows, dtype=torch.float64, device=splats.means.device)
    bands = [splats.harmonics[:, :1]]
    for band in range(1, splats.degree + 1):
        turn = _band_rotation(rotation, band).to(splats.means.device)
        held = splats.harmonics[:, band**2 : (band + 1) ** 2].double()
        bands.append((turn @ held).to(splats.harmonics.dtype))
    return replace(
        splats,
        quaternions=(splats.quaternions.double() @ by.T).to(splats.quaternions.dtype),
        harmonics=torch.cat(bands, 1),
    )


def _band_rotation(rotation: Float64[Tensor, "3 3"], band: int) -> Float64[Tensor, "m m"]:
    """What turns the coefficients of one band: D with Y(R d) D = Y(d) for every direction d."""
    directions = _spread_directions()
    start = band**2
    before = spherical_harmonics_reference(directions, band)[:, start:]
    after = spherical_harmonics_reference(directions @ rotation.T, band)[:, start:]
    return torch.linalg.lstsq(after, before).solution


@cache
def _spread_directions() -> Float64[Tensor, "n 3"]:
    """Directions all over the sphere, on Fibonacci's spiral."""
    number = torch.arange(_DIRECTIONS, dtype=torch.float64) + 0.5
    z = 1 - 2 * number / _DIRECTIONS
    turn = number * (math.pi * (3 - math.sqrt(5)))
    around = torch.stack([turn.cos(), turn.sin()], 1) * (1 - z * z).sqrt()[:, None]
    return torch.cat([around, z[:, None]], 1)
