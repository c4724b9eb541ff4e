"""The compiled CPU module: a plain shared library, so one file serves every Python and torch."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

from polyfield.cuda.errors import BackendError

FOLDER = Path(__file__).parent
SOURCES = FOLDER / "kernels"


def open_library(path: Path) -> ctypes.CDLL:
    """The library at `path` with its C interface declared. Calls release the interpreter's lock.

    Raises BackendError where the file is missing or does not load.
    """
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise BackendError(
            f"{path.name}: {error}; expected polyfield's compiled CPU module. Reinstall polyfield, "
            "or set POLYFIELD_BACKEND=reference to run without it."
        ) from error
    library.polyfield_instruction_set.restype = ctypes.c_char_p
    library.polyfield_threads.restype = ctypes.c_int
    library.polyfield_has_threads.restype = ctypes.c_int
    library.polyfield_find.restype = ctypes.c_void_p
    library.polyfield_find.argtypes = [ctypes.c_char_p]
    library.polyfield_size.restype = ctypes.c_size_t
    library.polyfield_size.argtypes = [ctypes.c_void_p]
    library.polyfield_count.restype = ctypes.c_int
    library.polyfield_name.restype = ctypes.c_char_p
    library.polyfield_name.argtypes = [ctypes.c_int]
    library.polyfield_launch.restype = None
    library.polyfield_launch.argtypes = [ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int] * 3
    return library


@cache
def native_library() -> ctypes.CDLL:
    """The module that was installed with polyfield. Imports torch first: its threads serve."""
    import torch  # noqa: F401  # loads the OpenMP runtime that launches borrow

    library = open_library(FOLDER / "_cpu.so")
    process = ctypes.CDLL(None)
    # LLVM's runtime, torch's on macOS, has GNU's entry point too.
    names = ("GOMP_parallel", "omp_get_max_threads")
    there = [getattr(process, name, None) for name in names]
    found = [None if each is None else ctypes.cast(each, ctypes.c_void_p) for each in there]
    library.polyfield_borrow_threads.restype = None
    library.polyfield_borrow_threads.argtypes = [ctypes.c_void_p] * 2
    library.polyfield_borrow_threads(*found)
    return library


def instruction_set() -> str:
    """What the kernels were compiled for: baseline, avx2 or avx512. POLYFIELD_ISA asks for less."""
    return native_library().polyfield_instruction_set().decode()


def kernel_names(library: ctypes.CDLL) -> list[str]:
    """The kernels of a library, spelled as their bodies."""
    return [library.polyfield_name(i).decode() for i in range(library.polyfield_count())]
