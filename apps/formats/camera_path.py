"""A camera path as nerfstudio's viewer and its Blender and Maya add-ons write it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float64
from torch import Tensor

from polyfield.apps.formats.json_fields import Fields, read_object
from polyfield.apps.formats.posed_images import rigid_poses
from polyfield.apps.image_files import MOST_PIXELS
from polyfield.cuda.errors import InputError
from polyfield.render.cameras import LensKind

MOST_FRAMES = 100_000
MOST_SIDE = 32_768  # pixels
_ANGLE = 50.0  # degrees, where neither the frame nor the file says one: nerfstudio's
_NOT_FOLLOWED = ("crop", "render_time")


@dataclass(frozen=True, eq=False)
class CameraPath:
    """What to render, frame by frame, in the frame of the file."""

    camera_to_world: Float64[Tensor, "n 3 4"]
    """OpenCV axes."""
    lens: LensKind
    field_of_view: Float64[Tensor, " n"]
    """Degrees from the upper border to the lower, as `render.cameras.ideal_cameras` takes them."""
    size: tuple[int, int] | None
    """Width and height in pixels, if the file says them."""
    fps: float | None
    """Frames a second: of so many frames in the file's seconds, else what it says."""
    notes: tuple[str, ...]
    """What was adjusted or is not followed, a sentence each."""


def read_camera_path(path: Path) -> CameraPath:
    """The camera path in a JSON file. InputError names file and field of what cannot be used.

    `fov` is that of a perspective camera, for a fisheye too: nerfstudio gives both lenses the focal
    length that follows from it, so a fisheye of 90 shows 2 radians.
    """
    document = read_object(path, path.absolute().parent)
    lens = _lens(document)
    items = document.items("camera_path")
    if not items:
        raise document.refuse("camera_path", "an array of frames")
    if len(items) > MOST_FRAMES:
        got = f"{len(items)} frames"
        raise InputError(document.name("camera_path"), got, f"at most {MOST_FRAMES:,}")
    notes: list[str] = []
    rows, names, angles, unsaid = [], [], [], 0
    for index, item in enumerate(items):
        name = document.name(f"camera_path[{index}]")
        if not isinstance(item, dict):
            raise InputError(name, f"a {type(item).__name__}", "an object")
        frame = Fields(name, item)
        row = frame.numbers("camera_to_world", 16)
        if row is None:
            raise frame.refuse("camera_to_world", "16 numbers, a 4x4 matrix row by row")
        rows.append(row)
        names.append(frame.name("camera_to_world"))
        angle = _angle(frame, "fov")
        unsaid += angle is None
        angles.append(_angle(document, "default_fov") or _ANGLE if angle is None else angle)
    poses = rigid_poses(torch.tensor(rows, dtype=torch.float64).view(-1, 4, 4), names, notes)
    poses = poses * torch.tensor([1.0, -1.0, -1.0, 1.0])  # OpenGL axes to OpenCV's
    field_of_view = torch.tensor(angles, dtype=torch.float64)
    if lens == "fisheye":
        field_of_view = (2 * torch.tan(field_of_view.deg2rad() / 2)).rad2deg()
        if widest := int((field_of_view > 360).sum()):
            field_of_view = field_of_view.clamp(max=360)
            notes.append(f"fov of {widest} frames is beyond a whole sphere: cut to it")
    if unsaid and lens != "equirectangular":
        notes.append(f"no fov in {unsaid} frames: took {angles[-1]:g} degrees")
    for key in _NOT_FOLLOWED:
        if key in document or any(item.get(key) is not None for item in items):
            notes.append(f"{key} of the camera path is not followed")
    fps, seconds = (document.number(key, 0.0, 1e6) for key in ("fps", "seconds"))
    if seconds is not None and len(items) > 1:
        fps = len(items) / seconds
    return CameraPath(poses, lens, field_of_view, _size(document), fps, tuple(notes))


def _lens(document: Fields) -> LensKind:
    known: dict[str, LensKind] = {
        "perspective": "perspective",
        "fisheye": "fisheye",
        "equirectangular": "equirectangular",
    }
    lens = (document.text("camera_type") or "perspective").lower()
    if lens not in known:
        raise document.refuse("camera_type", f"one of {', '.join(known)}")
    return known[lens]


def _angle(fields: Fields, key: str) -> float | None:
    return fields.number(key, 0.0, 180.0, "vertical degrees")


def _size(document: Fields) -> tuple[int, int] | None:
    sides = []
    for key in ("render_width", "render_height"):
        # The Blender add-on writes 1920.0.
        value = document.number(key, 0.0, MOST_SIDE + 1.0, "pixels")
        if value is not None and (value % 1 or value < 1):
            raise document.refuse(key, "a whole number of pixels")
        sides.append(value)
    if None in sides:
        return None
    width, height = (int(side) for side in sides if side is not None)
    if width * height > MOST_PIXELS:
        got = f"{width}x{height} pixels"
        raise InputError(document.name("render_width"), got, f"at most {MOST_PIXELS:,} in all")
    return width, height
