"""The batches that training draws: which pixels, through which points, on which background."""

import itertools
import time
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from polyfield.apps import radiance_task, watched_view
from polyfield.apps.images import ImageStore
from polyfield.apps.mask_files import Mask
from polyfield.apps.radiance_task import RadianceTask
from polyfield.apps.scene import load_scene
from polyfield.apps.settings import settings_of
from polyfield.apps.train_options import Pixel
from polyfield.apps.trained import build
from polyfield.apps.true_view import shown_image
from polyfield.cuda.errors import InputError
from polyfield.fields.table import FIELDS, arguments_of
from polyfield.render.exposure import at_mean_exposure
from polyfield.render.metrics import psnr_8bit

CPU = torch.device("cpu")
SIZES = {"levels": 2, "features": 2, "log2_table_size": 6, "finest_resolution": 16}


@pytest.fixture
def task(disc_scene):
    def make(masks=(), limit=1 << 24, train=None, codes=0, **changes):
        scene = replace(load_scene(disc_scene), masks=tuple(masks))
        if train:
            scene = replace(scene, splits=scene.splits | {"train": torch.tensor(train)})
        light = {"appearance": codes, "photographs": 3} if codes else {}
        arguments = arguments_of(FIELDS["hash-grid"].arguments(**SIZES, **light))
        settings = settings_of(scene, "hash-grid", arguments, 3, 1 << 14, 1 << 24)
        device = torch.device("cpu")
        images = ImageStore(scene.image_paths, scene.sizes, 4, limit, masks=masks)
        return RadianceTask(build(replace(settings, **changes), device), scene, images, device)

    return make


def places(made, origins, directions):
    """Of each ray: the frame it came from, and the point of the image it went through."""
    cameras = made.cameras
    frame = torch.cdist(origins, cameras.camera_to_world[:, :, 3]).argmin(1)
    point = cameras.project(frame, origins + directions)[0]
    return frame, point


@pytest.mark.parametrize("pixel", get_args(Pixel))
def test_every_ray_is_told_the_colour_of_the_pixel_it_goes_through(task, pixel):
    made = task(pixel=pixel)
    origins, directions, colors, *_ = made._batch(5)
    frame, point = places(made, origins, directions)
    column, row = (point - 1e-4).floor().long().clamp_min(0).unbind(1)
    for f, y, x, color in zip(frame, row, column, colors, strict=True):
        assert torch.equal(made.images.image(int(f))[y, x].float() / 255, color)


def test_rays_go_through_centres_by_default(task):
    made = task()
    _, point = places(made, *made._batch(1)[:2])
    torch.testing.assert_close(point.remainder(1), torch.full_like(point, 0.5), atol=1e-3, rtol=0)


def test_points_fill_their_pixels(task):
    made = task(pixel="point")
    _, point = places(made, *made._batch(1)[:2])
    inside = point.remainder(1)
    assert inside.min() < 0.2 and inside.max() > 0.8 and (inside.mean() - 0.5).abs() < 0.1


def test_two_points_of_one_pixel_stand_half_a_pixel_apart_on_one_background(task):
    made = task(pixel="mean")
    origins, directions, colors, background, *_ = made._batch(1)
    frame, point = places(made, origins, directions)
    first, second = point[::2], point[1::2]
    assert len(first) == len(second) == made.rays // 2
    assert torch.equal(frame[::2], frame[1::2])
    assert torch.equal(background[::2], background[1::2])
    assert torch.equal(colors[::2], colors[1::2])
    torch.testing.assert_close(
        (first - second).abs(), torch.full_like(first, 0.5), atol=1e-3, rtol=0
    )


def test_a_batch_is_a_function_of_seed_and_step(task):
    for one, again, other in zip(task()._batch(7), task()._batch(7), task()._batch(8), strict=True):
        assert torch.equal(one, again) and not torch.equal(one, other)


CHOSEN = [5, 1, 3]  # training frames, in an order of their own


def photographs(batch):
    """Of each ray, the place of its frame among those that are trained on."""
    return torch.tensor([CHOSEN.index(frame) for frame in batch.frames.tolist()])


def test_rays_are_to_show_what_a_photograph_of_mean_exposure_would(task):
    made = task(train=CHOSEN, exposures=3)
    stops = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        made.trained.exposure.stops.copy_(stops)
    batch = made._batch(2)
    target, background = made._wanted(batch)
    opacity = batch.pixels[:, 3:]
    assert opacity.min() == 0 and opacity.max() == 1
    shown = at_mean_exposure(batch.pixels[:, :3], stops[photographs(batch)])
    torch.testing.assert_close(target, shown * opacity + batch.background * (1 - opacity))
    assert target.requires_grad and background is batch.background


