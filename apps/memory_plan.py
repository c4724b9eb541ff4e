"""How large images, batches and tables may be, so that a whole training run stays within memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from polyfield.apps.memory import machine_bytes, resident_bytes
from polyfield.cuda.errors import InputError

# What is alive at once at the worst moment, measured on the hash grid and rounded up.
BASE_BYTES = 400_000_000  # Python, torch, its threads, the kernels
BYTES_A_PARAMETER = 56  # value, moments, scratch; the state that a resume or a rewind reads
BYTES_A_SAMPLE = 8192  # of a full batch: rays are first marched, and only then cut
BYTES_A_PIXEL = 64  # of a view that is measured beside its photograph, after training
BYTES_A_WATCHED_PIXEL = 5  # of a whole photograph, which is looked at while training
VIEW_BYTES = (32_000_000, 1 << 28)  # of rendering: the least and the most that make sense
BYTES_A_DECODED_PIXEL = 20  # of the largest, or of two without masks
FEWEST_IMAGES = 4  # in the cache
DECODED_BYTES = 100_000_000  # beside the cache, while photographs are decoded into it

_SAMPLES = 1 << 14  # twice as many steps beat batches of twice the size
_FEWEST_SAMPLES, _FEWEST_PARAMETERS = 1 << 12, 1 << 17


@dataclass(frozen=True)
class MemoryPlan:
    """Sizes that fit, and what they need in all."""

    parameters: int
    """Of the field, at most."""
    samples_per_step: int
    image_bytes: int
    """Of the cache of photographs."""
    measuring_image_bytes: int
    """Of it, as many as may stay while views are measured, after training."""
    view_bytes: int
    """Of rendering."""
    total_bytes: int
    """Resident memory of the whole process, at most."""


def default_limit() -> int:
    """Bytes that a run may take where nobody says: half of the machine's memory, 4 GB at most."""
    return min(4_000_000_000, machine_bytes() // 2)


def stored_bytes(size: tuple[int, int], channels: int, masked: bool) -> int:
    """Of one image in the cache of photographs: its pixels, and a bit for each where masks are."""
    pixels = size[0] * size[1]
    if not masked:
        return pixels * channels
    eighths = -(-pixels // 8)
    return eighths * (8 * channels + 1)


def plan_memory(
    limit: int,
    image_sizes: Sequence[tuple[int, int]],
    channels: int,
    parameters: int,
    mask_sizes: Sequence[tuple[int, int]] = (),
) -> MemoryPlan:
    """The largest batch, field and cache of photographs within `limit` bytes for the process.

    image_sizes, mask_sizes: (width, height) of all photographs and of their masks. parameters: the
    wished number, never exceeded. Photographs leave the cache first, down to four; then batches
    shrink, then the field. Views are measured when training has ended, with few photographs in
    the cache. The limit is met on the CPU; what a GPU holds does not count. Raises
    InputError, with what is needed, where not even the smallest sizes fit.
    """
    sizes = [stored_bytes(size, channels, bool(mask_sizes)) for size in image_sizes]
    fewest = min(sum(sizes), FEWEST_IMAGES * max(sizes))
    measuring, samples = _measuring(image_sizes), _SAMPLES
    while True:
        fixed = _fixed(image_sizes, mask_sizes, parameters, samples)
        left = limit - fixed - fewest - VIEW_BYTES[0]
        if left >= measuring:
            view = VIEW_BYTES[0] + min(VIEW_BYTES[1] - VIEW_BYTES[0], left // 4, left - measuring)
            images = min(sum(sizes), limit - fixed - view)
            return _plan(limit, fixed, measuring, parameters, samples, images, view)
        if samples > _FEWEST_SAMPLES:
            samples //= 2
        elif parameters > _FEWEST_PARAMETERS:
            parameters //= 2
        else:
            raise _too_little(limit, fixed + fewest + measuring + VIEW_BYTES[0])


def known_plan(
    limit: int,
    image_sizes: Sequence[tuple[int, int]],
    parameters: int,
    samples_per_step: int,
    image_bytes: int,
    mask_sizes: Sequence[tuple[int, int]] = (),
) -> MemoryPlan:
    """The plan of a run whose sizes are fixed already: only rendering can still give way.

    Raises InputError, with what is needed, where the limit is below it.
    """
    fixed = _fixed(image_sizes, mask_sizes, parameters, samples_per_step)
    few = FEWEST_IMAGES * max(stored_bytes(size, 3, bool(mask_sizes)) for size in image_sizes)
    measuring = _measuring(image_sizes)
    need = fixed + max(image_bytes, min(image_bytes, few) + measuring)
    if limit < need + VIEW_BYTES[0]:
        raise _too_little(limit, need + VIEW_BYTES[0])
    view = min(VIEW_BYTES[1], limit - need)
    return _plan(limit, fixed, measuring, parameters, samples_per_step, image_bytes, view)


def _plan(
    limit: int, fixed: int, measuring: int, parameters: int, samples: int, images: int, view: int
) -> MemoryPlan:
    stay = min(images, limit - fixed - view - measuring)
    total = fixed + view + max(images, stay + measuring)
    return MemoryPlan(parameters, samples, images, stay, view, total)


def decoders(pixels: int, masked: bool) -> int:
    """How many photographs of at most so many pixels may be decoded at once, at least one.

    Beside what the cache has for them: a decoder holds its image whole, some twice, then a mask.
    """
    bytes_each = pixels * (BYTES_A_DECODED_PIXEL if masked else BYTES_A_DECODED_PIXEL // 2)
    return max(1 if masked else 2, min(8, DECODED_BYTES // bytes_each))


def _fixed(
    image_sizes: Sequence[tuple[int, int]],
    mask_sizes: Sequence[tuple[int, int]],
    parameters: int,
    samples: int,
) -> int:
    """Everything that training needs but the cache of photographs and rendering."""
    pixels = max(width * height for width, height in image_sizes)
    decoded = max(width * height for width, height in (*image_sizes, *mask_sizes))
    # A whole hundred megabytes, so that the plan does not hang on what this process did before.
    base = max(BASE_BYTES, -(-resident_bytes() // 100_000_000) * 100_000_000)
    batch = parameters * BYTES_A_PARAMETER + samples * BYTES_A_SAMPLE
    decoding = max(DECODED_BYTES, BYTES_A_DECODED_PIXEL * decoded)
    return base + batch + BYTES_A_WATCHED_PIXEL * pixels + decoding


def _measuring(image_sizes: Sequence[tuple[int, int]]) -> int:
    """What measuring views takes beyond that."""
    return (BYTES_A_PIXEL - BYTES_A_WATCHED_PIXEL) * max(w * h for w, h in image_sizes)


def _too_little(limit: int, need: int) -> InputError:
    return InputError(
        "--memory",
        f"{limit / 1e9:g} GB",
        f"at least {-(-need // 10_000_000) / 100:.2f} GB for this run, torch itself included",
    )
