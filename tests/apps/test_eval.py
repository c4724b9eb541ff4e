import math

import pytest
import torch

from polyfield.apps import eval as eval_module
from polyfield.apps.eval import COLORED, Eval, evaluate, mean_color, summary
from polyfield.apps.image_files import decode
from polyfield.apps.images import scene_images
from polyfield.apps.scene import load_scene
from polyfield.render.lpips import PerceptualNetwork

ALWAYS = PerceptualNetwork((), ())


@pytest.fixture(autouse=True)
def no_lpips(monkeypatch):
    monkeypatch.setattr(eval_module, "find_lpips", lambda: (None, "here is how to get it"))


def on(pixels, background):
    alpha = pixels[..., 3:].double() / 255
    return pixels[..., :3].double() / 255 * alpha + torch.tensor(background) * (1 - alpha)


@pytest.mark.parametrize("name, value", [("white", 1.0), ("black", 0.0)])
def test_the_constant_picture_scores_what_the_mean_training_colour_does(
    ball_run, scene, name, value
):
    result = evaluate(Eval(ball_run, background=name, device="cpu"))
    there = load_scene(scene)
    background = [value] * 3
    shown = [on(decode(there.image_paths[f], 4), background) for f in there.splits["train"]]
    color = torch.stack([image.mean((0, 1)) for image in shown]).mean(0)
    truth = on(decode(there.image_paths[there.splits["test"][0]], 4), background)
    both = [(image * 255).round() / 255 for image in (color.expand_as(truth), truth)]
    expected = -10 * math.log10(float((both[0] - both[1]).square().mean()))
    assert result.images["r_1"]["constant_psnr"] == pytest.approx(expected, abs=0.05)
    assert result.constant_psnr == result.images["r_1"]["constant_psnr"]
    assert result.psnr > result.constant_psnr + 8
    assert f"background {name}," in summary(result)
    assert "score of a constant picture of the mean training colour." in summary(result)


def test_the_background_is_the_run_s_own_where_none_is_asked_for(ball_run):
    assert evaluate(Eval(ball_run, device="cpu")).protocol["background"] == [1.0, 1.0, 1.0]


def test_a_colour_is_the_mean_over_images_of_the_mean_over_pixels(scene):
    there = load_scene(scene)
    frames = there.splits["train"].tolist()[:3]
    found = mean_color(there, scene_images(there, 40 * 40 * 4), frames, (0.0, 0.5, 1.0))
    shown = [on(decode(there.image_paths[f], 4), [0.0, 0.5, 1.0]) for f in frames]
    expected = torch.stack([image.mean((0, 1)) for image in shown]).mean(0)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6)
    assert COLORED >= 32


def test_lpips_stands_in_the_table_or_why_it_does_not(ball_run, monkeypatch):
    result = evaluate(Eval(ball_run, device="cpu"))
    assert result.lpips is None and "lpips" not in result.images["r_1"]
    assert "LPIPS: not measured (here is how to get it)" in summary(result)
    monkeypatch.setattr(PerceptualNetwork, "distance", lambda network, a, b: 0.25)
    monkeypatch.setattr(eval_module, "find_lpips", lambda: (ALWAYS, ""))
    result = evaluate(Eval(ball_run, device="cpu"))
    assert result.lpips == result.images["r_1"]["lpips"] == 0.25
    assert "0.2500" in summary(result) and "LPIPS: VGG" in summary(result)
