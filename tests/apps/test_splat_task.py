"""A step of Gaussians: what of photographs it learns from, and what it makes of bad numbers."""

from copy import deepcopy
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from splat_tasks import (
    CPU,
    MOST,
    SIZE,
    STRATEGIES,
    Pictures,
    noise,
    pictures,
    same,
    state_of,
    stepped,
    task_of,
)

from polyfield.apps import checkpoint, splat_photographs, splat_task
from polyfield.apps.images import scene_images
from polyfield.apps.mask_files import Mask
from polyfield.apps.scene import load_scene
from polyfield.apps.settings import settings_of
from polyfield.apps.splat_start import starting_splats
from polyfield.apps.splat_task import SplatTask
from polyfield.apps.train import train
from polyfield.apps.train_options import Train
from polyfield.apps.trained_splats import build_splats
from polyfield.apps.true_view import shown_image
from polyfield.cuda.ssim import ssim
from polyfield.fields import densification
from polyfield.render.exposure import at_mean_exposure
from polyfield.render.metrics import psnr_8bit
from polyfield.render.occupancy import step_generator
from polyfield.render.splats import splat_view


@pytest.fixture
def task(disc_scene):
    return partial(task_of, disc_scene)


@pytest.fixture
def often(monkeypatch):
    """The number of Gaussians changes every few steps."""
    monkeypatch.setattr(densification, "SOONEST", 5)


@pytest.mark.parametrize("kind", STRATEGIES)
def test_a_ball_is_learned_well_enough_to_predict_an_unseen_view(scene, kind):
    found = load_scene(scene)
    settings = settings_of(found, "gaussians", {"splats": 500, "degree": 1}, 0, 1600, 1 << 24)
    settings = replace(settings, densify=kind)
    images = scene_images(found, 1 << 24)
    splats, _ = starting_splats(found, settings, images)
    made = SplatTask(build_splats(settings, splats, CPU), found, images, CPU)
    before = made.validate(0)["psnr"]
    stepped(made, 120)
    assert made.validate(120)["psnr"] > 22 > before  # a blank image reaches 12
    assert len(made.trained.gaussians) > splats.count


def bad_loss(color, target):
    return (color - target).abs().mean() * torch.nan


def bad_gradient(color, target):
    color.register_hook(lambda gradient: gradient * torch.nan)
    return (color - target).abs().mean()


@pytest.mark.parametrize("bad", [bad_loss, bad_gradient])
def test_a_step_gone_bad_says_so_and_changes_nothing(task, monkeypatch, bad):
    made, plain = task(exposures=6), task(exposures=6)
    stepped(made, 3, 10), stepped(plain, 3, 10)
    before = state_of(made)
    with monkeypatch.context() as patch:
        patch.setattr(splat_task, "image_error", bad)
        assert made.step(3, 1.0, 10)["finite"] == 0
    assert same(state_of(made), before)
    assert made.step(3, 1.0, 10) == plain.step(3, 1.0, 10)  # nor is a gradient left behind
    assert same(state_of(made), state_of(plain))


@pytest.mark.parametrize("bad", [bad_loss, bad_gradient])
def test_a_run_goes_back_before_a_step_that_went_bad(scene, often, tmp_path, monkeypatch, bad):
    good, count = splat_task.image_error, iter(range(10**6))

    def once(color, target):
        return (bad if next(count) == 12 else good)(color, target)

    monkeypatch.setattr(splat_task, "image_error", once)
    options = Train(
        scene, field="gaussians", splats=150, steps=20, out=tmp_path / "run", report=False
    )
    result = train(options)
    assert (result.steps, result.rewinds, result.ended) == (20, 1, "finished")
    assert next(count) == 13 + 20  # from the beginning again, where the one kept state is
    tensors = checkpoint.latest(tmp_path / "run" / "checkpoints").tensors
    assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_steps_look_at_all_photographs_though_few_fit(task):
    made = task(limit=3 * SIZE * SIZE * 4)
    assert not made.images.all_fit
    found = []
    for step in range(96):
        found.append(made.photographs.frame(step))
        assert found[-1] in made.photographs.drawable.tolist()
    assert {*found} == made.offered == {*made.frames.tolist()}
    fresh = task(limit=3 * SIZE * SIZE * 4)
    assert [fresh.photographs.frame(step) for step in (77, 5, 64)] == [
        found[step] for step in (77, 5, 64)
    ]
    assert fresh.step(40, 1.0, 100)["finite"] == 1


