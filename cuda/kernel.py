"""Kernels as Python sees them: a body's arguments, read off its source, and one way to launch it.

The struct in `kernels/*.cuh` is the only declaration of a kernel's arguments. It is parsed here, so
the CPU module, the CUDA driver and the block of threads of the tests get the same bytes.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from polyfield.cuda.backend import backend_of
from polyfield.cuda.errors import BackendError, InputError
from polyfield.cuda.native_library import SOURCES, native_library

Argument = Tensor | int | float | None

_SCALARS = {
    "int": ctypes.c_int,
    "u32": ctypes.c_uint32,
    "i64": ctypes.c_int64,
    "float": ctypes.c_float,
    "double": ctypes.c_double,
}
_ELEMENTS = {
    "float": (torch.float32,),
    "double": (torch.float64,),
    "half": (torch.float16,),
    "int": (torch.int32,),
    "u32": (torch.int32, torch.uint32),
    "u8": (torch.uint8, torch.bool),
    "i64": (torch.int64,),
    "u64": (torch.int64, torch.uint64),
}
_STRUCT = r"(?:template\s*<[^>]*>\s*)?struct\s+{name}\s*{{(?P<body>.*?)\n\s*FN\s"
_FIELD = re.compile(r"^(?P<const>const )?(?P<type>\w+)(?P<pointer>\*)? (?P<name>\w+);$")


@dataclass(frozen=True)
class Field:
    """One argument of a kernel: a pointer to elements, or a scalar."""

    name: str
    type: str
    pointer: bool
    const: bool

    @property
    def declaration(self) -> str:
        """As C++ spells it."""
        return (
            f"{'const ' if self.const else ''}{self.type}{'*' if self.pointer else ''} {self.name}"
        )


@dataclass(frozen=True, eq=False)
class Kernel:
    """A kernel body: its file in kernels/ (no suffix), its type as C++ spells it, its arguments."""

    source: str
    body: str
    fields: tuple[Field, ...]
    structure: type[ctypes.Structure]

    @property
    def entry(self) -> str:
        """The name of its CUDA entry point: HashEncode<3, 2> is hash_encode_3_2."""
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", self.body).lower()
        return re.sub(r"\W+", "_", words).strip("_")


def parse_fields(source: str, struct: str) -> tuple[Field, ...]:
    """The data members of a body, in order, from the text of its file.

    One member a line, `[const ]type[*] name;`, before the first `FN`. Raises BackendError where the
    struct is absent or a line has another form: such a kernel could not be launched rightly.
    """
    found = re.search(_STRUCT.format(name=struct), source, re.DOTALL)
    if found is None:
        raise BackendError(
            f"struct {struct}: not found; expected a body with members before its FN"
        )
    fields = []
    for line in found["body"].splitlines():
        line = re.sub(r"\s*//.*", "", line).strip()
        if not line:
            continue
        match = _FIELD.match(line)
        if match is None or match["type"] not in (_ELEMENTS if match["pointer"] else _SCALARS):
            raise BackendError(f"struct {struct}: {line!r}; expected `[const ]type[*] name;`")
        fields.append(
            Field(match["name"], match["type"], bool(match["pointer"]), bool(match["const"]))
        )
    return tuple(fields)


@cache
def kernel(source: str, body: str) -> Kernel:
    """The kernel `body` (as its KERNEL line spells it) of `kernels/<source>.cuh`."""
    text = (SOURCES / f"{source}.cuh").read_text()
    if f"KERNEL({body})" not in text:
        raise BackendError(f"kernels/{source}.cuh: no line KERNEL({body}); it cannot be launched")
    fields = parse_fields(text, body.split("<")[0])
    members = [(f.name, ctypes.c_void_p if f.pointer else _SCALARS[f.type]) for f in fields]
    structure = type(body, (ctypes.Structure,), {"_fields_": members})
    return Kernel(source, body, fields, structure)


def all_kernels() -> list[Kernel]:
    """Every kernel of kernels/*.cuh, one a KERNEL line, in the order of files and lines."""
    found = []
    for path in sorted(SOURCES.glob("*.cuh")):
        bodies = re.findall(r"^KERNEL\((.+)\)$", path.read_text(), re.MULTILINE)
        found += [kernel(path.stem, body) for body in bodies]
    return found


@cache
def constant(source: str, name: str) -> int:
    """A `constexpr int NAME = value;` of a kernel file: tile sizes that launchers divide by."""
    found = re.search(rf"constexpr int {name} = (\d+);", (SOURCES / f"{source}.cuh").read_text())
    if found is None:
        raise BackendError(f"kernels/{source}.cuh: no `constexpr int {name} = ...;`")
    return int(found[1])


Observe = Callable[
    [Kernel, tuple[int, int], tuple[Argument, ...], bool], AbstractContextManager[None]
]
# Around every launch of this thread, where it is set: recording.py writes launches down.
observer: ContextVar[Observe | None] = ContextVar("observer", default=None)


def launch(
    kernel: Kernel,
    grid: tuple[int, int],
    *arguments: Argument,
    rows: Literal["shared", "owned"] = "shared",
) -> None:
    """Runs a kernel over grid[0] x grid[1] tiles, on the device its tensors lie on.

    Arguments in the order of the body's members: contiguous tensors of the member's element type,
    None for an absent one, numbers for scalars. rows="owned": on a CPU one thread runs all tiles of
    a row (second grid index) in order, so memory that belongs to a row needs no atomics and sums
    repeat bit for bit; a GPU ignores it. Raises InputError naming the argument that does not fit.
    """
    if len(arguments) != len(kernel.fields):
        got = f"{len(arguments)} arguments"
        raise InputError(
            kernel.body, got, f"{len(kernel.fields)}: {[f.name for f in kernel.fields]}"
        )
    device = None
    values: list[int | float | None] = []
    for field, argument in zip(kernel.fields, arguments, strict=True):
        if field.pointer and isinstance(argument, Tensor):
            device = device or argument.device
            values.append(_address(kernel, field, argument, device))
        elif isinstance(argument, Tensor) or field.pointer != (argument is None):
            expected = "a tensor or None" if field.pointer else f"a number, {field.type}"
            raise InputError(f"{kernel.body}.{field.name}", type(argument).__name__, expected)
        else:
            values.append(argument)
    if device is None:
        raise InputError(kernel.body, "no tensor", "at least one tensor among the arguments")
    body = kernel.structure(*values)
    observe = observer.get()
    if observe is None:
        _run(kernel, grid, body, device, rows == "owned")
    else:
        with observe(kernel, grid, arguments, rows == "owned"):
            _run(kernel, grid, body, device, rows == "owned")


def _run(
    kernel: Kernel,
    grid: tuple[int, int],
    body: ctypes.Structure,
    device: torch.device,
    owned: bool,
) -> None:
    backend = backend_of(device)
    if backend == "cpu":
        run_native(native_library(), kernel, grid, body, owned)
    elif backend == "reversed":
        from polyfield.cuda.host_builds import reversed_library

        run_native(reversed_library(), kernel, grid, body, owned)
    elif backend in ("cuda", "emulated"):
        from polyfield.cuda.gpu_launch import launch_block_grid

        launch_block_grid(kernel, grid, body, device, backend)
    else:
        raise BackendError(f"{kernel.body}: no kernel for {device}; call the operation's reference")


def run_native(
    library: ctypes.CDLL, kernel: Kernel, grid: tuple[int, int], body: ctypes.Structure, owned: bool
) -> None:
    """Runs packed arguments through a CPU build. BackendError where it does not know them."""
    found = _find(library, kernel.body)
    if not found or library.polyfield_size(found) != ctypes.sizeof(body):
        size = library.polyfield_size(found) if found else "no such kernel"
        raise BackendError(
            f"{kernel.body}: the compiled module has {size} bytes of arguments; expected "
            f"{ctypes.sizeof(body)}. Module and sources differ in version: reinstall polyfield."
        )
    library.polyfield_launch(found, ctypes.byref(body), grid[0], grid[1], int(owned))


@cache
def _find(library: ctypes.CDLL, name: str) -> int | None:
    return library.polyfield_find(name.encode())


def _address(kernel: Kernel, field: Field, tensor: Tensor, device: torch.device) -> int:
    where = f"{kernel.body}.{field.name}"
    if tensor.dtype not in _ELEMENTS[field.type]:
        raise InputError(where, f"dtype {tensor.dtype}", f"{_ELEMENTS[field.type][0]}")
    if tensor.device != device:
        raise InputError(where, f"on {tensor.device}", f"on {device}, as the arguments before it")
    if not tensor.is_contiguous():
        raise InputError(where, f"strides {tensor.stride()}", "contiguous", "Call .contiguous().")
    return tensor.data_ptr()
