"""transforms.json of instant-ngp and nerfstudio, and its frames, which NeRF-synthetic shares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from polyfield.apps.bounds import Bounds
from polyfield.apps.formats.depth_files import MILLIMETRES, check_depth
from polyfield.apps.formats.image_copies import common_folder
from polyfield.apps.formats.json_fields import Fields, read_object
from polyfield.apps.formats.lens_models import common_lens
from polyfield.apps.formats.masks import find_masks
from polyfield.apps.formats.point_ply import Points, read_points
from polyfield.apps.formats.posed_images import (
    PosedImages,
    every_eighth,
    find_image,
    read_headers,
    rigid_poses,
    unique_names,
)
from polyfield.apps.formats.transforms_lens import read_lens
from polyfield.apps.image_files import ImageHeader
from polyfield.apps.mask_files import Mask
from polyfield.cuda.errors import InputError
from polyfield.render.cameras import Cameras

SPARSE_POINTS = "sparse_pc.ply"  # where nerfstudio puts them, also before it had a key for it


@dataclass(frozen=True, eq=False)
class Frames:
    """The frames of one JSON file, in its order."""

    names: list[str]
    files: list[str]
    """file_path as it is written."""
    originals: list[Path]
    """The images that it names."""
    paths: list[Path]
    """Those that are used, perhaps smaller copies."""
    headers: list[ImageHeader]
    cameras: Cameras
    depth_paths: list[Path | None]
    masks: tuple[Mask | None, ...]


def read(folder: Path, images: str | None = None) -> PosedImages:
    """The scene that folder/transforms.json describes.

    Intrinsics of a frame win over those of the file. train_filenames, val_filenames and
    test_filenames win over every eighth. Sparse points are read from ply_file_path, or from
    sparse_pc.ply beside the JSON: nerfstudio writes them in the frame of transform_matrix, that is
    after applied_transform and applied_scale, which say how the world was made and change nothing.
    images: a folder of other copies of the photographs. InputError names file and field of whatever
    cannot be used.
    """
    notes: list[str] = []
    document = read_object(folder / "transforms.json", folder)
    frames = read_frames(document, folder, notes, images)
    lists = _split_lists(document, frames.files, notes)
    points = _points(document, folder, notes)
    return PosedImages(
        tuple(frames.names if lists is None else _split_names(frames, lists)),
        tuple(frames.paths),
        any(header.has_alpha for header in frames.headers),
        frames.cameras,
        every_eighth(frames.files) if lists is None else lists,
        read_bounds(document),
        tuple(notes),
        None if points is None else points.position,
        None if points is None else points.color,
        tuple(frames.depth_paths),
        read_depth_unit(document),
        _applied_transform(document),
        document.number("applied_scale", 0.0),
        masks=frames.masks,
    )


def read_frames(
    document: Fields, folder: Path, notes: list[str], images: str | None = None
) -> Frames:
    """All frames of a JSON object: images found, headers read, poses and lenses checked."""
    entries = document.items("frames")
    if not entries:
        got = "no frame" if entries is not None else "missing"
        raise InputError(document.name("frames"), got, "an array of at least one frame")
    frames = []
    for index, entry in enumerate(entries):
        where = document.name(f"frames[{index}]")
        if not isinstance(entry, dict):
            raise InputError(where, "not an object", "{file_path, transform_matrix}")
        frames.append(Fields(where, entry))
    files = []
    for frame in frames:
        if (file := frame.text("file_path")) is None:
            raise frame.refuse("file_path", "the path of an image")
        files.append(file)
    matrices = torch.tensor([_matrix(frame) for frame in frames], dtype=torch.float64)
    fields = [frame.name("transform_matrix") for frame in frames]
    poses = rigid_poses(matrices, fields, notes)
    poses[:, :, 1:3] *= -1  # from OpenGL's axes, up and backwards, to OpenCV's, down and forward

    originals = [
        find_image(file, folder, frame.name("file_path"))
        for file, frame in zip(files, frames, strict=True)
    ]
    first: dict[Path, int] = {}
    for index, path in enumerate(originals):
        if (earlier := first.setdefault(path, index)) != index:
            got = f"{files[index]!r} again, as in frames[{earlier}]"
            raise InputError(frames[index].name("file_path"), got, "each image once")
    paths, headers, original_headers = read_headers(originals, folder, notes, images)
    lenses = [
        read_lens(frame, document, header, original)
        for frame, header, original in zip(frames, headers, original_headers, strict=True)
    ]
    if scaled := [lens.scaled for lens in lenses if lens.scaled]:
        notes.append(f"intrinsics of {len(scaled)} frames scaled to the images: {scaled[0]}")
    _note_unused(document, frames, notes)
    model, distortion = common_lens(
        [lens.lens for lens in lenses], document.name("frames.camera_model")
    )
    cameras = Cameras(
        poses,
        torch.tensor([lens.focal for lens in lenses], dtype=torch.float64),
        torch.tensor([lens.center for lens in lenses], dtype=torch.float64),
        distortion,
        torch.tensor([header.width for header in headers]),
        torch.tensor([header.height for header in headers]),
        model,
    )
    if bad := (~cameras.invertible()).nonzero()[:, 0].tolist():
        lens = lenses[bad[0]]
        bends = {"fl_x": lens.focal[0], **lens.lens.coefficients}
        got = ", ".join(f"{key} {value:g}" for key, value in bends.items())
        got += " fold the image: one pixel has no ray, or several"
        expected = f"a lens {model} that can be inverted over the whole image"
        raise InputError(frames[bad[0]].name("camera_model"), got, expected)
    masks = find_masks(originals, paths, headers, folder, notes, frames)
    depths = _depths(frames, headers, folder)
    names = unique_names(originals)
    return Frames(names, files, originals, paths, headers, cameras, depths, masks)


def read_bounds(document: Fields) -> Bounds | None:
    """The box of instant-ngp: its unit cube, p * scale + offset, grown aabb_scale times.

    Source: instant-ngp's docs/nerf_dataset_tips.md. One nested grid for each doubling, as there.
    None where the file has neither aabb_scale nor offset.
    """
    if "aabb_scale" not in document and "offset" not in document:
        return None
    size = document.number("aabb_scale") or 1.0
    if size not in [2.0**power for power in range(8)]:
        raise document.refuse("aabb_scale", "a power of two from 1 to 128")
    scale = document.number("scale", 1e-9) or 0.33
    offset = torch.tensor(document.numbers("offset", 3) or [0.5, 0.5, 0.5], dtype=torch.float64)
    return Bounds(
        (0.5 - offset) / scale,
        size / scale,
        1 + int(math.log2(size)),
        0.1 / scale,  # instant-ngp's own near distance
        f"aabb_scale {size:g} of the JSON",
    )


def read_depth_unit(document: Fields) -> float:
    """Metres that a step of the depth images' pixels means: depth_unit_scale_factor."""
    return document.number("depth_unit_scale_factor", 0.0) or MILLIMETRES


