import pytest
import torch
from torch import Generator

from polyfield.cuda.errors import InputError
from polyfield.cuda.planes import PlaneLayout, planes
from polyfield.cuda.table_adam import adam_, lazy_adam_
from polyfield.fields.optimiser import FieldOptimiser
from polyfield.fields.table import build_field
from polyfield.fields.tri_plane import (
    Planes,
    TriPlaneArguments,
    tri_plane_field,
    variation_gradient,
)

SMALL = TriPlaneArguments(scales=2, finest_resolution=12, channels=8, hidden=16)


def points(n=200, seed=0):
    return torch.rand(n, 3, generator=Generator().manual_seed(seed))


def made(arguments=SMALL, seed=0):
    return tri_plane_field(arguments, Generator().manual_seed(seed))


def test_each_scale_has_half_the_nodes_of_the_next():
    field = made(TriPlaneArguments(scales=3, finest_resolution=100))
    assert field.encoding.layout.resolutions == (25, 50, 100)
    assert field.encoding.width == 48 and field.density_widths[0] == 48


def test_planes_start_as_the_paper_has_them():
    table = made().encoding.table
    assert 0.1 <= table.min() < 0.15 and 0.45 < table.max() <= 0.5
    summed = made(TriPlaneArguments(product=0, finest_resolution=16)).encoding.table
    assert -0.1 <= summed.min() < -0.09 and 0.09 < summed.max() <= 0.1


@pytest.mark.parametrize("product", [0, 1])
def test_planes_are_multiplied_or_summed_as_the_arguments_say(product):
    field = made(TriPlaneArguments(2, 12, 8, product))
    encoding, x = field.encoding, points()
    layout = PlaneLayout(3, (6, 12), 8, ("sum", "product")[product])
    assert torch.equal(encoding(x), planes(x, encoding.table, layout))


def test_sizes_follow_detail_and_room():
    sizes = [TriPlaneArguments.fitted(256, 1 << n) for n in (17, 19, 21, 23, 25)]
    finest = [size.finest_resolution for size in sizes]
    assert finest == sorted(finest) and finest[0] < 60 and finest[-1] == 256
    for size, room in zip(sizes[:3], (1 << 17, 1 << 19, 1 << 21), strict=True):
        count = sum(p.numel() for p in tri_plane_field(size).parameters())
        assert 0.8 * room < count < 1.15 * room
    assert tri_plane_field(TriPlaneArguments.fitted(1, 1)).encoding.layout.resolutions[0] == 2


def test_a_step_by_deferred_gradients_is_adams_where_there_is_one():
    """In parts, as training has them: their gradients count as one."""
    field, plain = made(), made()
    optimiser = FieldOptimiser(field, weight_decay=0.0)
    x, weights = points(), torch.randn(200, 16, generator=Generator().manual_seed(1))
    for part in (slice(0, 80), slice(80, 200)):
        (field.encoding(x[part]) * weights[part]).sum().backward()
    assert field.encoding.table.grad is None and len(field.encoding.deferred) == 2
    optimiser.step(0, 1.0)
    (plain.encoding(x) * weights).sum().backward()
    table, grad = plain.encoding.table.detach(), plain.encoding.table.grad
    moments = torch.zeros_like(table), torch.zeros_like(table)
    adam_(table, grad, *moments, field.learning_rate, 1)
    torch.testing.assert_close(field.encoding.table.detach(), table)
    untouched = grad == 0
    assert untouched.any() and not optimiser.scratch["encoding"].any()
    assert torch.equal(field.encoding.table[untouched], made().encoding.table[untouched])


def test_a_deferred_gradient_leaves_that_of_positions(device="cpu"):
    x = points(50).requires_grad_()
    field, plain = made(), made()
    field.encoding.deferred = []
    found = [torch.autograd.grad(f.encoding(x).square().sum(), x)[0] for f in (field, plain)]
    torch.testing.assert_close(*found)
    assert found[0].any()


def test_rows_that_do_not_count_are_left_out():
    encoding, other = made().encoding, made().encoding
    x, grad = points(), torch.ones(200, 16)
    kept = torch.arange(200) % 3 == 0
    for planes_of, pending in ((encoding, (x, grad, kept)), (other, (x[kept], grad[kept], None))):
        zeros = [torch.zeros_like(planes_of.table.data) for _ in range(3)]
        planes_of.adam_step(pending, (zeros[0], zeros[1]), zeros[2], 0.01, 1)
    assert torch.equal(encoding.table, other.table)


def test_adam_by_kernel_is_that_of_the_reference(monkeypatch):
    random = Generator().manual_seed(0)
    start = torch.randn(3000, generator=random)
    grads = torch.randn(3, 3000, generator=random) * (torch.rand(3, 3000, generator=random) < 0.3)
    found = []
    for backend in ("", "reference"):
        monkeypatch.setenv("POLYFIELD_BACKEND", backend)
        value, first, second = start.clone(), torch.zeros(3000), torch.zeros(3000)
        for step, grad in enumerate(grads, 1):
            scratch = grad.clone()
            lazy_adam_(value, scratch, first, second, 0.1, step)
            assert not scratch.any()
        found.append((value, first, second))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    with pytest.raises(InputError, match="step: 0"):
        lazy_adam_(start, start, start, start, 0.1, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scales": 0}, "tri-plane: scales: 0; expected 1 to 8"),
        ({"scales": 9}, "scales: 9"),
        ({"channels": 12}, "channels: 12; expected a multiple of 8"),
        ({"finest_resolution": 3}, "resolutions"),
        ({"finest_resolution": (1 << 20) - 1}, "resolutions"),
        ({"harmonics_degree": 8}, "harmonics of degree 8"),
    ],
)
def test_sizes_out_of_range_are_refused_by_name(change, message):
    with pytest.raises(InputError, match=message):
        build_field("tri-plane", change)


def test_planes_are_an_encoding_like_others():
    encoding = Planes(PlaneLayout(3, (4,), 8), generator=Generator().manual_seed(3))
    assert (encoding.dimensions, encoding.width) == (3, 8)
    assert encoding(points(7)).shape == (7, 8)


def variation(table, layout):
    """The sum that the docstring of variation_gradient names."""
    whole = 0.0
    for scale in range(len(layout.resolutions)):
        for plane in layout.planes(table, scale):
            squares = sum(plane.diff(dim=axis).square().sum() for axis in (1, 2))
            whole = whole + squares / plane.numel()
    return whole


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_gradient_of_total_variation_is_autograds(dimensions):
    layout = PlaneLayout(dimensions, (3, 6), 16)
    random = Generator().manual_seed(0)
    table = torch.randn(layout.entries, 8, generator=random, dtype=torch.float64)
    leaf = table.clone().requires_grad_()
    (expected,) = torch.autograd.grad(variation(leaf, layout), leaf)
    torch.testing.assert_close(variation_gradient(table, layout), expected)


def test_planes_that_are_to_be_smooth_become_smoother_where_nothing_is_seen():
    roughness = []
    for weight in (0.0, 10.0):
        field = made()
        field.encoding.total_variation = weight
        optimiser = FieldOptimiser(field)
        corner = 0.3 * points()  # the rest of the cube is not seen
        for step in range(64):
            optimiser.clear()
            (field.density(corner)[0].log1p() - 1).square().mean().backward()
            optimiser.step(step, 1.0)
        roughness.append(float(variation(field.encoding.table.detach(), field.encoding.layout)))
    assert roughness[1] < 0.7 * roughness[0]
