"""Learning at points of space what a teacher knows there."""

import math
from dataclasses import replace

import pytest
import torch

from polyfield.apps import distill_task
from polyfield.apps.distill_task import CLEAREST, SOLIDEST, DistillTask, point_error
from polyfield.apps.point_teacher import point_teacher
from polyfield.apps.radiance_task import RadianceTask
from polyfield.apps.scene import load_scene
from polyfield.apps.settings import settings_of
from polyfield.apps.taught_views import TaughtViews, taught_scene
from polyfield.apps.trained import Trained, build
from polyfield.fields.table import FIELDS, arguments_of
from polyfield.render.occupancy import full_grid

CPU = torch.device("cpu")
LENGTH = 0.01
SMALL = {"log2_table_size": 12, "finest_resolution": 64, "hidden": 16}


class Plain:
    """A field that says the same everywhere: numbers that may learn."""

    def __init__(self, logarithm, color=(0.5, 0.5, 0.5)):
        self.logarithm = torch.tensor(float(logarithm), requires_grad=True)
        self.shade = torch.tensor(color, requires_grad=True)

    def density(self, x):
        return self.logarithm.exp().expand(len(x)), x

    def encode_directions(self, directions):
        return directions

    def color(self, features, harmonics):
        return self.shade.expand(len(features), 3)


def error(student, teacher, count=8):
    x = torch.rand(count, 3, generator=torch.Generator().manual_seed(0))
    ways, there = torch.nn.functional.normalize(x, dim=1), torch.ones(count, dtype=torch.bool)
    return point_error(student, teacher, x, ways, there, LENGTH)


def test_of_the_same_field_nothing_is_wrong_and_nothing_pulls():
    student = Plain(3.0)
    found = error(student, Plain(3.0))
    found.backward()
    assert found.item() == 0
    assert student.logarithm.grad.item() == 0 and not student.shade.grad.any()


def test_it_is_the_norm_of_differences_of_logarithms_and_of_colours_by_opacity():
    student, teacher = Plain(4.0, (0.5, 0.5, 0.8)), Plain(3.0)
    opacity = 1 - math.exp(-4 * LENGTH * math.exp(3.0))
    expected = 8**0.5 * 1.0 + 8**0.5 * 0.3 * opacity
    assert error(student, teacher).item() == pytest.approx(expected, rel=1e-5)
    assert error(student, teacher, 32).item() == pytest.approx(2 * expected, rel=1e-5)


@pytest.mark.parametrize("far", [0.01, 1.0])
def test_it_pulls_as_hard_however_small_the_error(far):
    student = Plain(3.0 + far)
    error(student, Plain(3.0)).backward()
    assert student.logarithm.grad.item() == pytest.approx(8**0.5, rel=1e-3)


def test_what_samples_cannot_tell_apart_is_no_error_and_the_way_back_is_never_dead():
    low, high = math.log(CLEAREST / LENGTH), math.log(SOLIDEST / LENGTH)
    for teacher, beyond, back in ((-20.0, low - 3, low + 2), (20.0, high + 3, high - 2)):
        for student in (Plain(beyond), Plain(teacher)):
            assert error(student, Plain(teacher)).item() == 0
        student = Plain(back)
        error(student, Plain(teacher)).backward()
        assert math.copysign(1, student.logarithm.grad.item()) == math.copysign(1, back - teacher)
    # A student beyond the limit on the wrong side is called back.
    student = Plain(high + 3)
    error(student, Plain(3.0)).backward()
    assert student.logarithm.grad.item() > 1


@pytest.fixture
def teacher(scene, analytic_ball):
    found = load_scene(scene)
    settings = settings_of(found, "hash-grid", {}, 0, 1024, 1 << 20)
    grid = full_grid(found.grid_levels, 128, CPU)
    ticks = (torch.arange(128) + 0.5) / 128 - 0.5
    z, y, x = torch.meshgrid(ticks, ticks, ticks, indexing="ij")
    near = (x**2 + y**2 + z**2).sqrt().view(1, -1) < 0.34
    grid.values = torch.where(near, 1.0, 0.0)
    grid.bits = (near.view(-1, 8).to(torch.uint8) << torch.arange(8)).sum(1).to(torch.uint8)
    return Trained(settings, analytic_ball(found.to_field), grid, found.to_field)


def taught(teacher, field="hash-grid", **sizes):
    scene = taught_scene(teacher, 4, 0)
    arguments = FIELDS[field].arguments.fitted(64, 1 << 15)
    arguments = replace(arguments, **{k: v for k, v in sizes.items() if hasattr(arguments, k)})
    settings = settings_of(scene, field, arguments_of(arguments), 0, 4096, 1 << 22)
    settings = replace(settings, grid_resolution=128)
    trained = build(settings, CPU)
    images = TaughtViews(teacher, scene, 1 << 22)
    points = point_teacher(teacher, settings)
    return DistillTask(RadianceTask(trained, scene, images, CPU), points)


def test_points_alone_make_the_ball(teacher):
    made = taught(teacher, **SMALL)
    losses = [made.step(step, 1.0)["loss"] for step in range(120)]
    assert sum(losses[-10:]) < 0.35 * sum(losses[:10])
    random = torch.Generator().manual_seed(3)
    x = 0.5 + 0.3 * (torch.rand(4000, 3, generator=random) - 0.5)
    with torch.no_grad():
        density = made.trained.field.density(x)[0]
        true = teacher.field.density(x)[0]
    length = made.trained.settings.sampling.step
    solid = true * length > SOLIDEST
    assert solid.float().mean() > 0.3
    assert ((density * length)[solid] > 0.5).float().mean() > 0.95


def test_empty_cells_of_the_teacher_begin_as_empty(teacher):
    made = taught(teacher, **SMALL)
    assert torch.equal(made.trained.grid.bits, teacher.grid.bits)
    x = made._points(0, 3000)
    within = ((x - 0.5).norm(dim=1) < 0.36).float().mean().item()
    assert len(x) == 3000 and within == pytest.approx(0.5 + 0.5 * 0.19, abs=0.03)


def test_what_views_pass_over_counts_as_empty():
    x = torch.rand(6, 3)
    there = torch.tensor([True] * 2 + [False] * 4)
    student, teacher = Plain(3.0), Plain(3.0, (0.1, 0.1, 0.1))
    found = point_error(student, teacher, x, x, there, LENGTH)
    low = math.log(CLEAREST / LENGTH)
    opacity = 1 - math.exp(-4 * LENGTH * math.exp(3.0))
    expected = 2 * (3.0 - low) + 6**0.5 * 0.4 * opacity
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_kernels_are_placed_where_the_teacher_has_something(teacher):
    made = taught(teacher, "rbf", log2_table_size=10)
    made.step(0, 1.0)
    (centers,) = [
        p for name, p in made.trained.field.state_dict().items() if name.endswith("centers")
    ]
    # The field is bounded by the ball: outside of it features vary, but nothing is there.
    inside = ((centers - 0.5).norm(dim=1) < 0.32).float().mean()
    assert inside > 0.9


def test_views_follow_and_the_state_is_the_task_s(teacher, monkeypatch):
    monkeypatch.setattr(distill_task, "POINT_STEPS", 2)
    one, other = taught(teacher, **SMALL), taught(teacher, **SMALL)
    for step in range(3):
        found = one.step(step, 1.0)
    assert found["rays"] > 0
    tensors, values = one.state()
    other.restore({name: tensor.clone() for name, tensor in tensors.items()}, values)
    assert one.step(3, 1.0) == other.step(3, 1.0)
    assert one.validate(4) == other.validate(4)
