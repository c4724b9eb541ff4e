"""Files of Gaussians: known by their bytes, in the user's world, whole or not there."""

import gzip
import io
import json
import zipfile
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from splat_models import (
    angles,
    colors,
    covariances,
    hundred_directions,
    matrices,
    model,
    same,
    sample,
)

from polyfield.apps.formats.mesh_files import write_mesh
from polyfield.apps.formats.point_ply import Points, write_points
from polyfield.apps.formats.splat_files import (
    SUFFIXES,
    read_splat_file,
    read_splats,
    splat_format,
    splat_suffix,
    write_splats,
)
from polyfield.apps.formats.splat_ply import splat_ply_bytes
from polyfield.apps.formats.spz import spz_bytes
from polyfield.apps.fuzz_bytes import odd_bytes
from polyfield.apps.fuzz_splats import splats as fuzz_samples
from polyfield.apps.fuzz_trees import write_tree
from polyfield.cuda.errors import InputError
from polyfield.extract.mesh import Mesh
from polyfield.fields.splats import chosen, clean, turned

FORMS = {".ply": "ply", ".compressed.ply": "compressed-ply", ".spz": "spz", ".splat": "splat",
         ".glb": "gltf"}  # fmt: skip
WORLDS = ["right-down-forward", "z-up"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("degree", [0, 3])
def test_a_format_is_known_by_its_bytes_whatever_the_name(tmp_path, suffix, degree):
    write_splats(model(20, degree), tmp_path / f"a{suffix}")
    assert splat_format(tmp_path / f"a{suffix}") == FORMS[suffix]
    other = tmp_path / "a.bin"
    other.write_bytes((tmp_path / f"a{suffix}").read_bytes())
    assert splat_format(other) == (None if suffix == ".splat" else FORMS[suffix])


def test_every_kind_of_sample_is_known(tmp_path):
    found = set()
    for tree in fuzz_samples():
        write_tree(tmp_path / "a", tree)
        names = ["meta.json", "."] if "meta.json" in tree else list(tree)
        for name in names:
            found.add(splat_format(tmp_path / "a" / name))
            assert read_splats(tmp_path / "a" / name).count > 10
    assert found == {*FORMS.values(), "ksplat", "sog"}


def test_other_files_hold_no_gaussians(tmp_path):
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    mesh = Mesh(points, torch.tensor([[0, 1, 2]]))
    for name in ("mesh.ply", "mesh.glb"):
        write_mesh(tmp_path / name, mesh)
    write_points(tmp_path / "cloud.ply", Points(points.double(), torch.zeros(3, 3).byte()))
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"something else"))
    (tmp_path / "meta.json").write_text("{}")
    (tmp_path / "empty").write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.json", "{}")
    for path in [*tmp_path.iterdir(), tmp_path, tmp_path / "nowhere"]:
        assert splat_format(path) is None, path
        with pytest.raises(InputError, match="no such file|holds no Gaussians"):
            read_splats(path)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(SUFFIXES), st.sampled_from(WORLDS), st.integers(0, 3), st.integers(0, 99))
def test_a_model_stays_in_its_world_through_every_format(
    tmp_path_factory, suffix, world, degree, seed
):
    splats = model(40, degree, seed)
    path = tmp_path_factory.mktemp("a") / f"a{suffix}"
    write_splats(splats, path, world)
    found = read_splat_file(path, world=world)
    assert found.world == world and found.frame == {"z-up": "RFU"}.get(world, "RDF")
    got = found.splats
    order = torch.arange(40)
    if suffix == ".compressed.ply":  # neighbours lie together
        order = torch.cdist(got.means, splats.means).argmin(1)
        assert order.unique().numel() == 40
    torch.testing.assert_close(got.means, splats.means[order], atol=0.006, rtol=0)
    relative = covariances(got) - covariances(splats)[order]
    size = covariances(splats)[order].flatten(1).norm(dim=1)
    assert float((relative.flatten(1).norm(dim=1) / size).max()) < 0.1
    if suffix != ".splat":
        directions = hundred_directions()
        error = (colors(got, directions) - colors(splats, directions)[order]).abs()
        assert float(error.max()) < {".spz": 0.3, ".compressed.ply": 0.1}.get(suffix, 1e-5)


