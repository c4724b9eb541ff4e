"""NeRF-synthetic: transforms_{train,val,test}.json beside folders of RGBA images."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from polyfield.apps.files import refusal, replacing
from polyfield.apps.formats.json_fields import Fields, read_object
from polyfield.apps.formats.lens_models import joined
from polyfield.apps.formats.posed_images import PosedImages, every_eighth
from polyfield.apps.formats.transforms_json import (
    Frames,
    read_bounds,
    read_depth_unit,
    read_frames,
)
from polyfield.apps.mask_files import Mask
from polyfield.cuda.errors import InputError

SPLITS = ("train", "val", "test")

View = tuple[str, Float[Tensor, "3 4"], UInt8[Tensor, "height width 4"]]
"""Name, camera_to_world with OpenCV axes, and image in sRGB with straight alpha."""


def read(folder: Path, images: str | None = None) -> PosedImages:
    """The scene that folder/transforms_train.json describes, with val and test where they exist.

    Frame names are unique within a split: r_0 exists in each. Without a test file, the frames of
    val are the test views; without both, every eighth of train. InputError names file and field of
    whatever cannot be used, and `images`: such scenes have no folder of copies.
    """
    if images is not None:
        expected = "nothing: the images of this scene lie where its transforms_train.json says"
        raise InputError(f"--images {images[:80]}", "a folder of copies", expected)
    notes: list[str] = []
    parts: dict[str, Frames] = {}
    documents: dict[str, Fields] = {}
    for split in SPLITS:
        path = folder / f"transforms_{split}.json"
        if split == "train" or path.exists():
            documents[split] = read_object(path, folder)
            parts[split] = read_frames(documents[split], folder, notes)
    start, splits = 0, {}
    for split, part in parts.items():
        splits[split] = torch.arange(start, start + len(part.names))
        start += len(part.names)
    if len(parts) == 1:
        splits = every_eighth(parts["train"].files)
        notes.append("no file but transforms_train.json: every eighth of its frames is held out")
    elif "test" not in splits:
        splits["test"] = splits["val"]
        notes.append("no transforms_test.json: the frames of val are the test views")
    return PosedImages(
        tuple(name for part in parts.values() for name in part.names),
        tuple(path for part in parts.values() for path in part.paths),
        any(header.has_alpha for part in parts.values() for header in part.headers),
        joined([part.cameras for part in parts.values()], folder.name),
        splits,
        read_bounds(documents["train"]),
        tuple(dict.fromkeys(notes)),
        depth_paths=tuple(path for part in parts.values() for path in part.depth_paths),
        depth_unit=read_depth_unit(documents["train"]),
        masks=_masks(parts.values()),
    )


def write_nerf_synthetic(
    folder: Path,
    splits: Mapping[str, Iterable[View]],
    angle_x: float,
) -> None:
    """Write a scene: the views of each split, by their names.

    angle_x is the horizontal field of view in radians; pixels are square and the principal point is
    the middle. The JSON files come last, each in one step, so that a folder that was cut off is no
    scene. Images are taken one at a time. InputError for a split or name that makes no file, a name
    that repeats, a split without frames, or a place that cannot be written.
    """
    if not 0 < angle_x < math.pi:
        raise InputError("angle_x", f"{angle_x}", "radians above 0 and below pi")
    for split in splits:
        if split not in SPLITS:
            raise InputError("split", repr(split), f"one of {', '.join(SPLITS)}")
    documents = {}
    for split, frames in splits.items():
        entries: dict[str, dict[str, object]] = {}
        for name, camera_to_world, image in frames:
            if not name or name in entries or Path(name).name != name:
                raise InputError(
                    f"{split} frame", repr(name), "a file name that is new in its split"
                )
            path = folder / split / f"{name}.png"
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image.cpu().numpy(), "RGBA").save(path)
            except OSError as error:
                raise refusal(path, error) from error
            pose = camera_to_world.detach().cpu().double() * torch.tensor([1.0, -1.0, -1.0, 1.0])
            matrix = [*pose.tolist(), [0.0, 0.0, 0.0, 1.0]]
            entries[name] = {"file_path": f"./{split}/{name}", "transform_matrix": matrix}
        if not entries:
            raise InputError(f"split {split}", "no frame", "at least one")
        documents[split] = {"camera_angle_x": angle_x, "frames": list(entries.values())}
    for split, document in documents.items():
        path = folder / f"transforms_{split}.json"
        with replacing(path) as file:
            file.write(json.dumps(document, indent=1).encode())


def _masks(parts: Collection[Frames]) -> tuple[Mask | None, ...]:
    if not any(part.masks for part in parts):
        return ()
    return tuple(m for part in parts for m in part.masks or (None,) * len(part.names))
