import math
import os
import struct
import tracemalloc
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polyfield.apps.formats.colmap_model import (
    MODELS,
    ModelCamera,
    ModelImage,
    read_cameras,
    read_images,
    read_points,
)
from polyfield.apps.scene import load_scene
from polyfield.cuda.errors import InputError

CAMERAS = {
    3: ModelCamera("SIMPLE_RADIAL", 720, 1280, (1105.1, 360.0, 640.5, 0.05)),
    9: ModelCamera("OPENCV_FISHEYE", 640, 480, (300.0, 301.0, 320.0, 240.0, 0.1, 0.2, 0.3, 0.4)),
}
IMAGES = [
    ModelImage("a b/first one.jpg", 9, (0.5, 0.5, -0.5, 0.5), (1.0, -2.0, 3.5)),
    ModelImage("second.jpg", 3, (1.0, 0.0, 0.0, 0.0), (0.0, 0.25, 0.0)),
]
POINTS = [(1.5, -2.25, 3.0, 255, 0, 7), (0.0, 1e3, -1e-3, 1, 2, 3)]
NUMBER_OF = {name: number for number, (name, _) in MODELS.items()}
hostile = settings(
    max_examples=150, deadline=1000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def binary(cameras=CAMERAS, images=IMAGES, points=POINTS):
    """The three files as COLMAP writes them."""
    a = struct.pack("<Q", len(cameras))
    for number, c in cameras.items():
        a += struct.pack("<iiQQ", number, NUMBER_OF[c.model], c.width, c.height)
        a += struct.pack(f"<{len(c.parameters)}d", *c.parameters)
    b = struct.pack("<Q", len(images))
    for number, image in enumerate(images):
        b += struct.pack("<i7di", number, *image.rotation, *image.translation, image.camera)
        b += image.name.encode() + b"\0" + struct.pack("<Q", number)
        b += struct.pack("<ddq", 10.0, 20.0, -1) * number
    c = struct.pack("<Q", len(points))
    for number, p in enumerate(points):
        c += struct.pack("<Q3d3BdQ", number, *p, 0.5, number)
        c += struct.pack("<ii", 1, 2) * number
    return {"cameras": a, "images": b, "points3D": c}


def text(cameras=CAMERAS, images=IMAGES, points=POINTS):
    lines = ["# Camera list with one line of data per camera:", ""]
    for number, c in cameras.items():
        lines.append(" ".join(map(str, (number, c.model, c.width, c.height, *c.parameters))))
    out = {"cameras": "\n".join(lines)}
    lines = ["# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME"]
    for number, i in enumerate(images):
        lines.append(" ".join(map(str, (number, *i.rotation, *i.translation, i.camera, i.name))))
        lines.append("10.0 20.0 -1" * number)  # empty for the first
    out["images"] = "\n".join(lines) + "\n"
    rows = [" ".join(map(str, (n, *p, 0.5, 1, 2))) for n, p in enumerate(points)]
    out["points3D"] = "\n".join(["# POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[]", *rows])
    return {kind: value.encode() for kind, value in out.items()}


READERS = {"cameras": read_cameras, "images": read_images, "points3D": read_points}


def reading(folder, kind, data, suffix):
    path = folder / f"{kind}{suffix}"
    path.write_bytes(data)
    return READERS[kind](path, path.name)


@pytest.mark.parametrize(("suffix", "files"), [(".bin", binary()), (".txt", text())])
def test_both_forms_give_what_was_written(tmp_path, suffix, files):
    assert reading(tmp_path, "cameras", files["cameras"], suffix) == CAMERAS
    assert reading(tmp_path, "images", files["images"], suffix) == IMAGES
    points = reading(tmp_path, "points3D", files["points3D"], suffix)
    assert points.position.tolist() == [list(p[:3]) for p in POINTS]
    assert points.color.tolist() == [list(p[3:]) for p in POINTS]


@pytest.mark.parametrize("name, count", MODELS.values())
@pytest.mark.parametrize("suffix, write", [(".bin", binary), (".txt", text)])
def test_every_model_is_read_with_its_parameters(tmp_path, name, count, suffix, write):
    camera = {1: ModelCamera(name, 64, 48, tuple(50.0 + k for k in range(count)))}
    assert reading(tmp_path, "cameras", write(cameras=camera)["cameras"], suffix) == camera


@pytest.mark.parametrize("kind", READERS)
def test_a_file_cut_anywhere_is_refused_by_name(tmp_path, kind):
    whole = binary()[kind]
    for length in range(len(whole)):
        with pytest.raises(InputError, match=f"{kind}.bin"):
            reading(tmp_path, kind, whole[:length], ".bin")


@pytest.mark.parametrize("kind", READERS)
def test_more_than_is_counted_is_refused(tmp_path, kind):
    with pytest.raises(InputError, match="1 bytes more than it counts"):
        reading(tmp_path, kind, binary()[kind] + b"\0", ".bin")


@pytest.mark.parametrize("kind", READERS)
def test_a_count_that_the_file_cannot_hold_allocates_nothing(tmp_path, kind):
    forged = struct.pack("<Q", 1 << 60) + binary()[kind][8:]
    with pytest.raises(InputError, match=f"{1 << 60} in a file of {len(forged)} bytes"):
        reading(tmp_path, kind, forged, ".bin")


@hostile
@given(st.sampled_from(list(READERS)), st.booleans(), st.data())
def test_damaged_bytes_end_in_a_sentence_or_in_finite_numbers(tmp_path, kind, is_text, data):
    whole = bytearray((text() if is_text else binary())[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=8))
    try:
        found = reading(tmp_path, kind, bytes(whole), ".txt" if is_text else ".bin")
    except InputError:
        return
    if kind == "cameras":
        assert all(math.isfinite(v) for c in found.values() for v in c.parameters)
    elif kind == "images":
        assert all(math.isfinite(v) for i in found for v in (*i.rotation, *i.translation))
    else:
        assert bool(found.position.isfinite().all())


@pytest.mark.parametrize(
    "line, message",
    [
        ("1 FOV 640 480 300 300 320 240 1", "line 1: camera model FOV; expected one of SIMPLE_PIN"),
        ("1 PINHOLE 640 480 300 300 320", "line 1: 7 words"),
        ("1", "line 1: 1 words"),
        ("1 PINHOLE 0 480 300 300 320 240", "size 0x480"),
        ("1 PINHOLE 640 0 300 300 320 240", "size 640x0"),
        (f"1 PINHOLE 640 {1 << 20} 300 300 320 240", "size 640x1048576"),
        ("1 PINHOLE 640 480 nan 300 320 240", "finite numbers"),
        ("x PINHOLE 640 480 300 300 320 240", "'x'; expected a whole number"),
        ("1 PINHOLE 640 480 3e 300 320 240", "'3e'; expected a number"),
    ],
)
def test_a_camera_that_is_none_is_refused(tmp_path, line, message):
    with pytest.raises(InputError, match=message):
        reading(tmp_path, "cameras", line.encode(), ".txt")


def test_an_unknown_model_s_number_is_named(tmp_path):
    data = bytearray(binary()["cameras"])
    data[12:16] = struct.pack("<i", 7)
    with pytest.raises(InputError, match="camera 3: camera model 7; .*image_undistorter"):
        reading(tmp_path, "cameras", bytes(data), ".bin")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"rotation": (0.0, 0.0, 0.0, 0.0)}, "quaternion"),
        ({"rotation": (math.nan, 0.0, 0.0, 1.0)}, "quaternion"),
        ({"translation": (0.0, math.inf, 0.0)}, "translation"),
    ],
)
def test_an_image_without_a_pose_is_refused_by_name(tmp_path, change, message):
    image = {"name": "x.jpg", "camera": 3, "rotation": (1.0, 0.0, 0.0, 0.0)}
    image["translation"] = (0.0, 0.0, 0.0)
    wrong = binary(images=[ModelImage(**{**image, **change})])["images"]
    with pytest.raises(InputError, match=f"x.jpg.*{message}"):
        reading(tmp_path, "images", wrong, ".bin")


