import tempfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from polyfield.apps.formats.png_rows import png_rows
from polyfield.cuda.errors import InputError

RANDOM = np.random.default_rng(0)


def image_of(height, width, channels, bits):
    shape = (height, width) if channels == 1 else (height, width, channels)
    return RANDOM.integers(0, 1 << bits, shape, np.uint16).astype(f"uint{bits}")


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 9), st.sampled_from([1, 3]))
def test_what_was_written_in_bands_is_read_as_a_whole(height, width, band, channels):
    image = image_of(height, width, channels, 8)
    with tempfile.TemporaryFile() as file:
        with png_rows(file, width, height, channels) as write:
            for top in range(0, height, band):
                write(image[top : top + band])
        with Image.open(file) as read:
            assert read.format == "PNG"
            assert np.array_equal(np.asarray(read), image)


def test_sixteen_bits_keep_every_value(tmp_path):
    image = image_of(30, 20, 1, 16)
    with open(tmp_path / "depth.png", "wb") as file, png_rows(file, 20, 30, 1, 16) as write:
        write(image)
    with Image.open(tmp_path / "depth.png") as read:
        assert read.mode.startswith("I;16") and np.array_equal(np.asarray(read), image)


def test_smooth_images_become_small_files():
    image = np.zeros((200, 300, 3), np.uint8) + np.arange(200, dtype=np.uint8)[:, None, None]
    with tempfile.TemporaryFile() as file:
        with png_rows(file, 300, 200) as write:
            write(image)
        assert file.tell() < 3000


@pytest.mark.parametrize(
    "rows",
    [np.zeros((2, 4, 3), np.uint8), np.zeros((2, 5), np.uint8), np.zeros((2, 5, 3), np.uint16)],
)
def test_rows_of_another_form_are_refused(rows):
    with tempfile.TemporaryFile() as file, pytest.raises(InputError, match="PNG rows"):
        with png_rows(file, 5, 2) as write:
            write(rows)


@pytest.mark.parametrize("count", [1, 3])
def test_too_few_and_too_many_rows_are_refused(count):
    with tempfile.TemporaryFile() as file, pytest.raises(InputError, match=f"PNG: {count} rows"):
        with png_rows(file, 5, 2) as write:
            write(np.zeros((count, 5, 3), np.uint8))
