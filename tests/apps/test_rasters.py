import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator

from polyfield.apps import rasters
from polyfield.apps.rasters import Raster, RasterSource, read_raster
from polyfield.apps.signal_source import Source
from polyfield.cuda.errors import InputError

LARGE = 1 << 30


def noise(*shape, seed=0):
    random = Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=random, dtype=torch.uint8)


def save(path, pixels):
    Image.fromarray(pixels.numpy()).save(path)
    return path


def test_an_image_is_one_frame_of_its_pixels(tmp_path):
    pixels = noise(5, 7, 3)
    raster = read_raster(save(tmp_path / "a.png", pixels), None, LARGE)
    assert torch.equal(raster.pixels, pixels[None])
    assert (raster.kind, raster.values, raster.kept) == ("image", "srgb", None)
    torch.testing.assert_close(raster.frame(0), pixels / 255)


def test_alpha_is_a_fourth_channel(tmp_path):
    pixels = noise(5, 7, 4)
    raster = read_raster(save(tmp_path / "a.png", pixels), None, LARGE)
    assert torch.equal(raster.pixels, pixels[None])


def test_a_folder_is_a_film_in_the_order_of_names(tmp_path):
    frames = noise(3, 4, 6, 3)
    for name, frame in zip(("b.png", "c.png", "a.png"), frames, strict=True):
        save(tmp_path / name, frame)
    (tmp_path / "notes.txt").write_text("none of it")
    raster = read_raster(tmp_path, None, LARGE)
    assert raster.kind == "film" and torch.equal(raster.pixels, frames[[2, 0, 1]])


def test_frames_of_two_sizes_and_folders_without_any_are_refused(tmp_path):
    with pytest.raises(InputError, match="holds no images"):
        read_raster(tmp_path, None, LARGE)
    save(tmp_path / "a.png", noise(4, 6, 3))
    save(tmp_path / "b.png", noise(4, 5, 3))
    with pytest.raises(InputError, match="b.png: 5x4 pixels; expected 6x4"):
        read_raster(tmp_path, None, LARGE)


def test_what_does_not_fit_into_memory_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", noise(40, 60, 3))
    monkeypatch.setattr(rasters, "decode", None)
    for signal in (path, tmp_path):
        with pytest.raises(InputError, match="GB when it is decoded"):
            read_raster(signal, None, 40 * 60 * 3 - 1)


def test_black_pixels_of_the_mask_are_left_out(tmp_path):
    path = save(tmp_path / "a.png", noise(4, 6, 3))
    mask = torch.full((4, 6), 255, dtype=torch.uint8)
    mask[1:3, 2:5] = 0
    kept = read_raster(path, save(tmp_path / "mask.png", mask), LARGE).kept
    assert torch.equal(kept, mask > 0)
    with pytest.raises(InputError, match="5x4 pixels; expected 6x4"):
        read_raster(path, save(tmp_path / "mask.png", mask[:, :5]), LARGE)
    with pytest.raises(InputError, match="ignores every pixel"):
        read_raster(path, save(tmp_path / "mask.png", 0 * mask), LARGE)


def film(seed=0):
    return Raster(noise(4, 6, 9, 3, seed=seed), kind="film")


def test_points_are_the_middles_of_pixels_and_of_frames():
    source = RasterSource(film(), 0)
    assert isinstance(source, Source)
    x, wanted = source.batch(0, source.count)
    # Back from places to pixels: the longer side is the cube's, time goes from 0 to 1.
    column, row, frame = (x * torch.tensor([9.0, 9.0, 4.0]) - 0.5).round().long().unbind(1)
    torch.testing.assert_close(wanted, source.raster.pixels[frame, row, column] / 255)
    exact = torch.stack([(column + 0.5) / 9, (row + 0.5) / 9, (frame + 0.5) / 4], 1)
    torch.testing.assert_close(x, exact)


def test_the_longer_side_is_the_cube_s_also_where_it_stands_upright():
    x, _ = RasterSource(Raster(noise(1, 9, 6, 3)), 0).batch(0, 54)
    torch.testing.assert_close(x.amax(0), torch.tensor([5.5 / 9, 8.5 / 9]))


