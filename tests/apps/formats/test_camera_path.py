import json
import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polyfield.apps.formats.camera_path import CameraPath, read_camera_path
from polyfield.cuda.errors import InputError
from polyfield.render.cameras import ideal_cameras

# OpenGL axes: right is the world's +y, up is +z, back is +x; it stands at (1, 2, 3).
MATRIX = [0, 0, 1, 1, 1, 0, 0, 2, 0, 1, 0, 3, 0, 0, 0, 1]


def frame(**changes):
    return {"camera_to_world": MATRIX, "fov": 50, "aspect": 1.5} | changes


def document(**changes):
    return {
        "camera_type": "perspective",
        "render_width": 1200,
        "render_height": 800.0,
        "fps": 24,
        "seconds": 2,
        "camera_path": [frame(), frame(fov=60.0)],
    } | changes


def read(folder, **changes):
    path = folder / "path.json"
    path.write_text(json.dumps(document(**changes)))
    return read_camera_path(path)


def test_poses_angles_size_and_rate_are_what_the_file_means(tmp_path):
    found = read(tmp_path)
    expected = torch.tensor([[0, 0, -1, 1], [1, 0, 0, 2], [0, -1, 0, 3.0]]).double()
    torch.testing.assert_close(found.camera_to_world, expected.expand(2, 3, 4))
    assert found.field_of_view.tolist() == [50, 60] and found.lens == "perspective"
    assert found.size == (1200, 800) and found.fps == 1 and found.notes == ()


def test_a_point_ahead_lies_in_the_middle_and_above_is_up(tmp_path):
    found = read(tmp_path)
    cameras = ideal_cameras(found.camera_to_world, found.lens, found.field_of_view, *found.size)
    # 10 ahead (-x), and as high as the upper border of 50 degrees.
    points = [[-9.0, 2.0, 3.0], [-9.0, 2.0, 3.0 + 10 * math.tan(math.radians(25))]]
    pixels, depth = cameras.project(torch.tensor([0, 0]), torch.tensor(points, dtype=torch.float64))
    torch.testing.assert_close(pixels, torch.tensor([[600.0, 400.0], [600.0, 0.0]]).double())
    assert depth.tolist() == pytest.approx([10, 10])


def test_a_fisheye_has_the_focal_length_of_its_angle_as_nerfstudio_gives_it(tmp_path):
    found = read(tmp_path, camera_type="fisheye", camera_path=[frame(fov=90)])
    cameras = ideal_cameras(found.camera_to_world, found.lens, found.field_of_view, 1200, 800)
    torch.testing.assert_close(cameras.focal[0], torch.full((2,), 400.0).double())


def test_a_fisheye_wider_than_the_sphere_is_cut_to_it(tmp_path):
    found = read(tmp_path, camera_type="fisheye", camera_path=[frame(fov=179)])
    assert found.field_of_view.tolist() == [360] and "cut to it" in found.notes[0]


def test_what_the_file_leaves_out_has_a_meaning(tmp_path):
    bare = {"camera_path": [{"camera_to_world": MATRIX}]}
    path = tmp_path / "path.json"
    path.write_text(json.dumps(bare))
    found = read_camera_path(path)
    assert (found.lens, found.size, found.fps) == ("perspective", None, None)
    assert found.field_of_view.tolist() == [50] and "took 50 degrees" in found.notes[0]
    path.write_text(json.dumps(bare | {"default_fov": 70, "fps": 24, "seconds": 9}))
    found = read_camera_path(path)
    assert found.field_of_view.tolist() == [70] and found.fps == 24  # one frame has no rate


def test_what_is_not_followed_is_said(tmp_path):
    found = read(tmp_path, crop={"bg": 1}, camera_path=[frame(), frame(render_time=0.5)])
    assert [note.split()[0] for note in found.notes] == ["crop", "render_time"]


def test_a_sphere_needs_no_angle(tmp_path):
    found = read(tmp_path, camera_type="equirectangular", camera_path=[frame(fov=None)])
    assert found.lens == "equirectangular" and found.notes == ()


