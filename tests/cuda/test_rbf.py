import math

import pytest
import torch

from polyfield.cuda.errors import InputError
from polyfield.cuda.rbf import (
    FAMILIES,
    factor_numbers,
    phi_of,
    rbf_blend,
    rbf_blend_reference,
    rbf_weights,
    rbf_weights_reference,
    scatter_rbf,
)

pytestmark = pytest.mark.kernels

FORMS = [(d, form) for d in (2, 3) for form in ("s", "d", "a")]
COUNT, POINTS, K = 40, 150, 4


def setting(dimensions, form, seed=0):
    """Points, centres, factors and neighbours, of which some are missing."""
    random = torch.Generator().manual_seed(seed)
    x = torch.rand(POINTS, dimensions, generator=random)
    centers = torch.rand(COUNT, dimensions, generator=random)
    numbers = factor_numbers(dimensions)[form]
    factors = 0.3 + torch.rand(COUNT, numbers, generator=random)
    index = torch.randint(-1, COUNT, (POINTS, K), generator=random, dtype=torch.int32)
    return x, centers, factors, index


def blending(seed=0):
    random = torch.Generator().manual_seed(seed)
    weights = torch.rand(POINTS, K, generator=random)
    index = torch.randint(-1, COUNT, (POINTS, K), generator=random, dtype=torch.int32)
    features = torch.randn(3, COUNT, 8, generator=random)
    frequencies = 2 ** (12 * torch.rand(3, 8, generator=random))
    frequencies[0, :3] = 0
    return weights, index, features, frequencies


def moved(tensors, device, dtype=None):
    return [t.to(device, dtype if t.is_floating_point() else None) for t in tensors]


def close(got, expected, scale=1.0):
    torch.testing.assert_close(got.cpu().double(), expected.double(), atol=2e-6 * scale, rtol=2e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("normalize, dimensions, form", [(True, 2, "a"), (False, 3, "d")])
def test_kernel_equals_reference_in_every_family(device, family, normalize, dimensions, form):
    compare_weights(device, family, normalize, dimensions, form)


@pytest.mark.parametrize("family", ["ivq", "nlin"])
@pytest.mark.parametrize("dimensions, form", FORMS)
def test_kernel_equals_reference_in_every_form(device, family, dimensions, form):
    compare_weights(device, family, True, dimensions, form)


def compare_weights(device, family, normalize, dimensions, form):
    values = setting(dimensions, form)
    grad = torch.randn(POINTS, K, generator=torch.Generator().manual_seed(9))
    wide = [v.double().requires_grad_() if v.is_floating_point() else v for v in values]
    expected = rbf_weights_reference(*wide, family, normalize)
    expected.backward(grad.double())
    own = [v.requires_grad_() if v.is_floating_point() else v for v in moved(values, device)]
    got = rbf_weights(*own, family, normalize)
    got.backward(grad.to(device))
    close(got, expected, scale=float(expected.abs().max()) + 1)
    for one, other in zip(own[:3], wide[:3], strict=True):
        close(one.grad, other.grad, scale=20 * float(other.grad.abs().max()) + 1)


@pytest.mark.parametrize("family", ["ivq", "ivmq", "gauss", "markov", "nlin"])
@pytest.mark.parametrize("dimensions, form", FORMS)
def test_reference_gradients_match_finite_differences_through_the_sum(family, dimensions, form):
    """The published code takes the sum for a constant, and its slopes are wrong by a fifth."""
    x, centers, factors, index = setting(dimensions, form)
    inputs = [t.double().requires_grad_() for t in (x[:6], centers, factors)]

    def weigh_all(x, centers, factors):
        return rbf_weights_reference(x, centers, factors, index[:6], family)

    assert torch.autograd.gradcheck(weigh_all, inputs)


def weigh(offset, factor, family, normalize=False, device="cpu"):
    x = torch.tensor([offset], device=device)
    index = torch.zeros(1, 1, dtype=torch.int32, device=device)
    factors = torch.tensor([factor], device=device)
    return float(rbf_weights(x, torch.zeros_like(x), factors, index, family, normalize))


def test_families_at_known_distances(device):
    for family in ("ivq", "ivmq", "gauss", "sgauss2", "nsgauss2", "markov", "nlin", "expsin"):
        assert weigh([0.0, 0.0], [2.0], family, device=device) == 1
    assert weigh([0.3, 0.4], [2.0], "ivq", device=device) == pytest.approx(0.5)
    assert weigh([0.3, 0.4], [3**0.5 * 2], "ivmq", device=device) == pytest.approx(0.5)
    assert weigh([0.3, 0.4], [2.0], "gauss", device=device) == pytest.approx(math.exp(-0.5))
    assert weigh([0.3, 0.4], [2.0], "markov", device=device) == pytest.approx(math.exp(-1))
    assert weigh([0.3, 0.4], [2.0], "phs3", device=device) == pytest.approx(1)
    assert weigh([0.3, 0.4], [1.0], "nlin", device=device) == pytest.approx(0.7 * 0.6)
    assert weigh([0.3, 1.4], [1.0], "nlin", device=device) == 0
    assert weigh([0.3, 0.4], [1.0, 2.0], "nlin", device=device) == pytest.approx(0.7 * 0.2)


def test_a_turned_kernel_is_the_kernel_at_turned_points(device):
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))[0]
    shape = turn @ torch.diag(torch.tensor([1.0, 9.0, 25.0])) @ turn.T
    lower = torch.linalg.cholesky(shape)
    packed = [float(lower[i, j]) for i in range(3) for j in range(i + 1)]
    off = torch.tensor([0.2, -0.3, 0.1])
    plain = weigh((turn.T @ off).tolist(), [1.0, 3.0, 5.0], "ivq", device=device)
    assert weigh(off.tolist(), packed, "ivq", device=device) == pytest.approx(plain, rel=1e-5)


