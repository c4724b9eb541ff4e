import io

import numpy as np
import pytest
from PIL import Image

from polyfield.apps import image_files
from polyfield.apps.image_files import decode, read_header
from polyfield.cuda.errors import InputError

RAMP = np.arange(6 * 5, dtype=np.uint8).reshape(5, 6) * 8  # 6 wide, 5 high


def picture(mode):
    return Image.fromarray(RAMP).convert(mode)


def save(image, path, **options):
    image.save(path, **options)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp", "a.tif"])
def test_header_gives_the_size_without_the_pixels(tmp_path, name):
    header = read_header(save(picture("RGB"), tmp_path / name))
    assert (header.width, header.height, header.has_alpha, header.bits) == (6, 5, False, 8)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
@pytest.mark.parametrize("kept", [0.5, 0.9, -1])
def test_a_file_cut_off_is_refused_by_its_header_check(tmp_path, name, kept):
    whole = save(picture("RGB").resize((64, 64)), tmp_path / name).read_bytes()
    cut = int(len(whole) * kept) if kept > 0 else len(whole) - 1
    (tmp_path / name).write_bytes(whole[:cut])
    with pytest.raises(InputError, match=rf"{name}.*(cut off|not readable)"):
        read_header(tmp_path / name)


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_bytes_behind_the_end_marker_are_allowed(tmp_path, name):
    path = save(picture("RGB"), tmp_path / name)
    path.write_bytes(path.read_bytes() + b"a film of the phone" * 3)
    assert read_header(path).width == 6


def test_the_end_marker_of_a_thumbnail_does_not_count(tmp_path):
    thumbnail = io.BytesIO()
    picture("L").save(thumbnail, "JPEG")
    path = save(picture("RGB").resize((64, 64)), tmp_path / "a.jpg", comment=thumbnail.getvalue())
    whole = path.read_bytes()
    assert b"\xff\xd9" in whole[: len(whole) // 2]
    path.write_bytes(whole[:-20])
    with pytest.raises(InputError, match="cut off"):
        read_header(path)


def test_a_fault_in_the_pixels_is_found_by_decoding_and_names_the_file(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    path = save(Image.fromarray(noise), tmp_path / "a.png")
    broken = bytearray(path.read_bytes())
    broken[len(broken) // 2] ^= 0xFF
    path.write_bytes(broken)
    assert read_header(path).width == 40
    with pytest.raises(InputError, match=r"a\.png.*do not decode"):
        decode(path, 3)


@pytest.mark.parametrize(
    "content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"]
)
def test_what_is_no_image_is_refused(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.png"):
        read_header(path)


def test_a_missing_file_is_refused(tmp_path):
    for read in (read_header, lambda path: decode(path, 3)):
        with pytest.raises(InputError, match="no such file"):
            read(tmp_path / "a.png")


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "CMYK"])
def test_opaque_modes_become_rgb(tmp_path, mode):
    path = save(picture(mode), tmp_path / ("a.tif" if mode == "CMYK" else "a.png"))
    expected = np.asarray(picture(mode).convert("RGB"))
    assert not read_header(path).has_alpha
    assert np.array_equal(decode(path, 3).numpy(), expected)
    assert np.array_equal(decode(path, 4)[..., :3].numpy(), expected)
    assert (decode(path, 4)[..., 3] == 255).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_kept_straight(tmp_path, mode):
    image = picture(mode)
    image.putalpha(Image.fromarray(RAMP[::-1].copy()))
    path = save(image, tmp_path / "a.png")
    assert read_header(path).has_alpha
    pixels = decode(path, 4).numpy()
    assert np.array_equal(pixels[..., 0], RAMP) and np.array_equal(pixels[..., 3], RAMP[::-1])


def test_a_transparent_palette_entry_is_alpha(tmp_path):
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "L").convert("P")
    path = save(image, tmp_path / "a.png", transparency=0)
    assert read_header(path).has_alpha
    assert decode(path, 4)[0, :, 3].tolist() == [0, 255]


def test_alpha_is_not_dropped_where_three_channels_are_asked_for(tmp_path):
    with pytest.raises(InputError, match="alpha"):
        decode(save(picture("RGBA"), tmp_path / "a.png"), 3)


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    path = save(Image.fromarray(RAMP.astype(np.uint16) * 257), tmp_path / "a.png")
    assert read_header(path).bits == 16
    assert np.array_equal(decode(path, 3)[..., 1].numpy(), RAMP)


def test_pixels_without_an_8_bit_meaning_are_refused(tmp_path):
    path = save(Image.fromarray(RAMP.astype(np.float32)), tmp_path / "a.tif")
    with pytest.raises(InputError, match="type F"):
        read_header(path)


def test_exif_orientation_is_told_and_not_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    header = read_header(path := save(picture("RGB"), tmp_path / "a.jpg", exif=exif))
    assert header.turned and (header.width, header.height) == (6, 5)
    assert decode(path, 3).shape == (5, 6, 3)


@pytest.mark.parametrize("mode", ["RGBA", "P", "L", "1"])
def test_an_image_converted_in_bands_is_the_image(tmp_path, monkeypatch, mode):
    path = save(picture(mode), tmp_path / "a.png")
    whole = decode(path, 4)
    monkeypatch.setattr(image_files, "_BAND_PIXELS", 12)  # two rows, and one is left over
    assert np.array_equal(decode(path, 4), whole)
    assert np.array_equal(whole, np.asarray(picture(mode).convert("RGBA")))
