"""Surfaces from field to field: into distances and insides, and from these to Gaussians."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from polyfield.apps import (
    distances,
    distill_surface,
    fit_outputs,
    fit_surface,
    run_surface,
    splat_teacher,
)
from polyfield.apps import fit as fit_module
from polyfield.apps.distill import distill
from polyfield.apps.distill_chain import distill_chain
from polyfield.apps.distill_command import summary
from polyfield.apps.distill_options import Distill
from polyfield.apps.distill_surface import is_of_surfaces
from polyfield.apps.export import Export, export
from polyfield.apps.fit import fit
from polyfield.apps.fit_options import Fit
from polyfield.apps.fitted import load_fitted
from polyfield.apps.formats.mesh_files import read_mesh, write_mesh
from polyfield.apps.formats.splat_files import read_splat_file
from polyfield.apps.main import main
from polyfield.apps.png_files import write_png
from polyfield.apps.scene import load_scene
from polyfield.apps.settings import settings_of
from polyfield.apps.shown import load_shown
from polyfield.apps.trained import Trained, orbit_cameras
from polyfield.cuda.errors import InputError
from polyfield.extract.mesh import Mesh
from polyfield.extract.surfels import OPACITY, surfels
from polyfield.fields.similarity import Similarity
from polyfield.render.occupancy import full_grid

CPU = torch.device("cpu")
STEPS = 160
SIZES = "finest_resolution=48,levels=6,log2_table_size=14,hidden=32"
MIDDLE, RADIUS = torch.tensor([300.0, -40.0, 7.0]), 25.0  # of the mesh of a ball, in its own frame


@pytest.fixture(autouse=True, scope="module")
def little_work():
    """A ball has few details."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distances, "POOL", 3 << 12)
        patch.setattr(distances, "PLACES", 1 << 14)
        patch.setattr(fit_outputs, "MEASURED", 1 << 12)
        patch.setattr(fit_outputs, "SLICE", 32)
        patch.setattr(fit_outputs, "RESOLUTION", 32)
        patch.setattr(fit_module, "DISTANCE_SAMPLES", 1 << 12)
        patch.setattr(distill_surface, "FUSED", 40)
        patch.setattr(run_surface, "LOOKS", 12)
        patch.setattr(fit_surface, "RESOLUTION", 48)
        yield


@pytest.fixture
def ball(scene, analytic_ball, monkeypatch, tmp_path):
    """A run whose field is an exact ball of radius 0.8 about the origin."""
    found = load_scene(scene)
    settings = settings_of(found, "hash-grid", {}, 0, 1024, 1 << 20)
    grid = full_grid(found.grid_levels, 64, CPU)
    made = Trained(settings, analytic_ball(found.to_field), grid, found.to_field)
    monkeypatch.setattr(distill_surface, "load_teacher", lambda path, device: made)
    (tmp_path / "teacher").mkdir()
    return tmp_path / "teacher"


def ball_mesh():
    """Latitudes and longitudes, far more of them where the ball has its poles."""
    rows, columns = 24, 48
    polar = torch.pi * torch.arange(rows + 1) / rows
    turn = 2 * torch.pi * torch.arange(columns) / columns
    level = polar.sin()[:, None]
    ways = torch.stack(
        [level * turn.cos(), level * turn.sin(), polar.cos()[:, None].expand(-1, columns)], 2
    )
    number = torch.arange((rows + 1) * columns).view(rows + 1, columns)
    a, b = number[:-1], number[1:]
    c, d = b.roll(-1, 1), a.roll(-1, 1)
    faces = torch.cat([torch.stack([a, b, c], 2), torch.stack([a, c, d], 2)]).view(-1, 3)
    return Mesh(MIDDLE + RADIUS * ways.reshape(-1, 3), faces)


@pytest.fixture(scope="module")
def fits(tmp_path_factory):
    """Runs that know the mesh of a ball, by target: made when asked for."""
    pytest.importorskip("igl", reason="the extra surfaces is not installed")
    folder = tmp_path_factory.mktemp("fits")
    write_mesh(folder / "ball.ply", ball_mesh())

    def made(target):
        out = folder / target
        if not out.exists():
            fit(Fit(folder / "ball.ply", steps=STEPS, sizes=SIZES, target=target, out=out))
        return out

    return made


