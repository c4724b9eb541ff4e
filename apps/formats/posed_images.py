"""What every loader of posed photographs returns, and how it finds and checks their files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from polyfield.apps.bounds import Bounds
from polyfield.apps.formats.depth_files import MILLIMETRES
from polyfield.apps.formats.image_copies import common_folder, copies_within, smaller_copies
from polyfield.apps.image_files import MOST_PIXELS, SUFFIXES, ImageHeader, read_header
from polyfield.apps.mask_files import Mask
from polyfield.cuda.errors import InputError
from polyfield.render.cameras import Cameras

LONGEST_SIDE = 1600  # of several copies of the photographs, the largest within this are taken
ROTATION_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class PosedImages:
    """Frames as their files have them: cameras in the input's frame, in float64."""

    frame_names: tuple[str, ...]
    """Unique within a split; what is rendered for a frame is named after it."""
    image_paths: tuple[Path, ...]
    has_alpha: bool
    cameras: Cameras
    splits: dict[str, Int64[Tensor, " m"]]
    bounds: Bounds | None
    """If the file says them."""
    notes: tuple[str, ...]
    """What was adjusted, a sentence each."""
    points: Float64[Tensor, "p 3"] | None = None
    """Sparse points on what was photographed, in the input's frame, where the files have them."""
    point_colors: UInt8[Tensor, "p 3"] | None = None
    """Their colours in sRGB, where the files have them."""
    depth_paths: tuple[Path | None, ...] = ()
    """Of each frame that has one, its depth image, see depth_files; empty where no frame has."""
    depth_unit: float = MILLIMETRES
    """Metres that a step of a depth image's pixels means."""
    applied_transform: Float64[Tensor, "3 4"] | None = None
    """What nerfstudio says it has done already to the frame of whoever found the poses."""
    applied_scale: float | None = None
    masks: tuple[Mask | None, ...] = ()
    """One a frame; empty where no frame has one."""


def find_image(name: str, folder: Path, where: str) -> Path:
    """The image that a file of the scene calls `name`, which may lack its suffix.

    InputError, beginning with `where`, if there is none, or if it lies outside of the scene's
    folder: a scene must not make the engine read, or an export carry away, other files.
    """
    root = folder.resolve()
    for candidate in (name, *(name + suffix for suffix in SUFFIXES), name.replace("\\", "/")):
        try:
            path = (root / candidate).resolve()
            inside = path.is_relative_to(root)
            exists = inside and path.is_file()
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(where, f"{name[:80]!r} is no file name", "an image's path") from error
        if not inside:
            expected = f"a path within the scene's folder {folder.name}"
            raise InputError(where, f"{name[:80]!r} leads out of it", expected, "Copy it there.")
        if exists:
            return path
    raise InputError(where, f"{name[:80]!r} does not exist", f"an image in {folder}")


def read_headers(
    paths: Sequence[Path], folder: Path, notes: list[str], images: str | None = None
) -> tuple[list[Path], list[ImageHeader], list[ImageHeader]]:
    """Check all images without decoding them: (paths to use, their headers, headers of `paths`).

    images: the folder of the scene whose copies of the photographs are used. Without it, where the
    photographs are longer than LONGEST_SIDE and stand beside smaller copies (images_2, images_4,
    ..., with the same sub-folders), the largest within it are used, or the smallest.
    A note says which. InputError for an image that cannot be used, and a folder without copies.
    """
    originals = [read_header(path) for path in paths]
    used, headers = list(paths), originals
    if images is not None:
        used = copies_within(paths, folder, images)
        headers = [read_header(path) for path in used]
        notes.append(f"photographs of {images}, as --images says")
    elif longest_side(headers) > LONGEST_SIDE:
        for copies in smaller_copies(paths, folder):
            found = [read_header(path) for path in copies]
            if longest_side(found) < longest_side(headers):
                used, headers = copies, found
            if longest_side(headers) <= LONGEST_SIDE:
                break
        if used != list(paths):
            place = used[0].parent.relative_to(folder.resolve())
            notes.append(f"photographs longer than {LONGEST_SIDE}: took {place}")
    check_headers(used, headers, notes)
    return used, headers, originals


def longest_side(headers: Sequence[ImageHeader]) -> int:
    """Pixels of the longest side of all images."""
    return max(max(header.width, header.height) for header in headers)


