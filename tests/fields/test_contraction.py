import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyfield.cuda.errors import InputError
from polyfield.fields.contraction import Contraction, contract, expand


def points(n=2000, seed=0, dtype=torch.float64):
    random = torch.Generator().manual_seed(seed)
    far = 10 ** (4 * torch.rand(n, 1, generator=random, dtype=dtype) - 3)
    return 0.5 + far * (2 * torch.rand(n, 3, generator=random, dtype=dtype) - 1)


@pytest.mark.parametrize("levels", [1, 2, 4, 7])
def test_the_middle_cube_fills_half_the_side_unbent(levels):
    random = torch.Generator().manual_seed(1)
    inside = torch.rand(100, 3, generator=random, dtype=torch.float64) - 0.5
    x = 0.5 + inside * 2.0 ** (1 - levels)
    torch.testing.assert_close(contract(x, levels), 0.5 + inside / 2)


def test_everything_lands_within_the_unit_cube_on_its_own_ray():
    x = points()
    y = contract(x, 4)
    assert (y > 0).all() and (y < 1).all()
    way, bent = x - 0.5, y - 0.5
    torch.testing.assert_close(
        torch.linalg.cross(way, bent), torch.zeros_like(way), atol=1e-9, rtol=0
    )
    assert ((way * bent).sum(1) > 0).all()


def test_closed_form_outside_of_the_middle():
    # 3 half sides out along x and 1.5 along y: m = 3, (2 - 1/3) / 3 of each.
    x = 0.5 + torch.tensor([[3.0, 1.5, 0.0]], dtype=torch.float64) / 2**4
    expected = torch.tensor([[5 / 3, 5 / 6, 0.0]], dtype=torch.float64) / 4 + 0.5
    torch.testing.assert_close(contract(x, 4), expected)


@pytest.mark.parametrize("levels", [1, 4])
def test_expanding_undoes_it(levels):
    x = points()
    torch.testing.assert_close(expand(contract(x, levels), levels), x, rtol=1e-6, atol=1e-9)


def test_nothing_far_is_lost_in_single_precision():
    x = 0.5 + torch.tensor([[1e6, -2e5, 3.0]])
    y = contract(x, 1)
    assert (y.abs() <= 1).all() and y[0, 0] < 1.0 + 1e-6
    assert torch.isfinite(contract(torch.full((1, 3), 1e36), 4)).all()


@settings(max_examples=30, deadline=None)
@given(levels=st.integers(1, 6), seed=st.integers(0, 99))
def test_order_along_a_ray_from_the_middle_is_kept(levels, seed):
    random = torch.Generator().manual_seed(seed)
    way = torch.nn.functional.normalize(
        torch.randn(3, generator=random, dtype=torch.float64), dim=0
    )
    t = torch.logspace(-3, 3, 200, dtype=torch.float64)[:, None]
    out = (contract(0.5 + t * way / way.norm(), levels) - 0.5).norm(dim=1)
    assert (out.diff() > 0).all()


def test_derivatives_are_those_of_finite_differences():
    x = points(50, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: contract(p, 3), (x,))


def test_a_field_takes_it_as_a_module_without_parameters():
    x = points(64, 4, torch.float32)
    contraction = Contraction(3)
    torch.testing.assert_close(contraction(x), contract(x, 3), rtol=0, atol=0)
    assert not contraction.state_dict()


@pytest.mark.parametrize("levels", [0, 17, 1 << 19])
def test_levels_out_of_range_are_refused(levels):
    with pytest.raises(InputError, match="contraction: .*1 to 16"):
        Contraction(levels)
