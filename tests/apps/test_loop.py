import errno
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from least_squares import SCHEDULE, LeastSquares, events, final_bytes, train

from polyfield.apps import checkpoint, files, loop
from polyfield.apps.checkpoint import latest, read, steps_in
from polyfield.apps.interruption import Interrupted
from polyfield.apps.run_folder import RunFolder
from polyfield.apps.schedule import Schedule
from polyfield.cuda.errors import InputError, PolyfieldError

PROGRAM = Path(__file__).with_name("least_squares.py")


def curves(path):
    """The records that are measurements, without their times."""
    records = [r for r in RunFolder.open(path).records() if "event" not in r]
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """No test here cuts the power; a killed process leaves what it has written."""
    monkeypatch.setattr(files.os, "fsync", lambda handle: None)


def test_it_learns_and_says_how_it_ended(tmp_path):
    outcome = train(tmp_path / "run", LeastSquares(), Schedule(400, warmup=10))
    assert (outcome.step, outcome.ended, outcome.rewinds) == (400, "finished", 0)
    assert outcome.metrics["psnr"] > 25
    tensors, metadata = read(outcome.checkpoint)
    assert (tensors["weights"] - torch.linspace(-1, 1, 8)).abs().max() < 0.1
    assert metadata["settings"] == {"field": "line"}
    assert (metadata["step"], metadata["schedule"]["steps"]) == (400, 400)


def test_steps_come_in_order_with_the_schedules_rates(tmp_path):
    task = LeastSquares()
    train(tmp_path / "run", task, SCHEDULE)
    assert task.rates == [(step, SCHEDULE.rate(step)) for step in range(120)]


def test_steps_are_told_how_many_there_will_be(tmp_path):
    task = LeastSquares()
    train(tmp_path / "run", task, SCHEDULE)
    assert task.plans == [120] * 120


def test_curves_are_functions_of_the_step_and_end_with_it(uninterrupted):
    records = curves(uninterrupted)
    losses = [r["step"] for r in records if "loss" in r]
    views = [r["step"] for r in records if "psnr" in r]
    assert losses == list(range(1, 121))
    assert views == list(range(6, 121, 6))
    times = [r["seconds"] for r in RunFolder.open(uninterrupted).records()]
    assert times == sorted(times)


