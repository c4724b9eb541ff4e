"""The state of a training of Gaussians: it repeats bit for bit, goes on, and is its own alone."""

from functools import partial

import pytest
import torch
from splat_tasks import (
    SIZE,
    STRATEGIES,
    crowd,
    same,
    state_of,
    stepped,
    task_of,
)

from polyfield.apps import checkpoint
from polyfield.apps.splat_task import SplatTask
from polyfield.apps.train import train
from polyfield.apps.train_options import Train
from polyfield.cuda.errors import InputError
from polyfield.fields import densification


@pytest.fixture
def task(disc_scene):
    return partial(task_of, disc_scene)


@pytest.fixture
def often(monkeypatch):
    """The number of Gaussians changes every few steps."""
    monkeypatch.setattr(densification, "SOONEST", 5)


@pytest.mark.parametrize("kind", STRATEGIES)
@pytest.mark.parametrize("limit", [1 << 24, 3 * SIZE * SIZE * 4])
def test_a_state_is_a_function_of_the_seed_and_the_steps(task, often, kind, limit):
    more = {"limit": limit, "densify": kind, "exposures": 6}
    one, again, other = task(**more), task(**more), task(**more, seed=4)
    assert one.images.all_fit == (limit > 1 << 20)
    torch.manual_seed(1)
    stepped(one, 14)
    torch.manual_seed(2)
    stepped(again, 14), stepped(other, 14)
    assert same(state_of(one), state_of(again)) and not same(state_of(one), state_of(other))
    assert len(one.trained.gaussians) > 60


EVERYTHING = {"exposure": True, "antialiased": True, "refine_poses": True}


class Cut(Exception):
    pass


@pytest.mark.parametrize("kind", STRATEGIES)
@pytest.mark.parametrize(
    "more", [{}, {"exposure": True, "antialiased": True, "refine_poses": True}], ids=str
)
def test_a_run_that_was_cut_off_ends_bit_identical(scene, often, tmp_path, monkeypatch, kind, more):
    options = {
        "scene": scene, "field": "gaussians", "splats": 200, "steps": 26, "device": "cpu",
        "seed": 7, "report": False, "densify": kind, **more,
    }  # fmt: skip
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(Train(out=whole, **options))
    step = SplatTask.step

    def cut(task, number, rate, planned=None):
        if number == 13:
            raise Cut
        return step(task, number, rate, planned)

    monkeypatch.setattr("polyfield.apps.loop.CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(SplatTask, "step", cut)
    with pytest.raises(Cut):
        train(Train(out=parts, **options))
    monkeypatch.setattr(SplatTask, "step", step)
    middle = checkpoint.latest(parts / "checkpoints")
    train(Train(out=parts, resume=True, scene=scene, device="cpu", report=False))
    expected, got = (checkpoint.latest(path / "checkpoints") for path in (whole, parts))
    assert (middle.step, got.step, expected.step) == (13, 26, 26)
    counts = [saved.metadata["task"]["gaussians"] for saved in (middle, expected, got)]
    assert counts[1] == counts[2]
    if kind == "mcmc":  # the others need more steps than that to see what pulls
        assert 60 < counts[0] < counts[1]  # it changed before and after
    assert got.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        assert torch.equal(got.tensors[name], tensor), name


FOREIGN = {
    "unknown": lambda t, v: t.update({"gaussians.wing": torch.zeros(2)}),
    "of a grid": lambda t, v: t.update({"grid.values": torch.zeros(2)}),
    "missing": lambda t, v: t.pop("gaussians.means"),
    "too many": lambda t, v: t.update(
        {k: torch.cat([x, x]) for k, x in t.items() if "densification" not in k}
    ),
    "one too few": lambda t, v: t.update({"gaussians.means": t["gaussians.means"][1:]}),
    "another degree": lambda t, v: t.update({"gaussians.harmonics": torch.zeros(60, 4, 3)}),
    "NaN": lambda t, v: t["gaussians.means"].fill_(torch.nan),
    "whole numbers": lambda t, v: t.update({"gaussians.means": t["gaussians.means"].long()}),
    "moments of another number": lambda t, v: t.update(
        {"optimiser.means.first": torch.zeros(59, 3)}
    ),
    "moments missing": lambda t, v: t.pop("optimiser.harmonics.second"),
    "moments unknown": lambda t, v: t.update({"optimiser.wing.first": torch.zeros(60)}),
    "exposure of more photographs": lambda t, v: t.update({"exposure.stops": torch.zeros(7, 3)}),
    "no exposure": lambda t, v: t.pop("exposure.stops"),
    "no moments of exposure": lambda t, v: t.pop("optimiser.exposure.second.stops"),
    "another count": lambda t, v: v.update(gaussians=59),
    "no count": lambda t, v: v.clear(),
    "a count of another kind": lambda t, v: v.update(gaussians="60"),
}


@pytest.mark.parametrize("fault", FOREIGN)
def test_a_state_of_another_run_is_refused_and_changes_nothing(task, fault):
    made, other = task(exposures=6), task(exposures=6, splats=crowd(seed=5))
    tensors, values = state_of(stepped(other, 2, 100))
    FOREIGN[fault](tensors, values)
    before = state_of(made)
    with pytest.raises(InputError, match="state"):
        made.restore(tensors, values)
    assert same(state_of(made), before)


def test_what_a_strategy_refuses_changes_nothing_either(task, monkeypatch):
    made, other = task(), task(splats=crowd(40, seed=5))
    before = state_of(made)

    def refuse(tensors):
        raise InputError("densification", "another's", "its own")

    monkeypatch.setattr(made.densify, "restore", refuse)
    with pytest.raises(InputError, match="densification"):
        made.restore(*state_of(stepped(other, 2, 100)))
    assert same(state_of(made), before)


def test_exposures_that_this_run_does_not_learn_are_refused(task):
    tensors, values = state_of(task(exposures=6))
    made = task()
    with pytest.raises(InputError, match="exposure"):
        made.restore(tensors, values)
    made.restore(*state_of(task()))


@pytest.mark.parametrize("kind", STRATEGIES)
def test_a_state_brings_all_that_a_step_depends_on(task, often, kind):
    """Also of another number of Gaussians, and it is a copy."""
    whole = stepped(task(densify=kind, exposures=6), 12, 40)
    saved, kept = state_of(whole), state_of(whole)
    other = task(densify=kind, exposures=6, splats=crowd(40, seed=9))
    other.restore(*saved)
    assert same(state_of(other), saved) and len(other.trained.gaussians) != 40
    for step in range(12, 17):
        assert whole.step(step, 0.7, 40) == other.step(step, 0.7, 40)
    assert same(state_of(whole), state_of(other)) and not same(state_of(whole), saved)
    assert same(saved, kept)
