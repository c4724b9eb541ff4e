import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import tyro

from polyfield.apps.interruption import Interrupted
from polyfield.apps.main import VERBS, Verb, main
from polyfield.apps.train_options import Train
from polyfield.cuda.errors import InputError, MissingExtraError


@dataclass(frozen=True)
class Count:
    """Count what is there."""

    what: tyro.conf.Positional[str]
    """Name of the thing."""
    most: int = 10
    """Where to end."""
    quick: bool = False
    """Do not look closely."""


@pytest.fixture
def verbs(monkeypatch):
    """A table of one verb, whose function is the module's attribute `act`."""
    module = ModuleType("fake_verb")
    module.Count = Count
    module.act = lambda options: {"what": options.what, "most": options.most, "q": options.quick}
    module.summary = lambda result: f"counted {result['what']}"
    monkeypatch.setitem(sys.modules, "fake_verb", module)
    verb = Verb("Count what is there.", "fake_verb", "Count", "fake_verb", "act")
    return module, {"count": verb}


def test_a_verb_gets_its_options_and_prints_its_summary(verbs, capsys):
    assert main(["count", "sheep", "--most", "3", "--quick"], verbs[1]) == 0
    assert capsys.readouterr() == ("counted sheep\n", "")


def test_json_goes_to_the_file_of_every_verb(verbs, tmp_path, capsys):
    path = tmp_path / "result.json"
    assert main(["count", "sheep", "--json", str(path)], verbs[1]) == 0
    assert json.loads(path.read_text()) == {"what": "sheep", "most": 10, "q": False}


def test_json_that_cannot_be_made_is_refused_before_the_work(verbs, tmp_path, capsys):
    verbs[0].act = lambda options: pytest.fail("it has run")
    for path in (tmp_path, tmp_path / "missing" / "a.json"):
        assert main(["count", "sheep", "--json", str(path)], verbs[1]) == 2
        assert str(path) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (InputError("a.json: w", "is -1", "above 0"), 2, "a.json: w: is -1; expected above 0."),
        (MissingExtraError("viser", "view", "The viewer"), 2, "pip install 'polyfield[view]'"),
        (Interrupted(Path("run"), 3, 9), 130, "polyfield train --out run --resume"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_refusals_and_interruptions_are_one_sentence(verbs, capsys, error, code, sentence):
    def act(options):
        raise error

    verbs[0].act = act
    assert main(["count", "sheep"], verbs[1]) == code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("polyfield: ") and err.count("\n") == 1
    assert sentence in err


def test_a_fault_of_ours_shows_where_and_says_whose_it_is(verbs, capsys):
    verbs[0].act = lambda options: {}["missing"]
    assert main(["count", "sheep"], verbs[1]) == 1
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" in err and "test_main.py" in err
    assert "a fault of polyfield, not of your input (KeyError)" in err.splitlines()[-1]


@pytest.mark.parametrize(
    "arguments",
    [[], ["bogus"], ["count"], ["count", "a", "--nope"], ["count", "a", "--most", "x"], ["--nope"]],
)
def test_what_cannot_be_read_ends_with_two(verbs, capsys, arguments):
    verbs[0].act = lambda options: pytest.fail("it has run")
    assert main(arguments, verbs[1]) == 2
    assert capsys.readouterr().err


def test_help_lists_the_verbs_and_each_verb_explains_itself(verbs, capsys):
    assert main(["--help"], verbs[1]) == 0
    assert "count  Count what is there.\n" in capsys.readouterr().out
    assert main(["count", "--help"], verbs[1]) == 0
    out = capsys.readouterr().out
    for text in ("Count what is there.", "Name of the thing.", "--most", "--json FILE"):
        assert text in out
    assert "--no-quick" not in out


@pytest.mark.parametrize("name", VERBS)
def test_help_shows_what_an_option_takes_and_never_none(name, capsys):
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert "--json FILE" in out and "None" not in out


def test_the_table_says_what_train_says_of_itself():
    assert VERBS["train"].purpose == Train.__doc__
    assert list(VERBS) == [
        "train",
        "fit",
        "distill",
        "render",
        "export",
        "convert",
        "eval",
        "info",
        "doctor",
        "bench",
        "demo",
    ]


def run(*command):
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    return done, time.perf_counter() - begin


PROBE = """
import sys
from polyfield.apps.main import main
code = main(sys.argv[1:])
print("torch" in sys.modules, "numpy" in sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"]])
def test_help_imports_neither_torch_nor_numpy(arguments):
    done, _ = run("-c", PROBE, *arguments)
    assert done.stderr == "False False\n"


def test_the_exit_code_is_the_process_exit_code():
    done, _ = run("-m", "polyfield.apps.main", "train", "--steps", "x")
    assert done.returncode == 2 and "--steps" in done.stderr
    done, _ = run("-m", "polyfield.apps.main", "--version")
    assert done.returncode == 0 and done.stdout.startswith("polyfield 0.")


def test_a_reader_that_leaves_early_is_no_fault():
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-c", PROBE, "--help"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert "Traceback" not in done.stderr and "Error" not in done.stderr


def test_a_json_path_longer_than_names_may_be_is_refused(verbs, capsys):
    assert main(["count", "sheep", "--json", "x" * 300], verbs[1]) == 2
    err = capsys.readouterr().err
    assert "--json" in err and err.count("\n") == 1


def test_a_name_in_a_sentence_cannot_command_the_terminal(verbs, capsys):
    def act(options):
        raise InputError("\x1b[31m\udcff", "is red", "plain")

    verbs[0].act = act
    assert main(["count", "sheep"], verbs[1]) == 2
    assert capsys.readouterr().err.startswith("polyfield: \\x1b[31m\\udcff: is red")
