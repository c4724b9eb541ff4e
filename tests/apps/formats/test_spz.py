"""SPZ: what its bytes mean in every version, what is written, its frames, and forged headers."""

import gzip
import math
import struct
import tracemalloc

import numpy as np
import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from splat_models import angles, covariances, model, same, sample

from polyfield.apps.formats.compressed_ply import read_compressed_ply
from polyfield.apps.formats.spz import clipped, read_spz, splats_of_spz, spz_bytes
from polyfield.apps.formats.spz_container import FRAMES, unpack
from polyfield.cuda.errors import InputError
from polyfield.fields.splats import turned

# Degrees that a rotation may turn by: the three smaller components are rounded to 511 steps of
# 1 / sqrt(2), and the largest makes up for it. Worst where all four are alike and all three are
# off by half a step to the same side: then the quaternion is sqrt(12) half steps away, and the
# rotation by twice as much.
TURN = math.degrees(math.sqrt(12) / (511 * math.sqrt(2))) + 1e-3


def read(content):
    return splats_of_spz(content, "a.spz")


def head(version=3, count=1, degree=0, bits=12, flags=0, last=0):
    return b"NGSP" + struct.pack("<IIBBBB", version, count, degree, bits, flags, last)


def packed(version=3, blocks=b"", tail=b"", **fields):
    return gzip.compress(head(version, **fields) + blocks + tail, mtime=0)


def one(version=3, degree=0):
    """The blocks of one Gaussian: position (1, -1, 0.5) of 12 fractional bits, or of halves."""
    position = np.array([1, -1, 0.5], "<f2").tobytes()
    if version > 1:
        position = b"".join((x & 0xFFFFFF).to_bytes(3, "little") for x in (4096, -4096, 2048))
    turn = bytes([255, 128, 127]) if version < 3 else struct.pack("<I", 3 << 30)
    rest = bytes(range(100, 100 + 3 * ((degree + 1) ** 2 - 1)))
    return position + bytes([51]) + bytes([0, 128, 255]) + bytes([0, 160, 255]) + turn + rest


def extension(kind, data):
    return struct.pack("<II", kind, len(data)) + data


def frames_file(blocks, flags=0, extensions=b"", **fields):
    """A file of version 4 by hand."""
    streams = [zstandard.ZstdCompressor().compress(block) for block in blocks]
    at = 32 + len(extensions)
    table = [struct.pack("<QQ", len(s), len(b)) for s, b in zip(streams, blocks, strict=True)]
    start = head(4, flags=flags, last=len(blocks), **fields) + struct.pack("<I12x", at)
    return start + extensions + b"".join(table + streams)


def cut(data, sizes):
    ends = np.cumsum(sizes).tolist()
    return [data[end - size : end] for size, end in zip(sizes, ends, strict=True)]


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([1, 255, 256, 257, 600]),
    st.integers(0, 4),
    st.sampled_from([3, 4]),
    st.booleans(),
    st.integers(0, 99),
)
def test_errors_are_those_of_the_table(count, degree, version, mip, seed):
    splats = model(count, degree, seed, mip)
    found = read(spz_bytes(splats, version)).splats
    assert (found.count, found.degree, found.antialiased) == (count, degree, mip)
    bounds = {"means": 2**-13, "log_scales": 1 / 32}
    for name, most in bounds.items():
        assert float((getattr(found, name) - getattr(splats, name)).abs().max()) <= most + 1e-6
    alpha = found.opacity_logits.sigmoid() - splats.opacity_logits.sigmoid()
    assert float(alpha.abs().max()) <= 1 / 510 + 1e-6
    assert float(angles(found.quaternions, splats.quaternions).max()) <= TURN
    error = (found.harmonics - splats.harmonics).abs()
    for first, last, most in ((0, 1, 1 / 76.5), (1, 4, 4.5 / 128), (4, 25, 8.5 / 128)):
        assert not error[:, first:last].numel() or float(error[:, first:last].max()) <= most + 1e-6
    # What was read packs to itself, but for turns of two largest components.
    again = read(spz_bytes(found, version)).splats
    for name in ("means", "log_scales", "opacity_logits", "harmonics"):
        assert torch.equal(getattr(again, name), getattr(found, name))
    assert float(angles(again.quaternions, found.quaternions).max()) <= TURN


