"""Learning at points of space what a teacher knows there."""

from dataclasses import replace

import pytest
import torch

from polyfield.apps import distill_task
from polyfield.apps.distill_task import DistillTask, Stages
from polyfield.apps.images import scene_images
from polyfield.apps.point_teacher import point_teacher
from polyfield.apps.radiance_task import RadianceTask
from polyfield.apps.scene import load_scene
from polyfield.apps.settings import settings_of
from polyfield.apps.taught_views import TaughtViews, taught_scene
from polyfield.apps.trained import Trained, build
from polyfield.fields.table import FIELDS, arguments_of
from polyfield.render.heavy_points import HeavyPoints
from polyfield.render.occupancy import full_grid
from polyfield.render.point_losses import SOLIDEST

CPU = torch.device("cpu")
LEARNED = 250  # steps
SMALL = {"log2_table_size": 12, "finest_resolution": 64, "hidden": 16}


@pytest.fixture
def teacher(scene, analytic_ball):
    found = load_scene(scene)
    settings = settings_of(found, "hash-grid", {}, 0, 1024, 1 << 20)
    settings = replace(settings, grid_resolution=128)
    grid = full_grid(found.grid_levels, 128, CPU)
    ticks = (torch.arange(128) + 0.5) / 128 - 0.5
    z, y, x = torch.meshgrid(ticks, ticks, ticks, indexing="ij")
    near = (x**2 + y**2 + z**2).sqrt().view(1, -1) < 0.34
    grid.values = torch.where(near, 1.0, 0.0)
    grid.bits = (near.view(-1, 8).to(torch.uint8) << torch.arange(8)).sum(1).to(torch.uint8)
    return Trained(settings, analytic_ball(found.to_field), grid, found.to_field)


def taught(teacher, field="hash-grid", stages=(0, 1000), costly=False, **sizes):
    scene = taught_scene(teacher, 4, 0)
    arguments = FIELDS[field].arguments.fitted(64, 1 << 15)
    arguments = replace(arguments, **{k: v for k, v in sizes.items() if hasattr(arguments, k)})
    settings = settings_of(scene, field, arguments_of(arguments), 0, 4096, 1 << 22)
    settings = replace(settings, grid_resolution=teacher.settings.grid_resolution)
    trained = build(settings, CPU)
    images = TaughtViews(teacher, scene, 1 << 22)
    points = replace(point_teacher(teacher, settings), costly=costly)
    return DistillTask(RadianceTask(trained, scene, images, CPU), points, Stages(*stages))


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
    assert torch.equal(made.trained.grid.values, teacher.grid.values)
    made.trained.grid.values.zero_()  # its own: the teacher keeps what it knows
    made.trained.grid.bits.zero_()
    assert teacher.grid.values.any() and teacher.grid.bits.any()


def test_a_half_of_points_is_on_what_views_show_a_quarter_in_cells_that_are_on(teacher):
    made = taught(teacher, **SMALL)
    x, ways = made._points(0, 4000)
    assert x.shape == ways.shape == (4000, 3)
    torch.testing.assert_close(ways.norm(dim=1), torch.ones(4000))
    middle = torch.nn.functional.normalize(x - 0.5, dim=1)
    from_surface = ((x - 0.5).norm(dim=1) - 0.8 * teacher.to_field.scale).abs()
    near = from_surface < 5 * made.trained.settings.sampling.step
    assert near[:2000].float().mean() > 0.99
    assert (middle * ways).sum(1)[:2000].mean() < -0.3  # seen from before
    assert near[2000:].float().mean() < 0.45
    assert abs((middle * ways).sum(1)[2000:].mean()) < 0.05
    on = teacher.grid.holds(x)
    assert on[2000:3000].all()
    inside = on[3000:].float().mean().item()
    assert inside == pytest.approx(teacher.grid.occupied, abs=0.05)


def test_points_lie_about_what_views_show_along_the_way_they_look(teacher):
    made = taught(teacher, **SMALL)
    seen, way = torch.tensor([[0.4, 0.5, 0.6]]), torch.tensor([[0.6, 0.0, -0.8]])
    made.heavy = HeavyPoints(seen, way)
    x, ways = (part[:2000] for part in made._points(0, 4000))
    assert torch.equal(ways, way.expand(2000, 3))
    along = ((x - seen) * way).sum(1)
    torch.testing.assert_close(seen + along[:, None] * way, x, atol=1e-6, rtol=0)
    steps = along / made.trained.settings.sampling.step
    assert abs(steps.mean()) < 0.15 and steps.std() == pytest.approx(1.5, rel=0.1)
    # None leaves the cube, at whose side it may be.
    made.heavy = HeavyPoints(torch.tensor([[1.0, 0.5, 0.0]]), way)
    x = made._points(0, 4000).x
    assert x.min() == 0 and x.max() == 1


