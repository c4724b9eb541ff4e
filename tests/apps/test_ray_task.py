"""A field of rays is taught by what a ball shows, and by where along rays it is."""

import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from polyfield.apps import checkpoint, ray_task
from polyfield.apps.distill import distill
from polyfield.apps.distill_options import Distill
from polyfield.apps.eval import Eval, evaluate
from polyfield.apps.export import Export, export
from polyfield.apps.interruption import Interrupted
from polyfield.apps.main import main
from polyfield.apps.point_teacher import point_teacher
from polyfield.apps.ray_task import Rays, RayTask, box_of, teacher_weights
from polyfield.apps.scene import load_scene
from polyfield.apps.settings import settings_of
from polyfield.apps.shown import load_shown
from polyfield.apps.taught_views import TaughtViews, taught_scene
from polyfield.apps.train import train
from polyfield.apps.train_options import Train
from polyfield.apps.trained import Trained, load
from polyfield.apps.trained_rays import TrainedRays, build_rays
from polyfield.cuda.errors import InputError
from polyfield.render.occupancy import full_grid, update_grid

CPU = torch.device("cpu")
SIZES = {"layers": 3, "width": 48, "coefficients": 8, "points": 4, "frequencies": 3, "samples": 16}
TAUGHT = {}  # by number of views: their scene, they and the box
RADIUS = 0.8  # of the ball, about the origin of the user's frame


@pytest.fixture
def teacher(scene, analytic_ball):
    found = load_scene(scene)
    settings = settings_of(found, "hash-grid", {}, 0, 1024, 1 << 20)
    field = analytic_ball(found.to_field)
    grid = full_grid(found.grid_levels, 64, CPU)
    update_grid(grid, field, 0.01, 0, 0)
    return Trained(settings, field, grid, found.to_field)


def task_of(teacher, views=6, seed=0):
    if views not in TAUGHT:  # every test's teacher shows the same
        scene = taught_scene(teacher, views, 0)
        images = TaughtViews(teacher, scene, 1 << 26)
        images.load(torch.arange(len(scene.frame_names)))
        TAUGHT[views] = scene, images, box_of(teacher)
    scene, images, box = TAUGHT[views]
    settings = settings_of(scene, "ray-distribution", SIZES, seed, 512, 1 << 20)
    points = point_teacher(teacher, settings)
    return RayTask(build_rays(settings, CPU, box), scene, images, points)


def points_of(teacher):
    return point_teacher(teacher, teacher.settings)


def through_the_middle(teacher, count=40):
    """Rays to the ball's middle, and from which distance to which they are in the cube."""
    random = torch.Generator().manual_seed(0)
    ways = torch.nn.functional.normalize(torch.randn(count, 3, generator=random), dim=1)
    middle = teacher.to_field.apply(torch.zeros(1, 3, dtype=torch.float64)).float()
    nothing = torch.zeros(count, 3)
    near, far = torch.full((count,), 0.25), torch.full((count,), 1.25)
    return Rays(middle - 0.75 * ways, ways, near, far, nothing, nothing)


def test_the_teacher_s_weights_are_where_its_surface_is(teacher):
    rays = through_the_middle(teacher)
    weights = teacher_weights(points_of(teacher), rays, 20)
    radius = RADIUS * teacher.to_field.scale
    torch.testing.assert_close(weights.sum(1), torch.ones(40), atol=1e-4, rtol=0)
    place = (weights * (torch.arange(20) + 0.5) / 20).sum(1)
    torch.testing.assert_close(place, torch.full((40,), 0.5 - radius), atol=0.05, rtol=0)
    finer = teacher_weights(points_of(teacher), rays, 80)
    torch.testing.assert_close(finer.view(40, 20, 4).sum(2), weights, atol=0.2, rtol=0)


def test_where_the_teacher_s_grid_is_off_it_has_none(teacher):
    teacher.grid.bits = torch.zeros_like(teacher.grid.bits)
    assert not teacher_weights(points_of(teacher), through_the_middle(teacher), 20).any()
    shown = replace(points_of(teacher), hides_off_cells=False)  # as by a sampler of its own
    assert teacher_weights(shown, through_the_middle(teacher), 20).sum(1).min() > 0.99


