import copy
import json
import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from polyfield.apps.formats import posed_images, transforms_json
from polyfield.apps.scene import Scene, load_scene
from polyfield.cuda.errors import InputError

WIDTH, HEIGHT = 12, 8


def test_axes_become_opencv_s_and_positions_stay(tmp_path, document, write):
    scene = load_scene(write(tmp_path, document()))
    for frame in range(9):
        matrix = torch.tensor(document()["frames"][frame]["transform_matrix"]).double()
        camera_to_world = scene.cameras.camera_to_world[frame]
        torch.testing.assert_close(camera_to_world[:, 2], -matrix[:3, 2])  # forward
        torch.testing.assert_close(camera_to_world[:, 1], -matrix[:3, 1])  # down
        torch.testing.assert_close(camera_to_world[:, 0], matrix[:3, 0])
        torch.testing.assert_close(camera_to_world[:, 3], matrix[:3, 3])
    # What the camera looks at is in the middle of its picture.
    pixels, _ = scene.cameras.project(torch.tensor([4]), torch.zeros(1, 3).double())
    torch.testing.assert_close(pixels[0], scene.cameras.center[4])


def test_every_eighth_in_name_order_is_test(tmp_path, document, write):
    contents = document(n=20)
    contents["frames"].reverse()
    scene = load_scene(write(tmp_path, contents))
    held_out = [scene.frame_names[i] for i in scene.splits["test"]]
    assert held_out == ["0000", "0008", "0016"]
    assert len(scene.splits["train"]) == 17
    assert not set(scene.splits["train"].tolist()) & set(scene.splits["test"].tolist())


def test_split_lists_win_over_every_eighth(tmp_path, document, write):
    name = "images/{:04}.png".format
    lists = {
        "train_filenames": [name(i) for i in (0, 1, 2)],
        "val_filenames": ["./" + name(5)],
        "test_filenames": [name(4), name(3)],
    }
    scene = load_scene(write(tmp_path, document(**lists)))
    found = {split: frames.tolist() for split, frames in scene.splits.items()}
    assert found == {"train": [0, 1, 2], "val": [5], "test": [4, 3]}
    assert any("3 frames are in no split" in note for note in scene.notes)


def test_without_test_filenames_val_is_what_is_held_out(tmp_path, document, write):
    scene = load_scene(write(tmp_path, document(val_filenames=["images/0002.png"])))
    assert scene.splits["test"].tolist() == [2]
    assert scene.splits["train"].tolist() == [0, 1, 3, 4, 5, 6, 7, 8]


def test_a_single_frame_is_trained_on(tmp_path, document, write):
    splits = load_scene(write(tmp_path, document(n=1))).splits
    assert splits["train"].tolist() == [0] and splits["test"].tolist() == []


def test_a_rotation_nearly_orthonormal_becomes_the_nearest_and_is_reported(
    tmp_path, document, write
):
    contents = document()
    exact = torch.tensor(contents["frames"][2]["transform_matrix"]).double()
    stretched = exact.clone()
    stretched[:3, :3] = exact[:3, :3] * 1.0004
    contents["frames"][2]["transform_matrix"] = stretched.tolist()
    scene = load_scene(write(tmp_path, contents))
    rotation = scene.cameras.camera_to_world[2, :, :3]
    torch.testing.assert_close(rotation, exact[:3, :3] * torch.tensor([1, -1, -1]))
    assert any("rotations of 1 frames" in note for note in scene.notes)


def test_rounding_of_a_rotation_is_mended_without_a_word(tmp_path, document, write):
    contents = document()
    for frame in contents["frames"]:
        frame["transform_matrix"] = np.float32(frame["transform_matrix"]).tolist()
    scene = load_scene(write(tmp_path, contents))
    rotation = scene.cameras.camera_to_world[:, :, :3]
    identity = torch.eye(3).double().expand(9, 3, 3)
    torch.testing.assert_close(rotation @ rotation.mT, identity, atol=1e-14, rtol=0)
    assert not any("rotation" in note for note in scene.notes)


def test_frames_in_a_folder_of_their_split_are_named_within_it(tmp_path, document, write):
    contents = document(n=4)
    places = ["train/r_0.png", "train/r_1.png", "test/r_0.png", "test/r_1.png"]
    for frame, place in zip(contents["frames"], places, strict=True):
        frame["file_path"] = f"images/{place}"
    files = [frame["file_path"] for frame in contents["frames"]]
    lists = {"train_filenames": files[:2], "test_filenames": files[2:]}
    scene = load_scene(write(tmp_path, contents | lists))
    assert scene.frame_names == ("r_0", "r_1", "r_0", "r_1")
    # One that lies elsewhere, and its name could be another's: all are told apart by their folders.
    lists = {"train_filenames": files[:3], "test_filenames": files[3:]}
    scene = load_scene(write(tmp_path, contents | lists))
    assert scene.frame_names == ("train_r_0", "train_r_1", "test_r_0", "test_r_1")
    lists = {"train_filenames": files[:2], "test_filenames": [files[0], *files[2:]]}
    assert len(set(load_scene(write(tmp_path, contents | lists)).frame_names)) == 4


