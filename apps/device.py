"""Where to compute: what `--device` asks for and what this machine has."""

from __future__ import annotations

from collections.abc import Callable

import torch

from polyfield.cuda.errors import InputError


def choose_device(wish: str, tell: Callable[[str], None] = lambda message: None) -> torch.device:
    """auto takes a usable GPU and says so by `tell`. InputError where a wished device is absent."""
    if wish == "auto":
        wish = "cuda" if torch.cuda.is_available() else "cpu"
        if wish == "cuda":
            tell(f"computing on {torch.cuda.get_device_name()}")
    try:
        device = torch.device(wish)
    except RuntimeError as error:
        raise InputError("--device", repr(wish), "auto, cpu, cuda or cuda:<number>") from error
    if device.type == "cuda":
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= found:
            raise InputError(
                "--device", wish, "a device that torch can use", "Run polyfield doctor."
            )
    return device