def _depths(
    frames: Sequence[Fields], headers: Sequence[ImageHeader], folder: Path
) -> list[Path | None]:
    """The depth image of each frame that names one, of the photograph's aspect."""
    found: list[Path | None] = []
    for frame, header in zip(frames, headers, strict=True):
        name, where = frame.text("depth_file_path"), frame.name("depth_file_path")
        path = None if name is None else find_image(name, folder, where)
        if path is not None:
            size, photograph = check_depth(path), (header.width, header.height)
            (width, height), (longer, taller) = sorted([size, photograph])
            # In pixels of the coarser one, whose sides are rounded.
            if abs(height - taller * width / longer) > 1 < abs(width - longer * height / taller):
                got = "{}x{} pixels beside a photograph of {}x{}".format(*size, *photograph)
                raise InputError(where, got, "the photograph's aspect")
        found.append(path)
    return found


def _points(document: Fields, folder: Path, notes: list[str]) -> Points | None:
    name, where = document.text("ply_file_path"), document.name("ply_file_path")
    if name is None:
        if not (folder / SPARSE_POINTS).is_file():
            return None
        name, where = SPARSE_POINTS, f"{folder.name}/{SPARSE_POINTS}"
    points = read_points(find_image(name, folder, where), where)
    notes.append(f"{len(points.position)} sparse points")
    return points