def test_the_box_is_about_what_the_teacher_shows(teacher):
    box = box_of(teacher)
    radius = RADIUS * teacher.to_field.scale
    middle = teacher.to_field.apply(torch.zeros(1, 3, dtype=torch.float64)).float()[0]
    assert (box[0] < middle - radius).all() and (box[1] > middle + radius).all()
    assert (box[1] - box[0]).max() < 2 * radius + 2 * ray_task.MARGIN + 0.02
    teacher.grid.bits = torch.zeros_like(teacher.grid.bits)
    assert box_of(teacher).tolist() == [[0, 0, 0], [1, 1, 1]]


def test_the_box_of_rays_is_about_the_one_they_know(teacher):
    known = torch.tensor([[0.3, 0.45, 0.2], [0.6, 0.7, 0.9]])
    pupil = build_rays(replace(teacher.settings, arguments=SIZES), CPU, known)
    with torch.no_grad():
        pupil.field.output.weight.zero_()
        pupil.field.output.bias.copy_(torch.tensor([5.0, *[0.0] * 31]))
    found = box_of(pupil)
    assert ((found[0] < known[0]) & (found[1] > known[1])).all()
    assert (found - known).abs().max() < 0.06


def test_rays_are_those_of_the_views_that_meet_the_box(teacher):
    task = task_of(teacher)
    rays = task._rays(600, torch.Generator().manual_seed(0))
    near, far = task.trained.field.bounds(rays.origins, rays.directions)
    assert torch.equal(near, rays.near) and torch.equal(far, rays.far)
    assert 100 < len(near) < 550 and (far > near).all()
    # Each background by itself, and the ball's colour where the ball is.
    at = (0.5 * (near + far))[:, None] * rays.directions + rays.origins
    middle = task.trained.to_field.apply(torch.zeros(1, 3, dtype=torch.float64)).float()
    outside = (at - middle).norm(dim=1) > 1.15 * RADIUS * teacher.to_field.scale
    torch.testing.assert_close(rays.wanted[outside], rays.background[outside], atol=0.02, rtol=0)
    assert (rays.wanted - rays.background)[~outside].abs().mean() > 0.2
    assert rays.background.std(0).min() > 0.2


def test_a_ray_s_colour_is_on_its_background_by_its_alpha(teacher):
    task = task_of(teacher)
    pixel = torch.tensor([51, 102, 255, 64], dtype=torch.uint8)
    task.images = SimpleNamespace(gather=lambda frames, row, column: pixel.expand(len(row), 4))
    rays = task._rays(300, torch.Generator().manual_seed(0))
    alpha = 64 / 255
    expected = alpha * torch.tensor([0.2, 0.4, 1.0]) + (1 - alpha) * rays.background
    torch.testing.assert_close(rays.wanted, expected)


def test_a_step_is_a_function_of_its_number_and_the_state(teacher):
    one, other = task_of(teacher), task_of(teacher)
    for step in range(3):
        assert one.step(step, 1.0) == other.step(step, 1.0)
    tensors, values = one.state()
    kept = {name: tensor.clone() for name, tensor in tensors.items()}
    expected = one.step(3, 0.5)
    fresh = task_of(teacher, seed=5)
    fresh.trained.settings = replace(fresh.trained.settings, seed=0)
    fresh.restore(kept, values)
    assert fresh.step(3, 0.5) == expected
    for name, tensor in one.state()[0].items():
        assert torch.equal(fresh.state()[0][name], tensor), name
    assert one.step(4, 1.0) != other.step(3, 1.0)


def test_a_state_of_another_field_is_refused(teacher):
    task = task_of(teacher)
    tensors, values = task.state()
    with pytest.raises(InputError, match="state: tensor 'field.output.bias': missing"):
        task.restore({k: v for k, v in tensors.items() if k != "field.output.bias"}, values)


def test_pieces_of_a_batch_add_up(teacher, monkeypatch):
    whole, pieces = task_of(teacher), task_of(teacher)
    monkeypatch.setattr(ray_task, "PROFILED", 1.0)  # of each piece a part is a part of all
    monkeypatch.setattr("polyfield.fields.ray_distribution.RayDistributionField.encode", still)
    expected = whole.step(0, 1.0)
    monkeypatch.setattr(ray_task, "PIECE", 100)
    assert pieces.step(0, 1.0)["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    first, second = (task.optimiser.moments["first.output.weight"] for task in (whole, pieces))
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-7)