def test_where_views_show_nothing_points_lie_elsewhere(teacher):
    made = taught(teacher, **SMALL)
    made.heavy = HeavyPoints(torch.zeros(0, 3), torch.zeros(0, 3))
    x = made._points(0, 4000).x
    on = teacher.grid.holds(x)
    assert len(x) == 4000 and on[:1000].all()
    assert on[1000:].float().mean().item() == pytest.approx(teacher.grid.occupied, abs=0.05)
    teacher.grid.bits = torch.zeros_like(teacher.grid.bits)  # nor is there a cell that is on
    made = taught(teacher, **SMALL)
    x = made._points(0, 4000).x
    assert x.shape == (4000, 3) and made.heavy.x.shape == (0, 3)
    assert (x.mean(0) - 0.5).abs().max() < 0.03 and x.std(0).min() > 0.27


def test_a_step_s_points_follow_from_the_seed_and_its_number(teacher):
    one, other = taught(teacher, **SMALL), taught(teacher, **SMALL)
    for a, b in zip(one._points(3, 500), other._points(3, 500), strict=True):
        assert torch.equal(a, b)
    later = one._points(4, 500)
    assert not (later.x == one._points(3, 500).x).all(1).any()
    other.trained.settings = replace(other.trained.settings, seed=1)
    assert not torch.equal(other._points(3, 500).x, one._points(3, 500).x)


def test_in_cells_that_views_pass_over_nothing_is_taught(teacher):
    teacher.grid.bits = torch.zeros_like(teacher.grid.bits)
    made = taught(teacher, **SMALL)
    made.heavy = HeavyPoints(torch.tensor([[0.5, 0.5, 0.5]]), torch.tensor([[0.0, 0.0, 1.0]]))
    assert not made._said(0, 500).density.any()
    made.teacher = replace(made.teacher, hides_off_cells=False)
    assert made._said(0, 500).density.max() > 1000


def test_kernels_are_placed_where_the_teacher_has_something(teacher):
    made = taught(teacher, "rbf", log2_table_size=10)
    made.step(0, 1.0)
    (centers,) = [
        p for name, p in made.trained.field.state_dict().items() if name.endswith("centers")
    ]
    # The field is bounded by the ball: outside of it features vary, but nothing is there.
    inside = ((centers - 0.5).norm(dim=1) < 0.32).float().mean()
    assert inside > 0.9


def test_views_follow_and_the_state_is_the_task_s(teacher):
    one, other = (taught(teacher, stages=(0, 2), **SMALL) for _ in range(2))
    rays = [one.step(step, 1.0)["rays"] for step in range(3)]
    assert rays[:2] == [0, 0] and rays[2] > 0
    tensors, values = one.state()
    other.restore({name: tensor.clone() for name, tensor in tensors.items()}, values)
    assert one.step(3, 1.0) == other.step(3, 1.0)
    assert one.validate(4) == other.validate(4)


def test_views_begin_with_no_moments_of_points_and_keep_their_own(teacher):
    made = taught(teacher, stages=(0, 2), **SMALL)
    moments = made.task.optimisers["field"].moments.values()
    for step in range(2):
        made.step(step, 1.0)
    assert any(moment.any() for moment in moments)
    found, view = [], made.task.step

    def step_of_views(*arguments):
        found.append(any(moment.any() for moment in moments))
        return view(*arguments)

    made.task.step = step_of_views
    for step in range(2, 4):
        made.step(step, 1.0)
    assert found == [False, True]


def asks_counted(made):
    """The numbers of points that the teacher is asked about from now on."""
    asked, density = [], made.teacher.field.density

    def counted(x):
        asked.append(len(x))
        return density(x)

    made.teacher.field.density = counted
    return asked


