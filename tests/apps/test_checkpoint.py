import json
import os
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from polyfield.apps import checkpoint
from polyfield.apps.checkpoint import latest, read, step_path, steps_in, write
from polyfield.cuda.errors import InputError

DTYPES = list(checkpoint._DTYPES)
METADATA = {"step": 3, "settings": {"field": "hash-grid", "rate": 0.1}, "list": [None, "\u00e9\n"]}
quick = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def some_tensors():
    draw = torch.Generator().manual_seed(0)
    return {
        "table": torch.randn(5, 4, generator=draw),
        "moments/first": torch.randn(3, generator=draw, dtype=torch.float64),
        "grid": torch.randint(0, 255, (7,), generator=draw, dtype=torch.uint8),
    }


def bits(tensor):
    return tensor.shape, tensor.dtype, bytes(tensor.contiguous().reshape(-1).view(torch.uint8))


def same(a, b):
    return a.keys() == b.keys() and all(bits(a[name]) == bits(b[name]) for name in a)


def raw(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_every_dtype_shape_and_bit_comes_back(tmp_path):
    random = torch.Generator().manual_seed(1)
    tensors = {}
    for dtype in DTYPES:
        for shape in ((), (0,), (3,), (2, 0, 4), (5, 3)):
            size = torch.empty(shape, dtype=dtype).numel() * dtype.itemsize
            # Any bits at all, NaNs with payload among them; a bool has only two patterns.
            high = 2 if dtype is torch.bool else 256
            data = torch.randint(0, high, (size,), generator=random, dtype=torch.uint8)
            tensors[f"{dtype} {shape}"] = data.view(dtype).reshape(shape)
    write(tmp_path / "a", tensors, METADATA)
    found, metadata = read(tmp_path / "a")
    assert same(found, tensors) and metadata == METADATA


def test_views_gradients_and_parameters_are_stored_as_their_values(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {"transposed": base.T, "strided": base[:, ::2], "one": base[1].expand(2, 4)}
    tensors["parameter"] = torch.nn.Parameter(base.clone())
    write(tmp_path / "a", tensors, {})
    found, _ = read(tmp_path / "a")
    assert same(found, {name: tensor.detach().clone() for name, tensor in tensors.items()})
    assert found["transposed"].is_contiguous()


def test_any_reader_of_safetensors_reads_it_and_numbers_are_aligned(tmp_path):
    write(tmp_path / "a", some_tensors(), METADATA)
    assert same(load_file(tmp_path / "a"), some_tensors())
    content = (tmp_path / "a").read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    envelope = json.loads(header.pop("__metadata__")["polyfield"])
    assert envelope["format_version"] == 1 and envelope["metadata"] == METADATA
    sizes = {"F64": 8, "F32": 4, "U8": 1}
    for entry in header.values():
        assert (8 + length + entry["data_offsets"][0]) % sizes[entry["dtype"]] == 0


def test_the_same_state_gives_the_same_bytes(tmp_path):
    tensors = some_tensors()
    write(tmp_path / "a", tensors, METADATA)
    write(tmp_path / "b", dict(reversed(tensors.items())), METADATA)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_changing_a_read_tensor_does_not_change_the_file(tmp_path):
    write(tmp_path / "a", some_tensors(), {})
    read(tmp_path / "a")[0]["table"].add_(1)
    assert same(read(tmp_path / "a")[0], some_tensors())


def test_what_json_or_safetensors_cannot_hold_is_refused_before_anything_is_written(tmp_path):
    write(tmp_path / "a", some_tensors(), METADATA)
    before = (tmp_path / "a").read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        write(tmp_path / "a", {}, {"psnr": float("inf")})
    with pytest.raises(TypeError):
        write(tmp_path / "a", {}, {"path": Path()})
    with pytest.raises(InputError, match="complex64"):
        write(tmp_path / "a", {"c": torch.zeros(1, dtype=torch.complex64)}, {})
    assert (tmp_path / "a").read_bytes() == before and os.listdir(tmp_path) == ["a"]


def test_a_full_disk_is_one_sentence_and_the_old_file_stays(tmp_path):
    resource = pytest.importorskip("resource")
    path = tmp_path / "a"
    write(path, some_tensors(), METADATA)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(InputError, match="has no room for it.*intact"):
            write(path, {"big": torch.zeros(1_000_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a"]


def test_every_truncation_is_refused_by_name(tmp_path):
    path = tmp_path / "a"
    write(path, some_tensors(), METADATA)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(InputError) as caught:
            read(path)
        assert caught.value.where == str(path)


@quick
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=4))
def test_changed_bytes_are_refused_or_change_nothing(tmp_path, flips):
    path = tmp_path / "a"
    write(path, some_tensors(), METADATA)
    content = bytearray(path.read_bytes())
    for position, flip in flips:
        content[position % len(content)] ^= flip
    path.write_bytes(content)
    try:
        tensors, metadata = read(path)
    except InputError as error:
        assert error.where == str(path)
    else:  # white space of the header, or two flips that cancel
        assert same(tensors, some_tensors()) and metadata == METADATA


def test_each_changed_byte_of_the_data_is_noticed(tmp_path):
    path = tmp_path / "a"
    write(path, some_tensors(), METADATA)
    content = path.read_bytes()
    for position in range(len(content) - 5 * 4 * 4 - 3 * 8 - 7, len(content)):
        changed = bytearray(content)
        changed[position] ^= 1
        path.write_bytes(changed)
        with pytest.raises(InputError, match="checksum"):
            read(path)


def envelope(**changes):
    content = {"format_version": 1, "crc32": 0, "metadata": {}} | changes
    return {"__metadata__": {"polyfield": json.dumps(content)}}


DEEP = "[" * 100_000 + "]" * 100_000
HUGE = {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}
EMPTY = {"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]}
GARBAGE = {
    "nothing": b"",
    "zeros": b"\0" * 64,
    "text": b"Not a checkpoint, but a letter to a friend.",
    "pickle": b"\x80\x04cos\nsystem\n(S'touch hacked'\ntR.",
    "a header of 2^63 bytes": struct.pack("<Q", 2**63) + b"{}",
    "a header longer than the file": struct.pack("<Q", 10**8) + b"{}",
    "no UTF-8": raw(b"\xff\xfe"),
    "no object": raw(b"[1, 2]"),
    "deep header": raw(DEEP.encode()),
    "deep metadata": raw({"__metadata__": {"polyfield": DEEP}}),
    "metadata that is no object": raw({"__metadata__": {"polyfield": "[1]"}}),
    "metadata that is no JSON": raw({"__metadata__": {"polyfield": "{"}}),
    "metadata with a number without end": raw({"__metadata__": {"polyfield": "9" * 10**5}}),
    "metadata missing": raw(envelope(metadata=None)),
    "crc missing": raw({"__metadata__": {"polyfield": '{"format_version": 1}'}}),
    "a tensor of 4 TB": raw(envelope() | {"a": HUGE}),
    "an empty tensor beyond all numbers": raw(envelope() | {"a": EMPTY}),
    "an unknown dtype": raw(envelope() | {"a": HUGE | {"dtype": "F7"}}),
    "a dtype of another kind": raw(envelope() | {"a": {**HUGE, "dtype": "C64", "shape": [0]}}),
}


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_is_refused_and_nothing_else_happens(tmp_path, content, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a").write_bytes(content)
    with pytest.raises(InputError):
        read(Path("a"))
    assert os.listdir(tmp_path) == ["a"]


@quick
@given(st.binary(max_size=200))
def test_any_header_is_refused(tmp_path, text):
    (tmp_path / "a").write_bytes(raw(text))
    with pytest.raises(InputError):
        read(tmp_path / "a")


def test_refusals_say_which_of_the_reasons_it_is(tmp_path):
    path = tmp_path / "a"
    with pytest.raises(InputError, match="is no file"):
        read(path)
    with pytest.raises(InputError, match="is no file"):
        read(tmp_path)
    save_file({"a": torch.zeros(1)}, path, {"other": "1"})
    with pytest.raises(InputError, match="without the metadata 'polyfield'"):
        read(path)
    for version, word in ((2, "2"), (0, "0"), (True, "true"), ("1", '"1"'), (None, "missing")):
        path.write_bytes(raw(envelope(format_version=version)))
        with pytest.raises(InputError, match=f"format version {word}; expected version 1"):
            read(path)


def test_checkpoints_are_ordered_by_number_and_other_files_are_not_checkpoints(tmp_path):
    for step in (99_999_999, 100_000_000, 5):
        write(step_path(tmp_path, step), {}, {"step": step})
    (tmp_path / ".step_00000007.safetensors.ab.partial").write_text("")
    (tmp_path / "step_00000008.safetensors.bak").write_text("")
    assert list(steps_in(tmp_path)) == [5, 99_999_999, 100_000_000]
    assert latest(tmp_path).step == 100_000_000
    assert step_path(tmp_path, 1234).name == "step_00001234.safetensors"


def test_latest_passes_over_damaged_ones_and_says_so(tmp_path):
    assert latest(tmp_path) is None and latest(tmp_path / "missing") is None
    for step in (1, 2, 3):
        write(step_path(tmp_path, step), {"a": torch.tensor([step])}, {"step": step})
    assert latest(tmp_path).damaged == ()
    for step in (3, 2):
        os.truncate(step_path(tmp_path, step), 40)
    found = latest(tmp_path)
    assert (found.step, found.metadata, found.tensors["a"].item()) == (1, {"step": 1}, 1)
    assert len(found.damaged) == 2
    assert str(step_path(tmp_path, 3)) in found.damaged[0]
    assert str(step_path(tmp_path, 2)) in found.damaged[1]
    os.truncate(step_path(tmp_path, 1), 40)
    with pytest.raises(InputError, match="no checkpoint can be read"):
        latest(tmp_path)


def test_a_folder_named_like_a_checkpoint_is_none(tmp_path):
    write(step_path(tmp_path, 1), {}, {"step": 1})
    step_path(tmp_path, 2).mkdir()
    assert list(steps_in(tmp_path)) == [1]


def test_a_refusal_is_a_sentence_however_long_the_file_s_words(tmp_path):
    (tmp_path / "a").write_bytes(raw(envelope() | {"x" * 10**5: HUGE | {"dtype": "y" * 10**5}}))
    with pytest.raises(InputError) as refused:
        read(tmp_path / "a")
    assert len(str(refused.value)) < 500


def test_a_header_of_more_tensors_than_bytes_allow_is_refused(tmp_path):
    empty = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    tensors = {f"t{index}": empty for index in range(200_000)}
    (tmp_path / "a").write_bytes(raw(envelope() | tensors))
    with pytest.raises(InputError, match="brackets and commas would take"):
        read(tmp_path / "a")


def test_a_pipe_in_a_checkpoint_s_place_is_refused(tmp_path):
    os.mkfifo(tmp_path / "a")
    with pytest.raises(InputError, match="is no file"):
        read(tmp_path / "a")
