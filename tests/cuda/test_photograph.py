"""Photographs as pictures of floats: against plain torch, on backgrounds, in squares."""

import pytest
import torch

from polyfield.cuda.errors import InputError
from polyfield.cuda.photograph import photograph, photograph_reference

pytestmark = pytest.mark.kernels

BEHIND = torch.tensor([0.2, 0.5, 0.9])


def pixels(height, width, channels, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (height, width, channels), generator=random, dtype=torch.uint8)


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("times", [1, 2, 3, 7])
@pytest.mark.parametrize("shape", [(16, 16), (37, 41), (7, 300)])
def test_it_is_what_the_specification_says(device, channels, times, shape):
    bytes_ = pixels(*shape, channels)
    color, matte = photograph(bytes_.to(device), BEHIND.to(device), times)
    expected, expected_matte = photograph_reference(bytes_, BEHIND.double(), times)
    assert color.shape == (shape[0] // times, shape[1] // times, 3)
    torch.testing.assert_close(color.cpu().double(), expected, atol=5e-7, rtol=0)
    assert (matte is None) == (channels == 3)
    if matte is not None:
        torch.testing.assert_close(matte.cpu().double(), expected_matte, atol=5e-7, rtol=0)


def test_opaque_pixels_are_their_bytes_and_clear_ones_the_background(device):
    whole = torch.tensor([[[255, 0, 51, 255], [9, 99, 200, 0]]], dtype=torch.uint8, device=device)
    color, matte = photograph(whole, BEHIND.to(device))
    expected = torch.tensor([[[1, 0, 0.2], BEHIND.tolist()]])
    torch.testing.assert_close(color.cpu(), expected, atol=1e-7, rtol=0)
    assert matte.cpu().tolist() == [[1, 0]]


def test_a_square_is_the_mean_of_its_pixels_each_on_the_background(device):
    """Colours that nobody sees must not leak in from transparent pixels."""
    fine = pixels(8, 12, 4, seed=1).to(device)
    fine[..., 3] = torch.where(fine[..., 3] > 128, 255, 0).to(torch.uint8)
    each, _ = photograph(fine, BEHIND.to(device))
    squares, _ = photograph(fine, BEHIND.to(device), 4)
    expected = each.view(2, 4, 3, 4, 3).mean((1, 3))
    torch.testing.assert_close(squares, expected, atol=1e-6, rtol=0)


def test_rows_that_are_far_apart_are_read_where_they_are(device):
    whole = pixels(20, 30, 4, seed=2).to(device)
    cut = whole[3:15, 4:24]
    color, _ = photograph(cut, BEHIND.to(device), 2)
    assert torch.equal(color, photograph(cut.contiguous(), BEHIND.to(device), 2)[0])


@pytest.mark.parametrize(("shape", "times"), [((4, 4, 2), 1), ((4, 4, 5), 1), ((3, 9, 4), 4)])
def test_what_is_no_picture_is_refused(device, shape, times):
    with pytest.raises(InputError, match="photograph"):
        photograph(pixels(*shape).to(device), BEHIND.to(device), times)
