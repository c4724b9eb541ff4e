"""An LLFF capture: `poses_bounds.npy` and its photographs, in the order of their names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from polyfield.apps.formats.masks import find_masks, is_mask
from polyfield.apps.formats.posed_images import (
    PosedImages,
    every_eighth,
    image_scale,
    read_headers,
    rigid_poses,
    unique_names,
)
from polyfield.apps.image_files import SUFFIXES
from polyfield.cuda.errors import InputError
from polyfield.render.cameras import Cameras

FILE = "poses_bounds.npy"
# Best first; the largest whose photographs are no longer than the engine takes is chosen from them.
IMAGE_FOLDERS = ("images", "images_2", "images_4", "images_8")
_NUMBERS = 17  # of a photograph: 3 rows of 5, then the nearest and the farthest depth


def read(folder: Path) -> PosedImages:
    """The capture in a folder: row i of the file belongs to the i-th photograph in name order.

    Every eighth is held out. InputError names file and row of whatever cannot be used.
    """
    rows = _rows(folder / FILE)
    notes: list[str] = []
    originals = _photographs(folder)
    if len(originals) != len(rows):
        got = f"{len(rows)} rows for {len(originals)} images in {originals[0].parent.name}"
        raise InputError(FILE, got, "one row an image", "Take away images without a pose.")
    paths, headers, _ = read_headers(originals, folder, notes)
    matrices = rows[:, :15].view(-1, 3, 5)
    # Columns are down, right, backwards; then the position, then (height, width, focal length).
    down, right, back, position, sensor = matrices.unbind(2)
    poses = torch.stack([right, down, -back, position], 2)
    last = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64).expand(len(rows), 1, 4)
    names = [f"{FILE}: row {index} ({path.name})" for index, path in enumerate(originals)]
    poses = rigid_poses(torch.cat([poses, last], 1), names, notes)
    focal, scaled = [], []
    for name, header, (height, width, length) in zip(names, headers, sensor.tolist(), strict=True):
        if not (0.5 <= height < 1e6 and 0.5 <= width < 1e6 and 1e-3 * width < length < 1e9):
            got = f"height, width, focal length {height:g}, {width:g}, {length:g}"
            raise InputError(name, got, "pixels of a photograph")
        (scale_x, scale_y), note = image_scale((width, height), header, name)
        focal.append((length * scale_x, length * scale_y))
        scaled += [note] if note else []
    if scaled:
        notes.append(f"intrinsics of {len(scaled)} frames scaled to the images: {scaled[0]}")
    size = torch.tensor([(header.width, header.height) for header in headers])
    masks = find_masks(originals, paths, headers, folder, notes)
    notes.append("no split in the files: every eighth frame in name order is held out")
    cameras = Cameras(
        poses,
        torch.tensor(focal, dtype=torch.float64),
        size.double() / 2,
        torch.zeros(len(rows), 4, dtype=torch.float64),
        *size.T.contiguous(),
    )
    return PosedImages(
        tuple(unique_names(originals, folder)),
        tuple(paths),
        any(header.has_alpha for header in headers),
        cameras,
        every_eighth([path.name for path in originals]),
        None,
        tuple(notes),
        masks=masks,
    )


def _rows(path: Path) -> Float64[Tensor, "n 17"]:
    expected = f"an array of {_NUMBERS} numbers a photograph"
    try:
        # Mapped, so that a forged shape allocates nothing.
        table = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # its parser of headers raises whatever Python's own parser does
        raise InputError(FILE, "no array that numpy can read", expected) from error
    if not isinstance(table, np.ndarray) or table.dtype.kind not in "fiu":
        raise InputError(FILE, "no array of numbers", expected)
    if table.ndim != 2 or table.shape[1] != _NUMBERS or not len(table):
        raise InputError(FILE, f"shape {table.shape}", expected)
    rows = torch.from_numpy(table.astype(np.float64))
    if bad := (~rows.isfinite().all(1)).nonzero()[:, 0].tolist():
        raise InputError(f"{FILE}: row {bad[0]}", "not a finite number", expected)
    return rows


def _photographs(folder: Path) -> list[Path]:
    for place in IMAGE_FOLDERS:
        if (folder / place).is_dir():
            found = sorted(p for p in (folder / place).iterdir() if p.suffix.lower() in SUFFIXES)
            if files := [path for path in found if not is_mask(path)]:
                return files
    raise InputError(str(folder), "no image", f"images in one of {', '.join(IMAGE_FOLDERS)}")
