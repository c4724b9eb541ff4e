"""One field into the next, and what is left of the first in each."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from polyfield.apps import checkpoint
from polyfield.apps.distill_chain import chain_summary, distill_chain
from polyfield.apps.distill_options import Distill
from polyfield.apps.eval import Eval, evaluate
from polyfield.apps.main import main
from polyfield.apps.train import train
from polyfield.apps.train_options import Train
from polyfield.cuda.errors import InputError

SIZES = "log2_table_size=12,finest_resolution=64,hidden=16"


@pytest.fixture(scope="module")
def made(ball_scene, tmp_path_factory):
    folder = tmp_path_factory.mktemp("chain")
    scene = ball_scene(lambda number, pose, image: image)
    options = Train(scene, steps=150, out=folder / "teacher", sizes=SIZES, device="cpu")
    train(replace(options, report=False))
    options = Distill(
        folder / "teacher",
        chain="gaussians, hash-grid",
        out=folder / "out",
        device="cpu",
        steps=100,
        views=12,
        splats=400,
    )
    return options, distill_chain(options)


def test_each_is_taught_by_the_one_before(made):
    options, result = made
    assert [link.field for link in result.links] == ["gaussians", "hash-grid"]
    taught = [Path(link.run).name for link in result.links]
    assert taught == ["1-gaussians", "2-hash-grid"]
    second = (options.out / "2-hash-grid" / "config.json").read_text()
    assert str(options.out.resolve() / "1-gaussians") in second
    assert result.run == result.links[-1].run and result.teacher_psnr > 20


def test_what_is_left_is_measured_against_the_beginning_and_the_scene(made):
    _, result = made
    for link in result.links:
        assert link.first_psnr > 17 and link.parameters > 1000
        found = evaluate(Eval(Path(link.run), device="cpu")).psnr
        assert link.test_psnr == pytest.approx(found, abs=1e-3)
    said = chain_summary(result)
    assert "gaussians" in said and result.picture in said and len(said.splitlines()) == 5
    assert Image.open(result.picture).width > 3 * 200


def test_links_that_are_done_stay(made):
    options, result = made
    before = [checkpoint.latest(Path(link.run) / "checkpoints").path for link in result.links]
    times = [path.stat().st_mtime_ns for path in before]
    again = distill_chain(replace(options, resume=True, report=False))
    assert [path.stat().st_mtime_ns for path in before] == times
    assert [link.first_psnr for link in again.links] == [x.first_psnr for x in result.links]


def test_unknown_fields_are_refused_before_anything_is_done(made, tmp_path, capsys):
    options, _ = made
    out = tmp_path / "out"
    with pytest.raises(InputError, match="--chain.*no-such.*some of"):
        distill_chain(replace(options, out=out, chain="gaussians,no-such"))
    with pytest.raises(InputError, match="--set.*--chain"):
        distill_chain(replace(options, out=out, sizes="hidden=16"))
    with pytest.raises(InputError, match="RUN"):
        distill_chain(replace(options, out=out, teacher=None))
    assert main(["distill", str(tmp_path / "none"), "--chain", "mlp", "--out", str(out)]) == 2
    assert not out.exists() and "none" in capsys.readouterr().err
