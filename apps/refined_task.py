"""A field that a teacher has taught learns from the scene's photographs at the end."""

from __future__ import annotations

from torch import Tensor

from polyfield.apps.distill_task import DistillTask
from polyfield.apps.formats.json_fields import Fields
from polyfield.apps.images import scene_images
from polyfield.apps.radiance_task import MOST_RAYS, RAYS, RadianceTask
from polyfield.apps.scene import Scene
from polyfield.apps.splat_task import SplatTask

_RAYS = "photograph_rays"


class RefinedTask:
    """What another task does, until a last part of the planned steps, which photographs teach.

    Both train one field by one optimiser. share: that part, 0 to 1. What a teacher made up between
    photographs stays where these say nothing. Raises InputError where the scene cannot be read.
    """

    def __init__(self, taught: DistillTask | RadianceTask | SplatTask, scene: Scene, share: float):
        self.taught, self.share = taught, share
        learned = taught.task if isinstance(taught, DistillTask) else taught
        settings = learned.trained.settings
        images = scene_images(scene, settings.image_bytes, settings.seed)
        self.photographs: RadianceTask | SplatTask
        if isinstance(learned, SplatTask):
            self.photographs = SplatTask(learned.trained, scene, images, learned.device)
            self.photographs.optimiser = learned.optimiser
            self.photographs.densify = learned.densify
            self.photographs.beside = learned.beside
        else:
            self.photographs = RadianceTask(learned.trained, scene, images, learned.device)
            self.photographs.optimisers = learned.optimisers
            self.photographs.hard = None  # they are few enough to come again soon

    @property
    def offered(self) -> set[int]:
        """The teacher's frames that batches drew from so far."""
        return self.taught.offered

    def step(self, step: int, rate: float, planned: int | None = None) -> dict[str, float]:
        """One optimisation step, see `task.Task`."""
        last = planned is not None and step >= (1 - self.share) * planned
        return (self.photographs if last else self.taught).step(step, rate, planned)

    def validate(self, step: int) -> dict[str, float]:
        """As the scene's own training would: its first held-out photograph."""
        return self.photographs.validate(step)

    def state(self) -> tuple[dict[str, Tensor], dict]:
        """Everything a step depends on, teacher and photographs left aside."""
        tensors, values = self.taught.state()
        if isinstance(self.photographs, RadianceTask):
            values = values | {_RAYS: self.photographs.rays}
        return tensors, values

    def restore(self, tensors: dict[str, Tensor], values: dict) -> None:
        """Take on a state that `state` returned. InputError for what is none of this field's."""
        self.taught.restore(tensors, values)
        if isinstance(self.photographs, RadianceTask):
            self.photographs.rays = Fields("state", values).whole(_RAYS, RAYS, MOST_RAYS)
