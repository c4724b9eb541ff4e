"""A synthetic capture of many large photographs, which `polyfield bench photos` trains on."""

from __future__ import annotations

import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageChops
from torch import Tensor
from torch.nn.functional import normalize

from polyfield.apps.demo_scene import looking_at
from polyfield.apps.torch_threads import torch_threads
from polyfield.cuda.errors import InputError

BALL, ROOM, CAMERAS = 0.8, 4.0, 2.2  # radii about the origin
FOCAL = 0.9  # of the photographs' width
DETAIL = 4  # the scene is computed at this part of the photographs' sides
GRAIN = 4.0  # standard deviation, of 255
QUALITY = 92  # of JPEG: some 0.25 bytes a pixel with this grain
_SHIFTS = 64  # pixels by which the grain of one photograph differs from another's


def write_capture(folder: Path, images: int, megapixels: float) -> None:
    """Write `images` photographs of about so many million pixels, 4:3, and their transforms.json.

    A striped and checkered ball in a painted spherical room, seen from all around: closed forms,
    the same from every view. Each is computed at a quarter of its sides, enlarged, and given grain,
    so that its file is as large as a camera's and takes as long to decode; every file is one of its
    own. Raises InputError for fewer than 8 images or sizes that are none.
    """
    if images < 8 or not 0.001 <= megapixels <= 60:
        got = f"{images} of {megapixels:g} million pixels"
        raise InputError("capture", got, "at least 8 photographs of 0.001 to 60 million pixels")
    width = max(2, round(math.sqrt(megapixels * 1e6 * 4 / 3) / 16)) * 16
    height = width * 3 // 4
    (folder / "images").mkdir(parents=True)
    poses = capture_poses(images)
    random = np.random.default_rng(0)
    noise = 128 + GRAIN * random.standard_normal(
        (height + _SHIFTS, width + _SHIFTS, 1), dtype=np.float32
    )
    grain = Image.fromarray(noise.round().astype(np.uint8).repeat(3, 2))
    names = [f"images/{index:05d}.jpg" for index in range(images)]

    def write(index: int) -> None:
        small = (width // DETAIL, height // DETAIL)
        drawn = (capture_view(poses[index], small) * 255).round().to(torch.uint8)
        picture = Image.fromarray(drawn.numpy()).resize((width, height), Image.Resampling.BICUBIC)
        left, top = index % _SHIFTS, index // _SHIFTS % _SHIFTS
        shifted = grain.crop((left, top, left + width, top + height))
        ImageChops.add(picture, shifted, 1, -128).save(
            folder / names[index], "JPEG", quality=QUALITY
        )

    with torch_threads(1), ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        list(pool.map(write, range(images)))  # raises what a thread raised
    opengl = torch.eye(4, dtype=torch.float64).repeat(images, 1, 1)
    opengl[:, :3] = poses
    opengl[:, :3, 1:3] *= -1
    document = {
        "w": width,
        "h": height,
        "fl_x": FOCAL * width,
        "fl_y": FOCAL * width,
        "cx": width / 2,
        "cy": height / 2,
        "frames": [
            {"file_path": name, "transform_matrix": matrix}
            for name, matrix in zip(names, opengl.tolist(), strict=True)
        ],
    }
    (folder / "transforms.json").write_text(json.dumps(document))


def capture_poses(count: int) -> Float[Tensor, "count 3 4"]:
    """Cameras on a spiral around the ball, OpenCV axes, looking at its middle."""
    height = torch.linspace(-0.6, 0.8, count, dtype=torch.float64)
    turn = torch.arange(count) * (math.pi * (3 - math.sqrt(5)))
    level = (1 - height.square()).sqrt()
    outward = torch.stack([level * turn.cos(), level * turn.sin(), height], 1)
    return looking_at(CAMERAS * outward, torch.zeros(3, dtype=torch.float64))


def capture_view(
    pose: Float[Tensor, "3 4"], size: tuple[int, int]
) -> Float[Tensor, "height width 3"]:
    """The exact colours through the centres of the pixels of one view, sRGB in [0, 1]."""
    width, height = size
    x = (torch.arange(width) + 0.5 - width / 2) / (FOCAL * width)
    y = (torch.arange(height) + 0.5 - height / 2) / (FOCAL * width)
    rotation, origin = pose[:, :3].float(), pose[:, 3].float()
    y, x = torch.meshgrid(y, x, indexing="ij")
    rays = normalize(torch.stack([x, y, torch.ones_like(x)], 2) @ rotation.T, dim=2)
    along = rays @ origin
    root = along.square() - origin.dot(origin) + BALL**2
    ball = root > 0
    far = -along + (along.square() - origin.dot(origin) + ROOM**2).sqrt()
    distance = torch.where(ball, -along - root.clamp(min=0).sqrt(), far)
    points = origin + distance[..., None] * rays
    return torch.where(ball[..., None], _ball_paint(points / BALL), _room_paint(points / ROOM))


def _ball_paint(way: Float[Tensor, "*rays 3"]) -> Float[Tensor, "*rays 3"]:
    stripes = torch.sin(way[..., 2:] * 12)
    squares = torch.sin(torch.atan2(way[..., 1], way[..., 0]) * 8)[..., None]
    soft = 0.5 + 0.45 * torch.tanh(4 * stripes * squares)
    return soft * torch.tensor([0.95, 0.75, 0.2]) + (1 - soft) * torch.tensor([0.75, 0.3, 0.1])


def _room_paint(way: Float[Tensor, "*rays 3"]) -> Float[Tensor, "*rays 3"]:
    height = way[..., 2:]
    sky, ground = torch.tensor([0.35, 0.6, 0.85]), torch.tensor([0.15, 0.3, 0.15])
    waves = torch.sin(way * 9 + way.roll(1, -1) * 5)
    return ground + (sky - ground) * (0.5 + 0.5 * torch.tanh(3 * height)) + 0.06 * waves
