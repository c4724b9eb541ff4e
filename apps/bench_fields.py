"""How well kinds of fields learn a photograph in equal steps and parameters: `bench fields`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from polyfield.apps.image_files import decode, read_header
from polyfield.cuda.errors import InputError
from polyfield.cuda.hash_grid import HashGridLayout
from polyfield.fields.hash_grid import HashGrid
from polyfield.fields.rbf import Rbf, RbfShape
from polyfield.fields.rbf_placement import gradient_weights, kernels_within
from polyfield.fields.signal import ReluDecoder, Signal, SineDecoder
from polyfield.render.metrics import psnr_8bit

BATCH = 1 << 16
CHANNELS, NEIGHBOURS = 32, 4
LEAST_SIDE = 64
ENCODING_RATE, DECODER_RATE, LAST_RATE = 5e-3, 1e-2, 0.01

Photograph = Float[Tensor, "height width 3"]


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
    placing_seconds: float
    seconds: float


def read_photograph(path: Path) -> Photograph:
    """sRGB in [0, 1]. InputError where there is none, or a side is shorter than 64 pixels."""
    header = read_header(path)
    if min(header.width, header.height) < LEAST_SIDE:
        got = f"{header.width} x {header.height}"
        raise InputError(str(path), got, f"at least {LEAST_SIDE} pixels a side")
    return decode(path, 4)[..., :3].float() / 255


def image_rows(image: Photograph, steps: int, seed: int) -> list[dict[str, object]]:
    """A row for each kind of field, see `Learned`, and the dB that it gained over the hash grid's.

    The hash grid's size is what all others have.

    hash-grid: 16 levels of two features and two hidden layers of 64, about as many parameters as
    the photograph has pixels. rbf: kernels that are placed where it varies, beside two levels of a
    grid, and a decoder with sines; then without each of its parts. All learn with Adam, batches of
    65,536 pixels (fewer of a smaller photograph) without repetition, and a cosine to a hundredth
    of the rate. Raises InputError for steps < 1.
    """
    if steps < 1:
        raise InputError("--steps", str(steps), "at least 1")
    grid = hash_signal(image, seed)
    budget = numbers_of(grid)
    makers: dict[str, Callable[[], Signal]] = {
        "rbf": lambda: rbf_signal(image, budget, seed),
        "rbf on a lattice": lambda: rbf_signal(image, budget, seed, placed=False),
        "rbf without sines": lambda: rbf_signal(image, budget, seed, sines=False),
        "rbf without a grid": lambda: rbf_signal(image, budget, seed, grid=False),
    }
    rows = [learn("hash-grid", grid, 0.0, image, steps, seed, DECODER_RATE)]
    for name, make in makers.items():
        begin = time.monotonic()
        signal = make()
        placing = time.monotonic() - begin
        rows.append(learn(name, signal, placing, image, steps, seed, ENCODING_RATE))
    return [asdict(row) | {"gained": row.psnr - rows[0].psnr} for row in rows]


def hash_signal(image: Photograph, seed: int) -> Signal:
    """A hash grid with about as many numbers as the photograph has pixels."""
    random = Generator().manual_seed(seed)
    side, pixels = max(image.shape[:2]), image.shape[0] * image.shape[1]
    finest = max(16, side // 2)
    sizes = range(3, 25)
    fitting = [
        n for n in sizes if 2 * HashGridLayout(2, 16, 2, n, 16, finest).entries <= 1.1 * pixels
    ]
    log2_size = max(fitting, default=sizes[0])
    grid = HashGrid(16, 2, log2_size, 16, finest, dimensions=2, generator=random)
    return Signal(grid, ReluDecoder(grid.width, 3, generator=random))


def rbf_signal(
    image: Photograph,
    parameters: int,
    seed: int,
    *,
    placed: bool = True,
    sines: bool = True,
    grid: bool = True,
) -> Signal:
    """Kernels in so many numbers, their centres and shapes and all of the decoder counted."""
    random = Generator().manual_seed(seed)
    width = CHANNELS + (2 * 2 if grid else 0)
    decoder = SineDecoder(width, 3, generator=random)
    rest, partner = parameters - width - numbers_of(decoder), None
    if grid:
        # Two dense levels, which leave half of the numbers to the kernels.
        finest = min(max(image.shape[:2]) // 2, int(max(0.0, rest / 4 - 256) ** 0.5))
        partner = HashGrid(2, 2, 24, 16, max(16, finest), dimensions=2, generator=random)
        rest -= numbers_of(partner)
    count = kernels_within(rest, CHANNELS, 2, "a")
    waves = (0.125, 4096.0) if sines else (0.0, 0.0)
    shape = RbfShape(2, count, CHANNELS, "ivq", "a", NEIGHBOURS, True, *waves)
    encoding = Rbf(shape, partner, generator=random)
    if placed:
        encoding.settle(pixel_places(image), gradient_weights(image), random)
    return Signal(encoding, decoder)


def learn(
    name: str,
    signal: Signal,
    placing: float,
    image: Photograph,
    steps: int,
    seed: int,
    rate: float,
) -> Learned:
    """Trains a signal on a photograph and measures it. rate: of the encoding."""
    x, wanted = pixel_places(image), image.reshape(-1, 3)
    encoding = signal.encoding
    # Pixels never move, nor do kernels: their neighbours are found once.
    index = encoding.neighbours(x) if isinstance(encoding, Rbf) else None
    groups = [
        {"params": list(part.parameters()), "lr": each}
        for part, each in ((signal.get_submodule("encoding"), rate), (signal.decoder, DECODER_RATE))
    ]
    optimiser = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: LAST_RATE + (1 - LAST_RATE) * _cosine(step / steps)
    )
    random, order, begin = Generator().manual_seed(seed), x.new_zeros(0).long(), time.monotonic()
    for _ in range(steps):
        if not len(order):
            order = torch.randperm(len(x), generator=random)
        chosen, order = order[:BATCH], order[BATCH:]
        features = _encoded(signal, x[chosen], None if index is None else index[chosen])
        loss = (signal.decoder(features) - wanted[chosen]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    seconds = time.monotonic() - begin
    with torch.no_grad():
        shown = torch.cat([signal.value(part) for part in x.split(BATCH)])
    return Learned(
        name=name,
        psnr=psnr_8bit(shown.clamp(0, 1).view(image.shape), image),
        parameters=numbers_of(signal),
        learned=sum(p.numel() for p in signal.parameters()),
        steps=steps,
        placing_seconds=placing,
        seconds=seconds,
    )


def numbers_of(module: torch.nn.Module) -> int:
    """All numbers that a file of it holds."""
    return sum(tensor.numel() for tensor in module.state_dict().values())


def pixel_places(image: Photograph) -> Float[Tensor, "pixels 2"]:
    """The centres of the pixels, row by row, (x, y) in the unit square: its longer side is 1."""
    height, width, _ = image.shape
    side = max(height, width)
    rows, columns = torch.meshgrid(
        (torch.arange(height) + 0.5) / side, (torch.arange(width) + 0.5) / side, indexing="ij"
    )
    return torch.stack([columns, rows], 2).view(-1, 2)


def fields_summary(rows: list[dict[str, object]]) -> str:
    """A table for the terminal, with what each gains over the first."""
    width = max(len(str(row["name"])) for row in rows)
    lines = [f"{'field':<{width}}      PSNR   gained  parameters    learned    placed   trained"]
    lines += [
        f"{row['name']:<{width}}  {row['psnr']:5.2f} dB  {row['gained']:+7.2f}"
        f"  {row['parameters']:10,} {row['learned']:10,}"
        f"  {row['placing_seconds']:6.1f} s  {row['seconds']:6.1f} s"
        for row in rows
    ]
    steps = rows[0]["steps"]
    return "\n".join([*lines, f"({steps} steps each, {torch.get_num_threads()} threads)"])


def _encoded(signal: Signal, x: Tensor, index: Tensor | None) -> Tensor:
    encoding = signal.encoding
    return encoding(x, index) if isinstance(encoding, Rbf) else encoding(x)


def _cosine(progress: float) -> float:
    return 0.5 + 0.5 * math.cos(math.pi * progress)
