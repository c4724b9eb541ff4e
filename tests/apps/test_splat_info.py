"""`polyfield info` and `export` of files of Gaussians."""

import json

import pytest
import torch
from splat_models import model, sample

from polyfield.apps.export import Export, export
from polyfield.apps.export import summary as export_summary
from polyfield.apps.formats.splat_files import read_splats, write_splats
from polyfield.apps.formats.splat_ply import splat_ply_bytes
from polyfield.apps.info import Info, info_command, summary
from polyfield.apps.main import main
from polyfield.apps.splat_info import splat_info
from polyfield.cuda.errors import InputError


@pytest.fixture
def file(tmp_path):
    write_splats(model(50, 2, antialiased=True), tmp_path / "a.ply")
    return tmp_path / "a.ply"


def test_info_says_what_a_file_holds(file):
    splats, found = model(50, 2), splat_info(file)
    assert (found.count, found.degree, found.antialiased) == (50, 2, True)
    assert found.world == "right-down-forward" and "3DGS" in found.form
    assert found.low == tuple(splats.means.amin(0).tolist())
    assert found.high == tuple(splats.means.amax(0).tolist())
    assert all(a < b for a, b in zip(found.low, found.middle[0], strict=True))
    assert all(a > b for a, b in zip(found.high, found.middle[1], strict=True))
    largest = splats.log_scales.exp().amax(1)
    assert found.scale == pytest.approx(float(largest.median()))
    share = (splats.opacity_logits.sigmoid() >= 0.99).float().mean()
    assert found.opaque == pytest.approx(float(share))
    assert found.warnings == found.notes == ()
    said = summary(info_command(Info(file)))
    for words in ("50, ", "degree 2", "antialiased  yes", "no warnings"):
        assert words in said


def test_info_of_a_sample_of_another_program():
    found = splat_info(sample("lotus.spz"))
    assert (found.count, found.degree, found.antialiased) == (262144 - 673, 0, True)
    assert found.opaque == pytest.approx(0.38, abs=0.01) and len(found.notes) == 2
    assert "version 3" in found.form


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: (s.log_scales.exp_(), s.opacity_logits.sigmoid_()), "looks activated"),
        (lambda s: s.means[3].mul_(1e12), "1 Gaussians lie beyond 1e7"),
        (lambda s: s.means[3, 1].fill_(torch.nan), "1 Gaussians with numbers that are not finite"),
        (lambda s: s.means.fill_(1.5), "in one place"),
        (lambda s: s.log_scales[2].fill_(6.0), "1 Gaussians are larger than"),
    ],
)
def test_what_looks_wrong_is_a_warning(tmp_path, change, words):
    splats = model(500, 0)
    change(splats)
    (tmp_path / "a.ply").write_bytes(b"".join(splat_ply_bytes(splats)))
    assert [words in warning for warning in splat_info(tmp_path / "a.ply").warnings] == [True]


@pytest.mark.parametrize("suffix", [".ply", ".compressed.ply", ".spz", ".splat", ".glb"])
def test_export_writes_another_format(tmp_path, file, suffix):
    out = tmp_path / f"b{suffix}"
    result = export(Export(file, out))
    assert (result.file, result.kind, result.counts) == (str(out), "splats", {"Gaussians": 50})
    assert read_splats(out).count == 50
    lost = {".splat": ["view dependence", "antialiased"], ".glb": ["antialiased"]}.get(suffix, [])
    assert [words in note for words, note in zip(lost, result.notes, strict=False)] == [
        True for _ in lost
    ]
    assert export_summary(result).splitlines()[-1] == f"wrote {out}: 50 Gaussians"


def test_export_takes_the_frame_that_the_user_knows(tmp_path):
    path = tmp_path / "a.spz"
    write_splats(model(20), path)
    export(Export(path, tmp_path / "b.ply"))
    export(Export(path, tmp_path / "c.ply", "splats", frame="RDF"))
    right, other = read_splats(tmp_path / "b.ply"), read_splats(tmp_path / "c.ply")
    assert torch.equal(other.means, right.means * torch.tensor([1.0, -1, -1]))
    torch.testing.assert_close(right.means, model(20).means, atol=2**-12, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "points"}, "--as"),
        ({"kind": "cameras"}, "--as"),
        ({"faces": 7}, "--faces"),
        ({"keep_unseen": True}, "--keep-unseen"),
        ({"resolution": 64}, "--resolution"),
    ],
)
def test_what_only_a_run_has_is_refused(tmp_path, file, options, message):
    with pytest.raises(InputError, match=f"{message}: with a.ply"):
        export(Export(file, tmp_path / "b.spz", **options))
    assert not (tmp_path / "b.spz").exists()


def test_files_that_cannot_be_are_refused_before_anything_is_read(tmp_path, file):
    for out, words in (("b.obj", "suffix"), ("nowhere/b.spz", "folder does not exist")):
        with pytest.raises(InputError, match=words):
            export(Export(file, tmp_path / out))
    with pytest.raises(InputError, match="--html"):
        info_command(Info(file, tmp_path / "a.html"))


def test_the_commands(tmp_path, file, capsys):
    result = tmp_path / "info.json"
    assert main(["info", str(file), "--json", str(result)]) == 0
    assert json.loads(result.read_text())["count"] == 50
    assert main(["export", str(file), "--out", str(tmp_path / "b.spz")]) == 0
    assert "wrote" in capsys.readouterr().out
    assert main(["info", str(tmp_path / "none.spz")]) == 2
    (tmp_path / "cut.ply").write_bytes(file.read_bytes()[:-5])
    assert main(["info", str(tmp_path / "cut.ply")]) == 2
    assert "Copy it again" in capsys.readouterr().err
