"""The photographs of a scene as uint8 behind a byte-bounded cache, and pixels out of them."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from polyfield.apps.image_files import decode
from polyfield.apps.scene import Scene
from polyfield.cuda.errors import InputError

DECODED_BYTES = 1 << 25  # on their way into the cache at once


def scene_images(scene: Scene, limit_bytes: int, seed: int = 0) -> ImageStore:
    """The photographs of a scene, with alpha where it has any."""
    channels = 4 if scene.has_alpha else 3
    return ImageStore(scene.image_paths, scene.sizes, channels, limit_bytes, seed)


class ImageStore:
    """n images of sizes [(width, height)], decoded when first needed, in at most limit_bytes.

    If all fit, each is decoded once and stays. If not, the memory is cut into slots for the largest
    image, and the one that was not used for longest makes room: training then draws its pixels from
    the frames of `frames_resident(window)`, which rotate through the scene, while `gather` and
    `image` still serve any frame. Nothing decoded is ever written to disk or kept as floats.
    Raises InputError if not even one image fits; a fault in a file's pixels is raised, with its
    name, by the call that first needs them. Not for use by several threads at once.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        sizes: Sequence[tuple[int, int]],
        channels: int,
        limit_bytes: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ):
        if channels not in (3, 4) or len(paths) != len(sizes):
            got = f"{len(paths)} paths, {len(sizes)} sizes, {channels} channels"
            raise InputError("ImageStore", got, "a size for each path, 3 or 4 channels")
        self.paths, self.sizes, self.channels, self.seed = (
            tuple(paths),
            tuple(sizes),
            channels,
            seed,
        )
        pixels = [width * height for width, height in sizes]
        largest = max(pixels, default=0)
        self.all_fit = sum(pixels) * channels <= limit_bytes
        if self.all_fit:
            self.slots = len(pixels)
            self._slot_start = np.cumsum([0, *pixels]).tolist()
        else:
            self.slots = limit_bytes // (largest * channels)
            self._slot_start = [slot * largest for slot in range(self.slots + 1)]
        if self.slots < 1 <= len(pixels):
            need = f"{largest * channels / 2**20:.1f} MiB for the largest image"
            got = f"{limit_bytes / 2**20:.1f} MiB"
            raise InputError("memory for images", got, f"at least {need}", "Raise --memory.")
        # Memory that the system hands out page by page as images arrive.
        shape = (self._slot_start[-1], channels)
        self._pool = torch.empty(shape, dtype=torch.uint8, device=device)
        self._width = torch.tensor([w for w, _ in sizes], dtype=torch.int64, device=device)
        self._start = torch.full((len(pixels),), -1, device=device)
        self._slot_of: OrderedDict[int, int] = OrderedDict()  # frame -> slot, longest unused first

    @property
    def resident_bytes(self) -> int:
        """Bytes that the decoded images may fill; never more than the limit."""
        return self._pool.numel()

    def frames_resident(
        self, window: int, among: Int64[Tensor, " m"] | None = None
    ) -> Int64[Tensor, " drawable"]:
        """The frames to draw from in the window-th stretch of training, in ascending order.

        A pure function of the seed, the window's number >= 0 and `among` (all frames unless given),
        so that a resumed run sees the same. Where all of `among` fit into the memory, it is they.
        Else consecutive windows share three quarters of their frames, and each cycle goes through
        all of them once, in an order of its own.
        """
        frames = np.arange(len(self.paths)) if among is None else among.cpu().numpy()
        n = len(frames)
        if n <= self.slots:
            return torch.from_numpy(np.sort(frames))
        first = window * max(self.slots // 4, 1)
        chosen: list[int] = []
        for position in range(first, first + 2 * n + self.slots):
            cycle, place = divmod(position, n)
            if position == first or place == 0:
                generator = np.random.Generator(np.random.Philox(key=[self.seed, cycle]))
                order = frames[generator.permutation(n)]
            # Where two cycles meet, a frame of the old one's end may return at the new one's start.
            if order[place] not in chosen:
                chosen.append(int(order[place]))
            if len(chosen) == self.slots:
                break
        return torch.tensor(sorted(chosen))

    def load(self, frames: Int64[Tensor, " m"]) -> None:
        """Decode those frames that are not in memory yet; at most `slots` different ones."""
        wanted = frames.unique().tolist()
        if len(wanted) > self.slots:
            raise InputError("frames", f"{len(wanted)} at once", f"at most {self.slots}")
        for frame in wanted:
            if frame in self._slot_of:
                self._slot_of.move_to_end(frame)
        missing = [frame for frame in wanted if frame not in self._slot_of]
        with ThreadPoolExecutor(min(len(missing) or 1, os.cpu_count() or 1, 8)) as pool:
            # A few at a time: what is decoded and not yet stored counts as memory too.
            largest = max((w * h for w, h in self.sizes), default=1) * self.channels
            together = max(1, min(16, DECODED_BYTES // largest))
            for group in range(0, len(missing), together):
                names = missing[group : group + together]
                for frame, pixels in zip(names, pool.map(self._decode, names), strict=True):
                    self._store(frame, pixels)

    def gather(
        self, frames: Int64[Tensor, " r"], rows: Int64[Tensor, " r"], columns: Int64[Tensor, " r"]
    ) -> UInt8[Tensor, "r {self.channels}"]:
        """The pixels (column, row) of frames; indices must lie within the images, unchecked."""
        if len(self._slot_of) < len(self.paths) and bool((self._start[frames] < 0).any()):
            distinct = frames.unique()
            if len(distinct) > self.slots:
                return self._gather_in_turns(distinct, frames, rows, columns)
            self.load(distinct)
        index = torch.addcmul(columns + self._start[frames], rows, self._width[frames])
        if self.channels == 4:  # one number a pixel: three times as fast as four
            return self._pool.view(torch.int32)[:, 0][index][:, None].view(torch.uint8)
        return self._pool[index]

    def image(self, frame: int) -> UInt8[Tensor, "height width {self.channels}"]:
        """One whole image, as a copy."""
        self.load(torch.tensor([frame]))
        width, height = self.sizes[frame]
        start = int(self._start[frame])
        return self._pool[start : start + width * height].clone().view(height, width, self.channels)

    def _gather_in_turns(
        self, distinct: Tensor, frames: Tensor, rows: Tensor, columns: Tensor
    ) -> Tensor:
        found = torch.empty(len(frames), self.channels, dtype=torch.uint8, device=frames.device)
        for group in distinct.split(self.slots):
            here = torch.isin(frames, group)
            found[here] = self.gather(frames[here], rows[here], columns[here])
        return found

    def _decode(self, frame: int) -> Tensor:
        pixels = decode(self.paths[frame], self.channels)
        width, height = self.sizes[frame]
        if pixels.shape[:2] != (height, width):
            got = f"{pixels.shape[1]}x{pixels.shape[0]} pixels"
            raise InputError(
                str(self.paths[frame]), got, f"{width}x{height}, as when it was opened"
            )
        return pixels

    def _store(self, frame: int, pixels: Tensor) -> None:
        if self.all_fit:
            slot = frame
        elif len(self._slot_of) < self.slots:
            slot = len(self._slot_of)
        else:
            oldest, slot = self._slot_of.popitem(last=False)
            self._start[oldest] = -1
        start = self._slot_start[slot]
        self._pool[start : start + pixels.shape[0] * pixels.shape[1]] = pixels.flatten(0, 1)
        self._slot_of[frame] = slot
        self._start[frame] = start
