import math

import pytest
import torch

from polyfield.apps.scene import load_scene
from polyfield.cuda.errors import InputError

WIDTH, HEIGHT = 12, 8


def lens_of(scene, frame=0):
    cameras = scene.cameras
    return cameras.focal[frame].tolist(), cameras.center[frame].tolist()


def test_intrinsics_of_a_frame_win(tmp_path, document, write):
    contents = document(k1=0.01)
    contents["frames"][1] |= {"fl_x": 20.0, "fl_y": 21.0, "k1": 0.02, "cx": 6.0}
    scene = load_scene(write(tmp_path, contents))
    assert lens_of(scene, 0) == ([10, 11], [6.5, 3.5])
    assert lens_of(scene, 1) == ([20, 21], [6.0, 3.5])
    assert scene.cameras.distortion[:2, 0].tolist() == [0.01, 0.02]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"camera_angle_x": math.pi / 2}, (6, 6)),
        ({"camera_angle_y": math.pi / 2}, (4, 4)),
        ({"camera_angle_x": math.pi / 2, "camera_angle_y": math.pi / 2}, (6, 4)),
        ({"x_fov": 90}, (6, 6)),
        ({"x_fov": 90, "y_fov": 90}, (6, 4)),
        ({"fl_x": 7, "camera_angle_x": 1.0}, (7, 7)),
        ({"fl_y": 5}, (5, 5)),
    ],
)
def test_focal_length_from_whichever_key_says_it(tmp_path, given, expected, document, write):
    contents = document()
    for key in ("fl_x", "fl_y", "cx", "cy"):
        del contents[key]
    focal, center = lens_of(load_scene(write(tmp_path, contents | given)))
    assert focal == pytest.approx(expected)
    assert center == [WIDTH / 2, HEIGHT / 2]


def test_images_of_another_size_scale_the_intrinsics_and_say_so(tmp_path, document, write):
    scene = load_scene(write(tmp_path, document(), size=(2 * WIDTH, 2 * HEIGHT)))
    assert lens_of(scene) == ([20, 22], [13, 7])
    assert scene.sizes[0] == (24, 16)
    assert any("12x8 to 24x16" in note for note in scene.notes)


def test_a_size_within_a_pixel_of_the_aspect_is_the_same_aspect(tmp_path, document, write):
    scene = load_scene(write(tmp_path, document(), size=(2 * WIDTH, 2 * HEIGHT + 1)))
    assert lens_of(scene)[0] == pytest.approx([20, 11 * 17 / 8])


def test_two_pixels_off_the_aspect_are_another_aspect(tmp_path, document, write):
    with pytest.raises(InputError, match="24x18 pixels where w, h say 12x8"):
        load_scene(write(tmp_path, document(), size=(2 * WIDTH, 2 * HEIGHT + 2)))


def test_without_w_and_h_the_images_tell(tmp_path, document, write):
    contents = document()
    del contents["w"], contents["h"]
    assert lens_of(load_scene(write(tmp_path, contents, size=(24, 16))))[0] == [10, 11]


