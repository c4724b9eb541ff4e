"""A task small enough to be killed and repeated: least squares with Adam.

Also a program, which trains in the folder that each line of its input names, in a new process whose
number it prints; when that has ended, however it did, it prints its status. (torch is imported only
once so; it has no threads yet when the process divides.)
"""

import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor

from polyfield.apps import loop
from polyfield.apps.checkpoint import latest, steps_in
from polyfield.apps.run_folder import RunFolder
from polyfield.apps.schedule import Schedule

SIZE = 8
SCHEDULE = Schedule(120, warmup=10, rewind_spacing=8)


class LeastSquares:
    """Find the weights that made the values. Every number is a function of the state and a step."""

    def __init__(self, seed=0, pause=0.0, bad=None, hidden=None):
        self.seed, self.pause = seed, pause
        self.bad = bad or {}  # step -> factor of the rate from which on its loss is not finite
        self.hidden = hidden or {}  # the same, but the loss does not show it, only the weights do
        self.truth = torch.linspace(-1, 1, SIZE)
        self.weights, self.first, self.second = torch.zeros(3, SIZE)
        self.updates = 0
        self.rates: list[tuple[int, float]] = []
        self.plans: list[int | None] = []
        self.before_step = lambda step: None

    def step(self, step: int, rate: float, planned: int | None = None) -> dict[str, float]:
        self.before_step(step)
        time.sleep(self.pause)
        self.rates.append((step, rate))
        self.plans.append(planned)
        random = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        inputs = torch.randn(16, SIZE, generator=random)
        error = inputs @ (self.weights - self.truth) + 0.1 * torch.randn(16, generator=random)
        gradient = inputs.T @ error / 16
        self.updates += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.99 * self.second + 0.01 * gradient**2
        move = self.first / (1 - 0.9**self.updates)
        move /= (self.second / (1 - 0.99**self.updates)).sqrt() + 1e-15
        self.weights = self.weights - 0.05 * rate * move
        loss = float((error**2).mean())
        if rate >= self.bad.get(step, 2.0):
            self.weights, loss = self.weights * torch.nan, float("nan")
        if rate >= self.hidden.get(step, 2.0):
            self.second = self.second * torch.inf
        return {"loss": loss, "samples": 16.0, "rays": 4.0}

    def validate(self, step: int) -> dict[str, float]:
        error = float(((self.weights - self.truth) ** 2).mean())
        return {"psnr": -10 * torch.log10(torch.tensor(error + 1e-12)).item()}

    def state(self) -> tuple[dict[str, Tensor], dict]:
        tensors = {"weights": self.weights, "first": self.first, "second": self.second}
        return tensors, {"updates": self.updates}

    def restore(self, tensors: dict[str, Tensor], values: dict) -> None:
        self.weights, self.first, self.second = (
            tensors[name].clone() for name in ("weights", "first", "second")
        )
        self.updates = values["updates"]


class Clock:
    """A clock of the loop that only the task moves."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: self.now))

    def pass_in(self, task, seconds):
        """Each step takes so many seconds; seconds: a number, or a function of the step's."""

        def wait(step):
            self.now += seconds(step) if callable(seconds) else seconds

        task.before_step = wait


def train(path: Path, task: LeastSquares, schedule: Schedule, **named) -> loop.Outcome:
    """Begin a run in `path`, or go on with it from its latest checkpoint."""
    began = (path / "config.json").exists()
    folder = RunFolder.open(path, writing=True) if began else RunFolder.create(path, {})
    with folder:
        return loop.run(
            task,
            folder,
            schedule,
            **{"settings": {"field": "line"}, "started": time.monotonic()} | named,
            resume_from=latest(folder.checkpoints),
        )


def final_bytes(path):
    """The last checkpoint of a run."""
    return list(steps_in(path / "checkpoints").values())[-1].read_bytes()


def events(path, kind):
    return [r for r in RunFolder.open(path).records() if r.get("event") == kind]


if __name__ == "__main__":
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            train(Path(line.strip()), LeastSquares(pause=0.01), SCHEDULE)
            os._exit(0)
        print(child, flush=True)
        print(os.waitpid(child, 0)[1], flush=True)