def test_behind_transparent_pixels_lies_what_is_learned_and_they_do_not_teach_it(task):
    made = task(learned_background=True)
    with torch.no_grad():
        made.trained.environment.weights.normal_(generator=torch.Generator().manual_seed(0))
    batch = made._batch(2)
    target, background = made._wanted(batch)
    torch.testing.assert_close(background, made.trained.environment(batch.directions))
    opacity = batch.pixels[:, 3:]
    expected = batch.pixels[:, :3] * opacity + background * (1 - opacity)
    torch.testing.assert_close(target, expected)
    assert background.requires_grad and not target.requires_grad


def test_the_field_is_seen_in_the_light_of_each_ray_s_photograph(task):
    made = task(train=CHOSEN, codes=4)
    field = made.trained.field
    with torch.no_grad():
        field.codes.normal_(generator=torch.Generator().manual_seed(0))
    batch = made._batch(2)
    found = made._field_of(batch).encode_directions(batch.directions)
    expected = field.encode_directions(batch.directions, field.codes[photographs(batch)])
    assert torch.equal(found, expected)
    found.sum().backward()
    assert field.codes.grad.abs().sum(1).min() > 0
    plain = task()
    assert plain._field_of(plain._batch(2)) is plain.trained.field


def test_measured_depths_become_distances_along_rays(task, monkeypatch):
    asked = []

    class Depths:
        def __init__(self, scene):
            pass

        def gather(self, frames, points, sizes):
            asked.append((frames, points, sizes))
            return torch.where(frames == 3, 0.0, 2.5)

    monkeypatch.setattr(radiance_task, "DepthImages", Depths)
    made = task(depth=0.3)
    batch = made._batch(2)
    made.height = made.height + 4
    measured = made._measured(batch)
    ((frames, points, sizes),) = asked
    assert torch.equal(frames, batch.frames) and torch.equal(points, batch.points)
    assert (sizes == torch.tensor([16, 20])).all() and measured.weight == 0.3
    at = batch.origins + measured.distance[:, None] * batch.directions
    _, depth = made.cameras.project(batch.frames, at)
    expected = torch.where(frames == 3, 0.0, 2.5 * made.trained.to_field.scale)
    torch.testing.assert_close(depth, expected, atol=1e-5, rtol=1e-5)
    behind = made._measured(batch._replace(directions=-batch.directions))
    assert not behind.distance.any()
    assert task()._measured(batch) is None


@pytest.fixture
def network(disc_scene):
    """A task of NeRF's network that sees cones and opens its frequencies in 40 steps."""

    def make(**sizes):
        scene = load_scene(disc_scene)
        small = {"layers": 2, "width": 16, "position_frequencies": 4, "direction_frequencies": 1}
        arguments = arguments_of(FIELDS["mlp"].arguments(**small, **sizes))
        settings = settings_of(scene, "mlp", arguments, 3, 1 << 10, 1 << 24)
        images = ImageStore(scene.image_paths, scene.sizes, 4, 1 << 24)
        return RadianceTask(build(settings, CPU), scene, images, CPU)

    return make


@pytest.mark.parametrize("integrated", [0, 1])
def test_rays_are_cones_for_a_field_that_is_seen_through_them(network, integrated, monkeypatch):
    made, seen = network(integrated=integrated), []
    learn = radiance_task.learn_rays

    def noting(*arguments, **options):
        seen.append((arguments[2], arguments[6].pixel))
        return learn(*arguments, **options)

    monkeypatch.setattr(radiance_task, "learn_rays", noting)
    made.step(0, 1.0)
    ((origins, pixel),) = seen
    cameras = made.cameras
    view = made.trained.sampling_of(cameras, 2)
    if not integrated:
        assert pixel == view.pixel == 0
        return
    radii = 2 / 12**0.5 / cameras.focal.prod(1).sqrt()
    frame = torch.cdist(origins, cameras.camera_to_world[:, :, 3]).argmin(1)
    torch.testing.assert_close(pixel, radii[frame])
    assert view.pixel == pytest.approx(float(radii[2]))
    assert view == replace(made.trained.settings.sampling, pixel=view.pixel)


def test_frequencies_open_step_by_step_and_a_state_brings_how_far(network):
    made, other = network(coarse_steps=40), network(coarse_steps=40)
    for step, opened in ((0, 0.0), (10, 1.0), (39, 3.9), (50, 4.0)):
        made.step(step, 1.0)
        assert float(made.trained.field.opened) == pytest.approx(opened)
    made.step(20, 1.0)
    other.restore(*made.state())
    assert float(other.trained.field.opened) == 2.0


