"""`polyfield render`: views of a run as images or as a film."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import UInt8
from tyro.conf import Positional, arg

from polyfield.apps.device import choose_device
from polyfield.apps.files import make_folder, replacing
from polyfield.apps.fit_render import render_fit
from polyfield.apps.fitted import is_fit
from polyfield.apps.formats.png_rows import png_rows
from polyfield.apps.formats.splat_files import read_splat_file, splat_format
from polyfield.apps.option_help import DEVICE, optional
from polyfield.apps.png_files import to_8bit
from polyfield.apps.shots import (
    KINDS,
    Wish,
    file_shots,
    held_out_shots,
    interpolated_shots,
    spiral_shots,
    turntable_shots,
)
from polyfield.apps.shown import Shown, load_shown
from polyfield.apps.splat_render import splat_band, splat_frames, splat_shots
from polyfield.apps.trained import SAMPLES_PER_PIXEL, check_samples_per_pixel
from polyfield.apps.trained_splats import TrainedSplats, refuse_samples
from polyfield.apps.video import write_video
from polyfield.cuda.errors import InputError
from polyfield.fields.similarity import Similarity
from polyfield.fields.splats import splats_to
from polyfield.render.cameras import Cameras, LensKind
from polyfield.render.view import View

VIEWS = ("turntable", "test", "spiral", "interpolate")
FILMS = (".mp4", ".webp")
_NO_FOLDERS = (".avi", ".gif", ".jpg", ".jpeg", ".m4v", ".mkv", ".mov", ".png", ".tif", ".webm")


@dataclass(frozen=True)
class Render:
    """Render views of a trained run, a file of Gaussians, or what was fitted, in any size."""

    run: Positional[Path]
    """Folder that `polyfield train` or `fit` wrote, the small file of a fit, or Gaussians in a
    .ply, .spz, .splat, .ksplat, .sog or .glb."""
    views: Annotated[str, arg(metavar="turntable|test|spiral|interpolate|FILE.json")] = "turntable"
    """A way around the subject; the held-out views; a spiral before a forward-facing capture; a
    flight from view to view; or the camera path in a file of nerfstudio's form."""
    out: Annotated[Path | None, optional("DIR|FILE")] = None
    """A folder for images, or a film .mp4 or .webp. The default lies in the run: images of test
    views, a film of all others."""
    size: Annotated[str | None, optional("WxH")] = None
    """In pixels. The default is the photographs' size, or the camera path's."""
    lens: Annotated[LensKind | None, optional("perspective|fisheye|equirectangular")] = None
    """What to look through. The default is the photographs' lens, or the camera path's."""
    field_of_view: Annotated[float | None, optional("DEGREES")] = None
    """From the upper border to the lower. The default is the photographs', a fisheye's 180."""
    split: Literal["train", "val", "test"] = "train"
    """Which views `interpolate` flies through."""
    samples_per_pixel: int = SAMPLES_PER_PIXEL
    """Rays through each pixel."""
    frames: Annotated[int | None, optional("N")] = None
    """Of a film. The default follows from its seconds."""
    seconds: Annotated[float | None, optional("S")] = None
    """Length of a film: 3 for a turntable, 5 for a spiral, by the way for interpolate."""
    fps: Annotated[float | None, optional("RATE")] = None
    """Frames a second of a film: 30, or the camera path's."""
    scene: Annotated[Path | None, optional("SCENE")] = None
    """Folder of the scene, if it is no longer where it was trained from."""
    memory: float = 0.25
    """GB to render in, whatever the images' size, beside the run itself and a frame of a film."""
    device: Annotated[str, DEVICE] = "auto"
    """Where to compute. auto takes a usable GPU, else the CPU."""


@dataclass(frozen=True)
class RenderResult:
    """What was written."""

    files: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """What of the camera path was adjusted or is not followed."""


