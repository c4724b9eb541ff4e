import pytest
import torch

from polyfield.cuda.errors import InputError
from polyfield.cuda.hash_grid import HashGridLayout, hash_grid_reference
from polyfield.cuda.table_adam import adam_, hash_grid_adam_, lazy_adam_reference_, row_adam_

pytestmark = pytest.mark.kernels

BETAS, EPS = (0.9, 0.99), 1e-15


def layout_of(dimensions=3, features=2, levels=4):
    return HashGridLayout(dimensions, levels, features, 9, 3, 60)


def normal(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batches(layout, count, n=70):
    random = torch.Generator().manual_seed(5)
    for _ in range(count):
        x = torch.rand(n, layout.dimensions, generator=random)
        yield x, torch.randn(n, layout.width, generator=random)


def fresh(layout, per_number, device="cpu"):
    table = normal(layout.entries, layout.features).to(device)
    steps = torch.zeros_like(table, dtype=torch.int32) if per_number else None
    return [table, torch.zeros_like(table), torch.zeros_like(table), steps]


def table_gradient(layout, x, grad_out):
    leaf = torch.zeros(layout.entries, layout.features, dtype=torch.float64, requires_grad=True)
    hash_grid_reference(x.double(), leaf, layout).backward(grad_out.double())
    return leaf.grad


@pytest.mark.parametrize("per_number", [False, True])
@pytest.mark.parametrize(
    "dimensions, features, levels", [(2, 4, 3), (3, 2, 4), (3, 8, 1), (4, 1, 2)]
)
def test_steps_equal_dense_gradient_then_masked_adam(
    device, dimensions, features, levels, per_number
):
    layout = layout_of(dimensions, features, levels)
    state = fresh(layout, per_number, device)
    wide = [
        v if v is None or v.dtype == torch.int32 else v.double() for v in fresh(layout, per_number)
    ]
    scratch = torch.zeros_like(state[0])
    for step, (x, grad_out) in enumerate(batches(layout, 3), 1):
        x, grad_out = x.to(device), grad_out.to(device)
        hash_grid_adam_(*state, x, grad_out, layout, scratch, 0.01, step, BETAS, EPS)
        grad = table_gradient(layout, x.cpu(), grad_out.cpu())
        lazy_adam_reference_(wide[0], grad, *wide[1:], 0.01, step, BETAS, EPS)
        assert not scratch.any()
    for got, expected, tolerance in zip(state, wide, (2e-5, 1e-5, 1e-5, 0), strict=True):
        if expected is not None:
            torch.testing.assert_close(
                got.cpu().double(), expected.double(), atol=tolerance, rtol=1e-4
            )


def test_untouched_numbers_keep_their_bits(device):
    layout = layout_of()
    state = fresh(layout, True, device)
    state[1], state[2] = normal(*state[0].shape, seed=2).to(device), state[2] + 0.5
    before = [v.clone() for v in state]
    ((x, grad_out),) = batches(layout, 1, n=20)
    grad_out[:, 1::2] = 0  # the second feature of every entry
    scratch = torch.zeros_like(state[0])
    arguments = x.to(device), grad_out.to(device), layout, scratch, 0.01, 9
    hash_grid_adam_(*state, *arguments)
    touched = table_gradient(layout, x, grad_out) != 0
    assert 0 < touched.sum() < touched.numel() / 2 and not touched[:, 1].any()
    for now, then in zip(state, before, strict=True):
        assert torch.equal((now != then).cpu(), touched)


@pytest.mark.parametrize("levels", [1, 3, 4])
def test_steps_repeat_bitwise_for_any_number_of_threads(levels, monkeypatch):
    monkeypatch.setenv("POLYFIELD_BACKEND", "")
    layout = layout_of(levels=levels)
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            state = fresh(layout, False)
            scratch = torch.zeros_like(state[0])
            for step, (x, grad_out) in enumerate(batches(layout, 10, n=900), 1):
                hash_grid_adam_(*state, x, grad_out, layout, scratch, 0.01, step)
            found.append(state[:3])
    finally:
        torch.set_num_threads(before)
    for one, two, five in zip(*found, strict=True):
        assert torch.equal(one, two) and torch.equal(one, five)


@pytest.mark.parametrize("per_number", [False, True])
def test_a_first_visit_late_in_training_moves_by_the_rate(device, per_number):
    layout = layout_of(levels=1)
    state = fresh(layout, per_number, device)
    before = state[0].clone()
    x, grad_out = torch.full((1, 3), 0.3), torch.full((1, 2), 1e-6)
    arguments = x.to(device), grad_out.to(device), layout, torch.zeros_like(before)
    hash_grid_adam_(*state, *arguments, 0.01, 900)
    moved = (before - state[0])[state[1] != 0]
    assert len(moved) == 16
    torch.testing.assert_close(moved.cpu(), torch.full((16,), 0.01), atol=1e-5, rtol=0)


def test_reference_backend_takes_the_same_step(monkeypatch):
    layout = layout_of()
    ((x, grad_out),) = batches(layout, 1)
    found = []
    for wish in ("", "reference"):
        monkeypatch.setenv("POLYFIELD_BACKEND", wish)
        state = fresh(layout, False)
        hash_grid_adam_(*state, x, grad_out, layout, torch.zeros_like(state[0]), 0.01, 1)
        found.append(state[:3])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_dense_adam_equals_torch(weight_decay):
    parameter = normal(7, 5).requires_grad_()
    mine, first, second = parameter.detach().clone(), torch.zeros(7, 5), torch.zeros(7, 5)
    adam = torch.optim.Adam([parameter], 0.01, (0.8, 0.97), 1e-3, weight_decay)
    for step in range(1, 6):
        parameter.grad = normal(7, 5, seed=step)
        adam.step()
        adam_(mine, parameter.grad, first, second, 0.01, step, (0.8, 0.97), 1e-3, weight_decay)
    torch.testing.assert_close(mine, parameter.detach())


def test_lazy_adam_equals_torch_where_every_gradient_is_nonzero():
    parameter = normal(7, 5).requires_grad_()
    mine, first, second = parameter.detach().clone(), torch.zeros(7, 5), torch.zeros(7, 5)
    adam = torch.optim.Adam([parameter], 0.01, (0.8, 0.97), 1e-3)
    for step in range(1, 6):
        parameter.grad = normal(7, 5, seed=step)
        adam.step()
        grad = parameter.grad
        lazy_adam_reference_(mine, grad, first, second, None, 0.01, step, (0.8, 0.97), 1e-3)
    torch.testing.assert_close(mine, parameter.detach())


def test_rows_are_stepped_at_rates_of_their_columns(device):
    """Those with a gradient as torch steps them; the others keep their bits, moments included."""
    random = torch.Generator().manual_seed(2)
    start = torch.randn(70, 5, generator=random)
    rates = torch.tensor([0.1, 0.01, 0.0, 0.3, 0.02])
    columns = [start[:, [c]].double().requires_grad_() for c in range(5)]
    groups = [{"params": [p], "lr": float(r)} for p, r in zip(columns, rates, strict=True)]
    theirs = torch.optim.Adam(groups, betas=(0.9, 0.999), eps=1e-15)
    value, first, second = (t.to(device) for t in (start, 0 * start, 0 * start))
    still = torch.arange(70) % 3 == 0
    for step in range(1, 4):
        grad = torch.randn(70, 5, generator=random)
        grad[:, 1] = 0  # a number without a gradient in a row with one is stepped
        grad[still] = 0
        for c, column in enumerate(columns):
            column.grad = grad[:, [c]].double()
        theirs.step()
        given = grad.to(device)
        row_adam_(value, given, first, second, rates.to(device), step)
        assert torch.equal(given.cpu(), grad)
    expected = torch.cat([column.detach() for column in columns], 1)
    torch.testing.assert_close(value.cpu().double(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(value.cpu()[still], start[still])
    assert not first[still].any() and not second[still].any()


@pytest.mark.parametrize("width", [1, 3, 27, 48, 1024])
def test_rows_of_any_width_take_the_step_of_the_reference(device, width):
    random = torch.Generator().manual_seed(width)
    start, first, grad = torch.randn(3, 90, width, generator=random)
    grad[::4] = 0
    rates = torch.rand(width, generator=random)
    found = []
    for kind, where in ((torch.float32, device), (torch.float64, "cpu")):
        state = [t.to(where, kind, copy=True) for t in (start, grad, first, first.square())]
        row_adam_(*state, rates.to(where, kind), 7)
        found.append([state[i].cpu().double() for i in (0, 2, 3)])
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=2e-5, atol=2e-6)


def test_rows_too_wide_for_a_tile_are_refused():
    with pytest.raises(InputError, match="width"):
        row_adam_(*[torch.zeros(2, 1025)] * 4, torch.zeros(1025), 1)


def test_a_step_number_zero_is_refused():
    layout = layout_of()
    state = fresh(layout, False)
    ((x, grad_out),) = batches(layout, 1)
    with pytest.raises(InputError, match="step: 0; expected at least 1"):
        hash_grid_adam_(*state, x, grad_out, layout, torch.zeros_like(state[0]), 0.01, 0)
    with pytest.raises(InputError, match="step: 0"):
        adam_(*[torch.zeros(2)] * 4, 0.01, 0)
