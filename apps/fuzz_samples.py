"""Small sound files of every kind that polyfield reads, for hostile ones to be made of."""

from __future__ import annotations

import copy
import io
import json
import math
import struct
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from polyfield.apps import checkpoint
from polyfield.apps.formats.nerf_synthetic import write_nerf_synthetic
from polyfield.apps.formats.point_ply import Points, write_points
from polyfield.apps.fuzz_trees import Odd, Tree, read_tree, write_tree
from polyfield.apps.images import scene_images
from polyfield.apps.run_folder import RunFolder
from polyfield.apps.scene import load_scene
from polyfield.apps.schedule import Schedule
from polyfield.apps.settings import Settings, settings_of
from polyfield.apps.splat_task import SplatTask
from polyfield.apps.trained import build
from polyfield.apps.trained_splats import build_splats
from polyfield.fields.gaussians import GAUSSIANS, gaussians_at

WIDTH, HEIGHT, VIEWS = 24, 16, 9
_FOCAL = 30.0


def _poses(count: int = VIEWS) -> torch.Tensor:
    """Cameras on a circle of radius 4 that look at its middle; OpenCV's axes, float64."""
    turn = torch.arange(count).double() * (2 * math.pi / count)
    forward = -torch.stack([turn.cos(), turn.sin(), 0 * turn + 0.3], 1)
    forward = torch.nn.functional.normalize(forward, dim=1)
    up = torch.tensor([0.0, 0.0, 1.0]).double().expand(count, 3)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up), dim=1)
    return torch.stack([right, torch.linalg.cross(forward, right), forward, -4 * forward], 2)


