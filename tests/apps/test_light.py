"""What is learned beside the field, through the commands: exposure, appearance, background."""

import json
import math

import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from polyfield.apps import checkpoint
from polyfield.apps.eval import LIGHT, Eval, evaluate
from polyfield.apps.radiance_task import RadianceTask
from polyfield.apps.render import Render, render
from polyfield.apps.run_folder import RunFolder
from polyfield.apps.scene import load_scene
from polyfield.apps.train import train
from polyfield.apps.train_options import Train
from polyfield.apps.trained import load
from polyfield.cuda.errors import InputError
from polyfield.render.exposure import at_mean_exposure

CPU = torch.device("cpu")
STEPS = 150
ANGLE = 0.7  # radians that the photographs of the ball show
BRIGHT, STOPS = 3, 1.0  # the photograph that came out too bright, and by how much


def brighter(image, stops):
    color = image[..., :3].float() / 255
    shown = at_mean_exposure(color, torch.full_like(color, -stops))
    return torch.cat([(255 * shown).round().to(torch.uint8), image[..., 3:]], 2)


@pytest.fixture(scope="module")
def uneven(ball_scene):
    """The ball, darker by a stop so that nothing is cut off, but in two photographs.

    One of them is the test view; the other was taken from where its neighbour was, or else it
    might be its direction that is bright.
    """
    bright = (1, 2 + BRIGHT)
    return ball_scene(
        lambda n, _, image: brighter(image, -1.0 + STOPS * (n in bright)),
        {2 + BRIGHT: 1 + BRIGHT},
    )


def run(scene, out, steps=STEPS, **more):
    train(Train(scene, out=out, steps=steps, device="cpu", report=False, **more))
    return out


@pytest.fixture(scope="module")
def exposed(uneven, tmp_path_factory):
    return run(uneven, tmp_path_factory.mktemp("runs") / "exposed", 400, exposure=True)


def test_the_photograph_that_is_a_stop_brighter_is_found(exposed):
    stops = load(exposed, CPU).exposure.stops
    difference = stops[BRIGHT] - stops[BRIGHT - 1]
    torch.testing.assert_close(difference, torch.full((3,), STOPS), atol=0.1, rtol=0)
    assert float(stops.mean(0).abs().max()) < 1e-5


def test_a_view_s_light_is_found_in_its_left_half(exposed):
    mean = evaluate(Eval(exposed, device="cpu"))
    left = evaluate(Eval(exposed, light="left", device="cpu"))
    assert left.psnr > mean.psnr + 3
    assert (mean.protocol["light"], left.protocol["light"]) == (LIGHT[False], LIGHT[True])
    (score,) = left.images.values()
    assert score["share"] == pytest.approx(0.5)


def test_a_run_that_knows_no_light_says_so(uneven, tmp_path):
    plain = tmp_path / "plain"
    train(Train(uneven, out=plain, steps=2, device="cpu", report=False))
    with pytest.raises(InputError, match="--light left.*neither exposure nor appearance"):
        evaluate(Eval(plain, light="left", device="cpu"))
    assert "light" not in evaluate(Eval(plain, device="cpu")).protocol


@pytest.mark.parametrize(
    "more", [{"exposure": True}, {"appearance": 4}, {"learned_background": True}], ids=str
)
def test_a_run_that_was_cut_goes_on_bit_by_bit(more, opaque, tmp_path, monkeypatch):
    whole, again = tmp_path / "whole", tmp_path / "again"
    options = {"steps": 24, "device": "cpu", "report": False}
    train(Train(opaque, out=whole, **options, **more))
    step = RadianceTask.step

    def broken(self, number, rate, planned=None):
        if number == 12:
            raise KeyboardInterrupt
        if number == 11:
            monkeypatch.setattr("polyfield.apps.loop.CHECKPOINT_SECONDS", 0.0)
        return step(self, number, rate)

    monkeypatch.setattr(RadianceTask, "step", broken)
    with pytest.raises(KeyboardInterrupt):
        train(Train(opaque, out=again, **options, **more))
    monkeypatch.setattr(RadianceTask, "step", step)
    train(Train(out=again, resume=True, device="cpu", report=False))
    expected, found = (checkpoint.latest(path / "checkpoints").tensors for path in (whole, again))
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name


def sky(direction):
    """What lies behind: brighter above, in the world where z is up."""
    above = 0.5 + 0.5 * direction[..., 2:]
    return 0.25 + above * torch.tensor([0.1, 0.3, 0.6])


