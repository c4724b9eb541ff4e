import importlib.metadata
import importlib.util
import json
import time

import pytest
import torch

from polyfield.apps.doctor import Doctor, compile_all, doctor, summary
from polyfield.apps.main import main
from polyfield.cuda import gpu_compile
from polyfield.cuda.cubin import EntryPoint
from polyfield.cuda.errors import BackendError, InputError
from polyfield.cuda.gpu_compile import Compiled
from polyfield.cuda.kernel import all_kernels
from polyfield.cuda.native_library import instruction_set


def row_of(result, device):
    return next(row for row in result["devices"] if row["device"] == device)


def test_every_device_has_a_backend_and_a_reason_in_under_a_second():
    began = time.perf_counter()
    result = doctor(Doctor())
    assert time.perf_counter() - began < 1
    devices = [row["device"] for row in result["devices"]]
    assert devices[0] == "cpu" and any(device.startswith("cuda") for device in devices)
    assert all(row["backend"] and row["why"] for row in result["devices"])
    json.dumps(result)


def test_the_cpu_row_names_instruction_set_and_threads(monkeypatch):
    monkeypatch.delenv("POLYFIELD_BACKEND", raising=False)
    monkeypatch.delenv("POLYFIELD_ISA", raising=False)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            row = row_of(doctor(Doctor()), "cpu")
            assert row["backend"] == "cpu"
            assert instruction_set() in row["why"]
            assert f"{threads} thread" in row["why"]
            assert row["to_do"] == ""
    finally:
        torch.set_num_threads(before)


def test_a_forced_backend_is_reported_with_the_variable_to_unset(monkeypatch):
    monkeypatch.setenv("POLYFIELD_BACKEND", "reference")
    row = row_of(doctor(Doctor()), "cpu")
    assert row["backend"] == "reference"
    assert row["to_do"] == "unset POLYFIELD_BACKEND"
    assert "to do: unset POLYFIELD_BACKEND" in summary(doctor(Doctor()))


def test_an_instruction_set_that_was_asked_for_is_reported_with_the_variable(monkeypatch):
    monkeypatch.delenv("POLYFIELD_BACKEND", raising=False)
    monkeypatch.setenv("POLYFIELD_ISA", "avx2")
    row = row_of(doctor(Doctor()), "cpu")
    assert "POLYFIELD_ISA=avx2" in row["why"]
    assert row["to_do"] == "unset POLYFIELD_ISA"


def test_a_module_that_does_not_load_is_said_and_not_replaced(monkeypatch):
    def broken():
        raise BackendError("_cpu.so: gone; expected polyfield's compiled CPU module.")

    monkeypatch.delenv("POLYFIELD_BACKEND", raising=False)
    monkeypatch.setattr("polyfield.apps.doctor.native_library", broken)
    result = doctor(Doctor())
    row = row_of(result, "cpu")
    assert row["backend"] == "none"
    assert "_cpu.so: gone" in row["why"]
    assert row["to_do"] == "reinstall polyfield"
    assert result["machine"]["native_module"] == "does not load"


@pytest.mark.parametrize("present", [True, False])
def test_a_gpu_gets_kernels_only_where_the_compiler_is_installed(monkeypatch, present):
    monkeypatch.delenv("POLYFIELD_BACKEND", raising=False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (8, 9))
    found = importlib.util.find_spec
    without = lambda name: None if name == "cuda.core" else found(name)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", found if present else without)
    row = row_of(doctor(Doctor()), "cuda:1")
    if present:
        assert (row["backend"], row["to_do"]) == ("cuda", "")
        assert "GPU 1, sm_89" in row["why"]
    else:
        assert (row["backend"], row["to_do"]) == ("none", "pip install 'polyfield[cuda]'")


