"""The photographs of a scene as uint8 behind a byte-bounded cache, and pixels out of them."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from polyfield.apps.mask_files import Mask, decode_masked, kept_pixels
from polyfield.apps.memory_plan import stored_bytes
from polyfield.apps.scene import Scene
from polyfield.cuda.errors import InputError

DECODED_BYTES = 1 << 25  # on their way into the cache at once


def scene_images(scene: Scene, limit_bytes: int, seed: int = 0) -> ImageStore:
    """The photographs of a scene, with alpha where it has any, and their masks."""
    channels = 4 if scene.has_alpha else 3
    paths, sizes, masks = scene.image_paths, scene.sizes, scene.masks
    return ImageStore(paths, sizes, channels, limit_bytes, seed, masks=masks)


class ImageStore:
    """n images of sizes [(width, height)], decoded when first needed, in at most limit_bytes.

    If all fit, each is decoded once and stays. If not, the memory is cut into slots for the largest
    image, and the one that was not used for longest makes room: training then draws its pixels from
    the frames of `frames_resident(window)`, which rotate through the scene, while `gather` and
    `image` still serve any frame. Nothing decoded is ever written to disk or kept as floats.
    masks: one a frame, or none at all: an object's is its image's alpha, which takes 4 channels; of
    the others one bit a pixel is kept, see `kept`.
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
        masks: Sequence[Mask | None] = (),
    ):
        if channels not in (3, 4) or len(paths) != len(sizes):
            got = f"{len(paths)} paths, {len(sizes)} sizes, {channels} channels"
            raise InputError("ImageStore", got, "a size for each path, 3 or 4 channels")
        if masks and len(masks) != len(paths):
            raise InputError("ImageStore", f"{len(masks)} masks", f"one for each of {len(paths)}")
        self.paths, self.sizes, self.channels, self.seed, self.masks = (
            tuple(paths),
            tuple(sizes),
            channels,
            seed,
            tuple(masks) or (None,) * len(paths),
        )
        self.ignoring = any(mask is not None and mask.meaning != "object" for mask in self.masks)
        """Some mask leaves pixels out."""
        need_bytes = [stored_bytes(size, channels, self.ignoring) for size in sizes]
        pixels = [width * height for width, height in sizes]
        if self.ignoring:  # whole bytes of bits
            pixels = [-(-count // 8) * 8 for count in pixels]
        largest, largest_bytes = max(pixels, default=0), max(need_bytes, default=0)
        self.all_fit = sum(need_bytes) <= limit_bytes
        if self.all_fit:
            self.slots = len(pixels)
            self._slot_start = np.cumsum([0, *pixels]).tolist()
        else:
            self.slots = limit_bytes // largest_bytes
            self._slot_start = [slot * largest for slot in range(self.slots + 1)]
        if self.slots < 1 <= len(pixels):
            need = f"{largest_bytes / 2**20:.1f} MiB for the largest image"
            got = f"{limit_bytes / 2**20:.1f} MiB"
            raise InputError("memory for images", got, f"at least {need}", "Raise --memory.")
        # Memory that the system hands out page by page as images arrive.
        shape = (self._slot_start[-1], channels)
        self._pool = torch.empty(shape, dtype=torch.uint8, device=device)
        bits = self._slot_start[-1] // 8 if self.ignoring else 0
        self._bits = torch.empty(bits, dtype=torch.uint8, device=device)
        self._width = torch.tensor([w for w, _ in sizes], dtype=torch.int64, device=device)
        self._start = torch.full((len(pixels),), -1, device=device)
        self._slot_of: OrderedDict[int, int] = OrderedDict()  # frame -> slot, longest unused first

    @property
    def resident_bytes(self) -> int:
        """Bytes that the decoded images may fill; never more than the limit."""
        return self._pool.numel() + self._bits.numel()

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
            masks = [(mask.width, mask.height) for mask in self.masks if mask is not None]
            largest = max((w * h for w, h in (*self.sizes, *masks)), default=1) * self.channels
            together = max(1, min(16, DECODED_BYTES // largest))
            for group in range(0, len(missing), together):
                names = missing[group : group + together]
                for frame, decoded in zip(names, pool.map(self._decode, names), strict=True):
                    self._store(frame, *decoded)

    def gather(
        self, frames: Int64[Tensor, " r"], rows: Int64[Tensor, " r"], columns: Int64[Tensor, " r"]
    ) -> UInt8[Tensor, "r {self.channels}"]:
        """The pixels (column, row) of frames; indices must lie within the images, unchecked."""
        return self._looked_up(self._colors, frames, rows, columns)

    def kept(
        self, frames: Int64[Tensor, " r"], rows: Int64[Tensor, " r"], columns: Int64[Tensor, " r"]
    ) -> Bool[Tensor, " r"]:
        """Whether no mask ignores the pixels (column, row) of frames; indices are unchecked."""
        if not self.ignoring:
            return torch.ones_like(frames, dtype=torch.bool)
        return self._looked_up(self._bit, frames, rows, columns)

    def image(self, frame: int) -> UInt8[Tensor, "height width {self.channels}"]:
        """One whole image, as a copy."""
        self.load(torch.tensor([frame]))
        width, height = self.sizes[frame]
        start = int(self._start[frame])
        return self._pool[start : start + width * height].clone().view(height, width, self.channels)

    def kept_image(self, frame: int) -> Bool[Tensor, "height width"]:
        """`kept` of one whole image."""
        width, height = self.sizes[frame]
        if not self.ignoring:
            return torch.ones(height, width, dtype=torch.bool, device=self._pool.device)
        self.load(torch.tensor([frame]))
        start = int(self._start[frame])
        index = torch.arange(start, start + width * height, device=self._pool.device)
        return self._bit(index).view(height, width)

    def _looked_up(
        self, read: Callable[[Tensor], Tensor], frames: Tensor, rows: Tensor, columns: Tensor
    ) -> Tensor:
        if len(self._slot_of) < len(self.paths) and bool((self._start[frames] < 0).any()):
            distinct = frames.unique()
            if len(distinct) > self.slots:
                return self._in_turns(read, distinct, frames, rows, columns)
            self.load(distinct)
        return read(torch.addcmul(columns + self._start[frames], rows, self._width[frames]))

    def _in_turns(
        self,
        read: Callable[[Tensor], Tensor],
        distinct: Tensor,
        frames: Tensor,
        rows: Tensor,
        columns: Tensor,
    ) -> Tensor:
        turn = torch.bucketize(frames, distinct) // self.slots
        found = torch.empty(0)
        for number in range(-(-len(distinct) // self.slots)):
            here = turn == number
            part = self._looked_up(read, frames[here], rows[here], columns[here])
            if number == 0:
                found = part.new_empty(len(frames), *part.shape[1:])
            found[here] = part
        return found

    def _colors(self, index: Tensor) -> Tensor:
        if self.channels == 4:  # one number a pixel: three times as fast as four
            return self._pool.view(torch.int32)[:, 0][index][:, None].view(torch.uint8)
        return self._pool[index]

    def _bit(self, index: Tensor) -> Tensor:
        return (self._bits[index >> 3] >> (7 - (index & 7)).to(torch.uint8) & 1).bool()

    def _decode(self, frame: int) -> tuple[Tensor, Tensor | None]:
        mask = self.masks[frame]
        pixels = decode_masked(self.paths[frame], mask, self.channels)
        width, height = self.sizes[frame]
        if pixels.shape[:2] != (height, width):
            got = f"{pixels.shape[1]}x{pixels.shape[0]} pixels"
            raise InputError(
                str(self.paths[frame]), got, f"{width}x{height}, as when it was opened"
            )
        if not self.ignoring:
            return pixels, None
        kept = np.packbits(kept_pixels(mask, width, height).flatten().numpy())
        return pixels, torch.from_numpy(kept)

    def _store(self, frame: int, pixels: Tensor, kept: Tensor | None) -> None:
        if self.all_fit:
            slot = frame
        elif len(self._slot_of) < self.slots:
            slot = len(self._slot_of)
        else:
            oldest, slot = self._slot_of.popitem(last=False)
            self._start[oldest] = -1
        start = self._slot_start[slot]
        self._pool[start : start + pixels.shape[0] * pixels.shape[1]] = pixels.flatten(0, 1)
        if kept is not None:
            self._bits[start // 8 : start // 8 + len(kept)] = kept
        self._slot_of[frame] = slot
        self._start[frame] = start
