import pytest
import torch

from polyfield.cuda.errors import InputError
from polyfield.fields.contraction import Contraction
from polyfield.fields.projection import Projection
from polyfield.fields.warp import build_warp, carried

PLAIN = {
    "axes": [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]],
    "origin": [0.1, 0.2, 0.3],
    "extent": [0.5, 0.25],
    "near": 0.2,
}


def test_plain_values_name_one_map_or_none():
    assert build_warp({}) is None
    contraction = build_warp({"contraction": 3})
    assert isinstance(contraction, Contraction) and contraction.levels == 3
    projection = build_warp({"projection": PLAIN})
    x = torch.rand(9, 3)
    assert torch.equal(projection(x), Projection(**PLAIN)(x))


def test_a_map_on_no_device_has_its_numbers_all_the_same():
    """A checkpoint's field is first built without memory."""
    with torch.device("meta"):
        projection = build_warp({"projection": PLAIN})
    assert projection.axes.device.type == "cpu"


@pytest.mark.parametrize(
    "values",
    [
        {"contraction": 99},
        {"contraction": 3, "projection": PLAIN},
        {"projection": 3},
        {"projection": {}},
        {"projection": PLAIN | {"wing": 1}},
        {"projection": PLAIN | {"near": None}},
        {"projection": PLAIN | {"near": "2"}},
        {"projection": PLAIN | {"near": -1.0}},
        {"projection": PLAIN | {"origin": None}},
        {"projection": PLAIN | {"origin": [0.0, 0.0, True]}},
        {"projection": PLAIN | {"axes": "axes"}},
        {"projection": PLAIN | {"axes": 3}},
        {"projection": PLAIN | {"axes": [1.0, 2.0, 3.0]}},
        {"contraction": True},
        {"contraction": 2.0},
        {"contraction": "3"},
        {"wing": 1},
    ],
)
def test_anything_else_is_refused(values):
    with pytest.raises(InputError):
        build_warp(values)


@pytest.mark.parametrize("warp", [Contraction(3), build_warp({"projection": PLAIN})])
def test_rooms_are_carried_by_the_slope_of_the_map(warp):
    x = torch.rand(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    variance = 1e-4 * torch.rand(50, 3, dtype=torch.float64)
    warp = warp.double()
    moved, carried_variance = carried(warp, x, variance)
    for row in range(50):
        slope = torch.autograd.functional.jacobian(lambda p: warp(p[None])[0], x[row])
        expected = (slope @ torch.diag(variance[row]) @ slope.T).diagonal()
        torch.testing.assert_close(carried_variance[row], expected)
    assert torch.equal(moved, warp(x))


def test_a_point_without_a_room_is_moved_alone():
    x = torch.rand(5, 3)
    moved, none = carried(Contraction(2), x, None)
    assert none is None and torch.equal(moved, Contraction(2)(x))
