"""Where Gaussians begin, and in which colours."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from polyfield.apps import splat_start
from polyfield.apps.images import ImageStore, scene_images
from polyfield.apps.scene import load_scene
from polyfield.apps.settings import settings_of
from polyfield.apps.splat_start import DEEPEST, splats_to_train, starting_splats, surface_points
from polyfield.apps.train import train
from polyfield.apps.train_options import Train
from polyfield.apps.trained import Trained
from polyfield.apps.trained_splats import extent_of
from polyfield.cuda.errors import InputError
from polyfield.fields.similarity import Similarity
from polyfield.fields.splats import CONSTANT
from polyfield.render.occupancy import full_grid

CPU = torch.device("cpu")
RADIUS = 0.8  # of the ball


@pytest.fixture(scope="module")
def found(scene):
    return load_scene(scene)


@pytest.fixture(scope="module")
def images(found):
    return scene_images(found, 1 << 24)


@pytest.fixture
def begun(found, images):
    """The Gaussians that a run of the ball begins with: also of a scene that differs."""

    def start(most=400, scene=None, store=None, teacher=None, **changes):
        scene = scene or found
        settings = settings_of(scene, "gaussians", {"splats": most, "degree": 1}, 0, 1600, 1 << 24)
        settings = replace(settings, **changes)
        store = store or images
        return starting_splats(scene, settings, store, teacher)

    return start


def colors(splats):
    return 0.5 + CONSTANT * splats.harmonics[:, 0]


def pixels_of(scene, images, frame, points):
    """Of points of the unit cube, those within a view's picture, and their pixels there."""
    cameras = scene.cameras.transformed(scene.to_field)
    at, depth = cameras.project(torch.full((len(points),), frame), points)
    width, height = scene.sizes[frame]
    column, row = at.floor().unbind(1)
    inside = (depth > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    picture = images.image(frame)
    return inside, picture[row[inside].long(), column[inside].long()]


def test_points_lie_within_the_silhouettes_of_all_looks_in_the_colours_that_are_there(
    found, images, begun
):
    splats, note = begun()
    assert note == "120 Gaussians within the silhouettes" and splats.count == 120
    total, seen = torch.zeros(120, 3), torch.zeros(120)
    for frame in found.splits["train"].tolist():
        inside, pixels = pixels_of(found, images, frame, splats.means)
        assert inside.all() and (pixels[:, 3] > 127).all()
        total, seen = total + pixels[:, :3].float() / 255, seen + 1
    torch.testing.assert_close(colors(splats), total / seen[:, None], atol=1e-5, rtol=0)
    radius = found.to_field.inverse().apply(splats.means.double()).norm(dim=1)
    assert radius.max() < 1.2 * RADIUS and radius.min() < 0.5 * RADIUS  # not on its surface alone
    assert not splats.harmonics[:, 1:].any()
    assert torch.allclose(splats.opacity_logits.sigmoid(), torch.tensor(0.5))


def test_a_view_that_does_not_show_a_point_says_nothing_of_it(found, images, begun):
    """A camera that looks at a part of the ball from close by."""
    cameras = found.cameras
    focal = cameras.focal.clone()
    focal[5] *= 6
    near = replace(found, cameras=replace(cameras, focal=focal))
    splats, _ = begun(scene=near)
    inside, _ = pixels_of(near, images, 5, splats.means)
    assert 0 < inside.sum() < splats.count == 120
    nowhere = replace(found, cameras=replace(cameras, focal=40 * cameras.focal))
    beside, _ = begun(scene=nowhere)
    views = [pixels_of(nowhere, images, f, beside.means)[0] for f in found.splits["train"].tolist()]
    assert torch.stack(views).any(0).all()  # what no view shows is not begun with


def test_few_photographs_of_many_are_looked_at(begun, monkeypatch):
    asked, gather = [], ImageStore.gather
    monkeypatch.setattr(splat_start, "LOOKS", 3)

    def noting(store, frames, rows, columns):
        asked.extend(frames.unique().tolist())
        return gather(store, frames, rows, columns)

    monkeypatch.setattr(ImageStore, "gather", noting)
    begun()
    assert {*asked} in ({0, 10, 21}, {0, 11, 21})  # from the first to the last of 22


@pytest.mark.parametrize(("most", "count"), [(4, 4), (10, 4), (20, 6), (400, 120)])
def test_there_are_never_more_than_asked_for(begun, most, count):
    assert begun(most)[0].count == count <= most


def test_a_seed_says_where_they_begin(begun):
    torch.manual_seed(1)
    one, _ = begun()
    torch.manual_seed(2)
    again, other = begun()[0], begun(seed=1)[0]
    assert torch.equal(one.means, again.means) and torch.equal(one.harmonics, again.harmonics)
    assert not torch.equal(one.means, other.means)


def with_points(found, count, colored=True):
    """The scene with sparse points on the ball, of the colours that it has there, and a stray."""
    random = torch.Generator().manual_seed(0)
    way = torch.nn.functional.normalize(torch.randn(count, 3, generator=random), dim=1).double()
    points = torch.cat([RADIUS * way, torch.tensor([[1e4, 0, 0]]).double()])
    shades = (255 * (0.5 + 0.4 * way)).round().to(torch.uint8)
    shades = torch.cat([shades, torch.zeros(1, 3, dtype=torch.uint8)])
    return replace(found, points=points, point_colors=shades if colored else None)


def test_sparse_points_are_where_they_begin_and_strays_are_none(found, begun):
    scene = with_points(found, 60)
    splats, note = begun(scene=scene)
    assert note == "60 Gaussians at the scene's sparse points"
    expected = found.to_field.apply(scene.points[:60]).float()
    order = torch.cdist(expected, splats.means).argmin(1)
    assert torch.equal(order.sort()[0], torch.arange(60))
    torch.testing.assert_close(splats.means[order], expected)
    shades = scene.point_colors[:60].float() / 255
    torch.testing.assert_close(colors(splats)[order], shades, atol=1e-6, rtol=0)


def test_of_many_sparse_points_some_are_drawn(found, begun):
    scene = with_points(found, 300)
    splats, _ = begun(scene=scene)
    places = found.to_field.apply(scene.points).float()
    row = torch.cdist(splats.means, places).argmin(1)
    assert splats.count == 120 == len(row.unique()) and row.max() > 200
    torch.testing.assert_close(colors(splats), scene.point_colors[row].float() / 255)


def test_sparse_points_without_colours_have_those_of_the_photographs(found, images, begun):
    scene = with_points(found, 60, colored=False)
    splats, _ = begun(scene=scene)
    total = torch.zeros(60, 3)
    for frame in found.splits["train"].tolist():
        inside, pixels = pixels_of(found, images, frame, splats.means)
        assert inside.all()
        total += pixels[:, :3].float() / 255
    torch.testing.assert_close(colors(splats), total / 22, atol=1e-5, rtol=0)


def test_a_handful_of_sparse_points_says_nothing(found, begun):
    assert "silhouettes" in begun(scene=with_points(found, 14))[1]
    assert "sparse" in begun(scene=with_points(found, 15))[1]


class Opaque(ImageStore):
    """Photographs of nothing but noise, without alpha."""

    def __init__(self, sizes):
        self.sizes = sizes
        random = torch.Generator().manual_seed(0)
        self.noise = [
            torch.randint(0, 256, (h, w, 3), generator=random).to(torch.uint8) for w, h in sizes
        ]

    def image(self, frame):
        return self.noise[frame]

    def gather(self, frames, rows, columns):
        parts = zip(frames.tolist(), rows.tolist(), columns.tolist(), strict=True)
        return torch.stack([self.noise[frame][row, column] for frame, row, column in parts])


def test_along_rays_a_view_shows_the_pixel_s_colour_where_they_begin(found, begun):
    cameras = found.cameras.resized(40, 24)  # sides that differ
    scene = replace(found, cameras=cameras, has_alpha=False)
    store = Opaque(scene.sizes)
    splats, note = begun(1000, scene, store)
    assert note == "300 Gaussians along rays of the photographs"
    shown = torch.zeros(300, dtype=torch.bool)
    moved = scene.cameras.transformed(scene.to_field)
    distance = torch.full((300,), torch.inf)
    from_frame = torch.zeros(300, dtype=torch.int64)
    for frame in found.splits["train"].tolist():
        inside, pixels = pixels_of(scene, store, frame, splats.means)
        same = torch.zeros_like(shown)
        near = (pixels.float() / 255 - colors(splats)[inside]).abs().amax(1) < 1e-3
        same[inside] = near
        away = (splats.means - moved.camera_to_world[frame, :, 3]).norm(dim=1)
        distance = torch.where(same, away, distance)
        from_frame = torch.where(same, frame, from_frame)
        shown |= same
    assert shown.float().mean() > 0.98  # some lie on the border of two pixels
    assert (from_frame[shown].bincount(minlength=22) > 3).all()  # from all looks
    extent = extent_of(settings_of(scene, "gaussians", {}, 0, 1, 1))
    nearest, farthest = max(found.near, 0.1 * extent), DEEPEST * extent
    ratio = (distance[shown] / nearest).log() / math.log(farthest / nearest)
    assert 0 <= ratio.min() < 0.05 and 0.95 < ratio.max() <= 1
    assert abs(float(ratio.mean()) - 0.5) < 0.06


def test_where_photographs_have_nothing_in_common_they_begin_anywhere(found, images, begun):
    class Blank(ImageStore):
        def __init__(self):
            pass

        def gather(self, frames, rows, columns):
            return torch.zeros(len(frames), 4, dtype=torch.uint8)

    splats, note = begun(store=Blank())
    assert note == "120 Gaussians at random in the scene's cube"
    assert splats.means.min() < 0.1 and splats.means.max() > 0.9
    assert torch.equal(colors(splats), torch.full((120, 3), 0.5))


@pytest.fixture
def exact(found, analytic_ball):
    """A run whose field is the ball: also in a unit cube of its own."""

    def make(to_field=None):
        scene = found if to_field is None else replace(found, to_field=to_field)
        settings = settings_of(scene, "hash-grid", {}, 0, 1024, 1 << 20)
        grid = full_grid(1, 64, CPU)
        return Trained(settings, analytic_ball(scene.to_field), grid, scene.to_field)

    return make


def elsewhere():
    turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)
    return Similarity(0.4, turn, torch.tensor([0.45, 0.55, 0.5], dtype=torch.float64))


