"""The commands as a user meets them: exit codes, sentences, memory, what is left on the disk."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
from PIL import Image

from polyfield.apps import checkpoint
from polyfield.apps.main import main


def edited(scene, change):
    """Change the JSON of the training frames."""
    path = scene / "transforms_train.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def frame(scene, change):
    edited(scene, lambda document: change(document["frames"][5]))


def scaled(frame):
    for row in frame["transform_matrix"][:3]:
        row[0] *= 2


def mirrored(frame):
    for row in frame["transform_matrix"][:3]:
        row[0] *= -1


def without_poses(scene):
    for path in scene.glob("*.json"):
        path.unlink()


def cut_off(scene):
    path = scene / "train" / "r_7.png"
    path.write_bytes(path.read_bytes()[:-20])


def outside(frame):
    frame["file_path"] = "../elsewhere.png"


FAULTS = {
    "missing image": (
        lambda scene: (scene / "train" / "r_7.png").unlink(),
        r"transforms_train.json: frames\[5\].file_path: './train/r_7' does not exist",
    ),
    "truncated PNG": (cut_off, r"r_7.png: PNG without its end"),
    "NaN pose": (
        lambda s: frame(s, lambda f: f["transform_matrix"][1].__setitem__(3, float("nan"))),
        r"frames\[5\].transform_matrix\[1\]\[3\]: NaN",
    ),
    "pose that scales": (
        lambda s: frame(s, scaled),
        r"frames\[5\].transform_matrix: rotation is off orthonormal by 3; expected at most 0.001",
    ),
    "pose that mirrors": (lambda s: frame(s, mirrored), r"frames\[5\].transform_matrix: .*mirrors"),
    "focal length of zero": (
        lambda s: edited(s, lambda d: d.update(fl_x=0)),
        r"transforms_train.json: fl_x: 0; expected a focal length",
    ),
    "negative focal length": (
        lambda s: frame(s, lambda f: f.update(fl_x=-50.0)),
        r"frames\[5\].fl_x: -50.0; expected a focal length",
    ),
    "another size": (
        lambda s: edited(s, lambda d: d.update(w=40, h=80)),
        r"frames\[0\].file_path: 40x40 pixels where w, h say 40x80",
    ),
    "zero frames": (
        lambda s: edited(s, lambda d: d.update(frames=[])),
        r"transforms_train.json: frames: no frame",
    ),
    "path out of the folder": (lambda s: frame(s, outside), r"frames\[5\].file_path: .*leads out"),
    "unknown camera model": (
        lambda s: edited(s, lambda d: d.update(camera_model="SPLINE")),
        r'camera_model: "SPLINE"; expected one of OPENCV',
    ),
    "no poses": (without_poses, r"photographs without poses .*ns-process-data"),
}


def listing(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_input_is_one_sentence_and_nothing_written(scene, fault, tmp_path, capsys):
    bad, run = tmp_path / "bad", tmp_path / "run"
    shutil.copytree(scene, bad)
    Image.new("RGBA", (40, 40)).save(tmp_path / "elsewhere.png")
    change, sentence = FAULTS[fault]
    change(bad)
    before = listing(tmp_path)
    assert main(["train", str(bad), "--steps", "1", "--out", str(run)]) == 2
    out, err = capsys.readouterr()
    assert re.search(sentence, err) and err.startswith("polyfield: ") and err.count("\n") == 1
    assert out == "" and listing(tmp_path) == before


def test_a_fault_in_the_pixels_keeps_the_last_checkpoint(scene, tmp_path, capsys):
    bad, run = tmp_path / "bad", tmp_path / "run"
    shutil.copytree(scene, bad)
    path = bad / "train" / "r_7.png"
    whole = path.read_bytes()
    middle = whole.index(b"IDAT") + 20
    path.write_bytes(whole[:middle] + bytes(40) + whole[middle + 40 :])
    command = ["train", str(bad), "--steps", "3", "--out", str(run), "--no-report"]
    assert main(command) == 2
    err = capsys.readouterr().err
    assert "r_7.png: its pixels do not decode" in err and err.count("\n") == 1
    assert checkpoint.latest(run / "checkpoints").step == 0
    path.write_bytes(whole)
    assert main([*command, "--resume"]) == 0
    assert checkpoint.latest(run / "checkpoints").step == 3


PROBE = """
import sys
from polyfield.apps.main import main
from polyfield.apps.memory import peak_resident_bytes
code = main(sys.argv[1:])
print(peak_resident_bytes())
sys.exit(code)
"""


def run_apart(*arguments):
    """A command in a process of its own, and the most memory it held."""
    command = [sys.executable, "-c", PROBE, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    return done, int(done.stdout.split()[-1])


@pytest.fixture(scope="module")
def run(scene, tmp_path_factory):
    """A run with its report, made within memory that a free choice of sizes would exceed."""
    out = tmp_path_factory.mktemp("runs") / "ball"
    done, peak = run_apart(
        "train", scene, "--steps", 200, "--memory", 0.62, "--out", out, "--json", out.with_name("j")
    )
    assert done.returncode == 0, done.stderr
    return out, done, peak, json.loads(out.with_name("j").read_text())


def test_a_whole_run_stays_within_its_memory(run):
    out, done, peak, result = run
    assert peak < 0.62e9
    sizes = json.loads((out / "config.json").read_text())["settings"]
    assert sizes["samples_per_step"] < 1 << 14


def test_memory_that_cannot_suffice_is_refused_with_what_is_needed(scene, tmp_path, capsys):
    command = ["train", str(scene), "--steps", "1", "--out", str(tmp_path / "run")]
    assert main([*command, "--memory", "0.3"]) == 2
    err = capsys.readouterr().err
    need = re.search(r"--memory: 0.3 GB; expected at least (\d.\d\d) GB", err)
    assert err.count("\n") == 1 and not (tmp_path / "run").exists()
    assert main([*command, "--memory", need[1], "--no-report"]) == 0


def test_what_a_run_will_do_is_said_before_it_does_it(run):
    out, done, peak, result = run
    lines = done.stdout.splitlines()
    plan = next(line for line in lines if line.startswith("plan: hash-grid"))
    for part in ("log2_table_size", "parameters", "samples a step", "GB of 0.62 GB", "200 steps"):
        assert part in plan
    assert "\r" not in done.stdout and "\x1b" not in done.stdout  # no live line in a file
    assert f"open {out / 'report.html'}" in done.stdout


def test_the_result_goes_to_a_machine_too(run, tmp_path, capsys):
    out, done, peak, result = run
    assert result["steps"] == 200 and result["test_psnr"] > 15
    assert result["report"] == str(out / "report.html")
    for name, *options in (
        ("eval",),
        ("render", "--frames", "2", "--size", "16x16", "--out", str(tmp_path / "turn.mp4")),
        ("export", "--resolution", "48", "--out", str(tmp_path / "ball.obj")),
    ):
        path = tmp_path / f"{name}.json"
        assert main([name, str(out), *options, "--json", str(path)]) == 0
        assert isinstance(json.loads(path.read_text()), dict)
    result = json.loads((tmp_path / "eval.json").read_text())
    assert set(result["images"]["r_1"]) == {"psnr", "constant_psnr", "ssim", "share"}
    assert result["psnr"] == pytest.approx(result["images"]["r_1"]["psnr"])
    assert result["protocol"]["background"] == [1.0, 1.0, 1.0]
    assert result["protocol"] | {"split": "test", "resolution": ["40x40"]} == result["protocol"]
    assert "8 bits" in result["protocol"]["rounding"]


def test_a_training_report_holds_curves_views_and_the_orbit(run):
    page = (run[0] / "report.html").read_text()
    assert 'data-frames="72"' in page and "r_1" in page and "rendering a held-out view" in page
    assert "Loss by step" in page and "PSNR by step" in page
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)


def test_a_film_opens_and_shows_the_ball_on_white(run, tmp_path):
    for name in ("turn.mp4", "turn.webp"):
        out = tmp_path / name
        options = ["--frames", "3", "--size", "48x40", "--out", str(out)]
        assert main(["render", str(run[0]), *options]) == 0
        frames = np.stack(list(imageio.imiter(out)))[..., :3]  # WebP is read with alpha
        assert frames.shape == (3, 40, 48, 3)
        assert (frames[:, :3, :3] > 240).all()  # the corner
        assert (frames[:, 18:22, 22:26].min(3) < 220).all()  # the middle


def test_normals_of_a_test_view_face_the_camera_in_the_frame_of_the_input(run, scene, tmp_path):
    assert main(["render", str(run[0]), "--views", "test", "--out", str(tmp_path / "views")]) == 0
    normal = np.asarray(Image.open(tmp_path / "views" / "r_1.normal.png")).astype(float)
    pose = json.loads((scene / "transforms_test.json").read_text())["frames"][0]["transform_matrix"]
    towards_camera = np.array(pose)[:3, 2]
    middle = (normal[16:24, 16:24].mean((0, 1)) / 255 - 0.5) * 2
    assert middle @ towards_camera > 0.8 * np.linalg.norm(middle) > 0.1
    assert (np.abs(normal[0, 0] - 127.5) < 1).all()  # nothing there


def test_a_render_of_any_size_needs_no_more_memory(run, tmp_path):
    peaks = []
    for size in ("60x60", "250x250"):
        done, peak = run_apart(
            *("render", run[0], "--views", "test", "--size", size, "--memory", 0.01),
            *("--samples-per-pixel", 1, "--out", tmp_path / size),
        )
        assert done.returncode == 0, done.stderr
        peaks.append(peak)
    assert Image.open(tmp_path / "250x250" / "r_1.normal.png").size == (250, 250)
    assert peaks[1] - peaks[0] < 16e6  # the 10 MB asked for, and the images on their way to files


def test_what_cannot_be_rendered_is_refused_before_anything_is_written(run, tmp_path, capsys):
    for options in (
        ["--views", "test", "--out", str(tmp_path / "a.mp4")],
        ["--out", str(tmp_path / "film.avi")],
        ["--size", "12by3", "--out", str(tmp_path / "a.mp4")],
        ["--size", "0x3", "--out", str(tmp_path / "a.mp4")],
        ["--frames", "1", "--out", str(tmp_path / "new" / "a.mp4")],
        ["--frames", str(10**9), "--out", str(tmp_path / "new" / "a.mp4")],
        ["--samples-per-pixel", str(10**9), "--out", str(tmp_path / "a.mp4")],
        ["--views", "test", "--samples-per-pixel", "0", "--out", str(tmp_path / "views")],
        ["--views", "test", "--out", "x" * 300 + ".mp4"],
        ["--memory", "1e300", "--out", str(tmp_path / "a.mp4")],
        ["--samples-per-pixel", "0", "--out", str(tmp_path / "a.mp4")],
        ["--fps", "0", "--out", str(tmp_path / "a.mp4")],
        ["--memory", "0", "--out", str(tmp_path / "a.mp4")],
        ["--device", "cuda:77", "--out", str(tmp_path / "a.mp4")],
        ["--device", "teapot", "--out", str(tmp_path / "a.mp4")],
    ):
        assert main(["render", str(run[0]), *options]) == 2, options
        assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_writes_a_checkpoint_and_says_how_to_go_on(scene, tmp_path, capsys):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "polyfield.apps.main", "train", str(scene)]
    command += ["--steps", "1000000", "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        first = out / "checkpoints" / "step_00000000.safetensors"
        deadline = time.monotonic() + 120
        while not first.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        # Meanwhile nobody else may write there.
        for options in ([str(scene), "--steps", "1"], ["--resume"]):
            assert main(["train", *options, "--out", str(out)]) == 2
            assert f"in use by another process (number {process.pid})" in capsys.readouterr().err
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, stderr
    found = re.fullmatch(
        r"polyfield: interrupted; the checkpoint of step (\d+) of 1000000 is written. "
        rf"Go on with: polyfield train --out {out} --resume\n",
        stderr,
    )
    assert checkpoint.latest(out / "checkpoints").step == int(found[1]) >= 1


def test_an_export_as_something_else_is_refused_by_name(run, tmp_path, capsys):
    out = tmp_path / "ball.ply"
    assert main(["export", str(run[0]), "--out", str(out), "--as", "splats"]) == 2
    assert "--as splats" in capsys.readouterr().err and not out.exists()


def test_cameras_are_exported_as_the_user_gave_them(run, scene, tmp_path):
    out = tmp_path / "cameras.json"
    assert main(["export", str(run[0]), "--out", str(out), "--as", "cameras"]) == 0
    written = json.loads(out.read_text())
    given = json.loads((scene / "transforms_train.json").read_text())
    focal = 20 / np.tan(given["camera_angle_x"] / 2)
    assert len(written["frames"]) == 24 and len(written["train_filenames"]) == 22
    for ours, theirs in zip(written["frames"][:22], given["frames"], strict=True):
        assert (ours["w"], ours["h"], ours["fl_x"]) == (40, 40, pytest.approx(focal))
        np.testing.assert_allclose(ours["transform_matrix"], theirs["transform_matrix"], atol=1e-5)


def test_points_are_those_of_the_mesh_with_its_colours(run, tmp_path):
    out = tmp_path / "points.ply"
    options = ["--as", "points", "--resolution", "64"]
    assert main(["export", str(run[0]), "--out", str(out), *options]) == 0
    import trimesh

    cloud = trimesh.load(out)
    mesh = tmp_path / "mesh.ply"
    assert main(["export", str(run[0]), "--out", str(mesh), "--resolution", "64"]) == 0
    expected = trimesh.load(mesh, process=False)
    assert isinstance(cloud, trimesh.PointCloud) and len(expected.faces) > 500
    assert np.array_equal(cloud.vertices, expected.vertices)
    assert np.array_equal(cloud.colors, expected.visual.vertex_colors)


def test_nothing_is_written_where_a_mesh_cannot_go(run, tmp_path, capsys):
    for out in (tmp_path / "mesh.stl", tmp_path / "missing" / "mesh.ply"):
        assert main(["export", str(run[0]), "--out", str(out), "--resolution", "32"]) == 2
        assert str(out) in capsys.readouterr().err
    assert os.listdir(tmp_path) == []
    assert Path(run[0]).is_dir()


def test_a_scene_without_held_out_views_has_a_report_all_the_same(scene, tmp_path, capsys):
    few, out = tmp_path / "few", tmp_path / "run"
    shutil.copytree(scene, few)
    edited(few, lambda document: document.update(frames=document["frames"][:1]))
    for split in ("val", "test"):
        (few / f"transforms_{split}.json").unlink()
    assert main(["train", str(few), "--steps", "100", "--out", str(out)]) == 0
    page = (out / "report.html").read_text()
    assert 'data-frames="72"' in page and "SSIM" not in page
    assert main(["render", str(out), "--views", "test"]) == 2
    assert main(["eval", str(out)]) == 2
    assert "--split test: holds no view" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [["--minutes", "nan"], ["--seed", "-1"], ["--views", str(10**9)], ["--steps", "0"]],
)
def test_a_demo_that_cannot_be_is_refused_before_anything_is_drawn(tmp_path, capsys, options):
    assert main(["demo", "--out", str(tmp_path / "demo"), *options]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and not (tmp_path / "demo").exists()


def test_places_with_names_longer_than_the_system_takes_are_refused(run, tmp_path, capsys):
    long = str(tmp_path / ("x" * 300))
    for command in (
        ["export", str(run[0]), "--out", long + "/a.ply"],
        ["train", "--resume", "--out", long],
        ["train", long, "--steps", "1"],
        ["train", "--from", long, "--out", str(tmp_path / "run")],
        ["eval", long],
    ):
        assert main(command) == 2, command[0]
        assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_names_that_are_no_utf_8_train_and_report(scene, tmp_path, capsys):
    odd = tmp_path / os.fsdecode(b"\xffball")
    shutil.copytree(scene, odd)
    (odd / "test" / "r_1.png").rename(odd / "test" / os.fsdecode(b"\xff.png"))
    path = odd / "transforms_test.json"
    path.write_text(path.read_text().replace("r_1", "\\udcff"))
    assert main(["train", str(odd), "--steps", "100", "--out", str(tmp_path / "run")]) == 0
    assert "\\udcffball" in capsys.readouterr().out
    assert "\\udcff" in (tmp_path / "run" / "report.html").read_text()
