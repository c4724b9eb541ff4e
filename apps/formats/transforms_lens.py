"""Intrinsics of the frames of a transforms.json: which lens, how long, and at what size."""

from __future__ import annotations

import math
from dataclasses import dataclass

from polyfield.apps.formats.json_fields import LARGEST, Fields
from polyfield.apps.formats.lens_models import COLMAP_LENSES, Lens
from polyfield.apps.formats.posed_images import image_scale
from polyfield.apps.image_files import ImageHeader
from polyfield.cuda.errors import InputError
from polyfield.render.lenses import MODELS

_PERSPECTIVE = ("PINHOLE", "OPENCV", "FULL_OPENCV")  # the narrowest first
_FISHEYE = ("OPENCV_FISHEYE", "THIN_PRISM_FISHEYE")
# Which lenses each camera_model may be: the first that has all coefficients that are given.
_CANDIDATES: dict[str, tuple[str, ...]] = {
    "OPENCV": _PERSPECTIVE,  # the usual one stands first in messages
    **{name: _PERSPECTIVE for name, (lens, _) in COLMAP_LENSES.items() if lens in _PERSPECTIVE},
    **{name: _FISHEYE for name, (lens, _) in COLMAP_LENSES.items() if lens in _FISHEYE},
    "RAD_TAN_THIN_PRISM_FISHEYE": ("RAD_TAN_THIN_PRISM_FISHEYE",),
    "EQUIRECTANGULAR": ("EQUIRECTANGULAR",),
}
_COEFFICIENTS = tuple(dict.fromkeys(name for lens in MODELS.values() for name in lens.coefficients))
_UNDISTORT = "Undistort the photographs first, for example with COLMAP's image_undistorter."
# Of a panorama of exactly one turn rounding would put the border on the other side.
_LESS_THAN_A_TURN = 1 + 1e-12
_NARROWEST = 1e-3  # degrees: of the smallest numbers there are, half has no tangent but 0


@dataclass(frozen=True)
class FrameLens:
    """Intrinsics of one frame, at the size of the image that is used."""

    focal: tuple[float, float]
    center: tuple[float, float]
    lens: Lens
    scaled: str
    """What was scaled to the image's size, for a note; empty if nothing."""


def read_lens(
    frame: Fields, document: Fields, header: ImageHeader, original: ImageHeader
) -> FrameLens:
    """Intrinsics of one frame at the size of its image; a key of the frame wins over the file's.

    `original` is the image that the JSON names, where a smaller copy of it is used. Focal lengths
    come from fl_x / fl_y in pixels, x_fov / y_fov in degrees or camera_angle_x / _y in radians, in
    this order; where only one axis is given, pixels are square. Angles mean 0.5 w / tan(0.5 angle)
    for every lens, as their writers have it. Of EQUIRECTANGULAR fl_x, fl_y are the pixels of half a
    turn, as nerfstudio's; without them the image is the whole sphere.
    InputError names the field of whatever is no lens, or none of render.lenses.
    """

    def number(key: str, low: float = -LARGEST, high: float = LARGEST) -> float | None:
        return (frame if key in frame else document).number(key, low, high)

    lens = _lens(frame, document)
    width, height = number("w", 0.5), number("h", 0.5)
    if width is None or height is None:
        # One of the two still tells the scale, with the image's aspect.
        scale = width / original.width if width else height / original.height if height else 1.0
        width, height = original.width * scale, original.height * scale
    (scale_x, scale_y), scaled = image_scale((width, height), header, frame.name("file_path"))
    focal_x, focal_y = (
        _panorama(frame, document, width, height)
        if lens.model == "EQUIRECTANGULAR"
        else _focals(frame, document, width, height)
    )
    center_x = number("cx", -10 * width, 10 * width)
    center_y = number("cy", -10 * height, 10 * height)
    return FrameLens(
        (focal_x * scale_x, focal_y * scale_y),
        (
            (width / 2 if center_x is None else center_x) * scale_x,
            (height / 2 if center_y is None else center_y) * scale_y,
        ),
        lens,
        scaled,
    )


