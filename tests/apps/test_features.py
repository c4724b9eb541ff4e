import pytest
import torch
from torch.nn.functional import interpolate

from polyfield.apps.features import Features, find_features, match


def paper(seed=0, size=220):
    random = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 1, 28, 28, generator=random)
    return interpolate(coarse, size, mode="bicubic", antialias=True)[0, 0].clamp(0, 1)


def right(first, second, rows, where):
    """Share of the matches that lead from a pixel to `where` it went, within two pixels."""
    moved = where(first.pixels[rows[:, 0]])
    return float(((moved - second.pixels[rows[:, 1]]).norm(dim=1) < 2).float().mean())


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_corners_of_a_turned_picture_are_found_again(turns):
    picture = paper()
    first, second = find_features(picture), find_features(picture.rot90(turns, (0, 1)))
    rows = match(first, second)
    places = [
        lambda p: p,
        lambda p: torch.stack([p[:, 1], 220 - p[:, 0]], 1),
        lambda p: 220 - p,
        lambda p: torch.stack([220 - p[:, 1], p[:, 0]], 1),
    ]
    assert len(rows) > 60 and right(first, second, rows, places[turns]) > 0.95


def test_corners_of_a_larger_and_darker_picture_are_found_again():
    picture = paper()
    larger = interpolate(picture[None, None], 330, mode="bilinear", antialias=True)[0, 0]
    first, second = find_features(picture), find_features(0.1 + 0.4 * larger)
    rows = match(first, second)
    assert len(rows) > 40 and right(first, second, rows, lambda p: 1.5 * p) > 0.85


def test_different_pictures_hardly_match():
    first, second = find_features(paper(1)), find_features(paper(2))
    assert len(match(first, second)) < 0.16 * len(first.pixels)


def test_a_plain_picture_has_no_corners_and_a_tiny_one_neither():
    assert len(find_features(torch.full((100, 100), 0.5)).pixels) == 0
    assert len(find_features(paper()[:12, :12]).pixels) == 0
    none = Features(torch.zeros(0, 2), torch.zeros(0, 128))
    assert match(none, find_features(paper())).shape == (0, 2)


def test_a_corner_lies_where_it_is():
    picture = torch.zeros(100, 120)
    picture[40:70, 30:80] = 1
    found = find_features(picture).pixels
    for corner in ([30.0, 40.0], [80.0, 40.0], [30.0, 70.0], [80.0, 70.0]):
        assert (found - torch.tensor(corner)).norm(dim=1).min() < 3
