"""Colours that one field takes over from another: only where they mean the same to both."""

import pytest
import torch

from polyfield.fields.radiance import take_colors
from polyfield.fields.table import build_field

SIZES = {
    "hash-grid": {"levels": 2, "log2_table_size": 8, "finest_resolution": 16, "hidden": 16},
    "tri-plane": {"scales": 2, "finest_resolution": 12, "channels": 8, "hidden": 16},
    "mlp": {"layers": 2, "width": 16},
}


def made(name, seed=0, **changes):
    return build_field(name, SIZES[name] | changes, torch.Generator().manual_seed(seed))


def test_colours_are_taken_from_a_field_of_another_kind_and_its_features_then_mean_the_same():
    teacher, student = made("hash-grid", 0), made("tri-plane", 1)
    position = student.encoding.table.clone(), student.density_weights.clone()
    before = teacher.color_weights.clone()
    random = torch.Generator().manual_seed(2)
    features = torch.randn(20, 16, generator=random)
    ways = torch.nn.functional.normalize(torch.randn(20, 3, generator=random), dim=1)

    def colors(field):
        return field.color(features, field.encode_directions(ways))

    assert not torch.allclose(colors(teacher), colors(student), atol=0.01)
    assert take_colors(student, teacher) is True
    assert torch.equal(colors(teacher), colors(student))
    assert torch.equal(teacher.color_weights, before)
    assert torch.equal(student.encoding.table, position[0])
    assert torch.equal(student.density_weights, position[1])


def test_what_is_taken_is_a_copy():
    teacher, student = made("hash-grid", 0), made("hash-grid", 1)
    learns = student.color_weights
    take_colors(student, teacher)
    assert student.color_weights is learns and learns.requires_grad
    before = teacher.color_weights.clone()
    with torch.no_grad():
        student.color_weights.zero_()
    assert torch.equal(teacher.color_weights, before)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("hash-grid", {"hidden": 32}),
        ("hash-grid", {"harmonics_degree": 2}),
        ("hash-grid", {"appearance": 4, "photographs": 3}),
        ("mlp", {}),
    ],
)
def test_of_one_that_makes_colours_otherwise_nothing_is_taken(name, changes):
    other, field = made(name, 0, **changes), made("tri-plane", 1)
    for student, teacher in ((field, other), (other, field)):
        before = {key: value.clone() for key, value in student.state_dict().items()}
        assert take_colors(student, teacher) is False
        assert all(torch.equal(value, before[key]) for key, value in student.state_dict().items())


def test_two_with_codes_of_their_photographs_share_no_colours():
    codes = {"appearance": 4, "photographs": 3}
    student, teacher = made("hash-grid", 0, **codes), made("hash-grid", 1, **codes)
    assert student.color_widths == teacher.color_widths
    assert take_colors(student, teacher) is False
    assert not torch.equal(student.color_weights, teacher.color_weights)