def still(self, origins, directions, near, far, generator=None):
    """An encoding without points that move: they are other ones in other pieces."""
    ends = torch.cat([origins + near[:, None] * directions, origins + far[:, None] * directions], 1)
    width = self.layers[0].in_features
    return torch.nn.functional.pad(ends, (0, width - 6))


def learned(teacher, steps=150):
    task = task_of(teacher, views=12)
    for step in range(steps):
        found = task.step(step, min(1.0, 3 * (1 - step / steps)))
    return task, found


def test_weights_along_rays_are_learned_with_their_colours(teacher, monkeypatch):
    task, _ = learned(teacher)
    monkeypatch.setattr(ray_task, "PROFILE", 0.0)
    blind, _ = learned(teacher)
    rays = task._rays(2000, torch.Generator().manual_seed(9))
    wanted = teacher_weights(points_of(teacher), rays, 16)
    errors = []
    for each in (task, blind):
        field = each.trained.field
        coefficients = field(rays.origins, rays.directions, rays.near, rays.far)
        own = field.seen(coefficients, weights=True).weights
        errors.append(float((own - wanted).square().sum(1).mean().detach()))
    assert errors[0] < 0.7 * errors[1], errors
    assert task.validate(0)["psnr"] > 14  # a blank one has 11


def test_who_knows_no_points_teaches_by_views(teacher):
    task_of(teacher)
    pupil = build_rays(replace(teacher.settings, arguments=SIZES), CPU)
    task = task_of(pupil)
    assert task.teacher is None
    assert task.step(0, 1.0)["finite"] == 1


def test_a_ball_becomes_rays_and_rays_something_else(teacher, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr("polyfield.apps.distill.load_teacher", lambda path, device: teacher)
        (tmp_path / "teacher").mkdir()
        sizes = ",".join(f"{name}={value}" for name, value in SIZES.items())
        options = Distill(tmp_path / "teacher", into="ray-distribution", views=16, sizes=sizes)
        options = replace(options, device="cpu", out=tmp_path / "run", report=False, steps=60)
        distill(options)
        whole = checkpoint.latest(tmp_path / "run" / "checkpoints")
        real = RayTask.step

        def stops(self, step, rate, planned=None):
            if step == 31:
                signal.raise_signal(signal.SIGINT)
            return real(self, step, rate, planned)

        again = tmp_path / "again"
        with monkeypatch.context() as cut:
            cut.setattr(RayTask, "step", stops)
            with pytest.raises(Interrupted):
                distill(replace(options, out=again))
        distill(Distill(out=again, resume=True, device="cpu", report=False))
    found = checkpoint.latest(again / "checkpoints").tensors
    assert found.keys() == whole.tensors.keys()
    assert all(torch.equal(found[name], whole.tensors[name]) for name in found)

    run = tmp_path / "run"
    shown = load_shown(run, CPU)
    assert isinstance(shown, TrainedRays)
    assert (shown.field.box - box_of(teacher)).abs().max() < 1e-6
    assert evaluate(Eval(run, device="cpu")).psnr > 13  # a blank one has 11.4
    with pytest.raises(InputError, match="a run of rays; expected one of a field with densities"):
        load(run, CPU)
    with pytest.raises(InputError, match="a run of rays"):
        export(Export(run, tmp_path / "mesh.ply", device="cpu"))
    assert main(["render", str(run), "--views", "test", "--out", str(tmp_path / "views")]) == 0
    assert len(list((tmp_path / "views").rglob("*.png"))) >= 4
    options = Distill(run, into="hash-grid", views=4, steps=2, out=tmp_path / "back", device="cpu")
    assert distill(replace(options, report=False)).steps == 2


def test_photographs_alone_teach_no_rays(scene, tmp_path):
    with pytest.raises(InputError, match="needs a teacher.*polyfield distill RUN --into ray-dist"):
        train(Train(scene, field="ray-distribution", out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
