"""Runs of Gaussians end to end, on a scene of one lit ball."""

import shutil
from dataclasses import replace
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
import torch

from polyfield.apps import checkpoint
from polyfield.apps.eval import LIGHT, Eval, evaluate
from polyfield.apps.export import Export, export, summary
from polyfield.apps.formats.mesh_files import read_mesh
from polyfield.apps.formats.splat_files import read_splat_file, read_splats
from polyfield.apps.render import Render, render
from polyfield.apps.run_folder import RunFolder
from polyfield.apps.scene import load_scene
from polyfield.apps.shown import load_shown
from polyfield.apps.train import train
from polyfield.apps.train_options import Train, check
from polyfield.cuda.errors import InputError
from polyfield.fields.splats import CONSTANT, moved
from polyfield.render.exposure import at_mean_exposure
from polyfield.render.metrics import psnr_8bit
from polyfield.render.splats import splat_image

CPU = torch.device("cpu")
RADIUS, DISTANCE = 0.8, 4.0  # of the ball, of cameras
LEGO = Path("lego")


@pytest.fixture(scope="module")
def run(scene, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "ball"
    result = train(Train(scene, field="gaussians", splats=600, steps=150, out=out, device="cpu"))
    assert result.ended == "finished" and result.rewinds == 0
    return out


@pytest.fixture(scope="module")
def exact(scene, tmp_path_factory):
    """A run whose Gaussians are the ball: flat ones, in its surface."""
    out = tmp_path_factory.mktemp("runs") / "exact"
    options = Train(scene, field="gaussians", splats=900, steps=1, out=out, report=False)
    train(replace(options, device="cpu", sizes="degree=0"))
    saved = checkpoint.latest(out / "checkpoints")
    place = torch.arange(900).double() + 0.5
    height, turn = 1 - place / 450, place * torch.pi * (1 + 5**0.5)
    level = (1 - height**2).sqrt()
    way = torch.stack([level * turn.cos(), level * turn.sin(), height], 1)
    # What turns the third axis to the way: the half of it.
    half = torch.stack([1 + way[:, 2], -way[:, 1], way[:, 0], torch.zeros(900).double()], 1)
    to_field = load_scene(scene).to_field
    wide = torch.tensor([0.06, 0.06, 0.002]) * to_field.scale
    tensors = {
        "means": to_field.apply(RADIUS * way),
        "log_scales": wide.log().expand(900, 3),
        "quaternions": half,
        "opacity_logits": torch.full((900,), 4.0),
        "harmonics": (0.4 * way / CONSTANT)[:, None],
    }
    tensors = {f"gaussians.{name}": t.float().contiguous() for name, t in tensors.items()}
    checkpoint.write(saved.path, saved.tensors | tensors, saved.metadata)
    return out


def tensors_of(path):
    return checkpoint.latest(path / "checkpoints").tensors


def test_a_ball_is_learned_well_enough_to_predict_an_unseen_view(run):
    result = evaluate(Eval(run, device="cpu"))
    assert result.psnr > 24, result  # a blank image reaches 12
    black = evaluate(Eval(run, background="black", device="cpu"))
    assert black.psnr > 22 and black.psnr != result.psnr
    assert "light" not in result.protocol
    with pytest.raises(InputError, match="--light left.*neither exposure nor appearance"):
        evaluate(Eval(run, light="left", device="cpu"))
    with pytest.raises(InputError, match="--samples-per-pixel: 4 with Gaussians"):
        evaluate(Eval(run, samples_per_pixel=4, device="cpu"))


def test_the_record_and_the_report_say_how_it_went(run):
    folder = RunFolder.open(run)
    counts = [record["gaussians"] for record in folder.records() if "gaussians" in record]
    assert counts[0] == 180 and 180 < counts[-1] <= 600 and counts == sorted(counts)
    page = folder.report_path.read_text()
    assert "pixels a step" in page and "gaussians" in page and "r_1" in page


def test_test_views_have_the_depth_and_the_normals_of_the_ball(exact, tmp_path):
    render(Render(exact, "test", tmp_path / "views", device="cpu"))
    names = {p.name for p in (tmp_path / "views").iterdir()}
    assert names == {f"r_1{kind}.png" for kind in ("", ".depth", ".opacity", ".normal")}
    found = {name: imageio.imread(tmp_path / "views" / name).astype(float) for name in names}
    depth = found["r_1.depth.png"] / 1000
    middle = depth[17:23, 17:23]
    assert np.abs(middle - (DISTANCE - RADIUS)).max() < 0.05
    assert depth[0, 0] == 0 and found["r_1.opacity.png"][20, 20] > 240
    # A colour here is 0.5 + 0.4 of the normal, which the picture of normals has as 0.5 + 0.5.
    color, normal = (
        found[name][14:26, 14:26, :3] / 255 - 0.5 for name in ("r_1.png", "r_1.normal.png")
    )
    assert np.abs(normal / 0.5 - color / 0.4).mean() < 0.08


def test_a_turntable_is_written_in_the_size_that_was_asked_for(run, tmp_path):
    out = tmp_path / "turn.webp"
    render(Render(run, out=out, size="32x24", frames=3, device="cpu"))
    assert imageio.imread(out, index=...).shape[:3] == (3, 24, 32)
    with pytest.raises(InputError, match="--samples-per-pixel: 4 with Gaussians"):
        render(Render(run, out=out, frames=3, samples_per_pixel=4, device="cpu"))
    with pytest.raises(InputError, match="--samples-per-pixel: 4 with Gaussians"):
        render(Render(run, "test", tmp_path / "views", samples_per_pixel=4, device="cpu"))
    assert not (tmp_path / "views").exists()


@pytest.mark.parametrize(("suffix", "alike"), [(".ply", 48), (".compressed.ply", 30), (".spz", 30)])
def test_a_file_of_its_gaussians_shows_in_the_user_s_frame_what_the_run_shows(
    run, scene, tmp_path, suffix, alike
):
    out = tmp_path / f"ball{suffix}"
    result = export(Export(run, out, device="cpu"))
    splats = read_splats(out, world="z-up")  # an .spz is y up
    assert (result.kind, result.counts) == ("splats", {"Gaussians": splats.count})
    assert f"{splats.count:,} Gaussians" in summary(result)
    trained, found = load_shown(run, CPU), load_scene(scene)
    frame, white = int(found.splits["test"][0]), (1.0, 1.0, 1.0)
    users = found.cameras.to(CPU, torch.float32)
    there = splat_image(splats, users, frame, white, trained.near / found.to_field.scale)
    here = trained.view(found.cameras.transformed(found.to_field), frame)
    assert psnr_8bit(there.color, here.color) > alike
    if suffix == ".ply":
        expected = moved(trained.gaussians.splats, found.to_field.inverse())
        seen = trained.gaussians.opacity_logits.sigmoid() > 1 / 254
        torch.testing.assert_close(splats.means, expected.means[seen], atol=1e-5, rtol=1e-5)
        assert splats.degree == 2 and 100 < splats.count == int(seen.sum())
        distance = here.depth / found.to_field.scale
        torch.testing.assert_close(there.depth, distance, atol=1e-3, rtol=1e-4)


def test_a_file_says_which_way_is_up_where_the_cameras_do(exact, tmp_path):
    export(Export(exact, tmp_path / "a.ply", device="cpu"))
    assert read_splat_file(tmp_path / "a.ply").world == "z-up"
    saved = checkpoint.latest(exact / "checkpoints")
    path = tmp_path / "run"
    shutil.copytree(exact, path)
    turn = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # y, which points up, to z
    settings = saved.metadata["settings"]
    to_field = settings["to_field"]
    rotation = (torch.tensor(to_field["rotation"]) @ turn).tolist()
    changed = settings | {"to_field": to_field | {"rotation": rotation}}
    checkpoint.write(
        checkpoint.latest(path / "checkpoints").path,
        saved.tensors,
        saved.metadata | {"settings": changed},
    )
    export(Export(path, tmp_path / "b.ply", device="cpu"))
    assert read_splat_file(tmp_path / "b.ply").world == "right-down-forward"


def like_the_ball(mesh, off):
    away = (mesh.vertices.norm(dim=1) / RADIUS - 1).abs()
    assert away.median() < off and away.max() < 2 * off
    expected = 0.5 + 0.4 * mesh.vertices / RADIUS
    assert float((mesh.colors - expected).abs().mean()) < 0.02
    outward = torch.nn.functional.normalize(mesh.vertices, dim=1)
    assert float((mesh.normals * outward).sum(1).quantile(0.05)) > 0.9


def test_the_mesh_is_the_ball_in_the_frame_of_the_input_with_many_faces_or_few(exact, tmp_path):
    pytest.importorskip("fast_simplification", reason="the extra surfaces is not installed")
    out = tmp_path / "ball.ply"
    options = Export(exact, out, "mesh", resolution=48, device="cpu")
    result, mesh = export(options), read_mesh(out)
    assert result.counts == {"vertices": len(mesh.vertices), "faces": len(mesh.faces)}
    assert result.quality.euler == 2 and result.level is None
    like_the_ball(mesh, 0.045)
    few = export(replace(options, faces=500, fused=True, out=tmp_path / "few.ply"))
    assert 300 < few.counts["faces"] <= 500 < result.counts["faces"]
    like_the_ball(read_mesh(tmp_path / "few.ply"), 0.045)


def test_points_and_cameras_are_written_as_of_every_run(exact, tmp_path):
    points = export(Export(exact, tmp_path / "points.ply", "points", resolution=24, device="cpu"))
    assert points.counts["points"] > 100
    cameras = export(Export(exact, tmp_path / "cameras.json", "cameras", device="cpu"))
    assert cameras.counts == {"cameras": 24}


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"out": "a.ply", "resolution": 64}, "--resolution: with --as splats of Gaussians"),
        ({"out": "a.ply", "keep_unseen": True}, "--keep-unseen: with --as splats of Gaussians"),
        ({"out": "a.ply", "faces": 9}, "--faces: with --as splats"),
        ({"out": "a.ply", "frame": "RDF"}, "--frame: with --as splats"),
        ({"out": "a.ply", "kind": "mesh", "level": 3.0}, "--level: with --as mesh of Gaussians"),
        ({"out": "a.ply", "kind": "mesh", "sharp": True}, "--sharp: with --as mesh of Gaussians"),
        ({"out": "a.ply", "kind": "mesh", "opacity": True}, "--opacity: with --as mesh"),
        ({"out": "a.glb", "kind": "mesh", "texture": 64}, "--texture: with --as mesh"),
        ({"out": "a.obj"}, "suffix '.obj'"),
        ({"out": "a.spz", "kind": "mesh"}, "suffix '.spz'"),
        ({"out": "nowhere/a.ply"}, "folder does not exist"),
    ],
)
def test_what_gaussians_have_none_of_is_refused(run, tmp_path, options, where):
    out = tmp_path / options["out"]
    with pytest.raises(InputError, match=where):
        export(Export(run, device="cpu", **options | {"out": out}))
    assert not out.exists()


