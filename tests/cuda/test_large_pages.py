import sys
from pathlib import Path

import pytest
import torch

from polyfield.cuda.large_pages import LARGE_PAGE, in_large_pages


def flags_of(address):
    """What Linux holds of the mapping around an address, as letters in pairs."""
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, _, rest = line.partition(" ")
        if "-" in first:
            begin, end = (int(part, 16) for part in first.split("-"))
            inside = begin <= address < end
        elif first == "VmFlags:" and inside:
            return rest.split()
    raise AssertionError(f"no mapping of {address:#x}")


@pytest.mark.skipif(sys.platform != "linux", reason="madvise(MADV_HUGEPAGE) is Linux's")
def test_a_large_tensor_lies_in_memory_that_asks_for_large_pages():
    tensor = torch.empty(40 << 20, dtype=torch.uint8)
    if "nh" in flags_of(tensor.data_ptr()):
        pytest.skip("this process refuses large pages")
    assert in_large_pages(tensor) is tensor
    middle = tensor.data_ptr() + tensor.numel() // 2
    assert "hg" in flags_of(middle)


@pytest.mark.parametrize("size", [0, 1, 2 * LARGE_PAGE - 1, 2 * LARGE_PAGE, 5 * LARGE_PAGE + 3])
def test_what_is_written_is_read_again(size):
    tensor = in_large_pages(torch.empty(size + 1, dtype=torch.uint8)[1:]).fill_(7)
    assert len(tensor) == size and bool((tensor == 7).all())
