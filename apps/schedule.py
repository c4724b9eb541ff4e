"""How many steps, and how fast each one learns: once planned, a function of the step alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

from polyfield.apps.formats.json_fields import Fields
from polyfield.cuda.errors import InputError

MOST_STEPS = 1_000_000_000
_KEPT = 16  # states of a long run that the NaN guard may go back to
_BLOCK = 16  # steps; what is done every so often, such as an occupancy update, is done once in them


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, a constant rate, then exponential decay that ends with the last step.

    Raises InputError for steps or warmup < 1, a hold_fraction outside [0, 1] or a final_factor
    outside (0, 1].
    """

    steps: int | None
    """Steps of the whole run; None while a budget in minutes has not yet fixed them."""
    warmup: int = 100
    """Steps until the factor first reaches 1."""
    hold_fraction: float = 0.4
    """The decay begins after this part of the steps, but never within the warm-up."""
    final_factor: float = 0.01
    """Factor of the last step."""
    measured: int = 0
    """Steps done before `steps` was fixed. They knew no decay, so it begins after them."""
    rewind_spacing: int = 250
    """Steps between two states that the NaN guard can go back to."""
    amended: int = 0
    """Steps done before the clock set `steps` right. They knew no decay either."""
    plans: Sequence[Sequence[int]] = ()
    """Of each time it did, how many were done then, and what `steps` was until then."""

    def __post_init__(self) -> None:
        # A file has lists.
        object.__setattr__(self, "plans", tuple(tuple(plan) for plan in self.plans))
        if self.steps is not None and self.steps < 1:
            raise InputError("steps", str(self.steps), "at least 1")
        if self.warmup < 1 or self.rewind_spacing < 1:
            got = f"warmup {self.warmup}, rewind_spacing {self.rewind_spacing}"
            raise InputError("schedule", got, "at least 1 each")
        if not 0 <= self.hold_fraction <= 1 or not 0 < self.final_factor <= 1:
            got = f"hold_fraction {self.hold_fraction}, final_factor {self.final_factor}"
            raise InputError("schedule", got, "a fraction in [0, 1] and a factor in (0, 1]")

    def rate(self, step: int) -> float:
        """Factor of the learning rates in step number `step`, 0 <= step < steps; in (0, 1]."""
        warm = min(1.0, (step + 1) / self.warmup)
        if self.steps is None:
            return warm
        last, begin = self.steps - 1, self.decay_begin
        if step <= begin:
            return warm
        return warm * self.final_factor ** ((step - begin) / (last - begin))

    @property
    def decay_begin(self) -> float:
        """The steps numbered up to this one know no decay; infinite while `steps` is not fixed."""
        if self.steps is None:
            return math.inf
        known = max(self.warmup, self.measured, self.amended) - 1
        return float(max(self.hold_fraction * (self.steps - 1), known))

    def fixed(self, steps: int, measured: int = 0) -> "Schedule":
        """The same schedule over `steps` steps, at least the `measured` ones already done.

        Of a long one few states are kept for the NaN guard.
        """
        spacing = max(self.rewind_spacing, math.ceil(steps / _KEPT))
        steps = max(steps, measured, 1)
        return replace(self, steps=steps, measured=measured, rewind_spacing=spacing)

    def amend(self, steps: int, done: int) -> "Schedule":
        """Of other length once `done` steps, at most up to the decay's begin, have been done.

        Their rates, and what a rewind among them goes back to, are what they were.
        """
        before = () if self.steps is None else ((done, self.steps),)
        plans = (*self.plans, *before)
        return replace(self, steps=max(steps, done, 1), amended=done, plans=plans)

    def planned(self, step: int) -> int | None:
        """Steps of the whole run, as step number `step` knew them: None while nobody did."""
        if step < self.measured:
            return None
        return next((steps for done, steps in self.plans if step < done), self.steps)

    def rewind_step(self, step: int) -> int:
        """Number of steps after which the state was kept that step number `step` goes back to.

        A function of the schedule and the step, never of the clock: a run that was killed and went
        on rewinds to the same state as one that was not.
        """
        if self.steps is None:
            return 0
        found = step // self.rewind_spacing * self.rewind_spacing
        return found if found > self.measured else 0

    def keeps(self, done: int) -> bool:
        """Whether the state after `done` steps is one that `rewind_step` may name."""
        return done == 0 or self.rewind_step(done) == done