def _pixels(seed: int, channels: int = 3, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A disc before a plain ground, with noise on it; of four channels the ground is clear."""
    y, x = np.mgrid[:height, :width]
    disc = np.hypot(x / width - 0.5, y / height - 0.5) < 0.3
    noise = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    color = np.where(disc[..., None], noise, 255).astype(np.uint8)
    return color if channels == 3 else np.dstack([color, np.uint8(255) * disc])


def _coded(pixels: np.ndarray, form: str, options: dict | None = None) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, form, **(options or {}))
    return out.getvalue()


def _mask(form: str = "PNG") -> bytes:
    return _coded(_pixels(0, 4)[..., 3], form)


def _depth(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 5000, (HEIGHT, WIDTH)).astype(np.uint16)
    return _coded(pixels, "PNG")


def synthetic_scene() -> Tree:
    """A folder of the form of NeRF-synthetic, with alpha and all three splits."""
    views = [(f"r_{i}", pose, torch.from_numpy(_pixels(i, 4))) for i, pose in enumerate(_poses(5))]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "scene"
        write_nerf_synthetic(
            folder, {"train": views[:3], "val": views[3:4], "test": views[4:]}, 0.7
        )
        return read_tree(folder)


def transforms_scene(camera_model: str = "OPENCV") -> Tree:
    """A transforms.json of nerfstudio's form, with all that may stand in one."""
    coefficients = {
        "OPENCV": {"k1": 0.01, "k2": 0.001, "p1": 1e-4, "p2": 1e-4},
        "OPENCV_FISHEYE": {"k1": 0.01, "k2": 0.001, "k3": 0.0, "k4": 0.0},
        "EQUIRECTANGULAR": {},
    }[camera_model]
    size = (2 * HEIGHT, HEIGHT) if camera_model == "EQUIRECTANGULAR" else (WIDTH, HEIGHT)
    flip = torch.tensor([1.0, -1.0, -1.0, 1.0])
    frames: list[dict[str, object]] = []
    tree: dict[str, bytes | Odd] = {}
    for index, pose in enumerate(_poses()):
        image, suffix = f"images/{index}", (".jpg", ".png", ".webp")[index % 3]
        form = {".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP"}[suffix]
        tree[image + suffix] = _coded(_pixels(index, 3, *size), form)
        frames.append(
            {
                "file_path": image + suffix,
                "transform_matrix": [*(pose * flip).tolist(), [0.0, 0.0, 0.0, 1.0]],
            }
        )
        if size[0] == WIDTH and index % 2:
            tree[f"depth/{index}.png"], tree[f"masks/{index}.png"] = _depth(index), _mask()
            frames[-1] |= {
                "depth_file_path": f"depth/{index}.png",
                "mask_path": f"masks/{index}.png",
                "fl_x": _FOCAL,
                "colmap_im_id": index,
            }
    names = [frame["file_path"] for frame in frames]
    document = {
        "camera_model": camera_model,
        "w": size[0], "h": size[1], "cx": size[0] / 2, "cy": size[1] / 2,
        **({} if camera_model == "EQUIRECTANGULAR" else {"fl_x": _FOCAL, "fl_y": _FOCAL}),
        **coefficients,
        "train_filenames": names[:6], "val_filenames": names[6:7], "test_filenames": names[7:],
        "ply_file_path": "sparse_pc.ply", "depth_unit_scale_factor": 0.001,
        "applied_transform": torch.eye(4)[:3].tolist(), "applied_scale": 1.0,
        "frames": frames,
    }  # fmt: skip
    tree["transforms.json"] = json.dumps(document).encode()
    tree["sparse_pc.ply"] = point_cloud()["points.ply"]
    return tree


def instant_ngp_scene() -> Tree:
    """A transforms.json of instant-ngp's form: angles, a box, names without suffix, masks."""
    tree = dict(transforms_scene())
    text = tree["transforms.json"]
    document = json.loads(text if isinstance(text, bytes) else b"")
    angle = 2 * math.atan(WIDTH / 2 / _FOCAL)
    frames = [{k: f[k] for k in ("file_path", "transform_matrix")} for f in document["frames"]]
    whole = {"camera_angle_x": angle, "aabb_scale": 4, "scale": 0.33, "offset": [0.5] * 3}
    tree["transforms.json"] = json.dumps(whole | {"frames": frames}).encode()
    tree["images/dynamic_mask_2.png"] = _mask()
    tree["images/3_mask.png"] = _mask()
    return tree


def colmap_scene(suffix: str) -> Tree:
    """A sparse model with two cameras, observations, points, masks and smaller copies."""
    cameras: list[tuple] = [(1, 4, "OPENCV", (_FOCAL, _FOCAL, 12.0, 8.0, 0.01, 0.0, 0.0, 0.0))]
    cameras.append((2, 1, "PINHOLE", (_FOCAL, _FOCAL, 12.0, 8.0)))
    rows = []
    for index, pose in enumerate(_poses()):
        turn = pose[:, :3].T  # from the world to the camera
        w = float((1 + turn.trace()).clamp(min=1e-9).sqrt()) / 2
        off = (turn - turn.T) / (4 * w)
        quaternion = [w, float(off[2, 1]), float(off[0, 2]), float(off[1, 0])]
        norm = math.hypot(*quaternion)
        shift = (-turn @ pose[:, 3]).tolist()
        rows.append(([q / norm for q in quaternion], shift, 1 + index % 2, f"a/{index}.jpg"))
    points = np.random.default_rng(0).normal(size=(12, 3)).tolist()
    binary = suffix == ".bin"
    tree = _binary_model(cameras, rows, points) if binary else _text_model(cameras, rows, points)
    for index in range(VIEWS):
        photograph = _coded(_pixels(index), "JPEG")
        tree[f"images/a/{index}.jpg"] = photograph
        tree[f"masks/a/{index}.jpg.png"] = _mask()
    return tree


def _binary_model(cameras: list, rows: list, points: list) -> dict[str, bytes]:
    a, b = struct.pack("<Q", len(cameras)), struct.pack("<Q", len(rows))
    for number, model, _, values in cameras:
        a += struct.pack(f"<iiQQ{len(values)}d", number, model, WIDTH, HEIGHT, *values)
    for number, (quaternion, shift, camera, name) in enumerate(rows):
        b += struct.pack("<i7di", number, *quaternion, *shift, camera) + name.encode() + b"\0"
        b += struct.pack("<Q", 2) + struct.pack("<ddq", 1.0, 2.0, -1) * 2
    c = struct.pack("<Q", len(points))
    for number, point in enumerate(points):
        c += struct.pack("<Q3d3BdQ", number, *point, 9, 8, 7, 0.5, 1) + struct.pack("<ii", 1, 2)
    names = ("cameras", "images", "points3D")
    return {f"sparse/0/{name}.bin": data for name, data in zip(names, (a, b, c), strict=True)}


def _text_model(cameras: list, rows: list, points: list) -> dict[str, bytes]:
    a, b, c = ["# cameras"], ["# images"], ["# points"]
    for number, _, model, values in cameras:
        a.append(" ".join(map(str, (number, model, WIDTH, HEIGHT, *values))))
    for number, (quaternion, shift, camera, name) in enumerate(rows):
        b.append(" ".join(map(str, (number, *quaternion, *shift, camera, name))))
        b.append("1.0 2.0 -1 3.0 4.0 1")
    for number, point in enumerate(points):
        c.append(" ".join(map(str, (number, *point, 9, 8, 7, 0.5, 1, 2))))
    names = ("cameras", "images", "points3D")
    return {
        f"sparse/0/{name}.txt": ("\n".join(lines) + "\n").encode()
        for name, lines in zip(names, (a, b, c), strict=True)
    }


def llff_scene() -> Tree:
    """A poses_bounds.npy with photographs and smaller copies of them."""
    rows = []
    for pose in _poses():
        right, down, forward, position = pose.T
        columns = torch.stack(
            [down, right, -forward, position, torch.tensor([HEIGHT, WIDTH, _FOCAL]).double()], 1
        )
        rows.append([*columns.flatten().tolist(), 2.0, 6.0])
    out = io.BytesIO()
    np.save(out, np.array(rows))
    tree = {f"images/{i}.jpg": _coded(_pixels(i), "JPEG") for i in range(VIEWS)}
    half = {
        f"images_2/{i}.png": _coded(_pixels(i, 3, WIDTH // 2, HEIGHT // 2), "PNG")
        for i in range(VIEWS)
    }
    return {"poses_bounds.npy": out.getvalue()} | tree | half


def neus_scene() -> Tree:
    """A cameras_sphere.npz with photographs and the masks of an object."""
    matrix = torch.tensor([[_FOCAL, 0, 11.5], [0, _FOCAL, 7.5], [0, 0, 1.0]]).double()
    entries, tree = {}, {}
    for index, pose in enumerate(_poses()):
        turn = pose[:, :3].T
        world = torch.eye(4).double()
        world[:3] = matrix @ torch.cat([turn, -turn @ pose[:, 3:]], 1)
        entries[f"world_mat_{index}"] = world.numpy()
        entries[f"scale_mat_{index}"] = np.diag([1.5, 1.5, 1.5, 1.0])
        tree[f"image/{index:03}.png"] = _coded(_pixels(index), "PNG")
        tree[f"mask/{index:03}.png"] = _mask()
    out = io.BytesIO()
    np.savez(out, allow_pickle=False, **entries)
    return {"cameras_sphere.npz": out.getvalue()} | tree


def images() -> list[Tree]:
    """One image of each form and kind that is read."""
    rgb, rgba = _pixels(1, 3, 64, 48), _pixels(1, 4, 64, 48)
    turned = Image.Exif()
    turned[0x0112] = 6
    made = {
        "a.png": _coded(rgb, "PNG"),
        "b.png": _coded(rgba, "PNG"),
        "c.png": _coded((rgb[..., 0].astype(np.uint16) * 257), "PNG"),
        "d.png": _coded(rgb[..., 0], "PNG"),
        "a.jpg": _coded(rgb, "JPEG", {"exif": turned}),
        "b.jpg": _coded(rgb, "JPEG", {"progressive": True}),
        "c.jpg": _coded(rgb[..., 0], "JPEG"),
        "a.webp": _coded(rgb, "WEBP"),
        "b.webp": _coded(rgba, "WEBP", {"lossless": True}),
        "a.bmp": _coded(rgb, "BMP"),
        "a.tif": _coded(rgb, "TIFF"),
        "b.tif": _coded(rgb, "TIFF", {"compression": "tiff_lzw"}),
    }
    return [{name: content} for name, content in made.items()]


def depth_image() -> Tree:
    """One depth image."""
    return {"depth.png": _depth(3)}


def point_cloud(text: bool = False) -> Tree:
    """A PLY of points with colours, binary or text."""
    random = np.random.default_rng(2)
    position, color = random.normal(size=(20, 3)), random.integers(0, 255, (20, 3), np.uint8)
    if text:
        lines = ["ply", "format ascii 1.0", "element vertex 20"]
        lines += [f"property float {axis}" for axis in "xyz"]
        lines += [f"property uchar {name}" for name in ("red", "green", "blue")]
        rows = [" ".join(map(str, (*p, *c))) for p, c in zip(position, color, strict=True)]
        return {"points.ply": ("\n".join([*lines, "end_header", *rows]) + "\n").encode()}
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "points.ply"
        write_points(path, Points(torch.from_numpy(position), torch.from_numpy(color)))
        return {"points.ply": path.read_bytes()}


def camera_path() -> Tree:
    """A camera path of nerfstudio's form."""
    flip = torch.tensor([1.0, -1.0, -1.0, 1.0])
    frames = [
        {"camera_to_world": [*(pose * flip).flatten().tolist(), 0.0, 0.0, 0.0, 1.0], "fov": 50.0}
        for pose in _poses(4)
    ]
    document = {
        "camera_type": "perspective", "render_width": 32, "render_height": 24.0, "fps": 24,
        "seconds": 2.0, "default_fov": 60, "camera_path": copy.deepcopy(frames),
    }  # fmt: skip
    return {"path.json": json.dumps(document).encode()}


def run_folder() -> Tree:
    """A run of a small field that has not learned anything, with records."""
    with tempfile.TemporaryDirectory() as place:
        write_tree(Path(place) / "scene", synthetic_scene())
        arguments = {"levels": 2, "features": 2, "log2_table_size": 6, "hidden": 16,
                     "finest_resolution": 32}  # fmt: skip
        scene = load_scene(Path(place) / "scene")
        settings = replace(
            settings_of(scene, "hash-grid", arguments, 0, 1024, 1 << 20), grid_resolution=32
        )
        trained = build(settings, torch.device("cpu"))
        tensors = {f"field.{name}": value for name, value in trained.field.state_dict().items()}
        tensors |= {"grid.values": trained.grid.values, "grid.bits": trained.grid.bits}
        return _run_tree(Path(place) / "run", settings, tensors, {"rays": 256})


def gaussians_run_folder() -> Tree:
    """A run of a few Gaussians, with exposures and corrections of poses, before its first step."""
    with tempfile.TemporaryDirectory() as place:
        write_tree(Path(place) / "scene", synthetic_scene())
        scene = load_scene(Path(place) / "scene")
        views = len(scene.splits["train"])
        arguments = {"splats": 20, "degree": 1}
        settings = replace(
            settings_of(scene, GAUSSIANS, arguments, 0, 64, 1 << 20), exposures=views, poses=views
        )
        random = torch.Generator().manual_seed(0)
        points, colors = torch.rand(2, 12, 3, generator=random)
        trained = build_splats(settings, gaussians_at(points, colors, 1), torch.device("cpu"))
        images = scene_images(scene, 1 << 20)
        tensors, values = SplatTask(trained, scene, images, torch.device("cpu")).state()
        return _run_tree(Path(place) / "run", settings, tensors, values)


def _run_tree(
    place: Path, settings: Settings, tensors: dict[str, torch.Tensor], task: dict
) -> Tree:
    """A run with one checkpoint and some records."""
    config = {"settings": asdict(settings), "schedule": asdict(Schedule(100))}
    with RunFolder.create(place, config) as run:
        metadata = {"step": 1, "rewinds": 0, **config, "task": task}
        checkpoint.write(checkpoint.step_path(run.checkpoints, 1), tensors, metadata)
        for step in range(5):
            run.append({"step": step, "seconds": 0.1 * step, "loss": 0.5, "psnr": 20.0})
    tree = read_tree(place)
    return {name: content for name, content in tree.items() if name != ".lock"}


def perceptual_weights(old: bool) -> Tree:
    """The two files of LPIPS in torch's older or newer form, each tensor of one number alone."""
    vgg16: dict[str, torch.Tensor] = {}
    inputs = 3
    widths = {0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256, 17: 512, 19: 512, 21: 512,
              24: 512, 26: 512, 28: 512}  # fmt: skip
    for layer, outputs in widths.items():
        vgg16[f"features.{layer}.weight"] = torch.zeros(1).expand(outputs, inputs, 3, 3)
        vgg16[f"features.{layer}.bias"] = torch.zeros(1).expand(outputs)
        inputs = outputs
    linear = {
        f"lin{block}.model.1.weight": torch.ones(1).expand(1, width, 1, 1)
        for block, width in enumerate((64, 128, 256, 512, 512))
    }
    return {"vgg16.pth": _saved(vgg16, old), "linear.pth": _saved(linear, old)}


def _saved(tensors: dict[str, torch.Tensor], old: bool) -> bytes:
    out = io.BytesIO()
    torch.save(tensors, out, _use_new_zipfile_serialization=not old)
    return out.getvalue()


SCENES: dict[str, tuple[Callable[[], list[Tree]], tuple[str, ...]]] = {
    "nerf-synthetic": (
        lambda: [synthetic_scene()],
        ("transforms_train.json", "transforms_test.json", "transforms_val.json"),
    ),
    "transforms": (
        lambda: [
            *map(transforms_scene, ("OPENCV", "OPENCV_FISHEYE", "EQUIRECTANGULAR")),
            instant_ngp_scene(),
        ],
        ("transforms.json",) * 3 + ("sparse_pc.ply", "depth/1.png", "masks/1.png"),
    ),
    "colmap-binary": (
        lambda: [colmap_scene(".bin")],
        tuple(f"sparse/0/{kind}.bin" for kind in ("cameras", "images", "points3D")),
    ),
    "colmap-text": (
        lambda: [colmap_scene(".txt")],
        tuple(f"sparse/0/{kind}.txt" for kind in ("cameras", "images", "points3D")),
    ),
    "llff": (lambda: [llff_scene()], ("poses_bounds.npy",)),
    "neus": (lambda: [neus_scene()], ("cameras_sphere.npz",)),
    "masks": (
        lambda: [neus_scene(), instant_ngp_scene(), colmap_scene(".bin"), transforms_scene()],
        ("mask/000.png", "images/dynamic_mask_2.png", "images/3_mask.png", "masks/a/1.jpg.png",
         "masks/1.png"),
    ),
}  # fmt: skip
"""Samples of each kind of scene, and the files of it that matter most."""
