"""A scene to train on: photographs, cameras and where the field lies, from whatever files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from polyfield.apps.bounds import (
    Backdrop,
    Bounds,
    border,
    camera_bounds,
    find_backdrop,
    focus,
    looked_at,
    object_bounds,
    object_mask,
    synthetic_bounds,
)
from polyfield.apps.formats import colmap, llff, nerf_synthetic, neus, transforms_json
from polyfield.apps.formats.depth_files import MILLIMETRES
from polyfield.apps.formats.posed_images import PosedImages
from polyfield.apps.image_files import SUFFIXES
from polyfield.apps.mask_files import HALF, WORDS, Mask, decode_masked, kept_pixels, read_mask
from polyfield.cuda.errors import InputError
from polyfield.fields.similarity import Similarity
from polyfield.render.cameras import Cameras

_PEEKED, _HULL_VIEWS = 4, 24  # images decoded to find out what they show, and to find the object


@dataclass(frozen=True, eq=False)
class Scene:
    """Posed photographs, checked, with their cameras in the input's frame (float64).

    `cameras.transformed(to_field)` gives the cameras a field is trained with (float32).
    """

    name: str
    folder: Path
    kind: str
    """"nerf-synthetic", "transforms.json", "neus", "colmap" or "llff"."""
    frame_names: tuple[str, ...]
    """Unique within a split; what is rendered for a frame is named after it."""
    image_paths: tuple[Path, ...]
    cameras: Cameras
    splits: dict[str, Int64[Tensor, " m"]]
    """Indices of frames under "train", "test" (perhaps none) and, where there are any, "val"."""
    to_field: Similarity
    """The input's frame to the unit cube."""
    grid_levels: int
    """Nested occupancy grids: the finest covers the middle 1 / 2^(levels - 1) of the cube."""
    near: float
    """Field units from each camera in which nothing is."""
    focus: float
    """Field units from a camera to what it looks at; 0 where the object stands alone."""
    has_alpha: bool
    """Some image has an alpha channel."""
    mean_color: tuple[float, float, float]
    """Of a few training images, in [0, 1], alpha left aside."""
    backdrop: Backdrop | None
    """The 8-bit colour behind the object where opaque images show it before a plain one."""
    notes: tuple[str, ...]
    """What was found or adjusted, for the user."""
    points: Float64[Tensor, "p 3"] | None = None
    """Sparse points on what was photographed, in the input's frame, where the files have them."""
    point_colors: UInt8[Tensor, "p 3"] | None = None
    """Their colours in sRGB, where the files have them."""
    depth_paths: tuple[Path | None, ...] = ()
    """Of each frame that has one, its depth image, see depth_files; empty where no frame has."""
    depth_unit: float = MILLIMETRES
    """Metres that a step of a depth image's pixels means."""
    masks: tuple[Mask | None, ...] = ()
    """One a frame; empty where no frame has one. Those of an object are the images' alpha."""

    @property
    def mask_sizes(self) -> tuple[tuple[int, int], ...]:
        """(width, height) of each mask, as its file has it."""
        return tuple((mask.width, mask.height) for mask in self.masks if mask is not None)

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(width, height) of each image."""
        width, height = self.cameras.width.tolist(), self.cameras.height.tolist()
        return tuple(zip(width, height, strict=True))


Loader = Callable[[Path, str | None], PosedImages]
"""Of a scene's folder, and of the folder in it whose copies of the photographs are used."""

LOADERS: tuple[tuple[str, Callable[[Path], bool], Loader], ...] = (
    ("nerf-synthetic", lambda f: (f / "transforms_train.json").is_file(), nerf_synthetic.read),
    ("transforms.json", lambda f: (f / "transforms.json").is_file(), transforms_json.read),
    ("neus", lambda f: neus.camera_file(f) is not None, neus.read),
    ("colmap", lambda f: colmap.model_folder(f) is not None, colmap.read),
    ("llff", lambda f: (f / llff.FILE).is_file(), llff.read),
)


def load_scene(
    folder: Path,
    images: str | None = None,
    *,
    unbounded: bool = False,
    pass_over_unreadable: bool = False,
) -> Scene:
    """Read the scene in a folder; its format is found out from the files that are there.

    images: the folder in it whose copies of the photographs are used, such as images_4; else the
    largest that are not too long. unbounded: also where an object stands alone, the bounds leave
    room for what is behind it. All images' headers and end markers are read and a few images
    decoded; the others are decoded when training needs them. Raises InputError, naming file and
    field, for whatever cannot be used; for pixels that do not decode only unless they are to be
    passed over.
    """
    return _assemble(*read_scene(folder, images), unbounded, pass_over_unreadable)


def read_scene(folder: Path, images: str | None = None) -> tuple[Path, str, PosedImages]:
    """What the files of a scene say: its resolved folder, its kind, and its frames as they are.

    InputError as load_scene, whose first half this is: no pixel is decoded.
    """
    try:
        folder = folder.resolve()
        found = [(kind, read) for kind, is_there, read in LOADERS if is_there(folder)]
        if not found:
            raise _no_scene(folder)
    except InputError:
        raise
    # Unreadable, a name too long, a loop of links, a null byte out of a run's config.json.
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(str(folder)[:200], str(error)[:200], "a scene's folder") from error
    kind, read = found[0]
    return folder, kind, read(folder, images)


