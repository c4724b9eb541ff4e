"""Whether the poses are what the photographs say: the convention they are in, and single ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from polyfield.apps.diagnosis import Warning, file_of
from polyfield.apps.epipolar import MatchedPair, agreement, free_agreement
from polyfield.apps.pose_conventions import Convention, conventions
from polyfield.apps.scene import Scene
from polyfield.apps.silhouettes import Hull, outline, visual_hull
from polyfield.apps.view_samples import ViewSample
from polyfield.render.cameras import Cameras

_HULL_VIEWS = 32
_FITS, _BEATEN, _CLEAR = 0.5, 0.7, 0.85  # agreement that is enough; of the best; of a rival's
_PAIRS = 3  # fewer tell nothing of a scene


@dataclass(frozen=True)
class Verdict:
    """What one kind of evidence says of the poses."""

    evidence: str
    """"outlines", "matches" or "points"."""
    score: float
    """How well the poses as they are agree with it, in [0, 1]."""
    best: float
    """How well the best reading of them does."""
    sentence: str
    """For a person."""
    warning: Warning | None


@dataclass(frozen=True, eq=False)
class Outlines:
    """Views in which the subject stands out, and its outline in each."""

    frames: Int64[Tensor, " v"]
    hull: Hull


def subject_hull(scene: Scene, samples: dict[int, ViewSample]) -> Outlines | None:
    """The visual hull of up to 32 views; None where nothing sets the subject apart."""
    frames = [
        frame
        for frame, sample in samples.items()
        if 0.001 < float(sample.mask.float().mean()) < 0.95
    ]
    if len(frames) < max(4, 0.5 * len(samples)):
        return None
    spread = torch.linspace(0, len(frames) - 1, min(_HULL_VIEWS, len(frames)))
    chosen = torch.tensor(frames)[spread.round().long().unique()]
    outlines = torch.stack([outline(samples[frame].mask) for frame in chosen.tolist()])
    return Outlines(chosen, visual_hull(scene.cameras.select(chosen), outlines))


def outline_verdict(scene: Scene, samples: dict[int, ViewSample], found: Outlines) -> Verdict:
    """Which reading of the poses agrees best with the outlines of the subject."""
    outlines = torch.stack([outline(samples[frame].mask) for frame in found.frames.tolist()])

    def score(cameras: Cameras) -> float:
        return float(visual_hull(cameras.select(found.frames), outlines).agreement.median())

    return _verdict(scene, "outlines", "the outlines of the subject", score, None)


def match_verdict(scene: Scene, pairs: Sequence[MatchedPair]) -> Verdict | None:
    """Which reading agrees best with what neighbouring photographs both show; None if too few."""
    if len(pairs) < _PAIRS:
        return None

    def score(cameras: Cameras) -> float:
        return float(agreement(cameras, pairs).mean())

    what = f"what {len(pairs)} pairs of photographs both show"
    right = float(free_agreement(scene.cameras, pairs).mean())
    return _verdict(scene, "matches", what, score, right)


def point_verdict(scene: Scene) -> Verdict | None:
    """Which reading puts most of the sparse points before at least two cameras, and in view."""
    points = scene.points
    if points is None or len(points) < 50:
        return None
    spread = torch.linspace(0, len(points) - 1, min(2000, len(points))).round().long()
    views = torch.linspace(0, len(scene.cameras) - 1, min(64, len(scene.cameras))).round().long()

    def score(cameras: Cameras) -> float:
        return _seen_twice(cameras.select(views), points[spread])

    return _verdict(scene, "points", "the sparse points", score, None)


def lone_views(scene: Scene, found: Outlines) -> list[Warning]:
    """Views whose outline is not where the hull of the others puts it."""
    agreed = found.hull.agreement
    if not len(found.hull.cells) or float(agreed.median()) < 0.6:
        return []
    warnings = []
    for place, frame in enumerate(found.frames.tolist()):
        if float(agreed[place]) < 0.5 * float(agreed.median()):
            share = f"{100 * float(agreed[place]):.0f} %"
            usual = f"{100 * float(agreed.median()):.0f} %"
            sentence = (
                f"the subject is not where the other views put it ({share} of its outline agree, "
                f"in others {usual})."
            )
            remedy = "Its pose or its picture belongs to another view; mend it or leave it out."
            name = file_of(scene, frame)
            warnings.append(Warning("pose", name, sentence, remedy, (frame,)))
    return warnings


def cameras_inside(scene: Scene, found: Outlines | None) -> list[Warning]:
    """Cameras within the visual hull of the subject."""
    if found is None or not len(found.hull.cells) or float(found.hull.agreement.median()) < _FITS:
        return []
    inside = found.hull.holds(scene.cameras.camera_to_world[:, :, 3].double())
    return [
        Warning(
            "inside",
            file_of(scene, frame),
            "its camera stands inside the subject, as the outlines show it.",
            "Check its position, and the unit of it.",
            (frame,),
        )
        for frame in inside.nonzero()[:, 0].tolist()
    ]


def _seen_twice(cameras: Cameras, points: Float64[Tensor, "p 3"]) -> float:
    seen = torch.zeros(len(points))
    for view in range(len(cameras)):
        pixels, depth = cameras.project(torch.full((len(points),), view), points)
        size = torch.stack([cameras.width[view], cameras.height[view]])
        seen += ((pixels >= 0) & (pixels < size)).all(1) & (depth > 0)
    return float((seen >= 2).float().mean())


def _verdict(
    scene: Scene,
    evidence: str,
    what: str,
    score: Callable[[Cameras], float],
    right: float | None,
) -> Verdict:
    """Compare the readings. right: the share of the evidence that is any good, where it is known.

    The poses are doubted only where they fit badly, and another reading is named only where it fits
    well and no third one fits nearly as well.
    """
    readings = conventions(scene.cameras, scene.kind)
    as_is = score(readings[0].cameras)
    enough = _FITS if right is None else _FITS * max(right, 0.5)
    if as_is >= 1.4 * enough:  # nothing to look for
        sentence = f"poses agree with {what} ({100 * as_is:.0f} %)"
        return Verdict(evidence, as_is, as_is, sentence, None)
    scores = [score(reading.cameras) for reading in readings]
    order = sorted(range(len(readings)), key=lambda index: -scores[index])
    best, second = order[0], order[1]
    figures = f"{100 * as_is:.0f} % as they are, {100 * scores[best]:.0f} % at best"
    if best == 0 or as_is > _BEATEN * scores[best]:
        if right is not None and right > 0.6 and as_is < 0.4 * right:
            sentence = (
                f"the poses do not agree with {what} ({100 * as_is:.0f} %, while "
                f"{100 * right:.0f} % of the matches are sound), nor does any other convention."
            )
            remedy = "Perhaps poses and pictures are in another order, or the focal length is off."
            warning = Warning("convention", scene.name, sentence, remedy)
            return Verdict(evidence, as_is, scores[best], sentence, warning)
        sentence = f"poses can be neither confirmed nor refuted by {what} ({figures})"
        if as_is >= enough:
            sentence = f"poses agree with {what} ({figures})"
        return Verdict(evidence, as_is, scores[best], sentence, None)
    if scores[best] < enough:
        sentence = f"poses can be neither confirmed nor refuted by {what} ({figures})"
        return Verdict(evidence, as_is, scores[best], sentence, None)
    warning = _fault(scene, what, figures, readings, scores, best, second)
    return Verdict(evidence, as_is, scores[best], warning.sentence, warning)


def _fault(
    scene: Scene,
    what: str,
    figures: str,
    readings: list[Convention],
    scores: list[float],
    best: int,
    second: int,
) -> Warning:
    # The poses as they are fit too badly to be among these: _BEATEN is less than _CLEAR.
    near = [index for index in (best, second) if scores[index] > _CLEAR * scores[best]]
    sentence = f"the poses do not agree with {what} ({figures})"
    if len(near) > 1:
        faults = " or ".join(readings[index].fault for index in near)
        return Warning(
            "convention",
            scene.name,
            f"{sentence}: either {faults}.",
            f"Try the first: {readings[near[0]].remedy.lower()}. Then look at `info` again.",
        )
    reading = readings[near[0]]
    return Warning("convention", scene.name, f"{sentence}: {reading.fault}.", f"{reading.remedy}.")


def pose_warnings(verdicts: Sequence[Verdict]) -> list[Warning]:
    """The one warning that all the evidence amounts to, if any.

    Matches are the strongest: where the poses agree with them, nothing else is held against them
    (an outline that moves or is ill cut, say), and what they name is the one that is named.
    """
    by_kind = {verdict.evidence: verdict for verdict in verdicts}
    for kind in ("matches", "outlines", "points"):
        verdict = by_kind.get(kind)
        if verdict is None:
            continue
        if verdict.warning is not None:
            return [verdict.warning]
        if kind == "matches" and verdict.score >= _FITS:
            return []
    return []
