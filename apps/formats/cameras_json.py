"""Cameras of a scene as a transforms.json, for other tools and for the loader of this one."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

from polyfield.apps.files import replacing
from polyfield.apps.formats.lens_models import lenses_of
from polyfield.render.cameras import Cameras


def write_cameras(
    path: Path, cameras: Cameras, images: Sequence[Path], splits: Mapping[str, Int64[Tensor, " m"]]
) -> None:
    """Write cameras (the user's frame, OpenCV axes) as the transforms.json of nerfstudio.

    Every frame has its own intrinsics in pixels, its lens's coefficients, and camera-to-world with
    OpenGL's axes. file_path leads from the JSON's folder to the image; splits, indices of frames,
    become train_filenames and so on. Raises InputError where the file cannot be written.
    """
    folder = path.resolve().parent
    files = [Path(os.path.relpath(image, folder)).as_posix() for image in images]
    document = {
        "camera_model": cameras.model,
        **split_lists(files, splits),
        "frames": frame_entries(cameras, files),
    }
    with replacing(path) as file_out:
        file_out.write(json.dumps(document, indent=1).encode())


def frame_entries(cameras: Cameras, files: Sequence[str]) -> list[dict[str, object]]:
    """The frames of a transforms.json: file, pose with OpenGL's axes, and intrinsics.

    Of EQUIRECTANGULAR, fl_x and fl_y are the pixels of half a turn, as nerfstudio's are.
    """
    poses = cameras.camera_to_world.cpu().double() * torch.tensor([1.0, -1.0, -1.0, 1.0])
    half_turn = math.pi if cameras.model == "EQUIRECTANGULAR" else 1.0
    focal = (cameras.focal.double() * half_turn).tolist()
    center = cameras.center.tolist()
    entries: list[dict[str, object]] = []
    for index, (file, lens) in enumerate(zip(files, lenses_of(cameras), strict=True)):
        entries.append(
            {
                "file_path": file,
                "fl_x": focal[index][0],
                "fl_y": focal[index][1],
                "cx": center[index][0],
                "cy": center[index][1],
                "w": int(cameras.width[index]),
                "h": int(cameras.height[index]),
                **lens.coefficients,
                "transform_matrix": [*poses[index].tolist(), [0.0, 0.0, 0.0, 1.0]],
            }
        )
    return entries


def split_lists(
    files: Sequence[str], splits: Mapping[str, Int64[Tensor, " m"]]
) -> dict[str, list[str]]:
    """train_filenames and so on: the files of the frames of each split."""
    return {
        f"{split}_filenames": [files[index] for index in indices.tolist()]
        for split, indices in splits.items()
    }
