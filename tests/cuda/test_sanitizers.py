"""The kernels under ThreadSanitizer, AddressSanitizer and UndefinedBehaviorSanitizer.

What they would find is put into copies of the kernels, so that silence means something.
"""

import os
import re
import shutil
import subprocess
import tempfile
from functools import cache

import pytest
import torch

from polyfield.cuda.errors import BackendError
from polyfield.cuda.exercises import ALL, ONE_OF_EACH
from polyfield.cuda.kernel import all_kernels, kernel, launch
from polyfield.cuda.native_library import SOURCES
from polyfield.cuda.recording import recording
from polyfield.cuda.replay import replay

# Which launch path's launches are recorded for a meaning. The GPU's takes the step of Adam apart.
BACKEND_OF = {"block": "emulated", "cpu": "", "reversed": "emulated"}
# The CPU takes the step of Adam within HashScatter, where a tile asks for it.
NOT_OF_THE_CPU = {"LazyAdam"}


@cache
def sanitizer_is_missing(sanitizer):
    """Why a program with it cannot be built and run here; nothing where it can."""
    flag = {"thread": "thread", "address": "address,undefined"}[sanitizer]
    with tempfile.TemporaryDirectory() as folder:
        made = f"{folder}/program"
        command = [os.environ.get("CXX", "c++"), f"-fsanitize={flag}", "-x", "c++", "-", "-o", made]
        text = "int main() {}"
        done = subprocess.run(command, input=text, capture_output=True, text=True)
        if not done.returncode:
            done = subprocess.run([made], capture_output=True, text=True)
    mapping = "unexpected memory mapping" in done.stderr  # replay knows what to do about it
    return "" if not done.returncode or mapping else f"no -fsanitize={flag}: {done.stderr[:200]}"


def need(sanitizer):
    if reason := sanitizer_is_missing(sanitizer):
        pytest.skip(reason)


@pytest.fixture
def record(tmp_path, monkeypatch):
    """Runs exercises as a meaning launches them; the file, and the bodies in it."""

    def run(meaning, exercises):
        monkeypatch.setenv("POLYFIELD_BACKEND", BACKEND_OF[meaning])
        threads = torch.get_num_threads()
        torch.set_num_threads(2)  # levels are divided among them
        try:
            with recording() as recorded:
                for exercise in exercises:
                    exercise()
        finally:
            torch.set_num_threads(threads)
        recorded.write(tmp_path / f"{meaning}.recording")
        return tmp_path / f"{meaning}.recording", tuple(sorted(set(recorded.bodies)))

    return run


def structs(bodies):
    return {body.split("<")[0] for body in bodies}


@pytest.mark.parametrize("meaning", ["block", "cpu"])
@pytest.mark.parametrize("sanitizer", ["thread", "address"])
def test_every_kernel_is_replayed_and_nothing_is_found(record, sanitizer, meaning):
    need(sanitizer)
    file, bodies = record(meaning, ONE_OF_EACH.values())
    expected = structs(each.body for each in all_kernels())
    assert structs(bodies) == expected - (NOT_OF_THE_CPU if meaning == "cpu" else set())
    assert replay(file, bodies, sanitizer, meaning) == []


def test_every_kernel_gives_the_same_with_its_lanes_reversed(record):
    need("address")
    file, bodies = record("reversed", ONE_OF_EACH.values())
    assert structs(bodies) == structs(each.body for each in all_kernels())
    assert replay(file, bodies, "address", "reversed") == []


def test_the_full_list_launches_every_instantiation(record):
    _, bodies = record("block", ALL.values())
    assert set(bodies) == {each.body for each in all_kernels()}


@pytest.mark.parametrize("meaning", ["block", "cpu"])
def test_no_result_depends_on_memory_that_nothing_has_written(monkeypatch, meaning):
    monkeypatch.setenv("POLYFIELD_BACKEND", BACKEND_OF[meaning])
    for name, exercise in ONE_OF_EACH.items():
        with recording():  # fills new memory with NaN
            results = exercise()
        for number, result in enumerate(results):
            assert torch.isfinite(result).all(), f"{name}: result {number}"


def test_new_memory_is_nan_while_recording():
    with recording():
        assert torch.empty(100).isnan().all() and torch.ones(2).new_empty(3).isnan().all()
    assert not torch.are_deterministic_algorithms_enabled()