def test_tents_on_a_lattice_are_linear_interpolation(device):
    ticks = torch.arange(5.0)
    centers = torch.cartesian_prod(ticks, ticks).to(device)
    x = (4 * torch.rand(80, 2, generator=torch.Generator().manual_seed(0))).to(device)
    node = x.floor().clamp(max=3).int()
    corners = [(node[:, 0] + a) * 5 + node[:, 1] + b for a in (0, 1) for b in (0, 1)]
    weights = rbf_weights(
        x, centers, torch.ones(25, 1, device=device), torch.stack(corners, 1), "nlin"
    )
    past = (x - node).cpu()
    expected = [
        (past[:, 0] if a else 1 - past[:, 0]) * (past[:, 1] if b else 1 - past[:, 1])
        for a in (0, 1)
        for b in (0, 1)
    ]
    torch.testing.assert_close(weights.cpu(), torch.stack(expected, 1), atol=1e-6, rtol=0)


def test_parts_of_the_sum_add_up_to_one_and_no_kernel_to_none(device):
    x, centers, factors, index = moved(setting(3, "a"), device)
    index[:5] = -1
    weights = rbf_weights(x, centers, factors, index, "gauss")
    assert not weights[index == -1].any() and not weights[:5].any()
    torch.testing.assert_close(weights[5:].sum(1).cpu(), torch.ones(POINTS - 5))


def test_blend_equals_reference_in_values_and_gradients(device):
    values = blending()
    grad = torch.randn(POINTS, 24, generator=torch.Generator().manual_seed(9))
    weights, index, features, frequencies = moved(values, "cpu", torch.float64)
    leaves = weights.requires_grad_(), features.requires_grad_()
    expected = rbf_blend_reference(weights, index, features, frequencies)
    expected.backward(grad.double())
    own_weights, index, own_features, frequencies = moved(values, device)
    own = own_weights.requires_grad_(), own_features.requires_grad_()
    got = rbf_blend(own_weights, index, own_features, frequencies)
    got.backward(grad.to(device))
    # An argument of 4,096 radians is rounded to 2.4e-4.
    close(got, expected, scale=500)
    close(own[1].grad, leaves[1].grad, scale=1000)
    close(own[0].grad, leaves[0].grad, scale=float(leaves[0].grad.abs().max()) * 150)


def test_sines_are_those_of_their_arguments_up_to_thousands_of_radians(device):
    frequencies = torch.tensor([[1.0, 2.0, 8.0, 64.0, 512.0, 1024.0, 4096.0, 0.0]], device=device)
    weights = torch.arange(0, 1, 1 / 1024, device=device)[:, None]  # exact products
    index = torch.zeros(1024, 1, dtype=torch.int32, device=device)
    got = rbf_blend(weights, index, torch.ones(1, 1, 8, device=device), frequencies).cpu()
    exact = (weights.double() * frequencies.double()).cpu()
    expected = torch.where(frequencies.cpu() > 0, exact.sin(), weights.cpu().double())
    assert (got - expected).abs().max() < 1e-6