def test_three_kills_at_any_moment_change_no_bit(tmp_path, uninterrupted):
    seed = random.randrange(10**6)
    print(f"seed {seed}")  # shown if the test fails
    moment = random.Random(seed)
    run = tmp_path / "run"
    kills = reached = 0
    with subprocess.Popen(
        [sys.executable, str(PROGRAM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        for _ in range(3):
            server.stdin.write(f"{run}\n")
            server.stdin.flush()
            child = int(server.stdout.readline())
            while max(steps_in(run / "checkpoints"), default=0) <= reached:
                assert server.poll() is None
                time.sleep(0.002)
            time.sleep(moment.uniform(0, 0.15))
            os.kill(child, signal.SIGKILL)
            kills += int(server.stdout.readline()) == signal.SIGKILL
            reached = max(steps_in(run / "checkpoints"))
        server.stdin.close()
    assert kills == 3
    assert latest(run / "checkpoints").step < 120
    outcome = train(run, LeastSquares(), SCHEDULE)
    assert outcome.step == 120
    assert final_bytes(run) == final_bytes(uninterrupted)
    assert curves(run) == curves(uninterrupted)
    assert len(events(run, "resume")) == 3
    assert not list(run.rglob("*.partial"))


@pytest.mark.parametrize("last", [0, 1, 7, 8, 9, 119])
def test_a_stop_after_any_step_and_going_on_changes_no_bit(tmp_path, uninterrupted, last):
    task = LeastSquares()
    task.before_step = lambda step: step == last and signal.raise_signal(signal.SIGINT)
    try:
        train(tmp_path / "run", task, SCHEDULE)
    except Interrupted as stop:
        assert (stop.step, stop.steps) == (last + 1, 120)
        assert latest(tmp_path / "run/checkpoints").step == last + 1
        assert f"--out {tmp_path / 'run'} --resume" in str(stop)
    else:
        assert last == 119  # it came too late to stop anything
    train(tmp_path / "run", LeastSquares(), Schedule(7))  # the plan it began with counts
    assert final_bytes(tmp_path / "run") == final_bytes(uninterrupted)
    assert curves(tmp_path / "run")[:-1] == curves(uninterrupted)[: -1 if last < 119 else None]


def test_the_record_says_where_a_resume_began_and_what_was_damaged(tmp_path):
    run = tmp_path / "run"
    train(run, LeastSquares(), SCHEDULE)
    (newest, before) = list(reversed(steps_in(run / "checkpoints").values()))[:2]
    os.truncate(newest, 100)
    train(run, LeastSquares(), SCHEDULE)
    (event,) = events(run, "resume")
    assert (event["step"], event["checkpoint"]) == (112, before.name)
    assert newest.name in event["damaged"][0]
    assert read(newest)[1]["step"] == 120


def test_the_last_two_checkpoints_stay(uninterrupted):
    assert list(steps_in(uninterrupted / "checkpoints")) == [112, 120]


@pytest.mark.parametrize("kind", ["bad", "hidden"])
def test_values_that_are_not_finite_rewind_and_halve_the_rate(tmp_path, kind):
    task = LeastSquares(**{kind: {50: 0.3}})
    flat = Schedule(120, warmup=1, final_factor=1.0, rewind_spacing=8)
    outcome = train(tmp_path / "run", task, flat)
    assert (outcome.step, outcome.rewinds) == (120, 2)
    rates = dict(task.rates)  # the last rate of each step
    assert [rates[step] for step in (47, 48, 50, 119)] == [1, 0.25, 0.25, 0.25]
    assert [step for step, _ in task.rates].count(48) == 3
    assert all(torch.isfinite(t).all() for t in read(outcome.checkpoint)[0].values())
    assert [(e["step"], e["rewinds"]) for e in events(tmp_path / "run", "rewind")] == [
        (48, 1),
        (48, 2),
    ]
    steps = [r["step"] for r in curves(tmp_path / "run") if "loss" in r]
    assert steps == list(range(1, 121))


@pytest.mark.parametrize("kind", ["bad", "hidden"])
@pytest.mark.parametrize("last", [48, 49, 52, 70])
def test_a_stopped_run_rewinds_to_where_the_other_one_did(tmp_path, kind, last):
    flat = Schedule(120, warmup=1, final_factor=1.0, rewind_spacing=8)
    train(tmp_path / "whole", LeastSquares(**{kind: {50: 0.3}}), flat)
    task = LeastSquares(**{kind: {50: 0.3}})
    task.before_step = lambda step: step == last and signal.raise_signal(signal.SIGINT)
    with pytest.raises(Interrupted):
        train(tmp_path / "run", task, flat)
    train(tmp_path / "run", LeastSquares(**{kind: {50: 0.3}}), flat)
    assert final_bytes(tmp_path / "run") == final_bytes(tmp_path / "whole")
    assert curves(tmp_path / "run") == curves(tmp_path / "whole")


def test_a_task_may_say_itself_that_values_went_bad(tmp_path):
    class Telling(LeastSquares):
        def step(self, step, rate, planned=None):
            return super().step(step, rate, planned) | {"finite": float(step != 9 or rate < 0.6)}

    outcome = train(tmp_path / "run", Telling(), Schedule(20, warmup=1, final_factor=1.0))
    assert outcome.rewinds == 1


def test_what_never_gets_better_is_given_up_and_the_last_good_state_stays(tmp_path):
    with pytest.raises(PolyfieldError, match="breaks down at step 51: the loss is not finite"):
        train(tmp_path / "run", LeastSquares(bad={50: 0.0}), SCHEDULE)
    found = latest(tmp_path / "run/checkpoints")
    assert found.step == 48 and found.tensors["weights"].isfinite().all()
    assert len(events(tmp_path / "run", "rewind")) == loop.MOST_REWINDS


def test_a_full_disk_keeps_the_last_good_checkpoint_and_the_run_can_go_on(
    tmp_path, uninterrupted, monkeypatch
):
    def fsync(handle):
        if (tmp_path / "run/checkpoints/step_00000048.safetensors").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", fsync)
        with pytest.raises(InputError, match="step_00000048.*no room for it"):
            train(tmp_path / "run", LeastSquares(), SCHEDULE)
        with pytest.raises(InputError, match="no room for it"):
            train(tmp_path / "run", LeastSquares(), SCHEDULE)
    assert latest(tmp_path / "run/checkpoints").step == 48
    train(tmp_path / "run", LeastSquares(), SCHEDULE)
    assert final_bytes(tmp_path / "run") == final_bytes(uninterrupted)


def test_the_loop_prints_nothing(tmp_path, capfd):
    train(tmp_path / "run", LeastSquares(bad={50: 0.3}), SCHEDULE)
    assert capfd.readouterr() == ("", "")


def test_a_fresh_start_over_checkpoints_is_refused(tmp_path, uninterrupted):
    before = final_bytes(uninterrupted)
    with RunFolder.open(uninterrupted, writing=True) as folder:
        with pytest.raises(InputError, match="holds a checkpoint of step 120"):
            loop.run(LeastSquares(), folder, SCHEDULE, settings={}, started=time.monotonic())
    assert final_bytes(uninterrupted) == before


def test_a_run_without_a_budget_or_a_whole_training_state_is_refused(tmp_path):
    with pytest.raises(InputError, match="neither steps nor minutes"):
        train(tmp_path / "run", LeastSquares(), Schedule(None))
    folder = tmp_path / "run" / "checkpoints"
    for metadata in ({}, {"schedule": {"steps": 3, "what": 1}}, {"schedule": None}):
        checkpoint.write(checkpoint.step_path(folder, 1), {}, metadata)
        with pytest.raises(InputError, match="training state is not whole"):
            train(tmp_path / "run", LeastSquares(), SCHEDULE)


def test_an_error_of_the_task_passes_through_and_the_checkpoint_stays(tmp_path):
    task = LeastSquares()

    def step(number):
        if number == 60:
            raise InputError("r_7.png", "pixels are damaged", "a whole image")

    task.before_step = step
    with pytest.raises(InputError, match="r_7.png"):
        train(tmp_path / "run", task, SCHEDULE)
    assert latest(tmp_path / "run/checkpoints").step == 56
    RunFolder.open(tmp_path / "run", writing=True).close()  # the lock is free


def test_a_sum_that_overflows_is_not_mistaken_for_a_bad_state():
    assert loop._finite(torch.full((4,), 3e38))
    assert loop._finite(torch.full((4,), 60000.0, dtype=torch.float16))
    assert loop._finite(torch.tensor([2**62] * 4))
    for bad in (math.inf, math.nan):
        assert not loop._finite(torch.tensor([0.0, bad]))
    assert not loop._finite(torch.tensor([math.inf, -math.inf]))


def test_the_last_checkpoint_comes_before_the_last_validation(tmp_path):
    class Watching(LeastSquares):
        def validate(self, step):
            if step == 120:
                assert latest(tmp_path / "run/checkpoints").step == 120
            return super().validate(step)

    outcome = train(tmp_path / "run", Watching(), SCHEDULE)
    assert curves(tmp_path / "run")[-1] == {"step": 120} | outcome.metrics
