"""What is fuzzed: every reader of files, with sound samples, and what each may allocate."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
import zstandard

from polyfield.apps import checkpoint, fuzz_samples, fuzz_signals, fuzz_splats
from polyfield.apps.compact_file import MOST_RATIO
from polyfield.apps.diagnosis_cameras import camera_warnings
from polyfield.apps.formats.camera_path import read_camera_path
from polyfield.apps.formats.depth_files import read_depth
from polyfield.apps.formats.json_fields import Fields
from polyfield.apps.formats.point_ply import read_points
from polyfield.apps.fuzz_trees import Tree
from polyfield.apps.fuzz_worker import Reader
from polyfield.apps.image_files import MOST_PIXELS, decode, decode_reduced, read_header
from polyfield.apps.images import scene_images
from polyfield.apps.lpips_weights import read_lpips
from polyfield.apps.run_folder import RunFolder, read_config
from polyfield.apps.scene import load_scene
from polyfield.apps.schedule import read_schedule
from polyfield.apps.settings import read_settings
from polyfield.apps.shown import load_shown
from polyfield.apps.trained import build
from polyfield.cuda.errors import InputError

_TIMES = 8  # the bytes of the files
_MOST = 1 << 30  # that sparse files allow, however large
# Pillow's pixels, ours, and the coefficients of a progressive JPEG.
_BYTES_A_PIXEL = 16
_PNG_BITS, _JPEG_PIXELS = 8 * 1032, 512  # that a byte can hold
_JPEG_SIZE = re.compile(rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf]...(....)", re.DOTALL)
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PERCEPTUAL = 80_000_000  # bytes of the network, which is of one size


@dataclass(frozen=True)
class Target:
    """One reader of files."""

    name: str
    samples: Callable[[], list[Tree]]
    main: tuple[str, ...]
    """Files of the samples that matter most."""
    read: Reader
    stated_bytes: int = 0
    """What it makes of any file of its format, however small."""


def allowance(folder: Path, stated_bytes: int = 0) -> int:
    """Bytes that reading a folder may take: eight times its files, and what their headers state.

    Of what a header states, what so few bytes can hold in its format. Nothing is decoded.
    """
    size, stated = 0, stated_bytes
    for path in folder.rglob("*"):
        if path.is_file() and path.resolve().is_relative_to(folder.resolve()):
            size += path.stat().st_size
            stated += _stated(path) + fuzz_splats.stated_bytes(path)
    return min(_TIMES * size, _MOST) + stated


def _stated(path: Path) -> int:
    size = path.stat().st_size
    if path.suffix == ".ply":
        with path.open("rb") as file:
            found = re.search(rb"element vertex (\d{1,15})\b", file.read(1 << 16))
        return min(27 * int(found[1]), 27 * size) if found else 0
    if path.suffix in (".obj", ".off"):  # "v 0 0 0" is three numbers of eight bytes
        return 4 * size
    if path.suffix == ".zst":
        with path.open("rb") as file, suppress(zstandard.ZstdError):
            size = zstandard.get_frame_parameters(file.read(32)).content_size
            return _TIMES * min(size, MOST_RATIO * path.stat().st_size, _MOST)
        return 0
    if path.suffix in (".bmp", ".tif"):  # what is packed in them may be of any size
        return _BYTES_A_PIXEL * MOST_PIXELS
    if path.suffix not in (".png", ".jpg", ".webp"):
        return 0
    with path.open("rb") as file:
        start = file.read(1 << 16)
    pixels, most = _pixels(start), MOST_PIXELS
    if start.startswith(b"\x89PNG") and pixels:
        most = size * _PNG_BITS // (start[24] * _PNG_CHANNELS.get(start[25], 1) or 1)
    elif start.startswith(b"\xff\xd8"):
        most = size * _JPEG_PIXELS
    return _BYTES_A_PIXEL * min(pixels, MOST_PIXELS, most + (1 << 14))


def _pixels(start: bytes) -> int:
    """How many a header states. By hand, for Pillow may take minutes over what is behind it."""
    width, height = 0, 0
    if start.startswith(b"\x89PNG") and len(start) > 25:
        width, height = struct.unpack(">II", start[16:24])
    elif start.startswith(b"\xff\xd8"):
        found = [struct.unpack(">HH", size) for size in _JPEG_SIZE.findall(start)]
        return max((high * wide for high, wide in found), default=0)
    elif start[12:16] == b"VP8 " and len(start) > 30:
        width, height = (side & 0x3FFF for side in struct.unpack("<HH", start[26:30]))
    elif start[12:16] == b"VP8L" and len(start) > 25:
        bits = int.from_bytes(start[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif start[12:16] == b"VP8X" and len(start) > 30:
        width, height = (int.from_bytes(start[at : at + 3], "little") + 1 for at in (24, 27))
    return width * height


def open_scene(folder: Path) -> None:
    """What training does with a scene before its first step, and once more with all its images."""
    scene = load_scene(folder)
    camera_warnings(scene)
    images = scene_images(scene, 1 << 24)
    for frame in range(len(scene.image_paths)):
        images.image(frame)
        images.kept_image(frame)


def _open_image(folder: Path) -> None:
    for path in _files(folder):
        header = read_header(path)
        if header.width * header.height > MOST_PIXELS:
            raise InputError(str(path), "many pixels", "fewer")
        decode_reduced(path, 16)
        decode(path, 4)


def _open_run(folder: Path) -> None:
    load_shown(folder, torch.device("cpu"))
    RunFolder.open(folder).records()


def _open_config(folder: Path) -> None:
    config = read_config(folder / "config.json")
    settings = read_settings(config.get("settings"), "config.json")
    build(settings, torch.device("meta"))
    read_schedule(Fields("config.json:", config).part("schedule"))


def _open_checkpoints(folder: Path) -> None:
    for path in _files(folder):
        checkpoint.read(path)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if not path.is_dir())


def _part(names: tuple[str, ...]) -> list[Tree]:
    return [{name: fuzz_samples.run_folder()[name] for name in names}]


_CHECKPOINT = "checkpoints/step_00000001.safetensors"

TARGETS: tuple[Target, ...] = (
    *(
        Target(name, samples, main, open_scene)
        for name, (samples, main) in fuzz_samples.SCENES.items()
    ),
    Target("images", fuzz_samples.images, (), _open_image),
    Target(
        "depth",
        lambda: [fuzz_samples.depth_image()],
        (),
        lambda folder: read_depth(folder / "depth.png"),
    ),
    Target(
        "points",
        lambda: [fuzz_samples.point_cloud(), fuzz_samples.point_cloud(text=True)],
        (),
        lambda folder: read_points(folder / "points.ply", "points.ply", normals=True),
    ),
    Target(
        "camera-path",
        lambda: [fuzz_samples.camera_path()],
        (),
        lambda folder: read_camera_path(folder / "path.json"),
    ),
    Target("checkpoint", lambda: _part((_CHECKPOINT,)), (), _open_checkpoints),
    Target("config", lambda: _part(("config.json",)), (), _open_config),
    Target(
        "run",
        lambda: [fuzz_samples.run_folder()],
        (_CHECKPOINT, "metrics.jsonl"),
        _open_run,
    ),
    Target(
        "gaussians-run",
        lambda: [fuzz_samples.gaussians_run_folder()],
        (_CHECKPOINT, "metrics.jsonl"),
        _open_run,
    ),
    Target("meshes", fuzz_signals.meshes, (), fuzz_signals.open_mesh),
    Target("splats", fuzz_splats.splats, (), fuzz_splats.open_splats),
    Target("packed", lambda: [fuzz_signals.packed_field()], (), fuzz_signals.open_packed),
    Target(
        "lpips",
        lambda: [fuzz_samples.perceptual_weights(old) for old in (True, False)],
        (),
        lambda folder: read_lpips(folder / "vgg16.pth", folder / "linear.pth"),
        stated_bytes=_PERCEPTUAL,
    ),
)