def test_names_stay_unique_where_stems_repeat(tmp_path, document, write):
    contents = document(n=2)
    for frame, camera in zip(contents["frames"], "ab", strict=True):
        (tmp_path / "images" / camera).mkdir(parents=True)
        frame["file_path"] = f"images/{camera}/1.png"
    assert load_scene(write(tmp_path, contents)).frame_names == ("a_1", "b_1")


@pytest.mark.parametrize("stem", ["images/0001", "./images/0001", "images\\0001.png"])
def test_paths_without_suffix_and_with_backslashes_are_found(tmp_path, stem, document, write):
    write(tmp_path, contents := document())
    contents["frames"][1]["file_path"] = stem
    (tmp_path / "transforms.json").write_text(json.dumps(contents))
    assert load_scene(tmp_path).image_paths[1].name == "0001.png"


def test_the_box_of_instant_ngp(tmp_path, document, write):
    scene = load_scene(write(tmp_path, document(aabb_scale=4, offset=[0.5, 0.5, 0.17])))
    assert scene.grid_levels == 3
    # Its unit cube is p * 0.33 + offset; four times that about its centre is the whole.
    points = torch.tensor([[0, 0, 1], [0.5 / 0.33, 0, 1], [-2 / 0.33, 0, 1]], dtype=torch.float64)
    found = scene.to_field.apply(points)
    expected = torch.tensor([[0.5, 0.5, 0.5], [0.625, 0.5, 0.5], [0.0, 0.5, 0.5]]).double()
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)
    assert scene.near == pytest.approx(0.1 / 4)


def test_a_box_that_no_camera_looks_into_is_not_used(tmp_path, document, write):
    scene = load_scene(write(tmp_path, document(aabb_scale=1, offset=[30, 0.5, 0.5])))
    assert any("look past its box" in note for note in scene.notes)
    origin = scene.to_field.apply(torch.zeros(1, 3).double())
    torch.testing.assert_close(origin, torch.full((1, 3), 0.5).double())


def test_what_is_not_used_is_said(tmp_path, document, write):
    contents = document()
    for index, frame in enumerate(contents["frames"]):
        frame |= {"time": index / 9}
    notes = " ".join(load_scene(write(tmp_path, contents)).notes)
    assert "times" in notes


def frame_with(**values):
    return lambda contents: contents["frames"][3].update(values)


def top_with(**values):
    return lambda contents: contents.update(values)


def matrix_with(row, column, value):
    return lambda c: c["frames"][3]["transform_matrix"][row].__setitem__(column, value)


def scaled_matrix(factor):
    def edit(contents):
        matrix = np.array(contents["frames"][3]["transform_matrix"])
        matrix[:3, :3] *= factor
        contents["frames"][3]["transform_matrix"] = matrix.tolist()

    return edit


