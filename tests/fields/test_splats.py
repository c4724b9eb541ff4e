"""Gaussians look the same wherever they are moved, and only what can be shown is kept."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from splat_models import angles, colors, covariances, hundred_directions, matrices, model, same

from polyfield.cuda.errors import InputError
from polyfield.fields.similarity import Similarity
from polyfield.fields.splats import Splats, chosen, clean, moved, of_degree, turned

# Which of 24 harmonics change their sign when one axis is flipped: the formats' table.
ODD = {
    "x": {3, 4, 7, 10, 13, 15, 16, 18, 21, 23},
    "y": {1, 4, 5, 9, 10, 11, 16, 17, 18, 19},
    "z": {2, 5, 7, 10, 12, 14, 17, 19, 21, 23},
}
HALF_TURNS = {
    ("RDF", "RUB"): {1, 2, 4, 7, 9, 11, 12, 14, 16, 18, 21, 23},
    ("RDF", "LUF"): {1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23},
    ("RUB", "LUF"): {2, 3, 4, 5, 12, 13, 14, 15, 16, 17, 18, 19},
}
Y_UP_FAMILY = [x + y + z for x in "RL" for y in "DU" for z in "FB"]
rotations = st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(
    lambda q: sum(x * x for x in q) > 0.01
)


def similarity(quaternion, scale=1.0, shift=(0.0, 0.0, 0.0)):
    rotation = matrices(torch.tensor([quaternion], dtype=torch.float64))[0]
    return Similarity(scale, rotation, torch.tensor(shift, dtype=torch.float64))


def negated(source, target):
    ones = turned(
        Splats(*(torch.ones(1, n) for n in (3, 3, 4)), torch.ones(1), torch.ones(1, 25, 3)),
        source,
        target,
    ).harmonics[0]
    assert torch.equal(ones.abs(), torch.ones(25, 3))
    return {k for k in range(25) if ones[k, 0] < 0}


def test_counts_and_degrees_follow_from_the_tensors():
    for degree in range(5):
        splats = model(7, degree)
        assert (splats.count, splats.degree, splats.antialiased) == (7, degree, False)


@settings(max_examples=25, deadline=None)
@given(rotations, st.floats(0.01, 100), st.integers(0, 4))
def test_moved_gaussians_look_the_same_from_a_hundred_directions(quaternion, scale, degree):
    before = model(6, degree, dtype=torch.float64)
    to = similarity(quaternion, scale, (3.0, -2.0, 0.5))
    after = moved(before, to)
    directions = hundred_directions()
    torch.testing.assert_close(
        colors(after, directions @ to.rotation.T), colors(before, directions), atol=1e-7, rtol=0
    )
    torch.testing.assert_close(
        covariances(after) / scale**2,
        to.rotation @ covariances(before) @ to.rotation.T,
        atol=1e-12,
        rtol=1e-11,
    )
    torch.testing.assert_close(after.means, to.apply(before.means))
    assert torch.equal(after.opacity_logits, before.opacity_logits)


@settings(max_examples=10, deadline=None)
@given(rotations)
def test_harmonics_turn_back_to_fifteen_digits(quaternion):
    before = model(20, 4, dtype=torch.float64)
    to = similarity(quaternion, 3.0)
    again = moved(moved(before, to), to.inverse())
    torch.testing.assert_close(again.harmonics, before.harmonics, atol=2e-14, rtol=0)
    assert float(angles(again.quaternions, before.quaternions).max()) < 1e-6


@pytest.mark.parametrize(("frames", "odd"), HALF_TURNS.items())
def test_half_turns_between_frames_negate_the_harmonics_of_the_table(frames, odd):
    assert negated(*frames) == negated(*frames[::-1]) == odd


@pytest.mark.parametrize(("axis", "frame"), [("x", "LDF"), ("y", "RUF"), ("z", "RDB")])
def test_mirrors_negate_the_odd_harmonics_of_their_axis(axis, frame):
    assert negated("RDF", frame) == ODD[axis]


@pytest.mark.parametrize("source", Y_UP_FAMILY)
@pytest.mark.parametrize("degree", range(5))
def test_frames_change_numbers_and_nothing_that_is_seen(source, degree):
    before, directions = model(5, degree, dtype=torch.float64), hundred_directions()
    for target in Y_UP_FAMILY:
        after = turned(before, source, target)
        signs = torch.tensor([1.0 if a == b else -1.0 for a, b in zip(source, target, strict=True)])
        flip = torch.diag(signs).double()
        torch.testing.assert_close(
            colors(after, directions @ flip), colors(before, directions), atol=1e-12, rtol=0
        )
        torch.testing.assert_close(covariances(after), flip @ covariances(before) @ flip)
        assert torch.equal(after.means, before.means @ flip)
        assert same(turned(after, target, source), before)


def test_half_turns_as_rotations_are_exact():
    splats = model(9, 4)
    half = Similarity(
        1.0, torch.diag(torch.tensor([1.0, -1, -1]).double()), torch.zeros(3).double()
    )
    assert same(moved(splats, half), turned(splats, "RDF", "RUB"))
    assert same(moved(splats, Similarity.identity()), splats)


def test_frames_with_z_up_are_a_family_of_their_own():
    assert torch.equal(turned(model(3), "RFU", "LBD").means, -model(3).means)
    for source, target in [("RDF", "RFU"), ("RDF", "RD"), ("RDF", "abc"), ("DRF", "RDF"), ("", "")]:
        with pytest.raises(InputError, match="frames"):
            turned(model(3), source, target)


def test_clean_keeps_what_is_opaque_without_end_and_drops_what_is_nothing():
    splats = model(9, 1)
    logits, scales, turns, means = (
        splats.opacity_logits.clone(),
        splats.log_scales.clone(),
        splats.quaternions.clone(),
        splats.means.clone(),
    )
    logits[:4] = torch.tensor([math.inf, -math.inf, -5.54, -5.537])
    scales[4, 1], scales[5, 0], scales[8, 2] = -math.inf, math.inf, 50.0
    turns[6], means[7, 2] = 0.0, math.nan
    found = clean(Splats(means, scales, turns, logits, splats.harmonics))
    assert (found.mended, found.not_finite, found.transparent) == (3, 2, 2)
    assert torch.equal(found.splats.harmonics, splats.harmonics[[0, 3, 4, 6, 8]])
    torch.testing.assert_close(found.splats.opacity_logits[0], torch.tensor(13.8155))
    assert found.splats.log_scales[2, 1] == -46 and found.splats.log_scales[4, 2] == 46
    assert found.splats.quaternions[3].tolist() == [1, 0, 0, 0]
    assert same(clean(found.splats).splats, found.splats)


def test_the_faintest_byte_of_opacity_is_kept():
    splats = model(2, 0)
    logits = torch.tensor([1 / 255, 0.99 / 255], dtype=torch.float64).logit().float()
    kept = clean(Splats(splats.means, splats.log_scales, splats.quaternions, logits,
                        splats.harmonics))  # fmt: skip
    assert kept.transparent == 1 and torch.equal(kept.splats.means, splats.means[:1])


@pytest.mark.parametrize("field", ["means", "log_scales", "quaternions", "harmonics"])
def test_a_number_that_is_none_takes_its_gaussian_along(field):
    splats = model(4, 2)
    getattr(splats, field)[2].view(-1)[-1] = math.nan
    found = clean(splats)
    assert found.not_finite == 1 and same(found.splats, chosen(splats, torch.tensor([0, 1, 3])))


def test_degrees_are_cut_off_or_filled_with_zeros():
    splats = model(3, 2)
    assert torch.equal(of_degree(splats, 1).harmonics, splats.harmonics[:, :4])
    more = of_degree(splats, 4).harmonics
    assert torch.equal(more[:, :9], splats.harmonics) and not more[:, 9:].any()
    with pytest.raises(InputError, match="degree: 5"):
        of_degree(splats, 5)
