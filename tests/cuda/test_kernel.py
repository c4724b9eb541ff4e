"""The launcher's contract, on the spherical harmonics as a sample kernel."""

import ctypes
import os

import pytest
import torch

from polyfield.cuda.backend import backend_asked_for, backend_of
from polyfield.cuda.errors import BackendError, InputError
from polyfield.cuda.kernel import kernel, launch, parse_fields
from polyfield.cuda.native_library import kernel_names, native_library

BODY = """
template <int D>
struct Body {
  const float* x;  // read
  int* out;
  int n;
  float scale;

  FN void operator()(int tile, int) const {}
};
"""


def test_arguments_are_read_off_the_struct_in_order():
    fields = parse_fields(BODY, "Body")
    assert [f.declaration for f in fields] == ["const float* x", "int* out", "int n", "float scale"]


@pytest.mark.parametrize("line", ["int a, b;", "long double x;", "Level* levels;", "int a[3];"])
def test_members_that_could_not_be_packed_are_refused(line):
    with pytest.raises(BackendError, match="expected"):
        parse_fields(BODY.replace("int n;", line), "Body")


def test_every_kernel_of_the_module_has_the_size_of_its_source():
    from polyfield.cuda.native_library import SOURCES

    library = native_library()
    files = {path.stem: path.read_text() for path in SOURCES.glob("*.cuh")}
    names = kernel_names(library)
    assert len(names) == len(set(names)) > 1
    for name in names:
        (source,) = [stem for stem, text in files.items() if f"KERNEL({name})" in text]
        found = library.polyfield_find(name.encode())
        assert ctypes.sizeof(kernel(source, name).structure) == library.polyfield_size(found), name


def sample_arguments():
    table = torch.zeros(2, 2)
    return [torch.zeros(4, 3), torch.ones(2), table, table, torch.zeros(4, 4), 4, 2]


def test_a_wrong_dtype_a_gap_and_a_wrong_count_name_the_argument():
    harmonics = kernel("spherical_harmonics", "SphericalHarmonics")
    launch(harmonics, (1, 1), *sample_arguments())
    for position, bad, message in [
        (0, torch.zeros(4, 3).double(), "SphericalHarmonics.directions: dtype torch.float64"),
        (4, torch.zeros(4, 8)[:, ::2], "SphericalHarmonics.out: strides"),
    ]:
        arguments = sample_arguments()
        arguments[position] = bad
        with pytest.raises(InputError, match=message):
            launch(harmonics, (1, 1), *arguments)
    for position, bad, message in [
        (0, 3, "SphericalHarmonics.directions: int; expected a tensor or None"),
        (5, None, "SphericalHarmonics.n: NoneType; expected a number, int"),
        (6, torch.ones(2), "SphericalHarmonics.bands: Tensor; expected a number, int"),
    ]:
        arguments = sample_arguments()
        arguments[position] = bad
        with pytest.raises(InputError, match=message):
            launch(harmonics, (1, 1), *arguments)
    with pytest.raises(InputError, match="6 arguments; expected 7"):
        launch(harmonics, (1, 1), *sample_arguments()[:-1])


def test_the_variable_chooses_and_refuses(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.delenv("POLYFIELD_BACKEND", raising=False)
    assert backend_of(cpu) == "cpu"
    assert backend_of(torch.device("meta")) == "reference"
    monkeypatch.setenv("POLYFIELD_BACKEND", "reference")
    assert backend_of(cpu) == "reference" and backend_of(torch.device("cuda")) == "reference"
    monkeypatch.setenv("POLYFIELD_BACKEND", "fastest")
    with pytest.raises(BackendError, match="'fastest'"):
        backend_of(cpu)


@pytest.mark.parametrize("before", [None, "reversed"])
def test_a_backend_is_asked_for_within_the_block_alone(monkeypatch, before):
    monkeypatch.delenv("POLYFIELD_BACKEND", raising=False)
    if before is not None:
        monkeypatch.setenv("POLYFIELD_BACKEND", before)
    with pytest.raises(ArithmeticError), backend_asked_for("reference"):
        assert backend_of(torch.device("cpu")) == "reference"
        raise ArithmeticError
    assert os.environ.get("POLYFIELD_BACKEND") == before
