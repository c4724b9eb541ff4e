import json
from pathlib import Path

import pytest

from polyfield.apps import bench as module
from polyfield.apps.bench import Bench, bench, summary
from polyfield.apps.bench_race import Row
from polyfield.apps.main import main
from polyfield.cuda.errors import InputError

ROWS = [
    Row("machine/speed", "", "", 1.5, None, "GB/s", None),
    Row("one/them", "them", "1.2", 2.0, 7.0, "ms", 3.5),
    Row("two/them", "them", "", None, None, "ms", None, "them is not installed"),
]
KEYS = {"name", "against", "version", "ours", "theirs", "unit", "ratio"}


@pytest.fixture
def asked(monkeypatch):
    calls = []
    race = lambda only, rounds: calls.append((only, rounds)) or ROWS  # noqa: E731
    view = lambda run, rounds: calls.append((run, rounds)) or ROWS[:1]  # noqa: E731
    monkeypatch.setattr(module, "race_kernels", race)
    monkeypatch.setattr(module, "view_seconds", view)
    return calls


def test_rows_have_the_seven_entries_and_a_skipped_one_says_why(asked, tmp_path):
    assert main(["bench", "kernels", "--json", str(tmp_path / "rows.json")]) == 0
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [set(row) - KEYS for row in rows] == [set(), set(), {"skipped"}]
    assert all(set(row) >= KEYS for row in rows)
    assert rows[1] == dict(zip(rows[1], ["one/them", "them", "1.2", 2, 7, "ms", 3.5], strict=True))
    assert rows[2]["skipped"] == "them is not installed" and rows[2]["ratio"] is None


def test_names_and_rounds_reach_the_races(asked):
    assert main(["bench", "kernels", "--only", "one/them, two/them", "--rounds", "4"]) == 0
    assert main(["bench"]) == 0
    assert asked == [(("one/them", "two/them"), 4), ((), 9)]


def test_a_run_reaches_the_views(asked):
    assert main(["bench", "view", "runs/a", "--rounds", "3"]) == 0
    assert asked == [(Path("runs/a"), 3)]


@pytest.mark.parametrize(
    "options",
    [
        Bench("view"),
        Bench("kernels", (Path("runs/a"),)),
        Bench("view", (Path("runs/a"), Path("runs/b"))),
        Bench("fields", (Path("a.png"), Path("b.png"))),
        Bench("scenes"),
        Bench(rounds=1),
        Bench("view", (Path("runs/a"),), only="one/them"),
        Bench("fuzz", images=9),
        Bench("kernels", minutes=2.0),
        Bench("compile", seed=1),
        Bench("kills", out=Path("elsewhere")),
    ],
)
def test_options_that_do_not_fit_are_refused(asked, options):
    with pytest.raises(InputError):
        bench(options)
    assert not asked


def test_the_table_shows_ratios_times_limits_and_reasons(asked):
    machine, one, two, _ = summary(bench(Bench())).splitlines()
    assert machine.split() == ["machine/speed", "1.50", "GB/s"]
    assert "3.50x" in one and "ours 2.00 ms" in one and "them 1.2 7.00 ms" in one
    assert two.endswith("skipped: them is not installed")
