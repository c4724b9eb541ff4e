"""What the loop makes of time: plans, checkpoints by the clock, and a machine that slows down."""

import signal

import pytest
from least_squares import SCHEDULE, Clock, LeastSquares, events, final_bytes, train

from polyfield.apps import checkpoint, files
from polyfield.apps.checkpoint import latest, read, steps_in
from polyfield.apps.interruption import Interrupted
from polyfield.apps.run_folder import RunFolder
from polyfield.apps.schedule import CHECKPOINT_SECONDS, Schedule


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """No test here cuts the power; a killed process leaves what it has written."""
    monkeypatch.setattr(files.os, "fsync", lambda handle: None)


def test_the_clock_writes_checkpoints_between_and_they_change_no_bit(
    tmp_path, uninterrupted, monkeypatch
):
    task, clock = LeastSquares(), Clock(monkeypatch)
    written, real = [], checkpoint.write

    def write(path, tensors, metadata):
        real(path, tensors, metadata)
        written.append((clock.now, metadata["step"]))

    def step(number):
        clock.now += 5
        kept = set(steps_in(tmp_path / "run/checkpoints"))
        # The last two, and what the NaN guard would go back to.
        assert kept == {s for _, s in written[-2:]} | {number // 8 * 8}

    task.before_step = step
    monkeypatch.setattr(checkpoint, "write", write)
    train(tmp_path / "run", task, SCHEDULE)
    times = [now for now, _ in written]
    assert max(b - a for a, b in zip(times, times[1:], strict=False)) <= 15
    assert len(written) > 30
    assert final_bytes(tmp_path / "run") == final_bytes(uninterrupted)


def test_quick_steps_cost_no_checkpoints_beyond_the_kept_ones(tmp_path, monkeypatch):
    task, clock = LeastSquares(), Clock(monkeypatch)
    clock.pass_in(task, CHECKPOINT_SECONDS / 1000)
    count, real = [], checkpoint.write
    monkeypatch.setattr(checkpoint, "write", lambda *a: (count.append(1), real(*a)))
    train(tmp_path / "run", task, Schedule(900))
    assert len(count) == 5  # 0, 250, 500, 750, 900


def test_minutes_become_a_plan_that_ends_in_time(tmp_path, monkeypatch):
    task, clock = LeastSquares(), Clock(monkeypatch)
    clock.pass_in(task, lambda step: 0.2 + 0.32 * (step % 16 == 0))  # 0.22 s on the average
    started = clock.now - 20  # loading took 20 s
    plans = []
    outcome = train(
        tmp_path / "run",
        task,
        Schedule(None),
        started=started,
        minutes=3.0,
        on_plan=lambda schedule, per_step: plans.append((schedule, per_step)),
    )
    assert outcome.ended == "finished" and outcome.seconds <= 180
    assert outcome.seconds > 0.93 * 180
    (first, per_step), (schedule, again) = plans
    assert (schedule.measured, schedule.steps) == (100, outcome.step)
    assert per_step == pytest.approx(0.22) and again == pytest.approx(0.22, rel=1e-3)
    assert schedule.steps == pytest.approx(first.steps, rel=0.02) and first.amended == 0
    config = RunFolder.open(tmp_path / "run").config()
    assert Schedule(**config["schedule"]) == schedule == outcome.schedule
    assert Schedule(**read(outcome.checkpoint)[1]["schedule"]) == schedule
    # The plan is all that the clock had to say: its rates, and the same bits by steps.
    assert [rate for _, rate in task.rates] == [schedule.rate(s) for s in range(outcome.step)]
    train(tmp_path / "again", LeastSquares(), schedule)
    assert final_bytes(tmp_path / "again") == final_bytes(tmp_path / "run")


@pytest.mark.parametrize("factor", [1.6, 0.5])
def test_a_plan_made_of_untypical_steps_is_set_right_before_the_rate_falls(
    tmp_path, monkeypatch, factor
):
    """Rays that find less and less to skip, or more and more."""
    task, clock = LeastSquares(), Clock(monkeypatch)
    clock.pass_in(task, lambda step: 0.1 * (1 if step < 100 else factor))
    plans = []
    outcome = train(
        tmp_path / "run",
        task,
        Schedule(None, warmup=10),
        started=clock.now,
        minutes=2.0,
        on_plan=lambda schedule, per_step: plans.append((schedule, per_step)),
    )
    assert outcome.ended == "finished" and 112 < outcome.seconds <= 120
    (first, _), (schedule, per_step) = plans
    assert per_step == pytest.approx(0.1 * factor, rel=0.05) and schedule.amended > 100
    assert (schedule.steps < first.steps) == (factor > 1)
    # Nothing of it had decayed by the first plan, and all of the decay lies in the second.
    assert schedule.amended <= first.decay_begin + 1 and schedule.amended < 0.45 * schedule.steps
    assert [rate for _, rate in task.rates] == [schedule.rate(s) for s in range(outcome.step)]
    assert task.rates[-1][1] == pytest.approx(schedule.final_factor)
    assert RunFolder.open(tmp_path / "run").config()["schedule"]["steps"] == outcome.step
    train(tmp_path / "again", LeastSquares(), schedule)
    assert final_bytes(tmp_path / "again") == final_bytes(tmp_path / "run")


def test_a_run_killed_after_its_plan_was_set_right_goes_on_by_that_one(tmp_path, monkeypatch):
    task, clock = LeastSquares(), Clock(monkeypatch)

    def step(number):
        clock.now += 0.01 if number < 101 else 0.02
        if number == 1260:
            raise KeyboardInterrupt

    task.before_step = step
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", task, Schedule(None), started=clock.now, minutes=1.0)
    first, amended = events(tmp_path / "run", "plan")
    saved = latest(tmp_path / "run/checkpoints")
    assert saved.step < amended["step"] and saved.metadata["schedule"]["steps"] == first["steps"]
    outcome = train(tmp_path / "run", LeastSquares(), Schedule(None), minutes=1.0)
    assert outcome.step == outcome.schedule.steps == amended["steps"]
    train(tmp_path / "whole", LeastSquares(), outcome.schedule)
    assert final_bytes(tmp_path / "whole") == final_bytes(tmp_path / "run")


def test_what_a_run_goes_back_to_is_the_same_before_and_after_its_plan_is_set_right(
    tmp_path, monkeypatch
):
    bad = {150: 0.6, 260: 0.1}  # before and after it
    task, clock = LeastSquares(bad=bad), Clock(monkeypatch)
    clock.pass_in(task, lambda step: 0.1 if step < 120 else 0.16)
    schedule = Schedule(None, warmup=1, rewind_spacing=5)
    outcome = train(tmp_path / "run", task, schedule, started=clock.now, minutes=1.0)
    first, amended = events(tmp_path / "run", "plan")
    assert 150 < amended["step"] < 260 and first["steps"] != amended["steps"]
    assert outcome.rewinds == 2 and outcome.ended == "out of time"  # what was lost is not planned
    train(tmp_path / "run", task, schedule, minutes=1.0)  # the rest
    train(tmp_path / "again", LeastSquares(bad=bad), outcome.schedule)
    assert final_bytes(tmp_path / "again") == final_bytes(tmp_path / "run")


def test_a_number_of_steps_that_was_asked_for_stays(tmp_path, monkeypatch):
    task, clock = LeastSquares(), Clock(monkeypatch)
    clock.pass_in(task, lambda step: 0.1 if step < 120 else 0.05)
    outcome = train(tmp_path / "run", task, Schedule(300), started=clock.now, minutes=1.0)
    assert outcome.step == 300 and outcome.schedule == Schedule(300)


def test_when_the_machine_slows_down_the_clock_ends_the_run_early(tmp_path, monkeypatch):
    task, clock = LeastSquares(), Clock(monkeypatch)
    clock.pass_in(task, lambda step: 0.2 if step < 150 else 0.8)
    plan = dict(started=clock.now, minutes=1.0)
    outcome = train(tmp_path / "run", task, Schedule(None), **plan)
    assert outcome.ended == "out of time" and outcome.step < outcome.schedule.steps
    assert 57 < outcome.seconds <= 60
    assert latest(tmp_path / "run/checkpoints").step == outcome.step
    assert events(tmp_path / "run", "out of time")[0]["step"] == outcome.step
    # Going on knows no clock: the plan is carried out.
    rest = train(tmp_path / "run", task, Schedule(None), **plan)
    assert rest.ended == "finished" and rest.step == outcome.schedule.steps
    train(tmp_path / "whole", LeastSquares(), outcome.schedule)
    assert final_bytes(tmp_path / "whole") == final_bytes(tmp_path / "run")


def test_slow_steps_are_measured_less_long(tmp_path, monkeypatch):
    task, clock = LeastSquares(), Clock(monkeypatch)
    clock.pass_in(task, 3.0)
    outcome = train(tmp_path / "run", task, Schedule(None), started=clock.now, minutes=2.0)
    assert outcome.schedule.measured == 7  # 21 s, the first beyond 15 % of two minutes
    assert outcome.ended == "finished" and 105 <= outcome.seconds <= 120


def test_a_budget_that_loading_used_up_still_makes_a_step(tmp_path, monkeypatch):
    task, clock = LeastSquares(), Clock(monkeypatch)
    clock.pass_in(task, 1.0)
    outcome = train(tmp_path / "run", task, Schedule(None), started=clock.now - 99, minutes=1.0)
    assert outcome.step == outcome.schedule.steps == 1
    assert read(outcome.checkpoint)[1]["step"] == 1


def test_minutes_go_on_for_a_plan_not_yet_fixed(tmp_path, monkeypatch):
    task, clock = LeastSquares(), Clock(monkeypatch)

    def step(number):
        clock.now += 0.1
        if number == 30:
            signal.raise_signal(signal.SIGINT)

    task.before_step = step
    with pytest.raises(Interrupted) as stop:
        train(tmp_path / "run", task, Schedule(None), started=clock.now, minutes=1.0)
    assert "31 is written" in str(stop.value)
    task = LeastSquares()
    clock.pass_in(task, 0.1)
    outcome = train(tmp_path / "run", task, Schedule(None), started=clock.now, minutes=1.0)
    assert outcome.schedule.measured == 31 + 90  # 9 s of the new minute
    assert 55 < outcome.seconds <= 60


def test_a_plan_in_the_config_counts_where_the_checkpoint_has_none(tmp_path, monkeypatch):
    task, clock = LeastSquares(), Clock(monkeypatch)

    def step(number):
        clock.now += 0.05
        if number == 120:  # killed after the plan, before the next checkpoint
            raise KeyboardInterrupt

    task.before_step = step
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", task, Schedule(None), started=clock.now, minutes=1.0)
    assert latest(tmp_path / "run/checkpoints").metadata["schedule"]["steps"] is None
    steps = RunFolder.open(tmp_path / "run").config()["schedule"]["steps"]
    outcome = train(tmp_path / "run", LeastSquares(), Schedule(None), minutes=1.0)
    assert outcome.step == outcome.schedule.steps == steps


def test_progress_comes_five_times_a_second_at_most(tmp_path, monkeypatch):
    task, clock = LeastSquares(), Clock(monkeypatch)
    clock.pass_in(task, 0.05)
    seen = []
    train(tmp_path / "run", task, SCHEDULE, on_progress=lambda p: seen.append((clock.now, p)))
    gaps = [b - a for (a, _), (b, _) in zip(seen, seen[1:], strict=False)]
    assert min(gaps) >= 0.2 and max(gaps) < 0.3
    last = seen[-1][1]
    assert (last.step, last.steps) == (120, 120)
    assert last.samples_per_second == pytest.approx(16 / 0.05)
    middle = next(p for _, p in seen if p.step == 60)
    assert middle.seconds_left == pytest.approx(60 * 0.05)
    assert middle.memory_bytes > 1e7 and middle.psnr is not None


def test_after_a_rewind_no_later_checkpoint_of_the_broken_attempt_is_left(tmp_path, monkeypatch):
    task, clock = LeastSquares(bad={55: 0.6}), Clock(monkeypatch)
    newest = []

    def step(number):
        clock.now += 5
        if number == 48:
            newest.append(max(steps_in(tmp_path / "run/checkpoints")))
        if number == 55:
            assert max(steps_in(tmp_path / "run/checkpoints")) > 48

    task.before_step = step
    train(tmp_path / "run", task, Schedule(120, warmup=1, final_factor=1.0, rewind_spacing=8))
    assert newest == [48, 48]


def test_a_rewind_soon_after_the_plan_goes_back_before_the_measuring(tmp_path, monkeypatch):
    task, clock = LeastSquares(bad={104: 0.6}), Clock(monkeypatch)
    clock.pass_in(task, 0.2)
    schedule = Schedule(None, rewind_spacing=5)
    outcome = train(tmp_path / "run", task, schedule, started=clock.now, minutes=3.0)
    assert outcome.rewinds == 1 and outcome.schedule.measured == 100
    assert [e["step"] for e in events(tmp_path / "run", "rewind")] == [0]


def test_slow_checkpoints_and_validations_fit_into_the_minutes(tmp_path, monkeypatch):
    clock, written = Clock(monkeypatch), []

    class Slow(LeastSquares):
        def validate(self, step):
            clock.now += 0.7
            return super().validate(step)

    def write(path, tensors, metadata, real=checkpoint.write):
        clock.now += 1.5
        written.append(path)
        real(path, tensors, metadata)

    monkeypatch.setattr(checkpoint, "write", write)
    for slower in (1.0, 1.7):  # as measured, and slower than that, which the clock has to end
        task, run = Slow(), tmp_path / f"{slower}"
        clock.pass_in(task, lambda step, s=slower: 0.1 * (1.0 if step < 500 else s))
        outcome = train(run, task, Schedule(None), started=clock.now, minutes=2.0)
        assert (outcome.ended == "finished") == (slower == 1)
        assert 108 < outcome.seconds <= 120
        count = sum(path.is_relative_to(run) for path in written)
        assert outcome.checkpoint_seconds == pytest.approx(1.5 * count)


@pytest.mark.parametrize(("cost", "looks"), [(0.1, 20), (3.0, 4)])
def test_long_looks_at_the_held_out_view_take_a_tenth_of_the_time(
    tmp_path, monkeypatch, cost, looks
):
    clock, seen = Clock(monkeypatch), []

    class Slow(LeastSquares):
        def validate(self, step):
            clock.now += cost
            seen.append(step)
            return super().validate(step)

    task = Slow()
    clock.pass_in(task, lambda step: 0.2)
    train(tmp_path / "run", task, Schedule(500))
    # 100 seconds of steps: one look that tells how long it takes, those of a tenth, and the last.
    assert len(seen) == looks and seen[0] == 25 and seen[-1] == 500


def test_what_a_step_takes_is_told_for_fixed_steps_too(tmp_path, monkeypatch):
    clock, told = Clock(monkeypatch), []
    task = LeastSquares()
    clock.pass_in(task, lambda step: 0.25)
    train(tmp_path / "run", task, Schedule(50), measure_steps=16, on_plan=lambda *p: told.append(p))
    [(schedule, seconds)] = told
    assert schedule.steps == 50 and seconds == pytest.approx(0.25)
