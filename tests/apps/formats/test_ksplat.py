"""The .ksplat file: records of three levels, buckets full and not, and forged sections."""

import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from splat_models import angles, model, sample

from polyfield.apps.formats.dot_splat import read_dot_splat
from polyfield.apps.formats.ksplat import read_ksplat
from polyfield.cuda.errors import InputError

C0, BLOCK, REACH = 0.28209479177387814, 5.0, 32767
TYPES = [("<f4", "<f4", "<f4"), ("<u2", "<f2", "<f2"), ("<u2", "<f2", "u1")]
LOW, HIGH = -0.7, 0.9


def by_bands(harmonics):
    """Degree 1 as 3 red, 3 green, 3 blue, then degree 2 as 5, 5, 5."""
    parts = [harmonics[:, a:b].transpose(0, 2, 1) for a, b in ((1, 4), (4, 9))]
    return np.concatenate([part.reshape(len(part), -1) for part in parts], 1)


def section(splats, level, lengths=(), bucket_size=256, room=None):
    """Header and data of one section: buckets of bucket_size, then some of other lengths."""
    count, degree = splats.count, splats.degree
    room = count if room is None else room
    full = (count - sum(lengths)) // bucket_size if level else 0
    starts = [bucket_size * i for i in range(full)]
    starts += [bucket_size * full + sum(lengths[:i]) for i in range(len(lengths))]
    means = splats.means.numpy().astype(np.float64)
    centers = np.zeros((0, 3))
    places = means
    if level:
        ends = [*starts[1:], count]
        centers = np.stack(
            [means[a : max(b, a + 1)].mean(0) for a, b in zip(starts, ends, strict=True)]
        )
        centers = centers.astype("<f4")
        own = np.repeat(centers, np.diff([*starts, count]), 0)
        places = np.rint((means - own) / (BLOCK / 2 / REACH) + REACH)
        assert places.min() >= 0 and places.max() <= 2 * REACH
    position, number, sh = TYPES[level]
    table = np.zeros(room, [("p", position, 3), ("s", number, 3), ("q", number, 4),
                            ("c", "u1", 4), ("h", sh, (3 * ((degree + 1) ** 2 - 1),))])  # fmt: skip
    table["p"][:count], table["s"][:count] = places, splats.log_scales.exp().numpy()
    table["q"][:count] = splats.quaternions.numpy()
    shown = 0.5 + C0 * splats.harmonics[:, 0].numpy()
    alpha = splats.opacity_logits.sigmoid().numpy()[:, None]
    table["c"][:count] = np.clip(np.concatenate([shown, alpha], 1), 0, 1) * 255
    rest = by_bands(splats.harmonics.numpy())[:, : 3 * ((degree + 1) ** 2 - 1)]
    table["h"][:count] = (rest - LOW) / (HIGH - LOW) * 255 if level == 2 else rest
    buckets = full + len(lengths) if level else 0
    fields = count, room, bucket_size, buckets, BLOCK, 12, REACH, 0, full, len(lengths), degree
    if not level:  # some writers leave one bucket, which means nothing there
        fields = count, room, count, 1, BLOCK, 12, REACH, 0, 1, 0, degree
        centers = np.ones((1, 3), "<f4")
    head = struct.pack("<IIIIfHxxIIIIH", *fields).ljust(1024, b"\0")
    data = np.array(lengths if level else [], "<u4").tobytes() + centers.tobytes()
    return head, data + table.tobytes()


def ksplat(level, sections, most=None, stated=None):
    most = len(sections) if most is None else most
    count = (
        sum(struct.unpack("<I", head[:4])[0] for head, _ in sections) if stated is None else stated
    )
    start = struct.pack("<BBxxIIIIHxxfffff", 0, 1, most, len(sections), count, count, level,
                        0, 0, 0, LOW, HIGH).ljust(4096, b"\0")  # fmt: skip
    heads = b"".join(head for head, _ in sections).ljust(1024 * most, b"\0")
    return start + heads + b"".join(data for _, data in sections)


def read(content, folder):
    path = folder / "a.ksplat"
    path.write_bytes(content)
    return read_ksplat(path, "a.ksplat")


