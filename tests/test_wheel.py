"""The wheel for people without a compiler: built, installed where there is none, and put to work.

POLYFIELD_WHEEL names a wheel to test instead of one that is built here from this tree.
"""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]
LARGEST = 5_000_000  # bytes
NO_COMPILER = "/bin/false"


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    if given := os.environ.get("POLYFIELD_WHEEL"):
        return Path(given).resolve()
    folder = tmp_path_factory.mktemp("dist")
    said = run(ROOT / ".ci" / "wheel", folder, env={**os.environ, "PYTHON": sys.executable})
    (built,) = folder.glob("*.whl")
    assert built.name in said and len(list(folder.glob("*.tar.gz"))) == 1
    return built


def link_dependencies(folder):
    """Every installed package but polyfield, so that no other polyfield can be found."""
    for site in map(Path, sys.path):
        if not site.name.endswith("-packages"):
            continue
        for entry in site.iterdir():
            hides = entry.name.startswith(("polyfield", "__editable__")) or entry.suffix == ".pth"
            if not hides and not (folder / entry.name).exists():
                (folder / entry.name).symlink_to(entry)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A new environment with polyfield's dependencies, without polyfield and without a compiler."""
    home = tmp_path_factory.mktemp("bare")
    venv.create(home / "venv", with_pip=False)
    (site,) = (home / "venv").glob("lib/python*/site-packages")
    link_dependencies(site)
    environment = {
        "PATH": str(home / "venv" / "bin"),
        "HOME": str(home),
        "TMPDIR": str(home),
        "CC": NO_COMPILER,
        "CXX": NO_COMPILER,
        "OMP_WAIT_POLICY": "PASSIVE",  # idle threads that spin starve each other on a busy machine
    }
    missing = subprocess.run(
        [home / "venv" / "bin" / "python", "-c", "import torch, polyfield"],
        cwd=home, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert "No module named 'polyfield'" in missing.stderr
    return home, environment


@pytest.fixture(scope="module")
def installed(bare, wheel):
    """Runs a program of the environment that the wheel was installed into."""
    home, environment = bare
    program = home / "venv" / "bin"
    install = ["--python", program / "python", "install", "--no-index", wheel]
    # With its dependencies: pip finds them there, in versions that the wheel's metadata allows.
    run(sys.executable, "-m", "pip", *install, cwd=home, env=environment)
    return lambda name, *arguments: run(program / name, *arguments, cwd=home, env=environment)


def test_the_wheel_is_one_for_every_python_and_an_old_system(wheel):
    assert wheel.stat().st_size < LARGEST
    assert wheel.name.split("-")[2:4] == ["py3", "none"]
    if sys.platform == "linux":
        assert "manylinux_2_17" in wheel.name
    with ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "polyfield/cuda/_cpu.so" in names and "polyfield/py.typed" in names
    assert not [name for name in names if "/native/" in name or name.startswith("tests/")]
    assert not [name for name in names if ".libs/" in name]  # nothing had to be bundled


def test_it_holds_every_file_of_the_packages_in_the_tree(wheel):
    with ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.endswith((".py", ".cuh", ".cpp"))}
    layers = ("apps", "extract", "render", "fields", "cuda")
    files = [path for layer in layers for path in (ROOT / layer).rglob("*.*")]
    sources = [path for path in files if path.suffix in (".py", ".cuh", ".cpp")]
    expected = {
        f"polyfield/{path.relative_to(ROOT)}" for path in sources if "native" not in path.parts
    }
    assert packed == expected | {"polyfield/__init__.py"}


def test_what_runs_is_the_wheels_native_module(installed, bare):
    home, _ = bare
    where = installed("python", "-c", "import polyfield; print(polyfield.__file__)").strip()
    assert Path(where).is_relative_to(home / "venv")
    installed("polyfield", "doctor", "--json", "doctor.json")
    found = json.loads((home / "doctor.json").read_text())
    assert found["devices"][0]["backend"] == "cpu"
    assert found["machine"]["openmp"] == "found"


def test_it_runs_the_main_job(installed, bare):
    home, _ = bare
    small = ["--steps", "60", "--size", "32", "--views", "15"]
    installed("polyfield", "demo", "--out", "demo", *small, "--json", "demo.json")
    result = json.loads((home / "demo.json").read_text())
    assert result["steps"] == 60 and 10 < result["psnr"] < 60
    for name in ("report", "turntable", "mesh"):
        assert (home / result[name]).stat().st_size > 1000


COMPILE = """
import sys
from polyfield.cuda.cubin import read_entry_point
from polyfield.cuda.gpu_compile import compile_kernel
from polyfield.cuda.kernel import all_kernels
kernel = all_kernels()[0]
print(kernel.body, read_entry_point(compile_kernel(kernel, "sm_90").image, kernel.entry).registers)
"""


def test_it_compiles_a_kernel_for_a_gpu(installed):
    pytest.importorskip("cuda.bindings.nvrtc", reason="the extra `cuda` is not installed")
    body, registers = installed("python", "-c", COMPILE).rsplit(maxsplit=1)
    assert body and int(registers) > 0
