import json
import math
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from polyfield.apps import fit as fit_module
from polyfield.apps import loop
from polyfield.apps.checkpoint import latest
from polyfield.apps.export import Export, export
from polyfield.apps.fit import fit, summary
from polyfield.apps.fit_options import Fit
from polyfield.apps.fitted import is_fit, load_fitted, numbers_of
from polyfield.apps.formats.exr import read_exr, write_exr
from polyfield.apps.formats.films import read_film
from polyfield.apps.image_files import decode
from polyfield.apps.interruption import Interrupted
from polyfield.apps.main import main
from polyfield.apps.rasters import Raster, RasterSource
from polyfield.apps.render import Render, render
from polyfield.apps.run_folder import RunFolder
from polyfield.apps.signal_task import SignalTask
from polyfield.apps.trained import load
from polyfield.cuda.errors import InputError
from polyfield.fields.table import FIELDS
from polyfield.render.metrics import psnr_8bit

CPU = torch.device("cpu")
SIGNALS = [name for name, backend in FIELDS.items() if backend.signal is not None]


def painted(height=48, width=64, shift=0.0):
    """A rippled disc before a slope of colour, floats in [0, 1]."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    disc = (rows - 24).square() + (columns - 26 - shift).square() < 14**2
    ripples = 0.5 + 0.4 * torch.sin(columns * 0.7)
    red = torch.where(disc, ripples, columns / width)
    return torch.stack([red, 0.2 + 0.6 * disc, rows / height], 2).float()


def eight(image):
    return (image * 255).round().byte().numpy()


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("signals") / "disc.png"
    Image.fromarray(eight(painted())).save(path)
    return path


@pytest.fixture(scope="module")
def fitted(image, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    return fit(Fit(image, out=out, parameters=20_000, steps=150))


@pytest.mark.parametrize("field", SIGNALS)
def test_every_field_of_the_table_learns_an_image(image, tmp_path, field):
    steps = 400 if field == "mlp" else 120
    result = fit(Fit(image, field, parameters=20_000, steps=steps, out=tmp_path / "run"))
    assert result.psnr > 26 and result.kind == "image" and result.steps == steps
    assert result.learned <= result.parameters <= 20_000


def test_the_pictures_show_what_was_learned(fitted, image):
    shown = decode(Path(fitted.reconstruction), 3).float() / 255
    assert psnr_8bit(shown, painted()) == pytest.approx(fitted.psnr, abs=0.02)
    assert fitted.psnr > 30 and 0.9 < fitted.ssim < 1
    error = decode(Path(fitted.error), 3)
    assert error.shape == shown.shape
    wrong = (shown - painted()).abs().mean(2)
    bright = error.float().mean(2)
    assert bright[wrong > wrong.quantile(0.95)].mean() > 2 * bright[wrong < wrong.median()].mean()


def test_the_small_file_holds_the_field_and_its_bits_are_counted(fitted, image, tmp_path):
    path = Path(fitted.file)
    assert path.stat().st_size == fitted.file_bytes
    assert fitted.bits_per_pixel == pytest.approx(8 * fitted.file_bytes / (48 * 64))
    assert fitted.file_bytes < 2 * fitted.parameters  # less than a half for each
    alone = tmp_path / path.name  # without the run that it came from
    alone.write_bytes(path.read_bytes())
    shown = load_fitted(alone, CPU).frame(0, 64, 48)
    assert psnr_8bit(shown, painted()) == pytest.approx(fitted.file_psnr, abs=0.02)
    assert fitted.file_psnr == pytest.approx(fitted.psnr, abs=0.5)


def test_the_report_says_so_and_needs_nothing_else(fitted):
    page = Path(fitted.report).read_text()
    assert f"{fitted.psnr:.2f} dB" in page and "bits a pixel" in page and "disc.png" in page
    assert "What it learned" in page and "Held-out" not in page and "http://" not in page
    assert f"{fitted.psnr:.2f} dB" in summary(fitted) and fitted.report in summary(fitted)


def test_a_run_repeats_bit_by_bit_with_its_seed(image, tmp_path, fitted):
    options = Fit(image, parameters=20_000, steps=150, out=tmp_path / "again")
    again = fit(options)
    assert Path(again.file).read_bytes() == Path(fitted.file).read_bytes()
    other = fit(replace(options, seed=1, steps=20, out=tmp_path / "other"))
    assert Path(other.file).read_bytes() != Path(fitted.file).read_bytes()


@pytest.mark.parametrize("field", SIGNALS)
def test_an_interrupted_run_goes_on_to_the_same_end(image, tmp_path, monkeypatch, field):
    options = Fit(image, field, parameters=12_000, steps=30, out=tmp_path / "whole")
    whole = fit(options)
    step = SignalTask.step

    def stopping(self, number, rate, planned=None):
        if number == 17:
            raise KeyboardInterrupt
        return step(self, number, rate)

    monkeypatch.setattr("polyfield.apps.loop.CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(SignalTask, "step", stopping)
    out = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        fit(replace(options, out=out))
    monkeypatch.undo()
    assert latest(out / "checkpoints").step == 17
    result = fit(Fit(out=out, resume=True))
    assert result.steps == 30
    assert Path(result.file).read_bytes() == Path(whole.file).read_bytes()


def test_ctrl_c_says_how_to_go_on(image, tmp_path, monkeypatch):
    step = SignalTask.step

    def stopping(self, number, rate, planned=None):
        signal.raise_signal(signal.SIGTERM)
        return step(self, number, rate)

    monkeypatch.setattr(SignalTask, "step", stopping)
    with pytest.raises(Interrupted, match="polyfield fit --out .* --resume"):
        fit(Fit(image, parameters=12_000, steps=30, out=tmp_path / "run"))


def test_minutes_fix_a_plan_and_are_kept(image, tmp_path, monkeypatch):
    """By a clock that only reading, a second, and steps, 20 ms each, move."""
    now, messages, out = [1000.0], [], tmp_path / "run"
    for module in (fit_module, loop):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def taking(seconds, function):
        def slow(*arguments):
            now[0] += seconds
            return function(*arguments)

        return slow

    monkeypatch.setattr(SignalTask, "step", taking(0.02, SignalTask.step))
    monkeypatch.setattr(fit_module, "read_source", taking(1.0, fit_module.read_source))
    result = fit(Fit(image, parameters=12_000, minutes=0.05, out=out), on_message=messages.append)
    assert 2.8 < result.seconds <= 3 and result.seconds == pytest.approx(1 + 0.02 * result.steps)
    assert any(message.startswith("plan: ") and "20.0 ms" in message for message in messages)
    assert RunFolder.open(out).config()["schedule"]["steps"] == result.steps


def test_what_a_mask_leaves_out_is_filled_in_and_not_learned(tmp_path):
    truth = torch.full((48, 48, 3), 0.25)
    truth[:, :, 1] = torch.linspace(0, 1, 48)
    spoiled = truth.clone()
    spoiled[20:24, 10:40] = torch.tensor([1.0, 0, 1])
    mask = torch.full((48, 48), 255, dtype=torch.uint8)
    mask[19:25, 9:41] = 0
    Image.fromarray(eight(spoiled)).save(tmp_path / "a.png")
    Image.fromarray(mask.numpy()).save(tmp_path / "mask.png")
    options = Fit(tmp_path / "a.png", parameters=9000, steps=200, out=tmp_path / "run")
    found = fit(replace(options, mask=tmp_path / "mask.png"))
    shown = decode(Path(found.reconstruction), 3).float() / 255
    hole = shown[20:24, 10:40]
    assert hole[..., 0].mean() < 0.5 and hole[..., 2].mean() < 0.5  # nothing of the magenta
    assert found.psnr_filled < 8 < psnr_8bit(hole, truth[20:24, 10:40])
    assert found.psnr > 30 and found.ssim is None
    assert "where it filled in" in summary(found)
    plain = replace(options, out=tmp_path / "plain")
    assert fit(plain).psnr_filled is None
    # A run goes on as it began, with its mask or without one.
    for out, masked in (("run", True), ("plain", False)):
        again = Fit(out=tmp_path / out, mask=tmp_path / "mask.png", resume=True)
        assert (fit(again).psnr_filled is not None) == masked


def test_light_keeps_its_range(tmp_path):
    light = painted() * torch.linspace(0.1, 20, 64)[None, :, None]
    write_exr(tmp_path / "a.exr", light)
    result = fit(Fit(tmp_path / "a.exr", parameters=20_000, steps=200, out=tmp_path / "run"))
    found = read_exr(tmp_path / "run/reconstruction.exr", 1 << 30)
    assert found.max() > 15 and (found - light).abs().mean() < 0.3
    assert result.psnr > 28


def test_a_film_is_learned_over_time(tmp_path):
    (tmp_path / "film").mkdir()
    for number in range(6):
        frame = eight(painted(shift=2.0 * number))
        Image.fromarray(frame).save(tmp_path / f"film/{number}.png")
    result = fit(Fit(tmp_path / "film", parameters=40_000, steps=250, out=tmp_path / "run"))
    assert result.kind == "film" and result.psnr > 26
    assert result.bits_per_pixel == pytest.approx(8 * result.file_bytes / (6 * 48 * 64))
    for name in (result.reconstruction, result.error):
        frames, rate = read_film(Path(name), 1 << 30)
        assert frames.shape == (6, 48, 64, 3) and rate == 25
    between = render(Render(tmp_path / "run", out=tmp_path / "more", frames=12)).files
    assert len(between) == 12
    shown = decode(Path(between[5]), 3)
    assert shown.shape == (96, 128, 3)
    (slow,) = render(
        Render(tmp_path / "run", out=tmp_path / "a.mp4", frames=12, size="64x48")
    ).files
    assert read_film(Path(slow), 1 << 30)[1] == 50


@pytest.mark.parametrize("released", [0, 1])
def test_the_small_file_keeps_what_is_placed_as_it_is(image, tmp_path, released):
    options = Fit(image, "rbf", steps=3, sizes=f"kernels=40,released={released}")
    result = fit(replace(options, out=tmp_path / "run"))
    small, whole = load_fitted(Path(result.file), CPU), load_fitted(tmp_path / "run", CPU)
    for name, value in whole.signal.state_dict().items():
        kept = small.signal.state_dict()[name]
        placed = name.endswith(("centers", "factors"))
        assert torch.equal(kept, value if placed else value.half().float()), name


def test_an_image_is_shown_in_any_size(fitted, tmp_path):
    (path,) = render(Render(Path(fitted.run))).files
    large = decode(Path(path), 3).float() / 255
    assert large.shape == (96, 128, 3)
    # Pixels are areas: four of them lie where one was.
    smaller = large.view(48, 2, 64, 2, 3).mean((1, 3))
    own = decode(Path(fitted.reconstruction), 3).float() / 255
    assert psnr_8bit(smaller, own) > 28
    (same,) = render(Render(Path(fitted.file), out=tmp_path / "b.png", size="64x48")).files
    again = decode(Path(same), 3).float() / 255
    assert psnr_8bit(again, own) > 40
    (whole,) = render(Render(Path(fitted.run), out=tmp_path / "c.png", size="64x48")).files
    assert Path(whole).read_bytes() == Path(fitted.reconstruction).read_bytes()


def test_other_commands_say_what_a_fit_is(fitted, tmp_path):
    run = Path(fitted.run)
    assert is_fit(run) and is_fit(Path(fitted.file))
    with pytest.raises(InputError, match="a fitted image; expected a run of `polyfield train`"):
        load(run, CPU)
    with pytest.raises(InputError, match="a fitted image; expected distances"):
        export(Export(run, tmp_path / "mesh.ply"))
    with pytest.raises(InputError, match="suffix '.mp4'"):
        render(Render(run, out=tmp_path / "a.mp4"))
    with pytest.raises(InputError, match="--frames"):
        render(Render(run, frames=3))
    for asked in ({"views": "test"}, {"lens": "fisheye"}, {"samples_per_pixel": 4}):
        with pytest.raises(InputError, match="a fit has no cameras"):
            render(Render(run, **asked))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"signal": None}, "SIGNAL: is not given"),
        ({"steps": 3, "minutes": 1.0}, "--minutes and --steps"),
        ({"steps": 0}, "--steps: 0"),
        ({"minutes": math.nan}, "--minutes: nan"),
        ({"parameters": 100}, "--parameters: 100"),
        ({"seed": -1}, "--seed: -1"),
        ({"field": "sponge"}, "'sponge'; expected one of hash-grid"),
        ({"device": "abacus"}, "--device"),
        ({"parameters": (1 << 28) + 1}, "--parameters: 268"),
    ],
)
def test_options_of_no_use_are_refused_before_anything_is_written(image, tmp_path, change, message):
    out = tmp_path / "run"
    with pytest.raises(InputError, match=message):
        fit(replace(Fit(image, out=out), **change))
    assert not out.exists()


def test_sizes_may_be_chosen(image, tmp_path):
    options = Fit(image, "mlp", sizes="waves=16, width=24", steps=2, out=tmp_path / "run")
    result = fit(options)
    chosen = load_fitted(tmp_path / "run", CPU).settings.arguments
    assert chosen == {"layers": 3, "width": 24, "waves": 16}
    assert result.parameters == 16 * 2 + (32 + 1) * 24 + 2 * (24 + 1) * 24 + (24 + 1) * 3
    for wish in ("wings=2", "width", "width=-1", "width=1e3", "width=99999999", "width=1,,"):
        with pytest.raises(InputError, match="--set: .*width"):
            fit(replace(options, sizes=wish, out=tmp_path / "other"))
    with pytest.raises(InputError, match="--set.*GB"):
        fit(Fit(image, sizes="log2_table_size=24,levels=16,finest_resolution=9000", steps=1))


def test_signals_of_no_use_are_refused_before_anything_is_written(image, tmp_path):
    out = tmp_path / "run"
    (tmp_path / "a.png").write_bytes(b"no image")
    for found in (tmp_path / "a.png", tmp_path / "none.png", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(InputError):
            fit(Fit(found, out=out, steps=3))
    assert not out.exists()


def test_a_run_does_not_go_on_with_another_signal(image, tmp_path):
    out = tmp_path / "run"
    fit(Fit(image, parameters=12_000, steps=3, out=out))
    Image.fromarray(eight(painted(40, 64))).save(tmp_path / "b.png")
    with pytest.raises(InputError, match="64 x 40 pixels, 3 channels; expected the signal that"):
        fit(Fit(tmp_path / "b.png", out=out, resume=True))
    with pytest.raises(InputError, match="holds a run already"):
        fit(Fit(image, parameters=12_000, steps=3, out=out))


def test_the_command_prints_a_summary_and_writes_json(image, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = ["fit", str(image), "--parameters", "12000", "--steps", "5", "--json", "result.json"]
    assert main(line) == 0
    said = capsys.readouterr().out
    assert "bits a pixel" in said and "an image of 64 x 48 pixels" in said
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["run"] == "runs/disc-hash-grid" and result["psnr"] > 5
    assert (tmp_path / "runs/disc-hash-grid/report.html").is_file()
    assert main(["fit", "nothing.png"]) == 2
    assert "nothing.png: no such file" in capsys.readouterr().err


def test_the_default_size_is_a_number_a_pixel(image):
    source = fit_module.read_source(image, None, 0)
    settings = fit_module.settings_for(source, image, Fit(image))
    assert settings.size == (1, 48, 64) and settings.channels == 3
    kept = numbers_of(fit_module.build_fitted(settings, CPU))
    assert 0.5 * (1 << 13) < kept <= 1 << 13  # so few pixels have the least of numbers
    large = RasterSource(Raster(torch.zeros(1, 200, 300, 3, dtype=torch.uint8)), 0)
    settings = fit_module.settings_for(large, image, Fit(image))
    assert 0.8 * 200 * 300 < numbers_of(fit_module.build_fitted(settings, CPU)) <= 200 * 300
    film = RasterSource(Raster(torch.zeros(16, 200, 300, 3, dtype=torch.uint8), kind="film"), 0)
    settings = fit_module.settings_for(film, image, Fit(image))
    assert 0.8 * 2 * 200 * 300 < numbers_of(fit_module.build_fitted(settings, CPU)) <= 2 * 200 * 300