@pytest.mark.parametrize("suffix", [".ply", ".spz", ".splat", ".glb"])
def test_reading_what_was_read_and_written_changes_nothing(tmp_path, suffix):
    path, again = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    write_splats(model(300, 3), path)
    once = read_splats(path)
    write_splats(once, again)
    twice = read_splats(again)
    for name in ("means", "harmonics"):
        assert torch.equal(getattr(twice, name), getattr(once, name))
    if suffix != ".glb":  # whose scales and opacities go through exp and back
        assert torch.equal(twice.log_scales, once.log_scales)
        assert torch.equal(twice.opacity_logits, once.opacity_logits)
    assert float(angles(twice.quaternions, once.quaternions).max()) < 0.25
    write_splats(model(300, 3), again)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", ["biker.spz", "lotus.spz", "planter.splat"])
def test_files_of_others_come_back_bit_for_bit(tmp_path, name):
    once = read_splats(sample(name))
    again = tmp_path / name
    write_splats(once, again)
    twice = read_splats(again)
    assert same(twice, once) or (
        float(angles(twice.quaternions, once.quaternions).max()) < 0.25
        and torch.equal(twice.means, once.means)
        and torch.equal(twice.log_scales, once.log_scales)
        and torch.equal(twice.harmonics, once.harmonics)
    )


def test_an_spz_is_right_up_back_unless_it_or_the_user_says_otherwise(tmp_path):
    splats, path = model(30, 3), tmp_path / "a.spz"
    path.write_bytes(spz_bytes(turned(splats, "RDF", "RUB"), 3))
    found = read_splat_file(path)
    torch.testing.assert_close(found.splats.means, splats.means, atol=2**-12, rtol=0)
    assert found.notes == ("it states no frame: RUB is taken",)
    path.write_bytes(spz_bytes(splats, 3))
    found = read_splat_file(path, frame="RDF")
    torch.testing.assert_close(found.splats.means, splats.means, atol=2**-12, rtol=0)
    assert found.notes == ()
    # Version 4 says its frame, here another one.
    content = bytearray(spz_bytes(turned(splats, "RDF", "LUF"), 4))
    content[40] = 7
    path.write_bytes(content)
    found = read_splat_file(path)
    torch.testing.assert_close(found.splats.means, splats.means, atol=2**-12, rtol=0)
    assert found.notes == () and found.world == "right-down-forward"
    content[40] = 12
    path.write_bytes(content)
    found = read_splat_file(path)
    assert found.world == "z-up" and found.frame == "RFU"
    expected = turned(splats, "RDF", "LUF").means
    torch.testing.assert_close(found.splats.means, expected, atol=2**-12, rtol=0)


def test_a_z_up_world_stands_upright_in_an_spz(tmp_path):
    splats = model(1, 0)
    splats.means[:] = torch.tensor([[1.0, 2.0, 3.0]])
    write_splats(splats, tmp_path / "a.spz", "z-up")
    assert read_splats(tmp_path / "a.spz", frame="RDF").means.tolist() == [[1, 3, -2]]


def test_what_cannot_be_shown_is_left_out_and_counted_on_both_ways(tmp_path):
    splats = model(10, 1)
    splats.opacity_logits[:3] = torch.tensor([torch.inf, -torch.inf, -9.0])
    splats.means[3, 1] = torch.nan
    (tmp_path / "a.ply").write_bytes(b"".join(splat_ply_bytes(splats)))
    found = read_splat_file(tmp_path / "a.ply")
    assert same(found.splats, clean(splats).splats) and found.splats.count == 7
    said = ["1 Gaussians with an opacity without end", "1 Gaussians with numbers that are not",
            "2 Gaussians fainter"]  # fmt: skip
    for note, words in zip(found.notes, said, strict=True):
        assert words in note
    assert write_splats(splats, tmp_path / "b.ply") == found.notes
    assert same(read_splats(tmp_path / "b.ply"), found.splats)
    write_splats(splats, tmp_path / "c.ply", everything=True)
    assert (tmp_path / "c.ply").read_bytes() == (tmp_path / "a.ply").read_bytes()
    none = chosen(splats, torch.tensor([1, 2]))
    (tmp_path / "a.ply").write_bytes(b"".join(splat_ply_bytes(none)))
    with pytest.raises(InputError, match="none of its 2 Gaussians is finite and seen"):
        read_splats(tmp_path / "a.ply")
    with pytest.raises(InputError, match="no Gaussians"):
        write_splats(none, tmp_path / "d.ply")
    assert not (tmp_path / "d.ply").exists()


