"""Training end to end on a scene of one lit ball, small enough for seconds."""

import json
import re
import time
from dataclasses import replace

import pytest
import torch

from polyfield.apps import checkpoint
from polyfield.apps.eval import Eval, evaluate
from polyfield.apps.export import Export, export
from polyfield.apps.formats.mesh_files import read_mesh
from polyfield.apps.radiance_task import RadianceTask
from polyfield.apps.render import Render, render
from polyfield.apps.run_folder import RunFolder
from polyfield.apps.scene import load_scene
from polyfield.apps.settings import read_settings
from polyfield.apps.train import train
from polyfield.apps.train_options import Train
from polyfield.apps.train_settings import chosen_warp
from polyfield.apps.trained import load
from polyfield.cuda.errors import InputError
from polyfield.fields.projection import Projection

RADIUS = 0.8  # of the ball


@pytest.fixture(scope="module")
def run(scene, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "ball"
    train(Train(scene=scene, out=out, steps=200, device="cpu"))
    return out


def test_a_ball_is_learned_well_enough_to_predict_an_unseen_view(run):
    result = evaluate(Eval(run, device="cpu"))
    assert result.psnr > 20, result  # a blank image reaches 12
    assert result.protocol["background"] == [1.0, 1.0, 1.0]


def test_transparent_pixels_show_whatever_background_is_asked_for(run):
    white = evaluate(Eval(run, background="white", device="cpu")).psnr
    black = evaluate(Eval(run, background="black", device="cpu")).psnr
    assert min(white, black) > 19 and white != black


def test_the_mesh_is_the_ball_in_the_frame_of_the_input(run, tmp_path):
    export(Export(run, tmp_path / "ball.ply", resolution=96, device="cpu"))
    radius = read_mesh(tmp_path / "ball.ply").vertices.norm(dim=1)
    assert float((radius - RADIUS).abs().median()) < 0.12


def test_test_views_are_named_after_their_images(run, tmp_path):
    render(Render(run, views="test", out=tmp_path / "views", device="cpu"))
    names = {p.name for p in (tmp_path / "views").iterdir()}
    assert names == {f"r_1{kind}.png" for kind in ("", ".depth", ".opacity", ".normal")}


def test_a_turntable_is_written_in_the_size_that_was_asked_for(run, tmp_path):
    import imageio.v3 as imageio

    out = tmp_path / "turn.webp"
    render(Render(run, out=out, size="32x24", frames=3, samples_per_pixel=1, device="cpu"))
    assert imageio.imread(out, index=...).shape[:3] == (3, 24, 32)


def test_a_run_that_was_cut_off_ends_bit_identical(scene, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = {"scene": scene, "steps": 16, "device": "cpu", "seed": 7, "report": False}
    train(Train(out=whole, **options))

    class Cut(Exception):
        pass

    whole_step = RadianceTask.step

    def cut(task, step, rate, planned=None):
        if step == 8:
            raise Cut
        return whole_step(task, step, rate)

    # Every state is kept, so that the run goes on in its middle and not from its beginning.
    monkeypatch.setattr("polyfield.apps.loop.CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(RadianceTask, "step", cut)
    with pytest.raises(Cut):
        train(Train(out=parts, **options))
    monkeypatch.setattr(RadianceTask, "step", whole_step)
    assert checkpoint.latest(parts / "checkpoints").step == 8
    train(Train(out=parts, resume=True, scene=scene, device="cpu", report=False))
    expected = checkpoint.latest(whole / "checkpoints")
    got = checkpoint.latest(parts / "checkpoints")
    assert got.step == expected.step == 16
    assert got.metadata["task"] == expected.metadata["task"]
    for name, tensor in expected.tensors.items():
        assert torch.equal(got.tensors[name], tensor), name


def test_from_config_repeats_a_run_exactly(scene, tmp_path):
    first, again = tmp_path / "first", tmp_path / "again"
    train(Train(scene=scene, out=first, steps=6, device="cpu", seed=3, report=False))
    train(Train(out=again, from_config=first / "config.json", device="cpu", report=False))
    a, b = (checkpoint.latest(p / "checkpoints").tensors for p in (first, again))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_one_and_two_threads_train_alike(scene, tmp_path):
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            out = tmp_path / str(threads)
            train(Train(scene=scene, out=out, steps=5, device="cpu", report=False))
            tensors = checkpoint.latest(out / "checkpoints").tensors
            found.append(tensors["field.encoding.table"])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


def test_the_largest_seed_trains(scene, tmp_path):
    options = Train(scene, out=tmp_path / "run", steps=2, seed=2**63 - 1, report=False)
    train(options)


def test_loading_that_used_up_the_minutes_is_said(scene, tmp_path):
    said = []
    options = Train(scene, out=tmp_path / "run", minutes=0.5, report=False)
    train(options, on_message=said.append, started=time.monotonic() - 29)
    assert any(re.match(r"warning: loading took (29|[3-9]\d)\.", line) for line in said)
    assert any(line.startswith("plan: ") and "30.0 s" in line for line in said)


@pytest.mark.parametrize(
    "change", [{"sampling": 3}, {"orbit": {}}, {"scene": 5}, {"wing": 1}, {"warp": 3}]
)
def test_settings_that_no_run_wrote_are_refused(run, change):
    values = RunFolder.open(run).config()["settings"]
    assert read_settings(values, "config.json").scene == values["scene"]
    with pytest.raises(InputError, match="config.json: settings"):
        read_settings(values | change, "config.json")


def test_a_capture_that_faces_forward_is_seen_as_its_cameras_do_where_that_is_asked_for(
    ball_scene, tmp_path
):
    """The ball from one side: the same photograph 24 times, from places beside each other."""
    front = ball_scene(lambda number, pose, image: image, again={i: 3 for i in range(24)})
    found = load_scene(front, unbounded=True)
    warp, resolution = chosen_warp(found, Train(front, space="ndc"), 512)
    (view,) = warp.values()
    assert view["near"] == found.near and 128 <= resolution <= 8192
    pixels = 2 * float(found.cameras.focal[0, 0]) * max(view["extent"])
    assert resolution / 2**0.5 <= max(pixels, 128) <= resolution * 2**0.5 or resolution == 128
    out = tmp_path / "run"
    train(Train(front, out=out, steps=6, space="ndc", seed=1, device="cpu", report=False))
    trained = load(out, torch.device("cpu"))
    assert isinstance(trained.field.warp, Projection) and trained.settings.warp == warp
    assert trained.field.warp.near == pytest.approx(view["near"])
    again = tmp_path / "again"
    train(Train(out=again, from_config=out / "config.json", device="cpu", report=False))
    tensors = [checkpoint.latest(path / "checkpoints").tensors for path in (out, again)]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])


def test_cameras_around_an_object_do_not_face_forward(scene, tmp_path):
    with pytest.raises(InputError, match="--space ndc: the cameras look many ways"):
        train(Train(scene, out=tmp_path / "run", steps=1, space="ndc"))
    assert not (tmp_path / "run").exists()


def test_unknown_fields_and_foreign_configs_are_refused(scene, tmp_path):
    with pytest.raises(InputError, match="--field: 'sponge'"):
        train(Train(scene=scene, out=tmp_path / "x", steps=1, field="sponge"))
    (tmp_path / "config.json").write_text(json.dumps({"config_version": 1}))
    with pytest.raises(InputError, match="--from"):
        train(Train(out=tmp_path / "y", from_config=tmp_path / "config.json"))
    assert not (tmp_path / "x").exists() and not (tmp_path / "y").exists()


def test_the_roughness_of_planes_is_a_setting_that_a_run_keeps(scene, tmp_path):
    options = Train(scene, field="tri-plane", total_variation=2.0, steps=1, report=False)
    train(replace(options, out=tmp_path / "run"))
    trained = load(tmp_path / "run", torch.device("cpu"))
    assert trained.settings.total_variation == trained.field.encoding.total_variation == 2.0


def test_sizes_may_be_chosen_within_the_memory_that_there_is(scene, tmp_path):
    options = Train(scene, sizes="levels=3,log2_table_size=9", steps=1, report=False)
    result = train(replace(options, out=tmp_path / "run"))
    arguments = load(tmp_path / "run", torch.device("cpu")).settings.arguments
    assert (arguments["levels"], arguments["log2_table_size"]) == (3, 9)
    assert result.parameters < 20_000
    with pytest.raises(InputError, match="--set: 'photographs=3'"):
        train(replace(options, sizes="photographs=3", out=tmp_path / "other"))
    with pytest.raises(InputError, match="GB"):
        large = "levels=16,log2_table_size=23,finest_resolution=4096"
        train(replace(options, sizes=large, memory=1.0, out=tmp_path / "other"))
    assert not (tmp_path / "other").exists()