def test_the_loss_that_is_asked_for_is_minimised(task):
    losses = {kind: task(loss=kind).step(1, 0.0)["loss"] for kind in ("squared", "huber")}
    assert 0 < losses["huber"] < losses["squared"]  # errors of a fresh field exceed the edge


def test_all_rays_of_the_first_step_fit_the_batch(task):
    for samples in (1 << 12, 1 << 14, 1 << 16):
        made = task(samples_per_step=samples)
        assert made.rays % 16 == 0 and made.rays * 256 <= max(samples, 16 * 256)


def drawn(made, step):
    """The pixels of a batch: frame, row, column of each ray that is well within its pixel."""
    frame, point = places(made, *made._batch(step)[:2])
    assert len(frame) == made.rays
    clear = ((point.remainder(1) - 0.5).abs() < 0.49).all(1)  # rays are float32
    column, row = point[clear].floor().long().unbind(1)
    return frame[clear], row, column


@pytest.fixture
def masked(tmp_path):
    """Masks of the eight frames of the scene, of which these many pixels are kept."""

    def make(*counts, meaning="keep"):
        masks = []
        for index in range(8):
            keep = np.zeros(256, np.uint8)
            order = np.random.default_rng(index).permutation(256)
            keep[order[: counts[index % len(counts)]]] = 255
            values = (keep if meaning == "keep" else 255 - keep).reshape(16, 16)
            Image.fromarray(values).save(tmp_path / f"{index}.png")
            masks.append(Mask(tmp_path / f"{index}.png", meaning, 16, 16))
        return masks

    return make


@pytest.mark.parametrize("pixel", get_args(Pixel))
@pytest.mark.parametrize("meaning", ["keep", "ignore"])
@pytest.mark.parametrize("count", [1, 40, 250])
def test_no_ignored_pixel_is_ever_trained_on(task, masked, pixel, meaning, count):
    made = task(masked(count, meaning=meaning), pixel=pixel, samples_per_step=1 << 16)
    for step in range(12):
        frame, row, column = drawn(made, step)
        assert made.rays == 256 and len(frame) > 200
        assert made.images.kept(frame, row, column).all()


def test_kept_pixels_are_drawn_evenly_across_all_frames(task, masked):
    made = task(masked(10, 60, 200), samples_per_step=1 << 20)
    made.rays = 1 << 12
    times = torch.zeros(6, 256)
    for step in range(20):
        frame, row, column = drawn(made, step)
        times.index_put_((frame, row * 16 + column), torch.ones(len(frame)), accumulate=True)
    seen = times[times > 0]
    assert len(seen) == 2 * (10 + 60 + 200)
    # Each count is close to Poisson's: of 540 the most lies within five deviations.
    mean = 20 * 4096 / 540
    assert (seen - mean).abs().max() < 5 * mean**0.5
    assert 0.8 < (seen - mean).square().mean() / mean < 1.2


@pytest.mark.parametrize("limit", [1 << 24, 3 * 32 * 33])
def test_a_masked_batch_is_a_function_of_seed_and_step(task, masked, limit):
    masks = masked(3, 90)
    first, again = task(masks, limit), task(masks, limit)
    again._batch(3)  # what was drawn before does not matter
    for step in (70, 7):
        for one, other in zip(first._batch(step), again._batch(step), strict=True):
            assert torch.equal(one, other)
    assert first.images.all_fit == (limit > 1 << 20)


def test_where_one_pixel_of_one_frame_is_left_it_is_found(task, masked):
    masks = masked(0)
    alone = np.zeros((16, 16), np.uint8)
    alone[3, 11] = 1
    Image.fromarray(alone).save(masks[4].path)
    for limit in (1 << 24, 2 * 32 * 33):
        frame, row, column = drawn(task(masks, limit), 0)
        assert {*frame.tolist()} == {4} and {*row.tolist()} == {3} and {*column.tolist()} == {11}


def test_masks_that_leave_nothing_are_refused(task, masked):
    with pytest.raises(InputError, match="ignore every pixel of all training views"):
        task(masked(0))._batch(0)


def test_masks_that_keep_everything_change_no_batch(task, masked):
    for one, other in zip(task()._batch(2), task(masked(256))._batch(2), strict=True):
        assert torch.equal(one, other)


