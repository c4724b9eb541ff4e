"""Copies of the same photographs in other sizes: `images_2`, `images_4`, ... beside `images`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from polyfield.apps.image_files import SUFFIXES
from polyfield.cuda.errors import InputError


def common_folder(paths: Sequence[Path]) -> Path:
    """The innermost folder that holds all of these files, perhaps in folders of its own."""
    return Path(os.path.commonpath([path.parent for path in paths]))


def smaller_copies(paths: Sequence[Path], folder: Path) -> Iterator[list[Path]]:
    """Every set of copies of the photographs `paths`, by the number of their folder, ascending.

    Copies of images/left/1.jpg are images_2/left/1.jpg and, of another format, images_2/left/1.png;
    also of images_2/left/1.jpg, images_4/left/1.jpg. Sets that are not whole are passed over, and
    so is what lies outside of the scene's folder.
    """
    root = folder.resolve()
    for base in _folders_above(paths, root)[:-1]:
        # Only of this name a number is certain to be a size, and not which camera it was.
        own = re.fullmatch(r"(images)_(\d{1,3})", base.name)
        name, number = (own[1], int(own[2])) if own else (base.name, 1)
        found = []
        for beside in base.parent.iterdir():
            match = re.fullmatch(re.escape(name) + r"_(\d{1,3})", beside.name)
            if match and int(match[1]) > number:
                found.append((int(match[1]), beside))
        for _, target in sorted(found):
            copies = [_copy(path, base, target, root) for path in paths]
            if whole := _whole(copies):
                yield whole


def copies_within(paths: Sequence[Path], folder: Path, images: str) -> list[Path]:
    """The copies of the photographs `paths` in the scene's folder `images`, as --images names it.

    Sub-folders are kept: what lies in images/left is looked for in images_8/left. InputError where
    `images` is no folder of the scene, or lacks a photograph.
    """
    root = folder.resolve()
    where, expected = f"--images {images[:80]}", f"a folder within {folder.name}, such as images_2"
    missing = None
    for base in _folders_above(paths, root):
        for above in (root, base.parent) if base != root else (root,):
            target = inner_folder(above, images, root, where, expected)
            if target is None:
                continue
            copies = [_copy(path, base, target, root) for path in paths]
            if whole := _whole(copies):
                return whole
            lacking = [path for path, copy in zip(paths, copies, strict=True) if copy is None]
            if missing is None or len(lacking) < missing[0]:
                missing = len(lacking), lacking[0].name if lacking else "each photograph"
    if missing is None:
        raise InputError(where, "no such folder", expected)
    got = f"no copy of {missing[1]} in it"
    raise InputError(where, got, "a copy of every photograph, of the same name")


def inner_folder(above: Path, name: str, root: Path, where: str, expected: str) -> Path | None:
    """The folder above/name, None where there is none; InputError if it lies outside of root."""
    try:
        target = (above / name).resolve()
        exists = target.is_dir()
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(where, "no file name", expected) from error
    if Path(name).is_absolute() or not target.is_relative_to(root):
        raise InputError(where, "leads out of the scene", expected)
    return target if exists else None


def _folders_above(paths: Sequence[Path], root: Path) -> list[Path]:
    """From the innermost folder that holds all photographs up to the scene's."""
    common = common_folder(paths)
    return [common, *common.parents][: len(common.relative_to(root).parts) + 1]


def _copy(path: Path, base: Path, target: Path, root: Path) -> Path | None:
    wanted = target / path.relative_to(base)
    for candidate in (wanted, *(wanted.with_suffix(suffix) for suffix in SUFFIXES)):
        found = candidate.resolve()
        if found.is_file() and found.is_relative_to(root):
            return found
    return None


def _whole(copies: Sequence[Path | None]) -> list[Path]:
    """The copies, if there is one for each photograph and none for two; else nothing."""
    found = [path for path in copies if path is not None]
    return found if len(found) == len(copies) == len(set(found)) else []
