"""What the training loop asks of whatever it trains."""

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Task(Protocol):
    """What the loop trains: posed images, a signal, a teacher."""

    def step(self, step: int, rate: float, planned: int | None = None) -> dict[str, float]:
        """Do optimisation step number `step`, from 0, with all learning rates times `rate`.

        planned: steps of the whole run; None while nobody knows. A function of these, the task's
        state and the seed alone. Returns at least "loss"; "samples" and "rays" are counts of this
        step; "finite": 0 tells of values gone bad elsewhere.
        """
        ...

    def validate(self, step: int) -> dict[str, float]:
        """Measure, quickly and without change of state, e.g. {"psnr": dB on one held-out view}."""
        ...

    def state(self) -> tuple[dict[str, Tensor], dict]:
        """All that `step` depends on: tensors (finite while all is well) and what JSON can hold."""
        ...

    def restore(self, tensors: dict[str, Tensor], values: dict) -> None:
        """Take on a state that `state` returned, exactly. The tensors must be copied."""
        ...
