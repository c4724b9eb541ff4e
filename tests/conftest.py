"""What all tests share: which implementation runs, and small deterministic data."""

import pytest
import torch

BACKENDS = ["cpu", "reversed", "emulated"]


@pytest.fixture(params=[*BACKENDS, pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request, monkeypatch):
    """The device of a test's tensors, once for each implementation of the kernels.

    cpu: the native module; reversed: its lanes backwards; emulated: the CUDA launch path on a block
    of threads; cuda: a GPU (`-m gpu`).
    """
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    wish = request.param if request.param in ("reversed", "emulated") else ""
    monkeypatch.setenv("POLYFIELD_BACKEND", wish)
    return torch.device("cuda" if request.param == "cuda" else "cpu")