@pytest.mark.parametrize("suffix", [".bin", ".txt"])
@pytest.mark.parametrize("kind", READERS)
def test_a_file_of_a_terabyte_of_zeros_takes_no_memory(tmp_path, kind, suffix):
    path = tmp_path / f"{kind}{suffix}"
    path.write_bytes((binary() if suffix == ".bin" else text())[kind])
    with path.open("ab") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match=r"bytes more than it counts|more than 16,777,216 bytes"):
        READERS[kind](path, path.name)


@pytest.mark.parametrize("suffix", [".bin", ".txt"])
@pytest.mark.parametrize("kind", READERS)
def test_a_pipe_is_refused_without_waiting_for_it(tmp_path, kind, suffix):
    os.mkfifo(tmp_path / f"{kind}{suffix}")
    with pytest.raises(InputError, match="no plain file"):
        READERS[kind](tmp_path / f"{kind}{suffix}", kind)


@pytest.mark.parametrize("kind", READERS)
def test_an_empty_file_is_refused_or_holds_nothing(tmp_path, kind):
    with pytest.raises(InputError, match="ends after 0 bytes"):
        reading(tmp_path, kind, b"", ".bin")
    found = reading(tmp_path, kind, b"", ".txt")
    assert len(found.position if kind == "points3D" else found) == 0


def test_empty_lines_and_points_take_little_more_than_their_bytes(tmp_path):
    lines = b"\n" * 20_000 + b"1 0.5 0 0 1 2 3 0\n" * 10_000
    tracemalloc.start()
    points = reading(tmp_path, "points3D", lines, ".txt")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert points.position.shape == (10_000, 3) and points.color[-1].tolist() == [1, 2, 3]
    assert peak < 8 * len(lines)


def test_a_name_of_any_length_is_no_photograph(tmp_path):
    (tmp_path / "sparse").mkdir()
    long = [replace(IMAGES[0], name="x" * 3000)]
    for kind, content in binary(images=long).items():
        (tmp_path / "sparse" / f"{kind}.bin").write_bytes(content)
    with pytest.raises(InputError, match="does not exist") as error:
        load_scene(tmp_path)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    "point, message",
    [
        ((0.0, 0.0, 0.0, 256, 0, 7), r"colour \(256"),
        ((0.0, 0.0, 0.0, 0, 0, -1), "colour"),
        ((0.0, math.nan, 0.0, 0, 0, 0), "position"),
        ((0.0, 0.0, 1e300, 0, 0, 0), "position"),
    ],
)
def test_a_point_that_is_none_is_refused_by_its_line(tmp_path, point, message):
    with pytest.raises(InputError, match=f"points3D.txt, line 2: {message}"):
        reading(tmp_path, "points3D", text(points=[point])["points3D"], ".txt")
