import dataclasses
import json
import math
import shutil

import pytest
import torch

from polyfield.apps.diagnosis_cameras import camera_coverage, camera_warnings, finest_box
from polyfield.apps.scene import load_scene
from polyfield.apps.train import train
from polyfield.apps.train_options import Train
from polyfield.fields.similarity import Similarity


@pytest.fixture(scope="module")
def loaded(scene):
    return load_scene(scene)


def with_poses(scene, edit, scale=1.0):
    """The scene with edited poses; its field's frame scaled with them."""
    poses = edit(scene.cameras.camera_to_world.clone())
    frame = scene.to_field
    moved = Similarity(frame.scale / scale, frame.rotation, frame.translation)
    return dataclasses.replace(
        scene, cameras=dataclasses.replace(scene.cameras, camera_to_world=poses), to_field=moved
    )


def kinds(scene):
    return [(warning.kind, warning.where) for warning in camera_warnings(scene)]


def scaled(factor):
    def edit(poses):
        poses[:, :, 3] *= factor
        return poses

    return edit


def test_a_sound_scene_has_no_warning(loaded):
    assert camera_warnings(loaded) == []


@pytest.mark.parametrize("factor", [1e6, 1e-6])
def test_an_absurd_scale_is_named_and_an_odd_one_is_not(loaded, factor):
    assert kinds(with_poses(loaded, scaled(factor), factor)) == [("scale", "ball")]
    assert kinds(with_poses(loaded, scaled(factor**0.5), factor**0.5)) == []


@pytest.mark.parametrize(("distance", "named"), [(5e6, True), (5e4, False)])
def test_a_scene_far_from_the_origin_is_named(loaded, distance, named):
    def away(poses):
        poses[:, 0, 3] += distance
        return poses

    far = with_poses(loaded, away)
    eye, shift = far.to_field.rotation, far.to_field.translation.clone()
    shift[0] -= distance * far.to_field.scale
    far = dataclasses.replace(far, to_field=Similarity(far.to_field.scale, eye, shift))
    assert kinds(far) == [("scale", "ball")] * named


@pytest.mark.parametrize(("left", "levels"), [(1e-6, 1), (1e-9, 4)])
def test_cameras_in_one_place_are_named(loaded, left, levels):
    def together(poses):
        poses[:, :, 3] = poses[0, :, 3] + left * poses[:, :, 3]
        return poses

    moved = dataclasses.replace(with_poses(loaded, together), grid_levels=levels)
    assert ("one place", "ball") in kinds(moved)


def test_cameras_in_one_place_are_known_by_how_far_the_points_are(loaded):
    def nearly(poses):
        poses[:, :, 3] = poses[0, :, 3] + 1e-3 * poses[:, :, 3]
        return poses

    near = with_poses(loaded, nearly)
    points = near.cameras.camera_to_world[0, :, 3] + torch.eye(3).double()
    for distance, named in ((1.0, False), (1e3, True)):
        placed = dataclasses.replace(near, points=distance * points)
        assert (("one place", "ball") in kinds(placed)) == named


def test_a_camera_that_looks_away_is_named_alone(loaded):
    def turn(poses):
        poses[6, :, 0] *= -1
        poses[6, :, 2] *= -1
        return poses

    found = camera_warnings(with_poses(loaded, turn))
    assert [(w.kind, w.frames) for w in found] == [("past the subject", (6,))]
    assert found[0].where == f"train/{loaded.image_paths[6].name}"


def turned_about(poses):
    poses[6, :, 0] *= -1
    poses[6, :, 2] *= -1
    return poses


def test_cameras_that_all_look_outwards_look_past_nothing(loaded):
    def outwards(poses):
        poses[:, :, 0] *= -1
        poses[:, :, 2] *= -1
        return poses

    assert kinds(with_poses(loaded, outwards)) == []


def test_a_panorama_that_looks_away_sees_the_subject_behind_it(loaded):
    turned = with_poses(loaded, turned_about)
    width, height = loaded.sizes[0]
    focal = torch.tensor([[width / (2 * math.pi), height / math.pi]]).double()
    focal = focal.expand_as(turned.cameras.focal)
    around = dataclasses.replace(turned.cameras, model="EQUIRECTANGULAR", focal=focal)
    assert kinds(dataclasses.replace(turned, cameras=around)) == []


def test_a_camera_within_the_bounds_may_look_out_of_them(loaded):
    def inside(poses):
        poses = turned_about(poses)
        poses[6, :, 3] *= 1.3 / poses[6, :, 3].abs().max()  # the box ends at 1.5
        return poses

    assert kinds(with_poses(loaded, inside)) == []


@pytest.mark.parametrize(("count", "named"), [(9, True), (10, False)])
def test_few_views_are_named(loaded, count, named):
    few = dataclasses.replace(loaded, splits=loaded.splits | {"train": torch.arange(count)})
    assert (("few views", "ball") in kinds(few)) == named


def test_a_split_without_test_views_is_named(loaded):
    none = dataclasses.replace(loaded, splits=loaded.splits | {"test": torch.arange(0)})
    assert kinds(none) == [("no test", "ball")]


def test_bounds_that_begin_behind_everything_are_named(loaded):
    assert kinds(dataclasses.replace(loaded, near=20.0)) == [("scale", "ball")]


def test_the_finest_box_is_the_middle_of_the_cube(loaded):
    low, high = finest_box(loaded)
    assert low.tolist() == pytest.approx([-1.5] * 3) and high.tolist() == pytest.approx([1.5] * 3)
    low, high = finest_box(dataclasses.replace(loaded, grid_levels=3))
    assert low.tolist() == pytest.approx([-0.375] * 3)


@pytest.mark.parametrize("turn", [0.0, 1.0, 2.5, -2.0])
def test_cameras_on_one_side_leave_a_gap_and_most_of_the_sphere(loaded, turn):
    side = loaded.cameras.camera_to_world[:, 0, 3] > 2
    part = dataclasses.replace(loaded, splits=loaded.splits | {"train": side.nonzero()[:, 0]})
    c, s = math.cos(turn), math.sin(turn)
    about_z = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float64)
    found = camera_coverage(with_poses(part, lambda poses: about_z @ poses))
    assert found.widest_gap == pytest.approx(camera_coverage(part).widest_gap, abs=0.1)
    assert found.widest_gap > 180 and found.sphere < 0.5
    assert -90 <= found.lowest < found.highest <= 90


def test_train_tells_of_them_before_it_starts(scene, tmp_path):
    few, heard = tmp_path / "few", []
    shutil.copytree(scene, few)
    document = json.loads((few / "transforms_train.json").read_text())
    document["frames"] = document["frames"][:5]
    (few / "transforms_train.json").write_text(json.dumps(document))
    train(Train(few, out=tmp_path / "run", steps=2, report=False), on_message=heard.append)
    assert [message for message in heard if message.startswith("warning: few: too few views: 5")]
