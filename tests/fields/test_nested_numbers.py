"""Shapes of arrays in files, known before memory is taken for them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

from polyfield.fields.nested_numbers import has_shape


@given(array_shapes(max_dims=4, max_side=4))
def test_lists_of_a_tensor_have_its_shape_and_no_other(shape):
    values = torch.zeros(shape).tolist()
    assert has_shape(values, tuple(shape)) and has_shape(values, (None, *shape[1:]))
    assert not has_shape(values, (shape[0] + 1, *shape[1:]))
    assert not has_shape(values, tuple(shape[1:])) and not has_shape(values, (*shape, 1))


@given(st.integers(0, 2), st.integers(0, 2), st.sampled_from([None, "0.5", True, [], [0.5], {}]))
def test_one_entry_that_is_no_number_is_found(row, column, entry):
    values = [[1, 2.0, -3.0] for _ in range(3)]
    assert has_shape(values, (3, 3))
    values[row][column] = entry
    assert not has_shape(values, (3, 3))


@pytest.mark.parametrize("values", [None, 1.0, "abc", (1.0, 2.0), {0: 1.0, 1: 2.0}])
def test_what_is_no_list_has_no_shape(values):
    assert not has_shape(values, (2,)) and not has_shape(values, (None,))
