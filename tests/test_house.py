"""The house keeps itself: layers, documentation, types, and what interfaces must not be."""

import ast
import subprocess
import sys
from pathlib import Path

import jaxtyping
import pytest
import torch

from polyfield.render.metrics import psnr_8bit

ROOT = Path(__file__).parents[1]
LAYERS = ("cuda", "fields", "render", "extract", "apps")  # each may import those before it
FILES = [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]


def name_of(path):
    return str(path.relative_to(ROOT))


def layers_imported(tree):
    """The layers that a module imports anywhere in it, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield "relative", node.lineno
        elif isinstance(node, ast.ImportFrom):
            parts = (node.module or "").split(".")
            names = [alias.name for alias in node.names] if parts == ["polyfield"] else parts[1:2]
            if parts[0] == "polyfield":
                yield from ((name, node.lineno) for name in names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                if parts[0] == "polyfield" and len(parts) > 1:
                    yield parts[1], node.lineno


def arrows_against_the_layers(tree, layer):
    allowed = LAYERS[: LAYERS.index(layer) + 1]
    return [f"line {line}: {to}" for to, line in layers_imported(tree) if to not in allowed]


def definitions(body):
    """Public functions, classes and their methods; not what nests deeper."""
    for node in body:
        if isinstance(node, (ast.If, ast.Try)):
            yield from definitions(node.body)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            if not node.name.startswith("_"):
                yield node
                if isinstance(node, ast.ClassDef):
                    yield from definitions(node.body)


# Methods that torch describes: what they do is the class's docstring.
TORCH_S = {"forward", "backward", "setup_context"}


def undocumented(tree):
    """Public names without a docstring."""
    found = [] if ast.get_docstring(tree) or not tree.body else ["the module"]
    inherited = {
        id(method)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and node.bases
        for method in node.body
        if isinstance(method, ast.FunctionDef) and method.name in TORCH_S
    }
    for node in definitions(tree.body):
        if id(node) not in inherited and not ast.get_docstring(node):
            found.append(f"line {node.lineno}: {node.name}")
    return found


def untyped(tree):
    """Arguments and results of public functions without a type; torch owns an autograd `ctx`."""
    found = []
    for node in definitions(tree.body):
        if isinstance(node, ast.ClassDef):
            continue
        every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        every += [extra for extra in (node.args.vararg, node.args.kwarg) if extra]
        bare = [
            a.arg for a in every if a.annotation is None and a.arg not in ("self", "cls", "ctx")
        ]
        if node.returns is None:
            bare.append("its result")
        found += [f"line {node.lineno}: {node.name}: {name}" for name in bare]
    return found


def passed_through(tree):
    """Functions that take **something: their interface cannot be read off them."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    nodes = (node for node in ast.walk(tree) if isinstance(node, functions))
    return [f"line {node.lineno}: **{node.args.kwarg.arg}" for node in nodes if node.args.kwarg]


def bare_asserts(tree):
    """`python -O` removes them, and their text helps nobody."""
    return [f"line {node.lineno}" for node in ast.walk(tree) if isinstance(node, ast.Assert)]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_keeps_the_rules(path):
    tree = ast.parse(path.read_text())
    layer = path.relative_to(ROOT).parts[0]
    assert not arrows_against_the_layers(tree, layer)
    assert not undocumented(tree)
    assert not untyped(tree)
    assert not passed_through(tree)
    assert not bare_asserts(tree)
    assert len(path.read_text().splitlines()) < 400


RULES = [
    (lambda tree: arrows_against_the_layers(tree, "fields"), "from polyfield.fields import a", 0),
    (lambda tree: arrows_against_the_layers(tree, "fields"), "from polyfield.cuda.a import b", 0),
    (lambda tree: arrows_against_the_layers(tree, "fields"), "from polyfield.render import a", 1),
    (lambda tree: arrows_against_the_layers(tree, "fields"), "import polyfield.apps.train", 1),
    (lambda tree: arrows_against_the_layers(tree, "cuda"), "from polyfield import fields", 1),
    (lambda tree: arrows_against_the_layers(tree, "cuda"), "def f():\n from . import a", 1),
    (undocumented, "'''m'''\ndef f(): ...", 1),
    (undocumented, "'''m'''\nclass A:\n '''a'''\n def f(self): ...", 1),
    (undocumented, "def f():\n '''f'''", 1),
    (undocumented, "'''m'''\ndef _f(): ...", 0),
    (undocumented, "'''m'''\nclass A(B):\n '''a'''\n def f(self): ...", 1),
    (undocumented, "'''m'''\nclass A(B):\n '''a'''\n def forward(self): ...", 0),
    (untyped, "def f(a, b: int) -> int: ...", 1),
    (untyped, "def f(a: int): ...", 1),
    (untyped, "def f(*, a) -> None: ...", 1),
    (untyped, "class A:\n def f(self, a) -> None: ...", 1),
    (untyped, "class A:\n def f(self, a: int) -> None: ...", 0),
    (passed_through, "def f(**options: int) -> None: ...", 1),
    (passed_through, "f(**options)", 0),
    (bare_asserts, "def f():\n assert 1", 1),
]


@pytest.mark.parametrize(("rule", "code", "faults"), RULES)
def test_a_rule_finds_its_fault_and_only_that(rule, code, faults):
    assert len(rule(ast.parse(code))) == faults


def test_shapes_are_checked_in_every_test():
    with pytest.raises(jaxtyping.TypeCheckError):
        psnr_8bit(torch.zeros(4, 4), torch.zeros(4, 4))


def test_checking_shapes_costs_a_user_nothing():
    program = "import sys, polyfield.apps.train; print('beartype' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
