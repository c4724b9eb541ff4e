"""Adam over a field: tables step only where a gradient arrived, networks as a whole."""

from __future__ import annotations

import torch
from torch import Tensor

from polyfield.cuda.table_adam import adam_
from polyfield.fields.field import Decayed, Learnable, Paced, TableEncoding

BETAS = (0.9, 0.99)
EPSILON = 1e-15


class FieldOptimiser:
    """Adam with the settings of Instant-NGP: epsilon 1e-15, weight decay on networks only.

    Moments are kept by parameter name. An encoding's table takes its gradient deferred, see
    TableEncoding, so no dense gradient of it exists.
    """

    def __init__(self, field: Learnable, weight_decay: float = 1e-6):
        self.field, self.rate = field, field.learning_rate
        self.weight_decay = field.weight_decay if isinstance(field, Decayed) else weight_decay
        self.tables = {n: m for n, m in field.named_modules() if isinstance(m, TableEncoding)}
        self.parameters = dict(field.named_parameters())
        self.factors = rate_factors(field)
        self.moments = {
            f"{order}.{name}": torch.zeros_like(parameter.data)
            for name, parameter in self.parameters.items()
            for order in ("first", "second")
        }
        self.scratch = {
            name: torch.zeros_like(encoding.table.data) for name, encoding in self.tables.items()
        }
        for encoding in self.tables.values():
            encoding.deferred = []

    def clear(self) -> None:
        """Forgets gradients: before a backward pass, and when a step is abandoned."""
        for encoding in self.tables.values():
            encoding.deferred = []
        for parameter in self.parameters.values():
            parameter.grad = None

    def step(self, step: int, factor: float) -> None:
        """One update with the gradients that backward left; step counts from 0."""
        rate = self.rate * factor
        tables = set()
        for name, encoding in self.tables.items():
            full = f"{name}.table"
            tables.add(full)
            pending = encoding.deferred or []
            if not pending:
                continue
            whole = pending[0] if len(pending) == 1 else _joined(pending)
            moments = self.moments[f"first.{full}"], self.moments[f"second.{full}"]
            encoding.adam_step(whole, moments, self.scratch[name], rate, step + 1)
        for name, parameter in self.parameters.items():
            if name in tables or parameter.grad is None:
                continue
            first, second = self.moments[f"first.{name}"], self.moments[f"second.{name}"]
            adam_(
                parameter.data,
                parameter.grad,
                first,
                second,
                rate * self.factors.get(name, 1.0),
                step + 1,
                BETAS,
                EPSILON,
                self.weight_decay,
            )
        self.clear()

    def forget(self, module: str) -> None:
        """Zeroes the moments of the parameters that belong to the module of this name itself."""
        for key, moment in self.moments.items():
            if key.partition(".")[2].rpartition(".")[0] == module:
                moment.zero_()

    def finite(self) -> bool:
        """Whether the gradients that await a step are all finite."""
        # Rows that do not count are not set. What is wrong with the others shows in the weights.
        pending: list[Tensor] = [
            g
            for encoding in self.tables.values()
            for _, g, kept in encoding.deferred or []
            if kept is None
        ]
        pending += [p.grad for p in self.parameters.values() if p.grad is not None]
        return all(bool(torch.isfinite(g.sum())) for g in pending)

    def to(self, device: torch.device) -> None:
        """Moves the moments to where the field went."""
        for held in (self.moments, self.scratch):
            for name, tensor in held.items():
                held[name] = tensor.to(device)


def rate_factors(field: Learnable) -> dict[str, float]:
    """Of its parameters, by name, those that learn at another rate than the rest, see `Paced`."""
    factors = {
        f"{module}.{name}" if module else name: factor
        for module, part in field.named_modules()
        if isinstance(part, Paced)
        for name, factor in part.rate_factors.items()
    }
    return {name: factors[name] for name, _ in field.named_parameters() if name in factors}


def _joined(pending: list[tuple[Tensor, Tensor, Tensor | None]]) -> tuple[Tensor, Tensor, Tensor]:
    everything = [torch.ones(len(x), dtype=torch.bool, device=x.device) for x, _, _ in pending]
    kept = [k if k is not None else a for (_, _, k), a in zip(pending, everything, strict=True)]
    return (
        torch.cat([x for x, _, _ in pending]),
        torch.cat([g for _, g, _ in pending]),
        torch.cat(kept),
    )
