"""Squares that Gaussians reach: none that a pixel needs is missing, few are there for nothing."""

import pytest
import torch
from splat_scenes import camera, gaussians

from polyfield.cuda.splat_bin import splat_bin
from polyfield.cuda.splat_project import Projected, splat_project

pytestmark = pytest.mark.kernels


def seen_by(view, n=300, seed=0, **changes):
    return splat_project(*(t.float() for t in gaussians(n, seed, **changes)), view)


def pairs_of(bins, columns):
    """Square numbers and Gaussians of all pairs."""
    squares = torch.repeat_interleave(bins.starts.diff().long())
    return set(zip(squares.tolist(), bins.owners[bins.order].tolist(), strict=True))


def needed(seen, width, height):
    """By all pixels of the view: where the opacity is 1 / 255 and more."""
    x = torch.arange(width) + 0.5
    y = torch.arange(height)[:, None] + 0.5
    found, columns = set(), -(-width // 16)
    for row in range(len(seen.depths)):
        dx, dy = seen.means2d[row, 0] - x, seen.means2d[row, 1] - y
        a, b, c = seen.conics[row]
        alpha = seen.opacities[row] * (-0.5 * (a * dx**2 + c * dy**2) - b * dx * dy).exp()
        at = torch.nonzero(alpha >= 1 / 255)
        squares = at[:, 0] // 16 * columns + at[:, 1] // 16
        found |= {(square, row) for square in squares.tolist()}
    return found


@pytest.mark.parametrize(("size", "spread"), [(-2.2, 0.6), (-3.5, 1.5), (-1.0, 0.8)])
def test_every_square_that_a_pixel_needs_is_there(device, size, spread):
    view = camera(width=131, height=77)
    seen = seen_by(view, size=size, spread=spread)
    there = Projected(*(column.to(device) for column in seen))
    found = pairs_of(splat_bin(there, 131, 77), 9)
    wanted = needed(seen, 131, 77)
    assert len(wanted) > 300 and wanted <= found
    # By rectangles of pixels' middles few more; by bounding boxes it would be twice as many.
    assert len(found) < 1.25 * len(wanted)


def test_pairs_are_those_of_the_specification(device):
    view = camera(width=90, height=61)
    seen = seen_by(view)
    found = splat_bin(Projected(*(column.to(device) for column in seen)), 90, 61)
    expected = splat_bin(Projected(seen.rows, *(column.double() for column in seen[1:])), 90, 61)
    assert pairs_of(found, 6) == pairs_of(expected, 6)
    assert torch.equal(found.offsets.cpu(), expected.offsets)
    assert torch.equal(found.owners.cpu(), expected.owners)
    assert torch.equal(found.starts.cpu(), expected.starts)


def test_each_square_s_list_goes_by_depth_and_then_by_row(device):
    seen = seen_by(camera(), 200, size=-1.0)
    depths = (seen.depths * 4).round() / 4  # many are as near as others
    there = Projected(*(column.to(device) for column in seen._replace(depths=depths)))
    bins = splat_bin(there, 53, 37)
    for begin, end in zip(bins.starts[:-1].tolist(), bins.starts[1:].tolist(), strict=True):
        rows = bins.owners[bins.order[begin:end]].tolist()
        keys = [(depths[row].item(), row) for row in rows]
        assert keys == sorted(keys) and len(set(rows)) == len(rows)


def test_pairs_of_a_gaussian_lie_together(device):
    seen = seen_by(camera(), 80)
    bins = splat_bin(Projected(*(column.to(device) for column in seen)), 53, 37)
    expected = torch.repeat_interleave(bins.offsets.diff()).int()
    assert torch.equal(bins.owners, expected)
    assert torch.equal(bins.order.sort().values.cpu(), torch.arange(len(bins.owners)))


def test_views_have_squares_of_their_own(device):
    seen = seen_by(camera(), 60)
    twice = Projected(*(torch.cat([column, column]).to(device) for column in seen))
    view = torch.arange(2).repeat_interleave(len(seen.depths)).to(device)
    both = splat_bin(twice, 53, 37, view, 2)
    single = splat_bin(Projected(*(column.to(device) for column in seen)), 53, 37)
    squares, pairs = len(single.starts) - 1, len(single.owners)
    assert len(both.starts) == 2 * squares + 1
    assert torch.equal(both.starts[squares:] - pairs, single.starts)
    assert torch.equal(
        both.owners[both.order[pairs:]] - len(seen.depths), single.owners[single.order]
    )


def test_none_reach_no_square(device):
    seen = Projected(*(column[:0].to(device) for column in seen_by(camera(), 5)))
    bins = splat_bin(seen, 53, 37)
    assert len(bins.owners) == 0 and not bins.starts.any() and len(bins.starts) == 13


@pytest.mark.parametrize("count", [1, 31, 33, 1000])
def test_runs_of_any_length_are_ordered_as_the_specification_has_it(device, count):
    """Of two views; many are as deep as others, and stay in the order of their rows."""
    seen = seen_by(camera(), 1300, size=-2.0)
    random = torch.Generator().manual_seed(2)
    rows = torch.randint(0, len(seen.depths), (count,), generator=random)
    picked = Projected(*(column[rows] for column in seen))
    picked = picked._replace(depths=(8 * picked.depths).round() / 8)
    view = torch.randint(0, 2, (count,), generator=random)
    there = Projected(*(column.to(device) for column in picked))
    found = splat_bin(there, 53, 37, view.to(device), 2)
    exact = Projected(picked.rows, *(column.double() for column in picked[1:]))
    expected = splat_bin(exact, 53, 37, view, 2)
    for got, want in zip(found, expected, strict=True):
        assert torch.equal(got.cpu(), want)
