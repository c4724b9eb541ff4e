import pytest
import torch
from torch.nn.functional import grid_sample

from polyfield.cuda.errors import InputError
from polyfield.cuda.planes import PlaneLayout, planes, planes_reference, scatter_planes

pytestmark = pytest.mark.kernels

SHAPES = [(d, combine) for d in (2, 3, 4) for combine in ("product", "sum")]


def small(dimensions=3, combine="product", channels=16, resolutions=(3, 7)):
    return PlaneLayout(dimensions, resolutions, channels, combine)


def points(n, dimensions, seed=0):
    return torch.rand(n, dimensions, generator=torch.Generator().manual_seed(seed))


def normal(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(got, expected, scale=1.0):
    torch.testing.assert_close(got.cpu().double(), expected.double(), atol=1e-5 * scale, rtol=1e-4)


def test_planes_of_a_table_lie_one_behind_the_other_in_blocks_of_eight_channels():
    layout = small(resolutions=(3, 4))
    assert layout.entries == 2 * 3 * (9 + 16) and layout.width == 32
    assert layout.pairs == ((0, 1), (0, 2), (1, 2))
    table = torch.arange(layout.entries * 8).view(-1, 8).float()
    coarse, fine = layout.planes(table, 0), layout.planes(table, 1)
    assert [tuple(plane.shape) for plane in coarse] == [(2, 3, 3, 8)] * 3
    # A node of block 1 of the second plane of the second scale: behind scale 0, block 0, plane 0.
    assert fine[1][1, 2, 3, 5] == 8 * (2 * 27 + 48 + 16 + 2 * 4 + 3) + 5


@pytest.mark.parametrize("combine", ["product", "sum"])
def test_the_reference_is_what_torch_interpolates_on_each_plane(combine):
    layout = small(combine=combine, resolutions=(3, 6))
    x, table = points(200, 3), normal(layout.entries, 8)
    expected = []
    for scale in (0, 1):
        samples = []
        for (a, b), plane in zip(layout.pairs, layout.planes(table, scale), strict=True):
            image = plane.permute(0, 3, 1, 2).reshape(1, 16, *plane.shape[1:3])
            place = (2 * x[:, [a, b]] - 1)[None, :, None]
            samples.append(grid_sample(image, place, align_corners=True)[0, :, :, 0].T)
        whole = torch.stack(samples)
        expected.append(whole.prod(0) if combine == "product" else whole.sum(0))
    close(planes_reference(x, table, layout), torch.cat(expected, 1))


def test_nodes_lie_on_the_faces_and_hold_their_numbers(device):
    layout = small(2, resolutions=(5,), channels=8)
    table = normal(layout.entries, 8).to(device)
    ticks = torch.arange(5, device=device) / 4
    x = torch.cartesian_prod(ticks, ticks).flip(1)  # the earlier axis is the quick one
    close(planes(x, table, layout), table.cpu())


@pytest.mark.parametrize("dimensions, combine", SHAPES)
def test_kernel_equals_reference_in_values_and_gradients(device, dimensions, combine):
    layout = small(dimensions, combine, channels=24)
    x, table = points(301, dimensions), normal(layout.entries, 8)
    x[:4] = torch.tensor([0.0, 1.0, 0.5, 0.999999])[:, None]
    weights = normal(301, layout.width, seed=2)
    wide_x, wide_table = x.double().requires_grad_(), table.double().requires_grad_()
    expected = planes_reference(wide_x, wide_table, layout)
    (expected * weights).sum().backward()
    x, table = x.to(device).requires_grad_(), table.to(device).requires_grad_()
    got = planes(x, table, layout)
    (got * weights.to(device)).sum().backward()
    close(got, expected, scale=float(expected.abs().max()))
    close(table.grad, wide_table.grad, scale=float(wide_table.grad.abs().max()))
    # At the very faces the reference's slope is that of the clamp, half of it or none.
    close(x.grad[4:], wide_x.grad[4:], scale=3 * float(wide_x.grad.abs().max()))


@pytest.mark.parametrize("combine", ["product", "sum"])
def test_reference_gradients_match_finite_differences(combine):
    layout = small(3, combine, channels=8, resolutions=(3,))
    x = points(4, 3).double().requires_grad_()
    table = normal(layout.entries, 8).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, t: planes_reference(x, t, layout), (x, table))


