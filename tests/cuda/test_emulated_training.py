"""Training steps through the CUDA launch path, without a GPU, against the reference.

Rays, jitter and the points of cells are functions of (seed, step), so both see the same samples.
"""

from dataclasses import replace

import pytest
import torch

from polyfield.apps.images import ImageStore
from polyfield.apps.radiance_task import RadianceTask
from polyfield.apps.scene import load_scene
from polyfield.apps.settings import settings_of
from polyfield.apps.trained import build
from polyfield.cuda import gpu_launch
from polyfield.fields.table import FIELDS, arguments_of

STEPS = 20
GRID = {"levels": 4, "features": 2, "log2_table_size": 10, "finest_resolution": 48}


@pytest.fixture(scope="module")
def scene(disc_scene):
    return load_scene(disc_scene)


def trained(scene, backend, monkeypatch):
    """Losses and sample counts of every step, the view that training watches, and the state."""
    monkeypatch.setenv("POLYFIELD_BACKEND", backend)
    arguments = arguments_of(FIELDS["hash-grid"].arguments(**GRID))
    settings = settings_of(scene, "hash-grid", arguments, 3, 4096, 1 << 24)
    sampling = replace(settings.sampling, step=0.02)
    settings = replace(settings, grid_resolution=32, sampling=sampling)
    device = torch.device("cpu")
    images = ImageStore(scene.image_paths, scene.sizes, 4, 1 << 24, settings.seed)
    task = RadianceTask(build(settings, device), scene, images, device)
    logs = [task.step(step, 1.0) for step in range(STEPS)]
    view = task.trained.view(task.cameras, 0, samples_per_pixel=1)
    return logs, view.color, task.state()[0]


@pytest.fixture(scope="module")
def reference(scene):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("polyfield.cuda.kernel._run", lambda *of: pytest.fail("a kernel ran"))
        return trained(scene, "reference", patch)


@pytest.mark.parametrize("backend", ["emulated", "reversed", ""])
def test_twenty_steps_equal_the_reference(scene, reference, monkeypatch, backend):
    """Float32 sums come in another order, so the first step's gradients agree to some 1e-6. Adam
    moves a number by the sign of its gradient at first, whatever its size: where a sum cancels down
    to its rounding, a whole step is left to rounding. Hence 1e-3 for the state as a whole, and less
    for what it shows.
    """
    launched = []
    pointers = gpu_launch.argument_pointers
    monkeypatch.setattr(
        gpu_launch, "argument_pointers", lambda k, body: launched.append(k) or pointers(k, body)
    )
    logs, view, state = trained(scene, backend, monkeypatch)
    expected_logs, expected_view, expected_state = reference
    assert expected_logs[-1]["loss"] < 0.8 * expected_logs[0]["loss"]
    for log, expected in zip(logs, expected_logs, strict=True):
        assert log["loss"] == pytest.approx(expected["loss"], rel=1e-4)
        assert [log[name] for name in ("rays", "samples", "marched", "finite")] == [
            expected[name] for name in ("rays", "samples", "marched", "finite")
        ]
    torch.testing.assert_close(view, expected_view, atol=1e-4, rtol=0)
    assert torch.equal(state.pop("grid.bits"), expected_state["grid.bits"])
    for name, tensor in state.items():
        wanted = expected_state[name]
        assert (tensor - wanted).norm() <= 1e-3 * wanted.norm(), name
    sources = {each.source for each in launched}
    through_the_launch_path = {"hash_grid", "mlp", "radiance", "march", "occupancy"}
    assert sources >= through_the_launch_path if backend == "emulated" else not sources