def test_who_takes_long_to_answer_is_asked_once(teacher, monkeypatch):
    monkeypatch.setattr(distill_task, "POOL", 5000)
    monkeypatch.setattr(distill_task, "POINTS", 2000)
    made = taught(teacher, costly=True, **SMALL)
    looked = asks_counted(made)
    made._points(0, 1)  # what views show
    before = len(looked)
    steps = [made.step(step, 1.0) for step in range(3)]
    assert looked[before:] == [2000, 2000, 1000]
    assert [step["samples"] for step in steps] == [2000] * 3 and steps[0]["loss"] > 0
    assert all(len(part) == 5000 for part in made.pool)
    points = made._points(0, 5000)
    assert torch.equal(made.pool.x, points.x)
    assert torch.equal(made.pool.directions, points.directions)
    del teacher.field.density
    density, features = teacher.field.density(points.x)
    assert torch.equal(made.pool.density, density * teacher.grid.holds(points.x))
    assert torch.equal(made.pool.values, teacher.field.color(features, points.directions))


def test_others_are_asked_in_every_step(teacher):
    made = taught(teacher, **SMALL)
    made._points(0, 1)
    asked = asks_counted(made)
    for step in range(3):
        made.step(step, 1.0)
    assert asked == [4096] * 3 and made.pool is None


def test_what_is_taken_of_the_answers_follows_from_the_step(teacher, monkeypatch):
    monkeypatch.setattr(distill_task, "POOL", 3000)
    one, other = (taught(teacher, costly=True, **SMALL) for _ in range(2))
    for a, b in zip(one._said(3, 400), other._said(3, 400), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one._said(3, 400).x, one._said(4, 400).x)
    known = {tuple(x): row for row, x in enumerate(one.pool.x.tolist())}
    said = one._said(5, 2000)
    rows = torch.tensor([known[tuple(x)] for x in said.x.tolist()])
    assert all(torch.equal(part, all_[rows]) for part, all_ in zip(said, one.pool, strict=True))
    assert rows.max() > 2900 and rows.min() < 100


def test_a_costly_teacher_s_student_goes_on_to_the_same_bit(teacher, monkeypatch):
    monkeypatch.setattr(distill_task, "POOL", 3000)
    one, other = (taught(teacher, costly=True, **SMALL) for _ in range(2))
    for step in range(4):
        if step == 2:
            tensors, values = one.state()
            kept = {name: tensor.clone() for name, tensor in tensors.items()}
        one.step(step, 1.0)
    other.restore(kept, values)
    for step in range(2, 4):
        other.step(step, 1.0)
    assert all(
        torch.equal(other.state()[0][name], tensor) for name, tensor in one.state()[0].items()
    )


@pytest.fixture(scope="module")
def taught_by_photographs(scene):
    """A small hash grid that has learned for a moment from the scene's photographs."""
    found = load_scene(scene)
    arguments = FIELDS["hash-grid"].arguments(**SMALL)
    settings = settings_of(found, "hash-grid", arguments_of(arguments), 0, 4096, 1 << 22)
    made = build(settings, CPU)
    task = RadianceTask(made, found, scene_images(found, 1 << 24), CPU)
    for step in range(LEARNED):
        task.step(step, 1.0)
    return made


PLANES = {"finest_resolution": 32, "hidden": 16}


def test_features_are_learned_where_both_make_colours_of_them_alike(taught_by_photographs):
    made = taught(taught_by_photographs, "tri-plane", (3, 5), **PLANES)
    field, own = taught_by_photographs.field, made.trained.field
    assert torch.equal(own.color_weights, field.color_weights) and made.feature_steps == 3
    before = own.color_weights.clone()
    for step in range(3):
        assert made._said(step, 10).values.shape == (10, 16)
        assert made.step(step, 1.0)["finite"]
    assert torch.equal(own.color_weights, before)  # features say all; then colours learn as well
    for step in range(3, 5):
        assert made._said(step, 10).values.shape == (10, 3)
        made.step(step, 1.0)
    assert not torch.equal(own.color_weights, before)


def test_features_are_left_out_where_colours_differ_or_the_teacher_is_asked_once(
    teacher, taught_by_photographs, monkeypatch
):
    monkeypatch.setattr(distill_task, "POOL", 100)
    for of, changes in (
        (taught_by_photographs, {"hidden": 32}),
        (taught_by_photographs, PLANES | {"costly": True}),
        (teacher, PLANES),
    ):
        made = taught(of, "tri-plane", (3, 5), **changes)
        assert made.feature_steps == 0
        assert made._said(0, 10).values.shape == (10, 3)
        assert made.step(0, 1.0)["finite"]


def test_features_before_colours_make_more_of_as_many_steps(taught_by_photographs):
    scores = {}
    for features in (0, 48):
        made = taught(taught_by_photographs, "tri-plane", (features, 60), **PLANES)
        for step in range(60):
            made.step(step, 1.0)
        scores[features] = made.validate(60)["psnr"]
    assert scores[48] > scores[0] + 1.5, scores
