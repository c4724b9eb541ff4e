"""COLMAP's sparse models, binary and text: cameras, images, points. Numbers as they are written."""

from __future__ import annotations

import math
import mmap
import struct
from array import array
from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from polyfield.apps.files import open_plain
from polyfield.apps.formats.json_fields import LARGEST
from polyfield.cuda.errors import InputError

# Number in binary files -> name and count of parameters. Source: COLMAP's sensor/models.h.
MODELS = {
    0: ("SIMPLE_PINHOLE", 3),
    1: ("PINHOLE", 4),
    2: ("SIMPLE_RADIAL", 4),
    3: ("RADIAL", 5),
    4: ("OPENCV", 8),
    5: ("OPENCV_FISHEYE", 8),
    6: ("FULL_OPENCV", 12),
    8: ("SIMPLE_RADIAL_FISHEYE", 4),
    9: ("RADIAL_FISHEYE", 5),
    10: ("THIN_PRISM_FISHEYE", 12),
    11: ("RAD_TAN_THIN_PRISM_FISHEYE", 16),
}
PARAMETERS = dict(MODELS.values())
_REMEDY = "Undistort the photographs with COLMAP's image_undistorter."
_LONGEST_NAME = 4096
_POINTS_AT_ONCE = 1 << 12
_LONGEST_LINE = 1 << 24  # of all that one image observed


@dataclass(frozen=True)
class ModelCamera:
    """A calibrated camera; parameters in COLMAP's order."""

    model: str
    width: int
    height: int
    parameters: tuple[float, ...]


@dataclass(frozen=True)
class ModelImage:
    """A registered photograph: from world to camera by quaternion (w, x, y, z) and translation."""

    name: str
    camera: int
    rotation: tuple[float, ...]
    translation: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class ModelPoints:
    """The sparse points, in the input's frame."""

    position: Float64[Tensor, "n 3"]
    color: UInt8[Tensor, "n 3"]


def read_cameras(path: Path, where: str) -> dict[int, ModelCamera]:
    """Cameras by number from cameras.bin or cameras.txt; errors begin with `where`.

    Raises InputError for a file that is cut or miscounted, a model that is not in MODELS, and
    sizes or parameters that are no numbers of a camera.
    """
    return dict(_binary_cameras(path, where) if _is_binary(path) else _text_cameras(path, where))


def read_images(path: Path, where: str) -> list[ModelImage]:
    """Images in their order from images.bin or images.txt; what they observed is skipped."""
    return list(_binary_images(path, where) if _is_binary(path) else _text_images(path, where))


def read_points(path: Path, where: str) -> ModelPoints:
    """Points from points3D.bin or points3D.txt; what observed them is skipped."""
    binary = _is_binary(path)
    rows = _binary_points(path, where) if binary else _text_points(path, where)
    position, color = array("d"), array("B")  # lists would take ten times as much
    while True:
        numbers, block = array("q"), array("d")
        for number, row in islice(rows, _POINTS_AT_ONCE):
            numbers.append(number)
            block.extend(row)
        if not numbers:
            break
        values = np.frombuffer(block, np.float64).reshape(-1, 6)
        sound = (np.isfinite(values[:, :3]) & (np.abs(values[:, :3]) <= LARGEST)).all(1)
        sound &= ((values[:, 3:] >= 0) & (values[:, 3:] <= 255)).all(1)
        if not sound.all():
            first = int(sound.argmin())
            at = f": point {numbers[first]}" if binary else f", line {numbers[first]}"
            _refuse_point(values[first].tolist(), where + at)
        position.frombytes(values[:, :3].tobytes())
        color.frombytes(values[:, 3:].astype(np.uint8).tobytes())
    return ModelPoints(
        torch.from_numpy(np.array(position)).view(-1, 3),
        torch.from_numpy(np.array(color)).view(-1, 3),
    )


def _is_binary(path: Path) -> bool:
    return path.suffix == ".bin"


