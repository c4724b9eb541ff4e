"""Structural similarity: against plain torch, in closed form, and at borders."""

import pytest
import torch

from polyfield.cuda.errors import InputError
from polyfield.cuda.ssim import image_error, ssim, ssim_reference

pytestmark = pytest.mark.kernels


def images(*shape, seed=0):
    random = torch.Generator().manual_seed(seed)
    x = torch.rand(*shape, generator=random, dtype=torch.float64)
    return x, (x + 0.3 * torch.randn(*shape, generator=random, dtype=torch.float64)).clamp(0, 1)


@pytest.mark.parametrize(
    "shape", [(1, 40, 53, 3), (2, 16, 32, 1), (1, 7, 9, 3), (1, 1, 1, 1), (3, 33, 5, 2)]
)
def test_the_value_and_its_gradient_are_those_of_the_specification(device, shape):
    x, y = images(*shape)
    wanted = x.requires_grad_()
    expected = ssim_reference(wanted, y)
    (expected_grad,) = torch.autograd.grad(expected, wanted)
    own = x.detach().float().to(device).requires_grad_()
    found = ssim(own, y.float().to(device))
    (grad,) = torch.autograd.grad(found, own)
    assert found.item() == pytest.approx(expected.item(), abs=2e-5)
    bound = 2e-4 * float(expected_grad.abs().max())
    torch.testing.assert_close(grad.cpu().double(), expected_grad, rtol=1e-3, atol=bound)


def test_the_gradient_of_the_specification_is_finite_differences():
    x, y = images(1, 6, 5, 2)
    assert torch.autograd.gradcheck(lambda x: ssim_reference(x, y), x.requires_grad_())


def test_an_image_is_like_itself(device):
    x = images(1, 40, 37, 3)[0].float().to(device).requires_grad_()
    found = ssim(x, x.detach().clone())
    (grad,) = torch.autograd.grad(found, x)
    assert found.item() == pytest.approx(1, abs=1e-6) and grad.abs().max() < 1e-6


@pytest.mark.parametrize(("one", "other"), [(0.0, 1.0), (0.2, 0.6)])
def test_flat_images_are_as_alike_as_their_means(device, one, other):
    """The difference of two sizes is what flat windows add, whatever the border's say."""
    found = []
    for side in (48, 64):
        x, y = (torch.full((1, side, 64, 1), value, device=device) for value in (one, other))
        found.append(ssim(x, y).item() * side * 64)
    narrow = []
    for side in (48, 64):
        x, y = (torch.full((1, side, 32, 1), value, device=device) for value in (one, other))
        narrow.append(ssim(x, y).item() * side * 32)
    flat = (found[1] - found[0]) - (narrow[1] - narrow[0])
    expected = (2 * one * other + 1e-4) / (one**2 + other**2 + 1e-4)
    assert flat / (16 * 32) == pytest.approx(expected, abs=1e-4)


def test_images_without_a_pixel_are_refused():
    with pytest.raises(InputError, match="not empty"):
        ssim(torch.zeros(1, 0, 4, 3), torch.zeros(1, 0, 4, 3))


@pytest.mark.parametrize("structure", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("shape", [(1, 40, 53, 3), (2, 17, 9, 2), (1, 16, 16, 1)])
def test_the_error_of_an_image_is_what_structure_and_numbers_lack(device, shape, structure):
    x, y = images(*shape, seed=3)
    wanted = x.requires_grad_()
    expected = structure * (1 - ssim_reference(wanted, y))
    expected = expected + (1 - structure) * (wanted - y).abs().mean()
    (expected_grad,) = torch.autograd.grad(expected, wanted)
    own = x.detach().float().to(device).requires_grad_()
    found = image_error(own, y.float().to(device), structure)
    (grad,) = torch.autograd.grad(3 * found, own)
    assert found.item() == pytest.approx(expected.item(), abs=2e-5)
    bound = 2e-4 * float(expected_grad.abs().max())
    torch.testing.assert_close(grad.cpu().double() / 3, expected_grad, rtol=1e-3, atol=bound)


def test_numbers_that_are_the_same_pull_neither_way(device):
    y = images(1, 20, 20, 1, seed=4)[1].float().to(device)
    x = y.clone().requires_grad_()
    with torch.no_grad():
        x[0, 3, 4] += 0.5
    (grad,) = torch.autograd.grad(image_error(x, y, 0.0), x)
    assert grad[0, 3, 4].item() == pytest.approx(1 / 400) and (grad != 0).sum() == 1


def test_images_without_a_pixel_have_no_error():
    with pytest.raises(InputError, match="image_error"):
        image_error(torch.zeros(1, 0, 4, 3), torch.zeros(1, 0, 4, 3))
