"""Files of torch.save, and what is refused of them before torch's own reader sees it."""

import io
import os
import pickle
import zipfile
from collections import OrderedDict

import pytest
import torch

from polyfield.apps.formats.torch_files import read_tensors
from polyfield.cuda.errors import InputError

TENSORS = OrderedDict(
    a=torch.arange(12.0).view(3, 4)[1:, ::2], b=torch.tensor(3), c=torch.ones(2).half()
)
OLD = pytest.mark.parametrize("old", [True, False])


def saved(value, old):
    out = io.BytesIO()
    torch.save(value, out, _use_new_zipfile_serialization=not old)
    return out.getvalue()


def reading(folder, content):
    (folder / "a.pth").write_bytes(content)
    return read_tensors(folder / "a.pth")


def refused(folder, content):
    with pytest.raises(InputError) as error:
        reading(folder, content)
    assert "a.pth" in str(error.value) and len(str(error.value)) < 400
    return str(error.value)


@OLD
def test_tensors_come_back_by_name_with_their_strides(tmp_path, old):
    found = reading(tmp_path, saved(TENSORS, old))
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)


@OLD
def test_the_state_of_a_module_is_read(tmp_path, old):
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(2, 2))
    found = reading(tmp_path, saved(module.state_dict(), old))
    assert all(torch.equal(found[name], value) for name, value in module.state_dict().items())


@OLD
def test_what_is_no_named_tensor_is_left_out(tmp_path, old):
    assert reading(tmp_path, saved({"a": torch.ones(1), "b": 3, 4: torch.ones(1)}, old)) == {
        "a": torch.ones(1)
    }
    assert "a list" in refused(tmp_path, saved([torch.ones(1)], old))


class Trap:
    def __reduce__(self):
        return (os.mkdir, ("ran",))


@OLD
def test_a_name_that_torch_does_not_write_is_refused(tmp_path, old, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "it names 'posix mkdir'" in refused(tmp_path, saved({"a": Trap()}, old))
    assert not (tmp_path / "ran").exists()


def test_a_name_that_torch_s_reader_takes_minutes_over_is_refused_at_once(tmp_path):
    long = b"\x80\x02c" + b"a.b\x00" * 200_000 + b"\nx\n."
    assert "cannot be read" in refused(tmp_path, long)
    archive = zipfile.ZipFile(tmp_path / "b", "w")
    archive.writestr("b/data.pkl", long)
    archive.close()
    assert "no description" in refused(tmp_path, (tmp_path / "b").read_bytes())


@OLD
def test_a_count_above_the_file_s_bytes_is_refused(tmp_path, old):
    content = saved({"a": torch.ones(77)}, old)
    assert b"K\x4d" in content
    if old:
        forged = content.replace(b"K\x4d", b"J\xff\xff\xff\x7f")
    else:
        source, out = zipfile.ZipFile(io.BytesIO(content)), io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for name in source.namelist():
                part = source.read(name)
                if name.endswith("data.pkl"):
                    part = part.replace(b"K\x4d", b"J\xff\xff\xff\x7f")
                archive.writestr(name, part)
        forged = out.getvalue()
    assert "it counts 2147483647" in refused(tmp_path, forged)


def test_packed_entries_are_refused(tmp_path):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}, 2))
        archive.writestr("a/data/0", bytes(50_000_000))
    assert "packed in a way" in refused(tmp_path, out.getvalue())


@pytest.mark.parametrize("content", [b"", b"PK", b"\x80", b"\x80\x02.", b"cut off", bytes(100)])
def test_another_file_is_refused_in_a_sentence(tmp_path, content):
    refused(tmp_path, content)


def test_a_missing_file_and_a_pipe_are_refused(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_tensors(tmp_path / "none")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="no plain file"):
        read_tensors(tmp_path / "pipe")


@pytest.mark.parametrize("at", [20, 24])  # an entry's bytes in the file, and unpacked
def test_entries_that_claim_more_than_the_file_are_refused_before_they_are_read(tmp_path, at):
    forged = bytearray(saved(TENSORS, False))
    entry = forged.index(b"PK\x01\x02")  # the first one's line in the central directory
    forged[entry + at : entry + at + 4] = b"\xfe\xff\xff\xff"
    assert "larger than the file" in refused(tmp_path, bytes(forged))