@pytest.mark.parametrize(
    ("capability", "to_do"),
    [((6, 1), "set POLYFIELD_BACKEND=reference"), ((15, 0), "upgrade cuda-core")],
)
def test_a_gpu_that_nvrtc_does_not_compile_for_gets_none(monkeypatch, capability, to_do):
    monkeypatch.delenv("POLYFIELD_BACKEND", raising=False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    row = row_of(doctor(Doctor()), "cuda:0")
    assert (row["backend"], row["to_do"]) == ("none", to_do)
    assert f"sm_{capability[0]}{capability[1]}" in row["why"]


def test_a_torch_without_cuda_and_one_without_a_gpu_differ(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    without = row_of(doctor(Doctor()), "cuda")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    unseen = row_of(doctor(Doctor()), "cuda")
    assert without["backend"] == unseen["backend"] == "none"
    assert without["to_do"] != unseen["to_do"]


def only(*bodies):
    return [each for each in all_kernels() if each.body in bodies]


def test_compiling_lists_every_kernel_at_every_architecture(monkeypatch, tmp_path, capsys):
    two = only("SphericalHarmonics", "MlpForward<64, 64>")
    monkeypatch.setattr("polyfield.cuda.kernel.all_kernels", lambda: two)
    file = tmp_path / "doctor.json"
    assert main(["doctor", "--compile", "sm_75,sm_120", "--json", str(file)]) == 0
    rows = json.loads(file.read_text())["kernels"]
    pairs = [(row["kernel"], row["arch"]) for row in rows]
    assert pairs == [(each.body, arch) for each in two for arch in ("sm_75", "sm_120")]
    for row in rows:
        assert set(row) == {"kernel", "arch", "bytes", "registers", "shared", "spill"}
        assert row["bytes"] > 1000 and row["registers"] > 8 and row["spill"] == 0
    tiles = {(row["kernel"], row["arch"]): row["shared"] for row in rows}
    floats = 2 * 64 * 64  # active and z of MlpForward
    assert tiles["MlpForward<64, 64>", "sm_75"] == 4 * floats
    assert tiles["SphericalHarmonics", "sm_75"] == 0
    shown = capsys.readouterr().out
    assert all(f"{row['kernel']}" in shown and row["arch"] in shown for row in rows)


def test_all_kernels_are_compiled_where_none_is_chosen(monkeypatch):
    asked = []

    def refuse(kernel, architecture):
        asked.append((kernel.body, architecture))
        return Compiled(b"", "")

    entry = EntryPoint((), 1, 0, 0)
    monkeypatch.setattr("polyfield.cuda.gpu_compile.compile_kernel", refuse)
    monkeypatch.setattr("polyfield.cuda.cubin.read_entry_point", lambda image, name: entry)
    monkeypatch.setattr("polyfield.cuda.cubin.packed_arguments", lambda kernel: ())
    with pytest.raises(BackendError, match="says nothing of spills for sm_90"):
        compile_all(["sm_90"])
    remarks = "2 bytes stack frame, 4 bytes spill stores, 6 bytes spill loads"
    monkeypatch.setattr(
        "polyfield.cuda.gpu_compile.compile_kernel",
        lambda *of: refuse(*of) and Compiled(b"image", remarks),
    )
    asked.clear()
    rows = compile_all(["sm_90", "sm_75"])
    assert asked == [(k.body, arch) for k in all_kernels() for arch in ("sm_90", "sm_75")]
    assert all(row["spill"] == 10 for row in rows)


def test_a_kernel_that_spills_is_reported(monkeypatch):
    (one,) = only("SphericalHarmonics")
    monkeypatch.setattr("polyfield.cuda.kernel.all_kernels", lambda: [one])
    source = gpu_compile.cuda_source(one)
    tight = source.replace("__launch_bounds__(128)", "__launch_bounds__(1024, 2)").replace(
        "float re = 1, im = 0;",
        "float many[64]; UNROLL for (int k = 0; k < 64; ++k) many[k] = z * k + x;\n"
        "for (int t = 0; t < n; ++t) UNROLL for (int k = 0; k < 64; ++k)\n"
        "many[k] = many[k] * many[(k + 7) % 64] + y;\n"
        "UNROLL for (int k = 0; k < 64; ++k) o[k] = many[k];\nfloat re = 1, im = 0;",
    )
    monkeypatch.setattr(gpu_compile, "cuda_source", lambda kernel: tight)
    (row,) = compile_all(["sm_80"])
    assert row["registers"] <= 32 and row["spill"] > 0


def test_an_image_with_other_arguments_is_refused(monkeypatch):
    (one,) = only("SphericalHarmonics")
    monkeypatch.setattr("polyfield.cuda.kernel.all_kernels", lambda: [one])
    source = gpu_compile.cuda_source(one)
    other = source.replace("int n, int bands) {", "int n, i64 bands) {")
    assert other != source
    monkeypatch.setattr(gpu_compile, "cuda_source", lambda kernel: other)
    with pytest.raises(BackendError, match="SphericalHarmonics: the image for sm_80 takes"):
        compile_all(["sm_80"])


@pytest.mark.parametrize("word", ["", "75", "sm_75;sm_80", "sm75"])
def test_a_word_that_is_no_architecture_is_refused(word):
    with pytest.raises(InputError, match="--compile: .*architectures like sm_75"):
        compile_all([word])


@pytest.mark.parametrize("gpu, there", [(True, "there is one"), (False, "there is none")])
def test_libraries_that_fields_go_to_are_listed_with_what_they_do_here(monkeypatch, gpu, there):
    versions = {"nerfacc": "0.5.3", "tinycudann": "2.1"}
    present = set(versions)
    # A spec and no module: importing tiny-cuda-nn fails where there is no GPU.
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in present else None)
    monkeypatch.setattr(importlib.metadata, "version", versions.__getitem__)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr("polyfield.apps.doctor._cuda", lambda: [])
    machine = doctor(Doctor())["machine"]
    assert machine["nerfacc"].startswith("0.5.3, renders") and machine["nerfacc"].endswith(there)
    assert machine["tiny_cuda_nn"].startswith("2.1, ") and machine["tiny_cuda_nn"].endswith(there)
    present.clear()
    machine = doctor(Doctor())["machine"]
    assert machine["nerfacc"] == "not installed; pip install 'polyfield[nerfacc]'"
    assert machine["tiny_cuda_nn"].startswith("not installed; ")


def test_a_library_without_metadata_is_found_all_the_same(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(importlib.metadata, "version", absent)
    assert doctor(Doctor())["machine"]["tiny_cuda_nn"].startswith("of unknown version, ")
