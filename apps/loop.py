"""The only training loop: budget, schedule, NaN guard, checkpoints, metrics, interruption.

What a task computes is a function of its state and of the step's number; when checkpoints are
written, and how often a run was killed, changes nothing in the result.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Literal

import torch
from torch import Tensor

from polyfield.apps import checkpoint
from polyfield.apps.checkpoint import Saved
from polyfield.apps.formats.json_fields import Fields
from polyfield.apps.interruption import Interrupted, stop_requests
from polyfield.apps.progress import Meter, Progress
from polyfield.apps.run_folder import RunFolder
from polyfield.apps.schedule import (
    AMEND_SHARE,
    CHECKPOINT_SECONDS,
    LATER_SHARES,
    MOST_STEPS,
    QUICK_SECONDS,
    VALIDATION_SHARE,
    VALIDATIONS,
    Schedule,
    mean_seconds,
    read_schedule,
    seconds_per_step,
    steps_within,
)
from polyfield.apps.task import Task
from polyfield.cuda.errors import InputError, PolyfieldError

MOST_REWINDS = 8
_RECORDS = 500  # lines of metrics a run


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    step: int
    schedule: Schedule
    ended: Literal["finished", "out of time"]
    checkpoint: Path
    metrics: dict[str, float]
    """Of the last validation."""
    rewinds: int
    seconds: float
    """From `started` to the last checkpoint."""
    checkpoint_seconds: float
    """Part of it that checkpoints took."""
    checkpoint_bytes: int  # of all that were written


def run(
    task: Task,
    folder: RunFolder,
    schedule: Schedule,
    *,
    settings: dict,
    started: float,
    minutes: float | None = None,
    resume_from: Saved | None = None,
    measure_steps: int = 100,
    foreseen: Callable[[], float] | None = None,
    on_plan: Callable[[Schedule, float], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Outcome:
    """Train `task` until its schedule or its time ends; the last state lies in a checkpoint.

    `folder` is open for writing. `settings` (what JSON can hold) goes into every checkpoint, for
    whoever loads one. `started` is time.monotonic() at the command's start, where `minutes` begin;
    they end with the last checkpoint. If schedule.steps is None, the first `measure_steps` (fewer
    if steps are slow) are timed, the number of steps is fixed, written into config.json under
    "schedule" and into all checkpoints. Once, before the rate begins to fall, it is set right by
    what steps take by then; from then on the clock can only end the run early. Where the first
    steps do not tell, `foreseen` says the seconds of a step of the whole run; then the number is
    fixed before the first one, and set right several times by what the last ones took, as long as
    the rate has not begun to fall. The schedule and a step's seconds are told to `on_plan` whenever
    they are measured, also where the number of steps was fixed from the start.

    `resume_from` is the folder's latest checkpoint. config.json, or else it, brings the schedule
    if that was fixed already, and then `minutes` no longer count.

    A loss that is not finite, or such a state, takes the run back to the last kept state with half
    the rate. `on_progress` is called at most five times a second. Ctrl-C and SIGTERM write a
    checkpoint and raise Interrupted.

    Raises InputError for a fresh start in a folder with checkpoints, or where the disk refuses;
    PolyfieldError after eight rewinds; whatever the task raises. The last good checkpoint then
    stays.
    """
    if schedule.steps is None and minutes is None:
        raise InputError("budget", "neither steps nor minutes", "one of them")
    position = _Run(task, folder, schedule, settings, started)
    if resume_from is None:
        position.begin()
    elif position.resume(resume_from):
        minutes = None
    deadline = math.inf if minutes is None else started + 60 * minutes
    with stop_requests() as stop:
        ended = _train(position, deadline, measure_steps, foreseen, stop, on_plan, on_progress)
    return Outcome(
        step=position.step,
        schedule=position.schedule,
        ended=ended,
        checkpoint=checkpoint.step_path(folder.checkpoints, position.step),
        metrics=position.validate(),
        rewinds=position.rewinds,
        seconds=position.saved_at - started,
        checkpoint_seconds=position.checkpoint_seconds,
        checkpoint_bytes=position.checkpoint_bytes,
    )


@dataclass
class _Run:
    """The loop's own state. Of it, `step`, `rewinds` and `schedule` travel with checkpoints."""

    task: Task
    folder: RunFolder
    schedule: Schedule
    settings: dict
    started: float
    step: int = 0
    rewinds: int = 0
    saved_at: float = -math.inf
    saved_step: int = -1
    checkpoint_cost: float = 0.0  # seconds of the dearest one
    checkpoint_seconds: float = 0.0
    checkpoint_bytes: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    validated_step: int = -1
    validation_cost: float = 0.0  # seconds of the last one
    validation_seconds: float = 0.0
    clock_offset: float = 0.0  # seconds that earlier sittings of this run took

    def begin(self) -> None:
        if found := checkpoint.steps_in(self.folder.checkpoints):
            raise InputError(
                str(self.folder.path),
                f"holds a checkpoint of step {max(found)}",
                "a folder without, to begin anew",
                "Go on with it by --resume, or name another folder with --out.",
            )
        self.folder.forget_after(-1)
        if self.schedule.steps is not None:
            self.write_schedule()
        if not self.save():
            raise PolyfieldError("the state before the first step holds values that are not finite")

    def resume(self, saved: Saved) -> bool:
        """Take on a checkpoint; whether the number of steps is fixed already."""
        values = saved.metadata
        try:
            counts = Fields("metadata", values)
            self.schedule = read_schedule(counts.part("schedule"))
            # The config's may be newer: a plan, or an amended one.
            config = Fields(f"{self.folder.config_path}:", self.folder.config())
            if "schedule" in config:
                self.schedule = read_schedule(config.part("schedule"))
            self.step = counts.whole("step", 0, self.schedule.steps or MOST_STEPS)
            self.rewinds = counts.whole("rewinds", 0, MOST_REWINDS)
            self.task.restore(saved.tensors, counts.part("task").values)
        except (KeyError, TypeError, ValueError) as error:
            got = f"its training state is not whole ({str(error)[:300]})"
            raise InputError(str(saved.path), got, "a run's checkpoint") from error
        self.folder.forget_after(self.step)
        self.clock_offset = max((r.get("seconds") or 0 for r in self.folder.records()), default=0)
        self.log({"event": "resume", "checkpoint": saved.path.name, "damaged": saved.damaged})
        self.drop_after(self.step)  # damaged ones
        self.saved_at, self.saved_step = time.monotonic(), self.step
        return self.schedule.steps is not None

    def write_schedule(self) -> None:
        config = self.folder.config()
        self.folder.write_config(config | {"schedule": asdict(self.schedule)})

    def log(self, record: dict) -> None:
        seconds = round(time.monotonic() - self.started + self.clock_offset, 3)
        self.folder.append({"step": self.step, "seconds": seconds} | record)

    def save(self) -> bool:
        """Write a checkpoint, unless the state is not finite; whether there is one."""
        if self.saved_step == self.step:
            return True
        begin = time.monotonic()
        tensors, values = self.task.state()
        good = all(_finite(tensor) for tensor in tensors.values())
        if good:
            metadata = {
                "step": self.step,
                "rewinds": self.rewinds,
                "schedule": asdict(self.schedule),
                "settings": self.settings,
                "task": values,
            }
            path = checkpoint.step_path(self.folder.checkpoints, self.step)
            checkpoint.write(path, tensors, metadata)
            self.saved_step = self.step
            self.checkpoint_bytes += path.stat().st_size
            self.prune()
        self.saved_at = time.monotonic()  # also after a refusal, or every step would try again
        self.checkpoint_cost = max(self.checkpoint_cost, self.saved_at - begin)
        self.checkpoint_seconds += self.saved_at - begin
        return good

    def drop_after(self, last: int) -> None:
        for step, path in checkpoint.steps_in(self.folder.checkpoints).items():
            if step > last:
                path.unlink()

    def prune(self) -> None:
        """Keep the last two, and while there is need the one that the NaN guard goes back to."""
        found = checkpoint.steps_in(self.folder.checkpoints)
        keep = set(list(found)[-2:])
        if self.step != self.schedule.steps:
            keep.add(max((step for step in found if self.schedule.keeps(step)), default=0))
        for step, path in found.items():
            if step not in keep:
                path.unlink(missing_ok=True)

    def rewind(self, reason: str) -> None:
        """Back to the last kept state, which lies before the step that just failed."""
        failed, self.rewinds = self.step, self.rewinds + 1
        if self.rewinds > MOST_REWINDS:
            raise PolyfieldError(
                f"training breaks down at step {failed}: {reason}, and "
                f"{MOST_REWINDS} times half the learning rate did not help; look for extreme "
                "values in the input, or choose another --seed or --field"
            )
        target = self.schedule.rewind_step(failed - 1)
        path = checkpoint.step_path(self.folder.checkpoints, target)
        tensors, values = checkpoint.read(path)
        self.task.restore(tensors, values["task"])
        self.drop_after(target)
        self.step = self.saved_step = target
        self.validated_step = -1
        self.folder.forget_after(target)
        self.log({"event": "rewind", "failed": failed, "reason": reason, "rewinds": self.rewinds})

    def validate(self) -> dict[str, float]:
        if self.validated_step != self.step:
            begin = time.monotonic()
            self.metrics = self.task.validate(self.step)
            self.validated_step = self.step
            self.validation_cost = time.monotonic() - begin
            self.validation_seconds += self.validation_cost
            self.log(self.metrics)
        return self.metrics


