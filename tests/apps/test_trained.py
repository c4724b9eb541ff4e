"""What a run's files may say, and what of it is refused by name before it costs anything."""

import copy
import json
import math
import re
import shutil

import pytest
import torch

from polyfield.apps import checkpoint
from polyfield.apps.main import main
from polyfield.apps.memory import peak_resident_bytes
from polyfield.apps.run_folder import RunFolder
from polyfield.apps.settings import read_settings
from polyfield.apps.train import train
from polyfield.apps.train_options import Train
from polyfield.apps.trained import build, load
from polyfield.cuda.errors import InputError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(disc_scene, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "disc"
    train(Train(scene=disc_scene, out=out, steps=2, device="cpu", report=False))
    return out


@pytest.fixture
def mine(run, tmp_path):
    """A copy of the run that a test may spoil, with its last checkpoint alone."""
    out = tmp_path / "run"
    shutil.copytree(run, out)
    checkpoint.step_path(out / "checkpoints", 0).unlink()
    return out


def rewrite(run, change):
    """Write the last checkpoint anew, valid as a file, with other content."""
    saved = checkpoint.latest(run / "checkpoints")
    tensors, metadata = dict(saved.tensors), copy.deepcopy(saved.metadata)
    change(tensors, metadata)
    checkpoint.write(saved.path, tensors, metadata)
    return saved.path


POSE = [[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
SETTINGS = {
    "field": [[], None, 3, "sponge", "x" * 10**5],
    "arguments": [[], None],
    "to_field": [[], {}, {"scale": 10**400}],
    "grid_levels": [0, 9, 1.0, True],
    "grid_resolution": [0, 64.0, 512],
    "sampling.step": [0, -1, 2.0, math.nan, 1e-30, "1", 10**400],
    "sampling.cone": [-1.0, 2.0],
    "sampling.near": [-1.0, math.inf],
    "sampling.limit": [0, 10**12, 1.5],
    "background": [[1, 1], [math.nan] * 3, [2.0, 0, 0], "abc", [[1]] * 3],
    "orbit.size": [[0, 40], [40.5, 40], [10**5, 10**5], ["a", "b"], None, [math.nan, 1]],
    "orbit.focal": [[0, 1], [-1, 1], [math.nan, 1], "ab"],
    "orbit.camera_to_world": [
        [],
        "abc",
        [[[0.0] * 4] * 3],
        [[[math.nan] * 4] * 3],
        [[[10**400] * 4] * 3],
        [POSE, POSE[:2]],
        [[POSE]],
    ],
    "scene": [3, None],
    "seed": [-1, 1.5, 2**63, True],
    "samples_per_step": [0, 1.5, 10**12],
    "image_bytes": [0, -1, 1.5],
    "pixel": ["corner", [], None],
    "loss": ["x", {}],
    "sampler": ["x", {}, [], None, 3],
    "distortion": [-1, math.nan, math.inf, "1", None, True, 10**400],
    "total_variation": [-1, math.nan, math.inf, "1", True, 10**400],
    "densify": ["x", {}, [], None, 3],
    "antialiased": [0, 1, "yes", [], {}],
    "init": [3, True, [], {}],
    "wing": [1],
}


@pytest.mark.parametrize("key", SETTINGS)
def test_settings_of_no_run_are_refused_in_a_sentence_with_the_file(run, key):
    where, _, inner = key.partition(".")
    for value in SETTINGS[key]:
        settings = copy.deepcopy(RunFolder.open(run).config()["settings"])
        place = settings[where] if inner else settings
        place[inner or where] = value
        with pytest.raises(InputError, match="config.json|similarity") as refused:
            build(read_settings(settings, "config.json"), torch.device("meta"))
        assert len(str(refused.value)) < 600
        if key not in ("to_field", "wing"):
            assert refused.value.where.startswith(f"config.json: settings.{key}"), value


@pytest.mark.parametrize("key", ["seed", "orbit", "sampling", "arguments"])
def test_settings_that_lack_a_part_are_refused(run, key):
    settings = RunFolder.open(run).config()["settings"]
    del settings[key]
    with pytest.raises(InputError, match=f"config.json: settings.*{key}"):
        read_settings(settings, "config.json")


def test_a_field_on_the_meta_device_is_the_field_without_its_memory(run):
    settings = read_settings(RunFolder.open(run).config()["settings"], "config.json")
    blank, whole = build(settings, torch.device("meta")), build(settings, CPU)
    shapes = [{k: v.shape for k, v in t.field.state_dict().items()} for t in (blank, whole)]
    assert shapes[0] == shapes[1] and blank.grid.bits.shape == whole.grid.bits.shape
    assert blank.field.encoding.table.is_meta and not whole.field.encoding.table.is_meta


TENSORS = {
    "missing": (lambda t: t.pop("grid.values"), r"'grid\.values': missing"),
    "one value for all": (
        lambda t: t.update({"grid.values": torch.zeros(1, 1)}),
        r"'grid\.values': float32 of shape \(1, 1\); expected float32 of shape \(1, ",
    ),
    "bits cut off": (lambda t: t.update({"grid.bits": t["grid.bits"][:9].clone()}), "grid.bits"),
    "whole numbers": (
        lambda t: t.update({"field.color_weights": t["field.color_weights"].long()}),
        "'field.color_weights': int64",
    ),
    "half precision": (
        lambda t: t.update({"field.encoding.table": t["field.encoding.table"].half()}),
        "'field.encoding.table': float16",
    ),
    "NaN": (
        lambda t: t["field.density_weights"].fill_(math.nan),
        "'field.density_weights': values that are not finite",
    ),
    "unknown": (lambda t: t.update({"field.wing": torch.zeros(2)}), "'field.wing'.*no such tensor"),
}


@pytest.mark.parametrize("fault", TENSORS)
def test_tensors_that_do_not_fit_are_refused_by_name(mine, fault):
    change, pattern = TENSORS[fault]
    path = rewrite(mine, lambda tensors, _: change(tensors))
    for act in (
        lambda: load(mine, CPU),
        lambda: train(Train(out=mine, resume=True, device="cpu", report=False)),
    ):
        with pytest.raises(InputError, match=pattern) as refused:
            act()
        assert refused.value.where.startswith(str(path))


@pytest.mark.parametrize("name", ["first", "second"])
def test_an_optimiser_that_does_not_fit_is_refused_by_name(mine, name):
    key = f"optimiser.{name}.color_weights"
    path = rewrite(mine, lambda tensors, _: tensors.update({key: torch.zeros(1)}))
    with pytest.raises(InputError, match=f"{path.name}: .*'{key}': float32 of shape"):
        train(Train(out=mine, resume=True, device="cpu", report=False))


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("step", [-1, 3, 1.5, True, "a", None, 10**30]),
        ("rewinds", [-1, 9, "a"]),
        ("task", [[], None, {}, {"rays": 0}, {"rays": "a"}, {"rays": 10**12}]),
        ("schedule", [[], None, {}, {"steps": 1.5}, {"steps": True}, {"steps": 4, "wing": 1}]),
    ],
)
def test_a_training_state_of_no_run_is_refused_with_its_file(mine, key, values):
    for value in values:
        path = rewrite(mine, lambda _, metadata: metadata.update({key: value}))  # noqa: B023
        with pytest.raises(InputError, match="training state is not whole") as refused:
            train(Train(out=mine, resume=True, device="cpu", report=False))
        assert refused.value.where == str(path)


def edit_config(run, change):
    path = run / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
    return path


HUGE = {"levels": 16, "features": 8, "log2_table_size": 24, "finest_resolution": 1 << 18}  # 8 GB


def test_a_table_that_a_small_file_asks_for_is_not_made(mine, capsys):
    before = peak_resident_bytes()
    edit_config(mine, lambda config: config["settings"]["arguments"].update(HUGE))
    again = mine.with_name("again")
    command = ["train", "--from", str(mine / "config.json"), "--out", str(again)]
    assert main(command) == 2
    assert "--memory" in capsys.readouterr().err and not again.exists()
    rewrite(mine, lambda _, metadata: metadata["settings"]["arguments"].update(HUGE))
    with pytest.raises(InputError, match="tensor 'field"):
        load(mine, CPU)
    assert peak_resident_bytes() - before < 200e6


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (lambda c: c.clear(), "config_version"),
        (lambda c: c.pop("settings"), "settings: missing"),
        (lambda c: c.pop("schedule"), "schedule: missing"),
        (lambda c: c["schedule"].update(steps=1.5), "schedule.steps: 1.5"),
        (lambda c: c["schedule"].update(wing=1), "schedule: .*wing"),
        (lambda c: c["settings"].update(image_bytes=5), "memory for images"),
        (lambda c: c["settings"]["arguments"].update(harmonics_degree=8), "harmonics of degree 8"),
        (lambda c: c["settings"].update(scene="a\0b"), "a scene's folder"),
        (lambda c: c["settings"].update(scene="/dev/zero"), "a file"),
    ],
)
def test_a_config_that_cannot_be_repeated_leaves_nothing_behind(mine, capsys, change, pattern):
    path = edit_config(mine, change)
    again = mine.with_name("again")
    assert main(["train", "--from", str(path), "--out", str(again)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and not again.exists()
    assert re.search(pattern, err)
