import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from polyfield.apps.info import Info, info, info_command, summary
from polyfield.apps.main import main
from polyfield.cuda.errors import InputError

DATA = Path(os.environ.get("POLYFIELD_DATA", Path(__file__).parents[2] / "../shared/data"))


@pytest.fixture
def ball(scene, tmp_path):
    """A copy of the ball's scene, to be spoilt; r_2 to r_23 are trained on."""
    shutil.copytree(scene, tmp_path / "ball")
    return tmp_path / "ball"


def kinds(result):
    return {(warning.kind, warning.where) for warning in result.warnings}


def change(folder, name, edit):
    """Edit one picture in place; returns what a warning calls it."""
    path = folder / name
    with Image.open(path) as image:
        edited = edit(image.convert("RGBA" if "A" in image.mode else "RGB"))
    edited.save(path)
    return name


def change_pose(folder, index, edit):
    path = folder / "transforms_train.json"
    document = json.loads(path.read_text())
    frame = document["frames"][index]
    matrix = torch.tensor(frame["transform_matrix"], dtype=torch.float64)
    frame["transform_matrix"] = edit(matrix).tolist()
    path.write_text(json.dumps(document))
    return frame["file_path"].removeprefix("./") + ".png"


def test_a_sound_scene_of_an_object_has_its_facts_and_no_warning(scene):
    found = info(scene)
    assert found.warnings == ()
    assert found.kind == "nerf-synthetic" and found.views == {"train": 22, "val": 1, "test": 1}
    assert found.sizes == {"40x40": 24} and found.lens == "PINHOLE, one lens"
    assert found.field_of_view == pytest.approx((40.107, 40.107), abs=0.01)
    assert "[-1.5, 1.5]^3" in found.bounds and found.subject == "by the images' alpha"
    assert found.up == pytest.approx((0, 0, 1), abs=1e-6)
    assert found.coverage.inward and found.coverage.distance == pytest.approx((4, 4), rel=1e-4)
    assert found.coverage.highest == pytest.approx(53.1, abs=0.1)
    assert found.coverage.widest_gap < 30 and found.coverage.sphere > 0.85


def test_a_sound_scene_of_a_room_has_no_warning_and_its_poses_are_confirmed(write_room):
    found = info(write_room())
    assert found.warnings == ()
    assert "poses agree with what" in found.poses[0]
    assert found.coverage.widest_gap > 200


def turned(axes):
    return lambda m: m @ torch.diag(torch.tensor([*axes, 1.0]).double())


def transposed(matrices):
    matrices = matrices.clone()
    matrices[:, :3, :3] = matrices[:, :3, :3].transpose(1, 2).clone()
    return matrices


def translated(matrices):
    matrices = matrices.clone()
    matrices[:, :3, 3:] = torch.linalg.inv(matrices)[:, :3, 3:]
    return matrices


WRONG = {
    "OpenCV's axes where OpenGL's belong": turned((1.0, -1, -1)),
    "seen upside down": turned((-1.0, -1, 1)),
    "world-to-camera matrices where camera-to-world ones belong.": torch.linalg.inv,
    "world-to-camera matrices where camera-to-world ones belong, and": (
        lambda m: torch.linalg.inv(turned((1.0, -1, -1))(m))
    ),
    "rotations are transposed": transposed,
    "translations are world-to-camera": translated,
}


@pytest.mark.parametrize("fault", WRONG)
def test_poses_in_another_convention_are_found_by_what_photographs_show(write_room, fault):
    folder = write_room(WRONG[fault])
    found = [warning for warning in info(folder).warnings if warning.kind == "convention"]
    assert len(found) == 1 and fault in found[0].sentence and found[0].where == folder.name
    assert found[0].remedy


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (turned((1.0, -1, -1)), "OpenCV's axes"),
        (torch.linalg.inv, "world-to-camera matrices"),
    ],
)
def test_poses_in_another_convention_are_found_by_outlines(ball, spoil, fault):
    for split in ("train", "val", "test"):
        path = ball / f"transforms_{split}.json"
        document = json.loads(path.read_text())
        for frame in document["frames"]:
            matrix = torch.tensor(frame["transform_matrix"], dtype=torch.float64)
            frame["transform_matrix"] = spoil(matrix[None])[0].tolist()
        path.write_text(json.dumps(document))
    found = [warning for warning in info(ball).warnings if warning.kind == "convention"]
    assert len(found) == 1 and fault in found[0].sentence


def test_poses_of_other_photographs_are_refuted_without_a_guess(write_room):
    order = torch.tensor([5, 11, 2, 8, 13, 0, 10, 4, 12, 7, 1, 9, 3, 6])
    found = [w for w in info(write_room(lambda m: m[order])).warnings if w.kind == "convention"]
    assert len(found) == 1 and "nor does any other convention" in found[0].sentence


