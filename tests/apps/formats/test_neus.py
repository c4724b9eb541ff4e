import io
import os
import struct
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from polyfield.apps.formats import neus
from polyfield.apps.scene import load_scene
from polyfield.cuda.errors import InputError

DATA = Path(os.environ.get("POLYFIELD_DATA", Path(__file__).parents[3] / "../shared/data"))
WIDTH, HEIGHT, VIEWS = 40, 30, 9
K = np.array([[50.0, 0.0, 21.0], [0.0, 48.0, 14.0], [0.0, 0.0, 1.0]])  # pixel centres at integers
CENTER, RADIUS = np.array([100.0, -40.0, 700.0]), 250.0


def world_to_camera(index, turn=0.7):
    """A camera around the object that looks at it, with OpenCV's axes."""
    angle = turn * index
    way = np.array([np.cos(angle), np.sin(angle), 0.4 * (index % 3 - 1)])
    forward = -way / np.linalg.norm(way)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    position = CENTER - 3 * RADIUS * forward
    return rotation, -rotation @ position


def matrices(k=K, factor=1.0):
    """What the archive holds, by name; a projection may carry any factor."""
    scale = np.diag([RADIUS, RADIUS, RADIUS, 1.0])
    scale[:3, 3] = CENTER
    found = {}
    for index in range(VIEWS):
        rotation, translation = world_to_camera(index)
        world = np.eye(4)
        world[:3] = factor * k @ np.concatenate([rotation, translation[:, None]], 1)
        found |= {f"world_mat_{index}": world, f"scale_mat_{index}": scale}
    return found


def ball(index):
    """The exact silhouette of a ball of half the sphere's size."""
    rotation, translation = world_to_camera(index)
    x, y = np.meshgrid((np.arange(WIDTH) - 21) / 50, (np.arange(HEIGHT) - 14) / 48)
    rays = np.stack([x, y, np.ones_like(x)], 2)
    rays /= np.linalg.norm(rays, axis=2, keepdims=True)
    middle = rotation @ CENTER + translation
    along = rays @ middle
    return along**2 - middle @ middle + (RADIUS / 2) ** 2 > 0


def write(folder, content=None, masks=True, images=VIEWS, file="cameras_sphere.npz", size=None):
    np.savez(folder / file, **(matrices() if content is None else content))
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for place in ("image", "mask") if masks else ("image",):
        (folder / place).mkdir(exist_ok=True)
    for index in range(images):
        Image.fromarray(noise).resize(size or (WIDTH, HEIGHT)).save(
            folder / "image" / f"{index:06}.png"
        )
        if masks:  # numbered otherwise, as in IDR's own scenes: their order counts
            mask = Image.fromarray(255 * ball(index).astype(np.uint8))
            mask.save(folder / "mask" / f"{index:03}.png")
    return folder


@pytest.mark.parametrize("factor", [1.0, 0.001, -7.0])
def test_points_of_the_input_s_frame_are_seen_where_the_matrix_says(tmp_path, factor):
    scene = load_scene(write(tmp_path, matrices(factor=factor)))
    assert scene.kind == "neus" and scene.frame_names[3] == "000003"
    points = torch.tensor(CENTER) + 100 * torch.randn(VIEWS, 3, dtype=torch.float64)
    pixels, depth = scene.cameras.project(torch.arange(VIEWS), points)
    for index in range(VIEWS):
        rotation, translation = world_to_camera(index)
        x, y, z = K @ (rotation @ points[index].numpy() + translation)
        # Half a pixel: the first one's centre is at 0 in the file.
        assert pixels[index].tolist() == pytest.approx([x / z + 0.5, y / z + 0.5], abs=1e-8)
        assert depth[index].item() == pytest.approx(z)


