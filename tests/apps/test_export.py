"""What becomes of a field's surface on its way out; the command itself is in test_commands."""

from dataclasses import replace

import pytest
import torch

from polyfield.apps.export import Export, export, summary, surface_of
from polyfield.apps.formats.mesh_files import read_mesh
from polyfield.apps.settings import Settings
from polyfield.apps.trained import Trained
from polyfield.cuda.errors import InputError
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
