"""What a mask says of each pixel, whatever kind of image it is."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from polyfield.apps.mask_files import Mask, decode_masked, kept_pixels, read_mask
from polyfield.cuda.errors import InputError

VALUES = np.array([[0, 1, 127, 128], [255, 0, 200, 3]], dtype=np.uint8)


def saved(folder, image, meaning="keep", name="mask.png"):
    image.save(folder / name)
    return Mask(folder / name, meaning, *image.size)


def rgb(values):
    """Only one channel says anything: a third of the pixels each."""
    image = np.zeros((*values.shape, 3), np.uint8)
    for pixel, (row, column) in enumerate(np.ndindex(values.shape)):
        image[row, column, pixel % 3] = values[row, column]
    return Image.fromarray(image)


def transparent(values):
    return Image.fromarray(np.stack([values, values, values, 255 - values], 2), "RGBA")


def palette(values):
    image = Image.fromarray(values.copy(), "P")
    image.putpalette([level for level in range(256) for _ in range(3)])
    return image


FORMS = [Image.fromarray, rgb, transparent, palette]


@pytest.mark.parametrize("form", FORMS)
def test_a_mask_is_the_brightest_channel_of_its_file(tmp_path, form):
    mask = saved(tmp_path, form(VALUES))
    assert read_mask(mask, 4, 2).tolist() == VALUES.tolist()


def test_black_alone_is_ignored_or_black_alone_is_kept(tmp_path):
    black = torch.from_numpy(VALUES) == 0
    assert torch.equal(kept_pixels(saved(tmp_path, rgb(VALUES), "keep"), 4, 2), ~black)
    assert torch.equal(kept_pixels(saved(tmp_path, rgb(VALUES), "ignore"), 4, 2), black)


def test_masks_of_an_object_and_no_mask_ignore_nothing(tmp_path):
    assert kept_pixels(saved(tmp_path, rgb(VALUES), "object"), 4, 2).all()
    assert kept_pixels(None, 3, 5).shape == (5, 3) and kept_pixels(None, 3, 5).all()


@given(*[st.integers(1, 40)] * 4)
@settings(max_examples=60, deadline=None)
def test_another_size_takes_the_value_at_each_pixel_s_centre(
    tmp_path_factory, width, height, wide, high
):
    values = np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)
    mask = saved(tmp_path_factory.mktemp("mask"), Image.fromarray(values))
    found = read_mask(mask, wide, high)
    assert found.shape == (high, wide)
    for row in range(high):
        for column in range(wide):
            y, x = (row + 0.5) / high * height, (column + 0.5) / wide * width
            assert found[row, column] == values[int(y + 1e-9), int(x + 1e-9)]


def test_the_mask_of_an_object_is_its_image_s_alpha(tmp_path):
    colors = np.random.default_rng(1).integers(0, 256, (2, 4, 3), dtype=np.uint8)
    Image.fromarray(colors).save(tmp_path / "a.png")
    pixels = decode_masked(tmp_path / "a.png", saved(tmp_path, rgb(VALUES), "object"), 4)
    assert np.array_equal(pixels[..., :3], colors) and np.array_equal(pixels[..., 3], VALUES)


def test_alpha_and_the_mask_of_an_object_multiply(tmp_path):
    alpha = np.array([[255, 255, 128, 7], [100, 200, 0, 255]], dtype=np.uint8)
    image = np.concatenate([np.full((2, 4, 3), 9, np.uint8), alpha[..., None]], 2)
    Image.fromarray(image).save(tmp_path / "a.png")
    pixels = decode_masked(tmp_path / "a.png", saved(tmp_path, rgb(VALUES), "object"), 4)
    expected = (VALUES / 255 * alpha).round()
    assert np.array_equal(pixels[..., 3], expected) and (pixels[..., :3] == 9).all()


@pytest.mark.parametrize("meaning", ["keep", "ignore"])
def test_other_masks_leave_the_image_as_it_is(tmp_path, meaning):
    Image.new("RGB", (4, 2), (1, 2, 3)).save(tmp_path / "a.png")
    mask = saved(tmp_path, rgb(VALUES), meaning)
    assert decode_masked(tmp_path / "a.png", mask, 4).unique(dim=0).flatten().tolist() == (
        [1, 2, 3, 255] * 4
    )


def test_what_changed_since_its_header_was_read_is_refused(tmp_path):
    mask = saved(tmp_path, Image.new("L", (4, 2)))
    Image.new("L", (8, 4)).save(mask.path)
    with pytest.raises(InputError, match=r"mask.png: 8x4 pixels; expected 4x2"):
        read_mask(mask, 4, 2)


def test_one_bit_and_sixteen_bits_mean_black_and_white(tmp_path):
    ones = Image.fromarray(VALUES > 100)
    deep = Image.fromarray(VALUES.astype(np.uint16) * 257)
    for image, expected in ((ones, (VALUES > 100) * 255), (deep, VALUES)):
        found = read_mask(saved(tmp_path, image), 4, 2)
        assert np.array_equal(found.numpy(), expected)
    assert all(a != b for a, b in pairwise([ones.mode, deep.mode, "L"]))