def before_sky(pose, image):
    """The same image, opaque: what was transparent shows the sky."""
    image = image.float() / 255
    size = len(image)
    tick = (torch.arange(size) + 0.5 - size / 2) / (size / 2 / math.tan(ANGLE / 2))
    y, x = torch.meshgrid(tick, tick, indexing="ij")
    way = normalize(torch.stack([x, y, torch.ones_like(x)], 2) @ pose[:, :3].T, dim=2)
    color = image[..., :3] * image[..., 3:] + sky(way) * (1 - image[..., 3:])
    return (255 * torch.cat([color, torch.ones(size, size, 1)], 2)).round().to(torch.uint8)


@pytest.fixture(scope="module")
def opaque(ball_scene):
    """The ball before the sky, in photographs without alpha."""
    folder = ball_scene(lambda _, pose, image: before_sky(pose, image))
    for path in folder.rglob("*.png"):
        Image.open(path).convert("RGB").save(path)
    return folder


def test_a_sky_is_learned_as_background(opaque, tmp_path):
    found = load(run(opaque, tmp_path / "run", learned_background=True), CPU)
    random = torch.Generator().manual_seed(0)
    way = normalize(torch.randn(500, 3, generator=random), dim=1)
    way = way[way[:, 2].abs() < 0.5]  # where cameras about the ball look
    world = way @ found.to_field.rotation.float()  # field axes to the input's
    with torch.no_grad():
        shown = found.environment(way)
    before = (torch.tensor(found.settings.background) - sky(world)).square().mean().sqrt()
    after = (shown - sky(world)).square().mean().sqrt()
    assert after < 0.5 * before


def test_where_nothing_is_a_view_shows_the_learned_background(opaque, tmp_path):
    out = tmp_path / "run"
    train(Train(opaque, out=out, steps=20, device="cpu", report=False, learned_background=True))
    found, scene = load(out, CPU), load_scene(opaque)
    found.grid.bits.zero_()
    cameras = scene.cameras.transformed(found.to_field)
    pixels = torch.cartesian_prod(torch.arange(40), torch.arange(40)).flip(1) + 0.5
    with torch.no_grad():
        _, way = cameras.rays(torch.full((1600,), 2), pixels)
        expected = found.environment(way).view(40, 40, 3)
    assert float((expected.amax((0, 1)) - expected.amin((0, 1))).max()) > 0.01
    for view in (found.view(cameras, 2), *found.bands(cameras, 2)):
        torch.testing.assert_close(view.color, expected, atol=1e-5, rtol=0)
    plain = found.view(cameras, 2, background=(0.0, 1.0, 0.0))
    torch.testing.assert_close(plain.color, torch.tensor([0.0, 1.0, 0.0]).expand(40, 40, 3))


def test_eval_measures_views_before_the_learned_background(opaque, tmp_path):
    out = run(opaque, tmp_path / "run", learned_background=True)
    before_it = evaluate(Eval(out, device="cpu")).psnr
    assert before_it > evaluate(Eval(out, background="black", device="cpu")).psnr + 0.5
    made = render(Render(out, "test", tmp_path / "views", device="cpu"))
    assert made.files


def test_there_is_nothing_to_learn_behind_transparent_photographs(uneven, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(InputError, match="--learned-background.*alpha"):
        train(Train(uneven, out=out, steps=2, learned_background=True, device="cpu"))
    assert not out.exists()


@pytest.mark.parametrize("more", [{"exposure": True}, {"appearance": 2}], ids=str)
def test_a_scene_that_lost_photographs_since_is_refused(more, uneven, tmp_path):
    train(Train(uneven, out=tmp_path / "run", steps=2, device="cpu", report=False, **more))
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    settings = config["settings"]
    settings["exposures"] += bool(settings["exposures"])
    settings["arguments"]["photographs"] += bool(settings["arguments"]["photographs"])
    (tmp_path / "config.json").write_text(json.dumps(config))
    again = Train(from_config=tmp_path / "config.json", out=tmp_path / "again", device="cpu")
    with pytest.raises(InputError, match="22 photographs to train on.*23, as when the run began"):
        train(again)
    assert not (tmp_path / "again").exists()


def test_what_was_asked_for_is_in_the_config(exposed, uneven):
    settings = RunFolder.open(exposed).config()["settings"]
    assert settings["exposures"] == 22 and settings["learned_background"] is False
    assert settings["arguments"]["appearance"] == 0
