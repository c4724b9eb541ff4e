import inspect
import math

import jaxtyping
import pytest
import torch

from polyfield.cuda.errors import InputError
from polyfield.cuda.mlp import initial_weights, mlp, mlp_reference, parameter_count

pytestmark = pytest.mark.kernels

WIDTHS = [(32, 64, 16), (32, 64, 64, 3), (5, 16, 1), (31, 128, 128, 128, 7), (150, 5), (5, 150)]
ACTIVATIONS = ["none", "relu", "silu", "softplus"]
OUTPUTS = ["none", "sigmoid", "truncated_exp"]


def inputs(n, widths, seed=0):
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(n, widths[0], generator=random)
    return x, initial_weights(widths, random), torch.randn(n, widths[-1], generator=random)


def values_and_gradients(function, x, weights, cotangent, *rest):
    x, weights = x.clone().requires_grad_(), weights.clone().requires_grad_()
    out = function(x, weights, *rest)
    out.backward(cotangent)
    return out.detach(), x.grad, weights.grad


def assert_equals_reference(device, n, widths, activation, output, scale=1.0):
    x, weights, cotangent = inputs(n, widths)
    x = scale * x
    rest = widths, activation, output
    arguments = x, weights, cotangent
    expected = values_and_gradients(mlp_reference, *(t.double() for t in arguments), *rest)
    got = values_and_gradients(mlp, *(t.to(device) for t in arguments), *rest)
    for g, e, name in zip(got, expected, ["values", "gradient of x", "of weights"], strict=True):
        size = max(1.0, e.abs().max().item()) if e.numel() else 1.0
        difference = (g.cpu().double() - e).abs().max().item() if e.numel() else 0.0
        assert g.shape == e.shape and difference < 3e-6 * size, f"{name}: off by {difference}"


@pytest.mark.parametrize("widths", WIDTHS, ids=str)
@pytest.mark.parametrize("n", [0, 1, 63, 131])
def test_values_and_gradients_equal_the_reference(device, n, widths):
    assert_equals_reference(device, n, widths, "relu", "none")


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("output", OUTPUTS)
def test_every_pair_of_activations_equals_the_reference(device, activation, output):
    assert_equals_reference(device, 70, (5, 48, 16, 3), activation, output)


@pytest.mark.parametrize("activation", ["silu", "softplus"])
def test_activations_far_from_zero_equal_the_reference(device, activation):
    assert_equals_reference(device, 70, (4, 32, 2), activation, "sigmoid", scale=40)


def test_more_points_than_one_tile_a_slice(device):
    assert_equals_reference(device, 16 * 64 + 65, (3, 16, 2), "relu", "none")


def test_six_matrices_are_the_most(device):
    assert_equals_reference(device, 33, (2, 16, 32, 80, 48, 16, 5), "silu", "none")
    with pytest.raises(InputError, match="2 to 7 widths"):
        mlp(torch.zeros(1, 2), torch.zeros(1), (2, 16, 16, 16, 16, 16, 16, 5))


def test_weights_are_matrices_of_out_times_in(device):
    matrix = torch.arange(6.0).reshape(2, 3)
    got = mlp(torch.eye(3, device=device), matrix.flatten().to(device), (3, 2))
    assert torch.equal(got.cpu(), matrix.T)


