"""What `render` shows and where it puts it, on a run whose field is an exact ball."""

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from PIL import Image

from polyfield.apps import render as render_module
from polyfield.apps import shots
from polyfield.apps.main import main
from polyfield.apps.render import Render, render
from polyfield.apps.scene import load_scene
from polyfield.apps.shots import Wish, file_shots, held_out_shots, length_of_film, result_names
from polyfield.cuda.errors import InputError

RADIUS = 0.8
# OpenGL axes: at (4, 0, 0), right is +y, up is +z, back is +x: it looks at the ball.
AT_4 = [0, 0, 1, 4, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1]


def path_file(folder, **changes):
    file = folder / "flight.json"
    frame = {"camera_to_world": AT_4, "fov": 60, "aspect": 1}
    document = {"render_width": 32, "render_height": 24, "seconds": 0.5, "fps": 4}
    file.write_text(json.dumps(document | {"camera_path": [frame, frame]} | changes))
    return str(file)


def picture(folder, name):
    return np.asarray(Image.open(folder / name)).astype(float)


def test_a_camera_path_shows_the_world_of_the_input(ball_run, tmp_path):
    result = render(
        Render(ball_run, path_file(tmp_path), tmp_path / "out", size="33x33", device="cpu")
    )
    assert len(result.files) == 8 and (tmp_path / "out" / "frame_00001.normal.png").is_file()
    color, depth, opacity, normal = (
        picture(tmp_path / "out", f"frame_00000{kind}.png")
        for kind in ("", ".depth", ".opacity", ".normal")
    )
    assert abs(depth[16, 16] - 3200) < 15 and opacity[16, 16] == 255 and opacity[0, 0] == 0
    assert normal[16, 16] == pytest.approx([255, 127.5, 127.5], abs=2)  # towards +x
    # The colour is 0.5 + 0.4 times the place on the ball: green grows with y, to the right.
    assert color[16, 16] / 255 == pytest.approx([0.9, 0.5, 0.5], abs=0.02)
    assert color[16, 20, 1] > color[16, 12, 1] + 50 and color[12, 16, 2] > color[20, 16, 2] + 50
    # A tangent to the ball is asin(0.8 / 4) off the axis.
    edge = 16.5 / math.tan(math.radians(30)) * math.tan(math.asin(RADIUS / 4))
    assert (opacity > 127).sum() == pytest.approx(math.pi * edge**2, rel=0.03)


def test_a_camera_path_s_own_size_and_rate_are_taken(ball_run, tmp_path):
    out = tmp_path / "flight.mp4"
    render(Render(ball_run, path_file(tmp_path), out, device="cpu"))
    about = imageio.immeta(out)
    assert (about["size"], about["fps"]) == ((32, 24), 4)
    render(Render(ball_run, path_file(tmp_path), out, seconds=0.25, device="cpu"))
    assert imageio.immeta(out)["fps"] == 8


@pytest.mark.parametrize("lens, degrees", [("perspective", 60), ("fisheye", 60), ("fisheye", 180)])
def test_a_lens_shows_its_angle_of_view(ball_run, tmp_path, lens, degrees):
    out, half = tmp_path / "out", math.degrees(math.asin(RADIUS / 4))
    file = path_file(tmp_path)
    options = {"lens": lens, "field_of_view": float(degrees), "size": "101x101"}
    render(Render(ball_run, file, out, device="cpu", **options))
    opacity = picture(out, "frame_00000.opacity.png")
    radius = math.sqrt((opacity > 127).sum() / math.pi)
    tangent = math.tan(math.radians(half)) / math.tan(math.radians(degrees / 2))
    expected = 50.5 * (tangent if lens == "perspective" else half / (degrees / 2))
    assert radius == pytest.approx(expected, rel=0.03)


def test_from_within_the_ball_a_sphere_of_view_meets_it_everywhere(ball_run, tmp_path):
    """At (0.4, 0, 0): 0.4 ahead along +x, 1.2 behind, sqrt(0.48) to the sides and poles."""
    inside = [*AT_4[:2], -1, 0.4, -1, *AT_4[5:]]  # turned about: it looks along +x
    file = path_file(tmp_path, camera_path=[{"camera_to_world": inside}])
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        hollow(patch)
        render(Render(ball_run, file, out, lens="equirectangular", size="32x16", device="cpu"))
    depth = picture(out, "frame_00000.depth.png")
    side = 1000 * math.sqrt(0.48)
    assert depth[7:9, 15:17] == pytest.approx(np.full((2, 2), 400.0), abs=20)
    assert depth[7:9, [0, 31]] == pytest.approx(np.full((2, 2), 1200.0), abs=20)
    assert depth[[0, 15]] == pytest.approx(np.full((2, 32), side), abs=80)
    assert depth[:, 0] == pytest.approx(depth[:, 31], abs=3)  # the seam


