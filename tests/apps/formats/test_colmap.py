import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from polyfield.apps.formats import colmap
from polyfield.apps.formats.colmap_model import MODELS, ModelCamera, ModelImage
from polyfield.apps.scene import load_scene
from polyfield.cuda.errors import InputError

DATA = Path(os.environ.get("POLYFIELD_DATA", Path(__file__).parents[3] / "../shared/data"))
WIDTH, HEIGHT = 24, 16
PINHOLE = ModelCamera("PINHOLE", WIDTH, HEIGHT, (20.0, 21.0, 12.5, 7.5))


def looking_in(angle, camera=1, name=None):
    """A camera on a circle of radius 4 about the origin: half a turn about y, and a step back."""
    half = angle / 2
    rotation = (math.cos(half), 0.0, math.sin(half), 0.0)
    return ModelImage(name or f"{angle:05.2f}.png", camera, rotation, (0.0, 0.0, 4.0))


CIRCLE = [looking_in(0.5 * k) for k in range(12)]


def save(path, rows):
    path.write_text("\n".join(" ".join(map(str, row)) for row in rows) + "\n")


def write(folder, cameras=None, images=CIRCLE, points=(), size=(WIDTH, HEIGHT)):
    """The model as text, and a noisy photograph for each of its images."""
    model = folder / "sparse" / "0"
    model.mkdir(parents=True, exist_ok=True)
    known = {1: PINHOLE} if cameras is None else cameras
    rows = [(n, c.model, c.width, c.height, *c.parameters) for n, c in known.items()]
    save(model / "cameras.txt", rows)
    rows = [(n, *i.rotation, *i.translation, i.camera, i.name) for n, i in enumerate(images)]
    save(model / "images.txt", [line for row in rows for line in (row, ())])
    save(model / "points3D.txt", [(n, *point, 0.5) for n, point in enumerate(points)])
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    for image in images:
        path = folder / "images" / image.name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).save(path)
    return folder


def test_the_world_s_origin_is_in_the_middle_of_every_picture(tmp_path):
    scene = load_scene(write(tmp_path))
    assert scene.kind == "colmap" and len(scene.frame_names) == 12
    pixels, depth = scene.cameras.project(torch.arange(12), torch.zeros(12, 3).double())
    torch.testing.assert_close(pixels, torch.tensor([[12.5, 7.5]]).double().expand(12, 2))
    torch.testing.assert_close(depth, torch.full((12,), 4.0).double())


