"""What is wrong with the photographs themselves: blur, exposure, copies, nothing to see."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from polyfield.apps.diagnosis import Warning, deviations, file_of, name_within
from polyfield.apps.epipolar import MatchedPair, relative_brightness
from polyfield.apps.mask_files import WORDS
from polyfield.apps.scene import Scene
from polyfield.apps.view_samples import ViewSample
from polyfield.cuda.errors import InputError

Samples = dict[int, ViewSample]
"""Of those frames whose photograph decodes."""

_FEWEST = 6  # views, for one to stand out from them
# How much of the ratios of ViewSample.sharpness must be lost, as logarithms. Renderings of small
# objects vary by up to 0.66, 0.85, 0.83; a phone's film is blurred to the eye from 1.2 on, in the
# last two; a Gaussian of one pixel takes 1.3 and 2.0 from the first two.
_LOST = (0.8, 1.1, 1.1)
_SOFT = 3.3  # robust standard deviations, for those
_STRAY = 4.5  # the same for brightness
_CLIPPED = 0.4  # of the subject, more than the median view has
_STOPS = 0.45  # natural logarithm of a brightness against the neighbours': two thirds of a stop
_SHARED_STOPS = 0.25  # the same of what both show
_SUSPECTS, _ASKED = 24, 3  # photographs compared with neighbours, and with how many
_DRIFT = 0.12  # the same between two views of the same thing, the median over pairs
_SIMILAR = 0.05  # of a picture's contrast: root mean square difference of two of one view
_NEIGHBOURS = 8


def unreadable(errors: dict[int, InputError], scene: Scene) -> list[Warning]:
    """Photographs (or masks) whose header is whole and whose pixels do not decode."""
    return [
        Warning(
            "unreadable",
            name_within(scene, Path(error.where)),
            f"{error.got}.",
            "Copy or export it again, or take its frame out; training stops at it.",
            (frame,),
        )
        for frame, error in errors.items()
    ]


def blurred(scene: Scene, samples: Samples) -> list[Warning]:
    """Photographs that lack the finest detail which the others have, in any direction."""
    if len(samples) < _FEWEST:
        return []
    frames = list(samples)
    sharpness = torch.stack([samples[frame].sharpness for frame in frames])  # [n, 4, 3]
    lost = torch.zeros(len(frames))
    worst = torch.zeros(len(frames))
    for way in range(sharpness.shape[1]):
        for scale, least in enumerate(_LOST):
            values = sharpness[:, way, scale]
            drop = -deviations(values, least / _SOFT) / _SOFT
            drop = drop.nan_to_num(0.0)
            amount = (values.nanmedian() - values).nan_to_num(0.0)
            worst = torch.where(drop > lost, amount, worst)
            lost = torch.maximum(lost, drop)
    return [
        Warning(
            "blurred",
            file_of(scene, frames[place]),
            f"blurred: its fine detail has {100 * math.exp(-float(worst[place])):.2g} % of the "
            "energy that it has in the other photographs.",
            "Leave it out or take it again.",
            (frames[place],),
        )
        for place in (lost > 1).nonzero()[:, 0].tolist()
    ]


def badly_exposed(scene: Scene, samples: Samples) -> list[Warning]:
    """Photographs of which much is clipped to black or white, unlike in the others."""
    warnings = []
    shown = [frame for frame in samples if not math.isnan(samples[frame].brightness)]
    for kind, word, side in (("underexposed", "black", "dark"), ("overexposed", "white", "bright")):
        shares = torch.tensor([getattr(samples[frame], side) for frame in shown])
        if not len(shares):
            break
        usual = float(shares.median())
        if usual > 0.9:
            sentence = f"nearly all of the photographs are {word} ({100 * usual:.0f} % of them)."
            remedy = "Look at what was exported; nothing can be learned from a plain colour."
            warnings.append(Warning(kind, scene.name, sentence, remedy))
            continue
        for frame, share in zip(shown, shares.tolist(), strict=True):
            if share > usual + _CLIPPED:
                sentence = f"{kind}: {100 * share:.0f} % of it is plain {word}."
                remedy = "Leave it out or develop it like the others."
                warnings.append(Warning(kind, file_of(scene, frame), sentence, remedy, (frame,)))
    return warnings


def exposure_drift(
    scene: Scene, samples: Samples, pairs: Sequence[MatchedPair], known: set[int]
) -> list[Warning]:
    """Photographs brighter or darker than their neighbours, and sets whose exposure wanders.

    known: frames whose exposure was found fault with already.
    """
    warnings = []
    frames = [frame for frame in samples if not math.isnan(samples[frame].brightness)]
    if len(frames) > _NEIGHBOURS:
        light = torch.tensor([max(samples[frame].brightness, 1 / 255) for frame in frames]).log()
        nearest = _nearest(scene, frames)
        away = light - light[nearest].median(1).values
        stray = deviations(away, _STOPS / _STRAY)
        order = stray.abs().argsort(descending=True)[:_SUSPECTS].tolist()
        for place in sorted(place for place in order if abs(float(stray[place])) > _STRAY):
            if frames[place] in known:
                continue
            # Darker as a whole it may be because it shows other things.
            others = [frames[other] for other in nearest[place, :_ASKED].tolist()]
            ratio = relative_brightness(scene, frames[place], others)
            if ratio is None and abs(float(away[place])) > 2 * _STOPS:
                ratio = math.exp(float(away[place]))
            if ratio is None or abs(math.log(ratio)) < _SHARED_STOPS:
                continue
            sentence = f"exposed unlike its neighbours: {ratio:.2g} times as bright."
            remedy = "Develop all photographs alike, or leave it out."
            where = file_of(scene, frames[place])
            warnings.append(Warning("exposure", where, sentence, remedy, (frames[place],)))
    gains = [abs(math.log(pair.gain)) for pair in pairs]
    if len(gains) >= 5 and (usual := float(np.median(gains))) > _DRIFT:
        sentence = (
            f"exposure drifts: what two photographs both show differs by {100 * usual:.0f} % "
            f"in brightness, the median of {len(gains)} pairs."
        )
        remedy = "Lock exposure and white balance, or develop the photographs alike."
        warnings.append(Warning("exposure", scene.name, sentence, remedy))
    return warnings


def empty_views(scene: Scene, samples: Samples) -> list[Warning]:
    """Photographs without any of the subject: transparent all over, or plain backdrop."""
    what = "plain backdrop" if scene.backdrop is not None else "transparent"
    return [
        Warning(
            "empty",
            file_of(scene, frame),
            f"it shows nothing of the subject: all of it is {what}.",
            "Leave it out, or look at its mask and its alpha channel.",
            (frame,),
        )
        for frame, sample in samples.items()
        if sample.subject < 1e-4
    ]


def inverted_masks(scene: Scene, samples: Samples) -> list[Warning]:
    """Masks that leave the rims of the photographs and take their middles away.

    Whoever takes pictures of something has it in the middle; half of the masked views must agree.
    """
    rims, middles = [], []
    for frame, sample in samples.items():
        mask = scene.masks[frame] if scene.masks else None
        if mask is None:
            continue
        left = (sample.mask if mask.meaning == "object" else sample.kept).float()
        height, width = left.shape
        rims.append(torch.cat([left[0], left[-1], left[:, 0], left[:, -1]]).mean())
        inner = left[height // 3 : height - height // 3, width // 3 : width - width // 3]
        middles.append(inner.mean())
    if not rims:
        return []
    rim, middle = (float(torch.stack(shares).median()) for shares in (rims, middles))
    if rim < 0.85 or middle > 0.4:
        return []
    first = next(mask for mask in scene.masks if mask is not None)
    sentence = (
        f"masks look inverted: they leave {100 * rim:.0f} % of the photographs' rims and "
        f"{100 * middle:.0f} % of their middles ({WORDS[first.meaning]})."
    )
    where = name_within(scene, first.path)
    return [Warning("masks", where, sentence, "Invert them, unless the middle is to be left out.")]


def copies(scene: Scene, samples: Samples, poses_hold: bool = True) -> list[Warning]:
    """Photographs that are there twice, and nearly equal ones whose poses differ.

    poses_hold: whether poses say anything; if not, only equal pixels are told of.
    """
    warnings = []
    equal = defaultdict(list)
    for frame, sample in samples.items():
        if sample.subject >= 1e-4:
            equal[sample.digest].append(frame)
    group = {}
    for frames in equal.values():
        for frame in frames:
            group[frame] = frames[0]
        for frame in frames[1:]:
            first = file_of(scene, frames[0])
            sentence = f"the same picture as {first}, pixel for pixel."
            if poses_hold and _apart(scene, frame, frames[0]):
                sentence = f"{sentence[:-1]}, with another pose: one of them is wrong."
            elif _held_out(scene, frame) != _held_out(scene, frames[0]):
                sentence = f"{sentence[:-1]}, one trained on and one held out: figures flatter."
            remedy = (
                f"Keep one of the two ({file_of(scene, frames[0])} or {file_of(scene, frame)})."
            )
            warnings.append(Warning("copy", file_of(scene, frame), sentence, remedy, (frame,)))
    for frame, other in _alike(samples) if poses_hold else ():
        if group.get(frame) == group.get(other) or not _apart(scene, frame, other):
            continue
        sentence = f"nearly the same picture as {file_of(scene, other)}, with another pose."
        remedy = "If the subject does not look alike from both, one of the poses is wrong."
        warnings.append(Warning("copy", file_of(scene, frame), sentence, remedy, (frame,)))
    return warnings


def _alike(samples: Samples) -> list[tuple[int, int]]:
    """For a frame whose picture is all but equal to an earlier one's, the two."""
    frames = [frame for frame in samples if samples[frame].subject >= 1e-4]
    if len(frames) < 2:
        return []
    small = torch.stack([_small(samples[frame].thumbnail) for frame in frames])
    # Relative to what varies in the picture itself: two pictures of a plain wall are not alike.
    contrast = (small - small.mean(1, keepdim=True)).norm(dim=1)
    found = []
    for start in range(0, len(frames), 512):
        distance = torch.cdist(small[start : start + 512], small)
        allowed = _SIMILAR * torch.minimum(contrast[start : start + 512, None], contrast)
        earlier = torch.arange(len(frames)) < torch.arange(start, start + len(distance))[:, None]
        near = (distance < allowed) & earlier & (contrast > 1.0)
        for place in near.any(1).nonzero()[:, 0].tolist():
            partner = int(torch.where(near[place], distance[place], math.inf).argmin())
            found.append((frames[start + place], frames[partner]))
    return found


