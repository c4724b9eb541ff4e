import math
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from polyfield.apps.formats import llff
from polyfield.apps.scene import load_scene
from polyfield.cuda.errors import InputError

DATA = Path(os.environ.get("POLYFIELD_DATA", Path(__file__).parents[3] / "../shared/data"))
WIDTH, HEIGHT, FOCAL = 24, 16, 20.0


def table(n=9):
    """Cameras side by side along x that look along -z, as LLFF's do: right is x, up is y."""
    rows = []
    for index in range(n):
        down, right, back = (0, -1, 0), (1, 0, 0), (0, 0, 1)
        position, sensor = (0.1 * index, 0, 0), (2 * HEIGHT, 2 * WIDTH, 2 * FOCAL)
        matrix = np.array([down, right, back, position, sensor], dtype=np.float64).T
        rows.append([*matrix.ravel(), 1.0, 50.0])
    return np.array(rows)


def write(folder, rows=None, images=9, size=(WIDTH, HEIGHT), place="images_2"):
    rows = table() if rows is None else rows
    np.save(folder / "poses_bounds.npy", rows)
    (folder / place).mkdir(exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    for index in range(images):
        Image.fromarray(noise).save(folder / place / f"IMG_{index:02}.png")
    return folder


def test_axes_positions_and_the_lens_are_what_the_file_means(tmp_path):
    scene = load_scene(write(tmp_path))
    assert scene.kind == "llff" and scene.frame_names[3] == "IMG_03"
    # Two ahead of camera 3, half to its right and a quarter up.
    point = torch.tensor([[0.3 + 0.5, 0.25, -2.0]], dtype=torch.float64)
    pixel, depth = scene.cameras.project(torch.tensor([3]), point)
    expected = torch.tensor([[12 + 20 * 0.25, 8 - 20 * 0.125]], dtype=torch.float64)
    torch.testing.assert_close(pixel, expected)
    assert depth.tolist() == [2.0]


def test_smaller_copies_scale_the_lens_and_say_so(tmp_path):
    scene = load_scene(write(tmp_path))
    assert scene.cameras.focal[0].tolist() == [FOCAL, FOCAL]
    assert scene.cameras.center[0].tolist() == [WIDTH / 2, HEIGHT / 2]
    assert any("48x32 to 24x16" in note for note in scene.notes)


def test_copies_whose_size_was_rounded_scale_each_axis_by_its_own_factor(tmp_path):
    scene = load_scene(write(tmp_path, size=(7, 5)))
    expected = [2 * FOCAL * 7 / (2 * WIDTH), 2 * FOCAL * 5 / (2 * HEIGHT)]
    assert scene.cameras.focal[0].tolist() == pytest.approx(expected)
    assert scene.cameras.center[0].tolist() == [3.5, 2.5]


@pytest.mark.parametrize("longest, taken", [(48, 48), (47, 24), (24, 24), (23, 12), (1, 12)])
def test_the_largest_copies_that_are_not_too_long_are_taken(tmp_path, monkeypatch, longest, taken):
    monkeypatch.setattr(llff, "LONGEST_SIDE", longest)
    for place, size in {"images": (48, 32), "images_2": (24, 16), "images_4": (12, 8)}.items():
        write(tmp_path, size=size, place=place)
    assert load_scene(tmp_path).sizes[0][0] == taken


def test_a_mask_beside_the_photographs_is_none_of_them(tmp_path):
    write(tmp_path)
    for name in ("dynamic_mask_IMG_03.png", "IMG_04_mask.png"):
        Image.new("L", (WIDTH, HEIGHT), 255).save(tmp_path / "images_2" / name)
    scene = load_scene(tmp_path)
    assert len(scene.frame_names) == 9
    assert [mask is not None for mask in scene.masks[2:6]] == [False, True, True, False]


def test_every_eighth_is_held_out(tmp_path):
    scene = load_scene(write(tmp_path))
    assert scene.splits["test"].tolist() == [0, 8]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t[:, :15], r"poses_bounds.npy: shape \(9, 15\); expected an array of 17"),
        (lambda t: t[:0], r"shape \(0, 17\)"),
        (lambda t: t[:8], "8 rows for 9 images in images_2"),
        (lambda t: t.astype(str), "no array of numbers"),
        (lambda t: np.where(np.arange(17) == 3, np.nan, t), "row 0: not a finite number"),
        (lambda t: np.where(np.arange(17) == 1, -t, t), r"row 0 \(IMG_00.png\): rotation mirrors"),
        (lambda t: np.where(np.arange(17) == 1, 2 * t + 1, t), "off orthonormal"),
        (lambda t: np.where(np.arange(17) == 14, 0.0, t), "focal length 32, 48, 0"),
        (lambda t: np.where(np.arange(17) == 14, 0.04, t), "focal length 32, 48, 0.04"),
        (lambda t: np.where(np.arange(17) == 4, 99.0, t), "24x16 pixels where w, h say 48x99"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        load_scene(write(tmp_path, change(table())))


def test_an_array_of_objects_is_never_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    write(tmp_path)
    with open(tmp_path / "poses_bounds.npy", "wb") as file:
        np.save(file, np.array([[Trap()]], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="no array that numpy can read"):
        load_scene(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "header", [b"{'descr': (", b"{'descr': '<f8', 0x", b"{[}", b"((((", b"1e999"]
)
def test_a_header_that_python_cannot_parse_is_refused(tmp_path, header):
    write(tmp_path)
    data = bytearray((tmp_path / "poses_bounds.npy").read_bytes())
    data[10 : 10 + len(header)] = header
    (tmp_path / "poses_bounds.npy").write_bytes(data)
    with pytest.raises(InputError, match="no array that numpy can read"):
        load_scene(tmp_path)


@settings(
    max_examples=150, deadline=1000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 400), st.binary(min_size=1, max_size=6), st.integers(0, 1400))
def test_damaged_bytes_end_in_a_sentence(tmp_path, at, new, length):
    if not (tmp_path / "whole.npy").exists():
        write(tmp_path)
        (tmp_path / "poses_bounds.npy").rename(tmp_path / "whole.npy")
    data = bytearray((tmp_path / "whole.npy").read_bytes())
    data[at : at + len(new)] = new
    (tmp_path / "poses_bounds.npy").write_bytes(data[: max(length, 1)])
    try:
        cameras = llff.read(tmp_path).cameras
    except InputError:
        return
    assert bool(cameras.camera_to_world.isfinite().all())


def test_a_real_capture_faces_forward():
    if not (DATA / "llff_fern").is_dir():
        pytest.skip("no llff_fern among the real scenes ($POLYFIELD_DATA)")
    scene = load_scene(DATA / "llff_fern")
    assert len(scene.frame_names) == 20 and scene.sizes[0] == (504, 378)
    assert scene.cameras.focal[0, 0].item() == pytest.approx(3260.5263 / 8, rel=1e-6)
    forward = scene.cameras.camera_to_world[:, :, 2]
    assert float((forward @ forward.T).min()) > math.cos(0.35)


def test_rows_of_zeros_without_end_take_no_memory(tmp_path):
    write(tmp_path)
    np.save(tmp_path / "poses_bounds.npy", np.zeros((9, 17)))
    path, rows = tmp_path / "poses_bounds.npy", 1 << 33
    content = path.read_bytes()
    stated = content[:128].replace(b"(9, 17), }          ", b"(%d, 17), }" % rows)
    path.write_bytes(stated[:127].ljust(127) + b"\n")
    with path.open("ab") as file:
        file.truncate(128 + rows * 17 * 8)
    with pytest.raises(InputError, match=rf"shape \({rows}, 17\)"):
        load_scene(tmp_path)


def test_an_archive_in_the_array_s_place_is_not_opened(tmp_path):
    write(tmp_path)
    np.savez(tmp_path / "poses_bounds.npz", a=table())
    (tmp_path / "poses_bounds.npz").rename(tmp_path / "poses_bounds.npy")
    with pytest.raises(InputError, match="no array that numpy can read"):
        load_scene(tmp_path)


def test_a_header_that_says_it_is_a_gigabyte_takes_none(tmp_path):
    write(tmp_path)
    path = tmp_path / "poses_bounds.npy"
    path.write_bytes(b"\x93NUMPY\x03\x00" + (1 << 30).to_bytes(4, "little") + b"{}" * 500)
    tracemalloc.start()
    with pytest.raises(InputError, match="no array that numpy can read"):
        load_scene(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000
