import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import pytest
import torch

from polyfield.apps.bench_drjit import DEFAULT_EXPANDED, EXPANDED, DrJitGrid
from polyfield.apps.bench_hash import (
    PAPER,
    ROUNDED,
    both_against_drjit,
    both_against_reference,
    both_against_torch,
    features_and_gradient,
    forward_against_drjit,
    hash_inputs,
)
from polyfield.apps.bench_race import Absent, hold
from polyfield.apps.bench_torch_grid import torch_hash_grid
from polyfield.cuda.hash_grid import HashGridLayout, hash_grid_reference

# Two dense levels, one of which leaves nodes past the last one, and four hashed ones.
SMALL = HashGridLayout(levels=6, log2_table_size=15, finest_resolution=300)


def both(encode, x, table, grad, layout=SMALL):
    return features_and_gradient(encode, x, table, grad, layout)


def made(race, *arguments):
    try:
        return race(*arguments)
    except Absent as absent:
        pytest.skip(str(absent))


def test_the_layout_has_dense_and_hashed_levels():
    assert SMALL.hashed[:2] == (False, False) and all(SMALL.hashed[2:])


@pytest.mark.parametrize("threads", [1, 2])
def test_plain_torch_is_the_reference(threads):
    x, table, grad = hash_inputs(500, SMALL)
    x[:8] = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)  # nodes that wrap
    x[8] = torch.tensor([-0.5, 0.5, 1.5])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        got = both(torch_hash_grid, x, table, grad)
        assert torch.get_num_threads() == threads  # its workers' setting is their own
        with ThreadPoolExecutor(1) as new:
            assert new.submit(torch.get_num_threads).result() == threads
    finally:
        torch.set_num_threads(before)
    for mine, right in zip(got, both(hash_grid_reference, x, table, grad), strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("expanded", [EXPANDED, DEFAULT_EXPANDED, 1])
def test_drjit_is_the_reference(expanded):
    x, table, grad = hash_inputs(500, SMALL)
    grid = made(DrJitGrid, x, table, SMALL, expanded)
    features, gradient = both(hash_grid_reference, x, table, grad)
    columns = grid.columns(grad)
    for _ in range(2):  # a gradient that is kept from call to call would be twice as large
        theirs = grid.features_and_gradient(columns)
    got = (grid.features(), theirs[0])
    for mine in got:
        torch.testing.assert_close(grid.rows(mine), features, rtol=0, atol=ROUNDED)
    largest = float(gradient.abs().max())
    torch.testing.assert_close(grid.entries(theirs[1]), gradient, rtol=0, atol=ROUNDED * largest)


def test_drjit_and_we_read_the_same_tables_at_the_size_of_the_race():
    hold("hash-both/drjit", made(both_against_drjit, 200, PAPER), 2)


def test_drjit_uses_as_many_threads_as_torch():
    x, table, _ = hash_inputs(8, SMALL)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert made(DrJitGrid, x, table, SMALL).drjit.thread_count() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "race",
    [forward_against_drjit, both_against_drjit, both_against_reference, both_against_torch],
)
def test_both_sides_of_a_race_do_the_same_work(race):
    hold("race", made(race, 300, SMALL), 2)


@pytest.mark.skipif(find_spec("drjit") is None, reason="drjit is not installed")
def test_without_libllvm_drjit_is_absent_for_a_reason():
    code = (
        "from polyfield.apps.bench_race import Absent\n"
        "from polyfield.apps.bench_drjit import drjit_version\n"
        "try: drjit_version()\n"
        "except Absent as absent: print(absent)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"DRJIT_LIBLLVM_PATH": "/no/such/library.so"},
        capture_output=True,
        text=True,
    )
    assert "libLLVM" in done.stdout and "DRJIT_LIBLLVM_PATH" in done.stdout, done.stderr


def test_without_drjit_it_is_absent_for_a_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "drjit", None)
    x, table, _ = hash_inputs(8, SMALL)
    with pytest.raises(Absent, match="polyfield\\[bench\\]"):
        DrJitGrid(x, table, SMALL)
