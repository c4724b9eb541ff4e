"""`polyfield info`: what a scene is, and what will make training on it fail; or a splat file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from tyro.conf import Positional

from polyfield.apps.diagnosis import Warning
from polyfield.apps.diagnosis_cameras import Coverage, camera_coverage, camera_warnings
from polyfield.apps.diagnosis_images import (
    Samples,
    badly_exposed,
    blurred,
    copies,
    empty_views,
    exposure_drift,
    inverted_masks,
    unreadable,
)
from polyfield.apps.diagnosis_poses import (
    cameras_inside,
    lone_views,
    match_verdict,
    outline_verdict,
    point_verdict,
    pose_warnings,
    subject_hull,
)
from polyfield.apps.epipolar import matched_pairs
from polyfield.apps.formats.splat_files import splat_format
from polyfield.apps.option_help import optional
from polyfield.apps.scene import Scene, load_scene
from polyfield.apps.splat_info import SplatInfo, splat_facts, splat_info
from polyfield.apps.torch_threads import torch_threads
from polyfield.apps.view_samples import sample_views
from polyfield.cuda.errors import InputError
from polyfield.render.paths import up_axis

_MOST_SHOWN = 40  # warnings on the terminal


@dataclass(frozen=True)
class Info:
    """Say what a scene is and what will make training on it fail, or what a splat file holds."""

    scene: Positional[Path]
    """Folder of posed images, or a file of Gaussians."""
    html: Annotated[Path | None, optional("FILE")] = None
    """Write the same as a page, with the cameras drawn and all photographs small."""


@dataclass(frozen=True)
class SceneInfo:
    """What was found in a scene. Lengths are in the input's units, in its frame."""

    name: str
    folder: str
    kind: str
    views: dict[str, int]
    """Frames of each split."""
    sizes: dict[str, int]
    """Frames of each size, WxH."""
    lens: str
    """The camera model, and how many different lenses there are."""
    field_of_view: tuple[float, float]
    """Degrees across the longer side, of the narrowest and the widest view (lens polynomials
    aside)."""
    bounds: str
    """Where the field lies, and why there."""
    up: tuple[float, float, float]
    """Upwards in the world, by how the cameras were held."""
    coverage: Coverage
    points: int
    """Sparse points in the files."""
    subject: str
    """What sets the subject apart from its background."""
    poses: tuple[str, ...]
    """What the photographs say of the poses, a sentence each."""
    notes: tuple[str, ...]
    """What the loader found or adjusted."""
    warnings: tuple[Warning, ...]


@dataclass(frozen=True, eq=False)
class Examined:
    """A scene with what was found in it, and what a page shows of it."""

    scene: Scene
    info: SceneInfo
    samples: Samples


def info(folder: Path) -> SceneInfo:
    """Examine the scene in a folder: what it is, and what will make training on it fail.

    All photographs are decoded once, at reduced size. Prints nothing. InputError where the scene
    cannot be loaded; a photograph whose pixels do not decode is one of the warnings.
    """
    return examine(folder).info


def examine(folder: Path) -> Examined:
    """As `info`, with the scene and its small pictures."""
    scene = load_scene(folder, pass_over_unreadable=True)
    samples: Samples = {}
    errors: dict[int, InputError] = {}
    # Many small operations: a second thread would wait more than it works.
    with torch_threads(1):
        for frame, found in enumerate(sample_views(scene)):
            if isinstance(found, InputError):
                errors[frame] = found
            else:
                samples[frame] = found
        warnings = [*unreadable(errors, scene), *camera_warnings(scene)]
        outlines = subject_hull(scene, samples)
        pairs = matched_pairs(scene, torch.tensor(list(samples))) if len(samples) > 1 else []
        verdicts = [
            verdict
            for verdict in (
                match_verdict(scene, pairs),
                None if outlines is None else outline_verdict(scene, samples, outlines),
                point_verdict(scene),
            )
            if verdict is not None
        ]
        wrong = pose_warnings(verdicts)
        warnings += wrong
        if not wrong:  # else these would be found of every view
            warnings += cameras_inside(scene, outlines)
            warnings += [] if outlines is None else lone_views(scene, outlines)
        exposed = badly_exposed(scene, samples)
        known = {frame for warning in exposed for frame in warning.frames}
        warnings += inverted_masks(scene, samples)
        warnings += empty_views(scene, samples)
        warnings += blurred(scene, samples)
        warnings += exposed
        warnings += exposure_drift(scene, samples, pairs, known)
        warnings += copies(scene, samples, not wrong)
        coverage = camera_coverage(scene)
    return Examined(
        scene,
        SceneInfo(
            scene.name,
            str(scene.folder),
            scene.kind,
            {split: len(frames) for split, frames in scene.splits.items()},
            _sizes(scene),
            _lens(scene),
            _field_of_view(scene),
            next(note for note in scene.notes if note.startswith("bounds: ")).removeprefix(
                "bounds: "
            ),
            _triple(up_axis(scene.cameras.camera_to_world)),
            coverage,
            0 if scene.points is None else len(scene.points),
            _subject(scene),
            tuple(verdict.sentence for verdict in verdicts)
            or ("poses are not checked: no outline, match or point says anything of them",),
            tuple(note for note in scene.notes if not note.startswith("bounds: ")),
            tuple(warnings),
        ),
        samples,
    )


