"""The photographs of a scene as uint8 behind a byte-bounded cache, and pixels out of them."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from polyfield.apps.mask_files import Mask, decode_masked, kept_pixels
from polyfield.apps.memory_plan import decoders, stored_bytes
from polyfield.apps.scene import Scene
from polyfield.cuda.errors import InputError

TURN_STEPS = 8  # of training between two turns of a window
TURNED = 32  # turns in which a window has changed altogether, where it holds so many images
AHEAD = 8  # one slot of so many is for images that are decoded before they are needed


def scene_images(scene: Scene, limit_bytes: int, seed: int = 0) -> ImageStore:
    """The photographs of a scene, with alpha where it has any, and their masks."""
    channels = 4 if scene.has_alpha else 3
    paths, sizes, masks = scene.image_paths, scene.sizes, scene.masks
    return ImageStore(paths, sizes, channels, limit_bytes, seed, masks=masks)


class ImageStore:
    """n images of sizes [(width, height)], decoded when first needed, in at most limit_bytes.

    If all fit, each is decoded once and stays. If not, the memory is cut into slots for the largest
    image, and the one that was not used for longest makes room: training then draws its pixels from
    the frames of `frames_resident(turn)`, a window that moves through the scene, while `gather` and
    `image` still serve any frame. `turn_to` brings a window into memory, and from then on threads
    decode what the next turns need straight into slots of their own. Which frames a window holds
    never depends on how far they are. Nothing decoded is ever written to disk or kept as floats.
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
        self.step_of_turn = max(1, self.slots // TURNED)
        """Frames by which a window moves in a turn."""
        self.ahead = 0
        """Frames that are decoded before they are needed."""
        if not self.all_fit and self.slots > 1:
            self.ahead = max(self.step_of_turn, self.slots // AHEAD)
        # Memory that the system hands out page by page as images arrive.
        shape = (self._slot_start[-1], channels)
        self._pool = torch.empty(shape, dtype=torch.uint8)
        bits = self._slot_start[-1] // 8 if self.ignoring else 0
        self._bits = torch.empty(bits, dtype=torch.uint8)
        self._width = torch.tensor([w for w, _ in sizes], dtype=torch.int64)
        self._start = torch.full((len(pixels),), -1)
        self._slot_of: OrderedDict[int, int] = OrderedDict()  # frame -> slot, longest unused first
        self._coming: dict[int, tuple[int, Future[float]]] = {}  # frame -> slot, while it decodes
        self._free = [] if self.all_fit else list(range(self.slots))
        decoded = [w * h for w, h in sizes] + [m.width * m.height for m in self.masks if m]
        together = decoders(max(decoded, default=1), any(self.masks))
        self._threads = ThreadPoolExecutor(min(together, os.cpu_count() or 1))
        self.decoded = 0
        """Images that were decoded so far, one that came again counted again."""
        self.decoding_seconds = 0.0
        """Of processor time, that decoding them took in threads of its own."""
        self.waiting_seconds = 0.0
        """That callers stood still until images were decoded."""

    @property
    def resident_bytes(self) -> int:
        """Bytes that the decoded images may fill; never more than the limit."""
        return self._pool.numel() + self._bits.numel()

    def frames_resident(
        self, turn: int, among: Int64[Tensor, " m"] | None = None
    ) -> Int64[Tensor, " drawable"]:
        """The frames to draw from in the turn-th stretch of training, in ascending order.

        A pure function of the seed, the turn's number >= 0 and `among` (all frames unless given),
        so that a resumed run sees the same. Where all of `among` fit into the memory, it is they.
        Else windows move through them `step_of_turn` frames a turn, each cycle in an order of its
        own, and leave `ahead` slots to the frames of the next turns.
        """
        return torch.tensor(sorted(self._order(turn, among)[0]))

    def turn_to(self, turn: int, among: Int64[Tensor, " m"] | None = None) -> Int64[Tensor, " n"]:
        """`frames_resident`, decoded; the next turns' frames begin to be decoded meanwhile."""
        drawable, following = self._order(turn, among)
        for frame in set(self._coming).difference(drawable, following):  # of other turns
            self._arrive(frame)
        resident = torch.tensor(sorted(drawable))
        self.load(resident)
        self._begin(following)
        return resident

    def _order(self, turn: int, among: Int64[Tensor, " m"] | None) -> tuple[list[int], list[int]]:
        """The frames of a turn, and the `ahead` next ones, each in the order of their coming.

        Those of the next turn are the same in the same order, less the first ones.
        """
        frames = np.arange(len(self.paths)) if among is None else among.cpu().numpy()
        n = len(frames)
        if n <= self.slots:
            return frames.tolist(), []
        first = turn * self.step_of_turn
        chosen: dict[int, None] = {}
        order = frames
        for position in range(first, first + 2 * n + self.slots):
            cycle, place = divmod(position, n)
            if position == first or place == 0:
                generator = np.random.Generator(np.random.Philox(key=[self.seed, cycle]))
                order = frames[generator.permutation(n)]
            # Where two cycles meet, a frame of the old one's end may return at the new one's start.
            chosen.setdefault(int(order[place]))
            if len(chosen) == self.slots:
                break
        now = self.slots - self.ahead
        return list(chosen)[:now], list(chosen)[now:]

    def load(self, frames: Int64[Tensor, " m"]) -> None:
        """Decode those frames that are not in memory yet; at most `slots` different ones."""
        wanted = frames.unique().tolist()
        if len(wanted) > self.slots:
            raise InputError("frames", f"{len(wanted)} at once", f"at most {self.slots}")
        if len(wanted) > self.slots - len(set(self._coming).difference(wanted)):
            for frame in list(self._coming):
                self._arrive(frame)
        self._begin(wanted)
        for frame in wanted:
            if frame in self._coming:
                self._arrive(frame)

    def _begin(self, frames: Sequence[int]) -> None:
        """Let threads decode those frames that are not in memory, in place of others."""
        for frame in frames:
            if frame in self._slot_of:
                self._slot_of.move_to_end(frame)
        for frame in frames:
            if frame in self._slot_of or frame in self._coming:
                continue
            if self.all_fit:
                slot = frame
            elif self._free:
                slot = self._free.pop(0)
            else:
                oldest, slot = self._slot_of.popitem(last=False)
                self._start[oldest] = -1
            start = self._slot_start[slot]
            self._coming[frame] = slot, self._threads.submit(self._decode, frame, start)

    def _arrive(self, frame: int) -> None:
        """Wait for a frame that is being decoded. Raises what went wrong with it."""
        slot, decoding = self._coming.pop(frame)
        begin = time.perf_counter()
        try:
            self.decoding_seconds += decoding.result()
        except BaseException:
            if not self.all_fit:
                decoding.exception()  # a slot is free only when nobody writes to it
                self._free.append(slot)
            raise
        self.waiting_seconds += time.perf_counter() - begin
        self.decoded += 1
        self._slot_of[frame] = slot
        self._start[frame] = self._slot_start[slot]

    def close(self) -> None:
        """Wait until no thread decodes any more; the store is not to be used afterwards."""
        self._threads.shutdown(cancel_futures=True)

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
            return torch.ones(height, width, dtype=torch.bool)
        self.load(torch.tensor([frame]))
        start = int(self._start[frame])
        index = torch.arange(start, start + width * height)
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

    def _decode(self, frame: int, start: int) -> float:
        """A frame's pixels, and the bits of its mask, into the pool; processor seconds it took."""
        begin = time.thread_time()
        mask = self.masks[frame]
        width, height = self.sizes[frame]
        slot = self._pool[start : start + width * height].view(height, width, self.channels)
        decode_masked(self.paths[frame], mask, self.channels, slot)
        if self.ignoring:
            kept = np.packbits(kept_pixels(mask, width, height).flatten().numpy())
            self._bits[start // 8 : start // 8 + len(kept)] = torch.from_numpy(kept)
        return time.thread_time() - begin
