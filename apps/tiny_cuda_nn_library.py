"""tiny-cuda-nn, where somebody has built and installed it: found when asked for, never required."""

from __future__ import annotations

import importlib
from typing import cast

import torch

from polyfield.cuda.errors import InputError
from polyfield.fields.tiny_cuda_nn_field import TinyCudaNn

MODULE = "tinycudann"
NAME = "--networks tiny-cuda-nn"


def tiny_cuda_nn_library(device: torch.device) -> TinyCudaNn:
    """Its torch bindings. InputError where they are not installed, do not load, or `device` is none
    of theirs."""
    if device.type != "cuda":
        raise InputError(NAME, f"computing on {device}", "a CUDA device", "Leave it out.")
    try:
        library = importlib.import_module(MODULE)
    except ModuleNotFoundError as error:
        remedy = "It is built from its repository, see its README; or leave --networks out."
        raise InputError(NAME, "not installed", f"a module {MODULE}", remedy) from error
    except (
        ImportError,
        OSError,
        RuntimeError,
    ) as error:  # it looks for its GPU's build when loaded
        got = f"does not load: {str(error)[:200]}"
        raise InputError(NAME, got, "bindings for this GPU", "Run polyfield doctor.") from error
    return cast(TinyCudaNn, library)