def read_schedule(found: Fields) -> Schedule:
    """A schedule from what a file held. InputError, naming the field, for what no run wrote."""
    counts = {"steps": 1, "warmup": 1, "measured": 0, "rewind_spacing": 1, "amended": 0}
    for key, least in counts.items():
        if key in found:
            found.whole(key, least, MOST_STEPS)
    for key in ("hold_fraction", "final_factor"):
        if key in found:
            found.real(key, 0.0, 1.0)
    if not _are_plans(found.values.get("plans", [])):
        raise found.refuse("plans", f"pairs of whole numbers from 0 to {MOST_STEPS}")
    try:
        return Schedule(**found.values)
    except TypeError as error:  # a name that is missing or unknown
        raise InputError(found.where, str(error)[:200], "that of a run") from error


def _are_plans(values: object) -> bool:
    if not isinstance(values, list | tuple):
        return False
    pairs = [plan for plan in values if isinstance(plan, list | tuple) and len(plan) == 2]
    known = all(type(n) is int and 0 <= n <= MOST_STEPS for plan in pairs for n in plan)
    return known and len(pairs) == len(values)


def seconds_per_step(times: list[float]) -> float:
    """A step's typical time from the times in seconds of the first ones, at least one.

    The first half warms caches and is left out. The rest is averaged in blocks, so that work done
    every few steps counts, and the median block is taken, so that a hiccup of the machine does not.
    """
    later = times[len(times) // 2 :]
    whole = len(later) // _BLOCK * _BLOCK
    if whole == 0:
        return median(later)
    later = later[-whole:]
    return median(fmean(later[i : i + _BLOCK]) for i in range(0, whole, _BLOCK))


def mean_seconds(times: list[float]) -> float:
    """A step's mean time from those in seconds of all steps so far, the first quarter left out.

    Over minutes a machine is now quicker, now slower, and the rest of them will have their share.
    """
    return fmean(times[len(times) // 4 :])


def steps_within(
    seconds: float,
    per_step: float,
    *,
    rewind_spacing: int,
    per_checkpoint: float = 0.0,
    per_validation: float = 0.0,
) -> int:
    """How many steps surely fit into `seconds`, with the checkpoints and validations between them.

    All times in seconds. Five parts in a hundred are left over for the machine's moods.
    """
    kept = 1 + min(_KEPT, math.floor(max(seconds, 0.0) / per_step) // rewind_spacing)
    checkpoints = kept * (1 + math.floor(max(seconds, 0.0) / kept / CHECKPOINT_SECONDS))
    validations = VALIDATIONS * per_validation
    if per_validation > QUICK_SECONDS:
        validations = min(validations, VALIDATION_SHARE * max(seconds, 0.0))
    overhead = checkpoints * per_checkpoint + validations
    return max(0, math.floor((0.95 * seconds - overhead) / per_step))


AMEND_SHARE = 0.4
"""Part of the time after which a plan made of the first steps is set right: as late as it can be.

Empty space has been found by then, so that a step has the rays and takes the time that it keeps;
and the decay, which goes by the plan, is only about to begin.
"""

LATER_SHARES = 0.4, 0.6, 0.8
"""As AMEND_SHARE, where a plan was foreseen and steps become dearer for most of the run."""

CHECKPOINT_SECONDS = 12.0
"""Wall time between two checkpoints; less than the 15 s promised, for a step may come between."""

VALIDATIONS = 20
"""Times a run looks at its held-out view."""

QUICK_SECONDS = 0.2
"""A look that takes longer waits until all looks are within VALIDATION_SHARE of the time."""

VALIDATION_SHARE = 0.1
