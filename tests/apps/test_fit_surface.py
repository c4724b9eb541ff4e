"""Surfaces as signals: meshes with an inside, open ones, and points; learned, cut and told."""

from pathlib import Path

import pytest
import torch

from polyfield.apps import distances, fit_outputs
from polyfield.apps import fit as fit_module
from polyfield.apps.export import Export, export
from polyfield.apps.fit import fit, summary
from polyfield.apps.fit_options import Fit
from polyfield.apps.formats.mesh_files import read_mesh, write_mesh
from polyfield.apps.formats.point_ply import Points, write_points
from polyfield.apps.png_files import write_png
from polyfield.apps.render import Render, render
from polyfield.cuda.errors import InputError
from polyfield.extract.mesh import Mesh
from polyfield.extract.mesh_report import mesh_report


@pytest.fixture(autouse=True, scope="module")
def few_points():
    """Known distances are most of the work; an eighth of them tells as much of so small a field."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distances, "POOL", 3 << 14)
        patch.setattr(distances, "PLACES", 1 << 15)
        patch.setattr(fit_outputs, "MEASURED", 1 << 14)
        patch.setattr(fit_outputs, "SLICE", 128)
        yield


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    """A box of 2 x 4 x 1 somewhere, as a mesh."""
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = [f for a, b, c, d in quads for f in ((a, b, c), (a, c, d))]
    path = tmp_path_factory.mktemp("signals") / "box.obj"
    sizes = torch.tensor([2.0, 4.0, 1.0])
    write_mesh(path, Mesh(corners * sizes + torch.tensor([10.0, 0, -5]), torch.tensor(faces)))
    return path


@pytest.mark.parametrize("field", ["hash-grid", "rbf"])
def test_the_distances_to_a_mesh_are_learned(box, tmp_path, field, monkeypatch):
    monkeypatch.setattr(fit_outputs, "RESOLUTION", 80)
    monkeypatch.setattr(fit_module, "DISTANCE_SAMPLES", 1 << 12)
    pytest.importorskip("igl", reason="the extra surfaces is not installed")
    steps = {"hash-grid": 600, "rbf": 250}[field]
    options = Fit(box, field, parameters=60_000, steps=steps, out=tmp_path / "run")
    result = fit(options)
    score = result.distances
    assert result.kind == "distance" and result.psnr is None
    assert score.overlap > 0.8 and score.normal_degrees < 40
    mesh = read_mesh(Path(result.reconstruction))
    center, half = torch.tensor([11.0, 2, -4.5]), torch.tensor([1.0, 2, 0.5])
    beyond = (mesh.vertices - center).abs() - half
    off = beyond.amax(1).abs()  # of the box's surface, in its own unit
    assert off.quantile(0.7) < 0.1 and beyond.amax() < 0.6
    assert read_mesh(Path(result.error)).colors is not None
    assert fit(Fit(out=tmp_path / "run", resume=True)).distances == score
    written = export(Export(tmp_path / "run", tmp_path / "box.glb", resolution=64))
    assert 0 < written.counts["faces"] < len(mesh.faces)
    sharp = export(Export(tmp_path / "run", tmp_path / "box.ply", resolution=64, sharp=True))
    assert sharp.quality.watertight and sharp.quality.non_manifold_vertices == 0
    coarse = Export(
        tmp_path / "run", tmp_path / "coarse.ply", resolution=64, sharp=True, tolerance=0.2
    )
    flat = export(coarse)
    assert flat.quality.watertight and flat.counts["faces"] < sharp.counts["faces"] / 4
    moved = read_mesh(tmp_path / "coarse.ply")
    middle = moved.vertices[moved.faces].mean(1) - center
    size = moved.face_vectors().norm(dim=1)
    assert size[(middle.abs() - half).amax(1).abs() < 0.2].sum() > 0.7 * size.sum()
    with pytest.raises(InputError, match="--tolerance: without --sharp"):
        export(Export(tmp_path / "run", tmp_path / "box.ply", tolerance=0.1))
    with pytest.raises(InputError, match="--tolerance: -1"):
        export(Export(tmp_path / "run", tmp_path / "box.ply", sharp=True, tolerance=-1.0))
    few = export(Export(tmp_path / "run", tmp_path / "few.ply", resolution=64, faces=500))
    assert few.counts["faces"] <= 500
    with pytest.raises(InputError, match="--fused: a fit has no views"):
        export(Export(tmp_path / "run", tmp_path / "few.ply", fused=True))
    with pytest.raises(InputError, match="--texture: a fit has no colours"):
        export(Export(tmp_path / "run", tmp_path / "few.glb", texture=256))
    with pytest.raises(InputError, match="polyfield export"):
        render(Render(tmp_path / "run"))
    with pytest.raises(InputError, match="--as cameras"):
        export(Export(tmp_path / "run", tmp_path / "a.json", "cameras"))


def test_whether_a_point_is_inside_is_learned(box, tmp_path, monkeypatch):
    monkeypatch.setattr(fit_outputs, "RESOLUTION", 64)
    monkeypatch.setattr(fit_module, "DISTANCE_SAMPLES", 1 << 12)
    pytest.importorskip("igl", reason="the extra surfaces is not installed")
    sizes = "finest_resolution=64,levels=8"
    result = fit(Fit(box, steps=400, target="occupancy", sizes=sizes, out=tmp_path / "run"))
    assert result.kind == "distance" and result.distances.mean_error is None
    assert result.distances.overlap > 0.95
    assert "IoU 0.9" in summary(result) and "distances" not in summary(result)
    mesh = read_mesh(Path(result.reconstruction))
    center, half = torch.tensor([11.0, 2, -4.5]), torch.tensor([1.0, 2, 0.5])
    beyond = ((mesh.vertices - center).abs() - half).amax(1)
    assert beyond.abs().quantile(0.95) < 0.05
    assert mesh_report(mesh).watertight


def test_what_is_open_is_learned_without_a_sign_and_stays_open(tmp_path, monkeypatch):
    monkeypatch.setattr(fit_outputs, "RESOLUTION", 64)
    monkeypatch.setattr(fit_module, "DISTANCE_SAMPLES", 1 << 13)
    pytest.importorskip("igl", reason="the extra surfaces is not installed")
    path, side = tmp_path / "sheet.obj", 30.0
    corners = side * torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    write_mesh(path, Mesh(corners, torch.tensor([[0, 1, 2], [0, 2, 3]])))
    said = []
    result = fit(Fit(path, steps=2, out=tmp_path / "signed"), on_message=said.append)
    assert sum("the mesh is open (1 openings" in line for line in said) == 1
    said.clear()
    options = Fit(
        path,
        parameters=60_000,
        steps=600,
        target="udf",
        sizes="finest_resolution=128",
        out=tmp_path / "run",
    )
    result = fit(options, on_message=said.append)
    assert not any("is open" in line for line in said)
    score = result.distances
    assert score.overlap is None and score.mean_error_near < 0.01 * side
    mesh = read_mesh(Path(result.reconstruction))
    assert mesh.vertices[:, 2].abs().quantile(0.9) < 0.01 * side
    area = mesh.face_vectors().norm(dim=1).sum()
    assert float(area) == pytest.approx(side**2, rel=0.1)  # neither holes nor a second layer
    assert fit(Fit(out=tmp_path / "run", resume=True)).distances == score
    with pytest.raises(InputError, match="--sharp: distances without a sign"):
        export(Export(tmp_path / "run", tmp_path / "a.ply", resolution=32, sharp=True))


def test_a_cloud_of_points_is_learned_and_cut_into_a_mesh(tmp_path, monkeypatch):
    monkeypatch.setattr(fit_outputs, "RESOLUTION", 48)
    monkeypatch.setattr(fit_module, "DISTANCE_SAMPLES", 1 << 12)
    pytest.importorskip("igl", reason="the extra surfaces is not installed")
    random = torch.Generator().manual_seed(0)
    away = torch.nn.functional.normalize(torch.randn(5000, 3, generator=random), dim=1)
    points = Points((7.0 * away + 20).double(), None)
    write_points(tmp_path / "bare.ply", points)
    table = torch.cat([points.position, away.double()], 1).float().numpy()
    names = "".join(f"property float {name}\n" for name in ("x", "y", "z", "nx", "ny", "nz"))
    head = f"ply\nformat binary_little_endian 1.0\nelement vertex 5000\n{names}end_header\n"
    (tmp_path / "scan.ply").write_bytes(head.encode() + table.tobytes())
    said = []
    sizes = "finest_resolution=64,levels=8"
    options = Fit(tmp_path / "scan.ply", steps=300, sizes=sizes, out=tmp_path / "run")
    result = fit(options, on_message=said.append)
    assert any("a cloud of points" in line for line in said)
    assert result.distances.overlap > 0.97
    mesh = read_mesh(Path(result.reconstruction))
    assert ((mesh.vertices - 20).norm(dim=1) - 7).abs().quantile(0.9) < 0.15
    with pytest.raises(InputError, match="5,000 points without normals"):
        fit(Fit(tmp_path / "bare.ply", out=tmp_path / "bare"))
    assert not (tmp_path / "bare").exists()


def test_of_an_image_no_distances_are_learned_and_a_mesh_has_no_mask(box, tmp_path):
    image, out = tmp_path / "disc.png", tmp_path / "run"
    write_png(image, torch.zeros(64, 64, 3, dtype=torch.uint8).numpy())
    with pytest.raises(InputError, match="--as udf: .* is no mesh"):
        fit(Fit(image, target="udf", out=out))
    with pytest.raises(InputError, match="a mesh has no pixels"):
        fit(Fit(box, mask=image, out=out, steps=3))
    assert not out.exists()