@pytest.mark.parametrize("version", [3, 4])
def test_the_same_model_is_the_same_bytes(version):
    splats = model(300)
    assert spz_bytes(splats, version) == spz_bytes(splats, version)
    assert same(read(spz_bytes(splats, 3)).splats, read(spz_bytes(splats, 4)).splats)


@pytest.mark.parametrize("version", [1, 2, 3, 4])
@pytest.mark.parametrize("degree", [0, 1, 4])
def test_a_gaussian_by_hand(version, degree):
    blocks = one(version, degree)
    if version == 4:
        parts = [9, 1, 3, 3, 4, len(blocks) - 20][: 6 if degree else 5]
        content = frames_file(cut(blocks, parts), degree=degree)
    else:
        content = packed(version, blocks, degree=degree)
    found = read(content)
    assert f"version {version}" in found.form and found.frame == "RUB"
    splats = found.splats
    assert splats.means.tolist() == [[1, -1, 0.5]]
    torch.testing.assert_close(splats.opacity_logits.sigmoid(), torch.tensor([0.2]))
    dc = [(b / 255 - 0.5) / 0.15 for b in (0, 128, 255)]
    torch.testing.assert_close(splats.harmonics[0, 0], torch.tensor(dc))
    assert splats.log_scales.tolist() == [[-10, 0, 5.9375]]
    w, x, y, z = splats.quaternions[0].tolist()
    if version < 3:
        v = torch.tensor([1, 128 / 127.5 - 1, 127 / 127.5 - 1])
        torch.testing.assert_close(torch.tensor([x, y, z]), v / v.norm())
        assert w == 0
    else:
        assert (w, x, y, z) == (1, 0, 0, 0)
    expected = (torch.arange(100, 100 + splats.harmonics[:, 1:].numel()) - 128) / 128
    assert torch.equal(splats.harmonics[0, 1:].flatten(), expected)


@pytest.mark.parametrize(("largest", "order"), [(0, "xyzw"), (1, "yxzw"), (2, "zxyw"), (3, "wxyz")])
def test_a_word_of_a_turn_names_its_largest_of_x_y_z_w(largest, order):
    codes = [300, 512 | 200, 100]
    word = largest << 30 | codes[0] << 20 | codes[1] << 10 | codes[2]
    blocks = one()[:16] + struct.pack("<I", word)
    turn = dict(
        zip("wxyz", read(packed(blocks=blocks)).splats.quaternions[0].tolist(), strict=True)
    )
    few = [300 / 511 * 0.5**0.5, -200 / 511 * 0.5**0.5, 100 / 511 * 0.5**0.5]
    most = (1 - sum(c * c for c in few)) ** 0.5
    for letter, expected in zip(order, [most, *few], strict=True):
        assert turn[letter] == pytest.approx(expected, abs=1e-6)
    assert struct.pack("<I", word) in gzip.decompress(spz_bytes(read(packed(blocks=blocks)).splats))


@pytest.mark.parametrize(
    "turn",
    [[1, 0, 0, 0], [0, 0, 0, -2], [1, 1, 1, 1], [-1, 1, 0, 0], [0, -3, 3, 0.0], [1e-3, 0, 1, 0]],
)
def test_turns_with_ties_and_of_any_length_or_sign_come_back(turn):
    splats = model(1)
    splats.quaternions[:] = torch.tensor(turn)
    found = read(spz_bytes(splats)).splats.quaternions
    assert float(angles(found, splats.quaternions)) <= TURN
    splats.quaternions.neg_()
    assert torch.equal(read(spz_bytes(splats)).splats.quaternions.abs(), found.abs())


def test_a_forged_turn_has_numbers():
    blocks = one()[:16] + struct.pack("<I", 3 << 30 | 0x1FF << 20 | 0x1FF << 10 | 0x1FF)
    assert read(packed(blocks=blocks)).splats.quaternions.isfinite().all()