def test_what_a_run_shows_lies_on_its_surface(exact, monkeypatch):
    run = exact()
    random = torch.Generator().manual_seed(0)
    points, shades = surface_points(run, 300, random)
    assert len(points) == 300
    places = run.to_field.inverse().apply(points.double())
    off = (places.norm(dim=1) - RADIUS).abs()
    assert off.median() < 0.005 and off.quantile(0.95) < 0.06
    expected = (0.5 + 0.4 * places / RADIUS).float()
    assert (shades - expected).abs().median() < 0.02
    # From all sides.
    assert (places.amin(0) < -0.6).all() and (places.amax(0) > 0.6).all()
    monkeypatch.setattr(splat_start, "LOOKS", 2)
    few = [surface_points(run, 7, torch.Generator().manual_seed(0)) for _ in range(2)]
    assert len(few[0][0]) == 7 and torch.equal(few[0][0], few[1][0])
    other, _ = surface_points(run, 7, torch.Generator().manual_seed(1))
    assert not torch.equal(few[0][0], other)


def test_they_begin_on_the_surface_of_a_run_whatever_its_cube(found, exact, begun):
    for to_field in (None, elsewhere()):
        splats, note = begun(teacher=exact(to_field))
        assert note == "120 Gaussians on the surface that the run shows"
        places = found.to_field.inverse().apply(splats.means.double())
        off = (places.norm(dim=1) - RADIUS).abs()
        assert off.median() < 0.005 and off.quantile(0.95) < 0.06
        expected = (0.5 + 0.4 * places / RADIUS).float()
        assert (colors(splats) - expected).abs().median() < 0.02


