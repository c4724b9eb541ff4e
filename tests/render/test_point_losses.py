"""How far fields are apart at points: what counts, what does not, and how hard it pulls."""

import math

import pytest
import torch

from polyfield.render.point_losses import (
    CLEAREST,
    SOLIDEST,
    ask,
    feature_error,
    norm,
    point_error,
)

LENGTH = 0.01
LOW, HIGH = math.log(CLEAREST / LENGTH), math.log(SOLIDEST / LENGTH)
SMOKE = 3.0  # log-density of a teacher that samples can tell from nothing and from a wall


class Plain:
    """A field that says the same everywhere, towards every side: numbers that may learn."""

    def __init__(self, logarithm, color=(0.5, 0.5, 0.5), features=(0.2, -0.4)):
        self.logarithm = torch.tensor(float(logarithm), requires_grad=True)
        self.shade = torch.tensor(color, requires_grad=True)
        self.others = torch.tensor(features, requires_grad=True)

    def density(self, x):
        features = torch.cat([self.logarithm[None], self.others]).expand(len(x), 3)
        return self.logarithm.exp().expand(len(x)), features

    def encode_directions(self, directions):
        return directions

    def color(self, features, harmonics):
        return (1 * self.shade).expand(len(features), 3)


class Sides(Plain):
    """One whose colours are the ways that it is seen along."""

    def color(self, features, harmonics):
        return harmonics


def asked(teacher, count=8, there=None, features=False):
    x = torch.rand(count, 3, generator=torch.Generator().manual_seed(0))
    ways = torch.nn.functional.normalize(x - 0.4, dim=1)
    there = torch.ones(count, dtype=torch.bool) if there is None else there
    return ask(teacher, x, ways, there, features=features)


def error(student, teacher, count=8):
    return point_error(student, asked(teacher, count), LENGTH)


def error_of_features(student, teacher, count=8):
    return feature_error(student, asked(teacher, count, features=True), LENGTH)


def opacity_at(logarithm):
    return 1 - math.exp(-4 * LENGTH * math.exp(logarithm))


@pytest.mark.parametrize("apart", [error, error_of_features])
def test_of_the_same_field_nothing_is_wrong_and_nothing_pulls(apart):
    student = Plain(SMOKE)
    found = apart(student, Plain(SMOKE))
    found.backward()
    assert found.item() == 0 and student.logarithm.grad.item() == 0
    other = student.shade if apart is error else student.others
    assert torch.equal(other.grad, torch.zeros_like(other))


def test_it_is_the_norm_of_differences_of_logarithms_and_of_colours_by_opacity():
    student, teacher = Plain(4.0, (0.5, 0.5, 0.8)), Plain(SMOKE)
    expected = 8**0.5 * 1.0 + 8**0.5 * 0.3 * opacity_at(SMOKE)
    assert error(student, teacher).item() == pytest.approx(expected, rel=1e-5)
    assert error(student, teacher, 32).item() == pytest.approx(2 * expected, rel=1e-5)


@pytest.mark.parametrize("logarithm", [0.0, SMOKE, 8.0])
def test_features_count_by_the_opacity_of_the_teacher(logarithm):
    student, teacher = Plain(logarithm, features=(0.2, 0.3)), Plain(logarithm)
    expected = 8**0.5 * 0.7 * opacity_at(logarithm)
    assert error_of_features(student, teacher).item() == pytest.approx(expected, rel=1e-5)


def test_of_features_colours_say_nothing_and_of_colours_features_do_not():
    shaded = Plain(SMOKE, color=(0.9, 0.1, 0.5))
    assert error_of_features(shaded, Plain(SMOKE)).item() == 0
    assert error(Plain(SMOKE, features=(2.0, 2.0)), Plain(SMOKE)).item() == 0


def test_colours_are_compared_as_they_are_seen_from_the_same_side():
    assert error(Sides(SMOKE), Sides(SMOKE)).item() == 0
    said = asked(Sides(SMOKE))
    assert torch.equal(said.values, said.directions)
    turned = said._replace(directions=-said.directions)
    expected = 2 * 8**0.5 * opacity_at(SMOKE)  # unit vectors are 2 from their opposites
    assert point_error(Sides(SMOKE), turned, LENGTH).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("apart", [error, error_of_features])