def render(options: Render) -> RenderResult:
    """Render what the options ask for; prints nothing.

    A film shows colours. A folder gets four PNG files a view, named after the frame's image or
    numbered: `r_0.png` (sRGB on the run's background), `r_0.opacity.png` (8 bits), `r_0.depth.png`
    (16 bits: thousandths of the scene's unit along the ray; 0 where most light passes, 65535 for
    that and more) and `r_0.normal.png` (0.5 + 0.5 n of the normal in the user's axes, see
    render.view.View). Of a fit, see `render_fit`. Raises InputError for a run, views, size or place
    of no use.
    """
    device = choose_device(options.device)
    if is_fit(options.run):
        _refuse_cameras(options)
        size, fps = _size(options.size), options.fps
        made = render_fit(options.run, options.out, size, options.frames, fps, device)
        return RenderResult(tuple(made))
    if not 0 < options.memory <= 1e6:
        raise InputError("--memory", str(options.memory), "GB above 0, at most a million")
    check_samples_per_pixel(options.samples_per_pixel)
    wish = Wish(
        _size(options.size),
        options.lens,
        options.field_of_view,
        options.frames,
        options.seconds,
        options.fps,
    )
    if splat_format(options.run) is not None:
        return _render_splats(options, wish, device)
    from_file = Path(options.views).suffix.lower() == ".json"
    if not from_file and options.views not in VIEWS:
        expected = f"{', '.join(VIEWS)} or a camera path FILE.json"
        raise InputError("--views", repr(options.views[:80]), expected)
    out, film = _place(options, Path(options.views).stem if from_file else options.views)
    trained = load_shown(options.run, device)
    if isinstance(trained, TrainedSplats):
        refuse_samples(options.samples_per_pixel)
    trained.memory_bytes = int(options.memory * 1e9)
    scene = options.scene or Path(trained.settings.scene)
    _refuse_within_scene(out, scene, options.run)
    if from_file:
        shots = file_shots(trained, Path(options.views), wish)
    elif options.views == "test":
        shots = held_out_shots(trained, scene, wish)
    elif options.views == "interpolate":
        shots = interpolated_shots(trained, scene, options.split, wish)
    else:
        choose = spiral_shots if options.views == "spiral" else turntable_shots
        shots = choose(trained, wish)
    if film:
        frames = film_frames(trained, shots.cameras, options.samples_per_pixel)
        write_video(out, frames, shots.fps)
        return RenderResult((str(out),), shots.notes)
    make_folder(out)
    cameras = shots.cameras.to(device)
    files: list[str] = []
    for index, name in enumerate(shots.names):
        bands = trained.bands(
            cameras, index, samples_per_pixel=options.samples_per_pixel, normals=True
        )
        size = int(cameras.width[index]), int(cameras.height[index])
        files += write_view(out, name, size, bands, trained.to_field)
    return RenderResult(tuple(files), shots.notes)


def _render_splats(options: Render, wish: Wish, device: torch.device) -> RenderResult:
    """As `render`, of a file of Gaussians: in its own world, on white."""
    for name in ("split", "samples_per_pixel", "scene", "memory"):
        if getattr(options, name) != getattr(Render, name):
            option = f"--{name.replace('_', '-')}"
            raise InputError(option, "with a file of Gaussians", "a run of `polyfield train`")
    file = read_splat_file(options.run)
    shots = splat_shots(file.splats, file.world, options.views, wish)
    name = options.run.name.split(".")[0]
    out, film = _place(replace(options, out=options.out or Path(f"{name}.mp4")), name)
    splats, cameras = splats_to(file.splats, device), shots.cameras.to(device)
    notes = (*file.notes, *shots.notes)
    if film:
        write_video(out, splat_frames(splats, cameras), shots.fps)
        return RenderResult((str(out),), notes)
    make_folder(out)
    files: list[str] = []
    for index, shot in enumerate(shots.names):
        size = int(cameras.width[index]), int(cameras.height[index])
        band = splat_band(splats, cameras, index, normals=True)
        files += write_view(out, shot, size, [band], Similarity.identity())
    return RenderResult(tuple(files), notes)


def turntable_frames(
    trained: Shown,
    frames: int,
    size: tuple[int, int] | None = None,
    samples_per_pixel: int = SAMPLES_PER_PIXEL,
) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """Images of one turn around what the training cameras look at."""
    shots = turntable_shots(trained, Wish(size=size, frames=frames))
    yield from film_frames(trained, shots.cameras, samples_per_pixel)


