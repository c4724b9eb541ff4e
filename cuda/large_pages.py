"""Large pages for large tables: random reads wait less for the processor's own page tables."""

from __future__ import annotations

import ctypes
import sys

from torch import Tensor

LARGE_PAGE = 1 << 21
_PAGE = 1 << 12
_MADV_HUGEPAGE = 14


def in_large_pages(tensor: Tensor) -> Tensor:
    """The same tensor, its memory to come in pages of 2 MiB where the system grants them.

    For a new contiguous tensor that nothing has been written to: memory gets its pages when it is
    first touched. Linux only, CPU only, from two large pages on; elsewhere nothing happens.
    Source: madvise(2), MADV_HUGEPAGE.
    """
    size = tensor.numel() * tensor.element_size()
    if sys.platform == "linux" and tensor.device.type == "cpu" and size >= 2 * LARGE_PAGE:
        first = -(-tensor.data_ptr() // _PAGE) * _PAGE
        end = (tensor.data_ptr() + size) // _PAGE * _PAGE
        madvise = ctypes.CDLL(None).madvise
        madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), _MADV_HUGEPAGE)
    return tensor
