"""Training end to end on a scene of one lit ball, small enough for seconds."""

import json

import pytest
import torch

from polyfield.apps import checkpoint
from polyfield.apps.eval import Eval, evaluate
from polyfield.apps.export import Export, export
from polyfield.apps.formats.mesh_files import read_mesh
from polyfield.apps.formats.nerf_synthetic import write_nerf_synthetic
from polyfield.apps.radiance_task import RadianceTask
from polyfield.apps.render import Render, render
from polyfield.apps.run_folder import RunFolder
from polyfield.apps.train import train
from polyfield.apps.train_options import Train
from polyfield.apps.trained import read_settings
from polyfield.cuda.errors import InputError

SIZE, RADIUS, DISTANCE, ANGLE = 40, 0.8, 4.0, 0.7


def poses(count):
    """Cameras all around the origin, OpenCV axes."""
    z = torch.linspace(-0.8, 0.8, count)
    turn = torch.arange(count) * 2.4
    way = torch.stack([(1 - z * z).sqrt() * turn.cos(), (1 - z * z).sqrt() * turn.sin(), z], 1)
    forward = -way
    right = torch.nn.functional.normalize(
        torch.linalg.cross(forward, torch.tensor([0.0, 0, 1]).expand(count, 3)), dim=1
    )
    down = torch.linalg.cross(forward, right)
    return torch.stack([right, down, forward, DISTANCE * way], 2)


def ball(pose):
    """The exact image of a ball coloured by its normal: RGBA, 4 x 4 rays a pixel."""
    fine = SIZE * 4
    focal = 0.5 * fine / torch.tan(torch.tensor(ANGLE / 2))
    ticks = (torch.arange(fine) + 0.5 - fine / 2) / focal
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    rays = torch.stack([x, y, torch.ones_like(x)], 2) @ pose[:, :3].T
    rays = torch.nn.functional.normalize(rays, dim=2)
    along = rays @ pose[:, 3]
    root = along**2 - DISTANCE**2 + RADIUS**2
    hit = root > 0
    points = pose[:, 3] + (-along - root.clamp_min(0).sqrt())[..., None] * rays
    color = (0.5 + 0.4 * points / RADIUS) * hit[..., None]
    both = torch.cat([color, hit[..., None].float()], 2)
    both = both.reshape(SIZE, 4, SIZE, 4, 4).mean((1, 3))
    straight = both[..., :3] / both[..., 3:].clamp_min(1e-6)
    return (torch.cat([straight, both[..., 3:]], 2).clamp(0, 1) * 255).round().to(torch.uint8)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes") / "ball"
    made = [(f"r_{i}", pose, ball(pose)) for i, pose in enumerate(poses(24))]
    splits = {"train": made[2:], "val": made[:1], "test": made[1:2]}
    write_nerf_synthetic(folder, splits, ANGLE)
    return folder


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
    assert min(white, black) > 19


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

    def cut(task, step, rate):
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


@pytest.mark.parametrize("change", [{"sampling": 3}, {"orbit": {}}, {"scene": 5}, {"wing": 1}])
def test_settings_that_no_run_wrote_are_refused(run, change):
    values = RunFolder.open(run).config()["settings"]
    assert read_settings(values, "config.json").scene == values["scene"]
    with pytest.raises(InputError, match="config.json: settings"):
        read_settings(values | change, "config.json")


def test_unknown_fields_and_foreign_configs_are_refused(scene, tmp_path):
    with pytest.raises(InputError, match="--field: 'sponge'"):
        train(Train(scene=scene, out=tmp_path / "x", steps=1, field="sponge"))
    (tmp_path / "config.json").write_text(json.dumps({"config_version": 1}))
    with pytest.raises(InputError, match="--from"):
        train(Train(out=tmp_path / "y", from_config=tmp_path / "config.json"))
    assert not (tmp_path / "x").exists() and not (tmp_path / "y").exists()
