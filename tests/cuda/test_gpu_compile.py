import ctypes
import os
import re
import sys

import pytest

from polyfield.cuda import gpu_compile
from polyfield.cuda.cubin import Parameter, packed_arguments, read_entry_point
from polyfield.cuda.errors import BackendError, InputError, MissingExtraError
from polyfield.cuda.gpu_compile import (
    cached_image,
    compile_kernel,
    cuda_source,
    supported_architectures,
)
from polyfield.cuda.kernel import all_kernels, kernel
from polyfield.cuda.native_library import kernel_names, native_library

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
LARGEST_SHARED = 48 * 1024  # static, on every architecture


def one_of_each_body():
    """The first instantiation of every template, and all that are none."""
    first = {}
    for each in all_kernels():
        first.setdefault((each.source, each.body.split("<")[0]), each)
    return list(first.values())


def first_kernel():
    return kernel("spherical_harmonics", "SphericalHarmonics")


def test_the_sources_hold_the_kernels_of_the_module_and_each_has_its_own_entry_point():
    names = [each.body for each in all_kernels()]
    assert sorted(names) == sorted(kernel_names(native_library()))
    assert len({each.entry for each in all_kernels()}) == len(names)


@pytest.mark.parametrize("body", one_of_each_body(), ids=lambda body: body.body)
def test_compiles_for_every_architecture_with_the_arguments_that_python_packs(body):
    packed = packed_arguments(body)
    assert len(packed) == len(body.fields) > 0
    for architecture in ARCHITECTURES:
        compiled = compile_kernel(body, architecture)
        entry = read_entry_point(compiled.image, body.entry)
        assert entry.parameters == packed, architecture
        (said,) = re.findall(r"Used (\d+) registers", compiled.remarks)
        assert entry.registers == int(said) <= 255
        assert entry.shared <= LARGEST_SHARED


@pytest.mark.parametrize("body", one_of_each_body(), ids=lambda body: body.body)
def test_entry_point_names_every_argument_once_and_in_order(body):
    parameters = re.search(rf"^{body.entry}\((.*)\) {{$", cuda_source(body), re.MULTILINE)
    names = [parameter.split()[-1] for parameter in parameters[1].split(", ")]
    assert names == [name for name, _ in body.structure._fields_]
    assert ctypes.sizeof(body.structure) >= sum(4 for _ in names)


def test_what_the_image_says_follows_from_the_source(tmp_path, monkeypatch):
    source = """
      typedef long long i64;
      #define FN __device__
      #define KERNEL(...)
      struct Probe {
        const float* a;
        int n;
        float* out;
        i64 wide;
        FN void operator()(int x, int) const {
          __shared__ float tile[77];
          tile[threadIdx.x % 77] = a[x];
          __syncthreads();
          out[x] = tile[n];
        }
      };
      KERNEL(Probe)"""
    (tmp_path / "probe.cuh").write_text(source)
    monkeypatch.setattr("polyfield.cuda.kernel.SOURCES", tmp_path)
    monkeypatch.setattr(gpu_compile, "SOURCES", tmp_path)
    probe = kernel.__wrapped__("probe", "Probe")
    for architecture, reserved in (("sm_75", 0), ("sm_120", 1024)):
        entry = read_entry_point(compile_kernel(probe, architecture).image, "probe")
        layout = tuple(Parameter(*pair) for pair in [(0, 8), (8, 4), (16, 8), (24, 8)])
        assert entry.parameters == packed_arguments(probe) == layout
        assert entry.shared == 77 * 4 + reserved
        assert entry.stack == 0