def test_a_run_that_shows_nothing_leaves_nothing_to_begin_on(exact, begun):
    run = exact()
    run.grid.bits.zero_()
    points, shades = surface_points(run, 50, torch.Generator())
    assert points.shape == shades.shape == (0, 3)
    assert "at random" in begun(teacher=run)[1]


def test_a_run_says_where_its_gaussians_are_from_and_of_what_kind(found, images):
    settings = settings_of(found, "gaussians", {"splats": 50, "degree": 2}, 0, 1600, 1 << 24)
    splats, notes = splats_to_train(replace(settings, antialiased=True), found, images, CPU)
    assert splats.antialiased and splats.degree == 2 and splats.count == 15
    assert notes == ("15 Gaussians within the silhouettes",)
    assert not splats_to_train(settings, found, images, CPU)[0].antialiased


def test_what_is_gone_on_with_is_what_a_checkpoint_holds(scene, found, images, tmp_path):
    out = tmp_path / "run"
    options = Train(scene, field="gaussians", splats=40, steps=2, out=out, report=False)
    train(options)
    settings = settings_of(found, "gaussians", {"splats": 40, "degree": 2}, 0, 1600, 1 << 24)
    begun, notes = splats_to_train(settings, found, images, CPU)
    gone_on, silent = splats_to_train(settings, found, images, CPU, out)
    assert notes and not silent and not torch.equal(begun.means, gone_on.means)
    few = replace(settings, arguments={"splats": 5, "degree": 2})
    with pytest.raises(InputError, match="step.*12 Gaussians; expected at most 5"):
        splats_to_train(few, found, images, CPU, out)
    for path in (out / "checkpoints").iterdir():
        path.unlink()
    for place in (out, tmp_path / "nowhere"):
        afresh, _ = splats_to_train(settings, found, images, CPU, place)
        assert torch.equal(begun.means, afresh.means)


def test_a_run_to_begin_on_that_is_none_is_refused(found, images):
    settings = settings_of(found, "gaussians", {"splats": 50, "degree": 2}, 0, 1600, 1 << 24)
    with pytest.raises(InputError, match="nowhere"):
        splats_to_train(replace(settings, init=str(Path("nowhere"))), found, images, CPU)
