"""A race between two implementations: the same work in turns, its results compared first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter, sleep
from typing import Any

import torch
from torch import Tensor

from polyfield.cuda.errors import PolyfieldError

# Threads of one side spin for a while when their work is done; the other must not meet them.
PAUSE_SECONDS = 0.02


class Absent(Exception):
    """An opponent cannot run on this machine; the text says why and what to install."""


@dataclass(frozen=True)
class Race:
    """What two sides do with the same inputs. What a side returns is fully computed when it does.

    against: the opponent's name; version: of its package. ours and theirs: what is timed. read:
    tensors out of what `theirs` returned, in the order of the tuple that `ours` returns, or that
    `shown` makes of it; neither is timed.
    tolerance: largest difference of a tensor, as a part of its largest magnitude. before: brings
    both sides to the same state; called before every turn, not timed.
    """

    against: str
    version: str
    ours: Callable[[], tuple[Tensor, ...]]
    theirs: Callable[[], Any]
    tolerance: float
    read: Callable[[Any], tuple[Tensor, ...]] = lambda result: result
    before: Callable[[], None] = lambda: None
    shown: Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]] = lambda result: result


@dataclass(frozen=True)
class Row:
    """What was measured: medians of ours and theirs in `unit`; ratio: the median of theirs / ours.

    A row without an opponent has "" and None in their places. skipped: why a race was not held.
    """

    name: str
    against: str
    version: str
    ours: float | None
    theirs: float | None
    unit: str
    ratio: float | None
    skipped: str = ""


def hold(name: str, race: Race, rounds: int) -> Row:
    """The race in `rounds` turns, each side going first in every other one.

    Each side runs twice before, untimed, which compiles what is compiled; the second results are
    compared. In a turn each side runs twice in a row and the second run counts: as in a loop of
    steps, where caches are warm and threads awake. Raises PolyfieldError where the results differ:
    no ratio is worth anything then.
    """
    race.before()
    race.ours(), race.theirs()
    race.before()
    check(name, race.shown(race.ours()), race.read(race.theirs()), race.tolerance)
    times: tuple[list[float], list[float]] = ([], [])
    sides = (race.ours, race.theirs)
    for turn in range(rounds):
        race.before()
        for side in (turn % 2, 1 - turn % 2):
            sleep(PAUSE_SECONDS)
            sides[side]()
            begin = perf_counter()
            sides[side]()
            times[side].append(1000 * (perf_counter() - begin))
    ours, theirs = times
    ratio = median(t / o for o, t in zip(ours, theirs, strict=True))
    return Row(name, race.against, race.version, median(ours), median(theirs), "ms", ratio)


def check(
    name: str, ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...], tolerance: float
) -> None:
    """Raises PolyfieldError where two sides' results differ by more than a race's tolerance."""
    for number, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        if mine.shape != other.shape:
            got = f"shapes {tuple(mine.shape)} and {tuple(other.shape)}"
            raise PolyfieldError(f"{name}: result {number} has {got}; the sides do different work")
        with torch.no_grad():
            apart = float((mine - other).abs().max() / other.abs().max())
        if not apart <= tolerance:
            raise PolyfieldError(
                f"{name}: result {number} differs by {apart:.2g} of its largest value; expected at "
                f"most {tolerance:.2g}. The sides do different work, so their times do not compare."
            )
