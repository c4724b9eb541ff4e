"""The race of whole training steps: kernels against the reference implementation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from polyfield.apps.bench_race import Race
from polyfield.apps.demo_scene import demo_scene
from polyfield.apps.formats.nerf_synthetic import write_nerf_synthetic
from polyfield.apps.images import ImageStore
from polyfield.apps.radiance_task import RadianceTask
from polyfield.apps.scene import load_scene
from polyfield.apps.settings import settings_of
from polyfield.apps.train_settings import DISTORTION
from polyfield.apps.trained import build
from polyfield.cuda.backend import backend_asked_for
from polyfield.cuda.table_adam import lazy_adam_reference_
from polyfield.fields.hash_grid import HashGridArguments
from polyfield.fields.optimiser import BETAS, EPSILON, FieldOptimiser
from polyfield.fields.table import arguments_of
from polyfield.render.occupancy import UPDATE_EVERY

SAMPLES = 1 << 15
SETTLED = 18 * UPDATE_EVERY  # steps: the occupancy grid follows the field, the batch is full


class AutogradOptimiser(FieldOptimiser):
    """FieldOptimiser as plain torch would have it: the table's dense gradient comes by autograd.

    The reference of the deferred step encodes once more to find that gradient, which nobody who
    writes a training step in torch would do.
    """

    def clear(self) -> None:
        """See FieldOptimiser."""
        super().clear()
        for grid in self.tables.values():
            grid.deferred = None

    def step(self, step: int, factor: float) -> None:
        """See FieldOptimiser."""
        for name, grid in self.tables.items():
            if grid.table.grad is not None:
                lazy_adam_reference_(
                    grid.table.data,
                    grid.table.grad,
                    self.moments[f"first.{name}.table"],
                    self.moments[f"second.{name}.table"],
                    None,
                    self.rate * factor,
                    step + 1,
                    BETAS,
                    EPSILON,
                )
        super().step(step, factor)


def step_against_reference(
    size: int = 64,
    samples: int = SAMPLES,
    steps: int = SETTLED,
    arguments: HashGridArguments = HashGridArguments(),  # noqa: B008  # frozen
) -> Race:
    """One step of `polyfield train` on the demo's scene, once its occupancy grid has settled.

    Rays, marching, field, compositing, loss, gradients and optimiser, from the same state and with
    the same random numbers on both sides; the update of the occupancy grid, done in one step of 16,
    is left out. Tables as `polyfield train` has them: 8 levels of 4 features, 2^16 entries.
    Results are the field after the step, the numbers of rays and samples, and the loss.
    """
    ours = demo_task(size, samples, arguments)
    for number in range(steps):
        ours.step(number, min(1.0, (number + 1) / 100))
    trained = build(ours.trained.settings, ours.device)
    theirs = RadianceTask(trained, ours.scene, ours.images, ours.device)
    theirs.optimisers["field"] = AutogradOptimiser(theirs.trained.field)
    theirs.optimisers["field"].clear()
    tensors, values = ours.state()
    state = {name: tensor.clone() for name, tensor in tensors.items()}
    number = steps - steps % UPDATE_EVERY + 1  # not one that updates the occupancy grid

    def restore() -> None:
        ours.restore(state, values)
        theirs.restore(state, values)

    def step(task: RadianceTask) -> tuple[Tensor, ...]:
        done = task.step(number, 0.5)
        field = [tensor.detach() for _, tensor in task.trained.field.named_parameters()]
        counts = torch.tensor([done["rays"], done["marched"], done["samples"]])
        return *field, counts, torch.tensor([done["loss"]])

    def their_step() -> tuple[Tensor, ...]:
        with backend_asked_for("reference"):
            return step(theirs)

    return Race(
        against="reference",
        version=f"torch {torch.__version__}",
        ours=lambda: step(ours),
        theirs=their_step,
        before=restore,
        # Adam makes a whole step of any gradient, of one that is rounding too: 0.005 of a table
        # whose largest number is 0.8. What was seen is 1e-4.
        tolerance=1e-2,
    )


def demo_task(size: int, samples: int, arguments: HashGridArguments) -> RadianceTask:
    """The task of training on the demo's scene, 15 views of size x size; no file is left."""
    made = demo_scene(size=size, views=15)
    device = torch.device("cpu")
    with TemporaryDirectory() as folder:
        write_nerf_synthetic(Path(folder), made.nerf_synthetic_splits(), made.angle_x)
        scene = load_scene(Path(folder))
        images = ImageStore(scene.image_paths, scene.sizes, 4, 1 << 28)
        images.load(torch.arange(len(scene.sizes)))
    settings = settings_of(scene, "hash-grid", arguments_of(arguments), 0, samples, 1 << 28)
    settings = replace(settings, distortion=DISTORTION)
    return RadianceTask(build(settings, device), scene, images, device)
