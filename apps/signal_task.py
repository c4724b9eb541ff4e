"""Learning a signal, one step at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from polyfield.apps.fitted import Fitted
from polyfield.apps.signal_source import Source
from polyfield.apps.trained import check_tensors, part_of
from polyfield.fields.field import AdaptiveEncoding
from polyfield.fields.optimiser import FieldOptimiser
from polyfield.render.occupancy import step_generator


class SignalTask:
    """Points of a signal against what the field says of them: the task `fit` gives the loop."""

    def __init__(self, fitted: Fitted, source: Source):
        self.fitted, self.source = fitted, source
        self.optimiser = FieldOptimiser(fitted.signal)
        self.optimiser.to(fitted.device)

    def step(self, step: int, rate: float, planned: int | None = None) -> dict[str, float]:
        """One optimisation step, see `task.Task`."""
        settings, signal, device = self.fitted.settings, self.fitted.signal, self.fitted.device
        for name, part in signal.named_modules():
            if isinstance(part, AdaptiveEncoding) and part.settles_at == step:
                random = step_generator(settings.seed, step)
                x, weights = self.source.variation(random)
                part.settle(x.to(device), weights.to(device), random)
                self.optimiser.forget(name)
        x, wanted = self.source.batch(step, settings.samples_per_step)
        self.optimiser.clear()
        loss = self.source.error(signal.value(x.to(device)), wanted.to(device))
        loss.backward()
        finite = bool(torch.isfinite(loss)) and self.optimiser.finite()
        if finite:
            self.optimiser.step(step, rate * self.source.pace)
        return {"loss": float(loss.detach()), "samples": float(len(x)), "finite": float(finite)}

    def validate(self, step: int) -> dict[str, float]:
        """The source's quick figures."""
        return self.source.watch(self.fitted.values)

    def state(self) -> tuple[dict[str, Tensor], dict]:
        """Everything a step depends on."""
        tensors = {f"signal.{k}": v for k, v in self.fitted.signal.state_dict().items()}
        moments = self.optimiser.moments
        return tensors | {f"optimiser.{key}": value for key, value in moments.items()}, {}

    def restore(self, tensors: dict[str, Tensor], values: dict) -> None:
        """Take on a state that `state` returned. InputError for what is none of this field's."""
        check_tensors(tensors, self.state()[0], "state")
        self.fitted.signal.load_state_dict(part_of(tensors, "signal."))
        for key, moment in self.optimiser.moments.items():
            moment.copy_(tensors[f"optimiser.{key}"])
        self.optimiser.clear()
