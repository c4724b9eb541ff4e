"""A NeuS / IDR capture, as DTU's scenes are handed out: `cameras_sphere.npz`, image and mask."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from polyfield.apps.bounds import sphere_bounds
from polyfield.apps.files import read_plain
from polyfield.apps.formats.json_fields import LARGEST
from polyfield.apps.formats.masks import checked_mask, in_copies, note_masks
from polyfield.apps.formats.posed_images import (
    ROTATION_TOLERANCE,
    PosedImages,
    every_eighth,
    image_scale,
    read_headers,
    unique_names,
)
from polyfield.apps.image_files import SUFFIXES, ImageHeader
from polyfield.apps.mask_files import Mask
from polyfield.cuda.errors import InputError
from polyfield.render.cameras import Cameras

FILES = ("cameras_sphere.npz", "cameras.npz")
MOST_SKEW = 0.5  # pixels by which a sheared sensor may be off at the image's upper and lower border

_MOST_BYTES = 1 << 23  # of the archive: thousands of images, and a directory read in a second
_MOST_ENTRIES = 1 << 16
_MOST_ENTRY_BYTES = 1 << 12  # of one matrix with its header
_EXPECTED = "a 4x4 matrix of finite numbers"

_Archive = tuple[str, zipfile.ZipFile]


def camera_file(folder: Path) -> Path | None:
    """The archive of matrices of a scene that has one, and a folder `image`."""
    there = [folder / name for name in FILES if (folder / name).is_file()]
    return there[0] if there and (folder / "image").is_dir() else None


def read(folder: Path, images: str | None = None) -> PosedImages:
    """The capture in a folder: matrices number i belong to the i-th image in name order.

    P = (world_mat_i @ scale_mat_i)[:3] = K [R | t] sees the space in which the object lies inside
    the unit sphere; scale_mat_0 leads from there to the input's frame, in which the cameras are.
    Every eighth is held out. The i-th image of `mask`, if that is there, shows the object in white;
    without masks what lies around the sphere belongs to the scene. InputError names file and
    matrix of whatever cannot be used. images: the folder of copies to take.
    """
    path = camera_file(folder)
    if path is None:
        raise InputError(str(folder), "no NeuS capture", f"{FILES[0]} and a folder image")
    originals = _images(folder / "image")
    world, scale = _matrices(path, len(originals))
    notes: list[str] = []
    paths, headers, original_headers = read_headers(originals, folder, notes, images)
    masks = _masks(folder, originals, paths, headers, notes)
    center, radius = _sphere(scale, path.name)
    # The space of the unit sphere is the one that all cameras share.
    projection = (world @ scale)[:, :3] @ torch.linalg.inv(scale[0])
    names = [f"{path.name}: world_mat_{i} ({p.name})" for i, p in enumerate(originals)]
    cameras = _cameras(projection, original_headers, headers, center, names, notes)
    notes.append("no split in the files: every eighth frame in name order is held out")
    return PosedImages(
        tuple(unique_names(originals)),
        tuple(paths),
        bool(masks) or any(header.has_alpha for header in headers),
        cameras,
        every_eighth([path.name for path in originals]),
        sphere_bounds(cameras, center, radius, background=not masks),
        tuple(notes),
        masks=masks,
    )


def _images(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not found:
        raise InputError(str(folder), "no image", "one for each world_mat of the archive")
    root = folder.parent.resolve()
    expected = f"an image within the scene's folder {root.name}"
    for path in found:
        # os.path, for pathlib raises where a link leads to itself.
        if not Path(os.path.realpath(path)).is_relative_to(root):
            raise InputError(str(path), "leads out of it", expected, "Copy it there.")
        if not os.path.isfile(path):
            raise InputError(str(path), "is no file", expected)
    return found


def _masks(
    folder: Path,
    originals: Sequence[Path],
    used: Sequence[Path],
    headers: Sequence[ImageHeader],
    notes: list[str],
) -> tuple[Mask | None, ...]:
    if not (folder / "mask").is_dir():
        notes.append("no folder mask: what lies around the object belongs to the scene")
        return ()
    found = _images(folder / "mask")
    if len(found) != len(originals):
        got = f"{len(found)} masks for {len(originals)} images"
        raise InputError(str(folder / "mask"), got, "one an image, in the order of their names")
    copies = used[0].parent.name[len(originals[0].parent.name) :]
    smaller = [in_copies(path, copies) for path in found]
    taken = smaller if all(path.is_file() for path in smaller) else found
    root = folder.resolve()
    masks = [
        checked_mask(path, "object", header, root)
        for path, header in zip(taken, headers, strict=True)
    ]
    note_masks(masks, notes)
    return tuple(masks)


def _cameras(
    projection: Float64[Tensor, "n 3 4"],
    originals: Sequence[ImageHeader],
    headers: Sequence[ImageHeader],
    center: Float64[Tensor, " 3"],
    names: Sequence[str],
    notes: list[str],
) -> Cameras:
    """K, R and t of each matrix, at the size of the image that is used."""
    # A projection has no scale, and no sign: that of a camera without a mirror is taken.
    sign = torch.linalg.det(projection[:, :, :3]).sign()
    projection = projection * sign[:, None, None]
    k, rotation, position = _decomposed(projection)
    depth = (rotation[:, 2] * (center - position)).sum(1)
    focal, middle, scaled, sheared = [], [], [], 0.0
    for index, (name, header) in enumerate(zip(names, headers, strict=True)):
        width, height = originals[index].width, originals[index].height
        (fx, skew, cx), (_, fy, cy) = k[index, 0].tolist(), k[index, 1].tolist()
        far = float(position[index].abs().max())
        # Written so that a number that is none fails it too.
        if not (min(fx, fy) > 1e-3 * width and max(fx, fy) < 1e9 and far < LARGEST):
            raise InputError(name, "no K [R | t] in it", "a camera's projection")
        if not (abs(cx) < 10 * width and abs(cy) < 10 * height):
            got = f"a principal point at {cx:g}, {cy:g}"
            raise InputError(name, got, f"one near an image of {width}x{height}")
        shift = abs(skew) / fy * max(abs(cy), abs(height - cy))
        if not shift <= MOST_SKEW:
            got = f"a skew of {skew:g}, which shifts pixels by up to {shift:.2g}"
            raise InputError(name, got, f"at most {MOST_SKEW}", "Undistort the photographs.")
        if sign[index] < 0 and depth[index] < 0:
            raise InputError(name, "shows the scene mirrored", "world_mat with a positive depth")
        sheared = max(sheared, shift)
        (scale_x, scale_y), note = image_scale((float(width), float(height)), header, name)
        focal.append((fx * scale_x, fy * scale_y))
        # The first pixel's centre is at 0 there and at 0.5 here.
        middle.append(((cx + 0.5) * scale_x, (cy + 0.5) * scale_y))
        scaled += [note] if note else []
    if sheared > 0.01:
        notes.append(f"skew of up to {sheared:.2g} pixels is left out")
    if scaled:
        notes.append(f"intrinsics of {len(scaled)} frames scaled to the images: {scaled[0]}")
    return Cameras(
        torch.cat([rotation.mT, position[:, :, None]], 2),
        torch.tensor(focal, dtype=torch.float64),
        torch.tensor(middle, dtype=torch.float64),
        torch.zeros(len(names), 4, dtype=torch.float64),
        torch.tensor([header.width for header in headers]),
        torch.tensor([header.height for header in headers]),
    )


def _decomposed(
    projection: Float64[Tensor, "n 3 4"],
) -> tuple[Float64[Tensor, "n 3 3"], Float64[Tensor, "n 3 3"], Float64[Tensor, "n 3"]]:
    """K with 1 in its corner, the world-to-camera rotation, and the camera's position.

    Of what is no camera the numbers are not finite. Determinants must not be negative.
    """
    left = projection[:, :, :3]
    # K R = left is an RQ decomposition: QR of the transpose, rows and columns turned round.
    q, r = torch.linalg.qr(left.flip(1).mT)
    k, rotation = r.mT.flip(1, 2), q.mT.flip(1)
    sign = k.diagonal(dim1=1, dim2=2).sign()
    k, rotation = k * sign[:, None], rotation * sign[:, :, None]
    # Back through the factors: a singular matrix then gives infinities and raises nothing.
    across = torch.linalg.solve_triangular(k, projection[:, :, 3:], upper=True)
    position = -(rotation.mT @ across)[:, :, 0]
    return k / k[:, 2:, 2:], rotation, position


def _sphere(scale: Float64[Tensor, "n 4 4"], file: str) -> tuple[Float64[Tensor, " 3"], float]:
    """Centre and radius, in the input's frame, of what scale_mat_0 makes of the unit sphere."""
    for index, matrix in enumerate(scale):
        linear, last = matrix[:3, :3], matrix[3]
        squared = linear.T @ linear
        size = squared.diagonal().mean()
        off = squared / size - torch.eye(3, dtype=torch.float64)
        affine = last.tolist() == [0, 0, 0, 1] and 1e-12 < size < LARGEST**2
        if not affine or off.abs().max() > ROTATION_TOLERANCE or torch.linalg.det(linear) <= 0:
            got = "more than a scale, a rotation and a shift"
            where = f"{file}: scale_mat_{index}"
            raise InputError(where, got, "what leads from the unit sphere to the input's frame")
    radius = float(torch.linalg.det(scale[0, :3, :3])) ** (1 / 3)
    return scale[0, :3, 3].clone(), radius


