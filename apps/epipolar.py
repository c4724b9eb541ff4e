"""Whether cameras and matched corners of neighbouring photographs agree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from polyfield.apps.features import Features, find_features, match
from polyfield.apps.scene import Scene
from polyfield.apps.view_samples import LUMA, reduced_view
from polyfield.cuda.errors import InputError
from polyfield.render.cameras import Cameras

_LONGEST = 480  # pixels of the longer side in which corners are looked for
_ANCHORS = 12  # views whose neighbours are looked at
_FEWEST = 16  # matches of a pair that tells something
_MOVED = 0.02  # of the longer side, by which corners must move: what stands still fits anything
TOLERANCE = 2 / _LONGEST  # of the longer side
_SAMPLES = 256  # of eight matches each, for the geometry that fits them best


@dataclass(frozen=True, eq=False)
class MatchedPair:
    """Two photographs and what both of them show: pixels of the full images, row for row.

    gain: by how much brighter the second shows it (ratio of the median luma around the corners).
    """

    frames: tuple[int, int]
    first: Float[Tensor, "m 2"]
    second: Float[Tensor, "m 2"]
    gain: float


def matched_pairs(scene: Scene, readable: Int64[Tensor, " r"]) -> list[MatchedPair]:
    """Pairs of neighbours among up to 12 views spread over the scene, where enough was matched.

    Neighbours are those that look the same way, by the poses as they are and as their inverses are,
    and the next in name order: whatever is wrong with the poses, some truly overlap.
    """
    count = min(_ANCHORS, len(readable))
    anchors = readable[torch.linspace(0, len(readable) - 1, count).round().long()]
    rotation = scene.cameras.camera_to_world[readable, :, :3].double()
    position = scene.cameras.camera_to_world[readable, :, 3].double()
    spread = position.std(0).norm().clamp(min=1e-12) if len(readable) > 1 else torch.tensor(1.0)
    names = sorted(readable.tolist(), key=lambda frame: str(scene.image_paths[frame]))
    following = dict(zip(names, names[1:] + names[:1], strict=True))
    wanted: set[tuple[int, int]] = set()
    for anchor in dict.fromkeys(anchors.tolist()):
        place = int((readable == anchor).nonzero()[0, 0])
        here = rotation[place]
        far = (position - position[place]).norm(dim=1) / spread
        forwards = (rotation[:, :, 2] - here[:, 2]).norm(dim=1) + 0.3 * far
        inverse = (rotation[:, 2] - here[2]).norm(dim=1)
        for distance in (forwards, inverse):
            distance[place] = math.inf
            partner = int(readable[distance.argmin()])
            wanted.add((min(anchor, partner), max(anchor, partner)))
        wanted.add((min(anchor, following[anchor]), max(anchor, following[anchor])))
    features: dict[int, tuple[Features, Tensor]] = {}
    found = []
    for pair in sorted(wanted):
        if pair[0] == pair[1]:
            continue
        for frame in pair:
            if frame not in features:
                features[frame] = _features_of(scene, frame)
        if made := _matched(scene, pair, features[pair[0]], features[pair[1]]):
            found.append(made)
    return found


def relative_brightness(scene: Scene, frame: int, others: Sequence[int]) -> float | None:
    """How much brighter a photograph shows what others show too: the median ratio of the luma.

    None where too few corners match to say.
    """
    here = _features_of(scene, frame)
    ratios = []
    for other in others:
        there = _features_of(scene, other)
        rows = match(there[0], here[0])
        if len(rows) >= _FEWEST:
            ratios.append(_gain(there[1][rows[:, 0]], here[1][rows[:, 1]]))
    return float(torch.tensor(ratios).median()) if ratios else None


def agreement(cameras: Cameras, pairs: Sequence[MatchedPair]) -> Float[Tensor, " pairs"]:
    """Of each pair, the share of matches that can be one point before both cameras.

    The ray through the first pixel is, seen from the second camera, an arc from the first camera's
    centre to the point at infinity; the second pixel must lie on it, within 2 pixels of a picture
    480 long. Nothing is triangulated, so cameras that stand in one place are no special case.
    """
    shares = []
    for pair in pairs:
        first, second = pair.frames
        from_first, origin = _rays(cameras, first, pair.first)
        from_second, other = _rays(cameras, second, pair.second)
        error = _angle_to_arc(from_second, origin - other, from_first)
        longer = max(int(cameras.width[second]), int(cameras.height[second]))
        allowed = TOLERANCE * longer / float(cameras.focal[second].mean())
        shares.append((error < allowed).float().mean())
    return torch.stack(shares)


def free_agreement(cameras: Cameras, pairs: Sequence[MatchedPair]) -> Float[Tensor, " pairs"]:
    """Of each pair, the share of matches that some two cameras at all could see, the lenses kept.

    What no poses explain are wrong matches: this is how many of the matches are right. Source: the
    eight-point algorithm on random samples of the matches.
    """
    random = torch.Generator().manual_seed(0)
    shares = []
    for pair in pairs:
        first, second = pair.frames
        eye = torch.eye(3, 4, dtype=torch.float64).expand(len(cameras), 3, 4)
        still = Cameras(
            eye,
            cameras.focal.double(),
            cameras.center.double(),
            cameras.distortion.double(),
            cameras.width,
            cameras.height,
            cameras.model,
        )
        a, _ = _rays(still, first, pair.first)
        b, _ = _rays(still, second, pair.second)
        products = (b[:, :, None] * a[:, None]).flatten(1)
        draws = torch.rand(_SAMPLES, len(a), generator=random).argsort(1)[:, :8]
        essential = torch.linalg.svd(products[draws], full_matrices=True)[2][:, -1].view(-1, 3, 3)
        plane = torch.einsum("sij,mj->smi", essential, a)
        error = torch.einsum("smi,mi->sm", plane, b).abs() / plane.norm(dim=2).clamp(min=1e-12)
        longer = max(int(cameras.width[second]), int(cameras.height[second]))
        allowed = TOLERANCE * longer / float(cameras.focal[second].mean())
        shares.append((error < allowed).float().mean(1).max())
    return torch.stack(shares)


def _rays(cameras: Cameras, frame: int, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Unit directions [m, 3] in the world, and the camera's position."""
    which = torch.full((len(pixels),), frame)
    origins, directions = cameras.rays(which, pixels.double())
    return directions, origins[0]