def into(path, out, **changes):
    return distill_surface.distill_surface(Distill(path, out=out, device="cpu", **changes))


def off_the_ball(path, middle, radius):
    """The distances that a run learned at points about a ball, less the true ones; in radii."""
    fitted = load_fitted(path, CPU)
    to_field = Similarity.from_json(fitted.settings.to_field)
    random = torch.Generator().manual_seed(1)
    way = torch.nn.functional.normalize(torch.randn(4096, 3, generator=random), dim=1)
    away = radius * (0.8 + 0.4 * torch.rand(4096, 1, generator=random))
    found = fitted.values(to_field.apply((middle + away * way).double()).float())
    return found / to_field.scale / radius, (away - radius) / radius


def test_the_ball_that_a_run_shows_becomes_distances(ball, tmp_path):
    pytest.importorskip("igl", reason="the extra surfaces is not installed")
    out = tmp_path / "run"
    result = into(ball, out, into="sdf", steps=STEPS, sizes=SIZES)
    found, truth = off_the_ball(out, torch.zeros(3), 0.8)
    assert (found - truth).abs().mean() < 0.02 and (found - truth).mean().abs() < 0.01
    assert result.distances.overlap > 0.97
    assert ((found < 0) == (truth < 0)).float().mean() > 0.95
    surface = read_mesh(Path(result.surface))
    assert (surface.vertices.norm(dim=1) - 0.8).abs().quantile(0.95) < 0.02
    config = json.loads((out / "config.json").read_text())
    assert config["teacher"] == str(ball.resolve()) and config["settings"]["target"] == "sdf"
    assert "IoU" in summary(result) and 0 < result.surface_seconds < result.seconds
    again = into(None, out, resume=True)  # of which there is nothing left to do
    assert again.distances == result.distances and again.teacher == result.teacher
    with pytest.raises(InputError, match="is taught by"):
        into(tmp_path, out, resume=True)
    with pytest.raises(InputError, match="holds a run already"):
        into(ball, out, into="sdf", steps=3)