def test_numbers_beyond_the_bytes_end_at_their_ends_and_are_counted():
    splats = model(5, 1)
    splats.log_scales[0, 1], splats.log_scales[1, 2] = -20.0, 9.0
    splats.harmonics[2, 0], splats.harmonics[3, 2] = 7.0, -3.0
    splats.harmonics[4, 1] = torch.tensor([-1.0, 0.0, 1.0])
    assert clipped(splats) == 4
    found = read(spz_bytes(splats)).splats
    assert found.log_scales[0, 1] == -10 and found.log_scales[1, 2] == 5.9375
    assert found.harmonics[3, 2].tolist() == [-1] * 3
    assert found.harmonics[4, 1].tolist() == [-1, 0, 127 / 128]


def test_bytes_are_rounded_in_float32_as_the_formats_library_does():
    splats = model(1, 0)
    # 10 more is half-way between two bytes in float32, and a little less in float64.
    splats.log_scales[:] = torch.tensor(2.03125).nextafter(torch.tensor(0.0))
    assert read(spz_bytes(splats)).splats.log_scales.tolist() == [[2.0625] * 3]


@pytest.mark.parametrize(
    ("largest", "bits"), [(5.0, 12), (2047.9, 12), (2048.0, 11), (-1e5, 6), (8388607.0, 0)]
)
def test_positions_far_away_take_bits_from_the_fraction(largest, bits):
    splats = model(3)
    splats.means[1, 2] = largest
    found = read(spz_bytes(splats))
    assert f"({bits} fractional bits)" in found.form
    assert float((found.splats.means - splats.means).abs().max()) <= 2.0 ** -(bits + 1)
    splats.means[1, 2] = 8388608.0
    with pytest.raises(InputError, match="position of 8.38861e"):
        spz_bytes(splats)


@pytest.mark.parametrize(("number", "frame"), list(enumerate(FRAMES, 1)))
def test_a_file_that_says_its_frame_is_believed(number, frame):
    records = extension(0xADBE0002, bytes(12)) + extension(0x12345678, b"unknown")
    records += extension(0xADBE0003, struct.pack("<I", number))
    blocks = cut(one(), [9, 1, 3, 3, 4])
    for content in (packed(3, one(), records, flags=2), frames_file(blocks, 2, records)):
        found = read(content)
        assert found.frame == frame and found.states_frame and found.notes == ()


def test_our_version_4_says_its_frame_unless_told_otherwise():
    assert read(spz_bytes(model(3), 4)).states_frame
    for content in (spz_bytes(model(3), 4, False), spz_bytes(model(3), 3)):
        found = read(content)
        assert found.frame == "RUB" and not found.states_frame
    with pytest.raises(InputError, match="SPZ version: 3, frame stated: True"):
        spz_bytes(model(3), 3, True)
    with pytest.raises(InputError, match="SPZ version: 2"):
        spz_bytes(model(3), 2)


def test_a_stream_that_is_not_packed_is_read_and_told():
    found = read(head() + one())
    assert found.splats.count == 1 and "not packed" in found.notes[0]
    assert "follow the Gaussians" in read(packed(3, one(), b"tail")).notes[0]


def edited(content, at, data):
    return content[:at] + data + content[at + len(data) :]


