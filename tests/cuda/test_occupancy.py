import pytest
import torch

from polyfield.cuda.errors import InputError
from polyfield.cuda.march import cell_index, march
from polyfield.cuda.occupancy import (
    cell_points,
    cell_points_reference,
    occupancy_threshold,
    pack_bits,
    pack_bits_reference,
    update_occupancy_,
    update_occupancy_reference_,
)

pytestmark = pytest.mark.kernels


def numbers(*values):
    return torch.tensor(values, dtype=torch.int32)


def updated(device, values, cells, density, decay):
    on_device = torch.tensor(values, device=device)
    visited = None if cells is None else numbers(*cells).to(device)
    update_occupancy_(on_device, visited, torch.tensor(density, device=device), decay)
    return on_device.cpu().tolist()


def test_visited_cells_take_the_larger_of_decayed_value_and_density(device):
    got = updated(device, [[4.0, 4.0, 4.0, 4.0]], (0, 1, 1), [1.0, 9.0, 5.0], 0.5)
    assert got == [[2.0, 9.0, 2.0, 2.0]]


def test_all_cells_in_order_without_a_list(device):
    got = updated(device, [[4.0, 2.0], [0.0, -1.0]], None, [3.0, 0.5, 1.0, 9.0], 0.5)
    assert got == [[3.0, 1.0], [1.0, -1.0]]


@pytest.mark.parametrize("cells", [None, (0, 1)])
def test_cells_that_no_camera_sees_never_turn_on(device, cells):
    values = [[-1.0] + [1.0] * 7]
    for _ in range(5):
        values = updated(device, values, cells, [100.0] * (2 if cells else 8), 0.9)
    assert values[0][0] == -1 and values[0][1] == 100
    assert pack_bits(torch.tensor(values, device=device), 0.0).tolist() == [254]


@pytest.mark.parametrize("cells", [None, tuple(range(8))])
def test_a_density_that_is_no_number_or_negative_poisons_nothing(device, cells):
    density = [1.0, torch.nan, -3.0, torch.inf, 0.0, 0.0, 0.0, 0.0]
    got = updated(device, [[1.0] * 8], cells, density, 0.5)
    assert got == [[1.0, 0.5, 0.5, torch.inf, 0.5, 0.5, 0.5, 0.5]]


@pytest.mark.parametrize("visits", [None, 0, 1, 255, 256, 257, 3000])
def test_kernels_update_and_pack_as_the_reference_does(device, visits):
    random = torch.Generator().manual_seed(3)
    values = torch.rand(3, 8**3, generator=random) - 0.1
    cells = None
    if visits is not None:
        cells = torch.randint(values.numel(), (visits,), generator=random, dtype=torch.int32)
    density = torch.rand(values.numel() if cells is None else visits, generator=random)
    expected, got = values.clone(), values.to(device)
    update_occupancy_reference_(expected, cells, density, 0.8)
    update_occupancy_(got, None if cells is None else cells.to(device), density.to(device), 0.8)
    assert torch.equal(got.cpu(), expected)
    for threshold in (-1.0, 0.0, 0.3, expected[1, 7].item()):
        bits = pack_bits(got, threshold).cpu()
        assert torch.equal(bits, pack_bits_reference(expected, threshold))


def test_torch_sees_operators(device):
    if device.type != "cpu":
        pytest.skip("shapes and mutation are a matter of the schema")
    values, cells = torch.rand(1, 512), numbers(3, 5, 5)
    for operator, arguments in (
        (torch.ops.polyfield.update_occupancy_, (values, cells, torch.rand(3), 0.5)),
        (torch.ops.polyfield.pack_bits, (values, 0.5)),
        (torch.ops.polyfield.cell_points, (1, 8, cells, 1, 2)),
    ):
        tests = ["test_schema", "test_faketensor"]
        torch.library.opcheck(operator.default, arguments, test_utils=tests)


