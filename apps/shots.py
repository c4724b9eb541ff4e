"""What `polyfield render` is asked to show: cameras, the names of their pictures, their rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.apps.formats.camera_path import MOST_FRAMES, read_camera_path
from polyfield.apps.settings import scene_of
from polyfield.apps.shown import Shown
from polyfield.cuda.errors import InputError
from polyfield.fields.similarity import Similarity
from polyfield.render.camera_paths import interpolate, interpolation_seconds, middle_pose, spiral
from polyfield.render.cameras import Cameras, LensKind, ideal_cameras
from polyfield.render.paths import look_at_point, turntable

KINDS = ("", ".opacity", ".depth", ".normal")  # of a view's pictures, in the names of their files
TURNTABLE_SECONDS = 3.0
_FPS, _SPIRAL_SECONDS = 30.0, 5.0
_FOCUS_ROWS = 48  # of the picture whose depth a spiral looks at
_FISHEYE = 180.0  # degrees, where nobody says


@dataclass(frozen=True, eq=False)
class Shots:
    """Cameras in the field's frame, one a picture."""

    cameras: Cameras
    names: tuple[str, ...]
    """Unique, and so that no picture of one view has the file name of another's."""
    fps: float
    """Frames a second, if they become a film."""
    notes: tuple[str, ...] = ()
    """What was adjusted."""


@dataclass(frozen=True)
class Wish:
    """What the options say of the pictures. None leaves the choice to the views."""

    size: tuple[int, int] | None = None
    lens: LensKind | None = None
    field_of_view: float | None = None
    """Degrees from the upper to the lower border."""
    frames: int | None = None
    seconds: float | None = None
    fps: float | None = None


def held_out_shots(trained: Shown, scene: Path, wish: Wish) -> Shots:
    """The held-out views of a scene, through their own lenses unless another is wished for."""
    given = {"--frames": wish.frames, "--seconds": wish.seconds, "--fps": wish.fps}
    for option, value in given.items():
        if value is not None:
            raise InputError(option, str(value)[:80], "it only with views that make a film")
    found = scene_of(trained.settings, scene)
    test = found.splits["test"]
    if not len(test):
        raise InputError("--views test", "the scene has no test views", "a scene with a test split")
    cameras = found.cameras.select(test).transformed(trained.to_field)
    if wish.lens is not None or wish.field_of_view is not None:
        size = int(cameras.width[0]), int(cameras.height[0])
        angle = float(2 * torch.atan(size[1] / 2 / cameras.focal[0, 1]).rad2deg())
        cameras = _through(cameras.camera_to_world, wish, size, angle)
    elif wish.size is not None:
        cameras = cameras.resized(*wish.size)
    names = result_names([found.frame_names[frame] for frame in test.tolist()])
    return Shots(cameras, names, _FPS)


def file_shots(trained: Shown, path: Path, wish: Wish) -> Shots:
    """The frames of a camera path file, which are in the frame of the input."""
    usual = partial(_own_size, trained)
    return path_shots(path, wish, trained.to_field, usual, _own_angle(trained))


def path_shots(
    path: Path,
    wish: Wish,
    to_field: Similarity,
    usual_size: Callable[[LensKind], tuple[int, int]],
    usual_angle: float,
) -> Shots:
    """The frames of a camera path file in another frame.

    Size, and degrees from border to border of a perspective lens in place of the file's, where
    nobody says.
    """
    if wish.frames is not None:
        raise InputError("--frames", str(wish.frames)[:80], "no number: the file has its frames")
    asked = read_camera_path(path)
    poses = to_field.apply_to_cameras(asked.camera_to_world).float()
    lens, angle = wish.lens or asked.lens, asked.field_of_view
    _refuse_angle(lens, wish.field_of_view)
    if wish.field_of_view is not None:
        angle = torch.full_like(angle, wish.field_of_view)
    elif lens != asked.lens:  # an angle means another thing to another lens
        angle = torch.full_like(angle, _FISHEYE if lens == "fisheye" else usual_angle)
    width, height = wish.size or asked.size or usual_size(lens)
    cameras = ideal_cameras(poses, lens, angle, width, height)
    fps = asked.fps or _FPS
    if wish.seconds is not None or wish.fps is not None:
        # At least 2: a path may be of one frame.
        _, fps = length_of_film(max(2, len(poses)), wish.seconds, wish.fps, 1.0)
    return Shots(cameras, _numbered(len(poses)), fps, asked.notes)


def turntable_shots(trained: Shown, wish: Wish) -> Shots:
    """Once around what the training cameras look at."""
    frames, fps = length_of_film(wish.frames, wish.seconds, wish.fps, TURNTABLE_SECONDS)
    return _flown(trained, turntable(_own_poses(trained), frames), wish, fps)


def spiral_shots(trained: Shown, wish: Wish) -> Shots:
    """A spiral among the training cameras, which face one way, about what they see."""
    frames, fps = length_of_film(wish.frames, wish.seconds, wish.fps, _SPIRAL_SECONDS)
    poses = _own_poses(trained)
    return _flown(trained, spiral(poses, frames, _focus(trained, poses)), wish, fps)


