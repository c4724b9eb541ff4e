import math

import pytest
import torch

from polyfield.cuda.errors import InputError
from polyfield.render.metrics import psnr_8bit, rounded_to_8bit, ssim


def image(seed, height=24, width=31, channels=3):
    return torch.rand(height, width, channels, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("steps", [1, 2, 51])
def test_psnr_of_a_constant_offset_is_the_closed_form(steps):
    truth = torch.full((4, 5, 3), 100 / 255)
    found = psnr_8bit(truth + steps / 255, truth)
    assert found == pytest.approx(20 * math.log10(255 / steps), abs=1e-6)


def test_psnr_takes_one_wrong_channel_of_one_pixel_over_all_values():
    truth = torch.zeros(2, 5, 3)
    prediction = truth.clone()
    prediction[1, 2, 0] = 1
    assert psnr_8bit(prediction, truth) == pytest.approx(10 * math.log10(30))


def test_every_row_of_a_tall_image_counts_once():
    truth = torch.zeros(300, 2, 3)
    for row in (0, 127, 128, 299):
        prediction = truth.clone()
        prediction[row] = 1
        assert psnr_8bit(prediction, truth) == pytest.approx(10 * math.log10(300))


def test_differences_that_eight_bits_do_not_show_are_no_error():
    truth = torch.full((3, 3, 3), 100 / 255)
    assert psnr_8bit(truth + 0.4 / 255, truth) == math.inf
    assert psnr_8bit(truth, truth - 0.4 / 255) == math.inf
    assert psnr_8bit(truth + 0.6 / 255, truth) == pytest.approx(20 * math.log10(255))


def test_values_beyond_the_range_are_clipped():
    black, white = torch.zeros(3, 3, 3), torch.ones(3, 3, 3)
    assert psnr_8bit(black - 7, black) == psnr_8bit(white, white + 7) == math.inf
    assert psnr_8bit(black - 7, white + 7) == pytest.approx(0)


def test_rounding_is_what_a_file_does():
    values = image(0)
    kept = (values.double() * 255 + 0.5).floor().to(torch.uint8)
    torch.testing.assert_close(rounded_to_8bit(values), kept.double() / 255)
    assert rounded_to_8bit(values).dtype == torch.float64


def one_window(x, y):
    """The definition on a single 11 x 11 window, term by term."""
    at = torch.arange(-5, 6).double()
    weight = torch.exp(-(at[:, None] ** 2 + at[None, :] ** 2) / (2 * 1.5**2))
    weight = weight / weight.sum()
    mx, my = (weight * x).sum(), (weight * y).sum()
    vx, vy = (weight * (x - mx) ** 2).sum(), (weight * (y - my) ** 2).sum()
    cov = (weight * (x - mx) * (y - my)).sum()
    top = (2 * mx * my + 0.01**2) * (2 * cov + 0.03**2)
    return (top / ((mx**2 + my**2 + 0.01**2) * (vx + vy + 0.03**2))).item()


def test_ssim_is_the_mean_of_the_definition_over_inner_windows_and_channels():
    x, y = image(1, 12, 13, 2).double(), image(2, 12, 13, 2).double()
    windows = [
        one_window(x[i : i + 11, j : j + 11, c], y[i : i + 11, j : j + 11, c])
        for i in range(2)
        for j in range(3)
        for c in range(2)
    ]
    assert ssim(x, y) == pytest.approx(sum(windows) / len(windows), abs=1e-12)


@pytest.mark.parametrize("height", [40, 138, 139, 300])  # more rows than are looked at together
def test_ssim_agrees_with_scikit_image(height):
    metrics = pytest.importorskip("skimage.metrics", reason="scikit-image is not installed")
    x = image(3, height, 33)
    y = 0.7 * x + 0.3 * image(4, height, 33)
    y[height // 2 :] += 0.1
    theirs = metrics.structural_similarity(
        x.double().numpy(),
        y.double().numpy(),
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1.0,
    )
    assert ssim(x, y) == pytest.approx(theirs, abs=1e-9)


def test_ssim_of_equal_images_is_one_and_swapping_changes_nothing():
    x, y = image(5), image(6)
    assert ssim(x, x) == pytest.approx(1, abs=1e-12)
    assert ssim(x, y) == pytest.approx(ssim(y, x), abs=1e-12)


def test_ssim_of_two_even_images_has_only_the_luminance_term():
    x, y = torch.full((20, 20, 1), 0.9), torch.full((20, 20, 1), 0.3)
    a, b = x[0, 0, 0].item(), y[0, 0, 0].item()
    expected = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
    assert ssim(x, y) == pytest.approx(expected, abs=1e-9)


def some(height, width, seed=0):
    return torch.rand(height, width, generator=torch.Generator().manual_seed(seed)) < 0.4


@pytest.mark.parametrize("height", [12, 140, 300])
def test_psnr_of_some_pixels_is_that_of_an_image_of_them_alone(height):
    x, y, kept = image(1, height, 13), image(2, height, 13), some(height, 13)
    alone = psnr_8bit(x[kept][:, None], y[kept][:, None])
    assert psnr_8bit(x, y, kept) == pytest.approx(alone, abs=1e-9)
    x[~kept] = 7.0
    assert psnr_8bit(x, y, kept) == pytest.approx(alone, abs=1e-9)
    assert psnr_8bit(x, y, torch.ones_like(kept)) == pytest.approx(psnr_8bit(x, y))


@pytest.mark.parametrize("height", [13, 150])
def test_ssim_of_some_pixels_is_the_mean_over_windows_about_them(height):
    x, y, kept = (
        image(1, height, 14, 1).double(),
        image(2, height, 14, 1).double(),
        some(height, 14),
    )
    equal = torch.where(kept[..., None], x, y)
    windows = [
        one_window(equal[i : i + 11, j : j + 11, 0], y[i : i + 11, j : j + 11, 0])
        for i in range(height - 10)
        for j in range(4)
        if kept[i + 5, j + 5]
    ]
    assert ssim(x, y, kept) == pytest.approx(sum(windows) / len(windows), abs=1e-12)
    x[~kept] = 0.5
    assert ssim(x, y, kept) == pytest.approx(sum(windows) / len(windows), abs=1e-12)
    assert ssim(x, y, torch.ones_like(kept)) == pytest.approx(ssim(x, y), abs=1e-12)


def test_where_no_pixel_counts_there_is_nothing_to_measure():
    x, kept = torch.zeros(12, 12, 3), torch.zeros(12, 12, dtype=torch.bool)
    with pytest.raises(InputError, match="kept: no pixel"):
        psnr_8bit(x, x, kept)
    kept[4] = True  # of no whole window the middle
    assert psnr_8bit(x, x, kept) == math.inf
    with pytest.raises(InputError, match="kept: no pixel 5 from the border"):
        ssim(x, x, kept)


def test_unusable_images_are_named():
    with pytest.raises(InputError, match="truth: 10 x 30 pixels"):
        ssim(torch.zeros(30, 10, 3), torch.zeros(30, 10, 3))
    with pytest.raises(InputError, match="truth"):
        psnr_8bit(torch.zeros(0, 4, 3), torch.zeros(0, 4, 3))
    spoiled = torch.zeros(12, 12, 3)
    spoiled[0, 0, 0] = math.nan
    for metric in (psnr_8bit, ssim):
        with pytest.raises(InputError, match="prediction: NaN"):
            metric(spoiled, torch.zeros(12, 12, 3))
        with pytest.raises(InputError, match="truth: NaN"):
            metric(torch.zeros(12, 12, 3), spoiled)
