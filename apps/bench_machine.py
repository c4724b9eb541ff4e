"""What this machine can do at best: the limits that kernels are held against."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import torch

from polyfield.apps.bench_race import Row
from polyfield.apps.torch_threads import torch_threads

TURNS = 7
SMALL_TABLE, LARGE_TABLE = 1 << 18, 1 << 27  # bytes: inside a core's second cache, beyond the last
MATRIX_SIDE = 2048
READS = 1 << 22


def limits(small: int = SMALL_TABLE, large: int = LARGE_TABLE) -> list[Row]:
    """Bandwidth, products and random reads, each the best of several turns.

    Rows are named machine/... and have no opponent. Measured by torch's own loops, so a limit may
    lie a little beyond what is said here:
    bandwidth: b += 2 a over two arrays of `large` bytes, all threads; two reads and a write each,
    none of them hidden, since what is written has been read.
    multiply: a product of 2048 x 2048 float32 matrices; the library comes within about a tenth of
    the fused multiply-adds that the cores can issue; an addition and a product are two operations.
    random-read: 8 bytes at random places of a table of `small` or `large` bytes, on one thread.
    Reads do not wait for each other, as those of a hash grid do not; the time includes reading the
    index and writing the result, about a nanosecond, which is most of it for the small table.
    """
    every = torch.get_num_threads()
    rows = [_row("machine/bandwidth", _bandwidth(large), "GB/s")]
    for name, threads in (("one-thread", 1), ("all-threads", every)):
        with torch_threads(threads):
            rows.append(_row(f"machine/multiply-{name}", _multiply(), "GFLOP/s"))
    with torch_threads(1):
        for size in (small, large):
            rows.append(_row(f"machine/random-read-{_amount(size)}", _random_read(size), "ns"))
    return rows


def _row(name: str, value: float, unit: str) -> Row:
    return Row(name, "", "", value, None, unit, None)


def _amount(size: int) -> str:
    return f"{size >> 20}MiB" if size >= 1 << 20 else f"{size >> 10}KiB"


def _seconds(work: Callable[[], object]) -> float:
    times = []
    for _ in range(TURNS + 1):
        begin = perf_counter()
        work()
        times.append(perf_counter() - begin)
    return min(times[1:])


def _bandwidth(size: int) -> float:
    a, b = torch.ones(size // 4), torch.ones(size // 4)
    return 3 * size / _seconds(lambda: b.add_(a, alpha=2)) / 1e9


def _multiply() -> float:
    side = MATRIX_SIDE
    a, b = torch.randn(side, side), torch.randn(side, side)
    out = torch.empty(side, side)
    return 2 * side**3 / _seconds(lambda: torch.mm(a, b, out=out)) / 1e9


def _random_read(size: int) -> float:
    table = torch.randn(size // 8, dtype=torch.float64)
    index = torch.randint(len(table), (READS,), dtype=torch.int32)
    out = torch.empty(READS, dtype=torch.float64)
    return _seconds(lambda: torch.index_select(table, 0, index, out=out)) / READS * 1e9