def small(count, degree, seed=0):
    """A model within one block, whose harmonics lie between the ends of a byte."""
    splats = model(count, degree, seed)
    splats.means.mul_(0.2)
    return splats


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([0, 1, 2]),
    st.integers(0, 2),
    st.sampled_from([(512, ()), (600, (50, 0, 38)), (7, (3, 4)), (256, ())]),
    st.integers(0, 50),
)
def test_errors_are_those_of_the_table(tmp_path_factory, level, degree, counts, seed):
    count, lengths = counts
    splats = small(count, degree, seed)
    content = ksplat(level, [section(splats, level, lengths)])
    found = read(content, tmp_path_factory.mktemp("a"))
    assert found.form == f".ksplat of level {level}" and found.notes == ()
    got = found.splats
    assert (got.count, got.degree) == (count, degree)
    bounds = (0, BLOCK / 131068 + 1e-6, BLOCK / 131068 + 1e-6)
    assert float((got.means - splats.means).abs().max()) <= bounds[level]
    scales = (got.log_scales - splats.log_scales).abs()
    assert float(scales.max()) <= (1e-6, 0.001, 0.001)[level]
    assert float(angles(got.quaternions, splats.quaternions).max()) < (0.001, 0.1, 0.1)[level]
    alpha = splats.opacity_logits.sigmoid() - got.opacity_logits.sigmoid()
    assert -1e-6 <= float(alpha.min()) and float(alpha.max()) <= 0.00393
    shown = (0.5 + C0 * splats.harmonics[:, 0]).clamp(0, 1) - (0.5 + C0 * got.harmonics[:, 0])
    assert -1e-6 <= float(shown.min()) and float(shown.max()) <= 0.00393
    if degree:
        rest = (got.harmonics - splats.harmonics)[:, 1:].abs()
        assert float(rest.max()) <= (0, 0.0003, (HIGH - LOW) / 255 + 1e-6)[level]


@pytest.mark.parametrize("level", [0, 1, 2])
def test_sections_of_several_degrees_follow_each_other(tmp_path, level):
    parts = [small(30, 2), small(20, 0, 1), small(10, 1, 2)]
    lengths = ((30,), (20,), (10,))
    made = [section(p, level, n, room=p.count + 5) for p, n in zip(parts, lengths, strict=True)]
    found = read(ksplat(level, made, most=4), tmp_path).splats
    assert (found.count, found.degree) == (60, 2)
    for part, rows in zip(parts, torch.arange(60).split([30, 20, 10]), strict=True):
        torch.testing.assert_close(found.means[rows], part.means, atol=1e-4, rtol=0)
        k = part.harmonics.shape[1]
        assert not found.harmonics[rows, k:].any()
        torch.testing.assert_close(
            found.harmonics[rows, 1:k], part.harmonics[:, 1:], atol=0.01, rtol=0
        )


def test_a_count_that_is_not_the_sections_is_told(tmp_path):
    content = ksplat(0, [section(small(5, 0), 0)], stated=6)
    assert read(content, tmp_path).notes == ("warning: it states 6 Gaussians and has 5",)


def edited(at, form, *values):
    sound = ksplat(1, [section(small(600, 1), 1, (50, 38))])
    data = struct.pack(form, *values)
    return sound[:at] + data + sound[at + len(data) :]


FORGED = {
    "version 1.0": (edited(0, "<B", 1), "begin otherwise"),
    "version 0.0": (edited(1, "<B", 0), "begin otherwise"),
    "level 3": (edited(20, "<H", 3), "compression level: 3"),
    "many sections": (edited(4, "<I", 2**31), "sections: 2147483648 in"),
    "no sections": (edited(4, "<I", 0), "begin otherwise"),
    "degree 3": (edited(4136, "<H", 3), "degree of harmonics: 3"),
    "many records": (edited(4096, "<II", 2**31, 2**31), "2147483648 of 2147483648"),
    "more than there is room for": (edited(4096, "<I", 601), "601 of 600"),
    "many buckets": (edited(4108, "<I", 2**31), "2147483648 buckets"),
    "buckets of other bytes": (edited(4116, "<H", 16), "bytes of a bucket: 16"),
    "more full buckets than there are": (edited(4128, "<I", 3), "3 full buckets"),
    "few lengths": (edited(4132, "<I", 1), "buckets of fewer|Gaussians"),
    "short buckets": (edited(5120, "<II", 1, 1), "buckets of fewer"),
    "no block": (edited(4112, "<f", float("nan")), "blocks of a size"),
    "cut off": (edited(0, "<B", 0)[:-1], "Copy it again"),
    "short": (bytes(4095), "4095 bytes"),
    "empty sections": (edited(4096, "<I", 0), "0 Gaussians"),
}


@pytest.mark.parametrize(("content", "message"), FORGED.values(), ids=FORGED)
def test_forged_sections_are_refused_by_name(tmp_path, content, message):
    with pytest.raises(InputError, match=f"^a.ksplat.*({message})"):
        read(content, tmp_path)


def test_lengths_that_wrap_allocate_nothing(tmp_path):
    found = read(edited(5120, "<II", 2**31, 2**31), tmp_path).splats
    torch.testing.assert_close(found.means[:512], small(600, 1).means[:512], atol=1e-4, rtol=0)


def test_four_points_are_those_of_the_splat_file():
    found = read_ksplat(sample("minimal.ksplat"), "minimal").splats
    other = read_dot_splat(sample("minimal.splat"), "minimal").splats
    for name in ("means", "opacity_logits", "harmonics"):
        assert torch.equal(getattr(found, name), getattr(other, name))
    torch.testing.assert_close(found.log_scales, other.log_scales)
    assert float(angles(found.quaternions, other.quaternions).max()) == 0