def check_headers(paths: Sequence[Path], headers: Sequence[ImageHeader], notes: list[str]) -> None:
    """Refuse images of too many pixels; note what of them is not used."""
    for path, header in zip(paths, headers, strict=True):
        if header.width * header.height > MOST_PIXELS:
            got = f"{header.width}x{header.height} pixels"
            remedy = f"Put smaller copies of all into {path.parent.name}_2, _4 or _8 beside it."
            raise InputError(str(path), got, f"at most {MOST_PIXELS:,} pixels", remedy)
    if count := sum(header.bits == 16 for header in headers):
        notes.append(f"{count} images of 16 bits a channel are read as 8 bits")
    if count := sum(header.turned for header in headers):
        notes.append(f"EXIF orientation of {count} images is not applied: poses belong to the file")


def image_scale(
    size: tuple[float, float], header: ImageHeader, where: str
) -> tuple[tuple[float, float], str]:
    """What takes intrinsics of a sensor of `size` to the image: a factor an axis; a note, if any.

    InputError, beginning with `where`, if the image has another aspect, by more than a pixel.
    """
    (width, height), scale_x, scale_y = size, header.width / size[0], header.height / size[1]
    if abs(header.height - height * scale_x) > 1 and abs(header.width - width * scale_y) > 1:
        got = f"{header.width}x{header.height} pixels where w, h say {width:g}x{height:g}"
        turned = abs(header.width / header.height * width / height - 1) < 0.01
        remedy = "Write the turn by EXIF into the pixels, or w and h as stored." if turned else ""
        raise InputError(where, got, "the same size or aspect", remedy)
    same = (header.width, header.height) == (width, height)
    note = "" if same else f"{width:g}x{height:g} to {header.width}x{header.height}"
    return (scale_x, scale_y), note


def rigid_poses(
    matrices: Float64[Tensor, "n 4 4"], names: Sequence[str], notes: list[str]
) -> Float64[Tensor, "n 3 4"]:
    """Camera-to-world matrices whose rotations are rotations to the last digit.

    A rotation off orthonormal by at most 1e-3 (the largest entry of R^T R - 1) becomes the nearest
    one, with a note if that is more than rounding. InputError names the first matrix beyond that,
    a mirrored one, and one whose last row is not 0 0 0 1.
    """
    rotation = matrices[:, :3, :3]
    gram = rotation.transpose(1, 2) @ rotation
    off = (gram - torch.eye(3, dtype=torch.float64)).abs().amax((1, 2))
    mirrored = torch.linalg.det(rotation) < 0
    last = (matrices[:, 3] - matrices.new_tensor([0, 0, 0, 1])).abs().amax(1)
    if bad := (last > ROTATION_TOLERANCE).nonzero()[:, 0].tolist():
        row = ", ".join(f"{value:g}" for value in matrices[bad[0], 3].tolist())
        raise InputError(names[bad[0]], f"last row {row}", "0, 0, 0, 1")
    if bad := ((off > ROTATION_TOLERANCE) | mirrored).nonzero()[:, 0].tolist():
        where, amount = names[bad[0]], float(off[bad[0]])
        if amount > ROTATION_TOLERANCE:
            remedy = "Divide its first three columns by their lengths if they carry a scale."
            got = f"rotation is off orthonormal by {amount:.2g}"
            raise InputError(where, got, f"at most {ROTATION_TOLERANCE:g}", remedy)
        raise InputError(where, "rotation mirrors (determinant -1)", "a determinant of +1")
    if count := int((off > 1e-5).sum()):
        worst = f"by up to {float(off.max()):.1g}"
        notes.append(f"rotations of {count} frames were off orthonormal {worst}: made exact")
    left, _, right = torch.linalg.svd(rotation)
    return torch.cat([left @ right, matrices[:, :3, 3:]], 2)


def unique_names(paths: Sequence[Path]) -> list[str]:
    """A name for each image's results: its stem; with its folders or suffix where stems repeat.

    Folders that all images share are left out.
    """
    shared = common_folder(paths)
    relative = [path.relative_to(shared) for path in paths]
    whole = ["_".join(path.parts) for path in relative]
    shorter = ["_".join(path.with_suffix("").parts) for path in relative]
    for names in ([path.stem for path in relative], shorter, whole):
        if len(set(names)) == len(names):
            return names
    return [f"{index}_{name}" for index, name in enumerate(whole)]


def every_eighth(names: Sequence[str]) -> dict[str, Int64[Tensor, " m"]]:
    """The split where the files say none: in name order, every eighth frame is test, others train.

    Source: LLFF, mip-NeRF 360, 3DGS. A single frame is trained on.
    """
    order = torch.tensor(sorted(range(len(names)), key=lambda index: names[index]))
    test = torch.arange(len(names)) % 8 == 0
    if len(names) == 1:
        test[:] = False
    return {"train": order[~test], "test": order[test]}