def hollow(patch):
    """Turns the ball inside out: nothing within, all without."""
    from polyfield.apps import render as module

    load = module.load_shown

    def turned(path, device):
        run = load(path, device)
        dense = run.field.density
        patch.setattr(run.field, "density", lambda x: (2000 - dense(x)[0], dense(x)[1]))
        return run

    patch.setattr(module, "load_shown", turned)


@pytest.mark.parametrize("views", ["interpolate", "turntable"])
def test_a_flight_shows_the_ball(ball_run, tmp_path, views):
    out = tmp_path / "film.webp"
    options = {"frames": 6, "fps": 10.0, "size": "24x24", "device": "cpu"}
    render(Render(ball_run, views, out, **options))
    frames = np.stack(list(imageio.imiter(out)))[..., :3]
    assert frames.shape == (6, 24, 24, 3)
    if views == "interpolate":  # its first and last are training views, between which lies the ball
        frames = frames[[0, -1]]
        assert np.abs(frames[0].astype(int) - frames[-1]).max() > 50
    assert (frames[:, 11:13, 11:13].min(3) < 235).all() and (frames[:, 0, 0] > 240).all()


def test_a_flight_through_held_out_views_ends_at_them(ball_run, tmp_path):
    """There is one: the film stands still there, and shows what `--views test` does."""
    render(Render(ball_run, "test", tmp_path / "views", device="cpu"))
    out = tmp_path / "film"
    render(Render(ball_run, "interpolate", out, split="test", frames=2, device="cpu"))
    for kind in ("", ".depth"):
        expected = picture(tmp_path / "views", f"r_1{kind}.png")
        for frame in range(2):
            found = picture(out, f"frame_0000{frame}{kind}.png")
            assert np.abs(found - expected).mean() < 1


def test_a_spiral_is_for_captures_that_face_forward(ball_run, tmp_path, capsys):
    assert main(["render", str(ball_run), "--views", "spiral", "--device", "cpu"]) == 2
    assert "spiral: the cameras look in all directions" in capsys.readouterr().err


def test_photographs_are_never_overwritten(ball_run, scene, tmp_path, capsys):
    before = sorted(path for path in scene.rglob("*"))
    link = tmp_path / "link"
    link.symlink_to(scene)
    for out in (scene / "test", scene / "new", scene / "film.mp4", link / "test", scene):
        for views in ("test", "turntable"):
            command = ["render", str(ball_run), "--views", views, "--out", str(out)]
            assert main([*command, "--device", "cpu", "--size", "8x8"]) == 2
            err = capsys.readouterr().err
            assert err.count("\n") == 1 and "--out" in err
    assert sorted(path for path in scene.rglob("*")) == before


