"""What the package says of itself: dependencies, their versions and licences, and its extras."""

import ast
import re
import sys
import tomllib
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from polyfield.apps.main import main

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CORE = [Requirement(line) for line in PROJECT["project"]["dependencies"]]
EXTRAS = {
    name: [Requirement(line) for line in lines]
    for name, lines in PROJECT["project"]["optional-dependencies"].items()
}
BUILD = [Requirement(line) for line in PROJECT["build-system"]["requires"]]
NAMED = [*CORE, *(needed for extra in EXTRAS.values() for needed in extra), *BUILD]
# Where the module that is imported has another name than its package.
MODULES = {
    "PIL": "pillow",
    "cuda": "cuda-core",
    "fast_simplification": "fast-simplification",
    "igl": "libigl",
    "mcubes": "PyMCubes",
    "skimage": "scikit-image",
    "vtkmodules": "vtk",
}


def names(requirements):
    return {canonicalize_name(requirement.name) for requirement in requirements}


def exact_versions(text):
    """{name: version} of constraints; every line must be exact."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    pairs = [re.fullmatch(r"([\w.-]+)==([\w.]+)", line) for line in lines]
    assert all(pairs), [line for line, pair in zip(lines, pairs, strict=True) if not pair]
    return {canonicalize_name(pair[1]): pair[2] for pair in pairs if pair}


def licences(text):
    """{name: licence} of the table in README."""
    rows = re.findall(r"^\| ([\w-]+) \| [^|]+ \| ([^|]+) \|$", text.split("## Licence")[1], re.M)
    return {
        canonicalize_name(name): licence for name, licence in rows if name not in ("package", "---")
    }


CONSTRAINTS = exact_versions((ROOT / "constraints.txt").read_text())
LICENCES = licences((ROOT / "README.md").read_text())


def test_dependencies_have_lower_bounds_and_no_others():
    bounds = {str(needed): [part.operator for part in needed.specifier] for needed in NAMED}
    assert {name: found for name, found in bounds.items() if found != [">="]} == {}


def test_every_dependency_has_an_exact_version_in_the_constraints():
    assert names(NAMED) - CONSTRAINTS.keys() == set()
    outside = [n for n in NAMED if CONSTRAINTS[canonicalize_name(n.name)] not in n.specifier]
    assert outside == []


def test_the_licence_table_has_every_dependency_and_no_other():
    assert names(NAMED) | {"cmake", "ninja"} == LICENCES.keys()


def stated_licence(found):
    """What a package's metadata says: an SPDX expression or, in older ones, its classifiers."""
    lines = found.get_all("Classifier", [])
    return found["License-Expression"] or " ".join(line for line in lines if "License" in line)


def test_a_licence_is_the_one_that_the_installed_package_states():
    compared = {}
    for name, licence in LICENCES.items():
        with suppress(PackageNotFoundError):
            found = metadata(name)
            if found["Version"].split("+")[0] == CONSTRAINTS[name]:  # what the table is about
                compared[name] = stated_licence(found), licence.split(";")[0]
    compared = {name: pair for name, pair in compared.items() if pair[0]}  # some state nothing
    # "BSD License" is all that classifiers say of BSD-3-Clause.
    wrong = {
        name: (stated, ours)
        for name, (stated, ours) in compared.items()
        if ours != stated and ("License" not in stated or ours.split("-")[0] not in stated)
    }
    assert compared and wrong == {}


def imports(path):
    """(top-level module, whether the import waits inside a function) of each import in a file."""
    tree = ast.parse(path.read_text())
    functions = [
        n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    inside = {id(node) for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found = [node.module or ""]
        else:
            continue
        yield from ((name.split(".")[0], id(node) in inside) for name in found)


def imported_packages():
    """{package: whether every import of it waits inside a function} over polyfield's sources."""
    found = {}
    for layer in ("apps", "extract", "render", "fields", "cuda"):
        for path in (ROOT / layer).rglob("*.py"):
            for module, waits in imports(path):
                if module not in sys.stdlib_module_names and module != "polyfield":
                    package = canonicalize_name(MODULES.get(module, module))
                    found[package] = found.get(package, True) and waits
    return found


def test_what_polyfield_imports_is_what_it_depends_on():
    found = imported_packages()
    optional = names(needed for extra in EXTRAS.values() for needed in extra)
    assert found.keys() - names(CORE) - optional == set()
    assert {name for name in found.keys() - names(CORE) if not found[name]} == set()
    assert names(CORE) - found.keys() == set()


def missing_extra_errors():
    """(package, extra) of every place in polyfield that raises MissingExtraError."""
    for layer in ("apps", "extract", "render", "fields", "cuda"):
        for path in (ROOT / layer).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and "MissingExtraError" in ast.unparse(node.func):
                    yield tuple(ast.literal_eval(argument) for argument in node.args[:2])


def test_every_extra_that_an_error_names_brings_the_package():
    found = set(missing_extra_errors())
    assert found
    for package, extra in found:
        wanted = Requirement(package)
        offered = [needed for needed in EXTRAS[extra] if needed.name == wanted.name]
        assert offered and wanted.extras <= offered[0].extras


@pytest.mark.parametrize("absent", ["cuda.core", "cuda.bindings.nvrtc"])
def test_a_missing_extra_is_one_sentence_that_names_it(monkeypatch, capsys, absent):
    monkeypatch.setitem(sys.modules, absent, None)
    assert main(["doctor", "--compile", "sm_75"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert "cuda-core[cu13], which is not installed" in said.err
    assert said.err.endswith("pip install 'polyfield[cuda]'\n")


def test_nvrtc_itself_missing_is_the_extra_missing(monkeypatch, capsys):
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc", reason="the extra `cuda` is not installed")

    def absent():
        raise RuntimeError("libnvrtc.so: not found")

    monkeypatch.setattr(nvrtc, "nvrtcVersion", absent)
    assert main(["doctor", "--compile", "sm_75"]) == 2
    assert "pip install 'polyfield[cuda]'" in capsys.readouterr().err