def _lens(frame: Fields, document: Fields) -> Lens:
    name, owner = _model_name(frame, document)
    if name not in _CANDIDATES:
        raise owner.refuse("camera_model", f"one of {', '.join(_CANDIDATES)}", _UNDISTORT)
    given: dict[str, float] = {}
    for key in _COEFFICIENTS:
        owner = frame if key in frame else document
        value = owner.number(key, -LARGEST, LARGEST, "a coefficient of the lens")
        if value:
            given[key] = value
    candidates = _CANDIDATES[name]
    if candidates == _PERSPECTIVE and name != "FULL_OPENCV" and "k4" in given:
        # nerfstudio's k4 belongs to r^8, OpenCV's divides and has k5 and k6 beside it.
        if not given.keys() & {"k5", "k6"}:
            expected = "0, or camera_model FULL_OPENCV if it divides as OpenCV's does"
            raise (frame if "k4" in frame else document).refuse("k4", expected, _UNDISTORT)
    for model in candidates:
        unknown = [key for key in given if key not in MODELS[model].coefficients]
        if not unknown:
            return Lens(model, given)
    known = " ".join(MODELS[model].coefficients) or "no coefficients"
    owner = frame if unknown[0] in frame else document
    raise owner.refuse(unknown[0], f"0: {name} has {known}", _UNDISTORT)


def _model_name(frame: Fields, document: Fields) -> tuple[str, Fields]:
    """What the frame, or else the file, calls its lens, and which of them says so."""
    for owner in (frame, document):
        if "ftheta_p0" in owner:
            raise owner.refuse("ftheta_p0", "a lens by camera_model", _UNDISTORT)
    named = frame if "camera_model" in frame else document
    flagged = frame if "is_fisheye" in frame or named is frame else document
    name = named.text("camera_model") or "OPENCV"
    if flagged.flag("is_fisheye") and _CANDIDATES.get(name) == _PERSPECTIVE:
        return "OPENCV_FISHEYE", flagged
    return name, named


def _focals(frame: Fields, document: Fields, width: float, height: float) -> tuple[float, float]:
    given = [_focal(frame, document, "x", width), _focal(frame, document, "y", height)]
    known = [focal for focal in given if focal is not None]
    if not known:
        expected = "fl_x, x_fov or camera_angle_x, here or at the top"
        raise InputError(frame.name("fl_x"), "missing", expected)
    if min(known) < 1e-3 * width:
        got = f"a focal length of {min(known):g} pixels"
        raise InputError(frame.name("fl_x"), got, f"a lens narrower than 179 degrees on {width:g}")
    return known[0], known[-1]


def _focal(frame: Fields, document: Fields, axis: str, pixels: float) -> float | None:
    for owner in (frame, document):
        if (focal := owner.number(f"fl_{axis}", 0.0, what="a focal length in pixels")) is not None:
            return focal
        degrees = owner.number(f"{axis}_fov", _NARROWEST, 180.0, "an angle in degrees")
        least = math.radians(_NARROWEST)
        radians = owner.number(f"camera_angle_{axis}", least, math.pi, "an angle in radians")
        angle = math.radians(degrees) if degrees is not None else radians
        if angle is not None:
            return 0.5 * pixels / math.tan(0.5 * angle)
    return None


def _panorama(frame: Fields, document: Fields, width: float, height: float) -> tuple[float, float]:
    """Pixels a radian along both axes."""
    whole = width / (2 * math.pi), height / math.pi
    given = [
        (frame if f"fl_{axis}" in frame else document).number(f"fl_{axis}", 0.0) for axis in "xy"
    ]
    known = [focal for focal in given if focal is not None]
    if not known:
        return whole[0] * _LESS_THAN_A_TURN, whole[1] * _LESS_THAN_A_TURN
    focal = known[0] / math.pi, known[-1] / math.pi
    # Of what would then wrap the sphere several times, the other meaning is the only one possible.
    if any(f < 0.999 * least for f, least in zip(focal, whole, strict=True)):
        focal = known[0], known[-1]
    within = [
        least * _LESS_THAN_A_TURN if abs(f / least - 1) < 1e-9 else f
        for f, least in zip(focal, whole, strict=True)
    ]
    return within[0], within[1]
