"""What `polyfield train` says it is about to do, and for how long."""

from __future__ import annotations

from polyfield.apps.report import duration
from polyfield.apps.schedule import Schedule
from polyfield.apps.settings import Settings
from polyfield.fields.gaussians import GAUSSIANS

ENOUGH_SAMPLES = 20_000_000  # for a picture that one recognises at a glance


def plan_sentence(
    settings: Settings,
    parameters: int,
    memory_bytes: int,
    limit: int,
    schedule: Schedule,
    minutes: float | None,
) -> str:
    """What a run is about to do: field, batch, memory, and the steps or the time."""
    sizes = ", ".join(f"{name} {value}" for name, value in settings.arguments.items())
    if minutes is None:
        steps = schedule.steps or 0
        total = _millions(steps * settings.samples_per_step)
        budget = f"{steps:,} steps, {total} {settings.taken}"
    else:
        budget = f"{duration(60 * minutes)}, whose steps are fixed after a short measurement"
    upto = "up to " if settings.field == GAUSSIANS else ""
    taken = f"{settings.samples_per_step:,} {settings.taken} a step"
    return (
        f"plan: {settings.field} ({sizes}), {upto}{parameters:,} parameters, "
        f"{taken}, at most {memory_bytes / 1e9:.2f} GB of {limit / 1e9:.2f} GB; {budget}"
    )


def measured_sentence(
    schedule: Schedule, seconds: float, samples_per_step: int, what: str = "samples"
) -> str:
    """The plan once a step's time is known, with a warning where it will not do."""
    steps = schedule.steps or 0
    total = steps * samples_per_step
    took = f"{1000 * seconds:.1f} ms"
    if schedule.amended:  # by steps that took as long lately, and others before
        sentence = (
            f"plan, set right: {steps:,} steps, {took} each by now, {_millions(total)} {what}"
        )
    else:
        sentence = f"plan: {steps:,} steps of {took}, {_millions(total)} {what}, "
        sentence += duration(steps * seconds)
    if total < ENOUGH_SAMPLES:
        need = duration(seconds * ENOUGH_SAMPLES / samples_per_step)
        sentence += (
            f"\nwarning: fewer than {_millions(ENOUGH_SAMPLES)} {what} give a blurred result; "
            f"that many take {need} on this machine"
        )
    return sentence


def _millions(count: int) -> str:
    return f"{count / 1e6:.3g} million"
