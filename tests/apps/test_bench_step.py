import os

import pytest
import torch

from polyfield.apps.bench_race import check
from polyfield.apps.bench_step import step_against_reference
from polyfield.cuda.backend import VARIABLE
from polyfield.fields.hash_grid import HashGridArguments

SMALL = HashGridArguments(levels=4, log2_table_size=12, finest_resolution=64)


@pytest.fixture(scope="module")
def race():
    return step_against_reference(24, 8192, 48, SMALL)


def test_both_sides_end_with_the_same_field_from_the_same_samples(race):
    race.before()
    start = [tensor.clone() for tensor in race.ours()]
    race.before()
    theirs = race.theirs()
    check("step/reference", tuple(start), theirs, 1e-3)
    rays, marched, shaded = theirs[-2].tolist()
    assert rays >= 64 and 0 < shaded <= marched
    torch.testing.assert_close(start[-2], theirs[-2], rtol=0, atol=0)


def test_a_step_moves_table_and_networks(race):
    race.before()
    once = [part.clone() for part in race.theirs()[:-2]]
    twice = race.theirs()[:-2]
    assert all(bool((a != b).any()) for a, b in zip(once, twice, strict=True))


def test_every_turn_begins_from_the_same_state(race):
    results = []
    for _ in range(2):
        race.before()
        results.append([tensor.clone() for tensor in race.ours()])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_only_our_side_runs_kernels(race, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    race.before()

    def refuse(*arguments):
        raise RuntimeError("a kernel runs")

    monkeypatch.setattr("polyfield.cuda.kernel.run_native", refuse)
    # Nor does theirs encode once more, to find the table's gradient as the deferred step would.
    monkeypatch.setattr("polyfield.fields.hash_grid.hash_grid_adam_", refuse)
    race.theirs()
    assert VARIABLE not in os.environ
    with pytest.raises(RuntimeError, match="a kernel runs"):
        race.ours()