def _small(thumbnail: Tensor) -> Tensor:
    """A picture as 24 x 24 colours over grey, a row of numbers in [0, 1]."""
    picture = Image.fromarray(thumbnail.numpy()).resize((24, 24), Image.Resampling.BOX)
    rgba = torch.from_numpy(np.array(picture)).float() / 255
    return (rgba[:, :, :3] * rgba[:, :, 3:] + 0.5 * (1 - rgba[:, :, 3:])).flatten()


def _nearest(scene: Scene, frames: list[int]) -> Tensor:
    """Places among `frames` of the 8 nearest views of each [n, 8], by position and direction."""
    poses = scene.cameras.camera_to_world[torch.tensor(frames)].double()
    position = poses[:, :, 3]
    spread = (position - position.mean(0)).norm(dim=1).mean().clamp(min=1e-12)
    table = torch.cat([position / spread, poses[:, :, 2]], 1)
    rows = []
    for part in table.split(512):
        rows.append(torch.cdist(part, table).topk(_NEIGHBOURS + 1, largest=False).indices[:, 1:])
    return torch.cat(rows)


def _apart(scene: Scene, first: int, second: int) -> bool:
    """Whether two poses differ by more than 5 degrees, or by a tenth of the cameras' spread."""
    poses = scene.cameras.camera_to_world.double()
    position = poses[:, :, 3]
    spread = float((position - position.mean(0)).norm(dim=1).mean())
    turn = poses[first, :, :3].T @ poses[second, :, :3]
    cosine = (float(turn.diagonal().sum()) - 1) / 2
    moved = float((position[first] - position[second]).norm())
    return cosine < math.cos(math.radians(5)) or moved > 0.1 * spread


def _held_out(scene: Scene, frame: int) -> bool:
    return not bool((scene.splits["train"] == frame).any())
