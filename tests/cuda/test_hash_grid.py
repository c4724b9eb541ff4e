import pytest
import torch

from polyfield.cuda.errors import InputError
from polyfield.cuda.hash_grid import HashGridLayout, hash_grid, hash_grid_reference

pytestmark = pytest.mark.kernels

POWERS = HashGridLayout(3, 8, 4, 19, 16, 2048)
PAPER = HashGridLayout(3, 16, 2, 19, 16, 2048)
SHAPES = [(d, f) for d in (2, 3, 4) for f in (1, 2, 4, 8)]


def small(dimensions=3, features=2, smoothstep=False, levels=5, log2_table_size=7):
    return HashGridLayout(dimensions, levels, features, log2_table_size, 3, 40, smoothstep)


def points(n, dimensions, seed=0):
    return torch.rand(n, dimensions, generator=torch.Generator().manual_seed(seed))


def normal(*shape, seed=1, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def same(got, expected, scale=1.0):
    tolerance = 1e-5 * scale
    torch.testing.assert_close(got.cpu().double(), expected.double(), atol=tolerance, rtol=1e-4)


def test_levels_of_published_configurations():
    assert POWERS.resolutions == (16, 32, 64, 128, 256, 512, 1024, 2048)
    assert POWERS.offsets[:4] == (0, 4096, 36864, 299008)
    assert POWERS.entries == 2_920_448
    assert POWERS.hashed == (False, False, False, True, True, True, True, True)
    sides = 16, 23, 31, 43, 59, 81, 112, 154, 213, 295, 407, 562, 777, 1073, 1483, 2048
    assert PAPER.resolutions == sides
    sizes = [b - a for a, b in zip(PAPER.offsets, PAPER.offsets[1:], strict=False)]
    assert sizes == [4096, 12168, 29792, 79512, 205384] + [524288] * 11
    assert PAPER.entries * 2 == 12_196_240
    wide = HashGridLayout(3, 16, 2, 19, 16, 4096)
    assert wide.resolutions[:6] == (16, 24, 34, 49, 71, 102)
    assert wide.entries * 2 == 12_599_920
    assert PAPER.width == 32


def test_growth_is_rounded_to_float32_as_published_checkpoints_are():
    # Rounded as IEEE 754 asks, on every processor: a last place more would make this 257.
    assert HashGridLayout(3, 8, 4, 15, 16, 256).scales[-1] == 255.0
    assert HashGridLayout(3, 16, 2, 19, 16, 1024).resolutions[-1] == 1025
    assert PAPER.scales[4] == pytest.approx(57.350231, abs=1e-5)
    assert PAPER.scales[15] == pytest.approx(2046.99866, abs=3e-4)


@pytest.mark.parametrize(
    "layout, level, node, first, last",
    [
        (POWERS, 0, (2, 3, 5), 1330, 1603),
        (POWERS, 2, (6, 13, 19), 78662, 82823),
        (POWERS, 3, (13, 25, 38), 254554, 68679),
        (POWERS, 7, (205, 409, 614), 484442, 33607),
        (POWERS, 0, (15, 15, 15), 4095, 272),
        (PAPER, 4, (6, 11, 17), 59832, 63373),
        (PAPER, 5, None, 503520, 366917),
        (PAPER, 15, None, 484442, 33607),
    ],
)
def test_published_entries_of_nodes(device, layout, level, node, first, last):
    x = torch.ones(1, 3) if node == (15, 15, 15) else torch.tensor([[0.1, 0.2, 0.3]])
    position = x * layout.scales[level] + 0.5
    corner = position.floor().long()
    if node is not None:
        assert corner.tolist() == [list(node)]
    assert layout.index(level, corner).item() == first
    assert layout.index(level, corner + 1).item() == last
    # The kernel reads these entries with the weights of the two opposite corners.
    table = torch.zeros(layout.entries, layout.features, device=device)
    upper = (position - corner).double()
    for entry, weight in ((first, (1 - upper).prod()), (last, upper.prod())):
        table.zero_()[layout.offsets[level] + entry] = 1
        got = hash_grid(x.to(device), table, layout)[0, level * layout.features]
        same(got, weight, scale=20)


@pytest.mark.parametrize("smoothstep", [False, True])
@pytest.mark.parametrize("dimensions, features", SHAPES)
def test_kernel_equals_reference_in_values_and_gradients(device, dimensions, features, smoothstep):
    layout = small(dimensions, features, smoothstep)
    assert set(layout.hashed) == {False, True}
    x, table = points(301, dimensions), normal(layout.entries, layout.features)
    weights = normal(301, layout.width, seed=2)
    wide_x, wide_table = x.double().requires_grad_(), table.double().requires_grad_()
    expected = hash_grid_reference(wide_x, wide_table, layout)
    (expected * weights).sum().backward()
    x, table = x.to(device).requires_grad_(), table.to(device).requires_grad_()
    got = hash_grid(x, table, layout)
    (got * weights.to(device)).sum().backward()
    same(got, expected, scale=3)
    same(table.grad, wide_table.grad, scale=10)
    # A cell's fraction is rounded to 2e-6 and the slope's own slope reaches 6 * 40^2.
    same(x.grad, wide_x.grad, scale=500 if smoothstep else 50)


@pytest.mark.parametrize("smoothstep", [False, True])
@pytest.mark.parametrize("dimensions, features", [(2, 1), (3, 2), (4, 4)])
def test_second_order_equals_autograd(device, dimensions, features, smoothstep):
    layout = small(dimensions, features, smoothstep, levels=3)

    def eikonal(x, table, weights):
        (slope,) = torch.autograd.grad(
            (hash_grid(x, table, layout) * weights).sum(), x, create_graph=True
        )
        loss = (slope.norm(dim=1) - 1).square().mean()
        return torch.autograd.grad(loss, (x, table, weights), allow_unused=True)

    values = [
        points(140, dimensions),
        normal(layout.entries, features) * 0.3,
        normal(140, layout.width, seed=2),
    ]
    expected = eikonal(*[v.double().requires_grad_() for v in values])
    got = eikonal(*[v.to(device).requires_grad_() for v in values])
    for one, other in zip(got, expected, strict=True):
        scale = other.abs().max().item()
        same(one, other, scale=30 * max(scale, 1e-3))


def test_a_loss_on_the_gradient_to_the_table_has_a_gradient(device):
    layout = small(levels=2, smoothstep=True)

    def size_of_step(x, table, weights):
        features = hash_grid(x, table, layout)
        (slope,) = torch.autograd.grad((features * weights).sum(), table, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), (x, weights))

    values = [points(50, 3), normal(layout.entries, 2), normal(50, layout.width, seed=2)]
    expected = size_of_step(*[v.double().requires_grad_() for v in values])
    got = size_of_step(*[v.to(device).requires_grad_() for v in values])
    for one, other in zip(got, expected, strict=True):
        same(one, other, scale=300)


