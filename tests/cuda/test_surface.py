"""The surface of numbers on a lattice: kernels equal the specification, and both the facts."""

import pytest
import torch
from torch import Generator
from torch.nn.functional import pad

from polyfield.cuda.errors import InputError
from polyfield.cuda.surface import surface, surfaces, surfaces_reference
from polyfield.extract.mesh_checks import is_closed_and_oriented

pytestmark = pytest.mark.kernels

SHAPES = [(2, 2, 2), (5, 3, 70), (33, 34, 31), (3, 40, 32), (2, 9, 33), (7, 2, 65)]


def random_values(shape, seed=0):
    """Noise: a third of all cells or more have an alternating face."""
    return torch.randn(shape, generator=Generator().manual_seed(seed))


def both(values, level, device):
    """Of one lattice, from the kernels and from the specification."""
    return surfaces(values.to(device)[None], level), surfaces_reference(values[None], level)


@pytest.mark.parametrize("level", [0.0, 0.7, -0.3])
@pytest.mark.parametrize("shape", SHAPES)
def test_kernels_equal_the_reference(device, shape, level):
    found, expected = both(random_values(shape), level, device)
    assert torch.equal(found.corners.cpu(), expected.corners)
    assert torch.equal(found.keys.cpu(), expected.keys)
    assert torch.equal(found.ends.cpu(), expected.ends)
    torch.testing.assert_close(found.position.cpu(), expected.position, atol=2e-5, rtol=0)


def test_smooth_fields_equal_the_reference(device):
    axis = torch.linspace(-1, 1, 40)
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    for values in (0.7 - (x * x + y * y + z * z).sqrt(), x * y - z * z + 0.02):
        found, expected = both(values, 0.0, device)
        assert torch.equal(found.corners.cpu(), expected.corners)
        torch.testing.assert_close(found.position.cpu(), expected.position, atol=2e-5, rtol=0)


def test_vertices_lie_where_a_line_between_the_ends_of_their_edge_crosses_the_level(device):
    values = random_values((6, 7, 40), 3)
    found, _ = both(values, 0.2, device)
    position, keys, ends = (t.cpu() for t in (found.position, found.keys, found.ends))
    on_edge = keys % 4 < 3
    assert bool((~on_edge).any())
    node, axis = keys[on_edge] // 4, keys[on_edge] % 4
    begin = torch.stack([node // 280, node // 40 % 7, node % 40], 1).double()
    low, high = ends[on_edge].double().unbind(1)
    assert torch.equal(low.float(), values.reshape(-1)[node])
    assert bool(((low > 0.2) != (high > 0.2)).all())
    expected = begin.clone()
    along = ((0.2 - low) / (high - low)).clamp(1e-4, 1 - 1e-4)
    expected[torch.arange(len(node)), axis] += along
    torch.testing.assert_close(position[on_edge].double(), expected, atol=1e-5, rtol=0)
    # What cells add lies within them.
    cell = keys[~on_edge] // 4
    begin = torch.stack([cell // 280, cell // 40 % 7, cell % 40], 1).float()
    inside = position[~on_edge] - begin
    assert 0.04 < inside.min() and inside.max() < 0.96


def test_each_edge_has_one_vertex_and_each_vertex_a_triangle(device):
    found, _ = both(random_values((9, 8, 35), 4), 0.0, device)
    keys = found.keys.cpu()
    on_edge = keys[keys % 4 < 3]
    assert len(on_edge.unique()) == len(on_edge)
    assert len(found.corners.cpu().unique()) == len(found.position)


@pytest.mark.parametrize("seed", range(4))
def test_noise_with_an_empty_border_is_closed(device, seed):
    values = pad(random_values((9, 11, 37), seed), (1,) * 6, value=-1.0)
    found, _ = both(values, 0.0, device)
    assert is_closed_and_oriented(found.corners.cpu())


def test_whole_numbers_tie_everywhere_and_still_close(device):
    """Saddles of exactly 0, and nodes at the level, which are outside."""
    values = pad(random_values((9, 11, 37), 8).round(), (1,) * 6, value=-1.0)
    found, expected = both(values, 0.0, device)
    assert torch.equal(found.corners.cpu(), expected.corners)
    assert is_closed_and_oriented(found.corners.cpu())


def test_neighbours_whose_face_s_saddle_is_0_share_no_triangle(device):
    """Two cells of three patches and more, of whole numbers, from a report on another library."""
    rows = [[[13, -1], [-1, -7]], [[-1, 1], [7, -7]], [[15, -9], [-3, -1]]]
    found, _ = both(torch.tensor(rows).float(), 0.0, device)
    corners = found.corners.cpu().sort(1).values
    assert len(corners) and len(corners.unique(dim=0)) == len(corners)


def test_one_lattice_is_the_first_of_several(device):
    values = random_values((8, 8, 40)).to(device)
    plain, found = surface(values, 0.0), surfaces(values[None], 0.0)
    assert torch.equal(plain.position, found.position) and torch.equal(plain.corners, found.corners)


def test_lattices_know_nothing_of_each_other(device):
    values = random_values((3, 5, 6, 33)).to(device)
    together = surfaces(values, 0.1)
    vertices = faces = 0
    for block in range(3):
        alone = surfaces(values[block : block + 1], 0.1)
        rows = slice(vertices, vertices + len(alone.position))
        assert torch.equal(together.position[rows], alone.position)
        assert torch.equal(together.keys[rows] - 4 * 990 * block, alone.keys)
        assert torch.equal(together.ends[rows], alone.ends)
        drawn = together.corners[faces : faces + len(alone.corners)]
        assert torch.equal(drawn - vertices, alone.corners)
        vertices, faces = rows.stop, faces + len(alone.corners)
    assert (len(together.position), len(together.corners)) == (vertices, faces)
    for ours, expected in zip(together, surfaces_reference(values.cpu(), 0.1), strict=True):
        torch.testing.assert_close(ours.cpu(), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("level", [-9.0, 9.0])
def test_nothing_crosses_nothing(device, level):
    found, expected = both(random_values((4, 5, 40)), level, device)
    for part in (found, expected):
        assert part.position.shape == (0, 3) and part.corners.shape == (0, 3)


@pytest.mark.parametrize("at", [(0, 0, 0), (3, 4, 39), (1, 2, 31), (2, 0, 32)])
def test_a_single_nan_is_refused(device, at):
    values = random_values((4, 5, 40))
    values[at] = torch.nan
    with pytest.raises(InputError, match="NaN"):
        surface(values.to(device), 0.0)
    with pytest.raises(InputError, match="NaN"):
        surfaces_reference(values[None], 0.0)


def test_infinite_numbers_have_finite_vertices(device):
    values = random_values((5, 6, 40))
    values[values > 1.5], values[values < -1.5] = torch.inf, -torch.inf
    found, expected = both(values, 0.0, device)
    assert bool(found.position.isfinite().all()) and bool(expected.position.isfinite().all())
    assert torch.equal(found.corners.cpu(), expected.corners)
    torch.testing.assert_close(found.position.cpu(), expected.position, atol=2e-5, rtol=0)


def test_numbers_of_other_layouts_and_precision_are_taken(device):
    values = random_values((6, 7, 40))
    turned = surface(values.to(device).permute(2, 0, 1), 0.0)
    whole = surface(values.to(device).permute(2, 0, 1).contiguous(), 0.0)
    assert torch.equal(turned.corners, whole.corners)
    double = surface(values.double().to(device), 0.0)
    single = surface(values.to(device), 0.0)
    assert torch.equal(double.corners, single.corners)
