"""`polyfield convert`: a scene of any format as the transforms.json that other tools read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

import torch
from tyro.conf import Positional, arg

from polyfield.apps.bounds import synthetic_bounds
from polyfield.apps.files import new_folder, refusal, replacing
from polyfield.apps.formats import transforms_json
from polyfield.apps.formats.cameras_json import frame_entries, split_lists
from polyfield.apps.formats.image_copies import common_folder
from polyfield.apps.formats.point_ply import Points, write_points
from polyfield.apps.formats.posed_images import PosedImages
from polyfield.apps.formats.transforms_json import SPARSE_POINTS
from polyfield.apps.option_help import optional
from polyfield.apps.scene import read_scene
from polyfield.cuda.errors import InputError


@dataclass(frozen=True)
class Convert:
    """Write a scene of any format as a transforms.json with its images, points and depths."""

    scene: Positional[Path]
    """Folder of posed images."""
    out: Annotated[Path, arg(metavar="DIR")]
    """Folder to write: a new one, or an empty one, outside of the scene's."""
    images: Annotated[str | None, optional("FOLDER")] = None
    """Folder in the scene whose copies of the photographs are taken, such as images_4. Without it,
    the largest whose longer side is at most 1,600 pixels."""


@dataclass(frozen=True)
class ConvertResult:
    """What was read and written."""

    out: str
    kind: str
    """Format of the scene that was read."""
    camera_model: str
    frames: int
    splits: dict[str, int]
    """Frames of each."""
    points: int
    depths: int
    notes: tuple[str, ...]
    """What was found or adjusted in reading."""


def convert(options: Convert) -> ConvertResult:
    """Write the scene as nerfstudio's transforms.json into a folder of its own. Prints nothing.

    The folder loads to the same rays, splits, names, points and depths; images and depth images are
    hard links where the system allows them, copies elsewhere, in the folders images and depths. It
    appears whole or not at all. Raises InputError for what is no scene, a folder that holds
    something or lies in the scene's, and where it cannot be written.
    """
    out = _free_folder(options.out)
    folder, kind, posed = read_scene(options.scene, options.images)
    if out.is_relative_to(folder):
        raise InputError(f"--out {options.out}", "lies in the scene's folder", "one outside of it")
    images = image_places(posed)
    depth_paths = posed.depth_paths or (None,) * len(images)
    depths = depth_places(depth_paths, images)
    with new_folder(out) as unfinished:
        for place, source in zip(images, posed.image_paths, strict=True):
            _take(source, unfinished / place)
        for depth, path in zip(depths, depth_paths, strict=True):
            if depth is not None and path is not None:
                _take(path, unfinished / depth)
        if posed.points is not None:
            write_points(unfinished / SPARSE_POINTS, Points(posed.points, posed.point_colors))
        document = scene_document(kind, posed, images, depths)
        with replacing(unfinished / "transforms.json") as file:
            file.write(json.dumps(document, indent=1).encode())
        _check(unfinished, posed)
    notes = list(posed.notes)
    if count := sum(mask is not None for mask in posed.masks):
        notes.append(f"warning: the masks of {count} photographs are not carried over")
    return ConvertResult(
        str(options.out),
        kind,
        posed.cameras.model,
        len(images),
        {split: len(frames) for split, frames in posed.splits.items()},
        0 if posed.points is None else len(posed.points),
        sum(depth is not None for depth in depths),
        tuple(notes),
    )


def summary(result: ConvertResult) -> str:
    """What lies where."""
    splits = ", ".join(f"{count} to {split}" for split, count in result.splits.items())
    parts = [f"{result.frames} views ({splits})", f"lens {result.camera_model}"]
    parts += [f"{result.points} points"] if result.points else []
    parts += [f"{result.depths} depth images"] if result.depths else []
    lines = [*result.notes, f"wrote {result.out} from {result.kind}: {', '.join(parts)}"]
    return "\n".join([*lines, f"next: polyfield train {result.out}"])