def _matrices(path: Path, count: int) -> tuple[Float64[Tensor, "n 4 4"], Float64[Tensor, "n 4 4"]]:
    """world_mat_i and scale_mat_i of all images; no other entry of the archive is unpacked."""
    expected = "an archive of world_mat_i and scale_mat_i"
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InputError(path.name, f"{path.stat().st_size} bytes", f"at most {_MOST_BYTES:,}")
        content = read_plain(path)
        # Python's object of an entry takes ten times what the entry does.
        if (entries := content.count(b"PK\1\2")) > _MOST_ENTRIES:
            raise InputError(path.name, f"{entries} entries", f"at most {_MOST_ENTRIES:,}")
        archive = zipfile.ZipFile(io.BytesIO(content))
    except InputError:
        raise
    except Exception as error:  # zipfile raises whatever the bytes lead it to
        raise InputError(path.name, "no archive that can be read", expected) from error
    with archive:
        there = archive.namelist()
        numbers = [name[10:-4] for name in there if name.startswith("world_mat_")]
        cameras = len({number for number in numbers if number.isdecimal()})
        if cameras != count:
            got = f"{cameras} matrices world_mat_i for {count} images"
            remedy = "Take away images without matrices."
            raise InputError(path.name, got, "one an image, in the order of their names", remedy)
        both = [
            np.stack([_matrix((path.name, archive), f"{kind}_mat_{i}") for i in range(count)])
            for kind in ("world", "scale")
        ]
    world, scale = (torch.from_numpy(matrices) for matrices in both)
    return world, scale


