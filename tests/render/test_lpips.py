"""LPIPS with random weights: against its definition, layer by layer, and in bands."""

import pytest
import torch

from polyfield.cuda.errors import InputError
from polyfield.render.lpips import perceptual_network

WIDTHS = [64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512]


@pytest.fixture(scope="module")
def weights():
    """Those of VGG16 as torchvision names them, 0 among WIDTHS a pooling, and linear layers."""
    random = torch.Generator().manual_seed(0)
    vgg, linear, number, inputs = {}, {}, 0, 3
    for width in WIDTHS:
        if width:
            scale = (2 / (9 * inputs)) ** 0.5
            kernel = scale * torch.randn(width, inputs, 3, 3, generator=random)
            vgg[f"features.{number}.weight"] = kernel
            vgg[f"features.{number}.bias"] = 0.1 * torch.randn(width, generator=random)
            inputs = width
        number += 2 if width else 1
    for block, width in enumerate((64, 128, 256, 512, 512)):
        linear[f"lin{block}.model.1.weight"] = torch.rand(1, width, 1, 1, generator=random)
    return vgg, linear


def pair(height, width):
    random = torch.Generator().manual_seed(1)
    a = torch.rand(height, width, 3, generator=random)
    return a, (a + 0.2 * torch.rand(height, width, 3, generator=random)).clamp(0, 1)


def definition(weights, a, b):
    vgg, linear = weights
    mean, deviation = (torch.tensor(v) for v in ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)))
    x = torch.stack([((2 * image - 1 - mean) / deviation).permute(2, 0, 1) for image in (a, b)])
    number, total, block = 0, 0.0, 0
    for width, following in zip(WIDTHS, [*WIDTHS[1:], 0], strict=True):
        if not width:
            x, number = torch.nn.functional.max_pool2d(x, 2, 2), number + 1
            continue
        kernel, bias = (vgg[f"features.{number}.{part}"] for part in ("weight", "bias"))
        x, number = torch.relu(torch.nn.functional.conv2d(x, kernel, bias, padding=1)), number + 2
        if not following:
            unit = x / x.norm(dim=1, keepdim=True)
            weight = linear[f"lin{block}.model.1.weight"][0]
            total += float(((unit[0] - unit[1]) ** 2 * weight).sum(0).mean())
            block += 1
    return total


@pytest.mark.parametrize("height, width", [(32, 32), (75, 53), (301, 17)])
def test_the_distance_is_its_definition_in_bands_too(weights, height, width):
    network, (a, b) = perceptual_network(*weights), pair(height, width)
    expected = definition(weights, a, b)
    assert network.distance(a, b) == pytest.approx(expected, rel=1e-4)
    assert network.distance(a, b, memory_bytes=1) == pytest.approx(expected, rel=1e-4)
    assert expected > 0.01


def test_equal_images_are_no_distance_apart(weights):
    a, _ = pair(20, 20)
    assert perceptual_network(*weights).distance(a, a) == 0


def test_images_that_cannot_be_compared_are_refused(weights):
    with pytest.raises(InputError, match="LPIPS: images of shapes"):
        perceptual_network(*weights).distance(*pair(15, 20))


def test_weights_of_something_else_are_refused(weights):
    vgg, linear = weights
    with pytest.raises(InputError, match="lin4.model.1.weight: missing"):
        perceptual_network(vgg, {k: v for k, v in linear.items() if "lin4" not in k})
    with pytest.raises(InputError, match=r"features.0.bias: shape \(3,\); expected shape \(64,\)"):
        perceptual_network(vgg | {"features.0.bias": torch.zeros(3)}, linear)