def test_truncated_exp_keeps_the_value_and_clamps_the_gradient(device):
    z = torch.tensor([[-20.0], [-14.0], [1.0], [14.0], [20.0]])
    one = torch.ones(1, device=device)
    x = z.to(device).requires_grad_()
    out = mlp(x, one, (1, 1), "none", "truncated_exp")
    out.sum().backward()
    torch.testing.assert_close(out.detach().cpu(), torch.exp(z), rtol=1e-5, atol=0)
    slope = torch.exp(z.clamp(-15, 15))
    torch.testing.assert_close(x.grad.cpu(), slope, rtol=1e-5, atol=0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_not_a_number_is_passed_on(device, activation):
    widths = (2, 16, 1)
    x = torch.tensor([[0.5, math.nan], [0.5, 0.5]], device=device)
    out = mlp(x, initial_weights(widths).to(device), widths, activation)
    assert out.isnan().flatten().tolist() == [True, False]


def test_values_are_the_same_with_and_without_gradients(device):
    x, weights, _ = (t.to(device) for t in inputs(100, (8, 32, 32, 4)))
    without = mlp(x, weights, (8, 32, 32, 4))
    assert torch.equal(mlp(x, weights.requires_grad_(), (8, 32, 32, 4)).detach(), without)


def test_the_number_of_threads_changes_no_bit():
    widths, before = (32, 64, 64, 3), torch.get_num_threads()
    arguments = *inputs(3001, widths), widths, "relu", "sigmoid"
    try:
        torch.set_num_threads(1)
        one = values_and_gradients(mlp, *arguments)
        torch.set_num_threads(2)
        two = values_and_gradients(mlp, *arguments)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_weights_alone_may_want_a_gradient(device):
    x, weights, cotangent = (t.to(device) for t in inputs(40, (6, 16, 2)))
    expected = values_and_gradients(mlp, x, weights, cotangent, (6, 16, 2))[2]
    weights.requires_grad_()
    mlp(x, weights, (6, 16, 2)).backward(cotangent)
    assert torch.equal(weights.grad, expected) and x.grad is None


def test_views_are_read_in_their_own_order(device):
    widths = (6, 16, 2)
    x, weights, cotangent = (t.to(device) for t in inputs(40, widths))
    turned = x.T.contiguous().T, torch.stack([weights, weights], 1)[:, 0], cotangent.T.clone().T
    got = values_and_gradients(mlp, *turned, widths)
    expected = values_and_gradients(mlp, x, weights, cotangent, widths)
    assert torch.equal(got[0], expected[0]) and torch.equal(got[2], expected[2])


def test_double_precision_is_the_reference():
    x, weights, _ = (t.double() for t in inputs(5, (3, 16, 2)))
    assert torch.equal(mlp(x, weights, (3, 16, 2)), mlp_reference(x, weights, (3, 16, 2)))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("output", OUTPUTS)
def test_reference_gradient_matches_finite_differences(activation, output):
    widths = (3, 16, 2)
    x, weights, _ = (t.double() for t in inputs(4, widths))
    arguments = x.requires_grad_(), weights.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, w: mlp_reference(x, w, widths, activation, output), arguments
    )


def test_reference_is_a_stack_of_linear_layers():
    x, weights, _ = inputs(9, (7, 32, 48, 2))
    layers = [torch.nn.Linear(a, b, bias=False) for a, b in [(7, 32), (32, 48), (48, 2)]]
    stack = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2])
    torch.nn.utils.vector_to_parameters(weights, stack.parameters())
    torch.testing.assert_close(mlp_reference(x, weights, (7, 32, 48, 2)), stack(x))


def test_initial_weights_fill_the_xavier_range_of_each_matrix():
    widths = (10, 64, 128, 6)
    weights = initial_weights(widths, torch.Generator().manual_seed(3))
    assert weights.shape == (parameter_count(widths),) == (10 * 64 + 64 * 128 + 128 * 6,)
    for part, (a, b) in zip(
        weights.split([640, 8192, 768]), [(10, 64), (64, 128), (128, 6)], strict=True
    ):
        bound = math.sqrt(6 / (a + b))
        assert 0.98 * bound < part.abs().max() <= bound and part.mean().abs() < 0.1 * bound
    assert torch.equal(weights, initial_weights(widths, torch.Generator().manual_seed(3)))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"widths": (3,)}, "widths"),
        ({"widths": (3, 17, 2)}, "hidden ones 16"),
        ({"widths": (3, 144, 2)}, "hidden ones 16"),
        ({"widths": (0, 16, 2)}, "at least 1"),
        ({"activation": "tanh"}, "activation: 'tanh'"),
        ({"output_activation": "relu"}, "output_activation: 'relu'"),
        ({"x": torch.zeros(4, 2)}, r"x: shape \(4, 2\); expected \[n, 3\]"),
        ({"weights": torch.zeros(81)}, r"weights: shape \(81,\); expected \[80\]"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    good = {"x": torch.zeros(4, 3), "weights": torch.zeros(80), "widths": (3, 16, 2)}
    with pytest.raises(InputError, match=message):
        mlp(**{**good, **change})


def test_torch_compile_sees_one_graph(monkeypatch):
    # The shape checks that tests add to every function are no code that torch can trace.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    bare, widths = inspect.unwrap(mlp), (3, 16, 2)
    compiled = torch.compile(
        lambda x, w: bare(x, w, widths, "silu", "sigmoid"), fullgraph=True, backend="aot_eager"
    )
    arguments = inputs(10, widths)
    got = values_and_gradients(compiled, *arguments)
    expected = values_and_gradients(mlp, *arguments, widths, "silu", "sigmoid")
    for g, e in zip(got, expected, strict=True):
        torch.testing.assert_close(g, e)


def test_registration_is_sound():
    x, weights, cotangent = inputs(6, (3, 16, 2))
    rest = [3, 16, 2], 1, 4
    ops = torch.ops.polyfield
    torch.library.opcheck(ops.mlp.default, (x, weights, *rest))
    out = ops.mlp(x, weights, *rest)
    for want_x in (False, True):
        arguments = x, weights, out, cotangent, *rest, want_x
        torch.library.opcheck(ops.mlp_backward.default, arguments)