def info_command(options: Info) -> SceneInfo | SplatInfo:
    """`info`, and the page where one is asked for; `splat_info` of a file of Gaussians."""
    from polyfield.apps.info_page import write_info_page

    if splat_format(options.scene) is not None:
        if options.html is not None:
            raise InputError("--html", "of a file of Gaussians", "a folder of posed images")
        return splat_info(options.scene)
    examined = examine(options.scene)
    if options.html is not None:
        write_info_page(options.html, examined)
    return examined.info


def summary(result: SceneInfo | SplatInfo) -> str:
    """What was found, for the terminal: facts first, then a line for each warning."""
    facts = splat_facts(result) if isinstance(result, SplatInfo) else info_facts(result)
    width = max(map(len, facts))
    lines = [f"{name:<{width}}  {value}" for name, value in facts.items()]
    lines += [f"{'note':<{width}}  {note}" for note in result.notes]
    warnings = result.warnings
    lines.append("")
    if not warnings:
        lines.append("no warnings")
    else:
        lines.append(f"{len(warnings)} warning{'s' if len(warnings) > 1 else ''}:")
        lines += [f"- {warning}" for warning in warnings[:_MOST_SHOWN]]
        if len(warnings) > _MOST_SHOWN:
            lines.append(f"- ... and {len(warnings) - _MOST_SHOWN} more: see --json or --html")
    return "\n".join(lines)


def info_facts(result: SceneInfo) -> dict[str, str]:
    """What was found, as a name and a line each."""
    narrow, wide = result.field_of_view
    view = f"{narrow:.0f}" if wide - narrow < 0.5 else f"{narrow:.0f} to {wide:.0f}"
    up = ", ".join(f"{value:.2f}" for value in result.up)
    facts = {
        "scene": f"{result.name} ({result.kind})",
        "views": ", ".join(f"{count} {split}" for split, count in result.views.items()),
        "images": ", ".join(f"{count} of {size}" for size, count in result.sizes.items()),
        "lens": f"{result.lens}, {view} degrees across the longer side",
        "bounds": result.bounds,
        "coverage": str(result.coverage),
        "up": up,
        "subject": result.subject,
        "poses": "; ".join(result.poses),
    }
    if result.points:
        facts["points"] = f"{result.points:,} sparse points"
    return facts


def _sizes(scene: Scene) -> dict[str, int]:
    counts: dict[str, int] = {}
    for width, height in scene.sizes:
        counts[f"{width}x{height}"] = counts.get(f"{width}x{height}", 0) + 1
    ordered = sorted(counts.items(), key=lambda entry: -entry[1])
    rest = sum(count for _, count in ordered[8:])
    return dict(ordered[:8]) | ({"other sizes": rest} if rest else {})


def _lens(scene: Scene) -> str:
    cameras = scene.cameras
    table = torch.cat([cameras.focal, cameras.center, cameras.distortion], 1)
    count = len(table.unique(dim=0))
    return f"{cameras.model}, {'one lens' if count == 1 else f'{count} lenses'}"


def _field_of_view(scene: Scene) -> tuple[float, float]:
    size = torch.stack([scene.cameras.width, scene.cameras.height], 1).double()
    angle = torch.rad2deg(2 * torch.atan(size / 2 / scene.cameras.focal.double())).amax(1)
    return float(angle.min()), float(angle.max())


def _subject(scene: Scene) -> str:
    if scene.backdrop is not None:
        return f"before a plain backdrop of colour {scene.backdrop}"
    if scene.masks:
        count = sum(mask is not None for mask in scene.masks)
        what = {mask.meaning for mask in scene.masks if mask is not None}
        return f"by the masks of {count} views" if "object" in what else f"{count} views have masks"
    return "by the images' alpha" if scene.has_alpha else "nothing sets it apart"


def _triple(values: torch.Tensor) -> tuple[float, float, float]:
    x, y, z = values.tolist()
    return x, y, z