def test_pixels_may_be_oblong_and_axes_are_those_of_the_file(tmp_path):
    cameras = load_scene(write(tmp_path)).cameras
    torch.testing.assert_close(cameras.focal, torch.tensor([[50.0, 48.0]]).double().expand(9, 2))
    torch.testing.assert_close(cameras.center, torch.tensor([[21.5, 14.5]]).double().expand(9, 2))
    rotation, translation = world_to_camera(4)
    expected = np.concatenate([rotation.T, (-rotation.T @ translation)[:, None]], 1)
    assert np.allclose(cameras.camera_to_world[4].numpy(), expected, atol=1e-9)


def test_the_unit_sphere_becomes_the_cube_and_leads_back_to_the_user_s_frame(tmp_path):
    scene = load_scene(write(tmp_path))
    ends = torch.tensor(CENTER) + RADIUS * torch.eye(3).double()
    assert scene.to_field.apply(ends).diagonal().tolist() == pytest.approx([1, 1, 1])
    middle = scene.to_field.apply(torch.tensor(CENTER)[None])
    assert middle[0].tolist() == pytest.approx([0.5] * 3)
    assert scene.grid_levels == 1
    # Cameras are three radii from the middle, the cube's corners not quite two.
    assert 0 < scene.near < 0.5 * (3 - 3**0.5)


def test_the_spheres_of_all_frames_are_one(tmp_path):
    """Where scale_mat differs, what the cameras share is the space of the unit sphere."""
    content, plain = matrices(), load_scene(write(tmp_path)).cameras
    turn = np.array([[0.0, -1, 0, 5], [1, 0, 0, -3], [0, 0, 1, 2], [0, 0, 0, 1]]) * [2, 2, 2, 1]
    content["scale_mat_4"] = turn @ content["scale_mat_4"]
    content["world_mat_4"] = content["world_mat_4"] @ np.linalg.inv(turn)
    moved = load_scene(write(tmp_path, content)).cameras
    torch.testing.assert_close(moved.camera_to_world, plain.camera_to_world)


def test_masks_are_the_alpha_of_the_images_in_their_order(tmp_path):
    scene = load_scene(write(tmp_path))
    assert scene.has_alpha and {mask.meaning for mask in scene.masks} == {"object"}
    assert [mask.path.name for mask in scene.masks] == [f"{i:03}.png" for i in range(VIEWS)]
    assert any("masks of 9 of 9 photographs: white is the object" in note for note in scene.notes)


def test_the_hull_of_the_masks_is_found_where_the_sphere_is_none_of_the_object_s(tmp_path):
    content = matrices()
    for index in range(VIEWS):
        # A sphere far away from what the cameras look at; the projections stay as they are.
        content[f"scale_mat_{index}"] = np.diag([1.0, 1.0, 1.0, 1.0])
        content[f"scale_mat_{index}"][:3, 3] = 10_000.0
    scene = load_scene(write(tmp_path, content))
    assert any("visual hull of the alpha masks" in note for note in scene.notes)
    middle = scene.to_field.apply(torch.tensor(CENTER)[None])[0]
    assert (middle - 0.5).abs().max() < 0.1
    assert 0.2 < RADIUS / 2 * scene.to_field.scale < 0.5


def test_without_masks_what_is_around_the_sphere_has_room_too(tmp_path):
    scene = load_scene(write(tmp_path, masks=False))
    assert not scene.masks and not scene.has_alpha and scene.grid_levels == 4
    assert scene.to_field.scale == pytest.approx(1 / (16 * RADIUS))
    assert any("no folder mask" in note for note in scene.notes)


def test_every_eighth_is_held_out(tmp_path):
    assert load_scene(write(tmp_path)).splits["test"].tolist() == [0, 8]


def test_the_other_name_of_the_file_is_read_and_comes_second(tmp_path):
    write(tmp_path, file="cameras.npz")
    assert load_scene(tmp_path).kind == "neus"
    other = matrices(np.diag([2.0, 2.0, 1.0]) @ K)
    write(tmp_path, other)
    assert load_scene(tmp_path).cameras.focal[0, 0].item() == pytest.approx(100)


