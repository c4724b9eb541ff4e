"""Where the masks of a scene's photographs lie, and whether they fit them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from polyfield.apps.formats.json_fields import Fields
from polyfield.apps.formats.posed_images import find_image, image_scale
from polyfield.apps.image_files import MOST_PIXELS, ImageHeader, read_header
from polyfield.apps.mask_files import WORDS, Mask, Meaning
from polyfield.cuda.errors import InputError

IMAGE_FOLDERS = ("image", "input")  # how the names of folders of photographs begin


def find_masks(
    originals: Sequence[Path],
    used: Sequence[Path],
    headers: Sequence[ImageHeader],
    folder: Path,
    notes: list[str],
    entries: Sequence[Fields] = (),
) -> tuple[Mask | None, ...]:
    """The masks of pixels to ignore, one a photograph or None; empty where there is none at all.

    originals: the photographs that the scene names; used: those copies of them that are trained on,
    with their headers. entries: the frames of a transforms.json, whose mask_path (nerfstudio) wins.
    Else instant-ngp's dynamic_mask_<name>.png and 3DGRUT's <name>_mask.png are looked for beside
    the photograph, then <name>.jpg.png (COLMAP) and <name>.png (Brush) in `masks`, beside the
    folder of the photographs. Where smaller copies are used, masks of theirs (masks_2) go first.
    InputError names a mask that is not there, leads out of the scene, or has another aspect.
    """
    root = folder.resolve()
    found: list[Mask | None] = []
    for index, (original, path, header) in enumerate(zip(originals, used, headers, strict=True)):
        copies = path.parent.name[len(original.parent.name) :]  # such as _2
        written = entries[index].text("mask_path") if entries else None
        places = _places(original, copies, root)
        if written is not None:
            whole = find_image(written, folder, entries[index].name("mask_path"))
            places = iter([(in_copies(whole, copies), "keep"), (whole, "keep")])
        # os.path, for pathlib raises where a name gets too long.
        there = next(((place, what) for place, what in places if os.path.isfile(place)), None)
        found.append(None if there is None else checked_mask(*there, header, root))
    if not any(found):
        return ()
    note_masks(found, notes)
    return tuple(found)


def checked_mask(path: Path, meaning: Meaning, image: ImageHeader, root: Path) -> Mask:
    """The mask in a file, for an image of which the header is given. root: the scene's folder.

    InputError names a file that is no image, leads out of the scene, or has another aspect.
    """
    if not path.resolve().is_relative_to(root):
        expected = f"a path within the scene's folder {root.name}"
        raise InputError(str(path), "leads out of it", expected, "Copy it there.")
    header = read_header(path)
    if header.width * header.height > MOST_PIXELS:
        got = f"{header.width}x{header.height} pixels"
        raise InputError(str(path), got, f"at most {MOST_PIXELS:,} pixels")
    try:
        image_scale((float(image.width), float(image.height)), header, str(path))
    except InputError as error:
        got = f"{header.width}x{header.height} pixels for {image.width}x{image.height}"
        raise InputError(str(path), got, "a mask of its photograph's aspect") from error
    return Mask(path, meaning, header.width, header.height)


def note_masks(masks: Sequence[Mask | None], notes: list[str]) -> None:
    """Say how many photographs have a mask, and what it means."""
    for meaning, words in WORDS.items():
        if count := sum(mask is not None and mask.meaning == meaning for mask in masks):
            notes.append(f"masks of {count} of {len(masks)} photographs: {words}")


def is_mask(path: Path) -> bool:
    """Whether an image's name says that it is the mask of one that stands beside it."""
    return path.name.startswith("dynamic_mask_") or path.name.endswith("_mask.png")


def in_copies(path: Path, copies: str) -> Path:
    """The same file in the folder of smaller copies, of which `copies` is the ending: _2."""
    return path.parent.with_name(path.parent.name + copies) / path.name


def _places(image: Path, copies: str, root: Path) -> Iterator[tuple[Path, Meaning]]:
    """Where the mask of an image may lie, best first."""
    for suffix in dict.fromkeys((copies, "")):
        beside = in_copies(image, suffix).parent
        yield beside / f"dynamic_mask_{image.stem}.png", "ignore"
        yield beside / f"{image.stem}_mask.png", "keep"
    folders, own = image.relative_to(root).parts[:-1], ""
    for place, part in enumerate(folders):
        if part.lower().startswith(IMAGE_FOLDERS):
            # A scene may have no photographs but small copies: images_4 and no images.
            own = part[part.rindex("_") :] if "_" in part else ""
            above, below = folders[:place], folders[place + 1 :]
            break
    else:
        above, below = (), folders
    for suffix in dict.fromkeys((copies, own, "")):
        masks = root.joinpath(*above, f"masks{suffix}", *below)
        yield masks / f"{image.name}.png", "keep"
        yield masks / f"{image.stem}.png", "keep"
