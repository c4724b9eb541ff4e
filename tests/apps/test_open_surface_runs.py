"""A sheet that ends, learned from photographs: opened, shown from both sides, cut at its rim."""

import math

import pytest
import torch
from bowl_scene import HEIGHT, RADIUS, bowl_scene, paint

from polyfield.apps.eval import Eval, evaluate
from polyfield.apps.export import Export, export
from polyfield.apps.formats.mesh_files import read_mesh
from polyfield.apps.train import train
from polyfield.apps.train_options import Train
from polyfield.apps.trained import load
from polyfield.cuda.errors import InputError
from polyfield.fields.hash_grid import HashGridArguments
from polyfield.fields.open_surface import OpenSurfaceRadiance
from polyfield.render.shading import shade_rays

CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def small_steps():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HashGridArguments, "samples_per_step", 1 << 11)
        yield


@pytest.fixture(scope="module")
def bowl(tmp_path_factory):
    return bowl_scene(tmp_path_factory.mktemp("bowl"), size=40, views=30)


def options(scene, out, **more):
    sizes = "levels=4,log2_table_size=12,finest_resolution=48,hidden=32"
    return Train(scene, out=out, surface="neudf", device="cpu", report=False, sizes=sizes, **more)


def test_a_sheet_is_learned_shown_and_cut(bowl, tmp_path):
    """One run, looked at from all sides: two workers would train it twice."""
    run = tmp_path / "run"
    train(options(bowl, run, steps=600))
    found = load(run, CPU)
    assert isinstance(found.field, OpenSurfaceRadiance) and found.settings.surface == "neudf"
    assert found.settings.sampling.pieces
    assert evaluate(Eval(run, device="cpu")).psnr > 18  # a blank image reaches 12
    its_mesh_is_the_bowl_open_with_one_layer_and_its_colours(run, tmp_path)
    what_is_seen_of_it_faces_the_eye(found)
    with pytest.raises(InputError, match="--fused: the run has a sheet"):
        export(Export(run, tmp_path / "fused.ply", fused=True, device="cpu"))


def its_mesh_is_the_bowl_open_with_one_layer_and_its_colours(run, tmp_path):
    result = export(Export(run, tmp_path / "bowl.ply", resolution=48, device="cpu"))
    assert result.quality.components == 1 and not result.quality.watertight
    assert result.quality.non_manifold_edges == 0
    mesh = read_mesh(tmp_path / "bowl.ply")
    off = mesh.vertices - torch.tensor([0.0, 0.0, HEIGHT])
    assert float((off.norm(dim=1) - RADIUS).abs().median()) < 0.06
    assert float((off[:, 2] > 0.15).float().mean()) < 0.02  # no lid
    area = float(mesh.face_vectors().norm(dim=1).sum())
    assert area == pytest.approx(2 * math.pi * RADIUS**2, rel=0.2)  # one layer
    largest = max(result.quality.openings, key=lambda opening: opening.length)
    assert largest.length == pytest.approx(2 * math.pi * RADIUS, rel=0.35)
    assert largest.center[2] == pytest.approx(HEIGHT, abs=0.15)
    assert float((mesh.colors - paint(mesh.vertices.double())).abs().median()) < 0.15


def what_is_seen_of_it_faces_the_eye(found):
    """Of the bowl's ground, from above and from below."""
    towards = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])
    origins = found.to_field.apply(torch.tensor([[0.05, 0.1, -3.0], [0.05, 0.1, 3.0]]))
    seen = shade_rays(
        found.field, found.grid, origins, towards, found.settings.sampling, normals=True
    )
    assert (seen.opacity > 0.5).all()
    assert ((seen.normal * towards).sum(1) < -0.8 * seen.opacity).all()