def test_a_camera_stands_where_its_transform_takes_the_origin_from(tmp_path):
    turn = math.pi / 2
    poses = load_scene(write(tmp_path, images=[looking_in(turn), *CIRCLE[4:]])).cameras
    # x' = R x + t with R a quarter turn about y takes the camera's centre to 0.
    at = [name for name in sorted(image.name for image in [looking_in(turn), *CIRCLE[4:]])]
    pose = poses.camera_to_world[at.index(looking_in(turn).name)]
    expected = torch.tensor([[0.0, 0, -1, 4], [0, 1, 0, 0], [1, 0, 0, 0]]).double()
    torch.testing.assert_close(pose, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name, count", [m for m in MODELS.values()])
def test_every_lens_leads_through_the_pixel_that_colmap_s_formula_gives(tmp_path, name, count):
    one = name in ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL") or name.startswith(
        ("SIMPLE_RADIAL_F", "RADIAL_F")
    )
    lead = (20.0, 12.5, 7.5) if one else (20.0, 20.0, 12.5, 7.5)
    bends = tuple(0.004 * (k + 1) * (-1) ** k for k in range(count - len(lead)))
    camera = ModelCamera(name, WIDTH, HEIGHT, lead + bends)
    scene = load_scene(write(tmp_path, {1: camera}))
    point = torch.tensor(
        [[0.9, -0.6, -1.0]], dtype=torch.float64
    )  # 3 ahead of the camera at angle 0
    first = scene.frame_names.index("00.00")
    pixel, _ = scene.cameras.project(torch.tensor([first]), point)
    u, v = 0.3, -0.2
    if "FISHEYE" in name:
        across = math.hypot(u, v)
        u, v = u * math.atan(across) / across, v * math.atan(across) / across
    r2 = u * u + v * v
    k = dict(enumerate(bends))
    if name in ("OPENCV", "FULL_OPENCV", "THIN_PRISM_FISHEYE"):
        radial, p1, p2 = 1 + k[0] * r2 + k[1] * r2**2, k[2], k[3]
        du, dv = 2 * p1 * u * v + p2 * (r2 + 2 * u * u), 2 * p2 * u * v + p1 * (r2 + 2 * v * v)
        if name == "FULL_OPENCV":
            radial = (radial + k[4] * r2**3) / (1 + k[5] * r2 + k[6] * r2**2 + k[7] * r2**3)
        if name == "THIN_PRISM_FISHEYE":
            radial += k[4] * r2**3 + k[5] * r2**4
            du, dv = du + k[6] * r2, dv + k[7] * r2
        u, v = u * radial + du, v * radial + dv
    elif name == "RAD_TAN_THIN_PRISM_FISHEYE":
        radial = 1 + sum(k[i] * r2 ** (i + 1) for i in range(6))
        u, v = u * radial, v * radial
        r2, s = u * u + v * v, 2 * (k[6] * u + k[7] * v)
        u, v = (
            u + s * u + k[6] * r2 + k[8] * r2 + k[9] * r2**2,
            v + s * v + k[7] * r2 + k[10] * r2 + k[11] * r2**2,
        )
    else:
        radial = 1 + sum(k[i] * r2 ** (i + 1) for i in range(len(bends)))
        u, v = u * radial, v * radial
    assert pixel[0].tolist() == pytest.approx([12.5 + 20 * u, 7.5 + 20 * v], abs=1e-9)


def test_frames_of_several_lenses_share_the_widest(tmp_path):
    bent = ModelCamera("RADIAL", WIDTH, HEIGHT, (20.0, 12.0, 8.0, 0.1, 0.02))
    wide = ModelCamera(
        "FULL_OPENCV", WIDTH, HEIGHT, (20.0, 20.0, 12.0, 8.0, *(0.01 * k for k in range(8)))
    )
    images = [replace(image, camera=1 + k % 3) for k, image in enumerate(CIRCLE)]
    together = load_scene(write(tmp_path / "all", {1: PINHOLE, 2: bent, 3: wide}, images)).cameras
    assert together.model == "FULL_OPENCV"
    pixels = torch.tensor([[1.0, 2.0]]).double().expand(12, 2)
    _, found = together.rays(torch.arange(12), pixels)
    for number, camera in {1: PINHOLE, 2: bent, 3: wide}.items():
        alone = load_scene(write(tmp_path / str(number), {1: camera})).cameras
        _, expected = alone.rays(torch.arange(12), pixels)
        own = torch.tensor([k % 3 == number - 1 for k in range(12)])
        torch.testing.assert_close(found[own], expected[own], atol=1e-9, rtol=0)


def test_fisheyes_of_several_kinds_share_the_widest(tmp_path):
    numbers = (20.0, 20.0, 12.0, 8.0, 0.05, -0.02, 0.01, 0.003)
    fisheye = ModelCamera("OPENCV_FISHEYE", WIDTH, HEIGHT, numbers)
    prism = ModelCamera("THIN_PRISM_FISHEYE", WIDTH, HEIGHT, (*numbers[:4], *[0.001] * 8))
    images = [replace(image, camera=1 + k % 2) for k, image in enumerate(CIRCLE)]
    together = load_scene(write(tmp_path / "all", {1: fisheye, 2: prism}, images)).cameras
    alone = load_scene(write(tmp_path / "one", {1: fisheye})).cameras
    pixels = torch.tensor([[1.0, 2.0]]).double().expand(6, 2)
    even = torch.arange(0, 12, 2)
    for a, b in zip(together.rays(even, pixels), alone.rays(even, pixels), strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=0)