FAULTS = {
    "a lost SYNC": (
        *("thread", "block", "composite", "composite", "Composite"),
        ("opacity[first + r] = one_minus_exponential(depth);\n    }\n    SYNC();",)
        + ("opacity[first + r] = one_minus_exponential(depth);\n    }",),
        "data race",
    ),
    "a plain sum where threads of a block meet": (
        *("thread", "block", "hash_grid", "hash_grid", "HashScatter"),
        ("add_row_to(features + (size_t)F * at, corners.weight[c][i], grad);",)
        + ("for (int j = 0; j < F; ++j) features[F * at + j] += grad.at[j];",),
        "data race",
    ),
    "a plain sum where blocks meet": (
        *("thread", "block", "mlp", "tile_matmul", "MlpBackward"),
        ("add_to(to, sum[r])", "*to += sum[r]"),
        "data race",
    ),
    "tiles of the CPU that write to one place": (
        *("thread", "cpu", "mlp", "mlp", "MlpSumSlices"),
        ("out[first + i] = sum", "out[i] = sum"),
        "data race",
    ),
    "a read past a tensor": (
        *("address", "cpu", "composite", "composite", "Composite"),
        ("samples = ray_offsets[first + count] - begin", "samples = ray_offsets[rays + 1] - begin"),
        "heap-buffer-overflow",
    ),
    "a read past a tensor by a block": (
        *("address", "block", "spherical_harmonics", "spherical_harmonics", "SphericalHarmonics"),
        ("const int count = n - first < DIRECTIONS ? n - first : DIRECTIONS",)
        + ("const int count = DIRECTIONS",),
        "heap-buffer-overflow",
    ),
    "tile memory that is too small": (
        *("address", "cpu", "hash_grid", "hash_grid", "HashEncode"),
        ("float weight[1 << D][HASH_POINTS];", "float weight[(1 << D) - 1][HASH_POINTS];"),
        "out of bounds|stack-buffer-overflow|insufficient space",
    ),
    "shared memory that is too small": (
        *("address", "block", "mlp", "mlp", "MlpForward"),
        ("TILE float z[POINTS * WIDTH]", "TILE float z[POINTS * WIDTH - 1]"),
        "global-buffer-overflow|insufficient space",
    ),
    "a number that is no int": (
        *("address", "cpu", "hash_grid", "hash_grid", "HashPull"),
        ("(int)p;", "(int)(p * 1e10f);"),
        "outside the range of representable values",
    ),
    "a wrong value": (
        *("address", "block", "spherical_harmonics", "spherical_harmonics", "SphericalHarmonics"),
        ("float re = 1, im = 0;", "float re = 2, im = 0;"),
        "DIFFERS",
    ),
}


def with_fault(folder, source, right, wrong):
    """A copy of the kernels with one place changed."""
    sources = folder / "kernels"
    shutil.copytree(SOURCES, sources)
    text = (sources / f"{source}.cuh").read_text()
    assert right in text
    (sources / f"{source}.cuh").write_text(text.replace(right, wrong, 1))
    return sources


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_in_the_kernel_that_has_it(record, tmp_path, fault):
    sanitizer, meaning, exercise, source, body, (right, wrong), words = FAULTS[fault]
    need(sanitizer)
    sources = with_fault(tmp_path, source, right, wrong)
    file, bodies = record(meaning, [ONE_OF_EACH[exercise]])
    found = replay(file, bodies, sanitizer, meaning, sources)
    assert body in structs(finding.kernel for finding in found)
    reports = [finding.report for finding in found if finding.kernel.split("<")[0] == body]
    assert any(re.search(words, report) for report in reports), reports


def test_a_lane_that_relies_on_the_order_differs_only_when_reversed(record, tmp_path):
    need("address")
    right = "out[first + i] = sum;"
    later = "if (i + 1 < MLP_SUMMED && first + i + 1 < parameters) out[first + i + 1] = 0;"
    sources = with_fault(tmp_path, "mlp", right, f"{right} {later}")
    file, bodies = record("cpu", [ONE_OF_EACH["mlp of one matrix"]])
    assert replay(file, bodies, "address", "cpu", sources) == []
    found = replay(file, bodies, "address", "reversed", sources)
    assert {finding.kernel for finding in found} == {"MlpSumSlices"}
    assert all("DIFFERS" in finding.report for finding in found)


def test_a_recording_says_which_launches_it_holds(record):
    _, bodies = record("cpu", [ONE_OF_EACH["composite"]])
    assert bodies == ("Composite", "CompositeBackward", "VisibleSamples")


def test_launches_outside_the_block_are_not_recorded(monkeypatch):
    monkeypatch.setenv("POLYFIELD_BACKEND", "")
    ONE_OF_EACH["occupancy"]()
    with recording() as recorded:
        pass
    ONE_OF_EACH["occupancy"]()
    assert recorded.bodies == []


def test_tensors_that_share_a_part_of_their_memory_are_refused(monkeypatch):
    monkeypatch.setenv("POLYFIELD_BACKEND", "")
    memory = torch.zeros(100)
    body = kernel("composite", "VisibleSamples")
    offsets, kept = torch.tensor([0, 2], dtype=torch.int32), torch.zeros(2, dtype=torch.bool)
    with recording(), pytest.raises(BackendError, match="VisibleSamples: its tensors share"):
        launch(body, (1, 1), memory[:2], memory[1:3], offsets, kept, 1.0, 1)


def test_a_recording_that_is_cut_short_is_no_success(record, tmp_path):
    need("address")
    file, bodies = record("cpu", [ONE_OF_EACH["occupancy"]])
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(BackendError, match="the recording is cut short"):
        replay(file, bodies, "address", "cpu")