def _angle_to_arc(direction: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Angles from unit directions [m, 3] to the arcs from `start` [3] to `end` [m, 3], radians."""
    length = start.norm()
    start = (start / length).expand_as(end) if length > 1e-12 else end
    normal = torch.linalg.cross(start, end)
    size = normal.norm(dim=1, keepdim=True)
    unit = normal / size.clamp(min=1e-12)
    beside = (direction * unit).sum(1).abs().clamp(max=1).asin()
    after = (torch.linalg.cross(start, direction) * unit).sum(1) > 0
    before = (torch.linalg.cross(direction, end) * unit).sum(1) > 0
    ends = torch.minimum(_angle(direction, start), _angle(direction, end))
    return torch.where(after & before & (size[:, 0] > 1e-12), beside, ends)


def _angle(a: Tensor, b: Tensor) -> Tensor:
    return 2 * torch.asin(((a - b).norm(dim=1) / 2).clamp(max=1))


def _features_of(scene: Scene, frame: int) -> tuple[Features, Tensor]:
    """Corners in pixels of the full image, and the luma around each."""
    try:
        pixels, kept = reduced_view(scene, frame, _LONGEST)
    except InputError:
        return Features(torch.zeros(0, 2), torch.zeros(0, 128)), torch.zeros(0)
    luma = pixels[:, :, :3].float() @ torch.tensor(LUMA) / 255
    solid = pixels[:, :, 3] == 255
    luma = torch.where(solid, luma, luma[solid].median() if bool(solid.any()) else 0.5)
    found = find_features(luma)
    column, row = found.pixels.long().T
    height, width = luma.shape
    sound = (solid & kept)[row.clamp(max=height - 1), column.clamp(max=width - 1)]
    found = Features(found.pixels[sound], found.descriptors[sound])
    column, row = found.pixels.long().T
    mean = torch.nn.functional.avg_pool2d(luma[None, None], 9, 1, 4, count_include_pad=False)[0, 0]
    around = mean[row.clamp(max=height - 1), column.clamp(max=width - 1)]
    full = torch.tensor(scene.sizes[frame]) / torch.tensor([width, height])
    return Features(found.pixels * full, found.descriptors), around


def _matched(
    scene: Scene,
    pair: tuple[int, int],
    first: tuple[Features, Tensor],
    second: tuple[Features, Tensor],
) -> MatchedPair | None:
    rows = match(first[0], second[0])
    if len(rows) < _FEWEST:
        return None
    a, b = first[0].pixels[rows[:, 0]], second[0].pixels[rows[:, 1]]
    size = torch.tensor([scene.sizes[frame] for frame in pair]).float()
    moved = (a / size[0] - b / size[1]) * size[1]
    if float(moved.norm(dim=1).median()) < _MOVED * float(size[1].max()):
        return None
    return MatchedPair(pair, a, b, _gain(first[1][rows[:, 0]], second[1][rows[:, 1]]))


def _gain(before: Tensor, after: Tensor) -> float:
    return float((after.clamp(min=1 / 255) / before.clamp(min=1 / 255)).median())
