"""Kernels as CUDA machine code: made by NVRTC for one architecture, kept in the user's cache.

NVRTC comes as a wheel with cuda-core: no CUDA toolkit, no compiler and no GPU is needed to compile.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from dataclasses import dataclass
from types import ModuleType

from polyfield.cuda.cache_folder import cache_folder
from polyfield.cuda.errors import BackendError, MissingExtraError
from polyfield.cuda.kernel import Kernel
from polyfield.cuda.native_library import SOURCES

BLOCK_THREADS = 128
STANDARD = "c++20"
_INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"\s*$')


@dataclass(frozen=True)
class Compiled:
    """One kernel as an image that a driver loads, and the compiler's remarks."""

    image: bytes
    remarks: str


def cuda_source(kernel: Kernel) -> str:
    """The whole text that NVRTC gets: kernel files, includes in place, then the entry point.

    The entry point takes the body's members as individual arguments and runs one tile as one block
    of 128 threads. Raises BackendError for an include that is not in kernels/.
    """
    parameters = ", ".join(field.declaration for field in kernel.fields)
    names = ", ".join(field.name for field in kernel.fields)
    text = _with_includes(f"{kernel.source}.cuh", set())
    return (
        f'{text}#line 1 "entry point of {kernel.body}"\n'
        f'extern "C" __global__ void __launch_bounds__({BLOCK_THREADS})\n'
        f"{kernel.entry}({parameters}) {{\n"
        f"  const {kernel.body} body{{{names}}};\n"
        f"  body(blockIdx.x, blockIdx.y);\n}}\n"
    )


def compile_kernel(kernel: Kernel, architecture: str) -> Compiled:
    """Compiles a kernel for one architecture, "sm_75" for instance, and keeps nothing.

    Raises MissingExtraError without cuda-core; BackendError where NVRTC does not know the
    architecture or refuses the source, with its words.
    """
    core = _compiler()
    expected = f"one of {', '.join(supported_architectures())}"
    if architecture not in supported_architectures():
        version = compiler_version()
        raise BackendError(
            f"{architecture}: NVRTC {version} does not compile for it; expected {expected}. "
            "Where the GPU is newer, upgrade cuda-core."
        )
    options = core.ProgramOptions(
        name=kernel.entry, std=STANDARD, arch=architecture, ptxas_options="-v"
    )
    remarks = io.StringIO()
    try:
        program = core.Program(cuda_source(kernel), code_type="c++", options=options)
        image = bytes(program.compile("cubin", logs=remarks).code)
    except Exception as error:  # cuda-core has its own family, which is no part of its interface
        raise BackendError(f"{kernel.body}: NVRTC for {architecture}: {error}") from error
    return Compiled(image, remarks.getvalue())


def cached_image(kernel: Kernel, architecture: str) -> bytes:
    """The kernel's machine code, from the user's cache or compiled into it.

    Raises as compile_kernel. The key holds all source text, the architecture, NVRTC's version and
    the options.
    """
    words = (cuda_source(kernel), architecture, compiler_version(), STANDARD)
    key = hashlib.sha256("\0".join(words).encode()).hexdigest()[:24]
    target = cache_folder() / f"{kernel.entry}-{architecture}-{key}.cubin"
    if target.exists():
        return target.read_bytes()
    image = compile_kernel(kernel, architecture).image
    # Another process may write the same file: each replaces it whole.
    scratch = target.with_suffix(f".{os.getpid()}")
    scratch.write_bytes(image)
    os.replace(scratch, target)
    return image


def compiler_version() -> str:
    """NVRTC's version, "13.5" for instance. Raises MissingExtraError without cuda-core."""
    _compiler()
    from cuda.bindings import nvrtc

    status, major, minor = nvrtc.nvrtcVersion()
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise BackendError(f"nvrtcVersion: {status.name}; expected NVRTC's version")
    return f"{major}.{minor}"


def supported_architectures() -> tuple[str, ...]:
    """What this NVRTC compiles for, oldest first. Raises MissingExtraError without cuda-core."""
    _compiler()
    from cuda.bindings import nvrtc

    status, found = nvrtc.nvrtcGetSupportedArchs()
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise BackendError(f"nvrtcGetSupportedArchs: {status.name}; expected a list")
    return tuple(f"sm_{number}" for number in found)


def _compiler() -> ModuleType:
    try:
        import cuda.bindings.nvrtc
        import cuda.core
    except ImportError as error:
        raise MissingExtraError("cuda-core[cu13]", "cuda", "compiling kernels for a GPU") from error
    try:
        cuda.bindings.nvrtc.nvrtcVersion()
    except RuntimeError as error:  # the bindings look for the library at their first call
        raise MissingExtraError("cuda-core[cu13]", "cuda", "NVRTC") from error
    return cuda.core


def _with_includes(name: str, seen: set[str]) -> str:
    """A kernel file with what it includes in its place, each file once."""
    path = SOURCES / name
    if not path.is_file():
        raise BackendError(f"kernels/{name}: not found; expected a kernel file of polyfield")
    seen.add(name)
    lines = [f'#line 1 "{name}"']
    for number, line in enumerate(path.read_text().splitlines(), 1):
        included = _INCLUDE.match(line)
        if included is None:
            lines.append("" if line.strip() == "#pragma once" else line)
        elif included[1] not in seen:
            lines += [
                _with_includes(included[1], seen).rstrip("\n"),
                f'#line {number + 1} "{name}"',
            ]
        else:
            lines.append("")
    return "\n".join(lines) + "\n"