def test_a_wire_of_a_quarter_cell_stays_occupied():
    resolution, on = 8, []
    values = torch.zeros(1, resolution**3)
    cells = torch.arange(resolution**3, dtype=torch.int32)
    for step in range(100):
        points = cell_points(1, resolution, cells, 1, step)
        wire = (points[:, 1:] - 0.5625).abs().amax(1) < 0.25 / resolution / 2
        update_occupancy_(values, None, 100.0 * wire.float(), 0.95)
        on.append(pack_bits(values, occupancy_threshold(values, 0.3)))
    along = torch.arange(resolution) + resolution * (4 + resolution * 4)
    hits = torch.stack(on)[60:, along // 8].int() >> along % 8 & 1
    assert hits.float().mean() > 0.95
    assert values.count_nonzero() == resolution


def test_threshold_is_the_limit_or_the_mean_of_the_finest_level():
    values = torch.tensor([[-1.0, 1.0, 2.0, 5.0], [50.0, 50.0, 50.0, 50.0]])
    assert occupancy_threshold(values, 100.0) == pytest.approx(0.99 * 2.0)
    assert occupancy_threshold(values, 0.5) == 0.5


@pytest.mark.parametrize("density", [0.0, 1e-3, 0.1, 7.0])
def test_a_constant_field_keeps_every_cell(density):
    values = torch.full((2, 512), density)
    assert (pack_bits(values, occupancy_threshold(values, 5.9)) == 255).all()


def test_bits_are_packed_lowest_first_and_level_after_level(device):
    values = torch.zeros(2, 16, device=device)
    values[0, 0] = values[0, 9] = values[1, 15] = 1.0
    assert pack_bits(values, 1.0).tolist() == [1, 2, 0, 128]


def test_points_lie_in_their_cells_as_the_march_numbers_them(device):
    levels, resolution = 3, 8
    cells = torch.arange(levels * resolution**3, dtype=torch.int32)
    points = cell_points(levels, resolution, cells.to(device), 5, 6).cpu()
    level = cells // resolution**3
    # A step as long as a cell of the level asks for no finer one.
    step = 0.999 * 2.0 ** (level - (levels - 1)) / resolution
    got = cell_index(points, step, levels, resolution)
    outer = (points - 0.5).abs().amax(1) <= 2.0 ** (level - levels)
    asked = step * resolution > 2.0 ** (level - levels)
    assert outer.all() and torch.equal(got[asked], cells[asked].long())


def test_points_spread_over_the_cell_anew_for_each_seed_and_stream(device):
    cells = torch.full((4000,), 77, dtype=torch.int32, device=device)
    clouds = [
        cell_points(1, 8, cells, *s).cpu() * 8 - torch.tensor([5, 1, 1])
        for s in [(1, 2), (1, 3), (2, 2)]
    ]
    for cloud in clouds:
        assert 0 <= cloud.min() and cloud.max() < 1
        torch.testing.assert_close(cloud.mean(0), torch.full((3,), 0.5), atol=0.03, rtol=0)
        torch.testing.assert_close(torch.cov(cloud.T), torch.eye(3) / 12, atol=0.01, rtol=0)
    together = torch.cov(torch.cat(clouds, 1).T)
    torch.testing.assert_close(together, torch.eye(9) / 12, atol=0.01, rtol=0)


def test_kernel_draws_the_reference_points(device):
    cells = torch.randint(0, 3 * 8**3, (700,), dtype=torch.int32)
    got = cell_points(3, 8, cells.to(device), 2**32 - 3, 9).cpu()
    torch.testing.assert_close(got, cell_points_reference(3, 8, cells, 2**32 - 3, 9))


def test_the_march_finds_what_was_packed(device):
    values = torch.zeros(1, 512)
    values[0, 2 + 8 * (5 + 8 * 6)] = 1.0
    bits = pack_bits(values, 0.5).to(device)
    origins = torch.tensor([[0.3125, 0.6875, -1.0]], device=device)
    along_z = torch.tensor([[0.0, 0, 1]], device=device)
    z = march(origins, along_z, bits, 1, 8, 0.01, 0.0, 0.0, 999, 0, 0, False).position[:, 2]
    assert 11 <= len(z) <= 14 and z.min() >= 0.75 and z.max() < 0.875


def test_wrong_sizes_are_refused_by_value():
    with pytest.raises(InputError, match="density: 2 values; expected 8"):
        update_occupancy_(torch.zeros(1, 8), None, torch.zeros(2), 0.5)
    with pytest.raises(InputError, match="decay: 1.5"):
        update_occupancy_(torch.zeros(1, 8), None, torch.zeros(8), 1.5)
    with pytest.raises(InputError, match="7 cells; expected a multiple of 8"):
        pack_bits(torch.zeros(1, 7), 0.5)
