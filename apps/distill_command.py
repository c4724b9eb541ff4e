"""`polyfield distill` on the terminal: into a field, a surface, or through a chain of fields."""

from __future__ import annotations

from polyfield.apps import distill as one
from polyfield.apps.clock import command_start
from polyfield.apps.distill import DistillResult, distill
from polyfield.apps.distill_chain import ChainResult, chain_summary, distill_chain
from polyfield.apps.distill_options import Distill
from polyfield.apps.distill_surface import (
    DistanceResult,
    SurfelResult,
    distill_surface,
    is_of_surfaces,
    surface_summary,
)
from polyfield.apps.progress import live_progress
from polyfield.apps.terminal import say

Result = DistillResult | ChainResult | DistanceResult | SurfelResult


def distill_command(options: Distill) -> Result:
    """What of `distill_chain`, `distill_surface` and `distill` is asked for, on the terminal."""
    with live_progress() as progress:
        if options.chain:
            return distill_chain(options, on_message=say, on_progress=progress)
        begin = distill_surface if is_of_surfaces(options) else distill
        return begin(options, on_message=say, on_progress=progress, started=command_start())


def summary(result: Result) -> str:
    """A few lines for the terminal."""
    if isinstance(result, ChainResult):
        return chain_summary(result)
    if isinstance(result, DistillResult):
        return one.summary(result)
    return surface_summary(result)