def interpolated_shots(trained: Shown, scene: Path, split: str, wish: Wish) -> Shots:
    """A flight from view to view of a split, in the order of the files."""
    poses = _own_poses(trained)
    if split != "train":
        found = scene_of(trained.settings, scene)
        views = found.splits.get(split, torch.zeros(0, dtype=torch.int64))
        if not len(views):
            there = {name: len(frames) for name, frames in found.splits.items()}
            raise InputError(f"--split {split}", "holds no view", f"one with views: {there}")
        cameras = found.cameras.select(views).transformed(trained.to_field)
        poses = cameras.camera_to_world
    seconds = interpolation_seconds(poses)
    frames, fps = length_of_film(wish.frames, wish.seconds, wish.fps, seconds)
    return _flown(trained, interpolate(poses, frames), wish, fps)


def length_of_film(
    frames: int | None, seconds: float | None, fps: float | None, usual: float
) -> tuple[int, float]:
    """Frames, and frames a second, as two of three options say; seconds as usual where none does.

    InputError for three of them, and what makes no film.
    """
    if frames is not None and not 2 <= frames <= MOST_FRAMES:
        raise InputError("--frames", str(frames)[:80], f"2 to {MOST_FRAMES:,}")
    if seconds is not None and not 0 < seconds <= MOST_FRAMES:
        raise InputError("--seconds", str(seconds), f"above 0, at most {MOST_FRAMES:,}")
    if fps is not None and not 0 < fps <= 1000:
        raise InputError("--fps", str(fps), "above 0, at most 1000")
    if frames is not None and seconds is not None:
        if fps is not None:
            got = f"{frames}, {seconds:g} and {fps:g}"
            raise InputError("--frames, --seconds, --fps", got, "two of them, the third follows")
        return frames, frames / seconds
    fps = _FPS if fps is None else fps
    if frames is None:
        frames = max(2, round((usual if seconds is None else seconds) * fps))
    if frames > MOST_FRAMES:
        raise InputError("--seconds", f"{frames:,} frames", f"at most {MOST_FRAMES:,}")
    return frames, fps


def result_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names of frames, numbered where one's picture would be another's of another kind.

    A frame called a.depth would overwrite the depth of a frame called a; so would A where the file
    system does not tell capitals from small letters.
    """
    files = {f"{name}{kind}".lower() for name in names for kind in KINDS}
    if len(files) == len(names) * len(KINDS):
        return tuple(names)
    return tuple(f"{index:05d}_{name}" for index, name in enumerate(names))


def flown(
    poses: Float[Tensor, "n 3 4"], wish: Wish, size: tuple[int, int], angle: float, fps: float
) -> Shots:
    """Poses with the lens that is wished for, else a perspective one of the size and angle."""
    return Shots(_through(poses.float(), wish, size, angle), _numbered(len(poses)), fps)


def _flown(trained: Shown, poses: Tensor, wish: Wish, fps: float) -> Shots:
    size = _own_size(trained, wish.lens or "perspective")
    return flown(poses, wish, size, _own_angle(trained), fps)


def _through(
    poses: Float[Tensor, "n 3 4"], wish: Wish, size: tuple[int, int], angle: float
) -> Cameras:
    """The cameras of `flown`."""
    lens = wish.lens or "perspective"
    _refuse_angle(lens, wish.field_of_view)
    if lens == "fisheye":
        angle = _FISHEYE
    angle = angle if wish.field_of_view is None else wish.field_of_view
    return ideal_cameras(poses, lens, torch.full((len(poses),), angle), *(wish.size or size))


def _refuse_angle(lens: LensKind, angle: float | None) -> None:
    if lens == "equirectangular" and angle is not None:
        expected = "none: an equirectangular picture shows the whole sphere"
        raise InputError("--field-of-view", f"{angle:g} degrees", expected)


def _own_poses(trained: Shown) -> Float[Tensor, "n 3 4"]:
    return torch.tensor(trained.settings.orbit["camera_to_world"])


def _own_size(trained: Shown, lens: LensKind) -> tuple[int, int]:
    width, height = trained.settings.orbit["size"]
    return (
        (2 * int(height), int(height)) if lens == "equirectangular" else (int(width), int(height))
    )


def _own_angle(trained: Shown) -> float:
    """What a training camera sees from top to bottom, in degrees."""
    height, focal = trained.settings.orbit["size"][1], trained.settings.orbit["focal"][1]
    return math.degrees(2 * math.atan(height / 2 / focal))


def _focus(trained: Shown, poses: Float[Tensor, "n 3 4"]) -> float:
    """The depth of what is seen from the middle of the cameras."""
    middle = middle_pose(poses)
    width, height = _own_size(trained, "perspective")
    smaller = max(1, round(width * _FOCUS_ROWS / height))
    angle = torch.tensor([_own_angle(trained)])
    small = ideal_cameras(middle[None].float(), "perspective", angle, smaller, _FOCUS_ROWS)
    view = trained.view(small.to(trained.device), 0)
    depth = view.depth[view.opacity >= 0.5]
    if len(depth):
        return float(depth.median())
    return float((look_at_point(poses).double() - middle[:, 3]).norm().clamp(min=1e-6))


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f"frame_{index:05d}" for index in range(count))