def test_reference_gradients_match_finite_differences_twice():
    layout = small(2, 2, smoothstep=True, levels=2, log2_table_size=5)
    x = points(4, 2).double().requires_grad_()
    table = normal(layout.entries, 2, dtype=torch.float64).requires_grad_()

    def call(x, table):
        return hash_grid_reference(x, table, layout)

    assert torch.autograd.gradcheck(call, (x, table))
    assert torch.autograd.gradgradcheck(call, (x, table))


def test_constant_levels_give_the_constant(device):
    # Weights of a point sum to 1, whatever the collisions and wherever the point lies.
    layout = small(3, 2)
    table = torch.full((layout.entries, 2), 3.0, device=device)
    x = torch.cat([points(200, 3), torch.zeros(1, 3), torch.ones(1, 3)]).to(device)
    same(hash_grid(x, table, layout), torch.full((202, layout.width), 3.0))


def test_points_outside_the_cube_are_clamped_without_gradient(device):
    layout = small()
    table = normal(layout.entries, 2).to(device)
    outside = torch.tensor([[-0.3, 0.4, 1.7], [0.2, 9.0, 0.6]], device=device, requires_grad=True)
    got = hash_grid(outside, table, layout)
    assert torch.equal(got, hash_grid(outside.detach().clamp(0, 1), table, layout))
    got.sum().backward()
    assert (outside.grad != 0).tolist() == [[False, True, False], [True, False, True]]


def test_no_points_give_no_features(device):
    layout = small()
    table = normal(layout.entries, 2).to(device).requires_grad_()
    out = hash_grid(torch.zeros(0, 3, device=device), table, layout)
    out.sum().backward()
    assert out.shape == (0, layout.width) and not table.grad.any()


def test_a_transposed_view_is_read_in_its_own_order(device):
    layout = small()
    table, x = normal(layout.entries, 2).to(device), points(40, 3).to(device)
    assert torch.equal(hash_grid(x.T.contiguous().T, table, layout), hash_grid(x, table, layout))


@pytest.mark.parametrize("features", [1, 2, 4, 8])
def test_a_table_larger_than_the_cache_is_read_level_by_level_to_the_same_bits(
    device, features, monkeypatch
):
    layout = small(features=features)
    table, x = normal(layout.entries, features).to(device), points(301, 3).to(device)
    tile_by_tile = hash_grid(x, table, layout)
    monkeypatch.setattr("polyfield.cuda.hash_grid.CACHED_TABLE_BYTES", 0)
    assert torch.equal(hash_grid(x, table, layout), tile_by_tile)


@pytest.mark.parametrize("levels", [1, 3, 5])
def test_table_gradient_repeats_bitwise_for_any_number_of_threads(levels, monkeypatch):
    monkeypatch.setenv("POLYFIELD_BACKEND", "")
    layout = small(levels=levels)
    x, weights = points(3000, 3), normal(3000, layout.width)
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            table = normal(layout.entries, 2).requires_grad_()
            (hash_grid(x, table, layout) * weights).sum().backward()
            found.append(table.grad)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"dimensions": 5}, r"HashGridLayout.dimensions: 5; expected one of \(2, 3, 4\)"),
        ({"features": 3}, "features: 3"),
        ({"levels": 0}, "levels: 0; expected 1 to 64"),
        ({"log2_table_size": 29}, "log2_table_size: 29; expected 3 to 28"),
        ({"base_resolution": 1}, "base_resolution: 1"),
        ({"finest_resolution": 15}, "finest_resolution: 15; expected 16 to"),
        ({"levels": 64, "log2_table_size": 28}, r"entries; expected fewer than 2\^31"),
    ],
)
def test_layouts_out_of_range_are_refused_by_value(change, message):
    with pytest.raises(InputError, match=message):
        HashGridLayout(**change)


def test_registration_is_sound():
    values = [3, 2, 2, 7, 3, 9, 1]
    layout = HashGridLayout(*values[:-1], True)
    x, table, grad = points(6, 3), normal(layout.entries, 2), normal(6, layout.width)
    ops = torch.ops.polyfield
    for tangent in (None, normal(6, 3)):
        torch.library.opcheck(ops.hash_encode.default, (x, table, tangent, values))
        torch.library.opcheck(ops.hash_scatter.default, (x, grad, tangent, values))
        torch.library.opcheck(ops.hash_pull.default, (x, table, grad, tangent, values))