class _Records:
    """A binary file read from front to back; no count is believed that the file cannot hold."""

    def __init__(self, path: Path, where: str):
        self.where, self.at = where, 0
        try:
            with open_plain(path) as file:
                # Mapped, for most of a model is what is skipped; nothing at all cannot be.
                size = file.seek(0, 2)
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        except OSError as error:
            got = f"cannot be read ({error.strerror})"
            raise InputError(where, got, "a file of COLMAP") from error
        self.data: mmap.mmap | bytes = mapped

    def take(self, form: str, what: str) -> tuple:
        if self.at + struct.calcsize("<" + form) > len(self.data):
            got = f"ends after {len(self.data)} bytes"
            raise InputError(f"{self.where}: {what}", got, "a whole file", "Copy it again.")
        values = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return values

    def skip(self, size: int, what: str) -> None:
        self.take(f"{size}x", what)

    def count(self, smallest: int, what: str) -> int:
        """A count of records of at least `smallest` bytes each."""
        (count,) = self.take("Q", f"number of {what}")
        if count * smallest > len(self.data) - self.at:
            got = f"{count} in a file of {len(self.data)} bytes"
            raise InputError(f"{self.where}: number of {what}", got, "what the file holds")
        return count

    def name(self, what: str) -> str:
        end = self.data.find(b"\0", self.at, self.at + _LONGEST_NAME)
        if end < 0:
            raise InputError(f"{self.where}: {what}", "no end of its name", "a file name")
        text = self.data[self.at : end]
        self.at = end + 1
        try:
            return text.decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{self.where}: {what}", "a name that is not UTF-8", "one") from error

    def close(self) -> None:
        if self.at != len(self.data):
            got = f"{len(self.data) - self.at} bytes more than it counts"
            raise InputError(self.where, got, "a file that ends with its last record")


def _binary_cameras(path: Path, where: str) -> Iterator[tuple[int, ModelCamera]]:
    records = _Records(path, where)
    for index in range(records.count(24, "cameras")):
        number, model, width, height = records.take("iiQQ", f"camera {index}")
        if model not in MODELS:
            got = f"camera model {model}"
            raise InputError(f"{where}: camera {number}", got, _expected_models(), _REMEDY)
        name, parameters = MODELS[model]
        values = records.take(f"{parameters}d", f"camera {number}")
        yield number, _camera(name, width, height, values, f"{where}: camera {number}")
    records.close()


def _binary_images(path: Path, where: str) -> Iterator[ModelImage]:
    records = _Records(path, where)
    for index in range(records.count(73, "images")):
        _, *pose, camera = records.take("i7di", f"image {index}")
        name = records.name(f"image {index}")
        records.skip(24 * records.count(24, f"observations of {name[:80]!r}"), name)
        yield _image(name, camera, pose, where)
    records.close()


def _binary_points(path: Path, where: str) -> Iterator[tuple[int, Sequence[float]]]:
    records = _Records(path, where)
    for index in range(records.count(51, "points")):
        _, *values, _ = records.take("Q3d3Bd", f"point {index}")
        records.skip(8 * records.count(8, f"observations of point {index}"), f"point {index}")
        yield index, values
    records.close()