def test_distances_become_discs_on_their_surface(fits, tmp_path):
    out = tmp_path / "run"
    result = into(fits("sdf"), out, into="gaussians", splats=3000)
    assert result.splats == 3000 and "no colours" in summary(result)
    trained = load_shown(out, CPU)
    splats = trained.gaussians.splats
    to_user = trained.to_field.inverse()
    away = to_user.apply(splats.means.double()) - MIDDLE
    assert (away.norm(dim=1) / RADIUS - 1).abs().quantile(0.95) < 0.02
    assert splats.opacity_logits.sigmoid().min() > 0.99
    assert torch.allclose(splats.opacity_logits.sigmoid(), torch.tensor(OPACITY), atol=1e-4)
    # As if photographed from all around: what views show is the ball.
    poses = torch.tensor(trained.settings.orbit["camera_to_world"])[::16]
    cameras = orbit_cameras(trained.settings, poses, (200, 200))
    middle = trained.to_field.apply(MIDDLE[None].double())[0].float()
    radius = RADIUS * trained.to_field.scale
    for index in range(len(cameras)):
        (view,) = trained.bands(cameras, index, normals=True)
        place = torch.arange(200 * 200)
        pixels = torch.stack([place % 200, place // 200], 1) + 0.5
        origins, directions = cameras.rays(torch.full_like(place, index), pixels)
        along = ((middle - origins) * directions).sum(1)
        square = radius**2 - (middle - origins).square().sum(1) + along**2
        depth = (along - square.clamp_min(0).sqrt()).view(200, 200)
        within = (square > 0.1 * radius**2).view(200, 200)
        assert view.opacity[within].min() > 0.97
        off = (view.depth - depth)[within] / radius
        assert off.abs().mean() < 0.02 and off.abs().quantile(0.95) < 0.05
        normals = torch.nn.functional.normalize(view.normal, dim=2)
        true = (origins + depth.view(-1, 1) * directions - middle).view(200, 200, 3) / radius
        assert (normals * true).sum(2)[within].mean() > 0.98
        outside = (square < -0.2 * radius**2).view(200, 200)
        assert view.opacity[outside].max() < 0.05
    written = export(Export(out, tmp_path / "discs.ply"))
    assert written.counts["Gaussians"] == result.splats
    file = read_splat_file(tmp_path / "discs.ply")
    assert file.world == "z-up"
    assert (file.splats.means.mean(0) - MIDDLE).norm() < 0.05 * RADIUS


def test_an_inside_becomes_distances(fits, tmp_path):
    out = tmp_path / "run"
    result = into(fits("occupancy"), out, into="sdf", steps=STEPS, sizes=SIZES)
    found, truth = off_the_ball(out, MIDDLE, RADIUS)
    assert (found - truth).abs().mean() < 0.02 and result.distances.overlap > 0.97
    assert ((found < 0) == (truth < 0)).float().mean() > 0.95


def test_distances_teach_fields_that_show_views_as_discs(fits, tmp_path, monkeypatch):
    monkeypatch.setattr(splat_teacher, "SIZE", (32, 32))
    monkeypatch.setattr(splat_teacher, "surfels", lambda mesh, *rest: surfels(mesh, 200, *rest[1:]))
    options = Distill(fits("sdf"), into="hash-grid", steps=2, views=4, report=False)
    sizes = "log2_table_size=12,finest_resolution=32,hidden=16"
    assert not is_of_surfaces(options)
    result = distill(replace(options, out=tmp_path / "run", sizes=sizes, device="cpu"))
    assert result.steps == 2 and result.teacher == str(fits("sdf").resolve())
    assert load_shown(tmp_path / "run", CPU).settings.field == "hash-grid"


def test_pairs_without_sense_are_refused_with_what_would_make_sense(fits, tmp_path, capsys):
    image, out = tmp_path / "disc.png", tmp_path / "out"
    write_png(image, torch.zeros(32, 32, 3, dtype=torch.uint8).numpy())
    fit(Fit(image, steps=1, sizes="levels=2", out=tmp_path / "image"))
    for field in ("gaussians", "sdf", "udf", "occupancy", "hash-grid", "ray-distribution"):
        arguments = ["distill", str(tmp_path / "image"), "--into", field, "--out", str(out)]
        assert main(arguments) == 2
        said = capsys.readouterr().err
        assert "a fitted image" in said and "a fit of a mesh" in said and said.count("\n") == 1
    with pytest.raises(InputError, match="--chain: sdf shows no views.*--into sdf"):
        distill_chain(Distill(fits("sdf"), chain="hash-grid,sdf", out=out))
    with pytest.raises(InputError, match="--into.*sdf, udf, occupancy"):
        distill(Distill(fits("sdf"), into="nothing", out=out))
    assert not out.exists()


def test_what_cannot_be_begun_leaves_no_folder(ball, fits, tmp_path):
    out = tmp_path / "out"
    for wrong, said in (
        ({"views": 5}, "--views: with --into sdf"),
        ({"report": False}, "--no-report"),
        ({"splats": 5}, "--splats"),
        ({"steps": 3, "minutes": 1.0}, "both are given"),
        ({"sizes": "no_such=3", "steps": 3}, "no_such"),
        ({"minutes": 1e-5}, "--minutes.*surface alone took"),
    ):
        with pytest.raises(InputError, match=said):
            into(ball, out, **({"into": "sdf"} | wrong))
        assert not out.exists(), wrong
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="no_such"):
        into(ball, out, into="sdf", sizes="no_such=3", steps=3)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    with pytest.raises(InputError, match="RUN: is not given"):
        into(None, out, into="sdf")
    discs = tmp_path / "discs"
    for wrong, said in (({"steps": 5}, "--steps"), ({"splats": 3}, "--splats: 3; expected 7 to")):
        with pytest.raises(InputError, match=said):
            into(fits("sdf"), discs, into="gaussians", **wrong)
    assert not discs.exists()
    into(fits("sdf"), discs, into="gaussians", splats=200)
    again = Distill(out=discs, resume=True)
    assert is_of_surfaces(again)
    with pytest.raises(InputError, match="was made at once"):
        distill_surface.distill_surface(again)
