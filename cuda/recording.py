"""Launches written down as they happen: what a kernel was given, and what it left.

The file, for `kernels/replay.cpp`: unsigned 64-bit numbers of this machine and raw bytes. Their
count, then for each launch: length and text of the body's name; width and height of the grid; 1
where rows are owned; size and bytes of the packed arguments, pointers zero; the count of tensors,
each with 1 for floats, its size, its bytes before and after; the count of pointers, each with its
offset in the arguments and the number of its tensor.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from polyfield.cuda.errors import BackendError
from polyfield.cuda.kernel import Argument, Kernel, observer


@dataclass
class Recording:
    """The launches of one thread, in order."""

    bodies: list[str] = field(default_factory=list)
    """What was launched, as KERNEL lines spell it."""
    parts: list[bytes] = field(default_factory=list)
    """What the file says of each launch."""

    def write(self, path: Path) -> None:
        """Puts the recording into a file."""
        path.write_bytes(_numbers(len(self.parts)) + b"".join(self.parts))


@contextmanager
def recording() -> Iterator[Recording]:
    """Records this thread's launches within the block, whatever implementation runs them.

    Memory that torch hands out there is filled with NaN, or the largest number of an integer type,
    so that a kernel that reads what nothing has written is seen in its results. Raises BackendError
    where two tensors of one launch share a part of their memory and not all of it.
    """
    found = Recording()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()

    @contextmanager
    def observe(
        kernel: Kernel, grid: tuple[int, int], arguments: tuple[Argument, ...], owned: bool
    ) -> Iterator[None]:
        tensors = _memories(kernel, arguments)
        before = [_content(tensor) for tensor in tensors.values()]
        yield
        after = [_content(tensor) for tensor in tensors.values()]
        found.bodies.append(kernel.body)
        found.parts.append(_described(kernel, grid, arguments, owned, tensors, before, after))

    token = observer.set(observe)
    torch.use_deterministic_algorithms(True)
    try:
        yield found
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        observer.reset(token)


def _memories(kernel: Kernel, arguments: tuple[Argument, ...]) -> dict[int, Tensor]:
    """The tensors that hold any memory, by address."""
    found: dict[int, Tensor] = {}
    for argument in arguments:
        if isinstance(argument, Tensor) and argument.numel():
            found.setdefault(argument.data_ptr(), argument)
    end = 0
    for address, tensor in sorted(found.items()):
        if address < end:
            raise BackendError(f"{kernel.body}: its tensors share a part of their memory")
        end = address + tensor.nbytes
    return found


def _content(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()


def _described(
    kernel: Kernel,
    grid: tuple[int, int],
    arguments: tuple[Argument, ...],
    owned: bool,
    tensors: dict[int, Tensor],
    before: list[bytes],
    after: list[bytes],
) -> bytes:
    members = list(zip(kernel.fields, arguments, strict=True))
    packed = kernel.structure(*[None if f.pointer else value for f, value in members])
    name, body = kernel.body.encode(), bytes(packed)
    parts = [_numbers(len(name)), name, _numbers(*grid, owned, len(body)), body]
    parts.append(_numbers(len(tensors)))
    for tensor, old, new in zip(tensors.values(), before, after, strict=True):
        width = {torch.float32: 4, torch.float64: 8}.get(tensor.dtype, 0)
        parts += [_numbers(width, len(old)), old, new]
    order = list(tensors)
    pointers = []
    for each, value in members:
        if each.pointer and isinstance(value, Tensor) and value.numel():
            offset = getattr(kernel.structure, each.name).offset
            pointers += [offset, order.index(value.data_ptr())]
    return b"".join([*parts, _numbers(len(pointers) // 2, *pointers)])


def _numbers(*values: int) -> bytes:
    return struct.pack(f"={len(values)}Q", *values)
