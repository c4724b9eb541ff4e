import sys

import numpy as np
import pytest
import torch
from torch import Generator

from polyfield.apps.formats.exr import read_exr, write_exr
from polyfield.cuda.errors import InputError, MissingExtraError

LARGE = 1 << 30
OpenEXR = pytest.importorskip("OpenEXR", reason="the extra exr is not installed")


def light(channels, seed=0):
    return 20 * torch.rand(5, 7, channels, generator=Generator().manual_seed(seed))


@pytest.mark.parametrize("channels", [3, 4])
def test_what_is_written_comes_back_bit_by_bit(tmp_path, channels):
    image = light(channels)
    write_exr(tmp_path / "a.exr", image)
    assert torch.equal(read_exr(tmp_path / "a.exr", LARGE), image)
    assert [path.name for path in tmp_path.iterdir()] == ["a.exr"]


def test_brightness_alone_becomes_three_channels(tmp_path):
    image = light(1)
    write_exr(tmp_path / "a.exr", image)
    assert torch.equal(read_exr(tmp_path / "a.exr", LARGE), image.expand(5, 7, 3))


def test_an_alpha_that_is_1_everywhere_is_none(tmp_path):
    image = light(4)
    image[..., 3] = 1
    write_exr(tmp_path / "a.exr", image)
    assert torch.equal(read_exr(tmp_path / "a.exr", LARGE), image[..., :3])


def test_channels_of_other_names_are_refused(tmp_path):
    path = str(tmp_path / "a.exr")
    depth = np.ones((4, 4), np.float32)
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, {"depth": depth}).write(path)
    with pytest.raises(InputError, match="a.exr: not readable as an image"):
        read_exr(tmp_path / "a.exr", LARGE)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_light_that_is_not_finite_is_refused(tmp_path, value):
    image = light(3)
    image[2, 3, 1] = value
    write_exr(tmp_path / "a.exr", image)
    with pytest.raises(InputError, match="not finite"):
        read_exr(tmp_path / "a.exr", LARGE)


def test_what_takes_too_much_memory_is_refused_by_its_header(tmp_path):
    write_exr(tmp_path / "a.exr", light(3))
    with pytest.raises(InputError, match="GB when it is decoded"):
        read_exr(tmp_path / "a.exr", 5 * 7 * 4 * 4 - 1)


def test_what_is_no_image_is_refused_in_one_sentence(tmp_path):
    write_exr(tmp_path / "a.exr", light(3))
    content = (tmp_path / "a.exr").read_bytes()
    for number, bad in enumerate((b"", b"nothing of the kind", content[: len(content) // 2])):
        path = tmp_path / f"{number}.exr"
        path.write_bytes(bad)
        with pytest.raises(InputError, match=f"{number}.exr: not readable as an image"):
            read_exr(path, LARGE)
    with pytest.raises(InputError, match="no such file"):
        read_exr(tmp_path / "none.exr", LARGE)


def test_without_the_package_its_extra_is_named(tmp_path, monkeypatch):
    write_exr(tmp_path / "a.exr", light(3))
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    with pytest.raises(MissingExtraError, match=r"polyfield\[exr\]"):
        read_exr(tmp_path / "a.exr", LARGE)