def _train(
    run: _Run,
    deadline: float,
    measure_steps: int,
    foreseen: Callable[[], float] | None,
    stop: Callable[[], bool],
    on_plan: Callable[[Schedule, float], None] | None,
    on_progress: Callable[[Progress], None] | None,
) -> Literal["finished", "out of time"]:
    times: list[float] = []
    begun = time.monotonic()
    meter = Meter(begun)
    typical = 0.0  # seconds of a step, lately
    told = on_plan is None
    amends: list[float] = []  # when the plan, which was made of the first steps here, is set right
    if run.schedule.steps is None and foreseen is not None:
        run.validate()
        _plan(run, foreseen(), deadline, on_plan)
        told, amends = True, list(LATER_SHARES)
    while run.step != run.schedule.steps:
        now = time.monotonic()
        if stop():
            run.save()
            run.log({"event": "interrupt"})
            raise Interrupted(run.folder.path, run.saved_step, run.schedule.steps)
        # One step at least, or a budget that loading has used up would go on forever by --resume.
        reserve = 1.5 * typical + run.validation_cost + 2 * run.checkpoint_cost
        if times and now + reserve > deadline:
            break
        rate = run.schedule.rate(run.step) * 0.5**run.rewinds
        losses = run.task.step(run.step, rate, run.schedule.planned(run.step))
        run.step += 1
        after = time.monotonic()
        times.append(after - now)
        typical = times[-1] if len(times) < 3 else 0.9 * typical + 0.1 * times[-1]

        if not math.isfinite(losses["loss"]) or not losses.get("finite", 1):
            run.rewind("the loss is not finite")
            continue
        if run.schedule.steps is None:
            if len(times) >= measure_steps or after - begun > 0.15 * (deadline - begun):
                run.validate()  # how long that takes is a part of the plan
                _plan(run, seconds_per_step(times), deadline, on_plan)
                told, amends = True, [AMEND_SHARE]
        elif amends and (
            run.step > run.schedule.decay_begin or after - begun > amends[0] * (deadline - begun)
        ):
            late = mean_seconds(times) if foreseen is None else fmean(times[-len(times) // 4 :])
            _plan(run, late, deadline, on_plan)
            falling = run.step > run.schedule.decay_begin
            amends = [] if falling else amends[1:]
        elif not told and on_plan is not None and len(times) == measure_steps:
            on_plan(run.schedule, seconds_per_step(times))
            told = True
        # Records before the checkpoint: the other way round a kill between the two loses them.
        steps = run.schedule.steps
        if run.step % (10 if steps is None else math.ceil(steps / _RECORDS)) == 0:
            run.log(losses | {"rate": rate})
        if steps is not None and run.step % math.ceil(steps / VALIDATIONS) == 0:
            # The last one is outside the budget, see `run`. The first ones look into fog, which
            # takes a hundred times longer than a scene.
            spent = run.validation_seconds + run.validation_cost
            quick = run.validation_cost <= QUICK_SECONDS
            if run.step < steps and (quick or spent <= VALIDATION_SHARE * (after - begun)):
                run.validate()
        if run.step == steps or run.schedule.keeps(run.step):
            if not run.save():
                run.rewind("the state is not finite")
                continue
        if after - run.saved_at + typical > CHECKPOINT_SECONDS:
            run.save()
        if on_progress is not None:
            left = deadline - after if steps is None else (steps - run.step) * typical
            psnr = run.metrics.get("psnr")
            if progress := meter.read(time.monotonic(), run.step, steps, losses, psnr, left):
                on_progress(progress)

    if run.step == run.schedule.steps:
        return "finished"
    if not run.save():
        run.rewind("the state is not finite")
    run.log({"event": "out of time", "steps": run.schedule.steps})
    return "out of time"


def _plan(
    run: _Run,
    per_step: float,
    deadline: float,
    on_plan: Callable[[Schedule, float], None] | None,
) -> None:
    """Fix the number of steps, or set it right, by the seconds that each takes."""
    steps = run.step + steps_within(
        deadline - time.monotonic() - 2 * run.checkpoint_cost,
        per_step,
        rewind_spacing=run.schedule.rewind_spacing,
        per_checkpoint=run.checkpoint_cost,
        per_validation=run.validation_cost,
    )
    planned = run.schedule.fixed if run.schedule.steps is None else run.schedule.amend
    run.schedule = planned(steps, run.step)
    run.write_schedule()
    run.log({"event": "plan", "steps": run.schedule.steps, "seconds_per_step": per_step})
    if on_plan is not None:
        on_plan(run.schedule, per_step)


def _finite(tensor: Tensor) -> bool:
    # A sum is twenty times quicker than isfinite and is finite only if all values are; one of
    # finite values that overflows is looked at again.
    sound = not tensor.dtype.is_floating_point or bool(tensor.sum().isfinite())
    return sound or bool(torch.isfinite(tensor).all())
