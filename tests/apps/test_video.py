import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from polyfield.apps.video import write_video
from polyfield.cuda.errors import InputError


def film(count, height, width):
    """Smooth frames, each of another colour, so that lossy coding changes little."""
    y, x = np.mgrid[0:height, 0:width]
    for number in range(count):
        level = 30 + 180 * number // max(1, count - 1)
        red = np.full((height, width), level)
        yield np.stack([red, 60 + 100 * x // width, 60 + 100 * y // height], 2).astype(np.uint8)


def read_mp4(path):
    reader = imageio_ffmpeg.read_frames(str(path))
    about = next(reader)
    width, height = about["size"]
    return about, [np.frombuffer(f, np.uint8).reshape(height, width, 3) for f in reader]


@pytest.mark.parametrize("height, width", [(48, 64), (47, 65), (50, 34)])
def test_mp4_holds_every_frame_in_order_at_even_sizes(tmp_path, height, width):
    write_video(tmp_path / "film.mp4", film(9, height, width), fps=10.0)
    about, found = read_mp4(tmp_path / "film.mp4")
    assert about["pix_fmt"].startswith("yuv420p")
    assert about["codec"] == "h264"
    assert about["size"] == (width + width % 2, height + height % 2)
    assert about["fps"] == 10
    assert len(found) == 9
    for mine, original in zip(found, film(9, height, width), strict=True):
        kept = mine[:height, :width].astype(int)
        assert np.abs(kept - original).mean() < 4
        assert np.abs(mine[-1, :width].astype(int) - original[-1]).mean() < 6  # no black edge


def test_webp_holds_every_frame_and_repeats_for_ever(tmp_path):
    write_video(tmp_path / "film.webp", film(7, 31, 45), fps=25.0)
    with Image.open(tmp_path / "film.webp") as found:
        assert found.n_frames == 7 and found.size == (45, 31) and found.info["loop"] == 0
        for number, original in enumerate(film(7, 31, 45)):
            found.seek(number)
            found.load()
            assert found.info["duration"] == 40
            assert np.abs(np.asarray(found.convert("RGB")).astype(int) - original).mean() < 4


@pytest.mark.parametrize("name", ["film.mp4", "film.webp"])
def test_a_failure_leaves_the_old_film_and_nothing_else(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"old")

    def broken():
        yield from film(3, 16, 16)
        raise RuntimeError("the renderer fell over")

    with pytest.raises(RuntimeError, match="fell over"):
        write_video(path, broken(), fps=10.0)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    write_video(path, film(3, 16, 16), fps=10.0)
    assert path.stat().st_size > 100 and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["film.mp4", "film.webp"])
def test_frames_that_cannot_be_a_film_are_refused(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(InputError, match="no frames"):
        write_video(path, iter([]), fps=10.0)
    mixed = [*film(1, 16, 16), *film(1, 16, 18)]
    with pytest.raises(InputError, match="frame 1: shape"):
        write_video(path, mixed, fps=10.0)
    with pytest.raises(InputError, match="frame 0: float"):
        write_video(path, [np.zeros((16, 16, 3))], fps=10.0)
    with pytest.raises(InputError, match="fps: 0"):
        write_video(path, film(1, 16, 16), fps=0.0)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_suffix_names_the_known_ones_before_any_frame_is_rendered(tmp_path):
    def never():
        raise AssertionError("rendered in vain")
        yield

    with pytest.raises(InputError, match=r"film\.avi: suffix '\.avi'; expected \.mp4 or \.webp"):
        write_video(tmp_path / "film.avi", never(), fps=10.0)


def test_folders_are_made_and_capitals_understood(tmp_path):
    write_video(tmp_path / "new" / "FILM.MP4", film(2, 16, 16), fps=10.0)
    assert len(read_mp4(tmp_path / "new" / "FILM.MP4")[1]) == 2


def test_webp_has_no_frames_wider_than_its_numbers(tmp_path):
    with pytest.raises(InputError, match="16384x2; expected at most 16383"):
        write_video(tmp_path / "film.webp", film(2, 2, 16384))
    write_video(tmp_path / "film.webp", film(2, 2, 16383))
    assert Image.open(tmp_path / "film.webp").size == (16383, 2)
