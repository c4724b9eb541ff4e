"""Images and films as signals: their files, their pixels in any order, and where they vary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor

from polyfield.apps.formats.exr import read_exr
from polyfield.apps.formats.films import FILM_SUFFIXES, read_film
from polyfield.apps.image_files import SUFFIXES, decode, read_header
from polyfield.apps.pixel_values import Values, file_values, learned_values, shown_values
from polyfield.cuda.errors import InputError
from polyfield.fields.rbf_placement import gradient_weights
from polyfield.render.metrics import psnr_8bit
from polyfield.render.occupancy import step_generator

MOST_SHUFFLED = 1 << 24  # pixels that are put in a random order; of more, batches are drawn
WATCHED = 1 << 17  # pixels that are looked at while a field learns
PLACES = 1 << 20  # pixels, at most, that kernels are placed by
FRAMES_PER_SECOND = 25.0  # of a folder of frames


@dataclass(frozen=True, eq=False)
class Raster:
    """Pixels of an image (one frame) or of a film, as its files hold them."""

    pixels: Tensor
    """[frames, height, width, channels]: uint8 of sRGB, or float32 of light."""
    kept: Bool[Tensor, "height width"] | None = None
    """The pixels that count, of every frame; None where all do."""
    frames_per_second: float = FRAMES_PER_SECOND
    kind: Literal["image", "film"] = "image"

    @property
    def values(self) -> Values:
        """What the numbers mean."""
        return "srgb" if self.pixels.dtype == torch.uint8 else "linear"

    def frame(self, number: int) -> Float[Tensor, "height width channels"]:
        """Values as the files hold them: sRGB in [0, 1], or light."""
        frame = self.pixels[number].float()
        return frame / 255 if self.values == "srgb" else frame


def read_raster(path: Path, mask: Path | None, memory_bytes: int) -> Raster:
    """An image, a film, or a folder of frames in the order of their names.

    mask: an image of the same size, black where pixels are to be ignored. Raises InputError where
    there is none, a file does not decode, frames differ in size, or the pixels take more than
    memory_bytes.
    """
    if path.is_dir():
        raster = _read_frames(path, memory_bytes)
    elif path.suffix.lower() in FILM_SUFFIXES:
        pixels, rate = read_film(path, memory_bytes)
        raster = Raster(pixels, None, rate, "film")
    elif path.suffix.lower() == ".exr":
        raster = Raster(read_exr(path, memory_bytes)[None])
    else:
        header = read_header(path)
        channels = 4 if header.has_alpha else 3
        _check_bytes(path, header.width * header.height * channels, memory_bytes)
        raster = Raster(decode(path, channels)[None])
    return raster if mask is None else _masked(raster, mask)


class RasterSource:
    """The pixels of an image or a film over the unit square, or cube: what a field learns.

    The longer side of a picture is the cube's; a frame's time is the middle of its part of it.
    Up to 2^24 pixels come in a random order, each once before any comes again; of more, batches are
    drawn.
    """

    pace = 1.0

    def __init__(self, raster: Raster, seed: int):
        self.raster, self.seed = raster, seed
        self.frames, self.height, self.width, self.channels = raster.pixels.shape
        kept = raster.kept
        rows = None if kept is None else kept.reshape(-1).nonzero()[:, 0]
        self.rows, self.order = rows, (-1, torch.zeros(0, dtype=torch.int64))
        self.count = self.frames * (self.height * self.width if rows is None else len(rows))

    def batch(self, step: int, count: int) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n c"]]:
        """See Source. Fewer than `count` where there are not so many pixels."""
        count = min(count, self.count)
        if self.count > MOST_SHUFFLED:
            random = step_generator(self.seed, step)
            return self._at(torch.randint(self.count, (count,), generator=random))
        turns = self.count // count  # what is left over at an epoch's end is left out
        epoch, turn = divmod(step, turns)
        if self.order[0] != epoch:
            random = step_generator(self.seed, epoch)
            self.order = epoch, torch.randperm(self.count, generator=random)
        return self._at(self.order[1][turn * count : (turn + 1) * count])

    def error(self, found: Float[Tensor, "n c"], wanted: Float[Tensor, "n c"]) -> Tensor:
        """The mean square."""
        return (found - wanted).square().mean()

    def variation(self, generator: Generator) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n"]]:
        """Pixels, and the length of the gradient there; of many, as many as placing needs.

        Of a film, also of the change from one frame to the next.
        """
        chosen = torch.arange(self.count)
        if self.count > PLACES:
            chosen = torch.randint(self.count, (PLACES,), generator=generator).sort().values
        frame, pixel = self._split(chosen)
        weights = torch.empty(len(chosen))
        for number in frame.unique().tolist():
            here = frame == number
            slope = gradient_weights(self._learned(number))
            if self.raster.kind == "film" and self.frames > 1:
                other = number + 1 if number + 1 < self.frames else number - 1
                change = self._learned(other) - self._learned(number)
                slope = (slope.square() + change.square().sum(2).reshape(-1)).sqrt()
            weights[here] = slope[pixel[here]]
        return self._places(frame, pixel), weights

    def watch(self, value: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """PSNR in dB over the pixels that count, or over 2^17 of them; of light, as it is shown."""
        step = max(1, self.count // WATCHED)
        x, wanted = self._at(torch.arange(0, self.count, step))
        kind = self.raster.values
        shown = (shown_values(file_values(v, kind), kind)[None] for v in (value(x), wanted))
        return {"psnr": psnr_8bit(*shown)}

    def _at(self, chosen: Int64[Tensor, " n"]) -> tuple[Tensor, Tensor]:
        frame, pixel = self._split(chosen)
        values = self.raster.pixels.view(self.frames, -1, self.channels)[frame, pixel].float()
        values = values / 255 if self.raster.values == "srgb" else values
        return self._places(frame, pixel), learned_values(values, self.raster.values)

    def _split(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Frames, and pixels of them, of numbers among those that count."""
        size = self.height * self.width if self.rows is None else len(self.rows)
        frame, pixel = chosen // size, chosen % size
        return frame, pixel if self.rows is None else self.rows[pixel]

    def _places(self, frame: Tensor, pixel: Tensor) -> Tensor:
        longer = max(self.height, self.width)
        x = [(pixel % self.width + 0.5) / longer, (pixel // self.width + 0.5) / longer]
        if self.raster.kind == "film":
            x.append((frame + 0.5) / self.frames)
        return torch.stack(x, 1).float()

    def _learned(self, number: int) -> Tensor:
        return learned_values(self.raster.frame(number), self.raster.values)


def _read_frames(folder: Path, memory_bytes: int) -> Raster:
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise InputError(str(folder), "holds no images", f"frames: {', '.join(SUFFIXES)}")
    first = read_header(paths[0])
    channels = 4 if first.has_alpha else 3
    size = (first.height, first.width, channels)
    _check_bytes(folder, len(paths) * size[0] * size[1] * channels, memory_bytes)
    pixels = torch.empty(len(paths), *size, dtype=torch.uint8)
    for number, path in enumerate(paths):
        header = read_header(path)
        if (header.height, header.width) != size[:2]:
            got, expected = f"{header.width}x{header.height} pixels", f"{size[1]}x{size[0]}"
            raise InputError(str(path), got, f"{expected}, as the first frame has")
        decode(path, channels, pixels[number])
    return Raster(pixels, None, FRAMES_PER_SECOND, "film")


def _masked(raster: Raster, path: Path) -> Raster:
    header = read_header(path)
    height, width = raster.pixels.shape[1:3]
    if (header.height, header.width) != (height, width):
        got = f"{header.width}x{header.height} pixels"
        raise InputError(f"--mask {path}", got, f"{width}x{height}, as the signal has")
    kept = decode(path, 4)[..., :3].float().mean(2) > 127
    if not bool(kept.any()):
        raise InputError(f"--mask {path}", "ignores every pixel", "something to learn")
    return Raster(raster.pixels, kept, raster.frames_per_second, raster.kind)


def _check_bytes(path: Path, needed: int, memory_bytes: int) -> None:
    if needed > memory_bytes:
        got = f"{needed / 1e9:.2f} GB when it is decoded"
        remedy = "Shorten it, or make it smaller."
        raise InputError(str(path), got, f"at most {memory_bytes / 1e9:.2f} GB", remedy)
