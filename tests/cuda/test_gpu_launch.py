import ctypes
from types import SimpleNamespace

import pytest
import torch

from polyfield.cuda import gpu_launch
from polyfield.cuda.errors import BackendError, MissingExtraError
from polyfield.cuda.gpu_launch import argument_pointers, launch_block_grid
from polyfield.cuda.kernel import kernel

pytestmark = pytest.mark.kernels
CPU = torch.device("cpu")


def harmonics(bands=2, n=3):
    """A kernel, its packed arguments, and its result; all tensors are kept with it."""
    body = kernel("spherical_harmonics", "SphericalHarmonics")
    # Of start `bands` are read, and all of it where it stands in another's place.
    tensors = [torch.eye(3)[:n], *torch.ones(2, bands**2).unbind(), torch.zeros(bands**2)]
    out = torch.full((n, bands**2), torch.nan)
    addresses = [tensor.data_ptr() for tensor in (*tensors, out)]
    packed = body.structure(*addresses, n, bands)
    packed.tensors = tensors
    return body, packed, out


def test_pointers_lead_to_the_arguments_in_order():
    body, packed, _ = harmonics()
    pointers = argument_pointers(body, packed)
    assert len(pointers) == len(body.fields)
    for pointer, field in zip(pointers, body.fields, strict=True):
        kind = ctypes.c_uint64 if field.pointer else ctypes.c_int
        assert kind.from_address(pointer).value == getattr(packed, field.name)


def test_the_block_of_threads_computes_from_the_pointers_and_nothing_else(monkeypatch):
    body, packed, out = harmonics(bands=2)
    launch_block_grid(body, (1, 1), packed, CPU, "emulated")
    along_x = torch.tensor([1.0, 0.0, 0.0, 1.0])  # start 1, step_a 1: 1, y, z, x
    torch.testing.assert_close(out[0], along_x)

    def swapped(*of):
        pointers = list(argument_pointers(*of))
        start, step_b = 1, 3
        pointers[start], pointers[step_b] = pointers[step_b], pointers[start]
        return (ctypes.c_void_p * len(pointers))(*pointers)

    monkeypatch.setattr(gpu_launch, "argument_pointers", swapped)
    body, packed, out = harmonics(bands=2)
    launch_block_grid(body, (1, 1), packed, CPU, "emulated")
    assert torch.equal(out, torch.zeros(3, 4))  # step_b is all zeros, and so everything is


@pytest.mark.parametrize("grid", [(1, 65536), (2**31, 1)])
def test_a_grid_that_cuda_does_not_grant_is_refused(grid):
    body, packed, out = harmonics()
    with pytest.raises(BackendError, match="SphericalHarmonics: a grid of .* at most"):
        launch_block_grid(body, grid, packed, CPU, "emulated")
    assert torch.isnan(out).all()


@pytest.mark.parametrize("grid", [(0, 1), (1, 0)])
def test_an_empty_grid_asks_nothing_of_the_driver(grid, monkeypatch):
    monkeypatch.setattr(gpu_launch, "_driver", lambda: pytest.fail("asked"))
    body, packed, out = harmonics()
    launch_block_grid(body, grid, packed, torch.device("cuda", 0), "cuda")
    assert torch.isnan(out).all()


class Driver:
    """Stands in for NVIDIA's driver and torch's CUDA side: keeps what it was asked, in order."""

    CUresult = SimpleNamespace(CUDA_SUCCESS=SimpleNamespace(name="CUDA_SUCCESS"))

    def __init__(self, failing: str = ""):
        self.asked: list[tuple] = []
        self.failing = failing

    def _answer(self, *asked):
        self.asked.append(asked)
        bad = SimpleNamespace(name="CUDA_ERROR_INVALID_IMAGE")
        return bad if asked[0] == self.failing else self.CUresult.CUDA_SUCCESS

    def CUstream(self, handle):
        return f"stream {handle}"

    def cuModuleLoadData(self, image):
        return self._answer("load", image), "module"

    def cuModuleGetFunction(self, module, name):
        return self._answer("find", module, name), f"function {name.decode()}"

    def cuLaunchKernel(self, *arguments):
        return (self._answer("launch", *arguments),)


@pytest.fixture
def device_stand_in(monkeypatch):
    gpu_launch._loaded.cache_clear()
    monkeypatch.setattr(gpu_launch, "cached_image", lambda body, arch: f"{body.entry} {arch}")
    monkeypatch.setattr(torch.cuda, "device", lambda device: torch.no_grad())
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (8, 5 + index))
    stream = SimpleNamespace(cuda_stream=77)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    yield
    gpu_launch._loaded.cache_clear()


def test_the_driver_gets_grid_block_stream_and_pointers_and_loads_once(
    device_stand_in, monkeypatch
):
    driver = Driver()
    monkeypatch.setattr(gpu_launch, "_driver", lambda: driver)
    body, packed, _ = harmonics()
    pointers = argument_pointers(body, packed)
    monkeypatch.setattr(gpu_launch, "argument_pointers", lambda *of: pointers)
    for _ in range(2):
        launch_block_grid(body, (5, 3), packed, torch.device("cuda", 1), "cuda")
    launch = ("launch", "function spherical_harmonics", 5, 3, 1, 128, 1, 1, 0, "stream 77")
    launch = (*launch, ctypes.addressof(pointers), 0)
    load = ("load", "spherical_harmonics sm_86")
    assert driver.asked == [load, ("find", "module", b"spherical_harmonics"), launch, launch]


@pytest.mark.parametrize("failing", ["load", "find", "launch"])
def test_what_the_driver_refuses_is_said(device_stand_in, monkeypatch, failing):
    monkeypatch.setattr(gpu_launch, "_driver", lambda: Driver(failing))
    body, packed, _ = harmonics()
    with pytest.raises(BackendError, match="SphericalHarmonics: .*CUDA_ERROR_INVALID_IMAGE"):
        launch_block_grid(body, (1, 1), packed, torch.device("cuda", 1), "cuda")


def test_without_cuda_core_the_extra_is_named(device_stand_in, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cuda.bindings", None)
    body, packed, _ = harmonics()
    with pytest.raises(MissingExtraError, match=r"polyfield\[cuda\]"):
        launch_block_grid(body, (1, 1), packed, torch.device("cuda", 1), "cuda")
