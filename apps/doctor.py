"""What runs where on this machine, and why."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
from dataclasses import dataclass

import torch

from polyfield.cuda.backend import VARIABLE, backend_of
from polyfield.cuda.cache_folder import cache_folder
from polyfield.cuda.errors import BackendError, InputError, PolyfieldError
from polyfield.cuda.native_library import instruction_set, kernel_names, native_library

Row = dict[str, str]


@dataclass(frozen=True)
class Doctor:
    """Say what runs where on this machine, and why."""

    compile: str = ""
    """Architectures to compile every kernel for, "sm_75,sm_120" for instance; needs no GPU."""


def doctor(options: Doctor) -> dict:
    """Which implementation each device gets, why, and the one thing to do where one is missing.

    devices: {device, backend, why, to_do} for the CPU and each device of torch; machine: versions
    and what was found. With `compile`, kernels: {kernel, arch, bytes, registers, shared, spill}:
    bytes of the image, of shared memory a block, of spilled stores and loads a thread. Prints
    nothing. Raises InputError for a word that names no architecture, BackendError where an image
    does not take the arguments that Python packs, and as compile_kernel.
    """
    devices = [_cpu(), *_cuda(), *_others()]
    result: dict = {"devices": devices, "machine": _machine()}
    if options.compile:
        result["kernels"] = compile_all(options.compile.split(","))
    return result


def compile_all(architectures: list[str]) -> list[dict[str, str | int]]:
    """Compiles every kernel for every architecture, and what each takes. Raises as `doctor`."""
    from polyfield.cuda.cubin import packed_arguments, read_entry_point
    from polyfield.cuda.gpu_compile import compile_kernel
    from polyfield.cuda.kernel import all_kernels

    for word in architectures:
        if not re.fullmatch(r"sm_\d{2,3}", word):
            raise InputError("--compile", repr(word), "architectures like sm_75, commas between")
    rows: list[dict[str, str | int]] = []
    for kernel in all_kernels():
        for architecture in architectures:
            compiled = compile_kernel(kernel, architecture)
            entry = read_entry_point(compiled.image, kernel.entry)
            if entry.parameters != packed_arguments(kernel):
                raise BackendError(
                    f"{kernel.body}: the image for {architecture} takes {entry.parameters}; "
                    f"expected {packed_arguments(kernel)}, as Python packs them"
                )
            spilled = re.findall(r"(\d+) bytes spill (?:stores|loads)", compiled.remarks)
            if not spilled:
                raise BackendError(
                    f"{kernel.body}: the compiler says nothing of spills for {architecture}; "
                    f"expected a line of ptxas. It said: {compiled.remarks[:200]!r}"
                )
            rows.append(
                {
                    "kernel": kernel.body,
                    "arch": architecture,
                    "bytes": len(compiled.image),
                    "registers": entry.registers,
                    "shared": entry.shared,
                    "spill": sum(map(int, spilled)),
                }
            )
    return rows


def summary(result: dict) -> str:
    """A doctor's result as lines for a person."""
    machine = result["machine"]
    lines = []
    for row in result["devices"]:
        lines.append(f"{row['device']}: {row['backend']}, {row['why']}")
        if row["to_do"]:
            lines.append(f"  to do: {row['to_do']}")
    lines.append("")
    width = max(map(len, machine))
    lines += [f"{name.replace('_', ' '):<{width}}  {value}" for name, value in machine.items()]
    if rows := result.get("kernels"):
        lines += ["", kernel_table(rows)]
    return "\n".join(lines)


def kernel_table(rows: list[dict[str, str | int]]) -> str:
    """What `compile_all` found as lines for a person; at least one row."""
    names = list(rows[0])
    table = [names, *[[str(row[name]) for name in names] for row in rows]]
    widths = [max(len(line[i]) for line in table) for i in range(len(names))]
    lines = []
    for line in table:
        cells = [line[0].ljust(widths[0]), line[1].ljust(widths[1])]
        cells += [word.rjust(size) for word, size in zip(line[2:], widths[2:], strict=True)]
        lines.append("  ".join(cells))
    return "\n".join(lines)


def _row(device: str, backend: str, why: str, to_do: str = "") -> Row:
    return {"device": device, "backend": backend, "why": why, "to_do": to_do}


def _chosen(device: torch.device) -> str:
    """The backend, where the variable and not the device decides it; else nothing."""
    backend = backend_of(device)
    return "" if backend in ("cpu", "cuda") else backend