def test_every_pixel_comes_once_before_any_comes_again():
    source = RasterSource(film(), 3)
    epoch = torch.cat([source.batch(step, 54)[0] for step in range(4)])
    assert len(epoch.unique(dim=0)) == len(epoch) == source.count == 216
    again = torch.cat([source.batch(step, 54)[0] for step in range(4, 8)])
    assert len(again.unique(dim=0)) == 216 and not torch.equal(epoch, again)


def test_a_batch_is_a_function_of_seed_and_step_alone():
    one, other = RasterSource(film(), 3), RasterSource(film(), 3)
    one.batch(0, 50)
    for step in (7, 2):
        for a, b in zip(one.batch(step, 50), other.batch(step, 50), strict=True):
            assert torch.equal(a, b)
    assert not torch.equal(RasterSource(film(), 4).batch(2, 50)[0], one.batch(2, 50)[0])


def test_of_very_many_pixels_batches_are_drawn(monkeypatch):
    monkeypatch.setattr(rasters, "MOST_SHUFFLED", 100)
    source = RasterSource(film(), 3)
    x, wanted = source.batch(5, 64)
    assert len(x) == 64 and torch.equal(RasterSource(film(), 3).batch(5, 64)[0], x)
    assert not torch.equal(source.batch(6, 64)[0], x)
    column, row, frame = (x * torch.tensor([9.0, 9.0, 4.0]) - 0.5).round().long().unbind(1)
    torch.testing.assert_close(wanted, source.raster.pixels[frame, row, column] / 255)


def test_nothing_is_learned_where_the_mask_is_black():
    kept = torch.ones(6, 9, dtype=torch.bool)
    kept[2:5, 3:7] = False
    raster = Raster(noise(4, 6, 9, 3), kept, kind="film")
    source = RasterSource(raster, 0)
    assert source.count == 4 * int(kept.sum())
    x, wanted = source.batch(0, 1000)
    column, row, frame = (x * torch.tensor([9.0, 9.0, 4.0]) - 0.5).round().long().unbind(1)
    assert len(x) == source.count and kept[row, column].all()
    torch.testing.assert_close(wanted, raster.pixels[frame, row, column] / 255)
    places, weights = source.variation(Generator().manual_seed(0))
    assert len(places) == len(weights) == source.count


def test_light_is_learned_as_the_logarithm_of_one_more():
    light = torch.tensor([[[[0.0, 1.0, 30.0]], [[-0.5, 0.25, 2.0]]]])
    source = RasterSource(Raster(light), 0)
    assert source.raster.values == "linear"
    _, wanted = source.batch(0, 2)
    expected = light.clamp_min(0).log1p().view(2, 3)
    assert {tuple(row) for row in wanted.tolist()} == {tuple(row) for row in expected.tolist()}


def test_variation_is_where_edges_are_and_where_things_move():
    frames = torch.zeros(3, 16, 16, 3, dtype=torch.uint8)
    frames[:, :, 8:] = 200  # an edge that stays
    frames[2, 2:4, 2:4] = 255  # and something that appears
    source = RasterSource(Raster(frames, kind="film"), 0)
    x, weights = source.variation(Generator().manual_seed(0))
    by_place = weights.view(3, 16, 16)
    assert x.shape == (768, 3)
    assert by_place[0, 10, 7] > 0 and by_place[0, 10, 3] == 0
    assert by_place[1, 2, 2] > 0.5 and by_place[0, 2, 2] == 0
    still = RasterSource(Raster(frames[:1]), 0).variation(Generator())[1].view(16, 16)
    assert still[10, 7] > 0 and still[2, 2] == 0


def test_of_very_many_pixels_kernels_are_placed_by_some(monkeypatch):
    monkeypatch.setattr(rasters, "PLACES", 50)
    x, weights = RasterSource(film(), 0).variation(Generator().manual_seed(0))
    assert len(x) == len(weights) == 50


def test_the_watched_figure_is_the_psnr_of_rounded_pixels():
    source = RasterSource(film(), 0)
    truth = {tuple(x.tolist()): v for x, v in zip(*source.batch(0, source.count), strict=True)}

    def off(x):
        return torch.stack([truth[tuple(each.tolist())] for each in x]) + 10 / 255

    found = source.watch(off)["psnr"]
    square = np.minimum(10, 255 - source.raster.pixels.numpy().astype(int)) / 255
    assert found == pytest.approx(-10 * np.log10((square**2).mean()), abs=1e-3)
