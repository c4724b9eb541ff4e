import pytest
import torch

from polyfield.cuda.errors import InputError
from polyfield.cuda.march import cell_index, march
from polyfield.cuda.occupancy import (
    cell_points,
    cell_points_reference,
    occupancy_threshold,
    pack_bits,
    update_occupancy_,
)

pytestmark = pytest.mark.kernels


def numbers(*values):
    return torch.tensor(values, dtype=torch.int32)


def test_visited_cells_take_the_larger_of_decayed_value_and_density():
    values = torch.tensor([[4.0, 4.0, 4.0, 4.0]])
    update_occupancy_(values, numbers(0, 1, 1), torch.tensor([1.0, 9.0, 5.0]), 0.5)
    assert values.tolist() == [[2.0, 9.0, 2.0, 2.0]]


def test_unvisited_cells_can_be_left_alone_and_repeats_decay_once():
    values = torch.tensor([[4.0, 4.0], [4.0, 4.0]])
    density = torch.tensor([1.0, 0.0, 3.0])
    update_occupancy_(values, numbers(1, 1, 2), density, 0.5, decay_all=False)
    assert values.tolist() == [[4.0, 2.0], [3.0, 4.0]]


def test_all_cells_in_order_without_a_list():
    values = torch.tensor([[4.0, 2.0], [0.0, -1.0]])
    update_occupancy_(values, None, torch.tensor([3.0, 0.5, 1.0, 9.0]), 0.5)
    assert values.tolist() == [[3.0, 1.0], [1.0, -1.0]]


def test_cells_that_no_camera_sees_never_turn_on():
    values = torch.tensor([[-1.0] + [1.0] * 7])
    for _ in range(5):
        update_occupancy_(values, numbers(0, 1), torch.tensor([100.0, 100.0]), 0.9)
    assert values[0, 0] == -1
    assert pack_bits(values, 0.0).tolist() == [254]


def test_a_density_that_is_no_number_poisons_nothing():
    values = torch.ones(1, 8)
    update_occupancy_(values, numbers(3), torch.tensor([torch.nan]), 0.5)
    assert values.tolist() == [[0.5] * 8]


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


def test_bits_are_packed_lowest_first_and_level_after_level():
    values = torch.zeros(2, 16)
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
