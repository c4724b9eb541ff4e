"""The CUDA launch path: one entry point a kernel, individual arguments, a grid of blocks.

`emulated` goes the same way up to the driver's door: same grid, same array of argument pointers,
then the block of threads instead of cuLaunchKernel.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch

from polyfield.cuda.errors import BackendError, MissingExtraError
from polyfield.cuda.gpu_compile import BLOCK_THREADS, cached_image
from polyfield.cuda.kernel import Kernel

# What CUDA grants a grid of blocks, in x and in y.
LARGEST_GRID = (2**31 - 1, 65535)


def launch_block_grid(
    kernel: Kernel,
    grid: tuple[int, int],
    body: ctypes.Structure,
    device: torch.device,
    backend: str,
) -> None:
    """Runs a kernel as a grid of thread blocks, on a device or played by threads of this machine.

    On a device: on torch's current stream, without waiting. The kernel is compiled at its first use
    there. Raises BackendError for a grid that CUDA does not grant, or where the driver refuses;
    MissingExtraError without cuda-core.
    """
    if grid[0] > LARGEST_GRID[0] or grid[1] > LARGEST_GRID[1]:
        raise BackendError(
            f"{kernel.body}: a grid of {grid} blocks; expected at most {LARGEST_GRID}"
        )
    if grid[0] <= 0 or grid[1] <= 0:
        return
    arguments = argument_pointers(kernel, body)
    if backend == "emulated":
        _launch_emulated(kernel, grid, arguments)
    else:
        _launch_on_device(kernel, grid, arguments, device)


def argument_pointers(kernel: Kernel, body: ctypes.Structure) -> ctypes.Array[ctypes.c_void_p]:
    """Where each argument lies in the packed structure, in order, as cuLaunchKernel takes them.

    They point into `body`, which must live until the launch has returned.
    """
    start = ctypes.addressof(body)
    offsets, _ = _layout(kernel)
    return (ctypes.c_void_p * len(offsets))(*[start + offset for offset in offsets])


@cache
def _layout(kernel: Kernel) -> tuple[ctypes.Array[ctypes.c_size_t], ctypes.Array[ctypes.c_size_t]]:
    members = [getattr(kernel.structure, field.name) for field in kernel.fields]
    sizes = ctypes.c_size_t * len(members)
    return sizes(*[m.offset for m in members]), sizes(*[m.size for m in members])


def _launch_emulated(
    kernel: Kernel, grid: tuple[int, int], arguments: ctypes.Array[ctypes.c_void_p]
) -> None:
    from polyfield.cuda.host_builds import block_library

    library = block_library()
    found = library.polyfield_find(kernel.body.encode())
    offsets, sizes = _layout(kernel)
    if not found or library.polyfield_size(found) != ctypes.sizeof(kernel.structure):
        raise BackendError(f"{kernel.body}: the block of threads was built from other sources")
    if library.polyfield_launch_arguments(found, arguments, sizes, offsets, len(sizes), *grid):
        raise BackendError(f"{kernel.body}: arguments outside its body of the block of threads")


def _launch_on_device(
    kernel: Kernel,
    grid: tuple[int, int],
    arguments: ctypes.Array[ctypes.c_void_p],
    device: torch.device,
) -> None:
    driver = _driver()
    with torch.cuda.device(device):  # the launch goes to the context that is current
        stream = driver.CUstream(torch.cuda.current_stream(device).cuda_stream)
        function = _loaded(kernel, torch.cuda.current_device())
        block = (BLOCK_THREADS, 1, 1)
        pointers = ctypes.addressof(arguments)
        (status,) = driver.cuLaunchKernel(function, *grid, 1, *block, 0, stream, pointers, 0)
    _check(driver, status, f"{kernel.body}: launch of {grid} blocks")


@cache
def _loaded(kernel: Kernel, index: int) -> Any:
    """The kernel's entry point on a device, loaded into torch's context, which must be current.

    The module stays loaded as long as the process: nothing here unloads it.
    """
    driver = _driver()
    major, minor = torch.cuda.get_device_capability(index)
    image = cached_image(kernel, f"sm_{major}{minor}")
    status, module = driver.cuModuleLoadData(image)
    remedy = "Where the driver is older than NVRTC's CUDA, update the driver."
    _check(driver, status, f"{kernel.body}: loading it for sm_{major}{minor}", remedy)
    status, function = driver.cuModuleGetFunction(module, kernel.entry.encode())
    _check(driver, status, f"{kernel.body}: finding its entry point {kernel.entry}")
    return function


def _driver() -> Any:
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise MissingExtraError("cuda-core[cu13]", "cuda", "running kernels on a GPU") from error
    return driver


def _check(driver: Any, status: Any, doing: str, remedy: str = "") -> None:
    if status != driver.CUresult.CUDA_SUCCESS:
        raise BackendError(f"{doing}: {status.name}; expected CUDA_SUCCESS. {remedy}".rstrip())