def test_smaller_copies_scale_the_lens_and_take_their_masks(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.setattr("polyfield.apps.formats.posed_images.LONGEST_SIDE", WIDTH - 1)
    for place in ("image", "mask"):
        (tmp_path / f"{place}_2").mkdir()
        for path in (tmp_path / place).iterdir():
            small = Image.open(path).resize((WIDTH // 2, HEIGHT // 2))
            small.save(tmp_path / f"{place}_2" / path.name)
    scene = load_scene(tmp_path)
    assert scene.sizes[0] == (20, 15) == (scene.masks[0].width, scene.masks[0].height)
    assert scene.cameras.center[0].tolist() == pytest.approx([10.75, 7.25])
    assert scene.cameras.focal[0].tolist() == pytest.approx([25, 24])


def changed(key, change):
    content = matrices()
    content[key] = change(content[key].copy())
    return content


def put(row, column, value):
    def change(matrix):
        matrix[row, column] = value
        return matrix

    return change


def without(key):
    return {name: matrix for name, matrix in matrices().items() if name != key}


skewed = matrices(K + np.array([[0, 3.0, 0], [0, 0, 0], [0, 0, 0]]))
mirrored = {k: np.diag([1, 1, -1, 1]) @ m if "world" in k else m for k, m in matrices().items()}
mirrored |= {k: m * [[-1], [1], [-1], [1]] for k, m in mirrored.items() if "world" in k}


@pytest.mark.parametrize(
    "content, message",
    [
        (without("world_mat_8"), "8 matrices world_mat_i for 9 images"),
        (without("scale_mat_3"), "cameras_sphere.npz: scale_mat_3: missing"),
        (changed("world_mat_2", put(0, 0, np.nan)), "world_mat_2: a number that is none"),
        (changed("world_mat_2", put(1, 2, 1e300)), "world_mat_2: a number .* beyond 10"),
        (changed("world_mat_2", lambda m: 0 * m), "world_mat_2 .000002.png.: no K"),
        (changed("world_mat_5", lambda m: m[:3]), r"world_mat_5: float64 of shape \(3, 4\)"),
        (changed("world_mat_5", lambda m: m.astype(complex)), "complex128 of shape"),
        (changed("world_mat_5", lambda m: m.astype(str)), "world_mat_5: str"),
        (changed("scale_mat_7", put(3, 0, 0.5)), "scale_mat_7: more than a scale"),
        (changed("scale_mat_0", put(0, 0, -RADIUS)), "scale_mat_0: more than a scale"),
        (changed("scale_mat_0", put(0, 0, 2 * RADIUS)), "scale_mat_0: more than a scale"),
        (changed("scale_mat_0", lambda m: 0 * m), "scale_mat_0: more than a scale"),
        (skewed, "a skew of 3, which shifts pixels by up to 1"),
        (mirrored, "shows the scene mirrored"),
        (matrices(np.array([[50.0, 0, 5000], [0, 48, 14], [0, 0, 1]])), "a principal point"),
        (matrices(np.array([[1e-3, 0, 21], [0, 1e-3, 14], [0, 0, 1]])), "no K"),
    ],
)
def test_matrices_that_are_no_cameras_are_refused_by_name(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        load_scene(write(tmp_path, content))


def test_a_little_skew_is_left_out_and_said(tmp_path):
    scene = load_scene(write(tmp_path, matrices(K + np.array([[0, 0.5, 0], [0] * 3, [0] * 3]))))
    assert any("skew of up to 0.1" in note for note in scene.notes)


def test_a_mask_too_few_or_of_another_aspect_is_refused(tmp_path):
    write(tmp_path)
    Image.new("L", (HEIGHT, WIDTH)).save(tmp_path / "mask" / "004.png")
    with pytest.raises(InputError, match=r"004.png: 30x40 pixels for 40x30"):
        load_scene(tmp_path)
    (tmp_path / "mask" / "004.png").unlink()
    with pytest.raises(InputError, match="8 masks for 9 images"):
        load_scene(tmp_path)


def test_masks_without_any_object_are_refused(tmp_path):
    write(tmp_path)
    for path in (tmp_path / "mask").iterdir():
        Image.new("L", (WIDTH, HEIGHT), 1).save(path)
    with pytest.raises(InputError, match="nothing of its photograph is left"):
        load_scene(tmp_path)


def test_an_archive_without_photographs_is_told_what_it_lacks(tmp_path):
    np.savez(tmp_path / "cameras_sphere.npz", **matrices())
    with pytest.raises(InputError, match="NeuS / IDR capture without its photographs"):
        load_scene(tmp_path)
    (tmp_path / "image").mkdir()
    with pytest.raises(InputError, match="no image"):
        load_scene(tmp_path)


@pytest.mark.parametrize("place", ["image", "mask"])
def test_files_outside_of_the_scene_are_not_read(tmp_path, place):
    scene = tmp_path / "scene"
    scene.mkdir()
    write(scene)
    (tmp_path / "secret.png").write_bytes((scene / "image" / "000000.png").read_bytes())
    name = "000000.png" if place == "image" else "000.png"
    (scene / place / name).unlink()
    (scene / place / name).symlink_to(tmp_path / "secret.png")
    with pytest.raises(InputError, match="leads out of it"):
        load_scene(scene)


def packed(path, entries, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(f"{name}.npy", data)


def array_bytes(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_compressed_archives_are_read_and_other_entries_never_are(tmp_path):
    write(tmp_path)
    entries = {name: array_bytes(matrix) for name, matrix in matrices().items()}
    path = tmp_path / "cameras_sphere.npz"
    packed(path, entries | {"camera_mat_0": b"no array"}, zipfile.ZIP_DEFLATED)
    assert len(load_scene(tmp_path).frame_names) == VIEWS
    packed(path, entries, zipfile.ZIP_LZMA)
    with pytest.raises(InputError, match="packed in a way"):
        load_scene(tmp_path)


def test_matrices_may_be_stored_column_by_column(tmp_path):
    expected = load_scene(write(tmp_path)).cameras.camera_to_world
    turned = {name: np.asfortranarray(matrix) for name, matrix in matrices().items()}
    packed(
        tmp_path / "cameras_sphere.npz",
        {name: array_bytes(matrix) for name, matrix in turned.items()},
        zipfile.ZIP_STORED,
    )
    assert torch.equal(load_scene(tmp_path).cameras.camera_to_world, expected)


def test_objects_are_never_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    array = np.empty((4, 4), dtype=object)
    array[:] = Trap()
    content = matrices() | {"world_mat_0": array}
    with pytest.raises(InputError, match="world_mat_0: object of shape"):
        load_scene(write(tmp_path, content))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("shape", ["(4, 40000000000)", "(100000, 100000)", "(4,)"])
def test_a_forged_shape_takes_no_memory(tmp_path, shape):
    write(tmp_path)
    entries = {name: array_bytes(matrix) for name, matrix in matrices().items()}
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    forged = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode()
    packed(tmp_path / "cameras_sphere.npz", entries | {"world_mat_1": forged + bytes(128)})
    with pytest.raises(InputError, match="world_mat_1: float64 of shape"):
        load_scene(tmp_path)


def test_what_unpacks_to_megabytes_is_read_to_its_first_bytes(tmp_path, monkeypatch):
    write(tmp_path)
    entries = {name: array_bytes(matrix) for name, matrix in matrices().items()}
    entries["world_mat_1"] = array_bytes(matrices()["world_mat_1"]) + bytes(1 << 24)
    packed(tmp_path / "cameras_sphere.npz", entries, zipfile.ZIP_DEFLATED)
    unpacked, whole = [], zipfile.ZipExtFile.read

    def read(file, n=-1):
        data = whole(file, n)
        unpacked.append(len(data))
        return data

    monkeypatch.setattr(zipfile.ZipExtFile, "read", read)
    load_scene(tmp_path)
    assert max(unpacked) <= 4096


def test_an_archive_of_a_million_entries_is_refused_at_once(tmp_path):
    write(tmp_path)
    with open(tmp_path / "cameras_sphere.npz", "ab") as file:
        file.truncate(1 << 40)
    begin = time.monotonic()
    with pytest.raises(InputError, match="1099511627776 bytes; expected at most 8,388,608"):
        load_scene(tmp_path)
    assert time.monotonic() - begin < 5


@settings(
    max_examples=150, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 7000), st.binary(min_size=1, max_size=8), st.integers(0, 8000))
def test_damaged_bytes_end_in_a_sentence(tmp_path, at, new, length):
    if not (tmp_path / "whole.npz").exists():
        write(tmp_path, masks=False)
        (tmp_path / "cameras_sphere.npz").rename(tmp_path / "whole.npz")
    data = bytearray((tmp_path / "whole.npz").read_bytes())
    data[at : at + len(new)] = new
    (tmp_path / "cameras_sphere.npz").write_bytes(data[: max(length, 1)] if length < 7000 else data)
    try:
        cameras = neus.read(tmp_path).cameras
    except InputError:
        return
    assert bool(cameras.camera_to_world.isfinite().all())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(width=64), min_size=16, max_size=16), st.sampled_from(["world", "scale"]))
def test_any_numbers_end_in_cameras_or_a_sentence(tmp_path_factory, numbers, kind):
    folder = tmp_path_factory.getbasetemp() / "any"
    if not folder.exists():
        folder.mkdir()
        write(folder, masks=False)
    content = matrices() | {f"{kind}_mat_0": np.array(numbers).reshape(4, 4)}
    np.savez(folder / "cameras_sphere.npz", **content)
    try:
        posed = neus.read(folder)
    except InputError:
        return
    for values in (posed.cameras.camera_to_world, posed.cameras.focal, posed.bounds.center):
        assert bool(values.isfinite().all())


def test_the_real_scissors_lie_within_their_sphere_and_masks():
    if not (DATA / "dtu_scan37_400").is_dir():
        pytest.skip("no dtu_scan37_400 among the real scenes ($POLYFIELD_DATA)")
    scene = load_scene(DATA / "dtu_scan37_400")
    assert (len(scene.frame_names), scene.sizes[0], len(scene.splits["test"])) == (
        49,
        (400, 300),
        7,
    )
    assert scene.cameras.focal[0].tolist() == pytest.approx([723.08, 720.79], abs=0.01)
    assert 1 / scene.to_field.scale == pytest.approx(2 * 256.048, rel=1e-4)  # millimetres
    # Every pixel of the object sees the sphere, so the rays of all views are true to one another.
    cameras = scene.cameras.transformed(scene.to_field)
    for frame in range(0, 49, 6):
        mask = np.asarray(Image.open(scene.masks[frame].path)) > 127
        rows, columns = torch.from_numpy(mask).nonzero().T
        pixels = torch.stack([columns, rows], 1) + 0.5
        origins, directions = cameras.rays(torch.full((len(rows),), frame), pixels.float())
        offset = 0.5 - origins
        closest = offset - (offset * directions).sum(1, keepdim=True) * directions
        assert float(closest.norm(dim=1).max()) < 0.5


@pytest.mark.parametrize("place", ["image", "mask"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "loop"])
def test_what_is_no_file_among_the_images_is_refused_by_name(tmp_path, place, kind):
    write(tmp_path)
    path = sorted((tmp_path / place).iterdir())[2]
    path.unlink()
    if kind == "loop":
        path.symlink_to(path.name)
    else:
        os.mkfifo(path) if kind == "pipe" else path.mkdir()
    with pytest.raises(InputError, match=f"{path.name}: is no file"):
        load_scene(tmp_path)


def test_an_archive_of_many_empty_entries_is_refused(tmp_path):
    write(tmp_path)
    with zipfile.ZipFile(tmp_path / "cameras_sphere.npz", "a") as archive:
        for index in range(66_000):
            archive.writestr(f"{index}", b"")
    with pytest.raises(InputError, match=r"\d+ entries|bytes; expected at most"):
        load_scene(tmp_path)
