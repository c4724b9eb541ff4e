"""A COLMAP scene: a sparse model and the photographs that it was made from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float64
from torch import Tensor

from polyfield.apps.formats.colmap_model import (
    ModelCamera,
    ModelImage,
    read_cameras,
    read_images,
    read_points,
)
from polyfield.apps.formats.lens_models import COLMAP_LENSES, Lens, common_lens
from polyfield.apps.formats.masks import find_masks
from polyfield.apps.formats.posed_images import (
    PosedImages,
    every_eighth,
    find_image,
    image_scale,
    read_headers,
    unique_names,
)
from polyfield.apps.image_files import ImageHeader
from polyfield.cuda.errors import InputError
from polyfield.render.cameras import Cameras

# Where a model lies in a scene, best first, and where its photographs do.
MODEL_FOLDERS = ("sparse/0", "sparse", "colmap/sparse/0", "colmap/sparse", ".")
IMAGE_FOLDERS = ("images", "images_2", "images_4", "images_8", "input", ".")


def model_folder(folder: Path) -> Path | None:
    """Where a scene's sparse model lies, if it has one."""
    for place in MODEL_FOLDERS:
        for suffix in (".bin", ".txt"):
            if all(
                (folder / place / f"{kind}{suffix}").is_file() for kind in ("cameras", "images")
            ):
                return folder / place
    return None


def read(folder: Path, images: str | None = None) -> PosedImages:
    """The scene of folder/sparse/0 (or sparse, colmap/sparse/0, or the folder itself).

    Photographs lie in images, with its sub-folders, or beside the model; `images` names another
    folder of copies. Every eighth in name order is held out. InputError names file and field of
    whatever cannot be used.
    """
    place = model_folder(folder)
    if place is None:
        raise InputError(str(folder), "no sparse model", "cameras and images, .bin or .txt")
    suffix = ".bin" if (place / "cameras.bin").is_file() else ".txt"

    def path_of(kind: str) -> tuple[Path, str]:
        path = place / f"{kind}{suffix}"
        return path, str(path.relative_to(folder))

    known = read_cameras(*path_of("cameras"))
    where = path_of("images")[1]
    registered = sorted(read_images(*path_of("images")), key=lambda image: image.name)
    if not registered:
        raise InputError(where, "no image", "at least one registered image")
    for image, following in zip(registered, registered[1:] + registered[:1], strict=True):
        if image.camera not in known:
            got = f"camera {image.camera}, which is none of {len(known)}"
            raise InputError(f"{where}: {image.name[:80]!r}", got, "a camera of the model")
        if image.name == following.name and image is not following:
            raise InputError(where, f"{image.name[:80]!r} twice", "each image once")
    notes: list[str] = []
    base = _image_folder(folder, registered[0].name)
    originals = [
        find_image(f"{base}/{i.name}", folder, f"{where}: {i.name[:80]}") for i in registered
    ]
    paths, headers, _ = read_headers(originals, folder, notes, images)
    cameras = _cameras(registered, known, headers, where, notes)
    points = None
    if path_of("points3D")[0].is_file():
        points = read_points(*path_of("points3D"))
        notes.append(f"{len(points.position)} sparse points")
    masks = find_masks(originals, paths, headers, folder, notes)
    notes.append("no split in the files: every eighth frame in name order is held out")
    return PosedImages(
        tuple(unique_names(originals)),
        tuple(paths),
        any(header.has_alpha for header in headers),
        cameras,
        every_eighth([image.name for image in registered]),
        None,
        tuple(notes),
        None if points is None else points.position,
        None if points is None else points.color,
        masks=masks,
    )


def _image_folder(folder: Path, name: str) -> str:
    for place in IMAGE_FOLDERS:
        if os.path.isfile(folder / place / name):  # pathlib raises where a name gets too long
            return place
    return IMAGE_FOLDERS[0]


def _cameras(
    images: Sequence[ModelImage],
    known: dict[int, ModelCamera],
    headers: Sequence[ImageHeader],
    where: str,
    notes: list[str],
) -> Cameras:
    focal, center, lenses, scaled = [], [], [], []
    for image, header in zip(images, headers, strict=True):
        camera = known[image.camera]
        at = f"{where}: {image.name[:80]}"
        (scale_x, scale_y), note = image_scale(
            (float(camera.width), float(camera.height)), header, at
        )
        scaled += [note] if note else []
        one = camera.model.startswith(("SIMPLE", "RADIAL"))  # one focal length for both axes
        fx, fy = camera.parameters[0], camera.parameters[0 if one else 1]
        if min(fx, fy) < 1e-3 * camera.width:
            raise InputError(at, f"a focal length of {min(fx, fy):g} pixels", "more than 0")
        cx, cy, *rest = camera.parameters[1 if one else 2 :]
        focal.append((fx * scale_x, fy * scale_y))
        center.append((cx * scale_x, cy * scale_y))
        model, names = COLMAP_LENSES[camera.model]
        lenses.append(Lens(model, dict(zip(names.split(), rest, strict=True))))
    if scaled:
        notes.append(f"intrinsics of {len(scaled)} frames scaled to the images: {scaled[0]}")
    model, distortion = common_lens(lenses, where)
    cameras = Cameras(
        camera_to_world(images),
        torch.tensor(focal, dtype=torch.float64),
        torch.tensor(center, dtype=torch.float64),
        distortion,
        torch.tensor([header.width for header in headers]),
        torch.tensor([header.height for header in headers]),
        model,
    )
    if bad := (~cameras.invertible()).nonzero()[:, 0].tolist():
        camera = known[images[bad[0]].camera]
        got = (
            f"{camera.model} {camera.parameters} folds the image: one pixel has no ray, or several"
        )
        expected = "a lens that can be inverted over the whole image"
        raise InputError(f"{where}: {images[bad[0]].name[:80]}", got, expected)
    return cameras


def camera_to_world(images: Sequence[ModelImage]) -> Float64[Tensor, "n 3 4"]:
    """Poses with OpenCV axes, which are COLMAP's: only the direction turns round."""
    quaternion = torch.tensor([image.rotation for image in images], dtype=torch.float64)
    w, x, y, z = (quaternion / quaternion.norm(dim=1, keepdim=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    # The transpose is the inverse: rows become columns.
    rotation = torch.stack([torch.stack(row, 1) for row in rows], 2)
    translation = torch.tensor([image.translation for image in images], dtype=torch.float64)
    return torch.cat([rotation, -rotation @ translation[:, :, None]], 2)
