"""transforms.json of instant-ngp and nerfstudio, and its frames, which NeRF-synthetic shares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

from polyfield.apps.bounds import Bounds
from polyfield.apps.formats.json_fields import LARGEST, Fields, read_object
from polyfield.apps.formats.masks import find_masks
from polyfield.apps.formats.posed_images import (
    PosedImages,
    every_eighth,
    find_image,
    image_scale,
    read_headers,
    rigid_poses,
    unique_names,
)
from polyfield.apps.image_files import ImageHeader
from polyfield.apps.mask_files import Mask
from polyfield.cuda.errors import InputError
from polyfield.render.cameras import Cameras

MODELS = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "RADIAL", "SIMPLE_RADIAL")
_UNDISTORT = "Undistort the photographs first, for example with COLMAP's image_undistorter."


@dataclass(frozen=True)
class FrameLens:
    """Intrinsics of one frame, at the size of the image that is used."""

    focal: tuple[float, float]
    center: tuple[float, float]
    distortion: tuple[float, ...]
    scaled: str
    """What was scaled to the image's size, for a note; empty if nothing."""


@dataclass(frozen=True, eq=False)
class Frames:
    """The frames of one JSON file, in its order."""

    names: list[str]
    files: list[str]
    """file_path as it is written."""
    paths: list[Path]
    headers: list[ImageHeader]
    cameras: Cameras
    masks: tuple[Mask | None, ...]


def read(folder: Path) -> PosedImages:
    """The scene that folder/transforms.json describes.

    Intrinsics of a frame win over those of the file. train_filenames, val_filenames and
    test_filenames win over every eighth; applied_transform and applied_scale say how the world was
    made, and change nothing. InputError names file and field of whatever cannot be used.
    """
    notes: list[str] = []
    document = read_object(folder / "transforms.json", folder)
    frames = read_frames(document, folder, notes)
    return PosedImages(
        tuple(frames.names),
        tuple(frames.paths),
        any(header.has_alpha for header in frames.headers),
        frames.cameras,
        _splits(document, frames.files, notes),
        read_bounds(document),
        tuple(notes),
        masks=frames.masks,
    )


def read_frames(document: Fields, folder: Path, notes: list[str]) -> Frames:
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
    paths, headers, original_headers = read_headers(originals, folder, notes)
    lenses = [
        read_lens(frame, document, header, original)
        for frame, header, original in zip(frames, headers, original_headers, strict=True)
    ]
    if scaled := [lens.scaled for lens in lenses if lens.scaled]:
        notes.append(f"intrinsics of {len(scaled)} frames scaled to the images: {scaled[0]}")
    _note_unused(document, frames, notes)
    cameras = Cameras(
        poses,
        torch.tensor([lens.focal for lens in lenses], dtype=torch.float64),
        torch.tensor([lens.center for lens in lenses], dtype=torch.float64),
        torch.tensor([lens.distortion for lens in lenses], dtype=torch.float64),
        torch.tensor([header.width for header in headers]),
        torch.tensor([header.height for header in headers]),
        "OPENCV" if any(any(lens.distortion) for lens in lenses) else "PINHOLE",
    )
    if bad := (~cameras.invertible()).nonzero()[:, 0].tolist():
        lens = lenses[bad[0]]
        got = "k1 {:g}, k2 {:g}, p1 {:g}, p2 {:g}".format(*lens.distortion)
        got += " fold the image: one pixel has no ray, or several"
        expected = "a lens that can be inverted over the whole image"
        raise InputError(frames[bad[0]].name("k1..p2"), got, expected)
    masks = find_masks(originals, paths, headers, folder, notes, frames)
    return Frames(unique_names(originals, folder), files, paths, headers, cameras, masks)


