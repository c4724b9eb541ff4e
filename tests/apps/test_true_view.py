"""What is measured of a view, by the meaning of its mask, and what `eval` says of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from polyfield.apps.eval import mean_color, measure, summary
from polyfield.apps.images import scene_images
from polyfield.apps.mask_files import Mask
from polyfield.apps.scene import load_scene
from polyfield.apps.settings import settings_of
from polyfield.apps.trained import build
from polyfield.apps.true_view import TrueView, shown_image, true_view
from polyfield.cuda.errors import InputError
from polyfield.fields.table import FIELDS, arguments_of
from polyfield.render.lpips import PerceptualNetwork
from polyfield.render.metrics import psnr_8bit, ssim

WHITE = (1.0, 1.0, 1.0)
FRAMES = 8  # 6 to train, 1 of val, 1 of test


@pytest.fixture
def masked(disc_scene, tmp_path):
    """The scene with the same mask for all frames."""

    def make(values, meaning):
        Image.fromarray(values).save(tmp_path / "mask.png")
        mask = Mask(tmp_path / "mask.png", meaning, 16, 16)
        scene = load_scene(disc_scene)
        return replace(scene, masks=(mask,) * FRAMES)

    return make


def ramp():
    return np.arange(256, dtype=np.uint8).reshape(16, 16)


def test_without_a_mask_every_pixel_counts_on_the_background(disc_scene):
    scene = load_scene(disc_scene)
    images = scene_images(scene, 1 << 24)
    truth = true_view(scene, images, 0, WHITE)
    assert truth.kept is None and truth.share == 1 and truth.measurable
    assert torch.equal(truth.color, shown_image(images.image(0), WHITE))


@pytest.mark.parametrize("meaning", ["keep", "ignore"])
def test_ignored_pixels_do_not_count_and_the_others_are_on_the_background(masked, meaning):
    scene = masked(ramp(), meaning)
    images = scene_images(scene, 1 << 24)
    truth = true_view(scene, images, 0, WHITE)
    black = torch.from_numpy(ramp() == 0)
    assert torch.equal(truth.kept, ~black if meaning == "keep" else black)
    assert torch.equal(truth.color, shown_image(images.image(0), WHITE))


def test_an_object_s_pixels_count_with_the_colours_of_the_photograph(masked, disc_scene):
    opaque = [image for image in load_scene(disc_scene).image_paths]
    scene = masked(np.where(ramp() > 99, ramp(), 0).astype(np.uint8), "object")
    images = scene_images(scene, 1 << 24)
    for frame in (0, 3):
        truth = true_view(scene, images, frame, WHITE)
        photograph = np.asarray(Image.open(opaque[frame])).astype(np.float32)
        shown = torch.from_numpy(ramp().astype(np.float32) * photograph[..., 3] / 255).round()
        assert torch.equal(truth.kept, shown > 127)
        assert truth.kept.any() and not truth.kept.all()
        assert np.allclose(truth.color.numpy() * 255, photograph[..., :3])


def test_half_of_a_pixel_s_mask_is_not_yet_the_object(masked):
    scene = masked(np.full((16, 16), 127, np.uint8), "object")
    assert not true_view(scene, scene_images(scene, 1 << 24), 0, WHITE).kept.any()


def test_a_view_can_be_measured_where_a_window_has_its_middle():
    kept = torch.zeros(16, 16, dtype=torch.bool)
    kept[:5] = kept[-5:] = kept[:, :5] = kept[:, -5:] = True
    assert not TrueView(torch.zeros(16, 16, 3), kept).measurable
    kept[5, 10] = True
    view = TrueView(torch.zeros(16, 16, 3), kept)
    assert view.measurable and view.share == (256 - 36 + 1) / 256


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("width", [15, 16])
def test_its_two_halves_are_the_whole_and_share_no_pixel(kept, width):
    some = torch.arange(16 * width).view(16, width) % 3 > 0 if kept else None
    view = TrueView(torch.rand(16, width, 3), some)
    left, right = view.half(False).kept, view.half(True).kept
    assert torch.equal(left | right, torch.ones(16, width) > 0 if some is None else some)
    assert not (left & right).any() and not left[:, width // 2 :].any() and left.any()
    assert not right[:, : width // 2].any() and right[:, width // 2].any()


@pytest.mark.parametrize("stride", [3, 5, 9])
@pytest.mark.parametrize("meaning", [None, "keep", "object"])
def test_of_every_third_pixel_it_shows_what_cameras_see_there(masked, meaning, stride):
    scene = masked(ramp(), meaning or "keep")
    scene = scene if meaning else replace(scene, masks=())
    images = scene_images(scene, 1 << 24)
    whole, some = (true_view(scene, images, 2, WHITE, step) for step in (1, stride))
    camera = scene.cameras.select(torch.tensor([2]))
    grid = torch.cartesian_prod(*[torch.arange(16 // stride)] * 2).flip(1) + 0.5
    which = torch.zeros(len(grid), dtype=torch.int64)
    _, directions = camera.every(stride).rays(which, grid.double())
    pixels, _ = camera.project(which, camera.camera_to_world[0, :, 3] + directions)
    torch.testing.assert_close(pixels % 1, torch.full_like(pixels, 0.5), atol=1e-6, rtol=0)
    column, row = pixels.long().T
    assert torch.equal(some.color.view(-1, 3), whole.color[row, column])
    if meaning:
        assert torch.equal(some.kept.flatten(), whole.kept[row, column])


def test_a_tall_image_is_converted_to_its_last_row():
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (300, 2, 4), generator=random, dtype=torch.uint8)
    color, alpha = pixels[..., :3] / 255, pixels[..., 3:] / 255
    torch.testing.assert_close(shown_image(pixels, WHITE), color * alpha + 1 - alpha)


@pytest.fixture(scope="module")
def trained(disc_scene):
    scene = load_scene(disc_scene)
    sizes = {"levels": 2, "features": 2, "log2_table_size": 6, "finest_resolution": 16}
    arguments = arguments_of(FIELDS["hash-grid"].arguments(**sizes))
    settings = settings_of(scene, "hash-grid", arguments, 3, 1 << 14, 1 << 24)
    return build(settings, torch.device("cpu"))


def half():
    values = np.zeros((16, 16), np.uint8)
    values[:, 6:] = 255
    return values


@pytest.mark.parametrize("meaning", ["keep", "object"])
def test_eval_measures_what_counts_and_says_what_that_was(masked, trained, meaning):
    scene = masked(half(), meaning)
    images = scene_images(scene, 1 << 24)
    result = measure(trained, scene, images, "test")
    frame = int(scene.splits["test"][0])
    cameras = scene.cameras.transformed(scene.to_field)
    color = trained.view(cameras, frame).color
    photograph = images.image(frame).float() / 255
    kept = torch.from_numpy(half() > 0)
    truth = photograph[..., :3]
    if meaning == "keep":
        truth = truth * photograph[..., 3:] + 1 - photograph[..., 3:]
    else:
        kept &= photograph[..., 3] * 255 > 127
    found = result.images[scene.frame_names[frame]]
    assert found["psnr"] == pytest.approx(psnr_8bit(color, truth, kept), abs=1e-6)
    assert found["ssim"] == pytest.approx(ssim(color, truth, kept), abs=1e-6)
    assert found["share"] == pytest.approx(float(kept.double().mean()))
    words = "mask above 127" if meaning == "object" else "no mask ignores"
    assert words in str(result.protocol["pixels"]) and words in summary(result)
    assert "photograph's" in str(result.protocol["ssim"]) and "% of its pixels" in summary(result)


def test_the_constant_picture_is_the_mean_of_the_pixels_that_count(masked, trained):
    scene = masked(half(), "object")
    images = scene_images(scene, 1 << 24)
    views = [true_view(scene, images, f, WHITE) for f in scene.splits["train"].tolist()]
    color = torch.stack([view.color[view.kept].double().mean(0) for view in views]).mean(0)
    torch.testing.assert_close(
        mean_color(scene, images, scene.splits["train"].tolist(), WHITE), color.float()
    )
    truth = true_view(scene, images, int(scene.splits["test"][0]), WHITE)
    expected = psnr_8bit(color.float().expand(16, 16, 3), truth.color, truth.kept)
    assert measure(trained, scene, images, "test").constant_psnr == pytest.approx(expected)


def test_lpips_sees_no_difference_where_pixels_do_not_count(masked, trained, monkeypatch):
    pairs = []
    monkeypatch.setattr(
        PerceptualNetwork, "distance", lambda network, a, b: (pairs.append((a, b)), 0.5)[1]
    )
    scene = masked(half(), "keep")
    images = scene_images(scene, 1 << 24)
    result = measure(trained, scene, images, "test", network=PerceptualNetwork((), ()))
    differs = (pairs[0][0] != pairs[0][1]).any(2)
    assert result.lpips == 0.5 and differs[:, 6:].any() and not differs[:, :6].any()
    assert "set to the photograph's" in str(result.protocol["LPIPS"])


def test_without_masks_eval_says_that_all_pixels_count(disc_scene, trained):
    scene = load_scene(disc_scene)
    result = measure(trained, scene, scene_images(scene, 1 << 24), "test")
    assert result.protocol["pixels"] == "all" and result.images["r_0"]["share"] == 1
    assert "its pixels" not in summary(result) and "photograph" not in summary(result)


@pytest.mark.parametrize("within", [1e9, 1e-9])
def test_views_that_masks_ignore_are_left_out_and_counted(masked, trained, tmp_path, within):
    scene = masked(half(), "keep")
    Image.fromarray(0 * half()).save(tmp_path / "none.png")
    nothing = Mask(tmp_path / "none.png", "keep", 16, 16)
    masks = list(scene.masks)
    masks[0] = masks[2] = masks[5] = nothing
    scene = replace(scene, masks=tuple(masks))
    images = scene_images(scene, 1 << 24)
    result = measure(trained, scene, images, "train", within=within)
    measured = ["r_1", "r_3", "r_4"] if within > 1 else ["r_1"]
    assert list(result.images) == measured
    assert result.psnr == pytest.approx(np.mean([v["psnr"] for v in result.images.values()]))
    left_out = 3 if within > 1 else 1  # as many as were looked at
    assert f"of {6 - left_out}, {left_out} left out" in str(result.protocol["views"])
    scene = replace(scene, masks=(nothing,) * FRAMES)
    with pytest.raises(InputError, match="ignore all of the 6 views of train"):
        measure(trained, scene, scene_images(scene, 1 << 24), "train")
