import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyfield.cuda.rotations import (
    exponential,
    logarithm,
    matrices,
    product,
    quaternions,
    slerp,
)

few = settings(max_examples=50, deadline=None)
turns = st.tuples(*[st.floats(-1.8, 1.8)] * 3)  # up to 3.12 radians, half a circle is 3.14


def exact(values):
    return torch.tensor([values], dtype=torch.float64)


def rodrigues(turn):
    """The rotation matrix about an axis by its length: the matrix exponential."""
    (x, y, z) = turn
    return torch.linalg.matrix_exp(exact([[0, -z, y], [z, 0, -x], [-y, x, 0]]))


@few
@given(turns)
def test_quaternions_are_the_rotations_about_their_axes(turn):
    matrix = rodrigues(turn)
    torch.testing.assert_close(matrices(exponential(exact(turn))), matrix)
    torch.testing.assert_close(matrices(quaternions(matrix)), matrix)
    torch.testing.assert_close(logarithm(exponential(exact(turn))), exact(turn))


@few
@given(turns, turns)
def test_a_product_turns_twice(first, second):
    both = product(exponential(exact(second)), exponential(exact(first)))
    torch.testing.assert_close(matrices(both), rodrigues(second) @ rodrigues(first))


@few
@given(turns, turns, st.floats(0, 1))
def test_slerp_is_a_part_of_the_turn_from_one_to_the_other(start, turn, t):
    p = exponential(exact(start))
    q = product(p, exponential(exact(turn)))
    found = slerp(p, q, exact([t]))
    expected = product(p, exponential(t * exact(turn)))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_half_a_turn_has_its_quaternion():
    for axis in range(3):
        turn = torch.zeros(1, 3).double()
        turn[0, axis] = math.pi
        matrix = rodrigues(turn[0].tolist())
        torch.testing.assert_close(matrices(quaternions(matrix)), matrix)


def test_opposite_quaternions_are_one_rotation():
    q = exponential(exact([0.3, -1.0, 0.2]))
    torch.testing.assert_close(matrices(-q), matrices(q))
    torch.testing.assert_close(logarithm(-q), logarithm(q))


def test_matrices_are_of_quaternions_of_any_length():
    half = math.sqrt(0.5)
    (turned,) = matrices(torch.tensor([[2 * half, 0, 0, 2 * half]]))
    torch.testing.assert_close(turned, torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]))


def test_a_matrix_that_is_nearly_a_rotation_gives_a_unit_quaternion():
    q = quaternions(rodrigues((0.5, 0.1, -2.0)) + 1e-4)
    torch.testing.assert_close(q.norm(dim=1), torch.ones(1).double())