def test_the_watched_view_is_one_of_which_masks_leave_something(task, masked):
    masks = masked(256)
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(masks[6].path)  # the only one of val
    made = task(masks)
    psnr = made.validate(0)["psnr"]
    camera, truth = made.watched
    assert torch.equal(camera.camera_to_world, made.cameras.camera_to_world[:1])
    assert truth.kept.all() and np.isfinite(psnr)


def test_of_a_large_watched_view_every_third_pixel_is_compared_with_its_own_ray(task, monkeypatch):
    whole = task()
    frame = int(whole.scene.splits["val"][0])
    shown = whole.trained.color(whole.cameras, frame, samples_per_pixel=1)
    true = shown_image(whole.images.image(frame), whole.trained.settings.background)
    assert whole.validate(0)["psnr"] == pytest.approx(psnr_8bit(shown, true), abs=1e-9)
    monkeypatch.setattr(watched_view, "WATCHED_PIXELS", 16 * 16 // 9 + 1)
    some = slice(1, 15, 3)
    expected = psnr_8bit(shown[some, some], true[some, some])
    assert task().validate(0)["psnr"] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("delays", [[0.0], [0.03, 0.0], [0.0, 0.0, 0.02]])
def test_batches_do_not_depend_on_how_fast_photographs_decode(task, monkeypatch, delays):
    limit = 3 * 16 * 16 * 4
    expected, made = task(limit=limit), task(limit=limit)
    assert not made.images.all_fit and made.images.ahead == 1
    original, count = made.images._decode, itertools.count()

    def decode(frame, start):
        time.sleep(delays[next(count) % len(delays)])
        return original(frame, start)

    monkeypatch.setattr(made.images, "_decode", decode)
    for step in [*range(0, 60, 3), 5]:  # back again, as a run that is rewound goes
        for one, other in zip(made._batch(step), expected._batch(step), strict=True):
            assert torch.equal(one, other)
        if step % 4 == 0:
            made.images.image(7)  # looked at in between: it takes another's place
    fresh = task(limit=limit)
    for one, other in zip(made._batch(77), fresh._batch(77), strict=True):
        assert torch.equal(one, other)


def test_batches_draw_from_all_photographs_though_few_fit(task):
    made = task(limit=3 * 16 * 16 * 4)
    for step in range(0, 8 * 12, 8):
        assert {*places(made, *made._batch(step)[:2])[0].tolist()} <= {*made.drawable.tolist()}
    assert made.offered == {*made.frames.tolist()}


def test_the_distortion_loss_shrinks_with_the_rate(task, monkeypatch):
    made, weights = task(distortion=0.2), []
    learn = radiance_task.learn_rays

    def noting(*arguments, **more):
        weights.append(more["distortion_weight"])
        return learn(*arguments, **more)

    monkeypatch.setattr(radiance_task, "learn_rays", noting)
    for step, rate in enumerate((1.0, 0.25, 0.01)):
        made.step(step, rate)
    assert weights == pytest.approx([0.2, 0.05, 0.002])


def adaptive(task):
    """A task whose field puts its kernels where there is something before its step number 2."""
    made = task(
        field="rbf", arguments={"kernels": 12, "channels": 8, **SIZES}, samples_per_step=1 << 11
    )
    made.trained.field.encoding.settles_at = 2
    return made


def test_kernels_settle_in_their_step_and_the_optimiser_forgets_what_it_knew_of_them(task):
    made = adaptive(task)
    encoding, moments = made.trained.field.encoding, made.optimisers["field"].moments
    lattice = encoding.centers.clone()
    made.step(0, 1.0), made.step(1, 1.0)
    assert torch.equal(encoding.centers, lattice) and moments["first.encoding.features"].any()
    features, grid = encoding.features.detach().clone(), moments["first.encoding.partner.table"]
    before = grid.clone()
    seen = []
    made.optimisers["field"].step = lambda *_: seen.append(moments["first.encoding.features"].any())
    made.step(2, 1.0)
    assert (encoding.centers != lattice).any() and (encoding.features != features).any()
    assert seen == [False] and torch.equal(grid, before)


def test_a_run_that_goes_on_settles_as_one_that_was_not_interrupted(task):
    whole, parts = adaptive(task), adaptive(task)
    for step in range(4):
        whole.step(step, 1.0)
    for step in (0, 1):
        parts.step(step, 1.0)
    tensors, values = parts.state()
    again = adaptive(task)
    again.restore({name: tensor.clone() for name, tensor in tensors.items()}, values)
    for step in (2, 3):
        again.step(step, 1.0)
    for name, tensor in whole.state()[0].items():
        assert torch.equal(again.state()[0][name], tensor), name