@pytest.mark.parametrize(
    ("packed", "taken"),
    [
        ("int n;\n  float* out;\n  i64 wide;", "float* out;\n  int n;\n  i64 wide;"),
        ("float* out;\n  int n;\n  int wide;", "float* out;\n  int n;\n  i64 wide;"),
        ("float* out;\n  i64 wide;", "float* out;\n  int n;\n  i64 wide;"),
    ],
    ids=["another order", "another size", "another number"],
)
def test_an_image_of_other_sources_is_told_by_its_arguments(tmp_path, monkeypatch, packed, taken):
    def probe(members):
        (tmp_path / "probe.cuh").write_text(
            f"typedef long long i64;\n#define FN __device__\n#define KERNEL(...)\n"
            f"struct Probe {{\n  {members}\n"
            f"  FN void operator()(int x, int) const {{ out[x] = wide; }}\n}};\nKERNEL(Probe)\n"
        )
        return kernel.__wrapped__("probe", "Probe")

    monkeypatch.setattr("polyfield.cuda.kernel.SOURCES", tmp_path)
    monkeypatch.setattr(gpu_compile, "SOURCES", tmp_path)
    expected = packed_arguments(probe(packed))
    compiled = probe(taken)
    got = read_entry_point(compile_kernel(compiled, "sm_80").image, "probe").parameters
    assert got == packed_arguments(compiled) != expected


def test_a_second_use_comes_from_the_cache_and_another_source_does_not(tmp_path, monkeypatch):
    monkeypatch.setenv("POLYFIELD_CACHE", str(tmp_path))
    image = cached_image(first_kernel(), "sm_75")
    compiled = compile_kernel(first_kernel(), "sm_80").image

    def another_compile(body, architecture):
        calls.append(architecture)
        return gpu_compile.Compiled(compiled, "")

    calls: list[str] = []
    monkeypatch.setattr(gpu_compile, "compile_kernel", another_compile)
    assert cached_image(first_kernel(), "sm_75") == image
    assert calls == []
    assert cached_image(first_kernel(), "sm_80") == compiled
    text = cuda_source(first_kernel())
    monkeypatch.setattr(gpu_compile, "cuda_source", lambda body: text + "// changed\n")
    cached_image(first_kernel(), "sm_75")
    monkeypatch.setattr(gpu_compile, "compiler_version", lambda: "99.9")
    cached_image(first_kernel(), "sm_75")
    assert calls == ["sm_80", "sm_75", "sm_75"]
    names = os.listdir(tmp_path)
    assert len(names) == 4 and all(name.endswith(".cubin") for name in names)


def test_an_architecture_that_nvrtc_does_not_know_is_refused_with_those_it_knows():
    assert set(ARCHITECTURES) <= set(supported_architectures())
    with pytest.raises(BackendError, match="sm_30: .* expected one of sm_75, "):
        compile_kernel(first_kernel(), "sm_30")


def test_a_fault_in_a_kernel_is_reported_with_file_and_line(monkeypatch):
    right = "float re = 1, im = 0;"
    broken = cuda_source(first_kernel()).replace(right, "float re = nothing;", 1)
    text = (gpu_compile.SOURCES / "spherical_harmonics.cuh").read_text().splitlines()
    line = 1 + next(i for i, words in enumerate(text) if right in words)
    monkeypatch.setattr(gpu_compile, "cuda_source", lambda body: broken)
    with pytest.raises(BackendError, match=rf"spherical_harmonics.cuh\({line}\): error.*nothing"):
        compile_kernel(first_kernel(), "sm_75")


def test_without_cuda_core_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.core", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'polyfield\[cuda\]'"):
        compile_kernel(first_kernel(), "sm_75")


def test_without_nvrtc_the_extra_is_named(monkeypatch):
    def absent():
        raise RuntimeError("libnvrtc.so: not found")

    monkeypatch.setattr("cuda.bindings.nvrtc.nvrtcVersion", absent)
    with pytest.raises(MissingExtraError, match=r"NVRTC needs .* 'polyfield\[cuda\]'"):
        compile_kernel(first_kernel(), "sm_75")


def test_bytes_that_are_no_image_are_refused():
    with pytest.raises(InputError, match="cubin: starts with"):
        read_entry_point(b"PTX", "kernel")
    with pytest.raises(InputError, match="an entry point elsewhere"):
        read_entry_point(compile_kernel(first_kernel(), "sm_75").image, "elsewhere")