def test_a_run_of_another_field_has_no_gaussians(disc_scene, tmp_path):
    train(Train(disc_scene, out=tmp_path / "grid", steps=1, device="cpu", report=False))
    with pytest.raises(InputError, match="--as splats: a run of another field has none"):
        export(Export(tmp_path / "grid", tmp_path / "a.ply", "splats", device="cpu"))
    assert not (tmp_path / "a.ply").exists()


OF_DENSITIES = [
    {"space": "ndc"}, {"pixel": "mean"}, {"loss": "huber"}, {"sampler": "proposal"},
    {"distortion": 0.1}, {"surface": "neus"}, {"appearance": 4}, {"learned_background": True},
    {"total_variation": 0.5}, {"coarse_to_fine": 5}, {"networks": "tiny-cuda-nn"},
]  # fmt: skip
OF_GAUSSIANS = [
    {"splats": 500},
    {"densify": "classic"},
    {"antialiased": True},
    {"refine_poses": True},
    {"init": LEGO},
]


@pytest.mark.parametrize(
    ("field", "options"),
    [("gaussians", options) for options in OF_DENSITIES]
    + [("hash-grid", options) for options in OF_GAUSSIANS]
    + [("gaussians", {"splats": 3}), ("gaussians", {"splats": 1 << 27})],
    ids=str,
)
def test_options_that_do_not_go_with_a_kind_of_field_are_refused_by_name(field, options):
    ((name, _),) = options.items()
    check(Train(LEGO, field="gaussians" if options in OF_GAUSSIANS else "hash-grid"))
    with pytest.raises(InputError) as refused:
        check(Train(LEGO, field=field, **options))
    assert refused.value.where == f"--{name.replace('_', '-')}"


