"""The CUDA launch path: one entry point a kernel, individual arguments, a grid of blocks."""

from __future__ import annotations

import ctypes

import torch

from polyfield.cuda.errors import BackendError
from polyfield.cuda.kernel import Kernel, run_native


def launch_block_grid(
    kernel: Kernel,
    grid: tuple[int, int],
    body: ctypes.Structure,
    device: torch.device,
    backend: str,
) -> None:
    """Runs a kernel as a grid of thread blocks, on a device or played by threads of this machine."""
    if backend == "emulated":
        from polyfield.cuda.host_builds import block_library

        run_native(block_library(), kernel, grid, body, False)
        return
    raise BackendError("cuda: not built yet")
