import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyfield.cuda.errors import InputError
from polyfield.fields.similarity import Similarity


def turned(angle, scale, shift):
    c, s = math.cos(angle), math.sin(angle)
    rotation = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float64)
    return Similarity(scale, rotation, torch.tensor(shift, dtype=torch.float64))


similarities = st.builds(
    turned,
    st.floats(0, 6.3),
    st.floats(1e-3, 1e3),
    st.tuples(*[st.floats(-1e3, 1e3)] * 3),
)
points = torch.tensor([[1.0, 2, 3], [-4, 0.5, 9], [0, 0, 0]], dtype=torch.float64)


@settings(max_examples=30, deadline=None)
@given(similarities)
def test_the_inverse_leads_back(similarity):
    back = similarity.inverse().apply(similarity.apply(points))
    torch.testing.assert_close(back, points, atol=1e-6, rtol=1e-9)


@settings(max_examples=30, deadline=None)
@given(similarities, similarities)
def test_composition_applies_the_first_and_then_the_second(second, first):
    both = second.compose(first).apply(points)
    torch.testing.assert_close(both, second.apply(first.apply(points)), atol=1e-4, rtol=1e-9)


@settings(max_examples=30, deadline=None)
@given(similarities)
def test_json_keeps_every_digit(similarity):
    again = Similarity.from_json(similarity.to_json())
    assert again.scale == similarity.scale
    assert torch.equal(again.rotation, similarity.rotation)
    assert torch.equal(again.translation, similarity.translation)


def test_lengths_grow_by_the_scale():
    moved = turned(0.7, 3.0, (1, 2, 3)).apply(points)
    ratio = (moved[0] - moved[1]).norm() / (points[0] - points[1]).norm()
    assert float(ratio) == pytest.approx(3)


def test_cameras_move_and_keep_orthonormal_axes():
    pose = torch.cat([torch.eye(3), torch.tensor([[1.0], [0], [0]])], 1)[None]
    moved = turned(math.pi / 2, 5.0, (0, 0, 1)).apply_to_cameras(pose)[0]
    torch.testing.assert_close(moved[:, 3], torch.tensor([0.0, 5, 1]))
    torch.testing.assert_close(moved[:, :3] @ moved[:, :3].T, torch.eye(3))
    torch.testing.assert_close(moved[:, 0], torch.tensor([0.0, 1, 0]))


@pytest.mark.parametrize(
    "change",
    [
        {"scale": 0.0},
        {"scale": float("nan")},
        {"scale": 10**400},
        {"rotation": [[1, 0], [0, 1]]},
        {"rotation": [[1, 0, 0], [0, 1, 0], [0, 0, -1]]},
        {"rotation": [[2, 0, 0], [0, 1, 0], [0, 0, 1]]},
        {"translation": [0, 0, float("inf")]},
        {"translation": "here"},
    ],
)
def test_json_that_is_no_similarity_is_refused(change):
    with pytest.raises(InputError, match="similarity"):
        Similarity.from_json(Similarity.identity().to_json() | change)
    with pytest.raises(InputError, match="similarity.rotation: missing"):
        Similarity.from_json({"scale": 1.0})
