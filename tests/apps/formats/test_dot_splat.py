"""The .splat file: 32 bytes a Gaussian, of which a reader must know what they are."""

import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from splat_models import angles, model, sample

from polyfield.apps.formats.dot_splat import dot_splat_bytes, lit_beyond, read_dot_splat
from polyfield.cuda.errors import InputError

C0 = 0.28209479177387814


def written(splats):
    return b"".join(dot_splat_bytes(splats))


def read(content, folder):
    path = folder / "a.splat"
    path.write_bytes(content)
    return read_dot_splat(path, "a.splat")


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 600), st.integers(0, 99))
def test_errors_are_those_of_the_table(tmp_path_factory, count, seed):
    splats = model(count, 0, seed)
    content = written(splats)
    found = read(content, tmp_path_factory.mktemp("a")).splats
    assert len(content) == 32 * count and torch.equal(found.means, splats.means)
    torch.testing.assert_close(found.log_scales, splats.log_scales, atol=5e-7, rtol=0)
    assert float(angles(found.quaternions, splats.quaternions).max()) < 0.9
    alpha = (found.opacity_logits.sigmoid() - splats.opacity_logits.sigmoid()).abs()
    assert float(alpha.max()) <= 1 / 510 + 1e-6
    shown = (0.5 + C0 * splats.harmonics).clamp(0, 1)
    assert float((0.5 + C0 * found.harmonics - shown).abs().max()) <= 1 / 510 + 1e-6
    # What was read goes back to the same bytes.
    assert written(found) == content


def test_a_row_by_hand(tmp_path):
    row = struct.pack("<6f8B", 1, -2, 3, 0.1, 1e-3, 0, 255, 0, 51, 204, 192, 64, 192, 192)
    found = read(row, tmp_path).splats
    assert found.means.tolist() == [[1, -2, 3]]
    torch.testing.assert_close(found.log_scales.exp()[0, :2], torch.tensor([0.1, 1e-3]))
    assert found.log_scales[0, 2] == -46
    torch.testing.assert_close(0.5 + C0 * found.harmonics[0, 0], torch.tensor([1.0, 0, 0.2]))
    torch.testing.assert_close(found.opacity_logits.sigmoid(), torch.tensor([0.8]))
    assert (128 * found.quaternions + 128).tolist() == [[192, 64, 192, 192]]
    assert written(found)[:12] == row[:12] and written(found)[24:] == row[24:]


def test_ends_of_bytes_and_any_length_of_a_turn(tmp_path):
    splats = model(4, 0)
    splats.opacity_logits[:2] = torch.tensor([-40.0, 40.0])
    splats.harmonics[0], splats.harmonics[1] = -5.0, 5.0
    splats.quaternions[2] = torch.tensor([0.0, 0, 0, -7])
    splats.quaternions[3] *= 100
    assert lit_beyond(splats) == 2
    found = read(written(splats), tmp_path).splats
    assert float(angles(found.quaternions, splats.quaternions).max()) < 0.9
    torch.testing.assert_close(found.opacity_logits[:2], torch.tensor([-13.8155, 13.8155]))
    torch.testing.assert_close(C0 * found.harmonics[:2, 0, 0], torch.tensor([-0.5, 0.5]))


@pytest.mark.parametrize(("cut", "most"), [(False, 0.9), (True, 0.9)])
def test_a_writer_that_cuts_off_is_told_by_the_lengths(tmp_path, cut, most):
    splats = model(4000, 0)
    content = np.frombuffer(bytearray(written(splats)), np.uint8).reshape(-1, 32)
    if cut:
        content[:, 28:] = np.clip(np.floor(128 * splats.quaternions.numpy() + 128), 0, 255)
    found = read(content.tobytes(), tmp_path)
    assert float(angles(found.splats.quaternions, splats.quaternions).max()) < most
    assert len(found.notes) == cut


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 Gaussians"),
        (bytes(33), "33 bytes"),
        (struct.pack("<6f8x", 1, np.nan, 0, 1, 1, 1), "Gaussian 0: position"),
        (bytes(32) + struct.pack("<6f8x", 0, 0, 0, 1, -1, 1), "Gaussian 1: .*scale"),
        (struct.pack("<6f8x", 0, 0, 0, 1, 2e6, 1), "scale"),
    ],
)
def test_what_no_such_file_holds_is_refused(tmp_path, content, message):
    with pytest.raises(InputError, match=f"^a.splat.*{message}"):
        read(content, tmp_path)


def test_a_planter_comes_back_byte_by_byte():
    path = sample("planter.splat")
    found = read_dot_splat(path, "planter")
    splats = found.splats
    assert splats.count == 59436 and found.notes == ()
    scales, lengths = splats.log_scales.exp(), splats.quaternions.norm(dim=1)
    assert float(scales.min()) == pytest.approx(2.2e-6, rel=0.01)
    assert float(scales.max()) == pytest.approx(0.54, abs=0.005)
    assert 0.992 <= float(lengths.min()) and float(lengths.max()) < 1.0065
    assert float((lengths - 1).abs().mean()) == pytest.approx(0.0019, abs=2e-4)
    assert written(splats) == path.read_bytes()


def test_four_points_of_splat_transform():
    found = read_dot_splat(sample("minimal.splat"), "minimal").splats
    assert found.means.tolist() == [[-1, 0, -1], [0, 0, -1], [-1, 0, 0], [0, 0, 0]]
    torch.testing.assert_close(found.log_scales.exp(), torch.full((4, 3), 0.1))
    assert float((255 * found.opacity_logits.sigmoid()).mean()) == pytest.approx(230, abs=1e-3)
    shown = (255 * (0.5 + C0 * found.harmonics[:, 0])).round()
    assert shown[0].tolist() == [85, 85, 128]
    half_turn = torch.tensor([[0.0, 0, 0, 1]]).expand(4, 4)
    assert float(angles(found.quaternions, half_turn).max()) == 0