def _byte_lines(path: Path, where: str) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers, one at a time, without blanks about them."""
    try:
        with open_plain(path) as file:
            number, read = 0, file.readline
            while line := read(_LONGEST_LINE):
                number += 1
                if len(line) == _LONGEST_LINE:
                    got = f"more than {_LONGEST_LINE:,} bytes"
                    raise InputError(f"{where}, line {number}", got, "a line of COLMAP's")
                yield number, (line.removeprefix(BOM_UTF8) if number == 1 else line).strip()
    except OSError as error:
        raise InputError(where, f"cannot be read ({error.strerror})", "a text file") from error


def _lines(path: Path, where: str) -> Iterator[tuple[int, str]]:
    """As text."""
    try:
        for number, line in _byte_lines(path, where):
            yield number, line.decode().strip()
    except UnicodeDecodeError as error:
        raise InputError(where, "not a text file", "UTF-8, as COLMAP writes it") from error


def _text_cameras(path: Path, where: str) -> Iterator[tuple[int, ModelCamera]]:
    for number, line in _lines(path, where):
        if not line or line.startswith("#"):
            continue
        at, parts = f"{where}, line {number}", line.split()
        if len(parts) > 1 and parts[1] not in PARAMETERS:
            raise InputError(at, f"camera model {parts[1][:40]}", _expected_models(), _REMEDY)
        if len(parts) != 4 + PARAMETERS.get(parts[1] if len(parts) > 1 else "", 0):
            expected = "CAMERA_ID, MODEL, WIDTH, HEIGHT and the model's parameters"
            raise InputError(at, f"{len(parts)} words", expected)
        key, width, height = (_whole(parts[i], at) for i in (0, 2, 3))
        values = tuple(_number(part, at) for part in parts[4:])
        yield key, _camera(parts[1], width, height, values, at)


def _text_images(path: Path, where: str) -> Iterator[ModelImage]:
    lines = _lines(path, where)
    for number, line in lines:
        if not line or line.startswith("#"):
            continue
        at, parts = f"{where}, line {number}", line.split(maxsplit=9)
        if len(parts) != 10:
            expected = "IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME"
            raise InputError(at, f"{len(parts)} words", expected)
        pose = [_number(part, at) for part in parts[1:8]]
        yield _image(parts[9], _whole(parts[8], at), pose, at)
        next(lines, None)  # what the image observed; the line may be empty


def _text_points(path: Path, where: str) -> Iterator[tuple[int, Sequence[float]]]:
    for number, line in _byte_lines(path, where):
        if not line or line.startswith(b"#"):
            continue
        parts = line.split(maxsplit=8)
        if len(parts) < 8:
            expected = "POINT3D_ID, X, Y, Z, R, G, B, ERROR, ..."
            raise InputError(f"{where}, line {number}", f"{len(parts)} words", expected)
        try:
            yield number, [float(part) for part in parts[1:7]]
        except ValueError:
            for part in parts[1:7]:
                _number(part.decode(errors="replace"), f"{where}, line {number}")


def _camera(
    model: str, width: int, height: int, parameters: tuple[float, ...], where: str
) -> ModelCamera:
    if not (0 < width < 1 << 20 and 0 < height < 1 << 20):
        raise InputError(where, f"size {width}x{height}", "1 to 2^20 pixels a side")
    if not all(math.isfinite(value) and abs(value) < 1e9 for value in parameters):
        raise InputError(where, f"parameters {parameters}", "finite numbers")
    return ModelCamera(model, width, height, parameters)


def _image(name: str, camera: int, pose: list[float], where: str) -> ModelImage:
    rotation, translation = tuple(pose[:4]), tuple(pose[4:])
    at = f"{where}: {name[:80]!r}"
    if not abs(math.hypot(*rotation) - 1) <= 1e-3:
        raise InputError(at, f"quaternion {rotation}", "one of length 1")
    if not all(math.isfinite(value) and abs(value) < 1e9 for value in translation):
        raise InputError(at, f"translation {translation}", "finite numbers")
    return ModelImage(name, camera, rotation, translation)


def _refuse_point(values: list[float], where: str) -> NoReturn:
    if not all(math.isfinite(value) and abs(value) <= LARGEST for value in values[:3]):
        got = f"position {tuple(values[:3])}"
        raise InputError(where, got, f"finite numbers, at most {LARGEST:g}")
    raise InputError(where, f"colour {tuple(values[3:])}", "0 to 255")


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InputError(where, f"{text[:40]!r}", "a number") from error


def _whole(text: str, where: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise InputError(where, f"{text[:40]!r}", "a whole number")
    return int(text)


def _expected_models() -> str:
    return f"one of {', '.join(PARAMETERS)}"
