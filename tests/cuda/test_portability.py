"""The native module on machines other than this one: cross-compiled, and run under emulation."""

import importlib.util
import platform
import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from polyfield.cuda import hash_grid as hash_grid_module
from polyfield.cuda import mlp as mlp_module
from polyfield.cuda.hash_grid import HashGridLayout, hash_grid
from polyfield.cuda.kernel import Kernel, all_kernels, launch
from polyfield.cuda.mlp import initial_weights, mlp

NATIVE = Path(__file__).parents[2] / "cuda" / "native"
GNU = "aarch64-linux-gnu-g++"
AARCH64 = 183  # of ELF's e_machine
MACH_O_ARM64 = (0xFEEDFACF, 0x0100000C)  # magic number and type of processor


def zig(folder, target):
    """Zig's compiler for another system, as one program, which is what CMake wants.

    `cc` and not `c++`, which would first compile that system's C++ library: the module uses none.
    """
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip(f"no cross compiler for {target}: pip install ziglang")
    compiler = folder / "cc"
    compiler.write_text(f'#!/bin/sh\nexec {sys.executable} -m ziglang cc -target {target} "$@"\n')
    compiler.chmod(0o755)
    return compiler


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, timeout=600, **options)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    return done.stdout


def build(folder, compiler, system, processor):
    """The module by its own CMakeLists.txt; little optimised, because nobody waits for it."""
    if importlib.util.find_spec("cmake") is None:
        pytest.skip("no CMake: pip install 'polyfield[test]'")
    target = [f"-DCMAKE_SYSTEM_NAME={system}", f"-DCMAKE_SYSTEM_PROCESSOR={processor}"]
    flags = ["-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_CXX_FLAGS_RELEASE=-O1 -Werror"]
    cmake = [sys.executable, "-m", "cmake"]
    run(*cmake, "-S", NATIVE, "-B", folder, f"-DCMAKE_CXX_COMPILER={compiler}", *target, *flags)
    run(*cmake, "--build", folder)
    return folder / "_cpu.so"


for_one_worker = pytest.mark.xdist_group("aarch64")  # which builds once


@pytest.fixture(scope="module")
def aarch64(tmp_path_factory):
    """A compiler for 64-bit ARM, and the folder in which it has built the module."""
    folder = tmp_path_factory.mktemp("aarch64")
    # Zig's for musl, because the program below is linked without a C library of that machine.
    compiler = shutil.which(GNU) or zig(folder, "aarch64-linux-musl")
    build(folder / "build", compiler, "Linux", "aarch64")
    return compiler, folder / "build"


@for_one_worker
def test_it_compiles_for_arm_under_linux(aarch64):
    _, folder = aarch64
    image = (folder / "_cpu.so").read_bytes()
    assert image[:4] == b"\x7fELF" and struct.unpack_from("<H", image, 18) == (AARCH64,)
    assert [kernel.body for kernel in all_kernels() if kernel.body.encode() not in image] == []


def test_it_compiles_for_arm_under_macos(tmp_path):
    module = build(tmp_path / "build", zig(tmp_path, "aarch64-macos.11.0"), "Darwin", "arm64")
    image = module.read_bytes()
    assert struct.unpack_from("<2I", image) == MACH_O_ARM64
    assert [kernel.body for kernel in all_kernels() if kernel.body.encode() not in image] == []


@dataclass
class Launch:
    """A launch that was made here: its arguments before it, and what they became."""

    kernel: Kernel
    grid: tuple[int, int]
    owned: bool
    before: list
    after: list

    def packed(self):
        """For the program below: numbers as 64 bits, texts and tensors with their size first."""
        values = [0 if isinstance(a, torch.Tensor) else a for a in self.before]
        body = bytes(self.kernel.structure(*values))
        parts = [self.kernel.body.encode() + b"\0", body]
        text = b"".join(struct.pack("<q", len(part)) + part for part in parts)
        text += struct.pack("<4q", *self.grid, self.owned, len(tensors(self.before)))
        for field, value in zip(self.kernel.fields, self.before, strict=True):
            if isinstance(value, torch.Tensor):
                data = value.numpy().tobytes()
                offset = getattr(self.kernel.structure, field.name).offset
                text += struct.pack("<2q", offset, len(data)) + data
        return text


PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
struct Kernel;
extern "C" {
const Kernel* polyfield_find(const char*);
size_t polyfield_size(const Kernel*);
void polyfield_launch(const Kernel*, const void*, int, int, int);
}
bool read(void* to, size_t size) { return fread(to, 1, size, stdin) == size; }
char* room(long long size) { return (char*)aligned_alloc(64, (size + 127) / 64 * 64); }
int main() {
  for (long long size; read(&size, 8);) {
    char* name = room(size);
    if (!read(name, size) || !read(&size, 8)) return 1;
    char* body = room(size);
    long long width, height, owned, count, offset, sizes[64];
    char* data[64];
    if (!read(body, size) || !read(&width, 8) || !read(&height, 8)) return 2;
    if (!read(&owned, 8) || !read(&count, 8) || count > 64) return 3;
    for (int i = 0; i < count; ++i) {
      if (!read(&offset, 8) || !read(&sizes[i], 8)) return 4;
      data[i] = room(sizes[i]);
      if (!read(data[i], sizes[i])) return 5;
      memcpy(body + offset, &data[i], 8);
    }
    const Kernel* kernel = polyfield_find(name);
    if (!kernel || polyfield_size(kernel) != (size_t)size) return 6;
    polyfield_launch(kernel, body, (int)width, (int)height, (int)owned);
    for (int i = 0; i < count; ++i) fwrite(data[i], 1, sizes[i], stdout);
  }
}
"""


def tensors(arguments):
    return [argument for argument in arguments if isinstance(argument, torch.Tensor)]


def copy(arguments):
    return [a.detach().clone() if isinstance(a, torch.Tensor) else a for a in arguments]


@pytest.fixture
def launches(monkeypatch):
    """Of a small network on a hash grid, forwards and backwards, as this machine made them."""
    made = []

    def record(kernel, grid, *arguments, rows="shared"):
        before = copy(arguments)
        launch(kernel, grid, *arguments, rows=rows)
        made.append(Launch(kernel, grid, rows == "owned", before, copy(arguments)))

    monkeypatch.delenv("POLYFIELD_BACKEND", raising=False)
    monkeypatch.setattr(hash_grid_module, "launch", record)
    monkeypatch.setattr(mlp_module, "launch", record)
    random = torch.Generator().manual_seed(0)
    layout = HashGridLayout(levels=4, features=2, log2_table_size=10)
    table = torch.randn(layout.entries, 2, generator=random).requires_grad_()
    widths = (layout.width, 48, 64, 3)
    weights = initial_weights(widths, random).requires_grad_()
    x = torch.rand(70, 3, generator=random).requires_grad_()
    mlp(hash_grid(x, table, layout), weights, widths, "silu", "sigmoid").sum().backward()
    return made


@for_one_worker
def test_its_kernels_compute_the_same_on_arm(aarch64, launches, tmp_path):
    compiler, folder = aarch64
    emulator = shutil.which("qemu-aarch64")
    if emulator is None and platform.machine() != "aarch64":
        pytest.skip("no qemu-aarch64 to run the kernels with")
    (tmp_path / "main.cpp").write_text(PROGRAM)
    objects = folder.glob("CMakeFiles/**/*.o")
    run(compiler, "-O1", "-static", tmp_path / "main.cpp", *objects, "-o", tmp_path / "program")
    command = [*([emulator] if emulator else []), tmp_path / "program"]
    out = run(*command, input=b"".join(made.packed() for made in launches))
    bodies = {made.kernel.body.split("<")[0] for made in launches}
    assert {"HashEncode", "MlpForward", "MlpBackward"} <= bodies
    for expected in [tensor for made in launches for tensor in tensors(made.after)]:
        size = expected.numel() * expected.element_size()
        got = torch.frombuffer(bytearray(out[:size]), dtype=expected.dtype).view(expected.shape)
        # The same sums, but with products fused into them or rounded first.
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5, equal_nan=True)
        out = out[size:]
    assert out == b""
