"""Plans of the loop that are foreseen, not measured, and what steps are told of them."""

import pytest
from least_squares import Clock, LeastSquares, events, final_bytes, train

from polyfield.apps import files, loop
from polyfield.apps.checkpoint import latest
from polyfield.apps.run_folder import RunFolder
from polyfield.apps.schedule import Schedule


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """No test here cuts the power; a killed process leaves what it has written."""
    monkeypatch.setattr(files.os, "fsync", lambda handle: None)


class Planned(LeastSquares):
    """Its rate falls with the part of the planned steps that is done, as that of Gaussians does."""

    def step(self, step, rate, planned=None):
        part = step / (planned or 1000)
        return super().step(step, rate * 0.1**part, planned)


STEADY = Schedule(None, warmup=1, hold_fraction=1.0)


def test_what_is_foreseen_makes_the_plan_before_the_first_step(tmp_path, monkeypatch):
    task, clock = Planned(), Clock(monkeypatch)
    clock.pass_in(task, 0.1)
    asked, plans = [], []

    def foreseen():
        clock.now += 0.6
        asked.append(task.plans.copy())
        return 0.1

    outcome = train(
        tmp_path / "run",
        task,
        STEADY,
        started=clock.now,
        minutes=1.0,
        foreseen=foreseen,
        on_plan=lambda schedule, seconds: plans.append((len(task.plans), schedule.steps, seconds)),
    )
    assert asked == [[]]  # once, and nothing had been done
    assert outcome.ended == "finished" and 55 < outcome.seconds <= 60
    steps = events(tmp_path / "run", "plan")
    assert [(event["step"], event["steps"]) for event in steps] == [plan[:2] for plan in plans]
    # After 24, 36 and 48 seconds of steps that are as long as was foreseen.
    assert [done for done, *_ in plans] == pytest.approx([0, 235, 355, 475], abs=2)
    assert plans[0][1] == pytest.approx(0.95 * 594, abs=6)
    assert [seconds for *_, seconds in plans] == pytest.approx([0.1] * 4)
    assert [record["step"] for record in RunFolder.open(tmp_path / "run").records()][0] == 0
    assert outcome.schedule.measured == 0 and outcome.step == outcome.schedule.steps
    # What each step was told is the plan that there was.
    dones = [done for done, *_ in plans[1:]] + [outcome.step]
    told, begin = [], 0
    for (_, planned, _), done in zip(plans, dones, strict=True):
        told += [planned] * (done - begin)
        begin = done
    assert task.plans == told
    assert [rate for _, rate in task.rates[:1]] == [1.0]


def test_looks_at_the_held_out_view_are_a_part_of_a_foreseen_plan(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)

    class Slow(Planned):
        def validate(self, step):
            clock.now += 0.2
            return super().validate(step)

    task = Slow()
    clock.pass_in(task, 0.1)
    plan = dict(started=clock.now, minutes=1.0, foreseen=lambda: 0.1)
    train(tmp_path / "run", task, STEADY, **plan)
    first = events(tmp_path / "run", "plan")[0]
    assert first["steps"] == pytest.approx((0.95 * 59.8 - 20 * 0.2) / 0.1, abs=2)


def growing(step):
    """Seconds of a step that takes four times as long in the end."""
    return 0.05 + 0.15 * min(1.0, step / 280)


def test_a_foreseen_plan_is_set_right_by_the_last_quarter_of_the_steps(tmp_path, monkeypatch):
    task, clock = Planned(), Clock(monkeypatch)
    clock.pass_in(task, growing)
    plan = dict(started=clock.now, minutes=1.0, foreseen=lambda: 0.14)
    outcome = train(tmp_path / "run", task, STEADY, **plan)
    assert outcome.ended == "finished" and 50 < outcome.seconds <= 60
    first, *later = events(tmp_path / "run", "plan")
    assert first["seconds_per_step"] == 0.14 and len(later) == 3
    for event in later:
        count = -(-event["step"] // 4)
        last = [growing(step) for step in range(event["step"] - count, event["step"])]
        assert event["seconds_per_step"] == pytest.approx(sum(last) / count, abs=1e-9)
    shares = [sum(map(growing, range(event["step"]))) / 60 for event in later]
    assert shares == pytest.approx([0.4, 0.6, 0.8], abs=0.005)
    numbers = [event["steps"] for event in (first, *later)]
    assert len({*numbers}) == 4 and numbers[-1] == outcome.step


def test_a_plan_that_was_set_right_is_repeated_by_the_schedule_it_ended_with(tmp_path, monkeypatch):
    task, clock = Planned(), Clock(monkeypatch)
    clock.pass_in(task, growing)
    plan = dict(started=clock.now, minutes=1.0, foreseen=lambda: 0.14)
    outcome = train(tmp_path / "run", task, STEADY, **plan)
    again = Planned()
    train(tmp_path / "again", again, outcome.schedule, foreseen=lambda: 1 / 0)
    assert again.plans == task.plans and len({*task.plans}) == 4
    assert final_bytes(tmp_path / "again") == final_bytes(tmp_path / "run")


def test_a_run_killed_soon_after_its_plan_was_set_right_goes_on_as_if_it_had_not_been(
    tmp_path, monkeypatch
):
    task, clock = Planned(), Clock(monkeypatch)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 1e9)

    def step(number):
        clock.now += growing(number)
        if task.plans and task.plans[-1] != task.plans[0]:
            raise KeyboardInterrupt

    task.before_step = step
    plan = dict(started=clock.now, minutes=1.0, foreseen=lambda: 0.14)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", task, STEADY, **plan)
    first, amended = events(tmp_path / "run", "plan")[:2]
    assert latest(tmp_path / "run/checkpoints").step < amended["step"]
    assert first["steps"] != amended["steps"]
    again = Planned()
    outcome = train(tmp_path / "run", again, STEADY, minutes=1.0, foreseen=lambda: 1 / 0)
    assert again.plans[0] == first["steps"] and outcome.step == amended["steps"]
    train(tmp_path / "whole", Planned(), outcome.schedule)
    assert final_bytes(tmp_path / "whole") == final_bytes(tmp_path / "run")


@pytest.mark.parametrize("hold", [0.3, 0.5, 0.55])
def test_a_foreseen_plan_is_not_set_right_any_more_once_the_rate_falls(tmp_path, monkeypatch, hold):
    task, clock = LeastSquares(), Clock(monkeypatch)
    clock.pass_in(task, growing)
    schedule = Schedule(None, warmup=1, hold_fraction=hold)
    plan = dict(started=clock.now, minutes=1.0, foreseen=lambda: 0.14)
    outcome = train(tmp_path / "run", task, schedule, **plan)
    assert 1 < len(events(tmp_path / "run", "plan")) < 4
    assert [rate for _, rate in task.rates] == [
        outcome.schedule.rate(s) for s in range(outcome.step)
    ]
    assert task.rates[-1][1] < 0.1


def test_nobody_foresees_where_the_steps_are_fixed(tmp_path):
    outcome = train(tmp_path / "run", LeastSquares(), Schedule(20), foreseen=lambda: 1 / 0)
    assert outcome.step == 20


def test_a_plan_that_was_too_long_does_not_leave_time_over(tmp_path, monkeypatch):
    """Steps are twice as quick as was foreseen."""
    task, clock = Planned(), Clock(monkeypatch)
    clock.pass_in(task, 0.1)
    plan = dict(started=clock.now, minutes=1.0, foreseen=lambda: 0.3)
    outcome = train(tmp_path / "run", task, STEADY, **plan)
    assert 54 < outcome.seconds <= 60 and outcome.ended == "finished"
