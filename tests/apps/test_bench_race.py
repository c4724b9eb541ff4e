import pytest
import torch

from polyfield.apps import bench_race
from polyfield.apps.bench_race import Race, hold
from polyfield.cuda.errors import PolyfieldError


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the sides move; a list of what ran, in order."""

    class Clock:
        now, ran = 0.0, []

    monkeypatch.setattr(bench_race, "perf_counter", lambda: Clock.now)
    monkeypatch.setattr(bench_race, "sleep", lambda seconds: None)
    Clock.ran = []
    return Clock


def side(clock, name, seconds, result=None):
    def work():
        clock.ran.append(name)
        clock.now += next(seconds) if hasattr(seconds, "__next__") else seconds
        return (torch.ones(2),) if result is None else result

    return work


def test_ratio_is_their_time_over_ours_in_the_same_turn(clock):
    # Two untimed turns, then five on a machine that becomes slower and slower, where the first run
    # after a pause is slow.
    ours = iter([9.0, 9.0, *(s for k in range(1, 6) for s in (8.0, 0.001 * k))])
    theirs = iter([9.0, 9.0, *(s for k in range(1, 6) for s in (7.0, 0.003 * k))])
    race = Race("them", "1", side(clock, "ours", ours), side(clock, "theirs", theirs), 0.0)
    row = hold("work/them", race, 5)
    assert (row.ours, row.theirs, row.ratio) == pytest.approx((3, 9, 3))
    assert (row.name, row.against, row.version, row.unit) == ("work/them", "them", "1", "ms")


def test_each_side_goes_first_in_every_other_turn(clock):
    race = Race("them", "1", side(clock, "ours", 1), side(clock, "theirs", 1), 0.0)
    hold("work/them", race, 4)
    order = ["ours", "theirs", "theirs", "ours"] * 2
    assert clock.ran[4:] == [side for side in order for _ in range(2)]


def test_what_comes_before_a_turn_is_not_timed(clock):
    before = side(clock, "before", 1000.0)
    race = Race(
        "them", "1", side(clock, "ours", 1), side(clock, "theirs", 2), 0.0, before=lambda: before()
    )
    row = hold("work/them", race, 3)
    assert (row.ours, row.theirs) == (1000, 2000)
    assert clock.ran.count("before") == 5 and clock.ran[6] == "before"


@pytest.mark.parametrize(
    "theirs", [torch.tensor([1, 1.1]), torch.tensor([1, torch.nan]), torch.ones(3), torch.ones(1)]
)
def test_sides_that_do_different_work_get_no_ratio(clock, theirs):
    race = Race("them", "1", side(clock, "", 1), side(clock, "", 1, (theirs,)), 0.05)
    with pytest.raises(PolyfieldError, match="work/them: result 0 .* different work"):
        hold("work/them", race, 3)


def test_a_difference_within_the_tolerance_is_rounding(clock):
    near = (torch.tensor([1.0, 1.04]),)
    hold("work/them", Race("", "", side(clock, "", 1), side(clock, "", 1, near), 0.05), 2)


def test_results_are_read_before_they_are_compared(clock):
    theirs = side(clock, "", 1, "one, one")
    race = Race("", "", side(clock, "", 1), theirs, 0.0, read=lambda text: (torch.ones(2),))
    hold("work/them", race, 2)
