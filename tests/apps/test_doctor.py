import importlib.util
import json
import time

import pytest
import torch

from polyfield.apps.doctor import Doctor, compile_all, doctor, summary
from polyfield.cuda.errors import BackendError, InputError
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


def test_a_torch_without_cuda_and_one_without_a_gpu_differ(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    without = row_of(doctor(Doctor()), "cuda")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    unseen = row_of(doctor(Doctor()), "cuda")
    assert without["backend"] == unseen["backend"] == "none"
    assert without["to_do"] != unseen["to_do"]


def test_compiling_lists_every_kernel_at_every_architecture(monkeypatch):
    one = [each for each in all_kernels() if each.body == "SphericalHarmonics"]
    monkeypatch.setattr("polyfield.cuda.kernel.all_kernels", lambda: one)
    result = doctor(Doctor(compile="sm_75,sm_120"))
    assert [(row["kernel"], row["arch"]) for row in result["kernels"]] == [
        ("SphericalHarmonics", "sm_75"),
        ("SphericalHarmonics", "sm_120"),
    ]
    for row in result["kernels"]:
        assert set(row) == {"kernel", "arch", "bytes", "registers", "shared", "spill"}
        assert row["bytes"] > 1000 and row["registers"] > 8
    assert "SphericalHarmonics" in summary(result)


@pytest.mark.parametrize("word", ["", "75", "sm_75;sm_80", "sm75"])
def test_a_word_that_is_no_architecture_is_refused(word):
    with pytest.raises(InputError, match="--compile: .*architectures like sm_75"):
        compile_all([word])
