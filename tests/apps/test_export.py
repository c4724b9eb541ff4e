"""What becomes of a field's surface on its way out; the command itself is in test_commands."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh

from polyfield.apps.export import Export, export, summary
from polyfield.apps.formats.mesh_files import read_mesh
from polyfield.apps.run_surface import surface_of
from polyfield.apps.settings import Settings
from polyfield.apps.trained import Trained
from polyfield.cuda.errors import InputError
from polyfield.extract.mesh import Mesh
from polyfield.extract.texture import TILT
from polyfield.fields.similarity import Similarity
from polyfield.render.occupancy import full_grid
from polyfield.render.volume import Sampling

OUTER, INNER = 0.3, 0.15


class Shell(torch.nn.Module):
    """A ball around the cube's middle with a hollow that no camera looks into."""

    learning_rate, costly, cones, codes, warp = 0.01, False, False, None, None

    def density(self, x):
        radius = (x - 0.5).norm(dim=1)
        solid = (radius < OUTER) & (radius > INNER)
        smooth = torch.sigmoid(150 * torch.minimum(OUTER - radius, radius - INNER))
        return 400 * smooth * torch.where(solid, 1.0, smooth), x

    def encode_directions(self, directions, codes=None):
        return directions

    def color(self, features, harmonics):
        return torch.ones_like(features)


def around(count=14):
    """Cameras all around the cube, looking at its middle: OpenCV axes."""
    z = torch.linspace(-0.8, 0.8, count)
    turn = 2.4 * torch.arange(count)
    back = torch.stack([(1 - z * z).sqrt() * turn.cos(), (1 - z * z).sqrt() * turn.sin(), z], 1)
    up = torch.tensor([0.0, 0, 1]).expand(count, 3)
    right = torch.nn.functional.normalize(torch.linalg.cross(up, back), dim=1)
    down = torch.linalg.cross(-back, right)
    return torch.stack([right, down, -back, 0.5 + 1.2 * back], 2)


def trained(camera_to_world):
    settings = Settings(
        field="hash-grid",
        arguments={},
        to_field={},
        grid_levels=1,
        grid_resolution=32,
        sampling=Sampling(step=1 / 128, cone=0.0, near=0.0),
        background=(1.0, 1.0, 1.0),
        orbit={
            "camera_to_world": camera_to_world.tolist(),
            "focal": [45.0, 45.0],
            "size": [40, 40],
        },
        scene="",
        seed=0,
        samples_per_step=1024,
        image_bytes=1 << 20,
    )
    grid = full_grid(1, 32, torch.device("cpu"))
    return Trained(settings, Shell(), grid, Similarity.identity())


def radii(mesh):
    return (mesh.vertices - 0.5).norm(dim=1)


def test_a_hollow_that_no_camera_sees_is_left_out():
    mesh, _ = surface_of(trained(around()), resolution=64)
    assert radii(mesh).min() > 0.9 * OUTER
    # All of the outside is there: a sphere's area, and no border.
    assert float(mesh.face_vectors().norm(dim=1).sum()) == pytest.approx(
        4 * torch.pi * OUTER**2, rel=0.05
    )


@pytest.mark.parametrize("kept", [False, True])
def test_the_file_holds_the_unseen_where_it_is_kept(kept, tmp_path, monkeypatch):
    monkeypatch.setattr("polyfield.apps.export.load", lambda run, device: trained(around()))
    out = tmp_path / "shell.ply"
    export(Export(run=tmp_path, out=out, resolution=48, keep_unseen=kept))
    found = radii(read_mesh(out))
    assert (found.min() < 1.1 * INNER) == kept and found.max() > 0.9 * OUTER


def test_the_far_side_goes_where_all_cameras_stand_on_one():
    views = around()
    mesh, _ = surface_of(trained(views[views[:, 2, 3] > 1]), resolution=64)
    height = mesh.vertices[:, 2] - 0.5
    assert height.max() > 0.9 * OUTER and height.min() > -0.95 * OUTER


