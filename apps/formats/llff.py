"""An LLFF capture: `poses_bounds.npy` and its photographs, in the order of their names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from polyfield.apps.files import open_plain
from polyfield.apps.formats.image_copies import inner_folder
from polyfield.apps.formats.masks import find_masks, is_mask
from polyfield.apps.formats.posed_images import (
    LONGEST_SIDE,
    PosedImages,
    check_headers,
    every_eighth,
    find_image,
    image_scale,
    longest_side,
    rigid_poses,
    unique_names,
)
from polyfield.apps.image_files import SUFFIXES, ImageHeader, read_header
from polyfield.cuda.errors import InputError
from polyfield.render.cameras import Cameras

FILE = "poses_bounds.npy"
# Largest first. Names may differ between them: what tells photographs apart is their order.
IMAGE_FOLDERS = ("images", "images_2", "images_4", "images_8")
_MOST_ROWS = 1 << 17
_MOST_HEADER = 10_000  # bytes, of what numpy reads in any case
_NUMBERS = 17  # of a photograph: 3 rows of 5, then the nearest and the farthest depth


def read(folder: Path, images: str | None = None) -> PosedImages:
    """The capture in a folder: row i of the file belongs to the i-th photograph in name order.

    Photographs lie in images, images_2, ...; the largest no longer than LONGEST_SIDE are taken, or
    those of the folder `images`. Every eighth is held out. InputError names file and row of
    whatever cannot be used.
    """
    rows = _rows(folder / FILE)
    notes: list[str] = []
    paths, headers = _photographs(folder, images, len(rows), notes)
    matrices = rows[:, :15].view(-1, 3, 5)
    # Columns are down, right, backwards; then the position, then (height, width, focal length).
    down, right, back, position, sensor = matrices.unbind(2)
    poses = torch.stack([right, down, -back, position], 2)
    last = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64).expand(len(rows), 1, 4)
    names = [f"{FILE}: row {index} ({path.name})" for index, path in enumerate(paths)]
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
    masks = find_masks(paths, paths, headers, folder, notes)
    notes.append("no split in the files: every eighth frame in name order is held out")
    cameras = Cameras(
        poses,
        torch.tensor(focal, dtype=torch.float64),
        size.double() / 2,
        torch.zeros(len(rows), 4, dtype=torch.float64),
        *size.T.contiguous(),
    )
    return PosedImages(
        tuple(unique_names(paths)),
        tuple(paths),
        any(header.has_alpha for header in headers),
        cameras,
        every_eighth([path.name for path in paths]),
        None,
        tuple(notes),
        masks=masks,
    )


def _rows(path: Path) -> Float64[Tensor, "n 17"]:
    expected = f"an array of {_NUMBERS} numbers a photograph"
    try:
        with open_plain(path) as file:
            if file.read(6) != np.lib.format.MAGIC_PREFIX:  # np.load opens archives as well
                raise ValueError("no array")
            major, _ = file.read(2)
            header = int.from_bytes(file.read(2 if major == 1 else 4), "little")
            if header > _MOST_HEADER:  # np.load makes room for it before it reads
                raise ValueError("no header")
        # Mapped, so that a forged shape allocates nothing.
        table = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # its parser of headers raises whatever Python's own parser does
        raise InputError(FILE, "no array that numpy can read", expected) from error
    if not isinstance(table, np.ndarray) or table.dtype.kind not in "fiu":
        raise InputError(FILE, "no array of numbers", expected)
    if table.ndim != 2 or table.shape[1] != _NUMBERS or not 0 < len(table) <= _MOST_ROWS:
        raise InputError(FILE, f"shape {table.shape}", expected)
    rows = torch.from_numpy(table.astype(np.float64))
    if bad := (~rows.isfinite().all(1)).nonzero()[:, 0].tolist():
        raise InputError(f"{FILE}: row {bad[0]}", "not a finite number", expected)
    return rows


def _photographs(
    folder: Path, images: str | None, count: int, notes: list[str]
) -> tuple[list[Path], list[ImageHeader]]:
    root, places = folder.resolve(), list(IMAGE_FOLDERS)
    if images is not None:
        where, expected = f"--images {images[:80]}", f"one of {', '.join(IMAGE_FOLDERS)}"
        if inner_folder(root, images, root, where, expected) is None:
            raise InputError(where, "no such folder", expected)
        places = [images]
    listed = {place: _listed(root / place, root) for place in places}
    listed = {place: files for place, files in listed.items() if files}
    if not listed:
        raise InputError(str(folder), "no image", f"images in one of {', '.join(places)}")
    first, files = next(iter(listed.items()))
    fitting = {place: found for place, found in listed.items() if len(found) == count}
    if not fitting:
        got = f"{count} rows for {len(files)} images in {first}"
        raise InputError(FILE, got, "one row an image", "Take away images without a pose.")
    for taken in fitting:
        headers = [read_header(path) for path in fitting[taken]]
        if longest_side(headers) <= LONGEST_SIDE:
            break
    if taken != first or images is not None:
        notes.append(f"photographs of {taken}")
    check_headers(fitting[taken], headers, notes)
    return fitting[taken], headers


def _listed(place: Path, root: Path) -> list[Path]:
    if not place.is_dir():
        return []
    files = [path for path in place.iterdir() if path.suffix.lower() in SUFFIXES]
    names = sorted(path.name for path in files if not is_mask(path))
    return [find_image(str(place.relative_to(root) / name), root, name) for name in names]