def _assemble(
    folder: Path, kind: str, posed: PosedImages, unbounded: bool, tolerant: bool
) -> Scene:
    train = posed.splits["train"]
    borders, means, transparent, notes = [], [], False, list(posed.notes)
    peeked = evenly_spread(train, _PEEKED)
    notes += _masks_note(posed, peeked, tolerant)
    for _, image in _decoded(posed, peeked, tolerant):  # one at a time: they may be large
        borders.append(border(image))
        means.append(image[:, :, :3].float().mean((0, 1)) / 255)
        transparent = transparent or bool((image[:, :, 3] < 255).any())
    backdrop = None if transparent or not borders else find_backdrop(borders)
    bounds = posed.bounds
    if bounds is not None and not looked_at(posed.cameras, bounds):
        notes.append(f"{bounds.reason} is not used: the cameras look past its box")
        bounds = None
    if unbounded:
        bounds = bounds if bounds is not None and bounds.grid_levels > 1 else None
    elif bounds is None and kind == "nerf-synthetic":
        bounds = synthetic_bounds(posed.cameras)
    if bounds is None and not unbounded and (transparent or backdrop):
        views, masks = [], []
        for frame, image in _decoded(posed, evenly_spread(train, _HULL_VIEWS), tolerant):
            views.append(frame)
            masks.append(object_mask(image, backdrop))
        what = "the alpha masks" if transparent else "what stands before the plain backdrop"
        if views:
            bounds = object_bounds(posed.cameras.select(torch.tensor(views)), masks, what)
    if bounds is None:
        bounds = camera_bounds(posed.cameras, posed.points)
    elif bounds.grid_levels > 1:
        bounds = replace(bounds, focus=focus(posed.cameras))
    to_field = bounds.to_field()
    red, green, blue = torch.stack(means or [torch.full((3,), 0.5)]).mean(0)
    return Scene(
        folder.name,
        folder,
        kind,
        posed.frame_names,
        posed.image_paths,
        posed.cameras,
        posed.splits,
        to_field,
        bounds.grid_levels,
        bounds.near * to_field.scale,
        bounds.focus * to_field.scale,
        posed.has_alpha,
        (float(red), float(green), float(blue)),
        backdrop,
        (*notes, _bounds_note(bounds)),
        posed.points,
        posed.point_colors,
        posed.depth_paths,
        posed.depth_unit,
        posed.masks,
    )


def _bounds_note(bounds: Bounds) -> str:
    center = ", ".join(f"{value:.3g}" for value in bounds.center.tolist())
    return f"bounds: {bounds.reason} (side {bounds.side:.3g} about {center})"


def evenly_spread(frames: Int64[Tensor, " n"], count: int) -> Int64[Tensor, " m"]:
    """At most `count` of the frames, evenly spread over all of them."""
    step = torch.linspace(0, len(frames) - 1, min(count, len(frames)))
    return frames[step.round().long()]


def _decoded(posed: PosedImages, frames: Tensor, tolerant: bool) -> Iterator[tuple[int, Tensor]]:
    for frame in frames.tolist():
        mask = posed.masks[frame] if posed.masks else None
        try:
            image = decode_masked(posed.image_paths[frame], mask, 4)
        except InputError:
            if not tolerant:
                raise
            continue
        yield frame, image


def _masks_note(posed: PosedImages, frames: Tensor, tolerant: bool) -> list[str]:
    """How much of the photographs is left by masks. InputError where it is nothing of all."""
    if not posed.masks:
        return []
    masks = [posed.masks[frame] for frame in frames.tolist()]
    try:
        share = sum(_share_left(mask) for mask in masks) / len(masks)
    except InputError:
        if not tolerant:
            raise
        return []
    if share == 0 and masks[0] is not None:
        got = f"nothing of its photograph is left by it, nor by the masks of {len(masks)} views"
        expected = f"pixels to train on: {WORDS[masks[0].meaning]}"
        raise InputError(str(masks[0].path), got, expected, "Perhaps it is inverted.")
    return [f"{100 * share:.3g} % of the pixels of {len(masks)} views are left by masks"]


def _share_left(mask: Mask | None) -> float:
    if mask is None:
        return 1.0
    if mask.meaning == "object":
        left = read_mask(mask, mask.width, mask.height) > HALF
    else:
        left = kept_pixels(mask, mask.width, mask.height)
    return float(left.float().mean())


def _no_scene(folder: Path) -> InputError:
    where = str(folder)
    expected = (
        "transforms.json, transforms_train.json, cameras_sphere.npz, poses_bounds.npy or sparse/0"
        " in it"
    )
    if not folder.exists():
        return InputError(where, "no such folder", expected)
    if not folder.is_dir():
        return InputError(where, "a file", expected, "Give the folder that it lies in.")
    if any((folder / file).is_file() for file in neus.FILES):
        got = "a NeuS / IDR capture without its photographs"
        return InputError(where, got, "a folder image in it, and mask")
    for place in ("sparse", "colmap/sparse"):
        if (folder / place).is_dir():
            got, files = (
                "a COLMAP model without cameras or images",
                "cameras and images, .bin or .txt",
            )
            return InputError(str(folder / place), got, files)
    if found := _photographs(folder):
        got = f"photographs without poses ({found[0].name}, ...)"
        command = f"ns-process-data images --data {found[0].parent} --output-dir SCENE"
        remedy = f"Find the poses first, with nerfstudio's `{command}` (it runs COLMAP)."
        return InputError(where, got, expected, remedy)
    return InputError(where, "no scene", expected)


def _photographs(folder: Path) -> list[Path]:
    for place in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        if found := sorted(path for path in place.iterdir() if path.suffix.lower() in SUFFIXES):
            return found
    return []