def test_a_rotation_off_by_rounding_is_made_exact(tmp_path):
    matrix = [value + 1e-4 * (index % 3) for index, value in enumerate(MATRIX[:12])]
    found = read(tmp_path, camera_path=[frame(camera_to_world=[*matrix, 0, 0, 0, 1])])
    axes = found.camera_to_world[0, :, :3]
    torch.testing.assert_close(axes @ axes.T, torch.eye(3).double())
    assert "off orthonormal" in found.notes[0]


def at(index, value):
    return [value if place == index else entry for place, entry in enumerate(MATRIX)]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"camera_path": []}, r"path.json: camera_path: an array of 0; expected an array of fr"),
        ({"camera_path": None}, "camera_path: missing"),
        ({"camera_path": {}}, "camera_path: an object of 0; expected an array"),
        ({"camera_path": [5]}, r"camera_path\[0\]: a int; expected an object"),
        ({"camera_path": [{}] * 100_001}, "100001 frames; expected at most 100,000"),
        ({"camera_path": [{}]}, r"camera_path\[0\].camera_to_world: missing; expected 16"),
        ({"camera_path": [frame(camera_to_world=MATRIX[:12])]}, "16 numbers"),
        ({"camera_path": [frame(camera_to_world=at(3, math.nan))]}, r"to_world\[3\]: NaN"),
        ({"camera_path": [frame(camera_to_world=at(3, 1e300))]}, r"to_world\[3\]: 1e\+300"),
        ({"camera_path": [frame(camera_to_world=at(3, 10**400))]}, "an integer beyond"),
        ({"camera_path": [frame(camera_to_world=at(3, "0"))]}, r'to_world\[3\]: "0"'),
        ({"camera_path": [frame(camera_to_world=at(3, True))]}, r"to_world\[3\]: true"),
        ({"camera_path": [frame(camera_to_world=at(2, -1))]}, "rotation mirrors"),
        ({"camera_path": [frame(), frame(camera_to_world=at(1, 1))]}, r"\[1\].*off orthonormal"),
        ({"camera_path": [frame(camera_to_world=at(12, 1))]}, "last row 1, 0, 0, 1"),
        ({"camera_path": [frame(fov=180)]}, r"camera_path\[0\].fov: 180; expected vertical"),
        ({"camera_path": [frame(fov=0)]}, r"fov: 0;"),
        ({"camera_path": [frame(fov=math.nan)]}, r"fov: NaN;"),
        ({"camera_path": [frame(fov="50")]}, r'fov: "50";'),
        ({"camera_type": "omnidirectional"}, 'camera_type: "omnidirectional"; expected one of'),
        ({"camera_type": 5}, "camera_type: 5; expected a string"),
        ({"render_width": 0}, "render_width: 0; expected pixels"),
        ({"render_width": 12.5}, "render_width: 12.5; expected a whole number"),
        ({"render_height": 10**9}, "render_height: 1000000000"),
        ({"render_width": 32768, "render_height": 32768}, "32768x32768 pixels; expected at most"),
        ({"fps": -1}, "fps: -1"),
        ({"seconds": "long"}, 'seconds: "long"'),
    ],
)
def test_what_is_no_camera_path_is_refused_by_its_field(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, **changes)


@pytest.mark.parametrize("text", ["", "[]", "{", "5", '{"camera_path": ' + "[" * 10**5, "\0"])
def test_what_is_no_json_object_is_refused(tmp_path, text):
    (tmp_path / "path.json").write_text(text)
    with pytest.raises(InputError, match=r"path\.json"):
        read_camera_path(tmp_path / "path.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_camera_path(tmp_path / "missing.json")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
keys = st.sampled_from(
    ["camera_type", "render_width", "render_height", "fps", "seconds", "camera_path", "crop"]
    + ["default_fov"]
)
frames = st.sampled_from(["camera_to_world", "fov", "aspect", "render_time"])


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.dictionaries(keys, values), st.dictionaries(frames, values), st.integers(0, 15), values)
def test_any_values_give_a_path_or_a_sentence(tmp_path, changes, one, place, entry):
    path = [frame(), frame(**one), frame(camera_to_world=at(place, entry))]
    try:
        found = read(tmp_path, **({"camera_path": path} | changes))
    except InputError as error:
        assert len(str(error)) < 600
        return
    assert isinstance(found, CameraPath) and bool(found.camera_to_world.isfinite().all())
    assert ((found.field_of_view > 0) & (found.field_of_view <= 360)).all()
