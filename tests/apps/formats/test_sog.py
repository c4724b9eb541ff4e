"""SOG: pictures of numbers, as its encoder makes them, and what a forged one may not do."""

import io
import json
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from splat_models import angles, model, same

from polyfield.apps.formats.sog import read_sog
from polyfield.cuda.errors import InputError


def webp(values, width, height):
    """Pixels [n, 4] without loss, also under an alpha of 0."""
    image = np.zeros((width * height, 4), np.uint8)
    image[: len(values)] = values
    file = io.BytesIO()
    Image.fromarray(image.reshape(height, width, 4)).save(file, "WEBP", lossless=True, exact=True)
    return file.getvalue()


def nearest(codebook, values):
    return np.abs(codebook[:, None] - values.reshape(1, -1)).argmin(0).reshape(values.shape)


def quaternion_codes(quaternions):
    q = quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)
    largest = np.abs(q).argmax(1)
    q = q * np.where(np.take_along_axis(q, largest[:, None], 1) < 0, -1, 1)
    rest = np.stack([np.delete(row, i) for row, i in zip(q, largest, strict=True)])
    codes = np.rint((rest / 2**0.5 + 0.5) * 255)
    return np.concatenate([codes, 252 + largest[:, None]], 1)


def sog(splats, palette=64, **more):
    """{name: content} of a version 2, with rounding in place of the encoder's cutting off."""
    count, degree = splats.count, splats.degree
    width = 4 * int(np.ceil(count**0.5 / 4))
    size = width, 4 * int(np.ceil(count / width / 4))
    means = splats.means.numpy().astype(np.float64)
    log = np.sign(means) * np.log1p(np.abs(means))
    low, high = log.min(0), log.max(0)
    code = np.rint((log - low) / np.maximum(high - low, 1e-9) * 65535).astype(int)
    opaque = np.full((count, 1), 255)
    scales, dc = splats.log_scales.numpy(), splats.harmonics[:, 0].numpy()
    scale_book, dc_book = (np.linspace(x.min(), x.max(), 256) for x in (scales, dc))
    alpha = np.rint(255 * splats.opacity_logits.sigmoid().numpy())[:, None]
    files = {
        "means_l.webp": webp(np.concatenate([code % 256, opaque], 1), *size),
        "means_u.webp": webp(np.concatenate([code // 256, opaque], 1), *size),
        "scales.webp": webp(np.concatenate([nearest(scale_book, scales), opaque], 1), *size),
        "quats.webp": webp(quaternion_codes(splats.quaternions.numpy()), *size),
        "sh0.webp": webp(np.concatenate([nearest(dc_book, dc), alpha], 1), *size),
    }
    meta = {
        "version": 2,
        "asset": {"generator": "a test"},
        "count": count,
        "means": {"mins": low.tolist(), "maxs": high.tolist(),
                  "files": ["means_l.webp", "means_u.webp"]},
        "scales": {"codebook": scale_book.tolist(), "files": ["scales.webp"]},
        "quats": {"files": ["quats.webp"]},
        "sh0": {"codebook": dc_book.tolist(), "files": ["sh0.webp"]},
    }  # fmt: skip
    if degree:
        rest = splats.harmonics[:palette, 1:].numpy()
        k = rest.shape[1]
        book = np.linspace(rest.min(), rest.max(), 256)
        entries = np.concatenate([nearest(book, rest), np.full((len(rest), k, 1), 255)], 2)
        rows = -(-len(rest) // 64)
        files["centroids.webp"] = webp(entries.reshape(-1, 4), 64 * k, rows)
        label = np.arange(count) % len(rest)
        labels = np.stack([label % 256, label // 256, 0 * label, 0 * label + 255], 1)
        files["labels.webp"] = webp(labels, *size)
        meta["shN"] = {"count": len(rest), "bands": degree, "codebook": book.tolist(),
                       "files": ["centroids.webp", "labels.webp"]}  # fmt: skip
    return files | {"meta.json": json.dumps(meta | more).encode()}


def zipped(files, method=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def read(files, folder):
    path = folder / "a.sog"
    path.write_bytes(files if isinstance(files, bytes) else zipped(files))
    return read_sog(path, "a.sog")


def edited(files, edit):
    """The files with another meta.json: edit(meta) changes it in place."""
    meta = json.loads(files["meta.json"])
    edit(meta)
    return files | {"meta.json": json.dumps(meta).encode()}


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([1, 255, 256, 257, 700]), st.integers(0, 3), st.integers(0, 99))
def test_errors_are_those_of_the_table(tmp_path_factory, count, degree, seed):
    splats = model(count, degree, seed)
    found = read(sog(splats), tmp_path_factory.mktemp("a"))
    got = found.splats
    assert (got.count, got.degree, found.form) == (count, degree, "SOG of version 2")
    log = (splats.means.sign() * splats.means.abs().log1p()).double()
    extent = log.amax(0) - log.amin(0)
    error = (got.means - splats.means).abs()
    assert bool((error <= (1 + splats.means.abs()) * extent / 131070 + 2e-6).all())
    step = splats.log_scales.max() - splats.log_scales.min()
    assert float((got.log_scales - splats.log_scales).abs().max()) <= step / 510 + 1e-5
    assert float(angles(got.quaternions, splats.quaternions).max()) < 0.92
    alpha = got.opacity_logits.sigmoid() - splats.opacity_logits.sigmoid()
    assert float(alpha.abs().max()) <= 1 / 510 + 1e-6
    shade = splats.harmonics[:, 0]
    error = (got.harmonics[:, 0] - shade).abs()
    assert float(error.max()) <= (shade.max() - shade.min()) / 510 + 1e-5
    if degree:
        rest = splats.harmonics[:64, 1:]
        step = (rest.max() - rest.min()) / 510 + 1e-5
        label = torch.arange(count) % min(64, count)
        assert float((got.harmonics[:, 1:] - rest[label]).abs().max()) <= step


def test_a_folder_its_json_and_both_kinds_of_zip_are_the_same(tmp_path):
    files = sog(model(100, 2))
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    one = read_sog(tmp_path, "a").splats
    assert same(read_sog(tmp_path / "meta.json", "a").splats, one)
    assert same(read(files, tmp_path).splats, one)
    assert same(read(zipped(files, zipfile.ZIP_DEFLATED), tmp_path).splats, one)


def test_opaque_pictures_and_clear_pixels_keep_their_colours(tmp_path):
    splats = model(64, 0)
    splats.opacity_logits[:32] = -40.0
    found = read(sog(splats), tmp_path).splats
    torch.testing.assert_close(found.harmonics, splats.harmonics, atol=0.01, rtol=0)
    torch.testing.assert_close(found.opacity_logits[:32], torch.full((32,), -13.8155))


def test_a_palette_beyond_256_entries_uses_both_bytes_of_a_label(tmp_path):
    splats = model(700, 1)
    found = read(sog(splats, palette=600), tmp_path).splats
    torch.testing.assert_close(found.harmonics[:600], splats.harmonics[:600], atol=0.01, rtol=0)


def test_a_label_of_no_entry_has_no_harmonics(tmp_path):
    files = edited(sog(model(100, 1), 60), lambda meta: meta["shN"].update(count=50))
    found = read(files, tmp_path).splats
    assert not found.harmonics[50:60, 1:].any() and found.harmonics[:50, 1:].any()


def test_a_turn_without_a_tag_is_none(tmp_path):
    files = sog(model(4, 0))
    codes = np.array(
        [[0, 128, 255, 251], [128, 128, 128, 252], [255, 128, 128, 253], [128, 128, 128, 255]]
    )
    found = read(files | {"quats.webp": webp(codes, 4, 4)}, tmp_path).splats.quaternions
    assert found[0].tolist() == [1, 0, 0, 0]
    small = (128 / 255 - 0.5) * 2**0.5
    expected = [[1, small, small, small], [0.5**0.5, 0.5**0.5, small, small], [small] * 3 + [1]]
    torch.testing.assert_close(found[1:], torch.tensor(expected), atol=1e-4, rtol=0)


def test_a_missing_first_entry_of_a_codebook_goes_on_from_the_others(tmp_path):
    files = sog(model(50, 0))
    even = [i / 10 for i in range(256)]
    whole = read(edited(files, lambda meta: meta["scales"].update(codebook=even)), tmp_path)
    broken = edited(files, lambda meta: meta["scales"].update(codebook=[None, *even[1:]]))
    got = read(broken, tmp_path).splats.log_scales
    first = even[1] + (even[1] - even[255]) / 255
    expected = torch.where(whole.splats.log_scales == 0, first, whole.splats.log_scales)
    torch.testing.assert_close(got, expected)


def test_version_1_has_even_steps_and_logits(tmp_path):
    splats = model(80, 1)
    files = sog(splats)

    def to_version_1(meta):
        del meta["version"], meta["count"]
        meta["means"]["shape"] = [80, 3]
        for name, ends in (("scales", ([-5, -4, -3], [1, 2, 3])),
                           ("sh0", ([-1, -2, -3, -8], [1, 2, 3, 8]))):  # fmt: skip
            meta[name] |= {"mins": ends[0], "maxs": ends[1]}
            del meta[name]["codebook"]
        meta["shN"] |= {"mins": -0.5, "maxs": 0.5}
        del meta["shN"]["codebook"], meta["shN"]["count"], meta["shN"]["bands"]

    found = read(edited(files, to_version_1), tmp_path)
    new = read(files, tmp_path).splats
    assert found.form == "SOG of version 1" and torch.equal(found.splats.means, new.means)
    with Image.open(io.BytesIO(files["sh0.webp"])) as image:
        code = torch.from_numpy(np.array(image).reshape(-1, 4)[:80]) / 255
    low, high = torch.tensor([-1.0, -2, -3, -8]), torch.tensor([1.0, 2, 3, 8])
    expected = low + (high - low) * code
    torch.testing.assert_close(found.splats.harmonics[:, 0], expected[:, :3])
    torch.testing.assert_close(found.splats.opacity_logits, expected[:, 3])
    assert float(found.splats.harmonics[:, 1:].abs().max()) <= 0.5


@pytest.mark.parametrize(
    ("more", "antialiased", "notes"),
    [
        ({}, False, ()),
        ({"model": "antialiased"}, True, ()),
        ({"antialias": True}, True, ()),
        ({"model": "2dgs"}, False, ("2D Gaussians",)),
    ],
)
def test_kinds_of_models(tmp_path, more, antialiased, notes):
    found = read(sog(model(5, 0), **more), tmp_path)
    assert found.splats.antialiased is antialiased and found.notes == notes


FILES = sog(model(100, 2))
ZIP = zipped(FILES)


def change(edit):
    return edited(FILES, edit)


def of_size(content, width, height):
    """A picture whose header says another size."""
    assert content[12:16] == b"VP8L"
    bits = int.from_bytes(content[21:25], "little") & 0xF0000000 | width - 1 | (height - 1) << 14
    return content[:21] + bits.to_bytes(4, "little") + content[25:]


FORGED = {
    "no zip": (b"PK\x03\x04 and no more", "no zip"),
    "cut off": (ZIP[:-30], "no zip"),
    "no meta.json": ({"a.json": b"{}"}, "meta.json: missing"),
    "no JSON": (FILES | {"meta.json": b"{"}, "not JSON"),
    "no object": (FILES | {"meta.json": b"[]"}, "no object"),
    "version 3": (change(lambda m: m.update(version=3)), "version"),
    "a negative count": (change(lambda m: m.update(count=-1)), "count"),
    "a count of text": (change(lambda m: m.update(count="7")), "count"),
    "a count beyond the pixels": (change(lambda m: m.update(count=10**6)), "pixels"),
    "a count without end": (change(lambda m: m.update(count=10**18)), "count"),
    "no codebook": (change(lambda m: m["scales"].pop("codebook")), "codebook"),
    "a short codebook": (change(lambda m: m["sh0"].update(codebook=[0.0] * 255)), "codebook"),
    "a hole in a codebook": (
        change(lambda m: m["sh0"]["codebook"].__setitem__(7, None)), "codebook"),
    "no files": (change(lambda m: m["quats"].pop("files")), "files"),
    "one picture of means": (change(lambda m: m["means"].update(files=["means_l.webp"])), "files"),
    "a file elsewhere": (change(lambda m: m["quats"].update(files=["../quats.webp"])), "plain"),
    "a file by its root": (change(lambda m: m["quats"].update(files=["/etc/passwd"])), "plain"),
    "a URL": (change(lambda m: m["quats"].update(files=["https://a.b/c"])), "plain"),
    "a name of dots": (change(lambda m: m["quats"].update(files=[".."])), "plain"),
    "a name that is a number": (change(lambda m: m["quats"].update(files=[7])), "plain"),
    "a missing file": (change(lambda m: m["quats"].update(files=["q.webp"])), "q.webp: missing"),
    "a picture that is none": (FILES | {"quats.webp": b"RIFF0000WEBP"}, "do not decode"),
    "a picture cut off": (FILES | {"quats.webp": FILES["quats.webp"][:-9]}, "do not decode"),
    "a small picture": (FILES | {"quats.webp": webp(np.zeros((1, 4)), 4, 4)}, "4x4 pixels"),
    "a picture of a desert": (FILES | {"quats.webp": of_size(FILES["quats.webp"], 9000, 9000)},
                            "9000x9000 pixels"),
    "four bands": (change(lambda m: m["shN"].update(bands=4)), "bands"),
    "bands of another width": (change(lambda m: m["shN"].update(bands=1)), "512x1 pixels"),
    "a palette beyond its picture": (change(lambda m: m["shN"].update(count=129)), "512x1 pixels"),
    "encrypted": (ZIP.replace(b"PK\x01\x02\x14\x03\x14\0\0\0", b"PK\x01\x02\x14\x03\x14\0\1\0"),
                  "encrypted"),
    "a zip bomb": (zipped(FILES | {"meta.json": b"{}" + b" " * (1 << 25)}, zipfile.ZIP_DEFLATED),
                   "at most 16,777,216"),
}  # fmt: skip


@pytest.mark.parametrize(("files", "message"), FORGED.values(), ids=FORGED)
def test_forged_files_are_refused_by_name_in_little_memory(tmp_path, files, message):
    content = files if isinstance(files, bytes) else zipped(files)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=f"^a.sog.*{message}"):
            read(content, tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * len(content) + (3 << 20)


def test_a_directory_of_many_entries_is_refused_before_it_is_read(tmp_path):
    many = zipped({f"{i}.webp": b"" for i in range(5000)})
    with pytest.raises(InputError, match="long directory"):
        read(many, tmp_path)