def image_places(posed: PosedImages) -> list[str]:
    """Where each frame's image goes in the new folder, each to a place of its own.

    With the sub-folders that the images lie in. Where names repeat, for r_0 exists in each split of
    NeRF-synthetic, into a folder of the split's name: the loader tells them apart by it.
    """
    if len(set(posed.frame_names)) == len(posed.frame_names):
        folder = common_folder(posed.image_paths)
        return [f"images/{path.relative_to(folder).as_posix()}" for path in posed.image_paths]
    places = [""] * len(posed.frame_names)
    for split, frames in posed.splits.items():
        for frame in frames.tolist():
            suffix = posed.image_paths[frame].suffix
            places[frame] = places[frame] or f"images/{split}/{posed.frame_names[frame]}{suffix}"
    return places


def depth_places(depths: Sequence[Path | None], images: Sequence[str]) -> list[str | None]:
    """Where the depth image of each frame goes, if it has one: beside the others, named as its own.

    images: where those of the frames go.
    """
    plain = [str(PurePosixPath(image).with_suffix("")) for image in images]
    names = plain if len(set(plain)) == len(plain) else images
    places = [f"depths/{name.removeprefix('images/')}.png" for name in names]
    return [None if depth is None else place for depth, place in zip(depths, places, strict=True)]


def scene_document(
    kind: str, posed: PosedImages, images: Sequence[str], depths: Sequence[str | None]
) -> dict[str, object]:
    """The transforms.json of a scene whose files lie where `images` and `depths` say.

    What all frames have in common stands at the top. A box that the scene's files give, or that
    their format means, is written as instant-ngp's aabb_scale, scale and offset.
    """
    frames = frame_entries(posed.cameras, images)
    for frame, depth in zip(frames, depths, strict=True):
        if depth is not None:
            frame["depth_file_path"] = depth
    own = ("file_path", "transform_matrix", "depth_file_path")
    shared = {
        key: value
        for key, value in frames[0].items()
        if key not in own and all(frame[key] == value for frame in frames)
    }
    document: dict[str, object] = {"camera_model": posed.cameras.model, **shared}
    bounds = posed.bounds or (synthetic_bounds(posed.cameras) if kind == "nerf-synthetic" else None)
    if bounds is not None:
        size = 2 ** (bounds.grid_levels - 1)
        scale = size / bounds.side
        offset = (0.5 - scale * bounds.center).tolist()
        document |= {"aabb_scale": size, "scale": scale, "offset": offset}
    if posed.applied_transform is not None:
        document["applied_transform"] = posed.applied_transform.tolist()
    if posed.applied_scale is not None:
        document["applied_scale"] = posed.applied_scale
    if any(depths):
        document["depth_unit_scale_factor"] = posed.depth_unit
    if posed.points is not None:
        document["ply_file_path"] = SPARSE_POINTS
    own_keys = [{k: v for k, v in frame.items() if k not in shared} for frame in frames]
    return document | split_lists(images, posed.splits) | {"frames": own_keys}


def _free_folder(out: Path) -> Path:
    """Where `out` leads, if nothing is there or an empty folder."""
    where, expected = f"--out {str(out)[:200]}", "a new folder, or an empty one"
    try:
        out = out.resolve()
        if out.exists() and not out.is_dir():
            raise InputError(where, "is a file", expected)
        if out.exists() and any(out.iterdir()):
            raise InputError(where, "is not empty", expected)
    except InputError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        got = getattr(error, "strerror", None) or str(error)[:200]
        raise InputError(where, got, expected) from error
    return out


def _take(source: Path, place: Path) -> None:
    """A file under another name: the same one where the file system has links, else a copy."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, place)
        except FileExistsError:
            raise
        except OSError:  # another disk, or one without links
            shutil.copyfile(source, place)
    except OSError as error:
        raise refusal(place, error) from error


def _check(folder: Path, posed: PosedImages) -> None:
    """Refuse what does not load again to the same scene, before anybody sees it."""
    again = transforms_json.read(folder)
    same = again.frame_names == posed.frame_names and again.splits.keys() == posed.splits.keys()
    same = same and all(torch.equal(again.splits[k], posed.splits[k]) for k in posed.splits)
    if not same:
        got = "names or splits that a transforms.json cannot tell apart"
        raise InputError(str(posed.image_paths[0].parent), got, "images of different names")
