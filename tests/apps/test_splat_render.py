"""Views of files of Gaussians: the same whatever the format, where the camera path says."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from splat_models import sample

from polyfield.apps.formats.splat_files import read_splats, write_splats
from polyfield.apps.render import Render, render
from polyfield.apps.shots import Wish
from polyfield.apps.splat_render import around, splat_band, splat_shots
from polyfield.cuda.errors import InputError
from polyfield.fields.gaussians import gaussians_at
from polyfield.fields.splats import Splats
from polyfield.render.cameras import ideal_cameras
from polyfield.render.metrics import psnr_8bit


def shell(n=600, seed=0, degree=2):
    """Flat Gaussians on a sphere of radius 2 about (1, -3, 2), coloured by where they are."""
    random = torch.Generator().manual_seed(seed)
    outward = torch.nn.functional.normalize(torch.randn(n, 3, generator=random), dim=1)
    points = 2 * outward + torch.tensor([1.0, -3, 2])
    splats = gaussians_at(points, 0.5 + 0.4 * outward, degree, 0.9)
    turns = torch.cat([1 + outward[:, 2:], -outward[:, 1:2], outward[:, :1], 0 * points[:, :1]], 1)
    turns = torch.nn.functional.normalize(turns + 1e-6, dim=1)
    thin = splats.log_scales.clone()
    thin[:, 2] -= 2
    harmonics = splats.harmonics.clone()
    harmonics[:, 1:] = 0.1 * torch.randn(n, (degree + 1) ** 2 - 1, 3, generator=random)
    return replace(splats, quaternions=turns, log_scales=thin, harmonics=harmonics)


def seen(splats, about, size=96):
    """Eight views from around another model, one below the other."""
    poses = around(about, "right-down-forward", 8, 40.0, (size, size))
    cameras = ideal_cameras(poses, "perspective", torch.full((8,), 40.0), size, size)
    return torch.cat([splat_band(splats, cameras, index).color for index in range(8)])


@pytest.fixture
def model(tmp_path):
    write_splats(shell(), tmp_path / "shell.ply")
    return tmp_path / "shell.ply"


@pytest.mark.parametrize(
    ("suffix", "least"),
    [(".ply", 45), (".glb", 45), (".compressed.ply", 35), (".spz", 35), (".splat", 35)],
)
def test_a_file_looks_as_what_it_was_written_from(tmp_path, suffix, least):
    original = shell(degree=0 if suffix == ".splat" else 2)
    write_splats(original, tmp_path / f"shell{suffix}")
    views = seen(original, original)
    assert 0.2 < (views.mean(2) < 0.9).float().mean() < 0.9
    written = read_splats(tmp_path / f"shell{suffix}")
    assert psnr_8bit(seen(written, original), views) > least


def test_two_programs_files_of_one_model_look_alike():
    one, other = (read_splats(sample(name)) for name in ("biker.compressed.ply", "biker.spz"))
    assert one.count == other.count
    assert psnr_8bit(seen(other, one, 128), seen(one, one, 128)) > 35


def test_a_camera_path_is_followed_in_the_file_s_own_world(model, tmp_path):
    """From (1, -3, -6) straight ahead, in nerfstudio's axes: y up and looking along -z."""
    pose = [[1, 0, 0, 1], [0, -1, 0, -3], [0, 0, -1, -6], [0, 0, 0, 1]]
    frame = {"camera_to_world": [x for row in pose for x in row], "fov": 40, "aspect": 4 / 3}
    path = {
        "camera_type": "perspective", "render_width": 80, "render_height": 60, "fps": 24,
        "camera_path": [frame],
    }  # fmt: skip
    (tmp_path / "path.json").write_text(json.dumps(path))
    result = render(Render(model, views=str(tmp_path / "path.json"), out=tmp_path / "images"))
    assert [Path(file).name for file in result.files] == [
        f"frame_00000{kind}.png" for kind in ("", ".opacity", ".depth", ".normal")
    ]
    color, opacity, depth, normal = (np.asarray(Image.open(file)) for file in result.files)
    assert color.shape == (60, 80, 3) and opacity[30, 40] > 250 and opacity[0, 0] == 0
    assert color[0, 0].tolist() == [255, 255, 255] and depth[0, 0] == 0
    # Thousandths: 8 to the middle, less 2, and some of what shines through from 4 behind it.
    assert 5950 < int(depth[30, 40]) < 7500
    # A disc of half the angle whose sine is 2 / 8.
    radius = 30 / math.tan(math.radians(20)) * math.tan(math.asin(2 / 8))
    # And as far beyond it as its Gaussians are wide.
    assert math.pi * radius**2 < (opacity > 127).sum() < 1.3 * math.pi * radius**2
    # Towards the camera, which is at -z.
    assert normal[30, 40].tolist() == pytest.approx([127, 127, 0], abs=40)