def test_photographs_without_any_texture_confirm_nothing_and_accuse_nobody(write_room):
    ramp = torch.linspace(60, 190, 200).to(torch.uint8)[None, :, None]
    found = info(write_room(torch.linalg.inv, lambda images: ramp.expand_as(images).clone()))
    assert not [warning for warning in found.warnings if warning.kind == "convention"]
    assert found.poses[0].startswith("poses are not checked")


@pytest.mark.parametrize(
    "blur",
    [ImageFilter.GaussianBlur(1.2), ImageFilter.GaussianBlur(4), ImageFilter.BoxBlur((4, 0))],
)
def test_a_blurred_photograph_is_found(write_room, blur):
    folder = write_room()
    name = change(folder, "room_05.png", lambda image: image.filter(blur))
    assert kinds(info(folder)) == {("blurred", name)}


def test_a_photograph_blurred_upwards_is_found(write_room):
    folder = write_room()
    name = change(folder, "room_06.png", lambda i: i.filter(ImageFilter.BoxBlur((0, 4))))
    assert kinds(info(folder)) == {("blurred", name)}


@pytest.mark.parametrize(
    ("factor", "kind"), [(0.01, "underexposed"), (9.0, "overexposed"), (0.5, "exposure")]
)
def test_a_badly_exposed_photograph_is_found_once(write_room, factor, kind):
    folder = write_room()
    name = change(folder, "room_07.png", lambda image: image.point(lambda v: min(255, v * factor)))
    found = {pair for pair in kinds(info(folder)) if pair[0] != "blurred"}
    assert found == {(kind, name)}


def test_a_photograph_darker_for_what_it_shows_is_not_badly_exposed(write_room):
    """Half of it is hidden behind something black, and the rest is as bright as ever."""
    folder = write_room()

    def hidden(image):
        pixels = np.asarray(image).copy()
        pixels[:, :110] = 12
        return Image.fromarray(pixels)

    change(folder, "room_07.png", hidden)
    assert not [warning for warning in info(folder).warnings if warning.kind == "exposure"]


def test_an_exposure_that_wanders_is_found(write_room):
    def wander(images):
        gain = torch.where(torch.arange(len(images)) % 2 == 0, 1.0, 0.7)
        return (images * gain[:, None, None, None]).round().to(torch.uint8)

    found = info(write_room(pictures=wander)).warnings
    assert [warning.kind for warning in found] == ["exposure"]
    assert "drifts" in found[0].sentence


def test_a_photograph_that_does_not_decode_is_a_warning_and_the_rest_is_examined(write_room):
    folder = write_room()
    path = folder / "room_08.png"
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = bytes(400)
    path.write_bytes(content)
    found = info(folder)
    assert kinds(found) == {("unreadable", "room_08.png")}
    assert main(["info", str(folder)]) == 0


def test_broken_pixels_in_a_photograph_that_the_loader_looks_at_are_a_warning_too(ball):
    path = ball / "train" / "r_2.png"
    with Image.open(path) as image:
        noise = np.random.default_rng(0).integers(0, 255, (*image.size, 4), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    path.write_bytes(content[:900] + bytes(2000) + content[2900:])
    assert kinds(info(ball)) == {("unreadable", "train/r_2.png")}


def test_copies_are_found_with_what_is_wrong_about_them(write_room):
    folder = write_room()
    shutil.copy(folder / "room_02.png", folder / "room_09.png")
    found = [warning for warning in info(folder).warnings if warning.kind == "copy"]
    assert [warning.where for warning in found] == ["room_09.png"]
    assert "room_02.png" in found[0].sentence and "another pose" in found[0].sentence


def test_a_held_out_copy_with_the_same_pose_flatters(ball):
    shutil.copy(ball / "train" / "r_2.png", ball / "test" / "r_1.png")
    train = json.loads((ball / "transforms_train.json").read_text())
    test = json.loads((ball / "transforms_test.json").read_text())
    test["frames"][0]["transform_matrix"] = train["frames"][0]["transform_matrix"]
    (ball / "transforms_test.json").write_text(json.dumps(test))
    found = [warning for warning in info(ball).warnings if warning.kind == "copy"]
    assert [warning.where for warning in found] == ["test/r_1.png"]
    assert "flatter" in found[0].sentence


def test_nearly_the_same_picture_with_another_pose_is_found(write_room):
    folder = write_room()
    random = np.random.default_rng(0)

    def noisy(image):
        with Image.open(folder / "room_03.png") as other:
            pixels = np.asarray(other).astype(int) + random.integers(-2, 3, (150, 200, 3))
        return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))

    name = change(folder, "room_10.png", noisy)
    assert ("copy", name) in kinds(info(folder))