@pytest.mark.parametrize("options", [{}, *OF_GAUSSIANS, {"exposure": True}, {"sizes": "degree=1"}])
def test_options_of_gaussians_pass(options):
    check(Train(LEGO, field="gaussians", **options))


def test_gaussians_begin_on_the_surface_of_a_run(exact, scene, tmp_path, monkeypatch):
    said = []
    monkeypatch.chdir(tmp_path)
    (tmp_path / "first").symlink_to(exact)
    options = Train(scene, field="gaussians", splats=400, steps=1, device="cpu", report=False)
    train(replace(options, init=Path("first"), out=tmp_path / "run"), on_message=said.append)
    assert "120 Gaussians on the surface that the run shows" in said
    trained = load_shown(tmp_path / "run", CPU)
    assert Path(trained.settings.init).is_absolute()  # wherever it is repeated
    places = trained.to_field.inverse().apply(trained.gaussians.means.double())
    off = (places.norm(dim=1) - RADIUS).abs()
    assert len(places) == 120 and off.median() < 0.05
    with pytest.raises(InputError, match="nowhere"):
        train(replace(options, init=Path("nowhere"), out=tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def test_from_config_repeats_a_run_exactly(run, scene, tmp_path):
    first, again = tmp_path / "first", tmp_path / "again"
    options = Train(scene, field="gaussians", splats=150, steps=8, seed=3, report=False)
    train(replace(options, out=first, init=run, antialiased=True, sizes="degree=1,splats=130"))
    train(Train(out=again, from_config=first / "config.json", device="cpu", report=False))
    a, b = tensors_of(first), tensors_of(again)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert a["gaussians.harmonics"].shape == (39, 4, 3)
    train(replace(options, out=tmp_path / "other", seed=4))
    assert not torch.equal(tensors_of(tmp_path / "other")["gaussians.means"], a["gaussians.means"])


def test_a_run_that_is_to_be_gone_on_with_and_is_not_there_begins(scene, tmp_path):
    said = []
    options = Train(scene, field="gaussians", splats=50, steps=2, resume=True, report=False)
    result = train(replace(options, out=tmp_path / "run"), on_message=said.append)
    assert result.steps == 2 and any("training starts at step 0" in line for line in said)


@pytest.fixture(scope="module")
def exposed(ball_scene, tmp_path_factory):
    """A run that learns exposures: the test view, and another, came out a stop brighter."""

    def change(number, pose, image):
        color = image[..., :3].float() / 255
        color = at_mean_exposure(color, torch.full_like(color, 1.0 - (number in (1, 5))))
        return torch.cat([(255 * color).round().to(torch.uint8), image[..., 3:]], 2)

    folder = ball_scene(change, {5: 4})
    out = tmp_path_factory.mktemp("runs") / "exposed"
    options = Train(folder, field="gaussians", splats=300, steps=200, out=out, report=False)
    train(replace(options, exposure=True, sizes="degree=0", device="cpu"))
    return out


def test_a_view_s_light_is_found_in_its_left_half(exposed):
    mean = evaluate(Eval(exposed, device="cpu"))
    left = evaluate(Eval(exposed, light="left", device="cpu"))
    assert left.psnr > mean.psnr + 2
    assert (mean.protocol["light"], left.protocol["light"]) == (LIGHT[False], LIGHT[True])
    (score,) = left.images.values()
    assert score["share"] == pytest.approx(0.5)


def test_the_photograph_that_is_brighter_than_its_neighbour_is_found(exposed):
    stops = load_shown(exposed, CPU).exposure.stops
    assert stops.shape == (22, 3) and float(stops.mean(0).abs().max()) < 1e-5
    torch.testing.assert_close(stops[3] - stops[2], torch.ones(3), atol=0.35, rtol=0)


def test_time_becomes_a_plan_before_the_first_step_that_can_be_repeated(scene, tmp_path):
    for attempt in range(3):  # a machine that is suddenly busy ends a run before its plan does
        said, seen = [], []
        run = tmp_path / f"run{attempt}"
        options = Train(scene, field="gaussians", splats=60, minutes=0.05, out=run, report=False)
        result = train(
            replace(options, device="cpu"), on_message=said.append,
            on_progress=lambda progress, seen=seen: seen.append(progress.steps),
        )  # fmt: skip
        assert result.seconds <= 3.5 and result.steps > 5
        if result.ended == "finished":
            break
    assert result.ended == "finished"
    plans = [r for r in RunFolder.open(run).records() if r.get("event") == "plan"]
    assert plans[0]["step"] == 0 and None not in seen
    assert any(line.startswith("plan: gaussians") for line in said)
    assert any("million pixels" in line for line in said)
    again = tmp_path / "again"
    train(Train(out=again, from_config=run / "config.json", report=False))
    a, b = tensors_of(run), tensors_of(again)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
