import os

import numpy as np
import pytest
import torch

from polyfield.apps.formats.films import read_film
from polyfield.apps.video import write_video
from polyfield.cuda.errors import InputError

LARGE = 1 << 30


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Twelve frames in which a bright bar goes from left to right."""
    frames = np.full((12, 48, 64, 3), 40, np.uint8)
    for number in range(12):
        frames[number, :, 5 * number : 5 * number + 8] = (220, 180, 60)
    path = tmp_path_factory.mktemp("film") / "bar.mp4"
    write_video(path, frames, 12.5)
    return path, torch.from_numpy(frames)


def test_all_frames_come_in_their_order_and_at_their_rate(film):
    path, frames = film
    found, rate = read_film(path, LARGE)
    assert found.shape == frames.shape and rate == pytest.approx(12.5)
    assert (found.float() - frames.float()).abs().mean() < 6  # H.264 halves the colours' size
    bar = (found.float().mean((1, 3)) > 100).float().argmax(1)
    assert (bar - 5 * torch.arange(12)).abs().max() <= 1


def test_a_film_larger_than_memory_is_refused(film):
    with pytest.raises(InputError, match="more than 3 frames of 64x48"):
        read_film(film[0], 2 * 3 * 48 * 64 * 3)


def test_what_is_no_film_is_refused_in_one_sentence(tmp_path, film):
    for number, bad in enumerate((b"", b"no film at all", film[0].read_bytes()[:300])):
        path = tmp_path / f"{number}.mp4"
        path.write_bytes(bad)
        with pytest.raises(InputError, match=rf"{number}\.mp4") as refused:
            read_film(path, LARGE)
        assert "\n" not in str(refused.value)
    with pytest.raises(InputError, match="no such file"):
        read_film(tmp_path / "none.mp4", LARGE)


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    with pytest.raises(InputError, match="no plain file"):
        read_film(tmp_path / "a.mp4", LARGE)


def test_a_playlist_opens_none_of_what_it_names(tmp_path, film):
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile '{film[0]}'\n")
    with pytest.raises(InputError, match="list.mp4"):
        read_film(tmp_path / "list.mp4", LARGE)