def test_a_view_that_is_all_transparent_is_found(ball):
    name = change(ball, "train/r_9.png", lambda image: Image.new("RGBA", image.size))
    assert kinds(info(ball)) == {("empty", name)}


def test_a_view_that_looks_away_is_found(ball):
    name = change_pose(ball, 5, turned((-1.0, 1, -1)))
    assert ("past the subject", name) in kinds(info(ball))


def test_a_camera_inside_the_subject_is_found(ball):
    def move(matrix):
        matrix = matrix.clone()
        matrix[:3, 3] *= 0.05
        return matrix

    name = change_pose(ball, 6, move)
    assert ("inside", name) in kinds(info(ball))


def test_a_pose_that_belongs_elsewhere_is_found_by_its_outline(ball):
    def move(matrix):
        matrix = matrix.clone()
        matrix[:3, 3] += 1.1 * matrix[:3, 0]
        return matrix

    name = change_pose(ball, 0, move)
    found = info(ball)
    assert kinds(found) == {("pose", name)}


def add_masks(folder, middle, rim):
    """Masks whose black pixels are ignored: the middle's and the rim's values."""
    mask = np.full((150, 200), rim, np.uint8)
    mask[35:115, 50:150] = middle
    Image.fromarray(mask).save(folder / "mask.png")
    document = json.loads((folder / "transforms.json").read_text())
    for i, frame in enumerate(document["frames"]):
        shutil.copy(folder / "mask.png", folder / f"mask_{i}.png")
        frame["mask_path"] = f"mask_{i}.png"
    (folder / "transforms.json").write_text(json.dumps(document))


@pytest.mark.parametrize(("middle", "rim", "warned"), [(0, 255, True), (255, 0, False)])
def test_masks_that_take_the_middle_away_look_inverted(write_room, middle, rim, warned):
    folder = write_room()
    add_masks(folder, middle, rim)
    found = [warning for warning in info(folder).warnings if warning.kind == "masks"]
    assert [warning.where for warning in found] == (["mask_0.png"] if warned else [])


def test_what_a_mask_ignores_is_not_looked_at(write_room):
    folder = write_room()
    add_masks(folder, 255, 0)

    def spoilt(image):
        pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(3))).copy()
        pixels[33:117, 48:152] = np.asarray(image)[33:117, 48:152]
        return Image.fromarray(pixels)

    change(folder, "room_05.png", spoilt)
    assert not [warning for warning in info(folder).warnings if warning.kind == "blurred"]


def test_a_scene_that_cannot_be_loaded_is_refused_with_two(tmp_path, capsys):
    with pytest.raises(InputError):
        info(tmp_path / "none")
    assert main(["info", str(tmp_path)]) == 2
    assert "no scene" in capsys.readouterr().err


def test_the_command_prints_every_warning_and_writes_page_and_json(write_room, tmp_path, capsys):
    folder = write_room()
    name = change(folder, "room_05.png", lambda i: i.filter(ImageFilter.GaussianBlur(2)))
    page, table = tmp_path / "page.html", tmp_path / "info.json"
    assert main(["info", str(folder), "--html", str(page), "--json", str(table)]) == 0
    printed = capsys.readouterr().out
    assert f"- {name}: blurred" in printed and "1 warning:" in printed
    written = json.loads(table.read_text())
    assert written["warnings"][0]["where"] == name and written["warnings"][0]["frames"] == [5]
    assert name in page.read_text()


def test_the_verb_prints_nothing_and_the_page_is_left_out_where_not_asked_for(scene, capsys):
    result = info_command(Info(scene))
    assert capsys.readouterr().out == "" and "no warnings" in summary(result)


@pytest.mark.parametrize("name", ["nerf_chair_200", "llff_fern"])
def test_real_scenes_raise_no_false_alarm(name):
    if not (DATA / name).is_dir():
        pytest.skip(f"needs {DATA / name}")
    assert info(DATA / name).warnings == ()


def test_where_all_poses_are_wrong_nothing_else_is_said_of_them(ball):
    """World-to-camera matrices of an orbit put all cameras in one place, far from any scale."""
    for split in ("train", "val", "test"):
        path = ball / f"transforms_{split}.json"
        document = json.loads(path.read_text())
        for frame in document["frames"]:
            matrix = torch.tensor(frame["transform_matrix"], dtype=torch.float64)
            frame["transform_matrix"] = torch.linalg.inv(matrix).tolist()
        path.write_text(json.dumps(document))
    shutil.copy(ball / "train" / "r_4.png", ball / "train" / "r_5.png")
    found = info(ball).warnings
    assert {warning.kind for warning in found} == {"one place", "convention", "copy"}
    assert "another pose" not in [w for w in found if w.kind == "copy"][0].sentence
