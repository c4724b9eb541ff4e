"""Builds of the kernels for tests, made by the machine's C++ compiler, kept in the user's cache.

`reversed` runs the CPU meaning with its lanes backwards; `block` plays every tile as a GPU block of
real threads. Both have the C interface of the native module.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from polyfield.cuda.cache_folder import cache_folder
from polyfield.cuda.errors import BackendError
from polyfield.cuda.native_library import SOURCES, open_library

FLAGS = (
    "-std=c++20",
    "-O2",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wno-unknown-pragmas",
    "-pthread",
)
BLOCK = 4  # threads that play a block


def build(
    name: str,
    *flags: str,
    sources: Path = SOURCES,
    bodies: tuple[str, ...] = (),
) -> Path:
    """A shared library of kernels compiled with `flags`, once for each state of the sources.

    sources: the folder of kernel files. bodies: the kernels to compile, all of them if none is
    named. Raises BackendError with the compiler's first lines where it fails or is absent.
    """
    files = sorted(sources.glob("*.cuh"))
    lines = [line for path in files for line in path.read_text().splitlines()]
    kernels = [line for line in lines if line.startswith("KERNEL(")]
    if bodies:
        kernels = [line for line in kernels if line[7:-1] in bodies]
    lists = {
        "all_sources.inc": "".join(f'#include "{path.name}"\n' for path in files),
        "all_kernels.inc": "\n".join(kernels) + "\n",
    }
    shared = ("-shared", "-fPIC", *flags)
    return compiled(f"{name}.so", SOURCES / "host_build.cpp", shared, files, lists)


def compiled(
    name: str,
    source: Path,
    flags: tuple[str, ...],
    headers: list[Path] | None = None,
    lists: dict[str, str] | None = None,
) -> Path:
    """What the C++ compiler makes of `source`, kept in the user's cache under a name with a key.

    headers: the files that it may include beside its own. lists: text of others, by name. Raises
    BackendError with the compiler's first lines where it fails or is absent.
    """
    headers, lists = headers or [], lists or {}
    compiler = os.environ.get("CXX", "c++")
    content = b"".join(path.read_bytes() for path in [source, *headers])
    words = "\0".join([compiler, *FLAGS, *flags, *lists.values()])
    key = hashlib.sha256(content + words.encode()).hexdigest()[:24]
    stem, dot, suffix = name.partition(".")
    target = cache_folder() / f"{stem}-{key}{dot}{suffix}"
    if target.exists():
        return target
    with tempfile.TemporaryDirectory(dir=cache_folder()) as folder:
        for file, text in lists.items():
            Path(folder, file).write_text(text)
        made = Path(folder, "made")
        folders = sorted({folder, *(str(path.parent) for path in headers)})
        command = [compiler, *FLAGS, *flags, *(f"-I{each}" for each in folders), str(source)]
        try:
            done = subprocess.run(
                [*command, "-o", str(made), "-ldl"], capture_output=True, text=True
            )
        except OSError as error:
            raise BackendError(
                f"{compiler}: {error}; expected a C++20 compiler for {stem}"
            ) from error
        if done.returncode:
            raise BackendError(f"{stem}: the compiler failed:\n{done.stderr[:2000]}")
        os.replace(made, target)  # another process may have made the same: each replaces it whole
    return target


@cache
def reversed_library() -> ctypes.CDLL:
    """The CPU meaning with lanes in reversed order: a result that differs has lost a SYNC."""
    return open_library(build("reversed", "-DREVERSE_LANES"))


@cache
def block_library() -> ctypes.CDLL:
    """Tiles played as GPU blocks of real threads, with shared memory, barriers and atomics."""
    library = open_library(build("block", f"-DBLOCK_OF_THREADS={BLOCK}"))
    pointer, number = ctypes.c_void_p, ctypes.c_int
    library.polyfield_launch_arguments.restype = number
    library.polyfield_launch_arguments.argtypes = [*[pointer] * 4, *[number] * 3]
    return library
