import pytest
import torch
from torch import Generator

from polyfield.apps.pixel_values import file_values, learned_values, shown_values

PIXELS = torch.rand(5, 7, 3, generator=Generator().manual_seed(0))


@pytest.mark.parametrize(("values", "pixels"), [("srgb", PIXELS), ("linear", 50 * PIXELS)])
def test_what_is_learned_comes_back(values, pixels):
    torch.testing.assert_close(file_values(learned_values(pixels, values), values), pixels)


def test_light_is_learned_as_the_logarithm_of_one_more_and_never_below_none():
    light = torch.tensor([-1.0, 0.0, 1.0, 30.0])
    torch.testing.assert_close(learned_values(light, "linear"), light.clamp_min(0).log1p())
    assert (file_values(torch.tensor([-3.0, -0.1]), "linear") == 0).all()


def test_files_of_8_bits_hold_nothing_beyond_their_range():
    assert file_values(torch.tensor([-0.5, 0.25, 1.5]), "srgb").tolist() == [0, 0.25, 1]


def test_a_viewer_shows_light_by_the_curve_of_srgb_and_cuts_what_is_brighter():
    shown = shown_values(torch.tensor([0.0, 0.2140, 1.0, 9.0]), "linear")
    torch.testing.assert_close(shown, torch.tensor([0.0, 0.5, 1.0, 1.0]), atol=1e-3, rtol=0)
    assert torch.equal(shown_values(PIXELS, "srgb"), PIXELS)
