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
BYTES_A_PIXEL = 160  # of a view that is shown beside its photograph
VIEW_BYTES = (32_000_000, 1 << 28)  # of rendering: the least and the most that make sense
DECODED_BYTES = 100_000_000  # photographs on their way into the cache

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
    shrink, then the field. The limit is met on the CPU; what a GPU holds does not count. Raises
    InputError, with what is needed, where not even the smallest sizes fit.
    """
    sizes = [stored_bytes(size, channels, bool(mask_sizes)) for size in image_sizes]
    fewest = min(sum(sizes), 4 * max(sizes))
    samples = _SAMPLES
    while True:
        fixed = _fixed(image_sizes, mask_sizes, parameters, samples)
        left = limit - fixed
        if left >= fewest + VIEW_BYTES[0]:
            view = min(VIEW_BYTES[1], max(VIEW_BYTES[0], left // 4), left - fewest)
            images = min(sum(sizes), left - view)
            return MemoryPlan(parameters, samples, images, view, fixed + images + view)
        if samples > _FEWEST_SAMPLES:
            samples //= 2
        elif parameters > _FEWEST_PARAMETERS:
            parameters //= 2
        else:
            raise _too_little(limit, fixed + fewest + VIEW_BYTES[0])


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
    fixed = _fixed(image_sizes, mask_sizes, parameters, samples_per_step) + image_bytes
    if limit < fixed + VIEW_BYTES[0]:
        raise _too_little(limit, fixed + VIEW_BYTES[0])
    view = min(VIEW_BYTES[1], limit - fixed)
    return MemoryPlan(parameters, samples_per_step, image_bytes, view, fixed + view)


def _fixed(
    image_sizes: Sequence[tuple[int, int]],
    mask_sizes: Sequence[tuple[int, int]],
    parameters: int,
    samples: int,
) -> int:
    """Everything but the cache of photographs and rendering."""
    pixels = max(width * height for width, height in image_sizes)
    decoded = max(width * height for width, height in (*image_sizes, *mask_sizes))
    # A whole hundred megabytes, so that the plan does not hang on what this process did before.
    base = max(BASE_BYTES, -(-resident_bytes() // 100_000_000) * 100_000_000)
    batch = parameters * BYTES_A_PARAMETER + samples * BYTES_A_SAMPLE
    return base + batch + BYTES_A_PIXEL * pixels + max(DECODED_BYTES, 5 * 4 * decoded)


def _too_little(limit: int, need: int) -> InputError:
    return InputError(
        "--memory",
        f"{limit / 1e9:g} GB",
        f"at least {-(-need // 10_000_000) / 100:.2f} GB for this run, torch itself included",
    )