def read_lens(
    frame: Fields, document: Fields, header: ImageHeader, original: ImageHeader
) -> FrameLens:
    """Intrinsics of one frame at the size of its image; a key of the frame wins over the file's.

    `original` is the image that the JSON names, where a smaller copy of it is used. Focal lengths
    come from fl_x / fl_y in pixels, x_fov / y_fov in degrees or camera_angle_x / _y in radians, in
    this order; where only one axis is given, pixels are square.
    """

    def number(key: str, low: float = -LARGEST, high: float = LARGEST) -> float | None:
        return (frame if key in frame else document).number(key, low, high)

    owner = frame if "camera_model" in frame else document
    if (owner.text("camera_model") or MODELS[0]) not in MODELS:
        expected = f"one of {', '.join(MODELS)}"
        raise owner.refuse("camera_model", expected, _UNDISTORT)
    for owner in (frame, document):
        if owner.flag("is_fisheye") or "ftheta_p0" in owner:
            got = "a fisheye lens"
            raise InputError(owner.name("is_fisheye"), got, "a perspective lens", _UNDISTORT)
    for key in ("k3", "k4", "k5", "k6"):
        if number(key):
            owner = frame if key in frame else document
            raise owner.refuse(key, "0: lenses have k1, k2, p1, p2 here", _UNDISTORT)

    width, height = number("w", 0.5), number("h", 0.5)
    if width is None or height is None:
        # One of the two still tells the scale, with the image's aspect.
        scale = width / original.width if width else height / original.height if height else 1.0
        width, height = original.width * scale, original.height * scale
    where = frame.name("file_path")
    (scale_x, scale_y), scaled = image_scale((width, height), header, where)

    given = [_focal(frame, document, "x", width), _focal(frame, document, "y", height)]
    known = [focal for focal in given if focal is not None]
    if not known:
        where = frame.name("fl_x")
        raise InputError(where, "missing", "fl_x, x_fov or camera_angle_x, here or at the top")
    focal_x, focal_y = known[0], known[-1]
    if min(focal_x, focal_y) < 1e-3 * width:
        got = f"a focal length of {min(focal_x, focal_y):g} pixels"
        raise InputError(frame.name("fl_x"), got, f"a lens narrower than 179 degrees on {width:g}")
    center_x = number("cx", -10 * width, 10 * width)
    center_y = number("cy", -10 * height, 10 * height)
    return FrameLens(
        (focal_x * scale_x, focal_y * scale_y),
        (
            (width / 2 if center_x is None else center_x) * scale_x,
            (height / 2 if center_y is None else center_y) * scale_y,
        ),
        tuple(number(key, -1e3, 1e3) or 0.0 for key in ("k1", "k2", "p1", "p2")),
        scaled,
    )


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


def _focal(frame: Fields, document: Fields, axis: str, pixels: float) -> float | None:
    for owner in (frame, document):
        if (focal := owner.number(f"fl_{axis}", 0.0, what="a focal length in pixels")) is not None:
            return focal
        degrees = owner.number(f"{axis}_fov", 0.0, 180.0, "an angle in degrees")
        radians = owner.number(f"camera_angle_{axis}", 0.0, math.pi, "an angle in radians")
        angle = math.radians(degrees) if degrees is not None else radians
        if angle is not None:
            return 0.5 * pixels / math.tan(0.5 * angle)
    return None


def _matrix(frame: Fields) -> list[list[float]]:
    rows = frame.items("transform_matrix")
    if rows is None or len(rows) not in (3, 4):
        raise frame.refuse("transform_matrix", "4 rows of 4 numbers, camera to world")
    name = frame.name("transform_matrix")
    entries = Fields(name, {f"[{index}]": row for index, row in enumerate(rows)})
    found = [entries.numbers(row, 4) for row in entries.values]
    for index, row in enumerate(found):
        if row is None:
            raise entries.refuse(f"[{index}]", "4 numbers")
    return [row for row in found if row is not None] + [[0.0, 0.0, 0.0, 1.0]] * (4 - len(rows))


def _splits(
    document: Fields, files: Sequence[str], notes: list[str]
) -> dict[str, Int64[Tensor, " m"]]:
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
        return every_eighth(files)
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


def _plain(file: str) -> str:
    return file.replace("\\", "/").removeprefix("./")


def _note_unused(document: Fields, frames: Sequence[Fields], notes: list[str]) -> None:
    times = {str(frame.values.get("time")) for frame in frames}
    if len(times) > 1:
        notes.append("frames have different times, which are not used: what moves will blur")
