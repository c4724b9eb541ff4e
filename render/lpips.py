"""LPIPS: how far apart two images look, by the features of a network that knows photographs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d

from polyfield.cuda.errors import InputError

# VGG16: channels of its convolutions, and the numbers that its layers have in torchvision's files.
_BLOCKS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
_WIDTHS = (64, 128, 256, 512, 512)
_STRIDE = 16  # pixels of the image to one of the coarsest features
_HALO = 112  # rows above and below that the features of a row can depend on: 98, in whole strides
# What centres and scales an image from -1 to 1, from red to blue: ImageNet's means and deviations.
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


@dataclass(frozen=True, eq=False)
class PerceptualNetwork:
    """Weights of VGG16's convolutions, and how much the difference of each of its features counts.

    Raises nothing; `perceptual_network` makes one.
    """

    kernels: tuple[tuple[Tensor, Tensor], ...]
    importance: tuple[Tensor, ...]

    @torch.no_grad()
    def distance(
        self,
        prediction: Float[Tensor, "height width 3"],
        truth: Float[Tensor, "height width 3"],
        memory_bytes: int = 1 << 29,
    ) -> float:
        """LPIPS (VGG, version 0.1) of two sRGB images in [0, 1]: 0 for equal ones.

        Made in bands of rows, whose features take about memory_bytes, one row of the coarsest at
        least; the result is that of the whole image. Raises InputError for images of two sizes, or
        of fewer than 16 pixels a side.
        Source: Zhang et al., The Unreasonable Effectiveness of Deep Features (arXiv:1801.03924).
        """
        height, width, _ = truth.shape
        if prediction.shape != truth.shape or min(height, width) < _STRIDE:
            got = f"{tuple(prediction.shape)} and {tuple(truth.shape)}"
            raise InputError("LPIPS", f"images of shapes {got}", "one shape, 16 pixels a side")
        bytes_a_row = 2 * 3 * 64 * 4 * width  # of two images, three copies of the finest features
        rows = max(1, memory_bytes // bytes_a_row - 2 * _HALO) // _STRIDE * _STRIDE or _STRIDE
        sums = [0.0] * len(_BLOCKS)
        counts = [0] * len(_BLOCKS)
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            first, last = max(0, top - _HALO), min(height, bottom + _HALO)
            both = torch.stack([image[first:last] for image in (prediction, truth)])
            for block, difference in enumerate(self._differences(both)):
                # Pooling leaves out an odd last row: the image's end has none of its own there.
                ends = [end - first if end < height else last - first for end in (top, bottom)]
                part = difference[ends[0] >> block : ends[1] >> block]
                sums[block] += float(part.sum(dtype=torch.float64))
                counts[block] += part.numel()
        return math.fsum(total / count for total, count in zip(sums, counts, strict=True))

    def _differences(self, images: Float[Tensor, "2 height width 3"]) -> list[Tensor]:
        """The weighed differences [rows, columns] of each block's features."""
        x = images.movedim(3, 1).float() * 2 - 1
        shift, scale = (x.new_tensor(values)[:, None, None] for values in (_SHIFT, _SCALE))
        x, layer, found = (x - shift) / scale, 0, []
        for block, layers in enumerate(_BLOCKS):
            x = max_pool2d(x, 2) if block else x
            for _ in layers:
                weight, bias = self.kernels[layer]
                x, layer = conv2d(x, weight, bias, padding=1).relu_(), layer + 1
            a, b = x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)
            difference = (a - b).square_()
            found.append(torch.einsum("chw,c->hw", difference, self.importance[block]))
        return found


def perceptual_network(
    vgg16: Mapping[str, Tensor], linear: Mapping[str, Tensor]
) -> PerceptualNetwork:
    """The network of torchvision's weights of VGG16 and the linear layers of LPIPS 0.1.

    Other entries are not read. Raises InputError for a tensor that is missing or of another shape.
    """
    kernels, inputs = [], 3
    for layers, outputs in zip(_BLOCKS, _WIDTHS, strict=True):
        for layer in layers:
            weight = _tensor(vgg16, f"features.{layer}.weight", (outputs, inputs, 3, 3))
            kernels.append((weight, _tensor(vgg16, f"features.{layer}.bias", (outputs,))))
            inputs = outputs
    importance = [
        _tensor(linear, f"lin{block}.model.1.weight", (1, width, 1, 1)).flatten()
        for block, width in enumerate(_WIDTHS)
    ]
    return PerceptualNetwork(tuple(kernels), tuple(importance))


def _tensor(found: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    tensor = found.get(name)
    got = "missing" if tensor is None else f"shape {tuple(tensor.shape)}"
    if tensor is None or tensor.shape != shape:
        raise InputError(f"LPIPS weights: {name}", got, f"shape {shape}")
    return tensor.float()