@pytest.mark.parametrize(
    ("suffix", "said"),
    [
        (".ply", []),
        (".compressed.ply", ["harmonics beyond degree 3", "+z is up", "3 Gaussians go beyond"]),
        (".spz", ["11 fractional bits", "5 Gaussians go beyond"]),
        (".splat", ["view dependence", "antialiased", "+z is up", "Gaussians go beyond"]),
        (".glb", ["harmonics beyond degree 3", "antialiased"]),
    ],
)
def test_what_a_format_has_no_place_for_is_said(tmp_path, suffix, said):
    splats = model(20, 4, antialiased=True)
    splats.log_scales[0], splats.harmonics[1:3, 2] = -21.0, 5.0
    splats.log_scales[3, 0], splats.harmonics[4, 0] = 7.0, 8.0
    splats.means[5] = 3000.0
    notes = write_splats(splats, tmp_path / f"a{suffix}", "z-up")
    assert len(notes) == len(said)
    for note, words in zip(notes, said, strict=True):
        assert words in note


def test_the_degree_of_the_harmonics_is_chosen(tmp_path):
    splats = model(20, 1)
    for degree in (0, 1, 3):
        write_splats(splats, tmp_path / "a.ply", degree=degree)
        found = read_splats(tmp_path / "a.ply")
        assert found.degree == degree
        k = min(4, (degree + 1) ** 2)
        assert torch.equal(found.harmonics[:, :k], splats.harmonics[:, :k])


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "a.spz"
    write_splats(model(20), path)
    before = path.read_bytes()
    far = model(20)
    far.means[0] = 1e8
    with pytest.raises(InputError, match="position of 1e"):
        write_splats(far, path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    with pytest.raises(InputError, match="nowhere"):
        write_splats(model(20), tmp_path / "nowhere" / "a.ply")


def test_other_suffixes_are_refused(tmp_path):
    assert splat_suffix(tmp_path / "a.Compressed.PLY") == ".compressed.ply"
    for name in ("a.sog", "a.ksplat", "a", "a.obj"):
        with pytest.raises(InputError, match="suffix"):
            write_splats(model(2), tmp_path / name)


def test_the_versions_of_spz_hold_the_same(tmp_path):
    for version in (3, 4):
        write_splats(model(30), tmp_path / f"{version}.spz", spz_version=version)
    assert same(read_splats(tmp_path / "3.spz"), read_splats(tmp_path / "4.spz"))
    assert read_splat_file(tmp_path / "4.spz").notes == ()


def test_the_same_figure_in_two_formats_is_the_same_gaussians():
    ply, spz = (read_splats(sample(name)) for name in ("biker.compressed.ply", "biker.spz"))
    assert float((ply.means - spz.means).abs().max()) < 1.222e-4
    apart = angles(ply.quaternions, spz.quaternions)
    assert float(apart.max()) < 0.147
    axes = (matrices(ply.quaternions) - matrices(spz.quaternions)).abs()
    assert float(axes.max()) < 0.01


def test_damaged_bytes_end_in_gaussians_or_in_a_sentence(tmp_path):
    random = Random(0)
    trees = [tree for tree in fuzz_samples() if len(tree) == 1]
    ends = []
    for case in range(800):
        ((name, content),) = trees[case % len(trees)].items()
        damaged, _ = odd_bytes(content, random)
        if len(damaged) > 1 << 20:
            continue
        (tmp_path / name).write_bytes(damaged)
        try:
            ends.append(read_splats(tmp_path / name).count > 0)
        except InputError as error:
            ends.append(False)
            assert str(error).startswith(str(tmp_path / name))
    assert 50 < sum(ends) < len(ends) - 50


def test_a_sog_may_be_named_by_its_folder_or_its_json(tmp_path):
    (tree,) = (tree for tree in fuzz_samples() if "meta.json" in tree)
    write_tree(tmp_path / "a", tree)
    one = read_splats(tmp_path / "a")
    assert same(read_splats(tmp_path / "a" / "meta.json"), one)
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        for name, content in tree.items():
            archive.writestr(name, content)
    (tmp_path / "a.sog").write_bytes(zipped.getvalue())
    assert same(read_splats(tmp_path / "a.sog"), one)
    meta = json.loads(tree["meta.json"])
    assert one.count == meta["count"]
