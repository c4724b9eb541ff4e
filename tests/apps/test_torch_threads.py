import pytest
import torch

from polyfield.apps.torch_threads import torch_threads


@pytest.mark.parametrize("fault", [False, True])
def test_the_number_of_threads_holds_within_the_block_alone(fault):
    before = torch.get_num_threads()
    try:
        with torch_threads(before + 1):
            assert torch.get_num_threads() == before + 1
            if fault:
                raise ArithmeticError
    except ArithmeticError:
        pass
    assert torch.get_num_threads() == before