def test_what_is_written_is_reported_and_compared(tmp_path, monkeypatch):
    monkeypatch.setattr("polyfield.apps.export.load", lambda run, device: trained(around()))
    options = Export(run=tmp_path, out=tmp_path / "shell.ply", resolution=48, keep_unseen=True)
    result = export(options)
    report = result.quality
    assert (report.components, report.euler, report.watertight) == (2, 4, True)
    assert report.faces == result.counts["faces"] and not result.scores
    assert "2 components, watertight, Euler number 4" in summary(result)
    # Against itself, and against the outside alone.
    again = export(replace(options, reference=options.out))
    assert [score.threshold for score in again.scores] == pytest.approx(
        [share * read_mesh(options.out).diagonal() for share in (0.01, 0.005)]
    )
    assert again.scores[0].f_score > 0.99 and "Chamfer-L1" in summary(again)
    outside = export(replace(options, keep_unseen=False, out=tmp_path / "outside.ply"))
    assert outside.quality.euler == 2
    whole = export(replace(options, reference=tmp_path / "outside.ply"))
    assert whole.scores[0].recall > 0.99 > 0.9 > whole.scores[0].precision


def test_openings_are_said_with_their_places(tmp_path, monkeypatch):
    views = around()
    one_side = trained(views[views[:, 2, 3] > 1])
    monkeypatch.setattr("polyfield.apps.export.load", lambda run, device: one_side)
    result = export(Export(run=tmp_path, out=tmp_path / "cap.ply", resolution=48))
    assert not result.quality.watertight and result.quality.boundary_loops >= 1
    assert "not watertight" in summary(result) and "long about (" in summary(result)


def test_a_reference_that_is_none_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("polyfield.apps.export.load", lambda run, device: trained(around()))
    out = tmp_path / "shell.ply"
    for kind, reference in (("mesh", tmp_path / "missing.ply"), ("points", tmp_path / "shell.ply")):
        with pytest.raises(InputError):
            export(Export(tmp_path, out, kind, resolution=48, reference=reference))
        assert not out.exists()


class Painted(Shell):
    """The shell in colours of the place, and a little of where it is seen from: its unit cube's."""

    def encode_directions(self, directions, codes=None):
        return directions

    def color(self, features, harmonics):
        return 0.5 + 0.3 * torch.sin(8 * features) + 0.1 * harmonics


def moved_shell(views=14):
    """A painted shell in a frame of the user's own: turned, larger and elsewhere."""
    turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)
    to_field = Similarity(0.1, turn, torch.tensor([0.2, 0.7, -1.4], dtype=torch.float64))
    return replace(trained(around(views)), field=Painted(), to_field=to_field)


def test_a_texture_shows_the_field_s_colours_where_the_user_has_the_object(tmp_path, monkeypatch):
    pytest.importorskip("xatlas", reason="the extra surfaces is not installed")
    run = moved_shell()
    monkeypatch.setattr("polyfield.apps.export.load", lambda path, device: run)
    out = tmp_path / "shell.glb"
    result = export(Export(tmp_path, out, resolution=40, faces=1500, texture=256))
    assert 1300 < result.counts["faces"] <= 1500
    (found,) = trimesh.load_scene(out, process=False).dump()
    image = torch.from_numpy(np.asarray(found.visual.material.baseColorTexture).copy()).float()
    uv = torch.from_numpy(found.visual.uv).float()
    corners = torch.from_numpy(found.faces.copy())
    where = 2 * torch.stack([uv[:, 0], 1 - uv[:, 1]], 1)[corners].mean(1) - 1
    seen = torch.nn.functional.grid_sample(
        image[None, ..., :3].permute(0, 3, 1, 2) / 255, where[None, None], align_corners=False
    )[0, :, 0].T
    x, y, z = torch.from_numpy(found.vertices.copy()).float()[corners].mean(1).unbind(1)
    places = run.to_field.apply(torch.stack([x, -z, y], 1))  # other readers see +Y up
    outward = torch.nn.functional.normalize(places - 0.5, dim=1)
    assert (radii(Mesh(places, corners[:0])) - OUTER).abs().max() < 0.03
    share = (1 + 6 * math.cos(TILT)) / 7  # of what depends on the view, along the normal
    expected = 0.5 + 0.3 * torch.sin(8 * places) - 0.1 * share * outward
    assert (seen - expected).abs().mean() < 0.02 and (seen - expected).abs().max() < 0.12