def _cpu() -> Row:
    if chosen := _chosen(torch.device("cpu")):
        return _row("cpu", chosen, f"{VARIABLE} asks for it", f"unset {VARIABLE}")
    try:
        library = native_library()
    except PolyfieldError as error:
        return _row("cpu", "none", str(error), "reinstall polyfield")
    threads = library.polyfield_threads()
    why = f"native kernels for {instruction_set()} on {_count(threads, 'thread')}"
    if wish := os.environ.get("POLYFIELD_ISA"):
        return _row("cpu", "cpu", f"{why}: POLYFIELD_ISA={wish} asks", "unset POLYFIELD_ISA")
    if not library.polyfield_has_threads():
        missing = "torch has loaded no OpenMP runtime with GOMP_parallel, so one thread is all"
        return _row("cpu", "cpu", f"{why}: {missing}", "install a torch wheel from PyPI")
    return _row("cpu", "cpu", f"{why}, in torch's own pool")


def _cuda() -> list[Row]:
    if torch.version.cuda is None:
        to_do = "for an NVIDIA GPU, install torch's CUDA build: pytorch.org/get-started"
        return [_row("cuda", "none", "this torch is built without CUDA", to_do)]
    if not torch.cuda.is_available():
        return [_row("cuda", "none", "torch finds no usable GPU", "look at what nvidia-smi says")]
    rows = []
    for index in range(torch.cuda.device_count()):
        device, name = f"cuda:{index}", torch.cuda.get_device_name(index)
        major, minor = torch.cuda.get_device_capability(index)
        if chosen := _chosen(torch.device(device)):
            rows.append(_row(device, chosen, f"{VARIABLE} asks for it", f"unset {VARIABLE}"))
            continue
        if not _has_compiler():
            to_do = "pip install 'polyfield[cuda]'"
            rows.append(_row(device, "none", f"{name}: cuda-core is not installed", to_do))
            continue
        architecture = f"sm_{major}{minor}"
        refusal, to_do = _refusal(architecture)
        if refusal:
            rows.append(_row(device, "none", f"{name}: {refusal}", to_do))
            continue
        why = f"{name}, {architecture}: kernels are compiled at their first use"
        rows.append(_row(device, "cuda", why))
    return rows


def _others() -> list[Row]:
    found = []
    if torch.backends.mps.is_available():
        found.append("mps")
    if torch.xpu.is_available():
        found.append("xpu")
    why = "no native kernels for it: plain torch, many times slower"
    return [_row(name, backend_of(torch.device(name)), why) for name in found]


def _machine() -> dict[str, str]:
    import polyfield

    try:
        native = f"{len(kernel_names(native_library()))} kernels, {instruction_set()}"
        openmp = "found" if native_library().polyfield_has_threads() else "not found"
    except PolyfieldError:
        native, openmp = "does not load", "not looked for"
    return {
        "polyfield": getattr(polyfield, "__version__", "from its sources"),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "threads": str(torch.get_num_threads()),
        "openmp": openmp,
        "native_module": native,
        "cuda_core": "installed" if _has_compiler() else "not installed",
        "nerfacc": _exchange(
            "nerfacc",
            "renders fields from batched samples; it places samples",
            "pip install 'polyfield[nerfacc]'",
        ),
        "tiny_cuda_nn": _exchange(
            "tinycudann",
            "trains a hash grid with --networks tiny-cuda-nn; it runs",
            "its parameters are read and written without it",
        ),
        "kernel_cache": str(cache_folder()),
    }


def _refusal(architecture: str) -> tuple[str, str]:
    """Why no kernel can be compiled for a GPU, and what to do; nothing where one can."""
    from polyfield.cuda.gpu_compile import supported_architectures

    try:
        known = supported_architectures()
    except PolyfieldError as error:
        return str(error), "pip install 'polyfield[cuda]'"
    if architecture in known:
        return "", ""
    why = f"the installed NVRTC does not compile for {architecture}, only for {', '.join(known)}"
    if int(architecture[3:]) > int(known[-1][3:]):
        return why, "upgrade cuda-core"
    return why, f"set {VARIABLE}=reference"


def _has_compiler() -> bool:
    """Whether cuda-core and NVRTC's bindings are there, found without importing them."""
    try:
        return all(importlib.util.find_spec(name) for name in ("cuda.core", "cuda.bindings"))
    except ImportError:  # no package `cuda` at all
        return False


def _exchange(package: str, use: str, absent: str) -> str:
    """Of a library that fields go to: its version and what it is good for here, or `absent`.

    Nothing is imported: tiny-cuda-nn refuses that where there is no GPU.
    """
    if importlib.util.find_spec(package) is None:
        return f"not installed; {absent}"
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        version = "of unknown version"
    found = "there is one" if torch.cuda.is_available() else "there is none"
    return f"{version}, {use} on a CUDA device alone: {found}"


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"
