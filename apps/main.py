"""The command line: finds the verb, reads its options, prints what came of it."""

import dataclasses
import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro

from polyfield.apps.files import write_json
from polyfield.apps.interruption import Interrupted
from polyfield.apps.terminal import say
from polyfield.cuda.errors import InputError, PolyfieldError

DONE, FAULT, REFUSED, INTERRUPTED = 0, 1, 2, 130


@dataclasses.dataclass(frozen=True)
class Verb:
    """Where a verb lives. Nothing of it is imported before it is called for."""

    purpose: str
    options_module: str
    options: str
    """Name of a frozen dataclass; its docstring and those of its fields are the help."""
    module: str
    function: str
    """Name of a function of the options; its result goes to the module's `summary` and to JSON."""
    failed: str = ""
    """Name of a function that says whether a result means a fault of ours, if one can."""


VERBS = {
    "train": Verb(
        "Train a field from posed images.",
        "polyfield.apps.train_options",
        "Train",
        "polyfield.apps.train",
        "train_command",
    ),
    "fit": Verb(
        "Learn an image, a film or the distances to a mesh as a field.",
        "polyfield.apps.fit_options",
        "Fit",
        "polyfield.apps.fit",
        "fit_command",
    ),
    "distill": Verb(
        "Turn what a run has learned into another kind of field.",
        "polyfield.apps.distill_options",
        "Distill",
        "polyfield.apps.distill_command",
        "distill_command",
    ),
    "render": Verb(
        "Render views of a trained run: held-out ones, or a flight as a film.",
        "polyfield.apps.render",
        "Render",
        "polyfield.apps.render",
        "render",
    ),
    "export": Verb(
        "Write what a run has learned: a mesh, points on it, or the cameras.",
        "polyfield.apps.export",
        "Export",
        "polyfield.apps.export",
        "export",
    ),
    "convert": Verb(
        "Write a scene of any format as a transforms.json with its images, points and depths.",
        "polyfield.apps.convert",
        "Convert",
        "polyfield.apps.convert",
        "convert",
    ),
    "eval": Verb(
        "Measure a trained run on the views it has not seen.",
        "polyfield.apps.eval",
        "Eval",
        "polyfield.apps.eval",
        "evaluate",
    ),
    "info": Verb(
        "Say what a scene is, and what will make training on it fail.",
        "polyfield.apps.info",
        "Info",
        "polyfield.apps.info",
        "info_command",
    ),
    "doctor": Verb(
        "Say what runs where on this machine, and why.",
        "polyfield.apps.doctor",
        "Doctor",
        "polyfield.apps.doctor",
        "doctor",
    ),
    "bench": Verb(
        "Race polyfield's kernels against others' on this machine, or look for faults.",
        "polyfield.apps.bench",
        "Bench",
        "polyfield.apps.bench",
        "bench",
        "failed",
    ),
    "demo": Verb(
        "Make a small scene, train on it, evaluate, render and export: needs no data.",
        "polyfield.apps.demo",
        "Demo",
        "polyfield.apps.demo",
        "demo_command",
    ),
}


def main(arguments: list[str] | None = None, verbs: dict[str, Verb] = VERBS) -> int:
    """Run one command; the exit code: 0 done, 1 a fault of ours, 2 refused, 130 interrupted."""
    # What Pillow has to say of a file is either no matter or an error that we word ourselves.
    warnings.filterwarnings("ignore", module="PIL")
    try:
        return _command(sys.argv[1:] if arguments is None else arguments, verbs)
    except (Interrupted, KeyboardInterrupt) as stop:
        _complain(str(stop) or "interrupted.")
        return INTERRUPTED
    except PolyfieldError as error:
        _complain(str(error))
        return REFUSED
    except BrokenPipeError:
        # Whoever read our output has left; Python would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except Exception as error:
        traceback.print_exc()
        _complain(
            f"this is a fault of polyfield, not of your input ({type(error).__name__}); "
            "please report it with the lines above."
        )
        return FAULT


def _command(arguments: list[str], verbs: dict[str, Verb]) -> int:
    name, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if name in ("-h", "--help"):
        print(_help(verbs))
        return DONE
    if name == "--version":
        print(f"polyfield {importlib.import_module('polyfield').__version__}")
        return DONE
    if name not in verbs:
        got = repr(name) if name else "is not given"
        expected = f"one of {', '.join(verbs)}"
        raise InputError("command", got, expected, "See polyfield --help.")
    verb = verbs[name]
    try:
        options: Any = tyro.cli(
            _with_json(getattr(importlib.import_module(verb.options_module), verb.options)),
            prog=f"polyfield {name}",
            args=rest,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except SystemExit as end:  # tyro has printed the help, or what it could not read
        return DONE if end.code in (0, None) else REFUSED
    json_path: Path | None = options.json
    if json_path is not None and not _can_be_file(json_path):
        raise InputError(f"--json {json_path}", "cannot be made", "a file in a folder that exists")
    module = importlib.import_module(verb.module)
    run: Callable[[object], object] = getattr(module, verb.function)
    result = run(options)
    if json_path is not None:
        write_json(json_path, result)
    if text := module.summary(result):
        say(text)
    return FAULT if verb.failed and getattr(module, verb.failed)(result) else DONE


def _can_be_file(path: Path) -> bool:
    try:
        return path.parent.is_dir() and not path.is_dir()
    except OSError:  # a name that is too long
        return False


def _help(verbs: dict[str, Verb]) -> str:
    width = max(map(len, verbs))
    lines = [f"  {name:<{width}}  {verb.purpose}" for name, verb in verbs.items()]
    return "\n".join(
        [
            "usage: polyfield COMMAND ...",
            "",
            "Neural fields from images: train, render, evaluate, export.",
            "",
            *lines,
            "",
            "polyfield COMMAND --help says more. Every command takes --json FILE.",
        ]
    )


def _with_json(options: type) -> type:
    """The options with `--json`, which every verb has; a subclass, so the verb need not know."""
    hint = tyro.conf.arg(
        metavar="FILE", help="Write the result to this file.", help_behavior_hint=""
    )
    json_field = ("json", Annotated[Path | None, hint], dataclasses.field(default=None))
    namespace = {"__doc__": options.__doc__, "__module__": options.__module__}
    return dataclasses.make_dataclass(
        options.__name__, [json_field], bases=(options,), frozen=True, namespace=namespace
    )


def _complain(sentence: str) -> None:
    say("polyfield: " + " ".join(sentence.split()), error=True)


if __name__ == "__main__":
    sys.exit(main())
