"""The folder cuda/ must not hide NVIDIA's package of that name."""

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NVIDIA = ("bindings", "core", "pathfinder", "tile", "coop", "compute", "cccl")


@pytest.mark.parametrize("way", [["-c"], ["-P", "-c"]])
def test_nvidias_bindings_are_found_from_the_root(tmp_path, way):
    stand_in = tmp_path / "cuda" / "bindings"
    stand_in.mkdir(parents=True)  # NVIDIA's `cuda` is a namespace: no __init__.py in it
    (stand_in / "__init__.py").write_text("who = 'NVIDIA'\n")
    code = "import cuda.bindings; print(cuda.bindings.who)"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    done = subprocess.run(
        [sys.executable, *way, code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.stdout == "NVIDIA\n", done.stderr


def test_the_installed_bindings_are_found_from_the_root():
    try:
        files = metadata.files("cuda-bindings")
    except metadata.PackageNotFoundError:
        pytest.skip("the extra `cuda` is not installed")
    (expected,) = [file for file in files if str(file) == "cuda/bindings/__init__.py"]
    code = "import cuda.bindings; print(cuda.bindings.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == f"{expected.locate()}\n", done.stderr


def test_no_module_of_ours_has_a_name_of_nvidias():
    assert not (ROOT / "cuda" / "__init__.py").exists()
    assert not [name for name in NVIDIA if (ROOT / "cuda" / f"{name}.py").exists()]
    assert not [name for name in NVIDIA if (ROOT / "cuda" / name).exists()]
