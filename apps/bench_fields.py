"""How well kinds of fields learn a photograph in equal steps and parameters: `bench fields`."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from polyfield.apps.fit_settings import FitSettings
from polyfield.apps.fitted import build_fitted, numbers_of
from polyfield.apps.image_files import decode, read_header
from polyfield.apps.rasters import Raster, RasterSource
from polyfield.apps.schedule import Schedule
from polyfield.apps.signal_task import SignalTask
from polyfield.cuda.errors import InputError
from polyfield.fields.rbf import RbfSignal, fitted_kernels
from polyfield.fields.table import SignalArguments, arguments_of, signal_backend
from polyfield.render.metrics import psnr_8bit

LEAST_SIDE = 64

Photograph = UInt8[Tensor, "height width 3"]


@dataclass(frozen=True)
class Learned:
    """What a field made of a photograph."""

    name: str
    psnr: float
    """In dB, after rounding to 8 bits."""
    parameters: int
    """All numbers that it keeps, centres and shapes among them."""
    learned: int
    """Those of them that training changes."""
    steps: int
    seconds: float
    """Placing its kernels included."""


def read_photograph(path: Path) -> Photograph:
    """sRGB. InputError where there is none, or a side is shorter than 64 pixels."""
    header = read_header(path)
    if min(header.width, header.height) < LEAST_SIDE:
        got = f"{header.width} x {header.height}"
        raise InputError(str(path), got, f"at least {LEAST_SIDE} pixels a side")
    return decode(path, 4)[..., :3].contiguous()


def image_rows(image: Photograph, steps: int, seed: int) -> list[dict[str, object]]:
    """A row for each kind of field, see `Learned`, and the dB that it gained over the hash grid's.

    Each is what `fit` makes of as many numbers as the photograph has pixels, learned as `fit` does:
    hash-grid, tri-plane, and rbf, the last also without each of its parts. Raises InputError for
    steps < 1.
    """
    if steps < 1:
        raise InputError("--steps", str(steps), "at least 1")
    height, width, _ = image.shape
    side, pixels = max(height, width), height * width
    source = RasterSource(Raster(image[None]), seed)
    fields = {name: signal_backend(name).arguments for name in ("hash-grid", "tri-plane")}
    makers = {name: (name, kind.fitted(2, side, pixels)) for name, kind in fields.items()}
    for name, sizes in rbf_variants().items():
        makers[name] = ("rbf", fitted_kernels(sizes, 2, side, pixels))
    rows = [learn(name, *made, source, steps) for name, made in makers.items()]
    return [asdict(row) | {"gained": row.psnr - rows[0].psnr} for row in rows]


def rbf_variants() -> dict[str, RbfSignal]:
    """Radial basis functions of images, and the same without each of their parts."""
    whole = RbfSignal()
    return {
        "rbf": whole,
        "rbf on a lattice": replace(whole, placed=0),
        "rbf without sines": replace(whole, sines=0),
        "rbf without a grid": replace(whole, levels=0),
    }


def learn(
    name: str, field: str, sizes: SignalArguments, source: RasterSource, steps: int
) -> Learned:
    """Learns the source's photograph as `fit --steps` does, and measures it."""
    raster = source.raster
    settings = FitSettings(
        kind="image",
        field=field,
        arguments=arguments_of(sizes),
        channels=source.channels,
        signal="",
        seed=source.seed,
        samples_per_step=sizes.samples_per_step,
        size=(1, source.height, source.width),
    )
    fitted = build_fitted(settings, torch.device("cpu"))
    task, schedule = SignalTask(fitted, source), Schedule(None).fixed(steps)
    begin = time.monotonic()
    for step in range(steps):
        task.step(step, schedule.rate(step))
    seconds = time.monotonic() - begin
    shown = fitted.frame(0, source.width, source.height)
    return Learned(
        name=name,
        psnr=psnr_8bit(shown, raster.frame(0)),
        parameters=numbers_of(fitted),
        learned=sum(p.numel() for p in fitted.signal.parameters()),
        steps=steps,
        seconds=seconds,
    )


def fields_summary(rows: list[dict[str, object]]) -> str:
    """A table for the terminal, with what each gains over the first."""
    width = max(len(str(row["name"])) for row in rows)
    lines = [f"{'field':<{width}}      PSNR   gained  parameters    learned    seconds"]
    lines += [
        f"{row['name']:<{width}}  {row['psnr']:5.2f} dB  {row['gained']:+7.2f}"
        f"  {row['parameters']:10,} {row['learned']:10,}  {row['seconds']:9.1f}"
        for row in rows
    ]
    steps = rows[0]["steps"]
    return "\n".join([*lines, f"({steps} steps each, {torch.get_num_threads()} threads)"])