@pytest.mark.parametrize("way", ["fused", "opacity"])
def test_what_views_show_is_cut_to_the_same_surface(tmp_path, monkeypatch, way):
    run = moved_shell(30)  # of 14 two see a corner of the cube, both just behind the ball
    monkeypatch.setattr("polyfield.apps.export.load", lambda path, device: run)
    out = tmp_path / "shell.ply"
    result = export(Export(tmp_path, out, resolution=48, **{way: True}))
    assert result.quality.euler == 2 and result.level is None
    mesh = read_mesh(out)
    places = run.to_field.apply(mesh.vertices)
    off = radii(Mesh(places, mesh.faces)) - OUTER
    assert off.abs().mean() < 0.01 and off.abs().max() < 0.04
    outward = torch.nn.functional.normalize(places - 0.5, dim=1)
    expected = 0.5 + 0.3 * torch.sin(8 * places) - 0.1 * outward
    assert (mesh.colors - expected).abs().mean() < 0.03


def test_fewer_faces_are_painted_anew(tmp_path, monkeypatch):
    pytest.importorskip("fast_simplification", reason="the extra surfaces is not installed")
    run = moved_shell()
    monkeypatch.setattr("polyfield.apps.export.load", lambda path, device: run)
    out = tmp_path / "shell.ply"
    whole = export(Export(tmp_path, tmp_path / "whole.ply", resolution=40))
    few = export(Export(tmp_path, out, resolution=40, faces=800))
    assert few.counts["faces"] <= 800 < whole.counts["faces"] and few.quality.watertight
    mesh = read_mesh(out)
    places = run.to_field.apply(mesh.vertices)
    outward = torch.nn.functional.normalize(places - 0.5, dim=1)
    expected = 0.5 + 0.3 * torch.sin(8 * places) - 0.1 * outward
    assert (mesh.colors - expected).abs().mean() < 0.02
    turned = mesh.normals.double() @ run.to_field.rotation.T
    assert float((turned.float() * outward).sum(1).min()) > 0.9


@pytest.mark.parametrize(
    ("more", "where"),
    [
        ({"out": "mesh.ply", "texture": 256}, "--texture"),
        ({"out": "points.ply", "kind": "points", "texture": 256}, "--texture"),
        ({"out": "mesh.glb", "texture": 5}, "5 texels"),
        ({"out": "mesh.glb", "faces": 2}, "faces: 2"),
        ({"out": "mesh.glb", "sharp": True}, "--sharp: the run has densities"),
        ({"out": "mesh.glb", "fused": True, "level": 3.0}, "--fused: with --sharp or --level"),
        ({"out": "mesh.glb", "fused": True, "resolution": 1024}, "resolution: 1024"),
        ({"out": "mesh.glb", "opacity": True, "fused": True}, "--opacity: with --fused or --level"),
        ({"out": "mesh.glb", "opacity": True, "level": 3.0}, "--opacity: with --fused or --level"),
        ({"out": "mesh.glb", "opacity": True, "resolution": 1024}, "resolution: 1024"),
    ],
)
def test_pictures_and_faces_that_cannot_be_are_refused(tmp_path, monkeypatch, more, where):
    monkeypatch.setattr("polyfield.apps.export.load", lambda path, device: moved_shell())
    options = Export(tmp_path, **{"resolution": 24} | more | {"out": tmp_path / more["out"]})
    with pytest.raises(InputError, match=where):
        export(options)
    assert not options.out.exists()
