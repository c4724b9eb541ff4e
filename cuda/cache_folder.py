"""Where compiled kernels are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The user's cache folder of polyfield, made if absent.

    POLYFIELD_CACHE, else $XDG_CACHE_HOME/polyfield, else ~/.cache/polyfield.
    """
    chosen = os.environ.get("POLYFIELD_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(chosen) if chosen else Path(base) / "polyfield"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
