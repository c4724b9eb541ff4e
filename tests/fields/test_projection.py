import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyfield.cuda.errors import InputError
from polyfield.fields.projection import Projection

AXES = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
PLAIN = {"axes": AXES, "origin": [0.0, 0.0, 0.0], "extent": [0.5, 0.25], "near": 0.2}


def test_a_pixel_is_as_large_at_every_distance():
    """(x, y, z) = z (0.25, -0.125, 1) is half way to the right and to the upper border."""
    z = torch.tensor([0.2, 0.4, 2.0, 1e4])
    points = torch.stack([0.25 * z, -0.125 * z, z], 1)
    found = Projection(**PLAIN)(points)
    torch.testing.assert_close(found[:, :2], torch.tensor([[0.75, 0.25]]).expand(4, 2))
    torch.testing.assert_close(found[:, 2], torch.tensor([0.0, 0.5, 0.9, 1 - 2e-5]))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 99))
def test_straight_lines_stay_straight_and_keep_their_order(seed):
    random = torch.Generator().manual_seed(seed)
    across = torch.rand(2, 2, generator=random) - 0.5
    ends = torch.cat([across * torch.tensor([0.1, 0.05]), torch.tensor([[0.25], [0.9]])], 1)
    t = torch.linspace(0, 1, 50)[:, None]
    line = Projection(**PLAIN)(ends[0] + t * (ends[1] - ends[0]))
    way = line[-1] - line[0]
    off = torch.linalg.cross(line - line[0], way.expand_as(line))
    assert off.abs().max() < 1e-6
    assert ((line @ way).diff() > 0).all()


def test_axes_turn_and_the_origin_moves():
    angle = 0.7
    right, down = [math.cos(angle), math.sin(angle), 0.0], [0.0, 0.0, -1.0]
    ahead = [-math.sin(angle), math.cos(angle), 0.0]
    origin = torch.tensor([0.3, -0.2, 0.6])
    turned = Projection([right, down, ahead], origin.tolist(), [0.5, 0.25], 0.2)
    own = torch.rand(100, 3, generator=torch.Generator().manual_seed(0)) * 2 - 0.5
    world = origin + own @ torch.tensor([right, down, ahead])
    torch.testing.assert_close(turned(world), Projection(**PLAIN)(own), atol=1e-5, rtol=0)


def test_everything_lands_within_the_unit_cube():
    random = torch.Generator().manual_seed(0)
    points = 10 * torch.randn(1000, 3, generator=random)
    found = Projection(**PLAIN)(points)
    assert found.min() >= 0 and found.max() <= 1
    behind = points[:, 2] <= 0.2
    assert (found[behind, 2] == 0).all() and (found[~behind, 2] > 0).all()


def test_derivatives_are_those_of_finite_differences():
    random = torch.Generator().manual_seed(0)
    x = torch.rand(30, 3, generator=random, dtype=torch.float64) * 0.2 + torch.tensor([0, 0, 0.4])
    projection = Projection(**PLAIN).double()
    assert torch.autograd.gradcheck(projection, (x.requires_grad_(),))


def test_it_adds_nothing_to_a_checkpoint():
    assert not Projection(**PLAIN).state_dict()


@pytest.mark.parametrize(
    "wrong",
    [
        {"near": 0.0},
        {"near": -1.0},
        {"near": math.nan},
        {"near": math.inf},
        {"extent": [0.5, 0.0]},
        {"extent": [0.5]},
        {"extent": [0.5, math.nan]},
        {"origin": [0.0, 0.0, math.inf]},
        {"axes": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 2.0]]},
        {"axes": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]},
        {"axes": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0]]},
    ],
)
def test_numbers_that_are_no_projection_are_refused(wrong):
    with pytest.raises(InputError, match="projection"):
        Projection(**PLAIN | wrong)
