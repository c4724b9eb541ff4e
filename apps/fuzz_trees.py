"""Folders as values: the files of a sample, and what hostile ones hold in their place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Odd:
    """Something else than a file of bytes."""

    kind: Literal["folder", "pipe", "link", "sparse"]
    target: str = ""
    """Of a link."""
    size: int = 0
    """Of a sparse file, in bytes: `start`, and zeros that take no room on the disk."""
    start: bytes = b""


Tree = Mapping[str, bytes | Odd]
"""What lies in a folder: contents by their paths."""


def read_tree(folder: Path) -> dict[str, bytes]:
    """The plain files of a folder, by their paths in it, in the order of their names."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def write_tree(folder: Path, tree: Tree) -> None:
    """Put a tree into a folder, which is emptied first. What the system does not allow is left."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    for name, content in tree.items():
        path = folder / name
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                _make(path, content)


def _make(path: Path, odd: Odd) -> None:
    if odd.kind == "folder":
        path.mkdir()
    elif odd.kind == "pipe":
        os.mkfifo(path)
    elif odd.kind == "link":
        path.symlink_to(odd.target)
    else:
        with path.open("wb") as file:
            file.write(odd.start)
            file.truncate(odd.size)