def _applied_transform(document: Fields) -> Float64[Tensor, "3 4"] | None:
    if "applied_transform" not in document:
        return None
    return torch.tensor(_matrix(document, "applied_transform")[:3], dtype=torch.float64)


def _matrix(frame: Fields, key: str = "transform_matrix") -> list[list[float]]:
    rows = frame.items(key)
    if rows is None or len(rows) not in (3, 4):
        raise frame.refuse(key, "4 rows of 4 numbers")
    name = frame.name(key)
    entries = Fields(name, {f"[{index}]": row for index, row in enumerate(rows)})
    found = [entries.numbers(row, 4) for row in entries.values]
    for index, row in enumerate(found):
        if row is None:
            raise entries.refuse(f"[{index}]", "4 numbers")
    return [row for row in found if row is not None] + [[0.0, 0.0, 0.0, 1.0]] * (4 - len(rows))


def _split_lists(
    document: Fields, files: Sequence[str], notes: list[str]
) -> dict[str, Int64[Tensor, " m"]] | None:
    """The splits that the file lists; None where it lists none."""
    index_of = {_plain(file): index for index, file in enumerate(files)}
    lists: dict[str, list[int]] = {}
    for split in ("train", "val", "test"):
        key = f"{split}_filenames"
        names = document.items(key)
        if names is None:
            continue
        for place, name in enumerate(names):
            if not isinstance(name, str) or _plain(name) not in index_of:
                got = f"{str(name)[:80]!r} is the file_path of no frame"
                raise InputError(document.name(f"{key}[{place}]"), got, "a frame of this file")
        lists[split] = list(dict.fromkeys(index_of[_plain(name)] for name in names))
    if not any(lists.values()):
        notes.append("no split in the files: every eighth frame in name order is held out")
        return None
    if "train" not in lists:
        held_out = {index for split in lists.values() for index in split}
        lists["train"] = [index for index in range(len(files)) if index not in held_out]
        notes.append("no train_filenames: trained on every frame that is not held out")
    if not lists["train"]:
        raise InputError(document.name("train_filenames"), "no frame", "at least one")
    if not lists.get("test") and lists.get("val"):
        lists["test"] = lists["val"]
        notes.append("no test_filenames: val_filenames are the test views")
    lists.setdefault("test", [])
    if unused := len(files) - len({index for split in lists.values() for index in split}):
        notes.append(f"{unused} frames are in no split and are not used")
    return {split: torch.tensor(lists[split], dtype=torch.int64) for split in lists}


def _split_names(frames: Frames, splits: dict[str, Int64[Tensor, " m"]]) -> list[str]:
    """Names that are unique within each split, where each has its frames in a folder of its name.

    So a scene of the form of NeRF-synthetic keeps its names: r_0 exists in each split. Otherwise
    names are unique in the whole scene.
    """
    folder = common_folder(frames.originals)
    inner = [path.relative_to(folder).parts for path in frames.originals]
    held = {split: set(indices.tolist()) for split, indices in splits.items()}
    for index, parts in enumerate(inner):
        if len(parts) < 2 or index not in held.get(parts[0], ()):
            return frames.names
    names = list(frames.names)
    for split in held:
        own = [index for index, parts in enumerate(inner) if parts[0] == split]
        short = unique_names([frames.originals[index] for index in own]) if own else []
        for index, name in zip(own, short, strict=True):
            names[index] = name
    repeated = any(len({names[i] for i in own}) < len(own) for own in held.values())
    return frames.names if repeated else names


def _plain(file: str) -> str:
    return file.replace("\\", "/").removeprefix("./")


def _note_unused(document: Fields, frames: Sequence[Fields], notes: list[str]) -> None:
    times = {str(frame.values.get("time")) for frame in frames}
    if len(times) > 1:
        notes.append("frames have different times, which are not used: what moves will blur")