def test_a_plane_of_zeros_has_the_gradient_of_the_others_product(device):
    """Where samples are multiplied, a division by one of them would not be a number."""
    layout = small(resolutions=(4,), channels=8)
    table = normal(layout.entries, 8).to(device)
    layout.planes(table, 0)[1].zero_()
    table.requires_grad_()
    x = points(50, 3).to(device).requires_grad_()
    out = planes(x, table, layout)
    assert not out.any()
    out.sum().backward()
    grads = layout.planes(table.grad, 0)
    assert not grads[0].any() and grads[1].any() and not grads[2].any()
    assert table.grad.isfinite().all() and not x.grad.any()
    others = table.detach().clone()
    layout.planes(others, 0)[1].fill_(1.0)
    assert float(grads[1].sum()) == pytest.approx(float(planes(x, others, layout).sum()), rel=1e-4)


def test_points_outside_the_cube_are_clamped_without_gradient(device):
    layout = small()
    table = normal(layout.entries, 8).to(device)
    outside = torch.tensor([[-0.3, 0.4, 1.7], [0.2, 9.0, 0.6]], device=device, requires_grad=True)
    got = planes(outside, table, layout)
    assert torch.equal(got, planes(outside.detach().clamp(0, 1), table, layout))
    got.sum().backward()
    assert (outside.grad != 0).tolist() == [[False, True, False], [True, False, True]]


def test_no_points_give_no_features(device):
    layout = small()
    table = normal(layout.entries, 8).to(device).requires_grad_()
    out = planes(torch.zeros(0, 3, device=device), table, layout)
    out.sum().backward()
    assert out.shape == (0, layout.width) and not table.grad.any()


@pytest.mark.parametrize("combine", ["product", "sum"])
def test_what_is_scattered_is_added(device, combine):
    layout = small(combine=combine)
    x, table, grad = points(90, 3), normal(layout.entries, 8), normal(90, layout.width, seed=3)
    leaf = table.clone().requires_grad_()
    (planes_reference(x, leaf, layout) * grad).sum().backward()
    out = torch.ones(layout.entries, 8, device=device)
    scatter_planes(x.to(device), table.to(device), grad.to(device), layout, out)
    close(out, 1 + leaf.grad, scale=10)


@pytest.mark.parametrize("resolutions", [(5,), (5, 9, 17)])
def test_table_gradient_repeats_bitwise_for_any_number_of_threads(resolutions, monkeypatch):
    monkeypatch.setenv("POLYFIELD_BACKEND", "")
    layout = small(resolutions=resolutions)
    x, weights = points(3000, 3), normal(3000, layout.width)
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            table = normal(layout.entries, 8).requires_grad_()
            (planes(x, table, layout) * weights).sum().backward()
            found.append(table.grad)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"dimensions": 5}, "PlaneLayout.dimensions: 5; expected 2, 3 or 4"),
        ({"channels": 12}, "channels: 12; expected a multiple of 8"),
        ({"channels": 0}, "channels: 0"),
        ({"resolutions": ()}, "resolutions"),
        ({"resolutions": (8, 1)}, "resolutions"),
        ({"resolutions": (32768,), "channels": 1024}, r"entries; expected fewer than 2\^28"),
    ],
)
def test_layouts_out_of_range_are_refused_by_value(change, message):
    with pytest.raises(InputError, match=message):
        PlaneLayout(**change)


def test_registration_is_sound():
    layout = small(2, resolutions=(3, 5))
    values = [2, 16, 1, 3, 5]
    x, table, grad = points(6, 2), normal(layout.entries, 8), normal(6, layout.width)
    ops = torch.ops.polyfield
    torch.library.opcheck(ops.plane_encode.default, (x, table, values))
    torch.library.opcheck(ops.plane_scatter.default, (x, table, grad, values))
    torch.library.opcheck(ops.plane_pull.default, (x, table, grad, values))
