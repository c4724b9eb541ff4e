"""Cameras of a scene as a transforms.json, for other tools and for the loader of this one."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

from polyfield.apps.files import replacing
from polyfield.render.cameras import Cameras


def write_cameras(
    path: Path, cameras: Cameras, images: Sequence[Path], splits: dict[str, Int64[Tensor, " m"]]
) -> None:
    """Write cameras (the user's frame, OpenCV axes) as the transforms.json of nerfstudio.

    Every frame has its own intrinsics in pixels, OpenCV's k1, k2, p1, p2, and camera-to-world with
    OpenGL's axes. file_path leads from the JSON's folder to the image; splits, indices of frames,
    become train_filenames and so on. Raises InputError where the file cannot be written.
    """
    folder = path.resolve().parent
    files = [Path(os.path.relpath(image, folder)).as_posix() for image in images]
    poses = cameras.camera_to_world.cpu().double() * torch.tensor([1.0, -1.0, -1.0, 1.0])
    frames = []
    for index, file in enumerate(files):
        k1, k2, p1, p2 = cameras.distortion[index].tolist()
        frames.append(
            {
                "file_path": file,
                "fl_x": float(cameras.focal[index, 0]),
                "fl_y": float(cameras.focal[index, 1]),
                "cx": float(cameras.center[index, 0]),
                "cy": float(cameras.center[index, 1]),
                "w": int(cameras.width[index]),
                "h": int(cameras.height[index]),
                "k1": k1,
                "k2": k2,
                "p1": p1,
                "p2": p2,
                "transform_matrix": [*poses[index].tolist(), [0.0, 0.0, 0.0, 1.0]],
            }
        )
    document: dict[str, object] = {"camera_model": "OPENCV"}
    for split, indices in splits.items():
        document[f"{split}_filenames"] = [files[index] for index in indices.tolist()]
    with replacing(path) as file_out:
        file_out.write(json.dumps(document | {"frames": frames}, indent=1).encode())
