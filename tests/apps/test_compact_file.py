import pytest
import torch
import zstandard
from safetensors.torch import save as save_tensors
from torch import Generator

from polyfield.apps.compact_file import read_compact, write_compact
from polyfield.cuda.errors import InputError

METADATA = {"settings": {"kind": "image", "size": [1, 2, 3]}}


@pytest.fixture
def tensors():
    random = Generator().manual_seed(0)
    return {
        "table": 1e-2 * torch.randn(1 << 17, 2, generator=random),
        "cube": torch.rand(2, 3, 4, generator=random),
        "one": torch.tensor(0.125),
        "none": torch.zeros(0, 2),
        "steps": torch.arange(5),
        "large": torch.tensor([1e5, 2.0]),
    }


@pytest.fixture
def file(tmp_path, tensors):
    path = tmp_path / "field.safetensors.zst"
    write_compact(path, tensors, METADATA)
    return path


def test_what_comes_back_is_the_half_of_every_number(file, tensors):
    found, metadata = read_compact(file)
    assert metadata == METADATA and found.keys() == tensors.keys()
    for name in ("table", "cube", "one", "none"):
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], tensors[name].half().float())


def test_what_halves_cannot_hold_stays_as_it_is(file, tensors):
    found, _ = read_compact(file)
    for name in ("steps", "large"):
        assert torch.equal(found[name], tensors[name])


def test_what_has_to_be_exact_is(tmp_path, tensors):
    path = tmp_path / "field.safetensors.zst"
    write_compact(path, tensors, METADATA, {"cube"})
    found, _ = read_compact(path)
    assert torch.equal(found["cube"], tensors["cube"])
    assert torch.equal(found["table"], tensors["table"].half().float())


def test_bytes_apart_pack_better_than_halves_as_they_are(file, tensors):
    halves = {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}
    plain = len(zstandard.ZstdCompressor(level=19).compress(save_tensors(halves)))
    assert file.stat().st_size < 0.93 * plain
    assert write_compact(file, tensors, METADATA) == file.stat().st_size


def test_the_file_is_written_whole_or_not_at_all(file, tensors, monkeypatch):
    before = file.read_bytes()
    with pytest.raises(TypeError):
        write_compact(file, tensors, {"settings": object()})
    assert file.read_bytes() == before and len(list(file.parent.iterdir())) == 1


def packed(content, **options):
    return zstandard.ZstdCompressor(level=1, **options).compress(content)


def header_of(content):
    return packed(len(content).to_bytes(8, "little") + content)


HOSTILE = {
    "empty": b"",
    "no zstd": b"PK\x03\x04 and so on",
    "no size": packed(b"abc", write_content_size=False),
    "a bomb": packed(bytes(1 << 24)),
    "no header": packed(b"\xff" * 20),
    "brackets": header_of(b"[" * (1 << 25)),
    "no metadata": packed(save_tensors({"a": torch.zeros(2)})),
    "not ours": packed(save_tensors({"a": torch.zeros(2)}, {"polyfield": "[]"})),
    "another version": packed(
        save_tensors(
            {"a": torch.zeros(2)}, {"polyfield": '{"version": 2, "halves": {}, "metadata": {}}'}
        )
    ),
    "a shape that lies": packed(
        save_tensors(
            {"a": torch.zeros(2, 3, dtype=torch.uint8)},
            {"polyfield": '{"version": 1, "halves": {"a": [-1, -3]}, "metadata": {}}'},
        )
    ),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_no_fit_wrote_is_refused_in_one_sentence(tmp_path, content):
    path = tmp_path / "field.safetensors.zst"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"field\.safetensors\.zst") as refused:
        read_compact(path)
    assert "\n" not in str(refused.value)


def test_a_bomb_is_refused_by_what_it_says_of_itself(tmp_path):
    path = tmp_path / "field.safetensors.zst"
    path.write_bytes(HOSTILE["a bomb"])
    with pytest.raises(InputError, match="says that it unpacks to 16777216 bytes"):
        read_compact(path)


def test_a_cut_or_damaged_file_is_refused(file):
    content = file.read_bytes()
    for bad in (content[:-1], content[: len(content) // 2], content[:-9] + b"damage!!!"):
        file.write_bytes(bad)
        with pytest.raises(InputError, match="cannot be read"):
            read_compact(file)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_compact(tmp_path / "field.safetensors.zst")
