"""`polyfield distill` on the terminal: into one field, or through a chain of them."""

from __future__ import annotations

from polyfield.apps import distill as one
from polyfield.apps.clock import command_start
from polyfield.apps.distill import DistillResult, distill
from polyfield.apps.distill_chain import ChainResult, chain_summary, distill_chain
from polyfield.apps.distill_options import Distill
from polyfield.apps.progress import live_progress
from polyfield.apps.terminal import say


def distill_command(options: Distill) -> DistillResult | ChainResult:
    """`distill` or `distill_chain` with its messages and a live line on the terminal."""
    with live_progress() as progress:
        if options.chain:
            return distill_chain(options, on_message=say, on_progress=progress)
        return distill(options, on_message=say, on_progress=progress, started=command_start())


def summary(result: DistillResult | ChainResult) -> str:
    """A few lines for the terminal."""
    return chain_summary(result) if isinstance(result, ChainResult) else one.summary(result)
