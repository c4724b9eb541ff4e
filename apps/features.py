"""Corners of a picture, and which corners of two pictures are likely the same point."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import conv2d, grid_sample, interpolate, max_pool2d, normalize, pad

SCALES = (1.0, 1.5, 2.25, 3.4)  # by which the picture is reduced, to know a thing from nearer by
_PATCH, _CELLS, _TURNS = 16, 4, 8  # samples a side of what is described, cells a side, directions
_MARGIN = 10
_RATIO = 0.85  # of the distances to the best and the second best, above which neither is believed


@dataclass(frozen=True, eq=False)
class Features:
    """n corners: pixel (x, y), the first pixel's centre at (0.5, 0.5), and what is around each."""

    pixels: Float[Tensor, "n 2"]
    descriptors: Float[Tensor, "n 128"]


def find_features(luma: Float[Tensor, "height width"], most: int = 600) -> Features:
    """Up to `most` corners of a picture at four scales, described by gradients around them.

    Corners by their smaller structure eigenvalue (Shi and Tomasi 1994), an orientation each, a
    histogram of gradients over 4 x 4 cells (SIFT, Lowe 2004) whose root is compared
    (Arandjelovic and Zisserman 2012): nearly the same for turned and resized pictures.
    """
    pixels, descriptors = [torch.zeros(0, 2)], [torch.zeros(0, 128)]
    total = sum(1 / scale for scale in SCALES)
    for scale in SCALES:
        height, width = (round(side / scale) for side in luma.shape)
        if min(height, width) < 2 * _MARGIN + 4:
            break
        picture = luma[None, None]
        if scale > 1:
            picture = interpolate(picture, (height, width), mode="bilinear", antialias=True)
        picture = _blurred(picture, 0.8)
        down, right = torch.gradient(picture[0, 0])
        corners = _corners(down, right, round(most / scale / total))
        if not len(corners):
            continue
        size = torch.tensor([luma.shape[1] / width, luma.shape[0] / height])
        pixels.append((corners + 0.5) * size)
        descriptors.append(_described(torch.stack([right, down]), corners))
    return Features(torch.cat(pixels), torch.cat(descriptors))


def match(first: Features, second: Features) -> Int64[Tensor, "m 2"]:
    """Pairs (index in first, index in second) that prefer each other by far to all others."""
    if min(len(first.pixels), len(second.pixels)) < 2:
        return torch.zeros(0, 2, dtype=torch.int64)
    distance = (2 - 2 * first.descriptors @ second.descriptors.T).clamp(min=0).sqrt()
    best, partner = distance.topk(2, dim=1, largest=False)
    mutual = distance.argmin(0)[partner[:, 0]] == torch.arange(len(distance))
    kept = mutual & (best[:, 0] < _RATIO * best[:, 1])
    return torch.stack([kept.nonzero()[:, 0], partner[kept, 0]], 1)


def _blurred(picture: Tensor, sigma: float) -> Tensor:
    reach = math.ceil(3 * sigma)
    steps = torch.arange(-reach, reach + 1).float()
    kernel = torch.exp(-0.5 * (steps / sigma).square())
    kernel = kernel / kernel.sum()
    padded = pad(picture, (reach, reach, reach, reach), mode="replicate")
    return conv2d(conv2d(padded, kernel[None, None, None]), kernel[None, None, :, None])


def _corners(down: Tensor, right: Tensor, most: int) -> Tensor:
    """(x, y) of the strongest corners, whole pixels, none within three pixels of a stronger one."""
    products = torch.stack([right * right, right * down, down * down])[:, None]
    xx, xy, yy = _blurred(products, 1.5)[:, 0]
    half = (xx + yy) / 2
    strength = half - ((xx - yy).square() / 4 + xy * xy).sqrt()
    peaks = strength == max_pool2d(strength[None], 7, stride=1, padding=3)[0]
    peaks &= strength > max(1e-6, 0.002 * float(strength.max()))
    peaks[:_MARGIN], peaks[-_MARGIN:] = False, False
    peaks[:, :_MARGIN], peaks[:, -_MARGIN:] = False, False
    place = peaks.nonzero()
    order = strength[peaks].argsort(descending=True)[:most]
    return place[order].flip(1).float()


def _described(gradient: Tensor, corners: Tensor) -> Tensor:
    """Unit descriptors [n, 128] of what is around corners, turned by its main direction."""
    steps = torch.arange(_PATCH) - (_PATCH - 1) / 2
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    grid = torch.stack([x, y], 2).view(-1, 2)
    weight = torch.exp(-0.5 * grid.square().sum(1) / (0.5 * _PATCH) ** 2)
    found = _sampled(gradient, corners[:, None] + grid)
    angle = torch.atan2(found[1], found[0])
    strength = torch.hypot(found[0], found[1]) * weight
    # The main direction: where a histogram of 36 bins, smoothed, is fullest.
    bins = (angle * (36 / (2 * math.pi))).floor().long() % 36
    counts = torch.zeros(len(angle), 36).scatter_add(1, bins, strength)
    for _ in range(2):
        counts = (counts.roll(1, 1) + counts + counts.roll(-1, 1)) / 3
    main = (counts.argmax(1) + 0.5) * (2 * math.pi / 36)
    gap = torch.remainder(angle - main[:, None] + math.pi, 2 * math.pi) - math.pi
    close = strength * (gap.abs() < math.radians(25))
    main = main + (gap * close).sum(1) / close.sum(1).clamp(min=1e-9)

    cosine, sine = main.cos()[:, None], main.sin()[:, None]
    turned = torch.stack(
        [cosine * grid[:, 0] - sine * grid[:, 1], sine * grid[:, 0] + cosine * grid[:, 1]], 2
    )
    found = _sampled(gradient, corners[:, None] + turned)
    angle = torch.atan2(found[1], found[0]) - main[:, None]
    strength = torch.hypot(found[0], found[1]) * weight
    place = torch.remainder(angle * (_TURNS / (2 * math.pi)), _TURNS)
    away = (place[:, :, None] - torch.arange(_TURNS)).abs()
    away = torch.minimum(away, _TURNS - away)
    turns = (1 - away).clamp(min=0) * strength[:, :, None]
    centres = (torch.arange(_CELLS) - (_CELLS - 1) / 2) * (_PATCH / _CELLS)
    tent = (1 - (steps[:, None] - centres).abs() / (_PATCH / _CELLS)).clamp(min=0)
    cells = torch.einsum("yr,xc->yxrc", tent, tent).reshape(_PATCH**2, _CELLS**2)
    histogram = torch.einsum("nst,sc->nct", turns, cells).flatten(1)
    histogram = normalize(normalize(histogram, dim=1).clamp(max=0.2), p=1, dim=1)
    return histogram.sqrt()


def _sampled(gradient: Tensor, pixels: Tensor) -> Tensor:
    """gradient [2, h, w] at (x, y) [n, s, 2], whole numbers at the pixels' centres: [2, n, s]."""
    size = torch.tensor([gradient.shape[2], gradient.shape[1]])
    return grid_sample(gradient[None], (2 * pixels + 1)[None] / size - 1, align_corners=False)[0]