def test_equal_weights_give_equal_channels_of_equal_frequency(device):
    weights, index, features, _ = moved(blending(), device)
    features = features[:1, :, :1].expand(1, COUNT, 8).contiguous()
    out = rbf_blend(weights, index, features, torch.full((1, 8), 7.0, device=device))
    torch.testing.assert_close(out, out[:, :1].expand(-1, 8))


def test_kernels_in_another_order_blend_alike(device):
    weights, index, features, frequencies = moved(blending(), device)
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(0)).to(device)
    back = torch.argsort(order)
    other = torch.where(index >= 0, back[index.long().clamp_min(0)].int(), index)
    found = rbf_blend(weights, other, features[:, order].contiguous(), frequencies)
    assert torch.equal(found, rbf_blend(weights, index, features, frequencies))


def test_what_is_scattered_is_added(device):
    weights, index, features, frequencies = moved(blending(), device)
    grad = torch.randn(POINTS, 24, generator=torch.Generator().manual_seed(3)).to(device)
    leaf = features.clone().requires_grad_()
    (rbf_blend(weights, index, leaf, frequencies) * grad).sum().backward()
    out = torch.ones_like(features)
    scatter_rbf(weights, index, frequencies, grad, out)
    torch.testing.assert_close(out, 1 + leaf.grad, atol=1e-5, rtol=1e-5)


def test_gradients_repeat_bitwise_for_any_number_of_threads(monkeypatch):
    monkeypatch.setenv("POLYFIELD_BACKEND", "")
    values = setting(3, "a"), blending()
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            x, centers, factors, index = (v.clone() for v in values[0])
            features, frequencies = values[1][2].clone().requires_grad_(), values[1][3]
            leaves = [t.requires_grad_() for t in (x, centers, factors)] + [features]
            weights = rbf_weights(x, centers, factors, index, "ivq")
            rbf_blend(weights, index, features, frequencies).square().sum().backward()
            found.append([leaf.grad for leaf in leaves])
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_no_points_weigh_nothing(device):
    x, centers, factors, index = moved(setting(2, "d"), device)
    weights = rbf_weights(x[:0], centers.requires_grad_(), factors, index[:0], "ivq")
    _, _, features, frequencies = moved(blending(), device)
    out = rbf_blend(weights, index[:0], features.requires_grad_(), frequencies)
    out.sum().backward()
    assert out.shape == (0, 24) and not features.grad.any() and not centers.grad.any()


def test_other_dimensions_run_on_the_reference():
    x, centers = torch.rand(5, 4), torch.rand(6, 4)
    index = torch.arange(5, dtype=torch.int32)[:, None]
    found = rbf_weights(x, centers, torch.ones(6, 1), index, "ivq", False)
    expected = phi_of("ivq", (x - centers[:5]).square().sum(1))
    torch.testing.assert_close(found[:, 0], expected)


def test_shapes_that_no_kernel_has_are_refused():
    x, centers, _, index = setting(3, "s")
    with pytest.raises(InputError, match=r"factors of kernels: 5 numbers; expected \[1, 3, 6\]"):
        rbf_weights(x, centers, torch.ones(COUNT, 5), index, "ivq")


def test_registration_is_sound():
    x, centers, factors, index = setting(2, "a")
    ops, grad = torch.ops.polyfield, torch.randn(POINTS, K)
    weights = ops.rbf_weights.default(x, centers, factors, index, 0, True)
    torch.library.opcheck(ops.rbf_weights.default, (x, centers, factors, index, 0, True))
    for of_kernels in (False, True):
        inputs = x, centers, factors, index, weights, grad, 0, True, of_kernels
        torch.library.opcheck(ops.rbf_weights_pull.default, inputs)
    weights, index, features, frequencies = blending()
    out = torch.randn(POINTS, 24)
    torch.library.opcheck(ops.rbf_blend.default, (weights, index, features, frequencies))
    torch.library.opcheck(ops.rbf_scatter.default, (weights, index, frequencies, out, COUNT))
    torch.library.opcheck(ops.rbf_pull.default, (weights, index, features, frequencies, out))
