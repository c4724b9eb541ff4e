"""The kernels' counter-based random numbers in plain torch, for references and tests."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

_ALL = 0xFFFFFFFF


def random_unit(seed: int, stream: int, index: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Uniform numbers in [0, 1), 24 bits, a function of (seed, stream, index mod 2^32) alone.

    seed, stream: read modulo 2^32. Bit for bit what random_unit in kernels/tile.cuh draws.
    """
    h = _mix((index.long() + 0x9E3779B9) & _ALL) ^ (stream * 0x9E3779B1 & _ALL)
    return (_mix(_mix(h) ^ (seed & _ALL)) >> 8).float() * 2.0**-24


def _mix(h: Tensor) -> Tensor:
    h = _times(h ^ h >> 16, 0x85EBCA6B)
    h = _times(h ^ h >> 13, 0xC2B2AE35)
    return h ^ h >> 16


def _times(h: Tensor, factor: int) -> Tensor:
    # In two halves of the factor: a product of two 32 bit numbers may leave int64.
    return (h * (factor & 0xFFFF) + ((h * (factor >> 16) & _ALL) << 16)) & _ALL


def int32(number: int) -> int:
    """The signed number of the same 32 bits: what an operator's integers and a u32 both hold."""
    return (number & 0xFFFFFFFF) - (number >> 31 & 1) * 2**32
