import json
import math
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyfield.apps.formats.json_fields import Fields
from polyfield.apps.schedule import (
    Schedule,
    mean_seconds,
    read_schedule,
    seconds_per_step,
    steps_within,
)
from polyfield.cuda.errors import InputError

schedules = st.builds(
    Schedule,
    steps=st.integers(1, 5000),
    warmup=st.integers(1, 300),
    hold_fraction=st.floats(0, 1),
    final_factor=st.floats(1e-3, 1),
    measured=st.integers(0, 500),
    rewind_spacing=st.integers(1, 400),
    amended=st.integers(0, 500),
)
quick = settings(max_examples=60, deadline=None)


def test_warm_up_is_linear_and_ends_at_one():
    rates = [Schedule(1000, warmup=50).rate(step) for step in range(60)]
    assert rates[:50] == pytest.approx([(step + 1) / 50 for step in range(50)])
    assert rates[49:] == [1.0] * 11


def test_the_decay_is_exponential_from_the_hold_to_the_last_step():
    schedule = Schedule(1001, warmup=10, hold_fraction=0.5, final_factor=1e-4)
    assert schedule.rate(500) == 1
    assert schedule.rate(750) == pytest.approx(1e-2)
    assert schedule.rate(1000) == pytest.approx(1e-4)
    ratios = [schedule.rate(step + 1) / schedule.rate(step) for step in range(500, 1000)]
    assert ratios == pytest.approx([1e-4 ** (1 / 500)] * 500)


def test_the_decay_waits_for_the_warm_up():
    schedule = Schedule(200, warmup=100, hold_fraction=0.0, final_factor=0.1)
    assert schedule.rate(99) == 1
    assert schedule.rate(100) < 1
    assert schedule.rate(199) == pytest.approx(0.1)


@quick
@given(schedules)
def test_rates_rise_then_fall_and_stay_in_the_unit_interval(schedule):
    rates = [schedule.rate(step) for step in range(schedule.steps)]
    assert all(0 < rate <= 1 for rate in rates)
    top = rates.index(max(rates))
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)


@quick
@given(schedules, st.integers(1, 5000), st.integers(1, 700))
def test_fixing_the_number_of_steps_leaves_the_rates_already_used(schedule, steps, measured):
    open_ended = Schedule(None, schedule.warmup, schedule.hold_fraction, schedule.final_factor)
    fixed = open_ended.fixed(steps, measured)
    assert fixed.steps == max(steps, measured)
    used = range(measured)
    assert [fixed.rate(step) for step in used] == [open_ended.rate(step) for step in used]


@quick
@given(schedules, st.integers(1, 5000), st.data())
def test_amending_the_number_of_steps_changes_nothing_of_those_done(schedule, steps, data):
    done = data.draw(st.integers(0, min(schedule.steps, math.floor(schedule.decay_begin) + 1)))
    amended = schedule.amend(steps, done)
    assert amended.steps == max(steps, done)
    used = range(done)
    assert [amended.rate(step) for step in used] == [schedule.rate(step) for step in used]
    kept = [(amended.rewind_step(step), amended.keeps(step)) for step in used]
    assert kept == [(schedule.rewind_step(step), schedule.keeps(step)) for step in used]


def test_an_amended_schedule_decays_over_the_steps_that_are_left():
    longer = Schedule(1001, final_factor=1e-4).amend(2001, 300)
    assert longer == Schedule(2001, final_factor=1e-4, amended=300, plans=((300, 1001),))
    assert [longer.rate(step) for step in (800, 1400, 2000)] == pytest.approx([1, 1e-2, 1e-4])
    shorter = Schedule(1001, final_factor=1e-4).amend(501, 301)  # 40 of a hundred are over
    assert [shorter.rate(step) for step in (300, 400, 500)] == pytest.approx([1, 1e-2, 1e-4])


def test_each_step_is_planned_for_as_it_was_when_it_was_done():
    assert Schedule(None).planned(5) is None and Schedule(7).planned(5) == 7
    schedule = Schedule(None).fixed(900, 100)
    amended = schedule.amend(800, 400).amend(700, 600)
    planned = [amended.planned(step) for step in (0, 99, 100, 399, 400, 599, 600, 699)]
    assert planned == [None, None, 900, 900, 800, 800, 700, 700]
    whole = Schedule(None).fixed(900).amend(800, 400)
    assert [whole.planned(step) for step in (0, 399, 400)] == [900, 900, 800]


