"""Any file of Gaussians as what a run shows: a teacher without photographs."""

import math
from dataclasses import replace

import pytest
import torch

from polyfield.apps import distill_task
from polyfield.apps.distill import distill
from polyfield.apps.distill_options import Distill
from polyfield.apps.formats.splat_files import read_splats, write_splats
from polyfield.apps.shown import Shown
from polyfield.apps.splat_teacher import ON_EACH, load_teacher, splat_teacher
from polyfield.apps.trained import orbit_cameras
from polyfield.cuda.errors import InputError
from polyfield.fields.splats import Splats

CPU = torch.device("cpu")


def ball(count=6000, middle=(3.0, -2.0, 7.0), radius=2.0, seed=0):
    """An opaque red ball of small Gaussians, somewhere in the world."""
    random = torch.Generator().manual_seed(seed)
    ways = torch.nn.functional.normalize(torch.randn(count, 3, generator=random), dim=1)
    harmonics = torch.zeros(count, 1, 3)
    harmonics[:, 0] = (torch.tensor([0.9, 0.2, 0.1]) - 0.5) * math.sqrt(4 * math.pi)
    return Splats(
        torch.tensor(middle) + radius * ways,
        torch.full((count, 3), math.log(0.05 * radius)),
        torch.tensor([1.0, 0, 0, 0]).repeat(count, 1),
        torch.full((count,), 3.0),
        harmonics,
        False,
    )


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "ball.ply"
    write_splats(ball(), path, "z-up")
    return path


def test_it_fills_its_unit_cube_and_is_seen_whole_from_all_cameras(file):
    made = splat_teacher(file, CPU)
    assert isinstance(made, Shown) and made.settings.grid_levels == 1
    means = made.gaussians.means
    assert means.min() > 0 and means.max() < 1
    assert (means.amax(0) - means.amin(0)).max() > 0.7
    poses = torch.tensor(made.settings.orbit["camera_to_world"])
    assert len(poses) == 4 * ON_EACH
    cameras = orbit_cameras(made.settings, poses[::9], (60, 60))
    for index in range(len(cameras)):
        view = made.view(cameras, index)
        seen = view.opacity > 0.5
        assert 0.4 < seen.float().mean() < 0.78
        border = torch.cat([seen[0], seen[-1], seen[:, 0], seen[:, -1]])
        assert not border.any()
        middle = view.color[27:33, 27:33].mean((0, 1))
        assert torch.allclose(middle, torch.tensor([0.9, 0.2, 0.1]), atol=0.06)


def test_its_cube_leads_back_to_the_world_of_the_file(file):
    made = splat_teacher(file, CPU)
    back = made.to_field.inverse().apply(made.gaussians.means.double()).float()
    assert torch.allclose(back.sort(0).values, read_splats(file).means.sort(0).values, atol=1e-4)


def test_what_lies_far_about_most_of_it_gets_nested_cubes(tmp_path):
    near, far = ball(), ball(60, radius=40.0, seed=1)
    parts = zip(near_fields(near), near_fields(far), strict=True)
    both = Splats(*(torch.cat(pair) for pair in parts), False)
    write_splats(both, tmp_path / "both.ply", "z-up")
    made = splat_teacher(tmp_path / "both.ply", CPU)
    levels = made.settings.grid_levels
    assert levels in (5, 6)
    means = made.gaussians.means
    inner = (means - 0.5).abs().amax(1) <= 0.5**levels
    assert inner.float().mean() > 0.9 and means.min() > -0.3 and means.max() < 1.3


def near_fields(splats):
    """Its tensors, in order."""
    names = "means", "log_scales", "quaternions", "opacity_logits", "harmonics"
    return [getattr(splats, name) for name in names]


def test_it_becomes_a_field_without_any_photograph(file, tmp_path, monkeypatch):
    monkeypatch.setattr(distill_task, "POOL", 1 << 15)
    monkeypatch.setattr("polyfield.apps.distill.EVALUATION_SECONDS", 2.0)
    monkeypatch.setattr("polyfield.apps.run_report.ORBIT_SECONDS", 2.0)
    options = Distill(file, into="hash-grid", out=tmp_path / "run", device="cpu", steps=200)
    sizes = "log2_table_size=12,finest_resolution=64,hidden=16"
    result = distill(replace(options, views=8, sizes=sizes))
    assert result.teacher_psnr > 20 and result.test_psnr is None
    assert distill(Distill(out=tmp_path / "run", resume=True, device="cpu", report=False)).steps


def test_its_folder_is_named_after_it_and_other_files_are_refused(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = Distill(file, into="gaussians", device="cpu", steps=2, views=2, report=False)
    assert distill(replace(options, splats=50)).run == "runs/ball-into-gaussians"
    (tmp_path / "other.ply").write_bytes(b"nothing")
    with pytest.raises(InputError, match="other.ply"):
        load_teacher(tmp_path / "other.ply", CPU)
    few = ball(3)
    write_splats(few, tmp_path / "few.ply", "z-up")
    with pytest.raises(InputError, match="four at least"):
        load_teacher(tmp_path / "few.ply", CPU)