def film_frames(
    trained: Shown, cameras: Cameras, samples_per_pixel: int = SAMPLES_PER_PIXEL
) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """What cameras of the field's frame see, one after the other."""
    cameras = cameras.to(trained.device)
    for index in range(len(cameras)):
        bands = trained.bands(cameras, index, samples_per_pixel=samples_per_pixel)
        yield np.concatenate([to_8bit(band.color) for band in bands])


def write_view(
    out: Path, name: str, size: tuple[int, int], bands: Iterable[View], to_field: Similarity
) -> list[str]:
    """Write the PNG files that `render` describes, of (width, height); where they lie.

    bands: of one view with normals, from top to bottom, in the field's frame, to which to_field
    leads from the user's. The four files appear whole or not at all. Raises InputError where they
    cannot be written.
    """
    kinds = dict(zip(KINDS, ((3, 8), (1, 8), (1, 16), (3, 8)), strict=True))
    paths = {kind: out / f"{name}{kind}.png" for kind in kinds}
    to_user = to_field.rotation.T.float()
    with ExitStack() as stack:
        write = {}
        for kind, (channels, bits) in kinds.items():
            file = stack.enter_context(replacing(paths[kind]))
            write[kind] = stack.enter_context(png_rows(file, *size, channels, bits))
        for band in bands:
            write[""](to_8bit(band.color))
            write[".opacity"](to_8bit(band.opacity))
            depth = (band.depth.cpu() / to_field.scale * 1000).clamp(0, 65535).round()
            depth[band.opacity.cpu() < 0.5] = 0  # a haze of a thousandth has a mean distance too
            write[".depth"](depth.to(torch.int32).numpy().astype(np.uint16))
            if band.normal is not None:
                write[".normal"](to_8bit(0.5 + 0.5 * band.normal.cpu() @ to_user.T))
    return [str(path) for path in paths.values()]


def _place(options: Render, name: str) -> tuple[Path, bool]:
    """Where the pictures go, and whether they become a film there."""
    test = options.views == "test"
    out = options.out or options.run / "renders" / (name if test else f"{name}.mp4")
    where, suffix, folder = f"--out {out}", out.suffix.lower(), os.path.isdir(out)
    if suffix in FILMS and not folder:
        if test:
            raise InputError(where, "is a file", "a folder for the images")
        return out, True
    if os.path.isfile(out) or (suffix in _NO_FOLDERS and not folder):
        expected = f"a folder for images, or a film {' or '.join(FILMS)}"
        raise InputError(where, f"suffix {suffix!r}" if suffix else "is a file", expected)
    return out, False


def _refuse_cameras(options: Render) -> None:
    """What is asked of a camera, where there is none."""
    for name in ("views", "lens", "field_of_view", "seconds", "samples_per_pixel", "scene"):
        if getattr(options, name) != getattr(Render, name):
            option = f"--{name.replace('_', '-')}"
            raise InputError(option, "a fit has no cameras", "a run of `polyfield train`")


def _refuse_within_scene(out: Path, scene: Path, run: Path) -> None:
    """Pictures of a view bear the name of its photograph, and would take its place."""
    try:
        place, folder = Path(os.path.realpath(out)), Path(os.path.realpath(scene))
        inside = place.is_relative_to(folder) and not place.is_relative_to(os.path.realpath(run))
    except (OSError, ValueError):  # a name that none can have
        return
    if inside:
        got = f"lies within the scene {scene}"
        raise InputError(f"--out {out}", got, "another place", "Photographs could be overwritten.")


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(
        p.isascii() and p.isdigit() and 0 < int(p) < 32769 for p in parts
    ):
        raise InputError("--size", repr(text), "WxH in pixels, such as 800x600")
    return int(parts[0]), int(parts[1])


def summary(result: RenderResult) -> str:
    """Where the pictures are."""
    first = result.files[0]
    more = f" and {len(result.files) - 1} more" if len(result.files) > 1 else ""
    return "\n".join([*result.notes, f"wrote {first}{more}"])
