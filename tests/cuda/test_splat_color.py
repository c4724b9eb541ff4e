"""Colours by spherical harmonics: against plain torch, and cut at 0."""

import pytest
import torch

from polyfield.cuda.errors import InputError
from polyfield.cuda.splat_color import splat_color, splat_color_reference

pytestmark = pytest.mark.kernels


def crowd(n=90, held=16, seed=0):
    random = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    index = torch.randperm(n, generator=random)[: n - 20]
    return normal(n, 3), 0.6 * normal(n, held, 3), normal(3), index


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_colours_and_gradients_are_those_of_the_specification(device, degree):
    *numbers, index = crowd()
    leaves = [t.requires_grad_() for t in numbers]
    expected = splat_color_reference(*leaves, index, degree)
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).double()
    expected_grads = torch.autograd.grad((weight * expected).sum(), leaves, allow_unused=True)
    own = [t.detach().float().to(device).requires_grad_() for t in leaves]
    found = splat_color(*own, index.to(device), degree)
    grads = torch.autograd.grad((weight.to(found) * found).sum(), own)
    assert degree == 0 or 0.02 < (expected == 0).double().mean() < 0.5
    torch.testing.assert_close(found.cpu().double(), expected, rtol=1e-5, atol=1e-5)
    for got, want in zip(grads, expected_grads, strict=True):
        if degree or want is not None:
            bound = 1e-5 * float(want.abs().max()) + 1e-12
            torch.testing.assert_close(got.cpu().double(), want, rtol=1e-4, atol=bound)


def test_gradients_of_the_specification_are_finite_differences():
    means, harmonics, eye, index = crowd(8)
    leaves = [t.requires_grad_() for t in (means, 0.1 * harmonics, eye)]
    assert torch.autograd.gradcheck(
        lambda *numbers: splat_color_reference(*numbers, index, 3), leaves
    )


def test_without_degrees_a_colour_is_the_same_from_everywhere(device):
    means, harmonics, eye, index = (t.to(device) for t in crowd())
    color = torch.tensor([0.2, 0.5, 0.9], device=device)
    harmonics[:, 0] = (color - 0.5) / 0.28209479177387814
    found = splat_color(means.float(), harmonics.float(), eye.float(), index, 0)
    torch.testing.assert_close(found, color.expand(len(index), 3))


@pytest.mark.parametrize(("held", "degree"), [(5, None), (4, 2), (16, 4), (16, -1)])
def test_functions_that_are_not_there_are_refused(held, degree):
    means, _, eye, index = crowd()
    with pytest.raises(InputError, match="splat_color"):
        splat_color(means, torch.zeros(90, held, 3).double(), eye, index, degree)
