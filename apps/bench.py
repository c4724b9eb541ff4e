"""`polyfield bench`: races against other implementations, as ratios measured in one run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from time import perf_counter
from typing import Literal

import torch
from torch import Tensor, nn
from tyro.conf import Positional

from polyfield.cuda.composite import composite
from polyfield.cuda.hash_grid import HashGridLayout, hash_grid, hash_grid_reference
from polyfield.cuda.mlp import initial_weights, mlp

POINTS = 131_072
ROUNDS = 9


@dataclass(frozen=True)
class Bench:
    """Race polyfield's kernels against others' on this machine."""

    what: Positional[Literal["kernels"]] = "kernels"
    """What to race."""
    rounds: int = ROUNDS
    """Turns that each side gets, after one that only warms."""


@dataclass(frozen=True)
class Row:
    """One race: times are medians in milliseconds, ratio the median of theirs / ours in turns."""

    name: str
    against: str
    version: str
    ours: float
    theirs: float
    unit: str
    ratio: float


def bench(options: Bench) -> list[dict[str, object]]:
    """Hold every race whose opponent is installed; a list of rows, skipped ones with a reason."""
    rows: list[dict[str, object]] = []
    for name, make in RACES.items():
        try:
            ours, theirs, opponent = make()
        except ImportError as error:
            rows.append({"name": name, "skipped": str(error)})
            continue
        mine, other = race(ours, theirs, options.rounds)
        row = Row(
            name=name,
            against=opponent,
            version=_version(opponent),
            ours=median(mine),
            theirs=median(other),
            unit="ms",
            ratio=median(t / o for o, t in zip(mine, other, strict=True)),
        )
        rows.append(vars(row))
    return rows


def race(
    ours: Callable[[], object], theirs: Callable[[], object], rounds: int
) -> tuple[list[float], list[float]]:
    """Milliseconds of each side, turn by turn, so that the machine's noise meets both alike."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 1):
        for side, work in enumerate((theirs, ours)):
            begin = perf_counter()
            work()
            if turn:
                times[1 - side].append(1000 * (perf_counter() - begin))
    return times


def _points() -> Tensor:
    return torch.rand(POINTS, 3, generator=torch.Generator().manual_seed(0))


PAPER = HashGridLayout(levels=16, features=2, log2_table_size=19)


def hash_against_reference() -> tuple[Callable, Callable, str]:
    """Hash grid forward + backward against the specification: a gather a corner, autograd."""
    x = _points()
    table = torch.zeros(PAPER.entries, PAPER.features).uniform_(-1, 1).requires_grad_()
    grad = torch.ones(POINTS, PAPER.width)

    def run(encode: Callable) -> None:
        table.grad = None
        encode(x, table, PAPER).backward(grad)

    return lambda: run(hash_grid), lambda: run(hash_grid_reference), "torch"


def mlp_against_torch() -> tuple[Callable, Callable, str]:
    """MLP 32-64-64-3 forward + backward against torch.nn.Linear without biases."""
    widths = (32, 64, 64, 3)
    weights = initial_weights(widths, torch.Generator().manual_seed(0)).requires_grad_()
    pairs = list(zip(widths, widths[1:], strict=False))
    layers: list[nn.Module] = []
    parts = weights.detach().split([a * b for a, b in pairs])
    for (inputs, outputs), part in zip(pairs, parts, strict=True):
        linear = nn.Linear(inputs, outputs, bias=False)
        linear.weight.data.copy_(part.reshape(outputs, inputs))
        layers += [linear, nn.ReLU()]
    stack = nn.Sequential(*layers[:-1])
    x = torch.rand(POINTS, 32, generator=torch.Generator().manual_seed(1)).requires_grad_()
    grad = torch.ones(POINTS, 3)
    torch.testing.assert_close(mlp(x, weights, widths), stack(x), atol=1e-4, rtol=1e-3)

    def ours() -> None:
        x.grad = weights.grad = None
        mlp(x, weights, widths).backward(grad)

    def theirs() -> None:
        x.grad = None
        stack.zero_grad()
        stack(x).backward(grad)

    return ours, theirs, "torch"


def composite_against_nerfacc() -> tuple[Callable, Callable, str]:
    """Compositing of 4096 rays of 64 samples, forward + backward, nerfacc in its batched form."""
    nerfacc = import_module("nerfacc")
    rays, samples = 4096, 64
    random = torch.Generator().manual_seed(0)
    density = (4 * torch.rand(rays, samples, generator=random)).requires_grad_()
    color = torch.rand(rays, samples, 3, generator=random).requires_grad_()
    edges = torch.linspace(0, 2, samples + 1).expand(rays, -1)
    length = edges.diff(dim=1).reshape(-1).contiguous()
    offsets = (torch.arange(rays + 1) * samples).int()

    def ours() -> Tensor:
        out = composite(density.reshape(-1), length, color.reshape(-1, 3), offsets)
        out.values.sum().backward()
        return out.values.detach()

    def theirs() -> Tensor:
        weights, _, _ = nerfacc.render_weight_from_density(edges[:, :-1], edges[:, 1:], density)
        out = nerfacc.accumulate_along_rays(weights, color)
        out.sum().backward()
        return out.detach()

    torch.testing.assert_close(ours(), theirs(), atol=1e-4, rtol=1e-3)
    return ours, theirs, "nerfacc"


RACES: dict[str, Callable[[], tuple[Callable, Callable, str]]] = {
    "hash-both/reference": hash_against_reference,
    "mlp-both/torch": mlp_against_torch,
    "composite-both/nerfacc": composite_against_nerfacc,
}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def summary(rows: list[dict[str, object]]) -> str:
    """A table for the terminal."""
    lines = []
    for row in rows:
        if "skipped" in row:
            lines.append(f"{row['name']:<24} skipped: {row['skipped']}")
            continue
        ratio, ours, theirs = (float(str(row[k])) for k in ("ratio", "ours", "theirs"))
        digits = 1 if ratio >= 10 else 2
        lines.append(
            f"{row['name']:<24} {ratio:6.{digits}f}x  ours {ours:.2f} ms, "
            f"{row['against']} {row['version']} {theirs:.2f} ms"
        )
    return "\n".join(lines)
