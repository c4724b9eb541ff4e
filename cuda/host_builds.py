"""Builds of the kernels for tests, made by the machine's C++ compiler, kept in the user's cache.

`reversed` runs the CPU meaning with its lanes backwards; `block` plays every tile as a GPU block of
real threads. Both have the C interface of the native module.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
from functools import cache
from pathlib import Path

from polyfield.cuda.cache_folder import cache_folder
from polyfield.cuda.errors import BackendError
from polyfield.cuda.native_library import SOURCES, open_library

FLAGS = ("-std=c++20", "-O2", "-fno-math-errno", "-fno-trapping-math", "-Wno-unknown-pragmas")


def sources() -> list[Path]:
    """All kernel files, in name order."""
    return sorted(SOURCES.glob("*.cuh"))


def write_lists(folder: Path) -> None:
    """The two lists that the builds of C++ include: kernel files, and their KERNEL lines."""
    lines = [line for s in sources() for line in s.read_text().splitlines()]
    kernels = [line for line in lines if line.startswith("KERNEL(")]
    includes = "".join(f'#include "{source.name}"\n' for source in sources())
    (folder / "all_sources.inc").write_text(includes)
    (folder / "all_kernels.inc").write_text("\n".join(kernels) + "\n")


def build(name: str, *flags: str) -> Path:
    """A shared library of all kernels compiled with `flags`, once for each state of the sources.

    Raises BackendError with the compiler's first lines where it fails or is absent.
    """
    build_file = SOURCES / "host_build.cpp"
    content = b"".join(path.read_bytes() for path in [*sources(), build_file])
    key = hashlib.sha256(content + " ".join(FLAGS + flags).encode()).hexdigest()[:24]
    target = cache_folder() / f"{name}-{key}.so"
    if target.exists():
        return target
    scratch = cache_folder() / f"{name}-{key}-{os.getpid()}"
    scratch.mkdir(parents=True, exist_ok=True)
    write_lists(scratch)
    made = scratch / "library.so"
    compiler = os.environ.get("CXX", "c++")
    command = [
        compiler,
        *FLAGS,
        *flags,
        "-shared",
        "-fPIC",
        "-pthread",
        f"-I{scratch}",
        f"-I{SOURCES}",
    ]
    try:
        done = subprocess.run(
            [*command, str(build_file), "-o", str(made)], capture_output=True, text=True
        )
    except OSError as error:
        raise BackendError(f"{compiler}: {error}; expected a C++20 compiler for {name}") from error
    if done.returncode:
        raise BackendError(f"{name}: the compiler failed:\n{done.stderr[:2000]}")
    os.replace(made, target)
    for left in scratch.iterdir():
        left.unlink()
    scratch.rmdir()
    return target


@cache
def reversed_library() -> ctypes.CDLL:
    """The CPU meaning with lanes in reversed order: a result that differs has lost a SYNC."""
    return open_library(build("reversed", "-DREVERSE_LANES"))


@cache
def block_library() -> ctypes.CDLL:
    """Tiles played as GPU blocks of real threads, with shared memory, barriers and atomics."""
    library = open_library(build("block", "-DBLOCK_OF_THREADS"))
    pointer, number = ctypes.c_void_p, ctypes.c_int
    library.polyfield_launch_arguments.restype = number
    library.polyfield_launch_arguments.argtypes = [*[pointer] * 4, *[number] * 3]
    return library