def halves(height=SIZE, width=SIZE):
    """Masks that keep the left half."""
    return [(torch.arange(width) < width // 2).expand(height, width) for _ in range(8)]


@pytest.mark.parametrize("channels", [3, 4])
def test_what_masks_ignore_of_photographs_makes_no_difference(task, channels):
    kept = halves()
    one = pictures(channels=channels, kept=kept)
    ignored = [
        torch.where(keep[..., None], image, noise(SIZE, SIZE, seed=99, channels=channels))
        for image, keep in zip(one.images, kept, strict=True)
    ]
    seen = [
        torch.where(keep[..., None], noise(SIZE, SIZE, seed=99, channels=channels), image)
        for image, keep in zip(one.images, kept, strict=True)
    ]
    states = [
        state_of(stepped(task(images=images, exposures=6), 4))
        for images in (one, Pictures(ignored, kept), Pictures(seen, kept))
    ]
    assert same(states[0], states[1]) and not same(states[0], states[2])


@pytest.mark.parametrize("channels", [3, 4])
def test_masks_that_ignore_all_leave_no_gradient(task, channels):
    nothing = [torch.zeros(SIZE, SIZE, dtype=torch.bool) for _ in range(8)]
    made = task(images=pictures(channels=channels, kept=nothing))
    slopes = []
    made.densify.observe = lambda rows, slope, absolute: slopes.append(slope)
    assert made.step(0, 1.0, 10)["loss"] == pytest.approx(0, abs=1e-6)
    assert len(slopes[0]) and not slopes[0].any()


def test_masks_that_keep_all_change_no_step(task, tmp_path):
    Image.fromarray(np.full((SIZE, SIZE), 255, np.uint8)).save(tmp_path / "mask.png")
    masks = [Mask(tmp_path / "mask.png", "keep", SIZE, SIZE)] * 8
    masked, plain = task(masks), task()
    assert masked.images.ignoring and not plain.images.ignoring
    assert same(state_of(stepped(masked, 3)), state_of(stepped(plain, 3)))


def test_the_error_is_of_the_photograph_on_a_background_of_each_step_and_of_its_alpha(task):
    made, losses = task(), []
    for step in (0, 1):
        frame = made.photographs.frame(step)
        background = torch.rand(3, generator=step_generator(3, step))
        pixels = made.images.image(frame).float() / 255
        target = pixels[..., :3] * pixels[..., 3:] + (1 - pixels[..., 3:]) * background
        with torch.no_grad():
            view = splat_view(
                made.trained.gaussians, made.cameras, frame, background, 0, made.trained.near
            )
        unlike = 1 - ssim(view.color[None], target[None])
        losses.append(0.8 * (view.color - target).abs().mean() + 0.2 * unlike)
        losses[-1] += 0.1 * (view.opacity - pixels[..., 3]).abs().mean()
        # On planned steps without end, so that it is the first of them: no band is open.
        found = made.step(step, 0.0, 10**9)
        assert found["loss"] == pytest.approx(float(losses[-1]), rel=1e-5)
        assert found["rays"] == SIZE * SIZE and found["samples"] == len(view.seen.rows)
    assert losses[0] != losses[1]


def test_opaque_photographs_are_compared_on_the_run_s_background(task):
    made = task(images=pictures(channels=3), background=(0.2, 0.4, 0.6))
    frame = made.photographs.frame(0)
    behind = torch.tensor([0.2, 0.4, 0.6])
    with torch.no_grad():
        near = made.trained.near
        color = splat_view(made.trained.gaussians, made.cameras, frame, behind, 0, near).color
    target = made.images.image(frame).float() / 255
    expected = splat_task.image_error(color[None], target[None])
    assert made.step(0, 0.0, 10**9)["loss"] == pytest.approx(float(expected), rel=1e-5)


def test_pictures_grow_with_training_where_they_are_not_small_to_begin_with(task, monkeypatch):
    made = task()
    assert [made.photographs.coarser(2, part) for part in (0.0, 0.3)] == [1, 1]
    monkeypatch.setattr(splat_photographs, "FEWEST_PIXELS", SIZE // 4)
    parts = {0: 16, 4: 16, 5: 64, 19: 64, 20: 256, 99: 256}
    for step, pixels in parts.items():
        assert made.step(step, 1.0, 100)["rays"] == pixels
    monkeypatch.setattr(splat_photographs, "FEWEST_PIXELS", SIZE // 2)
    assert [made.photographs.coarser(2, part) for part in (0.0, 0.3)] == [2, 1]


def test_bands_of_harmonics_open_one_after_the_other(task, monkeypatch):
    made, degrees, view = task(), [], splat_task.splat_view

    def noting(splats, cameras, index, background, degree, *arguments, **options):
        degrees.append(degree)
        return view(splats, cameras, index, background, degree, *arguments, **options)

    monkeypatch.setattr(splat_task, "splat_view", noting)
    for step in (0, 9, 10, 39, 40, 70, 99, 150):
        made.step(step, 1.0, 100)
    assert degrees == [0, 0, 1, 1, 2, 2, 2, 2]  # there are no more than two


def test_shorter_runs_have_larger_rates_which_are_small_in_the_end(task):
    made, steps = task(exposures=6), []
    made.optimiser.step = lambda *arguments: steps.append(arguments)
    exposed = []
    made.beside["exposure"].step = lambda *arguments: exposed.append(arguments)
    plans = [(0, 0.5, 30_000), (15_000, 1.0, 60_000), (0, 1.0, 15_000), (9, 1.0, 10), (10, 1.0, 11)]
    for step, rate, planned in plans:
        made.step(step, rate, planned)
    factors = [0.5, 1.0, 2**0.5, 1.6, 1.6 * 0.3]
    for (step, _, planned), found, factor in zip(plans, steps, factors, strict=True):
        assert found == pytest.approx((step + 1, step / planned, factor))
    rates = [0.5, 1.0, 1.0, 1.0, 0.3]
    expected = [(step, rate) for (step, *_), rate in zip(plans, rates, strict=True)]
    assert exposed == [pytest.approx(each) for each in expected]


def test_a_strategy_sees_the_view_then_pulls_and_changes_their_number_after_the_step(task):
    made, done = task(), []
    made.densify.observe = lambda *_: done.append("observe")
    made.densify.pull = lambda: done.append("pull")
    made.optimiser.step = lambda *_: done.append("step")
    made.densify.refine = done.append
    made.step(0, 1.0, 20), made.step(7, 1.0, 20)
    assert done[:3] == done[4:7] == ["observe", "pull", "step"]
    moments = done[3], done[7]
    assert [(now.step, now.planned, now.progress) for now in moments] == [
        (1, 20, 0.05),
        (8, 20, 0.4),
    ]
    assert len(list(moments[0].looks(2, moments[0].random))) == 2


@pytest.mark.parametrize("channels", [3, 4])
def test_how_bright_each_photograph_came_out_is_found(task, channels):
    """Of views of the Gaussians themselves, as they are, taken in several lights."""
    stops = torch.tensor([[0.8, 0.3, 0.5], [-0.6, 0.2, -0.4], [-0.2, -0.5, -0.1]])
    plain, chosen, images = task(), [5, 1, 3], {}
    opaque = task(images=pictures(channels=3)).backdrop
    for frame, light in zip(chosen, stops, strict=True):
        camera = plain.cameras.select(torch.tensor([frame]))
        behind = torch.zeros(3) if channels == 4 else opaque
        with torch.no_grad():
            view = plain._view(camera, behind, 0.0)
        color, alpha = view.color, view.opacity[..., None]
        color = at_mean_exposure(
            color / alpha.clamp_min(1e-3) if channels == 4 else color, -light.expand_as(color)
        )
        both = torch.cat([color, alpha], 2)[..., :channels]
        images[frame] = (255 * both.clamp(0, 1)).round().to(torch.uint8)
    full = Pictures([images.get(frame, images[5]) for frame in range(8)])
    made = task(images=full, train=chosen, exposures=3)
    made.optimiser.step = lambda *_: None
    stepped(made, 60, 10**9)
    found = made.trained.exposure.stops.detach()
    torch.testing.assert_close(found, stops - stops.mean(0), atol=0.06, rtol=0)
    assert float(found.mean(0).abs().max()) < 1e-6


@pytest.mark.parametrize("limit", [1 << 24, 3 * SIZE * SIZE * 4])
def test_finding_out_how_long_steps_take_changes_nothing(task, limit):
    made, plain = task(limit=limit, exposures=6), task(limit=limit, exposures=6)
    before = deepcopy(state_of(made))
    assert 0 < made.seconds_a_step() < 10
    assert same(state_of(made), before)
    assert same(state_of(stepped(made, 3)), state_of(stepped(plain, 3)))


def test_steps_are_foreseen_with_as_many_gaussians_as_there_may_be(task, monkeypatch):
    made, tried = task(), []
    clock, step = SimpleNamespace(now=0.0), SplatTask.step
    waits = iter([9.0, 4.0, 1.0, 2.0, 3.0, 9.0])

    def slow(self, number, rate, planned=None):
        clock.now += next(waits)
        tried.append((len(self.trained.gaussians), self.degree, number / planned))
        return step(self, number, rate, planned)

    monkeypatch.setattr(splat_task, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(SplatTask, "step", slow)
    assert made.seconds_a_step() == pytest.approx(0.85 * 2.5)  # of the four quickest
    assert [count for count, *_ in tried] == [MOST] * 6
    assert all(degree == 2 and 0.5 < part < 0.51 for _, degree, part in tried)


def test_the_held_out_view_is_measured_as_it_is_shown(task):
    made = task()
    frame = int(made.scene.splits["val"][0])
    color = made.trained.color(made.cameras, frame)
    true = shown_image(made.images.image(frame), made.trained.settings.background)
    assert made.validate(0)["psnr"] == pytest.approx(psnr_8bit(color, true))