FOUR = frames_file(cut(one(degree=1), [9, 1, 3, 3, 4, 9]), degree=1)
BOMB = zstandard.ZstdCompressor().compress(bytes(1 << 26))
MANY = 2**31 - 1
FORGED = {
    "no gzip": (b"\x1f\x8bno gzip", "gzip"),
    "another magic": (gzip.compress(b"NGSQ" + bytes(60)), "no header"),
    "a short header": (gzip.compress(b"NGSP" + bytes(8)), "no header"),
    "neither": (b"hello", "begins with"),
    "version 0": (packed(0, one()), "version: 0"),
    "version 5": (packed(5, one()), "version: 5"),
    "degree 5": (packed(3, one(), degree=5), "degree of harmonics: 5"),
    "31 fractional bits": (packed(3, one(), bits=31), "fractional bits: 31"),
    "a tree of Spark's": (packed(3, one(), flags=0x80), "Spark"),
    "no Gaussians": (packed(3, one(), count=0), "0 Gaussians"),
    "2^31 - 1 Gaussians": (packed(3, one(), count=MANY), f"{MANY} Gaussians"),
    "more than deflate can hold": (packed(3, one(), count=10**6), "1000000 Gaussians in"),
    "cut off": (packed(3, one()[:-1]), "35 bytes of 1"),
    "a cut gzip stream": (packed(3, one() + bytes(range(256)))[:40], "bytes of 1"),
    "a wrong checksum": (edited(packed(3, one()), -6, b"\0"), "gzip"),
    "positions of 24 bits in version 1": (packed(1, one(2)), "version 1 with more"),
    "an extension that ends beyond": (
        packed(3, one(), struct.pack("<II", 7, 9), flags=2), "9 bytes of kind 0x7"),
    "half an extension": (packed(3, one(), b"1234", flags=2), "4 bytes"),
    "a long frame": (packed(3, one(), extension(0xADBE0003, bytes(8)), flags=2), "0xadbe0003"),
    "frame 17": (packed(3, one(), extension(0xADBE0003, b"\x11\0\0\0"), flags=2), "system 17"),
    "a short file": (FOUR[:31], "a header of 32"),
    "few streams": (edited(FOUR, 15, b"\5"), "streams: 5"),
    "a table before the header's end": (edited(FOUR, 16, b"\x1f\0\0\0"), "at byte 31"),
    "a table beyond the file": (edited(FOUR, 16, b"\xff\xff\xff\xff"), "table of contents"),
    "a stream of another size": (edited(FOUR, 40, b"\xff" * 8), "stream 0: 18446744073709551615"),
    "a stream beyond the file": (edited(FOUR, 32, b"\xff" * 8), "within the file"),
    "sizes that wrap": (edited(FOUR, 48, b"\xf0" + b"\xff" * 7), "within the file"),
    "a byte more": (FOUR + b"\0", "1 bytes follow"),
    "a frame of another size": (frames_file(
        [*cut(one(degree=1), [9, 1, 3, 3, 4]), b"x" * 8], degree=1), "stream 5: 8 bytes"),
    "no frame": (edited(FOUR, 32 + 6 * 16, b"nope"), "no sound zstd frame"),
    "a bomb": (head(4, last=5) + struct.pack("<I12x", 32) + struct.pack("<QQ", len(BOMB), 9)
               + bytes(64) + BOMB, "frame of 67108864 bytes"),
    "many Gaussians in frames": (edited(FOUR, 8, struct.pack("<I", MANY)), f"{MANY}"),
    "many Gaussians that a table confirms": (
        edited(edited(FOUR, 8, struct.pack("<I", 10**6)), 40, struct.pack("<Q", 9 * 10**6)),
        "a frame of 9 bytes"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "message"), FORGED.values(), ids=FORGED)
def test_forged_files_are_refused_by_name_in_little_memory(content, message):
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=f"^a.spz.*{message}"):
            read(content)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * len(content) + (1 << 20)


def test_frames_that_do_not_say_their_size_are_read_up_to_it():
    streams = cut(one(), [9, 1, 3, 3, 4])

    def with_frame(content):
        packer = zstandard.ZstdCompressor(write_content_size=False)
        frames = [packer.compress(block) for block in [content, *streams[1:]]]
        sizes = zip(frames, streams, strict=True)
        table = b"".join(struct.pack("<QQ", len(f), len(b)) for f, b in sizes)
        return head(4, last=5) + struct.pack("<I12x", 32) + table + b"".join(frames)

    assert read(with_frame(streams[0])).splats.means.tolist() == [[1, -1, 0.5]]
    for wrong in (streams[0][:-1], streams[0] + b"\0", bytes(1 << 24)):
        with pytest.raises(InputError, match="stream 0"):
            read(with_frame(wrong))