@pytest.mark.parametrize("known", [(), ("w",), ("h",)])
def test_without_them_the_photographs_that_are_named_tell_of_smaller_copies_too(
    tmp_path, document, write, known
):
    contents = document()
    for key in {"w", "h"} - set(known):
        del contents[key]
    write(tmp_path, contents, size=(WIDTH // 2, HEIGHT // 2))
    (tmp_path / "images").rename(tmp_path / "images_2")
    write(tmp_path, contents)
    scene = load_scene(tmp_path, "images_2")
    assert scene.sizes[0] == (WIDTH // 2, HEIGHT // 2)
    assert lens_of(scene) == ([5, 5.5], [3.25, 1.75])


def test_the_axis_of_a_picture_that_was_cut_out_may_lie_beside_it(tmp_path, document, write):
    assert lens_of(load_scene(write(tmp_path, document(cx=-3.5, cy=-2.5))))[1] == [-3.5, -2.5]


def test_distortion_is_in_the_rays(tmp_path, document, write):
    straight = load_scene(write(tmp_path, document()))
    bent = load_scene(write(tmp_path, document(k1=0.05, p2=0.001)))
    assert (straight.cameras.model, bent.cameras.model) == ("PINHOLE", "OPENCV")
    corner = torch.tensor([0]), torch.tensor([[0.5, 0.5]]).double()
    difference = straight.cameras.rays(*corner)[1] - bent.cameras.rays(*corner)[1]
    assert difference.norm() > 1e-3


FOCAL_X, FOCAL_Y, CENTER_X, CENTER_Y = 10.0, 11.0, 6.5, 3.5  # of the document


def pixel_by_hand(fisheye, point, k):
    """OpenCV's published formulas, with every coefficient that is given."""
    x, y, z = point
    k = dict.fromkeys("k1 k2 k3 k4 k5 k6 p1 p2 sx1 sy1".split(), 0.0) | k
    if fisheye:
        across = math.hypot(x, y)
        u, v = (a / across * math.atan2(across, z) for a in (x, y))
    else:
        u, v = x / z, y / z
    r2 = u * u + v * v
    if fisheye:
        radial = 1 + k["k1"] * r2 + k["k2"] * r2**2 + k["k3"] * r2**3 + k["k4"] * r2**4
    else:
        radial = 1 + k["k1"] * r2 + k["k2"] * r2**2 + k["k3"] * r2**3
        radial /= 1 + k["k4"] * r2 + k["k5"] * r2**2 + k["k6"] * r2**3
    bent_u = u * radial + 2 * k["p1"] * u * v + k["p2"] * (r2 + 2 * u * u) + k["sx1"] * r2
    bent_v = v * radial + 2 * k["p2"] * u * v + k["p1"] * (r2 + 2 * v * v) + k["sy1"] * r2
    return [CENTER_X + FOCAL_X * bent_u, CENTER_Y + FOCAL_Y * bent_v]


def ray_in_camera(scene, frame, pixel):
    """The direction through a pixel in the axes of its camera: right, down, forward."""
    pixels = torch.tensor([pixel], dtype=torch.float64)
    _, directions = scene.cameras.rays(torch.tensor([frame]), pixels)
    return directions[0] @ scene.cameras.camera_to_world[frame, :, :3]


K6 = dict(zip("k1 k2 k3 k4 k5 k6".split(), (0.05, -0.02, 0.01, 0.03, -0.01, 0.004), strict=True))
PRISM = dict(k1=0.03, k2=-0.01, p1=0.002, p2=-0.003, k3=0.004, k4=-0.001, sx1=0.005, sy1=-0.002)
LENSES = {
    "SIMPLE_PINHOLE": ({}, "PINHOLE"),
    "PINHOLE": ({"k1": 0.0}, "PINHOLE"),
    "SIMPLE_RADIAL": ({"k1": 0.05}, "OPENCV"),
    "RADIAL": ({"k1": 0.05, "k2": 0.01}, "OPENCV"),
    "OPENCV": ({"k1": 0.05, "k2": 0.01, "p1": 0.002, "p2": -0.001}, "OPENCV"),
    "OPENCV with k3": ({"k1": 0.05, "k3": 0.02}, "FULL_OPENCV"),
    "OPENCV with all": ({**K6, "p1": 0.002}, "FULL_OPENCV"),
    "FULL_OPENCV": ({**K6, "p1": 0.002, "p2": -0.001}, "FULL_OPENCV"),
    "FULL_OPENCV with k4": ({"k4": 0.05}, "FULL_OPENCV"),
    "SIMPLE_RADIAL_FISHEYE": ({"k1": 0.05}, "OPENCV_FISHEYE"),
    "RADIAL_FISHEYE": ({"k1": 0.05, "k2": 0.01}, "OPENCV_FISHEYE"),
    "OPENCV_FISHEYE": ({"k1": 0.05, "k2": 0.01, "k3": -0.01, "k4": 0.002}, "OPENCV_FISHEYE"),
    "OPENCV_FISHEYE with p1": ({"k1": 0.05, "p1": 0.01}, "THIN_PRISM_FISHEYE"),
    "THIN_PRISM_FISHEYE": (PRISM, "THIN_PRISM_FISHEYE"),
}


@pytest.mark.parametrize("name", LENSES)
def test_every_lens_leads_through_the_pixel_of_opencv_s_formula(tmp_path, document, write, name):
    coefficients, model = LENSES[name]
    contents = document(camera_model=name.split()[0], **coefficients)
    scene = load_scene(write(tmp_path, contents))
    assert scene.cameras.model == model
    fisheye = "FISHEYE" in name
    for point in ((0.4, -0.3, 1.0), (-0.5, 0.2, 0.9)):
        direction = ray_in_camera(scene, 2, pixel_by_hand(fisheye, point, coefficients))
        expected = torch.tensor(point, dtype=torch.float64)
        torch.testing.assert_close(direction, expected / expected.norm(), atol=1e-9, rtol=0)


def test_a_fisheye_sees_behind_itself(tmp_path, document, write):
    contents = document(camera_model="OPENCV_FISHEYE", fl_x=3.0, fl_y=3.0, k1=0.0)
    # 3 pixels a radian: 5.4 pixels from the middle are 1.8 radians from the axis.
    direction = ray_in_camera(load_scene(write(tmp_path, contents)), 0, [CENTER_X + 5.4, CENTER_Y])
    assert direction.tolist() == pytest.approx([math.sin(1.8), 0, math.cos(1.8)], abs=1e-12)


def test_instant_ngp_s_flag_makes_a_fisheye(tmp_path, document, write):
    bends = {"k1": 0.05, "k2": 0.01, "k3": -0.01, "k4": 0.002}
    named = load_scene(write(tmp_path / "a", document(camera_model="OPENCV_FISHEYE", **bends)))
    contents = document(is_fisheye=True, **bends)
    del contents["camera_model"]
    for flagged in (contents, document(is_fisheye=True, **bends)):
        scene = load_scene(write(tmp_path / "b", flagged))
        assert scene.cameras.model == "OPENCV_FISHEYE"
        assert torch.equal(scene.cameras.distortion, named.cameras.distortion)
    contents["is_fisheye"] = False
    del contents["k4"]
    assert load_scene(write(tmp_path / "b", contents)).cameras.model == "FULL_OPENCV"


def test_a_frame_s_own_lens_wins_and_all_share_the_widest(tmp_path, document, write):
    contents = document(k1=0.05)
    contents["frames"][3] |= {"camera_model": "FULL_OPENCV", "k1": 0.0, "k5": 0.02}
    contents["frames"][4] |= {"camera_model": "PINHOLE", "k1": 0.0}
    scene = load_scene(write(tmp_path, contents))
    assert scene.cameras.model == "FULL_OPENCV"
    point = (0.4, -0.3, 1.0)
    for frame, k in ((2, {"k1": 0.05}), (3, {"k5": 0.02}), (4, {})):
        direction = ray_in_camera(scene, frame, pixel_by_hand(False, point, k))
        assert (direction / direction[2]).tolist() == pytest.approx(point, abs=1e-9)


def test_a_frame_s_name_wins_over_the_file_s_flag(tmp_path, document, write):
    contents = document(is_fisheye=True)
    for frame in contents["frames"]:
        frame["camera_model"] = "OPENCV"
    assert load_scene(write(tmp_path, contents)).cameras.model == "PINHOLE"


def panorama(document, **focal):
    contents = document(camera_model="EQUIRECTANGULAR", w=16, h=8, cx=8.0, cy=4.0)
    del contents["fl_x"], contents["fl_y"]
    return contents | focal


@pytest.mark.parametrize(
    "focal",
    [
        {},
        {"fl_x": 8.0, "fl_y": 8.0},  # nerfstudio: half a turn
        {"fl_x": 8.0},
        {"fl_x": 16 / (2 * math.pi), "fl_y": 8 / math.pi},  # pixels a radian
        {"camera_angle_x": 0.9},  # which Blender's exporters write of any camera
    ],
)
def test_a_panorama_shows_the_whole_sphere(tmp_path, document, write, focal):
    scene = load_scene(write(tmp_path, panorama(document, **focal), size=(16, 8)))
    assert scene.cameras.model == "EQUIRECTANGULAR"
    for pixel, expected in {
        (8.0, 4.0): (0, 0, 1),
        (12.0, 4.0): (1, 0, 0),
        (4.0, 4.0): (-1, 0, 0),
        (0.0, 4.0): (0, 0, -1),
        (8.0, 0.0): (0, -1, 0),
        (12.0, 6.0): (math.sqrt(0.5), math.sqrt(0.5), 0),
    }.items():
        direction = ray_in_camera(scene, 1, list(pixel))
        assert direction.tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("width", [26, 52, 54, 104, 110])
def test_rounding_puts_no_border_of_a_panorama_on_the_other_side(tmp_path, document, write, width):
    contents = panorama(document) | {"w": width, "h": width // 2, "cx": None, "cy": None}
    scene = load_scene(write(tmp_path, contents, size=(width, width // 2)))
    left = ray_in_camera(scene, 0, [0.0, width / 4])
    assert left.tolist() == pytest.approx([0, 0, -1], abs=1e-9)


def test_a_part_of_a_panorama_has_nerfstudio_s_scale(tmp_path, document, write):
    contents = panorama(document, fl_x=32.0, fl_y=32.0)
    scene = load_scene(write(tmp_path, contents, size=(16, 8)))
    turn = math.pi / 8  # 4 pixels, of which 32 are half a turn
    direction = ray_in_camera(scene, 0, [12.0, 4.0])
    assert direction.tolist() == pytest.approx([math.sin(turn), 0, math.cos(turn)])


def test_a_strip_of_pixels_a_radian_goes_all_the_way_round(tmp_path, document, write):
    focal = 16 / (2 * math.pi)  # a panorama of 2 rows could not be the sphere in nerfstudio's unit
    contents = panorama(document, fl_x=focal, fl_y=focal) | {"h": 2, "cy": 1.0}
    scene = load_scene(write(tmp_path, contents, size=(16, 2)))
    assert ray_in_camera(scene, 0, [12.0, 1.0]).tolist() == pytest.approx([1, 0, 0], abs=1e-9)
    down = ray_in_camera(scene, 0, [8.0, 2.0])
    assert math.asin(down[1]) == pytest.approx(1 / focal)


def test_a_frame_s_own_scale_of_a_panorama_wins(tmp_path, document, write):
    contents = panorama(document, fl_x=8.0, fl_y=8.0)
    contents["frames"][1] |= {"fl_x": 32.0, "fl_y": 32.0}
    scene = load_scene(write(tmp_path, contents, size=(16, 8)))
    for frame, turn in ((0, math.pi / 2), (1, math.pi / 8)):
        direction = ray_in_camera(scene, frame, [12.0, 4.0])
        assert direction.tolist() == pytest.approx([math.sin(turn), 0, math.cos(turn)], abs=1e-9)


BAD = {
    "nerfstudio's k4": (dict(k4=0.1), "k4: 0.1; expected 0, or camera_model FULL_OPENCV"),
    "k1 of a panorama": (
        dict(camera_model="EQUIRECTANGULAR", k1=0.1),
        "k1: 0.1; expected 0: EQUIRECTANGULAR has no coefficients",
    ),
    "k5 of a fisheye": (
        dict(camera_model="OPENCV_FISHEYE", k5=0.1),
        "k5: 0.1; expected 0: OPENCV_FISHEYE has k1 k2 p1 p2 k3 k4 sx1 sy1",
    ),
    "a prism before a perspective lens": (dict(sx1=0.1), "sx1: 0.1; expected 0: OPENCV has k1"),
    "NaN": (dict(k2=math.nan), "k2: NaN; expected a coefficient"),
    "1e300": (dict(p1=1e300), r"p1: 1e\+300"),
    "f-theta": (dict(ftheta_p0=0.1), "ftheta_p0: 0.1"),
    "unknown": (dict(camera_model="VR180_L"), 'camera_model: "VR180_L"; expected one of'),
    "folding fisheye": (dict(camera_model="OPENCV_FISHEYE", k1=-2.0), "k1 -2 fold"),
    "a fisheye that sees more than all": (
        dict(camera_model="OPENCV_FISHEYE", fl_x=0.5, fl_y=0.5),
        "fl_x 0.5 fold",
    ),
    "a panorama of more than a turn": (
        dict(camera_model="EQUIRECTANGULAR", fl_x=1.0, fl_y=1.0),
        "EQUIRECTANGULAR that can be inverted",
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_what_is_no_lens_of_ours_is_refused_by_its_field(tmp_path, document, write, fault):
    values, pattern = BAD[fault]
    with pytest.raises(InputError, match=pattern):
        load_scene(write(tmp_path, document(**values)))


def test_lenses_that_no_model_holds_are_refused_together(tmp_path, document, write):
    contents = document()
    contents["frames"][3]["camera_model"] = "OPENCV_FISHEYE"
    with pytest.raises(
        InputError, match=r"OPENCV_FISHEYE and PINHOLE; expected lenses of one kind"
    ):
        load_scene(write(tmp_path, contents))
