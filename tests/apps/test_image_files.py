import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from polyfield.apps import image_files
from polyfield.apps.image_files import decode, decode_reduced, read_header
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


def chunk(kind, body):
    checksum = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def refuses(path, message):
    for read in (read_header, lambda p: decode(p, 4), lambda p: decode_reduced(p, 8)):
        with pytest.raises(InputError, match=message):
            read(path)


def test_a_png_whose_header_claims_what_its_bytes_cannot_hold_is_refused(tmp_path):
    path = save(picture("RGB"), tmp_path / "a.png")
    content = path.read_bytes()
    header = chunk(b"IHDR", struct.pack(">II", 8000, 8000) + content[24:29])
    path.write_bytes(content[:8] + header + content[33:])
    refuses(path, r"8000x8000 pixels are not in \d+ bytes")


def test_a_jpeg_whose_header_claims_what_its_bytes_cannot_hold_is_refused(tmp_path):
    path = save(picture("RGB"), tmp_path / "a.jpg")
    content = bytearray(path.read_bytes())
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = struct.pack(">HH", 8000, 8000)
    path.write_bytes(content)
    refuses(path, r"8000x8000 pixels are not in \d+ bytes")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "I;16"])
def test_images_that_pack_as_well_as_any_are_read(tmp_path, mode):
    """One colour in all of a large image: its format cannot make it smaller."""
    image = Image.new(mode, (3000, 2500))
    names = ["a.png", *(["a.webp", "a.jpg"] if mode == "RGB" else ["a.jpg"] if mode == "L" else [])]
    for name in names:
        options = {"quality": 1, "optimize": True} if name == "a.jpg" else {}
        path = save(image, tmp_path / name, **options)
        assert read_header(path).width == 3000
        assert decode(path, 4).shape == (2500, 3000, 4)


def test_a_progressive_jpeg_of_one_colour_is_read(tmp_path):
    image = Image.new("RGB", (3000, 2500), (90, 120, 30))
    path = save(image, tmp_path / "a.jpg", quality=1, optimize=True, progressive=True)
    assert decode(path, 3).shape == (2500, 3000, 3)


def test_a_png_of_chunks_without_number_is_refused_at_once(tmp_path):
    path = save(picture("RGB"), tmp_path / "a.png")
    content = path.read_bytes()
    path.write_bytes(content[:33] + chunk(b"xxXx", b"") * 200_000 + content[33:])
    with pytest.raises(InputError, match="more than 32,768 chunks"):
        read_header(path)
    path.write_bytes(content[:33] + chunk(b"xxXx", b"") * 30_000 + content[33:])
    assert read_header(path).width == 6


def segment(marker, content):
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


@pytest.mark.parametrize(
    ("before", "message"),
    [
        (segment(0xDB, bytes(65)) * 125_000, "more than 4,096 segments"),
        (bytes(8_000_000), "more than 16,384 bytes between its segments"),
        ((bytes(400) + segment(0xFE, b"a")) * 50, "more than 16,384 bytes between its segments"),
        (b"\xff\x00" * 4_000_000, "more than 16,384 bytes between its segments"),
        (b"\xff" * 8_000_000, "more than 16,384 bytes between its segments"),
    ],
)
def test_a_jpeg_that_takes_seconds_to_be_opened_is_refused_at_once(tmp_path, before, message):
    path = save(picture("RGB"), tmp_path / "a.jpg")
    content = path.read_bytes()
    path.write_bytes(content[:2] + before + content[2:])
    with pytest.raises(InputError, match=f"a.jpg.*{message}"):
        read_header(path)


@pytest.mark.parametrize(
    "before",
    [segment(0xFE, b"a word") * 4_000, segment(0xE2, bytes(60_000)) * 20, b"\xff" * 9, bytes(900)],
)
def test_a_jpeg_with_profiles_words_and_a_little_between_is_read(tmp_path, before):
    path = save(picture("RGB"), tmp_path / "a.jpg")
    content = path.read_bytes()  # 20: behind the first segment, which says JFIF
    path.write_bytes(content[:20] + before + content[20:])
    assert read_header(path).width == 6 and decode(path, 3).shape[1] == 6


@pytest.mark.parametrize("kind", [b"iCCP", b"zTXt", b"iTXt"])
def test_a_png_of_packed_texts_that_take_seconds_to_unpack_is_refused(tmp_path, kind):
    path = save(picture("RGB"), tmp_path / "a.png")
    content = path.read_bytes()
    bomb = chunk(kind, b"a\0\0" + zlib.compress(bytes(1_000_000)))
    path.write_bytes(content[:33] + bomb * 7000 + content[33:])
    with pytest.raises(InputError, match="more than 64 packed texts"):
        read_header(path)


def test_zeros_behind_a_header_are_no_chunks(tmp_path):
    path = save(picture("RGB"), tmp_path / "a.png")
    path.write_bytes(path.read_bytes()[:33])
    with path.open("ab") as file:
        file.truncate(1 << 28)
    with pytest.raises(InputError, match="a.png"):
        read_header(path)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp", "a.tif"])
def test_a_file_of_more_than_any_image_is_refused_unread(tmp_path, name):
    path = save(picture("RGB"), tmp_path / name)
    with path.open("ab") as file:
        file.truncate(1 << 40)
    refuses(path, "1099511627776 bytes are too many")


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    refuses(tmp_path / "a.png", "no plain file")


def test_an_end_marker_is_found_wherever_it_lies(tmp_path):
    path = save(picture("RGB"), tmp_path / "a.jpg")
    content = path.read_bytes()
    scan = content.index(b"\xff\xda") + 2
    scan += int.from_bytes(content[scan : scan + 2], "big")
    # Its two bytes on both sides of where one read ends and the next begins.
    size = scan + (1 << 20) + 1
    path.write_bytes(content[:-2].ljust(size - 2, b"\0") + b"\xff\xd9" + b"tail")
    assert read_header(path).width == 6
    path.write_bytes(content[:-2].ljust(size - 2, b"\0") + b"\xff\xd8" + b"tail")
    with pytest.raises(InputError, match="without its end marker"):
        read_header(path)
