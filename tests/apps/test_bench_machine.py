from itertools import count

import pytest
import torch

from polyfield.apps import bench_machine
from polyfield.apps.bench_machine import limits

NAMES = [
    "machine/bandwidth",
    "machine/multiply-one-thread",
    "machine/multiply-all-threads",
    "machine/random-read-64KiB",
    "machine/random-read-1MiB",
]


@pytest.fixture(autouse=True)
def small_work(monkeypatch):
    monkeypatch.setattr(bench_machine, "MATRIX_SIDE", 64)
    monkeypatch.setattr(bench_machine, "READS", 1 << 12)


def test_every_limit_is_a_positive_number_without_an_opponent():
    before = torch.get_num_threads()
    rows = limits(1 << 16, 1 << 20)
    assert [row.name for row in rows] == NAMES
    assert [row.unit for row in rows] == ["GB/s", "GFLOP/s", "GFLOP/s", "ns", "ns"]
    for row in rows:
        assert row.ours > 0
        assert (row.against, row.version, row.theirs, row.ratio) == ("", "", None, None)
    assert torch.get_num_threads() == before


def test_limits_are_amounts_of_work_over_seconds(monkeypatch):
    seconds = count()
    monkeypatch.setattr(bench_machine, "perf_counter", lambda: float(next(seconds)))
    bandwidth, *multiply, small, large = (row.ours for row in limits(1 << 16, 1 << 20))
    assert bandwidth == pytest.approx(3 * 2**20 / 1e9)
    assert multiply == pytest.approx([2 * 64**3 / 1e9] * 2)
    assert (small, large) == pytest.approx((1e9 / 2**12,) * 2)


def test_one_thread_is_one_thread(monkeypatch):
    seen = []
    work = lambda: seen.append(torch.get_num_threads()) or 1.0  # noqa: E731
    monkeypatch.setattr(bench_machine, "_multiply", work)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        limits(1 << 16, 1 << 16)
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 2]