def test_a_figure_is_the_same_as_in_its_compressed_ply():
    packed_ply = read_compressed_ply(sample("biker.compressed.ply"), "biker").splats
    found = read_spz(sample("biker.spz"), "biker")
    assert found.form == "SPZ of version 4 (12 fractional bits)" and found.frame == "RUB"
    spz = turned(found.splats, "RUB", "RDF")
    assert float((spz.means - packed_ply.means).abs().max()) < 1.222e-4
    inside = packed_ply.log_scales > -10
    error = (spz.log_scales - packed_ply.log_scales).abs()
    assert float(error[inside].max()) <= 0.03126
    assert float((spz.harmonics - packed_ply.harmonics).abs().max()) < 0.013073
    assert torch.equal(spz.opacity_logits, packed_ply.opacity_logits)
    apart = angles(spz.quaternions, packed_ply.quaternions)
    assert float(apart.median()) == pytest.approx(0.108, abs=0.001)
    assert float(apart.max()) < 0.147
    assert float(angles(found.splats.quaternions, packed_ply.quaternions).median()) > 60
    theirs, ours = covariances(packed_ply), covariances(spz)
    inside = inside.all(1)
    relative = (theirs - ours).flatten(1).norm(dim=1) / theirs.flatten(1).norm(dim=1)
    assert float(relative[inside].median()) == pytest.approx(0.032, abs=0.002)
    assert float(relative[inside].max()) < 0.0661


def test_a_figure_packs_to_the_bytes_that_another_program_made_of_it():
    path = sample("biker.spz")
    packed_ply = read_compressed_ply(sample("biker.compressed.ply"), "biker").splats
    ours = spz_bytes(turned(packed_ply, "RDF", "RUB"), 4, state_frame=False)
    theirs = path.read_bytes()
    assert ours[:32] == theirs[:32]
    for mine, other in zip(unpack(ours, "a").blocks, unpack(theirs, "b").blocks, strict=True):
        assert mine == other


def test_lotus_flowers_of_version_3():
    found = read_spz(sample("lotus.spz"), "lotus")
    splats = found.splats
    assert found.form == "SPZ of version 3 (12 fractional bits)"
    assert (splats.count, splats.degree, splats.antialiased) == (262144, 0, True)
    assert (float(splats.log_scales.min()), float(splats.log_scales.max())) == (-7, -3.375)
    counts = [int((sign * splats.opacity_logits > 13.8).sum()) for sign in (-1, 1)]
    assert counts == [673, 69633]
    assert int((splats.harmonics < -3.3333).sum()) == 73
    again = read(spz_bytes(splats, 3)).splats
    for name in ("means", "log_scales", "opacity_logits", "harmonics"):
        assert torch.equal(getattr(again, name), getattr(splats, name))


def test_four_points_in_four_versions():
    versions = ("v2", "v3", "v4", "raw")
    two, three, four, raw = (
        read_spz(sample(f"minimal-{version}.spz"), version).splats for version in versions
    )
    assert same(three, four) and same(two, raw)
    assert two.means.tolist() == [[-1, 0, -1], [0, 0, -1], [-1, 0, 0], [0, 0, 0]]
    assert three.means.tolist() == [[-1, 0, 1], [0, 0, 1], [-1, 0, 0], [0, 0, 0]]
    for splats in (two, three):
        torch.testing.assert_close(
            splats.log_scales.exp(), torch.full((4, 3), 0.0990), atol=1e-4, rtol=0
        )
        torch.testing.assert_close(splats.opacity_logits.sigmoid(), torch.full((4,), 230 / 255))
    assert three.quaternions.tolist() == [[1, 0, 0, 0]] * 4
    torch.testing.assert_close(
        two.quaternions[0], torch.tensor([0.9999, 0.004, 0.004, 0.004]), atol=1e-4, rtol=0
    )
    shown = 0.5 + 0.28209479 * torch.stack([two.harmonics[0, 0, 0], three.harmonics[0, 0, 0]])
    torch.testing.assert_close(shown, torch.tensor([0.187, 0.334]), atol=1e-3, rtol=0)
