"""Which implementation an operation uses: decided by the tensors' device and one variable."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from polyfield.cuda.errors import BackendError

Backend = Literal["reference", "cpu", "cuda", "emulated", "reversed"]

VARIABLE = "POLYFIELD_BACKEND"
# Values of the variable -> what then runs for tensors on a CPU.
ON_CPU: dict[str, Backend] = {
    "": "cpu",
    "reference": "reference",
    "emulated": "emulated",
    "reversed": "reversed",
}


def backend_of(device: torch.device) -> Backend:
    """The implementation that runs for tensors on `device`.

    cpu tensors get the native kernels, cuda tensors the CUDA ones, any other device the reference
    in plain torch. POLYFIELD_BACKEND=reference forces the reference everywhere; =emulated sends CPU
    tensors through the CUDA launch path to a block of threads; =reversed runs the native kernels
    with their lanes backwards (both for tests, both need a C++ compiler).
    Raises BackendError for another value of the variable.
    """
    wish = os.environ.get(VARIABLE, "")
    if wish not in ON_CPU:
        raise BackendError(
            f"{VARIABLE}: {wish!r}; expected reference, emulated, reversed or nothing. Unset it."
        )
    if wish == "reference" or device.type not in ("cpu", "cuda"):
        return "reference"
    return "cuda" if device.type == "cuda" else ON_CPU[wish]


@contextmanager
def backend_asked_for(wish: str) -> Iterator[None]:
    """POLYFIELD_BACKEND=wish within the block, for all threads of this process."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = wish
    try:
        yield
    finally:
        del os.environ[VARIABLE]
        if before is not None:
            os.environ[VARIABLE] = before