@quick
@given(schedules)
def test_a_rewind_goes_back_to_a_kept_state_and_not_too_far(schedule):
    spacing = schedule.rewind_spacing
    for step in range(0, schedule.steps, 7):
        target = schedule.rewind_step(step)
        assert target <= step and schedule.keeps(target)
        assert step - target < spacing or target == 0 and step < schedule.measured + 2 * spacing


def test_kept_states_are_few():
    schedule = Schedule(None).fixed(16_000)
    assert sum(schedule.keeps(done) for done in range(16_001)) == 17
    short = Schedule(None).fixed(1000)
    assert [done for done in range(1000) if short.keeps(done)] == [0, 250, 500, 750]
    assert not any(Schedule(None).keeps(done) for done in range(1, 1000))


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"warmup": 0},
        {"hold_fraction": 1.1},
        {"hold_fraction": math.nan},
        {"final_factor": 0.0},
        {"rewind_spacing": 0},
    ],
)
def test_senseless_schedules_are_refused(wrong):
    with pytest.raises(InputError):
        Schedule(**{"steps": 10} | wrong)


WHOLE = {"steps": 10, "warmup": 5, "hold_fraction": 0.5, "measured": 0, "rewind_spacing": 9}


def test_a_schedule_is_read_as_it_was_written():
    twice = Schedule(9).amend(8, 2).amend(9, 4)
    for schedule in (Schedule(10, final_factor=0.5), Schedule(None), twice):
        values = json.loads(json.dumps(asdict(schedule)))
        assert (
            read_schedule(Fields("config.json: schedule", values)) == schedule == Schedule(**values)
        )


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("steps", [0, 1.5, True, 10**30, math.nan, "a"]),
        ("warmup", [0, math.inf, 1.5]),
        ("measured", [-1, "a"]),
        ("rewind_spacing", [0, 0.5]),
        ("amended", [-1, 1.5]),
        ("plans", [3, "a", [3], [[3]], [[1, 2, 3]], [[1, -2]], [[1, 2.0]], [[True, 2]], ["ab"]]),
        ("hold_fraction", [-1, 1.1, math.nan, "a"]),
        ("final_factor", [0.0, 2, 10**400]),
        ("wing", [1]),
    ],
)
def test_a_schedule_of_no_run_is_refused(key, values):
    for value in values:
        with pytest.raises(InputError, match=f"schedule.*{key}"):
            read_schedule(Fields("config.json: schedule", WHOLE | {key: value}))


def test_a_steps_time_leaves_out_the_warming_and_counts_what_is_done_now_and_then():
    assert seconds_per_step([5.0]) == 5
    assert seconds_per_step([9.0, 9.0, 1.0, 2.0, 50.0]) == 2
    periodic = [1.0 + 16 * (step % 16 == 0) for step in range(160)]
    assert seconds_per_step([100.0] * 160 + periodic) == pytest.approx(2)
    hiccup = [1.0] * 159 + [1000.0]
    assert seconds_per_step([1.0] * 160 + hiccup) == 1


def test_the_mean_time_has_slow_and_quick_minutes_in_it_but_not_the_first_steps():
    assert mean_seconds([3.0]) == 3
    assert mean_seconds([9.0] * 25 + [1.0] * 50 + [2.5] * 25) == pytest.approx(1.5)


def test_steps_fill_the_time_but_for_the_reserve():
    assert steps_within(100.0, 0.1, rewind_spacing=250) == 950
    assert steps_within(-5.0, 0.1, rewind_spacing=250) == 0


@pytest.mark.parametrize(
    ("spacing", "checkpoints"),
    [
        (10_000, 2 * (1 + 5)),  # every minute a kept one, five between them
        (1_000, 13),  # every six seconds a kept one, and the last
        (1, 17),
    ],
)
def test_steps_leave_time_for_checkpoints_and_validations(spacing, checkpoints):
    overhead = checkpoints * 0.5 + 20 * 0.25
    expected = math.floor((0.95 * 120 - overhead) / 0.01)
    times = {"per_checkpoint": 0.5, "per_validation": 0.25}
    assert steps_within(120.0, 0.01, rewind_spacing=spacing, **times) == expected