def test_a_run_within_its_scene_may_be_rendered_into(ball_run, scene, tmp_path):
    """Who trained with --out SCENE/run renders into that run."""
    result = render(Render(ball_run, "test", size="8x8", scene=scene, device="cpu"))
    assert os.path.dirname(result.files[0]) == str(ball_run / "renders" / "test")
    inside = scene / "run"
    inside.mkdir()
    try:
        result = render(Render(inside, "test", size="8x8", device="cpu"))
        assert os.path.dirname(result.files[0]) == str(inside / "renders" / "test")
    finally:
        for path in sorted(inside.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        inside.rmdir()


@pytest.mark.parametrize(
    "options, message",
    [
        (["--views", "dance"], "--views: 'dance'; expected turntable, test, spiral, interpolate"),
        (["--views", "missing.json"], "missing.json: cannot be read"),
        (["--lens", "equirectangular", "--field-of-view", "90"], "--field-of-view: 90 degrees"),
        (["--lens", "perspective", "--field-of-view", "180"], "field of view of a perspective"),
        (["--field-of-view", "nan"], "field of view of a perspective lens: nan"),
        (["--views", "test", "--lens", "fisheye", "--field-of-view", "400"], "at most 360"),
        (["--frames", "3", "--seconds", "1", "--fps", "3"], "two of them, the third follows"),
        (["--seconds", "nan"], "--seconds: nan"),
        (["--seconds", "99999"], "2,999,970 frames; expected at most 100,000"),
        (["--views", "test", "--fps", "30"], "--fps: 30.0; expected it only with views"),
        (["--views", "interpolate", "--split", "val", "--frames", "1"], "--frames: 1"),
        (["--out", "film.avi"], "suffix '.avi'; expected a folder for images, or a film .mp4"),
    ],
)
def test_a_wish_that_makes_no_sense_is_one_sentence(
    ball_run, tmp_path, monkeypatch, capsys, options, message
):
    monkeypatch.chdir(tmp_path)
    assert main(["render", str(ball_run), "--device", "cpu", *options]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert os.listdir(tmp_path) == ["run"] and os.listdir(ball_run) == []


@pytest.fixture
def trained(ball_run):
    """What the commands load."""
    return render_module.load_shown(ball_run, torch.device("cpu"))


def height_over_focal(found):
    return found.cameras.height / found.cameras.focal[:, 1]


def test_another_lens_than_the_path_s_does_not_take_its_angle(trained, tmp_path):
    file = Path(path_file(tmp_path))  # 60 degrees, perspective
    own = file_shots(trained, file, Wish(lens="fisheye"))
    torch.testing.assert_close(height_over_focal(own), torch.full((2,), math.pi))
    wished = file_shots(trained, file, Wish(lens="fisheye", field_of_view=90.0))
    torch.testing.assert_close(height_over_focal(wished), torch.full((2,), math.pi / 2))
    fisheye = Path(path_file(tmp_path, camera_type="fisheye"))
    back = file_shots(trained, fisheye, Wish(lens="perspective"))  # as the photographs: 0.7
    torch.testing.assert_close(height_over_focal(back), torch.full((2,), 2 * math.tan(0.35)))


def test_a_sphere_of_no_said_size_is_twice_as_wide_as_a_photograph_is_high(trained, tmp_path):
    sizes = {"render_width": None, "render_height": None}
    file = Path(path_file(tmp_path, camera_type="equirectangular", **sizes))
    found = file_shots(trained, file, Wish())
    assert (int(found.cameras.width[0]), int(found.cameras.height[0])) == (80, 40)


def test_a_path_of_one_frame_has_a_rate_too(trained, tmp_path):
    frame = {"camera_to_world": AT_4, "fov": 60}
    file = Path(path_file(tmp_path, camera_path=[frame]))
    assert file_shots(trained, file, Wish(fps=12.0)).fps == 12.0


def test_a_wished_lens_keeps_what_held_out_views_show_from_top_to_bottom(
    trained, scene, monkeypatch
):
    found = load_scene(scene)
    low = replace(found.cameras, height=found.cameras.height // 2, center=found.cameras.center / 2)
    monkeypatch.setattr(shots, "scene_of", lambda *_: replace(found, cameras=low))
    made = held_out_shots(trained, scene, Wish(lens="perspective"))
    assert (int(made.cameras.width[0]), int(made.cameras.height[0])) == (40, 20)
    expected = 20 / low.focal[0, 1]
    torch.testing.assert_close(height_over_focal(made)[0], expected.float())


def test_a_wished_size_is_width_by_height(trained, scene):
    made = held_out_shots(trained, scene, Wish(size=(20, 10)))
    assert (int(made.cameras.width[0]), int(made.cameras.height[0])) == (20, 10)
    assert made.names == ("r_1",)


def test_a_spiral_looks_at_the_depth_of_what_it_sees(trained, monkeypatch):
    """At the ball, 3.2 ahead of cameras about (4, 0, 0), not at the emptiness around it."""
    orbit = trained.settings.orbit
    poses = torch.tensor([[0.0, 0, -1, 4], [1, 0, 0, 0], [0, -1, 0, 0]]).repeat(5, 1, 1)
    poses[:, 1, 3] = torch.linspace(-0.2, 0.2, 5)
    poses = trained.to_field.apply_to_cameras(poses)
    facing = replace(trained.settings, orbit=orbit | {"camera_to_world": poses.tolist()})
    asked = []
    monkeypatch.setattr(shots, "spiral", lambda p, n, focus: (asked.append(focus), p[:1])[1])
    shots.spiral_shots(replace(trained, settings=facing), Wish(size=(8, 8)))
    assert 3.2 < asked[0] / trained.to_field.scale < 3.5


def test_a_camera_path_with_frames_of_its_own_takes_no_number(ball_run, tmp_path):
    with pytest.raises(InputError, match="--frames: 5; expected no number"):
        render(Render(ball_run, path_file(tmp_path), frames=5, device="cpu"))


def test_cameras_beyond_all_bounds_see_nothing(ball_run, tmp_path):
    far = [*AT_4[:3], 9e8, *AT_4[4:]]
    file = path_file(tmp_path, camera_path=[{"camera_to_world": far}])
    render(Render(ball_run, file, tmp_path / "out", device="cpu"))
    assert picture(tmp_path / "out", "frame_00000.opacity.png").max() == 0


def test_names_whose_pictures_would_collide_are_numbered():
    assert result_names(["a", "b"]) == ("a", "b")
    for names in (["a", "a.depth"], ["a.normal", "b", "a"], ["x", "X"], ["a", "a.OPACITY"]):
        found = result_names(names)
        files = {f"{n}{kind}".lower() for n in found for kind in ("", ".depth", ".normal")}
        assert len(files) == 3 * len(names)
        assert all(new.endswith(old) for new, old in zip(found, names, strict=True))


def test_two_of_frames_seconds_and_rate_give_the_third():
    assert length_of_film(None, None, None, 3.0) == (90, 30.0)
    assert length_of_film(10, None, None, 3.0) == (10, 30.0)
    assert length_of_film(10, 5.0, None, 3.0) == (10, 2.0)
    assert length_of_film(None, 5.0, 10.0, 3.0) == (50, 10.0)
    assert length_of_film(None, None, 10.0, 3.0) == (30, 10.0)
    assert length_of_film(None, 1e-3, None, 3.0)[0] == 2