def _matrix(archive: _Archive, key: str) -> Float64[np.ndarray, "4 4"]:
    """One entry of the archive. Nothing in it is trusted: it may unpack to any number of bytes."""
    file, entries = archive
    where = f"{file}: {key}"
    try:
        entry = entries.getinfo(f"{key}.npy")
    except KeyError as error:
        raise InputError(where, "missing", _EXPECTED) from error
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(where, "packed in a way that numpy does not write", _EXPECTED)
    try:
        with entries.open(entry) as packed:
            content = io.BytesIO(packed.read(_MOST_ENTRY_BYTES))
        # The header alone: what it says must fit before anything of that size is made.
        version = np.lib.format.read_magic(content)
        header = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, by_columns, kind = header(content)
        plain = shape == (4, 4) and kind.kind in "fiu" and kind.itemsize <= 8
        matrix = None
        if plain:
            numbers = np.frombuffer(content.read(16 * kind.itemsize), kind, 16)
            matrix = numbers.reshape(4, 4, order="F" if by_columns else "C").astype(np.float64)
    except Exception as error:  # numpy's parser of headers raises whatever Python's own does
        raise InputError(where, "no array that can be read", _EXPECTED) from error
    if matrix is None:
        raise InputError(where, f"{kind.name[:40]} of shape {str(shape)[:40]}", _EXPECTED)
    if not np.isfinite(matrix).all() or np.abs(matrix).max() > 1e15:
        raise InputError(where, "a number that is none, or beyond 10^15", _EXPECTED)
    return matrix