BAD = {
    "missing image": (frame_with(file_path="images/none.png"), r"frames\[3\].*none.*not exist"),
    "no path": (frame_with(file_path=None), r"frames\[3\]\.file_path: missing"),
    "path is a number": (frame_with(file_path=3), r"frames\[3\]\.file_path: 3; expected a string"),
    "path is a folder": (frame_with(file_path="images"), "not exist"),
    "path with a null": (frame_with(file_path="a\0b"), "no file name|not exist"),
    "path leaves": (frame_with(file_path="../secret.png"), r"frames\[3\].*leads out"),
    "path is absolute": (frame_with(file_path="/etc/passwd"), "leads out"),
    "path leaves by a link": (frame_with(file_path="images/link.png"), "leads out"),
    "path leaves by a linked folder": (frame_with(file_path="linked/secret.png"), "leads out"),
    "suffix leaves by a link": (frame_with(file_path="images/link"), "leads out"),
    "image twice": (frame_with(file_path="./images/0001.png"), r"again, as in frames\[1\]"),
    "NaN pose": (matrix_with(0, 3, math.nan), r"frames\[3\]\.transform_matrix\[0\]\[3\]: NaN"),
    "infinite pose": (matrix_with(1, 1, math.inf), r"\[1\]\[1\]: infinite"),
    "huge pose": (matrix_with(1, 3, 1e300), r"\[1\]\[3\]: 1e\+300"),
    "text in pose": (matrix_with(1, 3, "1"), r"\[1\]\[3\]: \"1\""),
    "null in pose": (matrix_with(1, 3, None), "numbers"),
    "bool in pose": (matrix_with(1, 3, True), r"\[1\]\[3\]: true"),
    "scaled rotation": (scaled_matrix(1.02), r"frames\[3\].*off orthonormal by 0\.04.*0\.001"),
    "barely scaled rotation": (scaled_matrix(1.0006), "off orthonormal"),
    "mirrored rotation": (scaled_matrix(np.array([1, 1, -1])), r"frames\[3\].*mirrors"),
    "zero rotation": (scaled_matrix(0), "off orthonormal by 1"),
    "last row": (matrix_with(3, 3, 2.0), r"frames\[3\].*last row 0, 0, 0, 2"),
    "two rows": (frame_with(transform_matrix=[[1, 0, 0, 0]] * 2), "4 rows"),
    "no pose": (frame_with(transform_matrix=None), "transform_matrix: missing"),
    "focal zero": (top_with(fl_x=0), r"transforms\.json: fl_x: 0"),
    "focal negative": (frame_with(fl_y=-3.0), r"frames\[3\]\.fl_y: -3"),
    "focal tiny": (top_with(fl_x=1e-200), "focal length of 1e-200"),
    "focal huge": (top_with(fl_x=10**400), "fl_x: an integer beyond"),
    "no focal": (lambda c: (c.pop("fl_x"), c.pop("fl_y")), "fl_x, x_fov or camera_angle_x"),
    "angle in degrees": (lambda c: (c.pop("fl_x"), c.update(camera_angle_x=50)), "radians"),
    "no angle": (lambda c: (c.pop("fl_x"), c.update(camera_angle_x=5e-324)), "angle_x: 5e-324"),
    "no degrees": (lambda c: (c.pop("fl_x"), c.update(x_fov=5e-324)), "x_fov: 5e-324"),
    "centre far off": (top_with(cx=1e7), "cx: 10000000"),
    "other aspect": (top_with(w=20), "12x8 pixels where w, h say 20x8"),
    "turned": (top_with(w=8, h=12), "EXIF"),
    "width zero": (top_with(w=0), "w: 0"),
    "no frames": (top_with(frames=[]), "frames: no frame"),
    "frames missing": (lambda c: c.pop("frames"), "frames: missing"),
    "frames an object": (top_with(frames={"a": 1}), "frames: an object of 1; expected an array"),
    "frame a number": (lambda c: c["frames"].__setitem__(3, 5), r"frames\[3\]: not an object"),
    "unknown model": (top_with(camera_model="WIDE"), 'camera_model: "WIDE"; expected one of OPENC'),
    "fisheye flag": (top_with(is_fisheye=3), "is_fisheye: 3; expected true or false"),
    "folding lens": (top_with(k1=-2.0), "k1 -2.*fold"),
    "split name": (top_with(test_filenames=["x.png"]), r"test_filenames\[0\].*no frame"),
    "split type": (top_with(test_filenames="all"), "expected an array"),
    "empty train": (top_with(train_filenames=[], val_filenames=["images/0001.png"]), "at least"),
    "aabb_scale": (top_with(aabb_scale=3), "power of two from 1 to 128"),
    "offset": (top_with(offset=[1, 2]), "3 numbers"),
    "applied_transform": (top_with(applied_transform=[[1, 2]]), "applied_transform: .*4 rows"),
    "applied_scale": (top_with(applied_scale=-1), "applied_scale: -1"),
    "points by number": (top_with(ply_file_path=3), "ply_file_path: 3; expected a string"),
    "points missing": (top_with(ply_file_path="a.ply"), "ply_file_path: 'a.ply' does not exist"),
    "points outside": (top_with(ply_file_path="../secret.png"), "ply_file_path: .*leads out"),
    "points of pixels": (top_with(ply_file_path="images/0001.png"), "ply_file_path: no PLY"),
    "depth missing": (
        frame_with(depth_file_path="d.png"),
        r"frames\[3\].depth_file_path.*not exist",
    ),
    "depth outside": (frame_with(depth_file_path="../secret.png"), "depth_file_path.*leads out"),
    "depth unit": (top_with(depth_unit_scale_factor=0), "depth_unit_scale_factor: 0"),
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_input_gets_a_sentence_with_file_and_field(tmp_path, fault, document, write):
    edit, pattern = BAD[fault]
    folder = tmp_path / "scene"
    folder.mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "secret.png")
    (folder / "images").mkdir()
    (folder / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "linked").symlink_to(tmp_path)
    write(folder, contents := document())
    assert isinstance(load_scene(folder), Scene)
    edit(contents)
    (folder / "transforms.json").write_text(json.dumps(contents))
    with pytest.raises(InputError, match=pattern) as refused:
        load_scene(folder)
    assert "\n" not in str(refused.value)
    assert refused.value.where.startswith("scene/transforms.json:")


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ('{"frames": [', "not JSON"),
        ("", "not JSON"),
        ("[1, 2]", "an array of 2; expected an object"),
        ("[" * 100_000, "not JSON"),
        ('{"fl_x": ' + "9" * 5000 + "}", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
    ],
)
def test_broken_json_is_refused(tmp_path, text, pattern):
    contents = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "transforms.json").write_bytes(contents)
    with pytest.raises(InputError, match=rf"transforms\.json: .*{pattern}"):
        load_scene(tmp_path)


