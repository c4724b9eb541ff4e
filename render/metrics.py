"""How near a rendered image is to the true one: PSNR and SSIM, as papers' tables mean them."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import conv2d

from polyfield.cuda.errors import InputError

WINDOW = 11  # pixels a side, odd
SIGMA = 1.5  # pixels
BAND = 128  # rows looked at together: float64 copies of a whole photograph are many times its size
STABILISER_MEAN, STABILISER_VARIANCE = 0.01**2, 0.03**2  # K1 = 0.01, K2 = 0.03, data range 1


def rounded_to_8bit(image: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """What an 8-bit file keeps of an image: clipped to [0, 1], rounded to multiples of 1 / 255.

    In float64, so that the round trip through a file adds nothing.
    """
    return (image.double().clamp(0, 1) * 255).round() / 255


def psnr_8bit(
    prediction: Float[Tensor, "height width channels"],
    truth: Float[Tensor, "height width channels"],
    kept: Bool[Tensor, "height width"] | None = None,
) -> float:
    """Peak signal-to-noise ratio of one image in dB: -10 log10 of the mean squared error.

    Both images are clipped to [0, 1] and rounded to 8 bits first; the mean runs over pixels and
    channels. Equal images give infinity. A table's figure is the mean of this over images, never
    the PSNR of the mean error. kept: the pixels that count, all unless given. Raises InputError for
    an image without pixels, without one that counts, or with NaN.
    """
    _refuse_unusable(prediction, truth, smallest=1)
    total, count = 0.0, truth.numel() if kept is None else int(kept.sum()) * truth.shape[2]
    if not count:
        raise InputError("kept", "no pixel", "at least one")
    for top in range(0, len(truth), BAND):
        band = slice(top, top + BAND)
        square = (rounded_to_8bit(prediction[band]) - rounded_to_8bit(truth[band])).square()
        total += (square if kept is None else square[kept[band]]).sum().item()
    error = total / count
    return math.inf if error == 0 else -10 * math.log10(error)


def ssim(
    prediction: Float[Tensor, "height width channels"],
    truth: Float[Tensor, "height width channels"],
    kept: Bool[Tensor, "height width"] | None = None,
) -> float:
    """Mean structural similarity of one image, at most 1 for equal images.

    Gaussian window of 11 x 11 pixels, sigma 1.5, data range 1, biased (co)variances. No padding:
    only windows that lie wholly inside the image count, so a border of 5 pixels has no value of its
    own; the mean runs over windows and channels. Values are taken as they are: pass images through
    `rounded_to_8bit` where the figure should equal that of the written files.
    kept: the pixels that count, all unless given. The others have the truth's values in both
    images, and the mean runs over windows whose middle counts.
    Raises InputError for an image under 11 pixels a side, without such a window, or with NaN.
    Source: Wang et al., Image Quality Assessment (IEEE TIP 13(4), 2004), eq. 13.
    """
    _refuse_unusable(prediction, truth, smallest=WINDOW)
    height, width, channels = truth.shape
    rows, columns, margin = height - WINDOW + 1, width - WINDOW + 1, WINDOW // 2
    total, count = 0.0, rows * columns
    if kept is not None:
        count = int(kept[margin : margin + rows, margin : margin + columns].sum())
    if not count:
        raise InputError("kept", f"no pixel {margin} from the border", "at least one")
    for top in range(0, rows, BAND):
        part = slice(top, min(top + BAND, rows) + WINDOW - 1)
        predicted, true = prediction[part], truth[part]
        if kept is None:
            total += _likeness(predicted, true).sum().item()
            continue
        predicted = torch.where(kept[part, :, None], predicted, true)
        middles = kept[part][margin : len(true) - margin, margin : margin + columns]
        total += (_likeness(predicted, true) * middles).sum().item()
    return total / (count * channels)


def _likeness(prediction: Tensor, truth: Tensor) -> Tensor:
    """Similarity of each window that lies wholly inside."""
    # float64: a variance is the small difference of two large numbers in an even area.
    x, y = (image.double().movedim(2, 0)[:, None] for image in (prediction, truth))
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x = _blur(x * x) - mean_x * mean_x
    variance_y = _blur(y * y) - mean_y * mean_y
    covariance = _blur(x * y) - mean_x * mean_y
    likeness = (2 * mean_x * mean_y + STABILISER_MEAN) * (2 * covariance + STABILISER_VARIANCE)
    scale = (mean_x**2 + mean_y**2 + STABILISER_MEAN) * (
        variance_x + variance_y + STABILISER_VARIANCE
    )
    return likeness / scale


def _blur(images: Tensor) -> Tensor:
    offset = torch.arange(WINDOW, dtype=images.dtype, device=images.device) - WINDOW // 2
    window = torch.exp(-offset.square() / (2 * SIGMA**2))
    window = window / window.sum()
    return conv2d(conv2d(images, window.view(1, 1, 1, -1)), window.view(1, 1, -1, 1))


def _refuse_unusable(prediction: Tensor, truth: Tensor, smallest: int) -> None:
    if prediction.shape != truth.shape:
        raise InputError(
            "prediction", f"shape {tuple(prediction.shape)}", f"truth's, {tuple(truth.shape)}"
        )
    height, width, channels = truth.shape
    if min(height, width) < smallest or channels < 1:
        raise InputError(
            "truth", f"{width} x {height} pixels", f"at least {smallest} x {smallest} pixels"
        )
    for name, image in (("prediction", prediction), ("truth", truth)):
        if bool(image.isnan().any()):
            raise InputError(name, "NaN in the image", "numbers")
