import math

import pytest
import torch

from polyfield.cuda.errors import InputError
from polyfield.cuda.spherical_harmonics import (
    spherical_harmonics,
    spherical_harmonics_reference,
)

pytestmark = pytest.mark.kernels


def unit_directions(n, seed=0, dtype=torch.float32):
    random = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(n, 3, generator=random, dtype=dtype), dim=1)


def test_published_values_of_sixteen_harmonics():
    direction = torch.tensor([[0.48, 0.6, 0.64]], dtype=torch.float64)
    expected = """.282095 -.293162 .312706 -.234529 .314654 -.419539 .072162 -.335631 -.070797
    -.117253 .532798 -.287390 -.227369 -.229912 -.119879 .240624"""
    expected = torch.tensor([[float(v) for v in expected.split()]], dtype=torch.float64)
    got = spherical_harmonics_reference(direction, 3)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


def test_harmonics_are_orthonormal_over_the_sphere():
    # Gauss-Legendre in z times equal angles integrates products of two bands of degree 7 exactly.
    k = torch.arange(1, 16).double()
    beside = k / torch.sqrt(4 * k * k - 1)
    nodes, vectors = torch.linalg.eigh(torch.diag(beside, 1) + torch.diag(beside, -1))
    weights = 2 * vectors[0].square()
    angle = torch.arange(32).double() * math.tau / 32
    z, phi = nodes.repeat_interleave(32), angle.repeat(16)
    around = torch.sqrt(1 - z * z)
    directions = torch.stack([around * torch.cos(phi), around * torch.sin(phi), z], 1)
    values = spherical_harmonics_reference(directions, 7)
    gram = values.T @ (values * (weights.repeat_interleave(32) * math.tau / 32)[:, None])
    torch.testing.assert_close(gram, torch.eye(64).double(), atol=1e-9, rtol=0)


@pytest.mark.parametrize("degree", [0, 1, 3, 7])
@pytest.mark.parametrize("n", [1, 64, 131])
def test_kernel_equals_reference_in_values_and_gradient(device, degree, n):
    directions = unit_directions(n)
    weights = torch.randn(n, (degree + 1) ** 2, generator=torch.Generator().manual_seed(1))
    expected_input = directions.double().requires_grad_()
    expected = spherical_harmonics_reference(expected_input, degree)
    if degree:
        (expected * weights).sum().backward()
    got_input = directions.to(device).requires_grad_()
    got = spherical_harmonics(got_input, degree)
    (got * weights.to(device)).sum().backward()
    torch.testing.assert_close(got.cpu().double(), expected, atol=2e-6, rtol=1e-5)
    slope = torch.zeros(n, 3).double() if degree == 0 else expected_input.grad
    torch.testing.assert_close(got_input.grad.cpu().double(), slope, atol=1e-4, rtol=1e-4)


def test_reference_gradient_matches_finite_differences():
    directions = unit_directions(5, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda d: spherical_harmonics_reference(d, 4), directions)


def test_no_directions_give_no_values(device):
    assert spherical_harmonics(torch.zeros(0, 3, device=device), 2).shape == (0, 9)


def test_a_transposed_view_is_read_in_its_own_order(device):
    directions = unit_directions(40)
    turned = directions.T.contiguous().T.to(device)
    expected = spherical_harmonics(directions.to(device), 3)
    assert torch.equal(spherical_harmonics(turned, 3), expected)


@pytest.mark.parametrize("degree", [-1, 8])
def test_other_degrees_are_refused_by_value(degree):
    with pytest.raises(InputError, match=f"degree: {degree}; expected 0 to 7"):
        spherical_harmonics(torch.zeros(1, 3), degree)


def test_registration_is_sound():
    directions = unit_directions(6)
    for degree in (2, 3):
        torch.library.opcheck(torch.ops.polyfield.spherical_harmonics.default, (directions, degree))