def test_seconds_say_how_fast_a_path_is_flown(model, tmp_path):
    pose = [1, 0, 0, 1, 0, -1, 0, -3, 0, 0, -1, -6, 0, 0, 0, 1]
    frame = {"camera_to_world": pose, "fov": 40, "aspect": 1}
    path = {"camera_type": "perspective", "render_width": 8, "render_height": 8, "fps": 24,
            "camera_path": [frame] * 6}  # fmt: skip
    (tmp_path / "path.json").write_text(json.dumps(path))
    views = str(tmp_path / "path.json")
    splats = read_splats(model)
    shots = [splat_shots(splats, "z-up", views, wish) for wish in (Wish(), Wish(seconds=2.0))]
    assert [each.fps for each in shots] == [24, 3]


def test_a_film_goes_once_around(model, tmp_path):
    result = render(Render(model, out=tmp_path / "round.webp", frames=5, size="64x48"))
    assert result.files == (str(tmp_path / "round.webp"),)
    film = Image.open(tmp_path / "round.webp")
    assert film.n_frames == 5 and film.size == (64, 48)


@pytest.mark.parametrize("world", ["right-down-forward", "z-up"])
def test_a_turntable_stands_upright_and_sees_all(world):
    splats = shell()
    shots = splat_shots(splats, world, "turntable", Wish(size=(60, 80), frames=6))
    up = torch.tensor([0.0, -1, 0] if world == "right-down-forward" else [0.0, 0, 1])
    down = shots.cameras.camera_to_world[:, :, 1]
    assert bool((down @ up < -0.9).all())
    whole = torch.arange(6).repeat_interleave(splats.count)
    pixels, depth = shots.cameras.project(whole, splats.means.repeat(6, 1))
    assert bool((depth > 0).all())
    inside = (pixels >= 0) & (pixels < torch.tensor([60.0, 80]))
    assert inside.all(1).float().mean() > 0.97
    assert pixels[:, 0].max() > 50  # and not from far away


def test_a_haze_far_away_moves_no_turntable():
    splats = shell()
    far = shell(seed=5)
    haze = Splats(
        50 * far.means, far.log_scales, far.quaternions, far.opacity_logits - 8, far.harmonics
    )
    both = Splats(*(
        torch.cat([getattr(splats, name), getattr(haze, name)])
        for name in ("means", "log_scales", "quaternions", "opacity_logits", "harmonics")
    ))  # fmt: skip
    poses = [around(each, "z-up", 4, 50.0, (10, 10)) for each in (splats, both)]
    assert (poses[0][..., 3] - poses[1][..., 3]).norm(dim=1).max() < 0.3


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"views": "test"}, "--views.*no photographs"),
        ({"lens": "equirectangular"}, "--lens equirectangular"),
        ({"samples_per_pixel": 4}, "--samples-per-pixel"),
        ({"split": "val"}, "--split"),
        ({"memory": 1.0}, "--memory"),
    ],
)
def test_what_only_a_run_has_is_refused(model, tmp_path, wish, message):
    with pytest.raises(InputError, match=message):
        render(Render(model, out=tmp_path / "x.mp4", **wish))
    assert not (tmp_path / "x.mp4").exists()
