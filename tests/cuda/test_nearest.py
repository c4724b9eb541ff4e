import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyfield.cuda.errors import InputError
from polyfield.cuda.nearest import center_tree, nearest, nearest_reference

pytestmark = pytest.mark.kernels


def uniform(n, d, seed=0):
    return torch.rand(n, d, generator=torch.Generator().manual_seed(seed))


def crowds(n, d, seed=0):
    """Most centres about a few places, as a signal's edges have them, and some far away."""
    random = torch.Generator().manual_seed(seed)
    place = torch.rand(3, d, generator=random)[torch.randint(3, (n,), generator=random)]
    spread = 10 ** (-3 * torch.rand(n, 1, generator=random) - 0.5)
    return place + spread * torch.randn(n, d, generator=random)


def line(n, d, seed=0):
    centers = torch.zeros(n, d)
    centers[:, 0] = uniform(n, 1, seed)[:, 0]
    return centers


def lattice(n, d, seed=0):
    """Many are as near as each other."""
    side = round(n ** (1 / d))
    ticks = torch.arange(side).float()
    return torch.cartesian_prod(*[ticks] * d)


@pytest.mark.parametrize("k", [1, 4, 16])
@pytest.mark.parametrize("d", [2, 3])
@pytest.mark.parametrize("centers", [uniform, crowds, line, lattice])
def test_the_neighbours_are_those_of_all_distances(device, centers, d, k):
    found = centers(200, d).to(device)
    low, high = found.amin(0), found.amax(0)
    inside = low + (high - low) * uniform(400, d, 1).to(device)
    beside = low + (high - low) * (5 * uniform(100, d, 2).to(device) - 2)
    x = torch.cat([inside, beside, found[:50], found.new_full((1, d), 1e6)])
    tree = center_tree(found)
    got = nearest(x, tree, k)
    expected = nearest_reference(x, tree, k)
    # As numbers of kernels but for those whose distances are the same to a rounding.
    far = [
        (x[:, None].double() - found.double()[rows.long()]).square().sum(2)
        for rows in (got, expected)
    ]
    torch.testing.assert_close(far[0], far[1], rtol=1e-5, atol=1e-12)
    assert (got[:-1] == expected[:-1]).float().mean() > 0.99


def test_of_two_that_are_as_near_the_lower_row_comes_first(device):
    centers = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, 0.0]], device=device)
    x = torch.tensor([[0.1, 0.0], [0.9, 0.0], [0.5, 0.0]], device=device)
    found = nearest(x, center_tree(centers), 4)
    assert found.tolist() == [[1, 3, 0, 2], [0, 2, 1, 3], [0, 1, 2, 3]]


def test_where_there_are_fewer_the_rest_is_marked(device):
    found = nearest(uniform(5, 3).to(device), center_tree(uniform(3, 3, 1).to(device)), 5)
    assert (found[:, 3:] == -1).all() and (found[:, :3].sort(1).values == torch.arange(3)).all()
    single = nearest(uniform(5, 2).to(device), center_tree(torch.zeros(1, 2, device=device)), 1)
    assert not single.any()
    assert nearest(torch.zeros(0, 3, device=device), center_tree(uniform(9, 3)), 2).shape == (0, 2)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), count=st.integers(1, 60), scale=st.sampled_from([1e-6, 1, 1e4]))
def test_any_crowd_at_any_scale(seed, count, scale):
    centers = scale * crowds(count, 3, seed)
    x = scale * 2 * uniform(50, 3, seed + 1)
    tree = center_tree(centers)
    rows = [found.long() for found in (nearest(x, tree, 3), nearest_reference(x, tree, 3))]
    assert torch.equal(rows[0] >= 0, rows[1] >= 0)
    far = [(x[:, None] - centers[r]).double().square().sum(2) for r in rows]
    torch.testing.assert_close(far[0], far[1], rtol=1e-5, atol=0)


@pytest.mark.parametrize("count", [1, 8, 9, 500])
def test_a_tree_holds_every_centre_once_in_boxes_within_boxes(count):
    centers = crowds(count, 3)
    tree = center_tree(centers)
    assert torch.equal(tree.numbers.sort().values, torch.arange(count, dtype=torch.int32))
    assert torch.equal(tree.centers, centers[tree.numbers.long()])
    sizes = tree.starts.diff()
    assert sizes.sum() == count and 1 <= sizes.min() and sizes.max() <= 8
    assert tree.leaves & (tree.leaves - 1) == 0 and len(tree.boxes) == 2 * tree.leaves - 1
    for leaf in range(tree.leaves):
        own = tree.centers[tree.starts[leaf] : tree.starts[leaf + 1]]
        box = tree.boxes[tree.leaves - 1 + leaf]
        assert torch.equal(box, torch.cat([own.amin(0), own.amax(0)]))
    for node in range(tree.leaves - 1):
        children = tree.boxes[2 * node + 1 : 2 * node + 3]
        whole = torch.cat([children[:, :3].amin(0), children[:, 3:].amax(0)])
        assert torch.equal(tree.boxes[node], whole)


@pytest.mark.parametrize(
    ("centers", "k", "message"),
    [
        (torch.zeros(0, 3), 1, "centres: 0 of 3"),
        (torch.zeros(3, 4), 1, "centres: 3 of 4"),
        (torch.full((2, 2), torch.nan), 1, "centres"),
        (torch.zeros(3, 2), 0, "neighbours: 0; expected 1 to 16"),
        (torch.zeros(3, 2), 17, "neighbours: 17"),
    ],
)
def test_what_has_no_neighbours_is_refused(centers, k, message):
    with pytest.raises(InputError, match=message):
        nearest(torch.zeros(1, centers.shape[1]), center_tree(centers), k)