def test_a_fisheye_beside_a_perspective_lens_is_refused(tmp_path):
    fisheye = ModelCamera("OPENCV_FISHEYE", WIDTH, HEIGHT, (20.0, 20.0, 12.0, 8.0, *[0.0] * 4))
    images = [replace(image, camera=1 + k % 2) for k, image in enumerate(CIRCLE)]
    with pytest.raises(InputError, match="OPENCV_FISHEYE and PINHOLE; expected lenses of one kind"):
        load_scene(write(tmp_path, {1: PINHOLE, 2: fisheye}, images))


def test_a_lens_that_folds_the_image_is_refused_by_the_photograph_s_name(tmp_path):
    camera = ModelCamera("SIMPLE_RADIAL", WIDTH, HEIGHT, (20.0, 12.0, 8.0, -2.0))
    with pytest.raises(InputError, match="00.00.png.*SIMPLE_RADIAL.*folds"):
        load_scene(write(tmp_path, {1: camera}))


def test_smaller_photographs_scale_the_lens(tmp_path):
    scene = load_scene(write(tmp_path, size=(WIDTH // 2, HEIGHT // 2)))
    assert scene.cameras.focal[0].tolist() == [10.0, 10.5]
    assert scene.cameras.center[0].tolist() == [6.25, 3.75]
    assert any("24x16 to 12x8" in note for note in scene.notes)
    with pytest.raises(InputError, match="00.00.png.*12x16 pixels where w, h say 24x16"):
        load_scene(write(tmp_path, size=(WIDTH // 2, HEIGHT)))


def test_a_size_that_was_rounded_scales_each_axis_by_its_own_factor(tmp_path):
    cameras = load_scene(write(tmp_path, size=(7, 5))).cameras  # a third of 16 is 5 1/3
    assert cameras.focal[0].tolist() == pytest.approx([20 * 7 / WIDTH, 21 * 5 / HEIGHT])
    assert cameras.center[0].tolist() == pytest.approx([12.5 * 7 / WIDTH, 7.5 * 5 / HEIGHT])


def test_a_quaternion_a_little_off_length_one_still_turns_and_scales_nothing(tmp_path):
    longer = [replace(i, rotation=tuple(1.0009 * q for q in i.rotation)) for i in CIRCLE]
    found = load_scene(write(tmp_path / "longer", images=longer)).cameras.camera_to_world
    expected = load_scene(write(tmp_path / "exact")).cameras.camera_to_world
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("focal", [(0.001, 21.0), (20.0, 0.001)])
def test_a_lens_without_a_focal_length_is_refused_along_either_axis(tmp_path, focal):
    camera = ModelCamera("PINHOLE", WIDTH, HEIGHT, (*focal, 12.5, 7.5))
    with pytest.raises(InputError, match="00.00.png: a focal length of 0.001 pixels"):
        load_scene(write(tmp_path, {1: camera}))


def test_photographs_may_lie_in_folders_of_the_images(tmp_path):
    images = [
        replace(i, name=f"{'left' if k % 2 else 'right'}/{k:02}.png") for k, i in enumerate(CIRCLE)
    ]
    scene = load_scene(write(tmp_path, images=images))
    assert scene.image_paths[0] == tmp_path / "images" / "left" / "01.png"
    assert len(set(scene.frame_names)) == 12


def test_copies_in_folders_of_another_folder_are_chosen_by_its_name(tmp_path):
    images = [replace(i, name=f"{'ab'[k % 2]}/{k:02}.png") for k, i in enumerate(CIRCLE)]
    write(tmp_path / "small", images=images, size=(WIDTH // 2, HEIGHT // 2))
    write(tmp_path, images=images)
    (tmp_path / "small" / "images").rename(tmp_path / "images_2")
    assert load_scene(tmp_path).sizes[0] == (WIDTH, HEIGHT)
    scene = load_scene(tmp_path, "images_2")
    assert scene.image_paths[0] == tmp_path / "images_2" / "a" / "00.png"
    assert scene.cameras.focal[0].tolist() == [10.0, 10.5]
    assert scene.cameras.center[0].tolist() == [6.25, 3.75]
    assert scene.frame_names == load_scene(tmp_path).frame_names


def test_masks_beside_the_folder_of_photographs_are_found(tmp_path):
    write(tmp_path)
    (tmp_path / "masks").mkdir()
    name = load_scene(tmp_path).image_paths[2].name
    Image.new("L", (WIDTH, HEIGHT), 255).save(tmp_path / "masks" / f"{name}.png")
    masks = load_scene(tmp_path).masks
    assert [mask and mask.path.name for mask in masks[:4]] == [None, None, f"{name}.png", None]


def test_every_eighth_photograph_in_name_order_is_held_out(tmp_path):
    shuffled = [CIRCLE[k] for k in (5, 0, 11, 3, 8, 1, 2, 10, 4, 9, 6, 7)]
    scene = load_scene(write(tmp_path, images=shuffled))
    held = [scene.frame_names[index] for index in scene.splits["test"].tolist()]
    assert held == ["00.00", "04.00"]


def test_points_and_their_number_are_kept(tmp_path):
    scene = load_scene(write(tmp_path, points=[(1.0, 2.0, 3.0, 9, 8, 7)]))
    assert scene.points.tolist() == [[1.0, 2.0, 3.0]]
    assert scene.point_colors.tolist() == [[9, 8, 7]]
    assert "1 sparse points" in scene.notes
    (tmp_path / "sparse" / "0" / "points3D.txt").unlink()
    assert load_scene(tmp_path).points is None


@pytest.mark.parametrize("place", ["sparse/0", "sparse", "colmap/sparse/0", "."])
def test_a_model_is_found_where_tools_put_it(tmp_path, place):
    write(tmp_path / "made")
    scene = tmp_path / "scene"
    (scene / place).mkdir(parents=True, exist_ok=True)
    for file in (tmp_path / "made" / "sparse" / "0").iterdir():
        file.rename(scene / place / file.name)
    (tmp_path / "made" / "images").rename(scene / "images")
    (scene / place / "rigs.txt").write_text("newer models have these")
    assert len(load_scene(scene).frame_names) == 12


@pytest.mark.parametrize(
    "images, message",
    [
        ([], "images.txt: no image"),
        ([looking_in(0.0), looking_in(0.0)], "'00.00.png' twice"),
        ([looking_in(0.0, camera=2)], "'00.00.png': camera 2, which is none of 1"),
    ],
)
def test_a_model_that_contradicts_itself_is_refused(tmp_path, images, message):
    with pytest.raises(InputError, match=message):
        colmap.read(write(tmp_path, images=images))


def test_a_photograph_that_is_missing_or_outside_is_refused(tmp_path):
    write(tmp_path)
    (tmp_path / "images" / "01.50.png").unlink()
    with pytest.raises(InputError, match="01.50.png.*does not exist"):
        load_scene(tmp_path)
    save(tmp_path / "sparse/0/images.txt", [(1, 1, 0, 0, 0, 0, 0, 4, 1, "../../../../etc/passwd")])
    with pytest.raises(InputError, match="leads out of it"):
        load_scene(tmp_path)


def test_a_real_capture_agrees_with_its_own_points():
    folder = DATA / "colmap_can"
    if not folder.is_dir():
        pytest.skip("no colmap_can among the real scenes ($POLYFIELD_DATA)")
    scene = load_scene(folder)
    assert len(scene.frame_names) == 71 and scene.cameras.model == "OPENCV"
    width, height = scene.sizes[0]
    inside = 0.0
    for frame in range(71):
        which = torch.full((len(scene.points),), frame)
        pixels, _ = scene.cameras.project(which, scene.points)
        seen = (pixels >= 0).all(1) & (pixels < torch.tensor([width, height])).all(1)
        inside += float(seen.double().mean()) / 71
    assert inside > 0.7