def test_a_truncated_image_is_refused_before_anything_is_trained(tmp_path, document, write):
    write(tmp_path, document())
    image = tmp_path / "images" / "0005.png"
    image.write_bytes(image.read_bytes()[:-30])
    with pytest.raises(InputError, match=r"0005\.png: .*cut off"):
        load_scene(tmp_path)


def test_a_byte_order_mark_is_no_fault(tmp_path, document, write):
    write(tmp_path, document())
    path = tmp_path / "transforms.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(load_scene(tmp_path).frame_names) == 9


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**25), 1e308, -1e308, 5e-324, 0, -1, 1e9, 128])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        [
            *("images/0001.png", "..", "/", "", "\ud800", "OPENCV", "x" * 5000),
            *("OPENCV_FISHEYE", "EQUIRECTANGULAR", "FULL_OPENCV", "THIN_PRISM_FISHEYE"),
        ]
    ),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)
KEYS = (
    "camera_model fl_x fl_y cx cy w h k1 k2 k3 p1 p2 camera_angle_x x_fov y_fov is_fisheye "
    "aabb_scale scale offset train_filenames val_filenames test_filenames applied_transform "
    "frames file_path transform_matrix time mask_path ftheta_p0 applied_scale ply_file_path "
    "depth_file_path depth_unit_scale_factor k4 k5 sx1 k0"
).split()


@pytest.fixture(scope="module")
def scene_folder(document, write):
    with tempfile.TemporaryDirectory() as folder:
        yield write(Path(folder), document(n=3))


@given(st.data())
@settings(max_examples=250, deadline=None)
def test_any_value_in_any_field_gives_a_scene_or_an_input_error(scene_folder, document, data):
    contents = copy.deepcopy(document(n=3))
    for _ in range(data.draw(st.integers(1, 3))):
        frames = contents.get("frames")
        places = (
            [contents, *(f for f in frames if isinstance(f, dict))]
            if isinstance(frames, list)
            else [contents]
        )
        place = data.draw(st.sampled_from(places))
        key, value = data.draw(st.sampled_from(KEYS)), data.draw(anything)
        inner = place.get(key)
        if isinstance(inner, list) and inner and data.draw(st.booleans()):
            inner = data.draw(
                st.sampled_from([inner, *(i for i in inner if i and type(i) is list)])
            )
            inner[data.draw(st.integers(0, len(inner) - 1))] = value
        else:
            place[key] = value
    (scene_folder / "transforms.json").write_text(json.dumps(contents))
    try:
        scene = load_scene(scene_folder)
    except InputError as refused:
        assert len(str(refused)) < 1000
    else:
        cameras = scene.cameras.transformed(scene.to_field)
        n = len(cameras)
        edge = torch.cat([cameras.width[:, None], cameras.height[:, None]], 1).float()
        origins, directions = cameras.rays(torch.arange(n), edge)
        assert origins.isfinite().all() and directions.isfinite().all()
        assert 0 < scene.near < math.inf and scene.grid_levels >= 1


def test_frames_of_one_file_can_be_read_alone(tmp_path, document, write):
    posed = transforms_json.read(write(tmp_path, document()))
    assert posed.bounds is None and not posed.has_alpha
    assert posed.frame_names[8] == "0008"


def test_photographs_beyond_all_memory_are_refused_by_their_headers(
    tmp_path, monkeypatch, document, write
):
    monkeypatch.setattr(posed_images, "MOST_PIXELS", WIDTH * HEIGHT - 1)
    with pytest.raises(InputError, match=r"0000\.png: 12x8 pixels; expected at most 95.*images_2"):
        load_scene(write(tmp_path, document()))


@pytest.mark.parametrize("scale", [0, 5e-324, 1e-300, -1])
def test_a_scale_that_makes_the_box_endless_is_refused(tmp_path, scale, document, write):
    with pytest.raises(InputError, match=r"transforms\.json: scale: .*above 1e-09"):
        load_scene(write(tmp_path, document(scale=scale, offset=[0.5] * 3, aabb_scale=1)))
