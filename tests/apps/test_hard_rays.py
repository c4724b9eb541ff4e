"""Rays that were wrong come again: a part of each batch, kept with the state."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from polyfield.apps import radiance_task
from polyfield.apps.images import scene_images
from polyfield.apps.radiance_task import RadianceTask
from polyfield.apps.scene import load_scene
from polyfield.apps.settings import read_settings, settings_of
from polyfield.apps.train_options import Train, check
from polyfield.apps.trained import build
from polyfield.cuda.errors import InputError
from polyfield.fields.table import FIELDS, arguments_of

CPU = torch.device("cpu")
SIZES = {"levels": 2, "features": 2, "log2_table_size": 6, "finest_resolution": 16}
POOL = 60


@pytest.fixture
def task(disc_scene, monkeypatch):
    monkeypatch.setattr(radiance_task, "HARD_RAYS", POOL)

    def make(share=0.25):
        scene = load_scene(disc_scene)
        arguments = arguments_of(FIELDS["hash-grid"].arguments(**SIZES))
        settings = settings_of(scene, "hash-grid", arguments, 3, 1 << 12, 1 << 24)
        settings = replace(settings, hard_rays=share)
        return RadianceTask(build(settings, CPU), scene, scene_images(scene, 1 << 24), CPU)

    return make


def filled(made):
    """So many steps that the pool is full; how many these were."""
    step = 0
    while not made.hard.full:
        made.step(step, 1.0)
        step += 1
    return step


def test_the_worst_of_a_batch_are_remembered(task, monkeypatch):
    made = task()
    shown = {}
    real = radiance_task.learn_rays

    def looks(*args, **named):
        shown["seen"], loss = real(*args, **named)
        shown["target"] = args[5]
        return shown["seen"], loss

    monkeypatch.setattr(radiance_task, "learn_rays", looks)
    batch = made._batch(0)
    made.step(0, 1.0)
    errors = (shown["seen"].color - shown["target"]).abs().sum(1)
    worst = errors.topk(max(1, int(0.25 * len(errors)))).indices[:POOL]
    rows = made.hard.rows[: made.hard.held]
    assert torch.equal(rows[:, 0].long(), batch.frames[worst])
    assert torch.equal(rows[:, 1:], batch.points[worst])


def test_a_part_of_each_batch_comes_from_them_and_their_places_are_taken(task):
    made = task()
    step = filled(made)
    before = made.hard.rows.clone()
    batch = made._batch(step)
    count = min(POOL, int(0.25 * len(batch.frames)))
    assert count > 3 and len(made.drawn) == count
    again = torch.cat([batch.frames[:count, None].float(), batch.points[:count]], 1)
    assert torch.equal(again, before[made.drawn])
    made.step(step, 1.0)
    changed = (made.hard.rows != before).any(1).nonzero()[:, 0]
    assert set(changed.tolist()) <= set(made.drawn.tolist()) and len(changed)


def test_a_state_brings_them(task):
    one, other = task(), task()
    step = filled(one)
    tensors, values = one.state()
    other.restore({name: tensor.clone() for name, tensor in tensors.items()}, dict(values))
    for number in range(step, step + 3):
        assert one.step(number, 1.0) == other.step(number, 1.0)
    assert torch.equal(one.hard.rows, other.hard.rows)


@pytest.mark.parametrize(
    "row", [(99.0, 1, 1), (-1.0, 1, 1), (0.5, 1, 1), (0.0, 1e6, 1), (0.0, 1, -2)]
)
def test_rays_beside_all_images_are_refused(task, row):
    made = task()
    filled(made)
    tensors, values = made.state()
    rows = tensors["optimiser.hard_rays"].clone()
    rows[7] = torch.tensor(row)
    with pytest.raises(InputError, match="hard_rays"):
        made.restore(tensors | {"optimiser.hard_rays": rows}, values)
    with pytest.raises(InputError, match="hard_rays"):
        made.restore(tensors, {"rays": values["rays"]})


def test_without_a_share_nothing_is_kept(task):
    made = task(0.0)
    made.step(0, 1.0)
    assert made.hard is None and "optimiser.hard_rays" not in made.state()[0]


def test_shares_that_make_no_sense_are_refused(task):
    for share in (-0.1, 0.6, float("nan")):
        with pytest.raises(InputError, match="--hard-rays"):
            check(Train(steps=1, scene=Path("x"), hard_rays=share))
    with pytest.raises(InputError, match="--hard-rays.*--pixel mean"):
        check(Train(steps=1, scene=Path("x"), hard_rays=0.1, pixel="mean"))
    with pytest.raises(InputError, match="--hard-rays.*densities"):
        check(Train(steps=1, scene=Path("x"), hard_rays=0.1, field="gaussians"))
    known = json.loads(json.dumps(asdict(task().trained.settings)))
    assert read_settings(known, "config").hard_rays == 0.25
    with pytest.raises(InputError, match="hard_rays"):
        read_settings(known | {"hard_rays": 0.9}, "config")
