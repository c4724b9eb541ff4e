import pytest
import torch

from polyfield.apps.bench_kernels import RACES, race_kernels
from polyfield.apps.bench_race import Absent, Race, Row
from polyfield.cuda.errors import InputError

LIMIT = Row("machine/speed", "", "", 1.0, None, "GB/s", None)


def easy():
    work = lambda: (torch.ones(1),)  # noqa: E731
    return Race("them", "1.2", work, work, 0.0)


def absent():
    raise Absent("them is not installed; pip install them")


def rows(*only, races=None):
    races = races or {"one/them": easy, "two/them": absent, "three/them": easy}
    return race_kernels(only, 2, races, lambda: [LIMIT])


def test_the_rows_have_the_names_that_were_agreed():
    agreed = [
        "hash-forward/drjit",
        "hash-both/drjit",
        "hash-both/reference",
        "hash-both/torch",
        "mlp-both/torch",
        "plane-both/reference",
        "plane-both/torch",
        "rbf-search/reference",
        "rbf-clusters/reference",
        "rbf-both/reference",
        "composite-both/nerfacc",
        "splats-drawn/reference",
        "step/reference",
        "surface/pymcubes",
        "surface/scikit-image",
        "surface/vtk",
        "udf-vertices/reference",
    ]
    assert [name for name in RACES if name != "hash-both/drjit-as-installed"] == agreed


def test_all_races_are_held_and_the_machine_is_measured():
    assert [row.name for row in rows()] == ["machine/speed", "one/them", "two/them", "three/them"]


def test_an_absent_opponent_leaves_its_row_and_a_reason():
    (row,) = rows("two/them")
    assert (row.against, row.ours, row.theirs, row.ratio) == ("them", None, None, None)
    assert row.skipped == "them is not installed; pip install them"


def test_only_the_rows_that_were_asked_for_run():
    assert [row.name for row in rows("three/them", "one/them")] == ["three/them", "one/them"]
    assert [row.name for row in rows("machine")] == ["machine/speed"]


def test_a_name_that_is_no_row_is_refused_before_anything_runs():
    never = {"one/them": lambda: pytest.fail("it has run")}
    with pytest.raises(InputError, match="--only two: no such row; expected one of one/them, mach"):
        rows("one/them", "two", races=never)


@pytest.mark.parametrize("wish", ["reference", "emulated"])
def test_kernels_that_would_not_run_are_not_raced(monkeypatch, wish):
    monkeypatch.setenv("POLYFIELD_BACKEND", wish)
    with pytest.raises(InputError, match="Unset POLYFIELD_BACKEND"):
        rows()