def test_what_samples_cannot_tell_apart_is_no_error(apart):
    for beyond, teacher in ((LOW - 3, LOW - 1), (LOW - 1, LOW - 3), (HIGH + 3, HIGH + 1)):
        student = Plain(beyond)  # its first feature is `beyond` as well
        found = apart(student, Plain(teacher))
        found.backward()
        assert found.item() == 0 and student.logarithm.grad.item() == 0
    expected = 8**0.5 * (HIGH - SMOKE)  # the limit is what is wanted, however far the teacher is
    assert apart(Plain(SMOKE), Plain(HIGH + 9)).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("apart", [error, error_of_features])
@pytest.mark.parametrize(
    ("student", "teacher"),
    [(LOW + 2, LOW - 9), (HIGH - 2, HIGH + 9), (HIGH + 3, SMOKE), (LOW - 3, SMOKE)],
)
def test_what_is_off_is_called_back_from_beyond_the_limits_as_well(apart, student, teacher):
    made = Plain(student)
    apart(made, Plain(teacher)).backward()
    expected = math.copysign(8**0.5, student - teacher)
    assert made.logarithm.grad.item() == pytest.approx(expected, rel=1e-5)


def papers_error(student, said, length):
    """As PVD clamps: both logarithms to the limits, so that beyond them nothing pulls."""
    both = [
        density.log().clamp(LOW, HIGH) for density in (student.density(said.x)[0], said.density)
    ]
    return norm(both[0] - both[1])


@pytest.mark.parametrize("overshot", [HIGH + 1, LOW - 1])
def test_an_overshoot_is_recovered_from_where_the_paper_s_clamp_is_dead(overshot):
    left = {}
    for apart in (point_error, papers_error):
        student = Plain(overshot)
        for step in range(100):
            (gradient,) = torch.autograd.grad(
                apart(student, asked(Plain(SMOKE)), LENGTH), student.logarithm
            )
            with torch.no_grad():
                student.logarithm -= 0.1 * (1 - step / 100) * gradient
        left[apart] = abs(student.logarithm.item() - SMOKE)
    assert left[point_error] < 0.05
    assert left[papers_error] == pytest.approx(abs(overshot - SMOKE))


def test_what_views_pass_over_counts_as_empty():
    there = torch.tensor([True] * 2 + [False] * 4)
    said = asked(Plain(SMOKE, (0.1, 0.1, 0.1)), 6, there)
    assert torch.equal(said.density > 0, there)
    # Four points are too dense, and only the other two have a colour.
    expected = 2 * (SMOKE - LOW) + 2**0.5 * 3**0.5 * 0.4 * opacity_at(SMOKE)
    assert point_error(Plain(SMOKE), said, LENGTH).item() == pytest.approx(expected, rel=1e-5)
    said = asked(Plain(SMOKE), 6, there, features=True)
    expected = 2 * (SMOKE - LOW) + 2**0.5 * 0.7 * opacity_at(SMOKE)
    student = Plain(SMOKE, features=(0.2, 0.3))
    assert feature_error(student, said, LENGTH).item() == pytest.approx(expected, rel=1e-5)


def test_who_is_asked_learns_nothing():
    for features in (False, True):
        said = asked(Plain(SMOKE), features=features)
        assert not said.density.requires_grad and not said.values.requires_grad


@pytest.mark.parametrize("far", [0.001, 1.0])
def test_it_pulls_as_hard_however_small_the_error(far):
    student = Plain(SMOKE + far)
    error(student, Plain(SMOKE)).backward()
    assert student.logarithm.grad.item() == pytest.approx(8**0.5, rel=1e-3)


def pull(scale, times=1):
    """The gradient of a norm with respect to an offset, weighed by what it is added to."""
    random = torch.Generator().manual_seed(1)
    weights, start = torch.randn(2, 50, 1, generator=random, dtype=torch.float64)
    offset = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    errors = scale * (start + weights * offset / scale)
    norm(errors.repeat(times, 1)).backward()
    return offset.grad.item()


def test_a_norm_s_gradient_is_that_of_larger_errors_and_grows_with_the_root_of_their_number():
    assert pull(1000.0) == pytest.approx(pull(1.0), rel=1e-9)
    assert pull(1.0, times=2) == pytest.approx(2**0.5 * pull(1.0), rel=1e-6)
    assert norm(torch.tensor([3.0, 4.0])).item() == 5
