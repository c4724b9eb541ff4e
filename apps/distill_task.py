"""Training a field on what another one knows: at points of space first, then by views of it."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polyfield.apps.point_teacher import PointTeacher
from polyfield.apps.radiance_task import RadianceTask
from polyfield.cuda.occupancy import cell_points
from polyfield.fields.field import AdaptiveEncoding, Gradual, RadianceField
from polyfield.render.matter import matter
from polyfield.render.occupancy import step_generator

POINT_STEPS = 300  # of training, before views count
POINTS = 1 << 14  # in a step, at most
CLEAREST, SOLIDEST = 4.6e-4, 3.73  # thickness of a sample: what lies beyond looks the same
COLORED = 4.0  # samples, over the length of which colour counts by opacity


class DistillTask:
    """What `RadianceTask` does with a teacher's views, after a stage at points of space.

    There log-density and colour are the teacher's, and empty is what its grid leaves out.
    Kernels that are to be placed are placed where the teacher varies, and cells that it has found
    empty begin as empty. A step's points are a function of (seed, step).
    Source: PVD (arXiv:2211.15977), stage 2, without the dead zone of its clamp.
    """

    def __init__(self, task: RadianceTask, teacher: PointTeacher):
        self.task, self.teacher, self.trained = task, teacher, task.trained
        grid, known = task.trained.grid, teacher.grid
        if grid.values.shape == known.values.shape:
            grid.values, grid.bits = known.values.clone(), known.bits.clone()
        for _, part in task.trained.field.named_modules():
            if isinstance(part, AdaptiveEncoding) and part.settles_at >= 0:
                part.settles_at = 0  # the teacher knows where, from the first step on

    @property
    def offered(self) -> set[int]:
        """The frames that batches drew from so far."""
        return self.task.offered

    def step(self, step: int, rate: float, planned: int | None = None) -> dict[str, float]:
        """One optimisation step, see `task.Task`."""
        if step >= POINT_STEPS:
            if step == POINT_STEPS:
                self._begin_views()
            return self.task.step(step, rate, planned)
        settings, field = self.trained.settings, self.trained.field
        for name, part in field.named_modules():
            if isinstance(part, Gradual):
                part.at_step(step)
            if step == 0 and isinstance(part, AdaptiveEncoding) and part.settles_at == 0:
                self._settle(name, part)
        optimisers = self.task.optimisers.values()
        for optimiser in optimisers:
            optimiser.clear()
        x = self._points(step, min(POINTS, settings.samples_per_step))
        ways = torch.randn(len(x), 3, generator=step_generator(settings.seed, step))
        ways = torch.nn.functional.normalize(ways, dim=1).to(x)
        there = torch.ones_like(x[:, 0], dtype=torch.bool)
        if self.teacher.hides_off_cells:
            there = self.teacher.grid.holds(x)
        loss = point_error(field, self.teacher.field, x, ways, there, settings.sampling.step)
        loss.backward()
        finite = bool(loss.isfinite()) and all(each.finite() for each in optimisers)
        if finite:
            for optimiser in optimisers:
                optimiser.step(step, rate)
        found = {"loss": float(loss.detach()), "samples": float(len(x)), "marched": float(len(x))}
        return found | {"rays": 0.0, "finite": float(finite)}

    def _begin_views(self) -> None:
        """Gradients of views are so much smaller that beside those of points they would not count
        for thousands of steps."""
        for optimiser in self.task.optimisers.values():
            for moment in optimiser.moments.values():
                moment.zero_()

    def _settle(self, name: str, part: AdaptiveEncoding) -> None:
        settings, field = self.trained.settings, self.trained.field
        length = settings.sampling.step
        x, weights = matter(self.teacher.field, self.teacher.grid, length, 0, settings.seed)
        x = field.warp(x) if field.warp is not None else x
        part.settle(x, weights, step_generator(settings.seed, 0))
        self.task.optimisers["field"].forget(name)

    def _points(self, step: int, count: int) -> Float[Tensor, "n 3"]:
        """Points of space, half of them where the teacher may have something.

        The others are anywhere: what nothing is said about is soon full of fog.
        """
        grid, seed = self.teacher.grid, self.trained.settings.seed
        random, device = step_generator(seed, step), grid.bits.device
        bits = grid.bits.long()[:, None] >> torch.arange(8, device=device) & 1
        on = torch.nonzero(bits.view(-1))[:, 0]
        cells = torch.randint(8 * len(grid.bits), (count,), generator=random).to(device)
        if len(on):
            half = torch.randint(len(on), (count // 2,), generator=random).to(device)
            cells = torch.cat([on[half], cells[count // 2 :]])
        return cell_points(grid.levels, grid.resolution, cells.int(), seed, step)

    def validate(self, step: int) -> dict[str, float]:
        """As the views' task does."""
        return self.task.validate(step)

    def state(self) -> tuple[dict[str, Tensor], dict]:
        """Everything a step depends on, the teacher left aside."""
        return self.task.state()

    def restore(self, tensors: dict[str, Tensor], values: dict) -> None:
        """Take on a state that `state` returned. InputError for what is none of this field's."""
        self.task.restore(tensors, values)


def point_error(
    student: RadianceField,
    teacher: RadianceField,
    x: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    there: Bool[Tensor, " n"],
    length: float,
) -> Float[Tensor, ""]:
    """How far densities and colours are apart: norms over all points of the difference of each.

    there: where the teacher's views may show anything; elsewhere it counts as empty.
    Densities by their logarithms, within what samples of this length can tell apart; a student that
    is beyond it on the same side is not off. Colours count as far as the teacher is opaque.
    """
    low, high = math.log(CLEAREST / length), math.log(SOLIDEST / length)
    with torch.no_grad():
        density, features = teacher.density(x)
        density = density * there
        wanted = density.clamp_min(1e-30).log().clamp(low, high)
        color = teacher.color(features, teacher.encode_directions(directions))
        opacity = 1 - torch.exp(-COLORED * length * density)
    own_density, own_features = student.density(x)
    logarithm = own_density.clamp_min(1e-30).log()
    off = logarithm - wanted
    same = ((wanted <= low) & (off < 0)) | ((wanted >= high) & (off > 0))
    off = torch.where(same, torch.zeros_like(off), off)
    own_color = student.color(own_features, student.encode_directions(directions))
    apart = (own_color - color) * opacity[:, None]
    return _norm(off) + _norm(apart)


def _norm(errors: Tensor) -> Tensor:
    """The root of the sum of squares, whose gradient is as long however small the errors are."""
    total = errors.square().sum()
    return torch.where(total > 0, total.clamp_min(1e-30).sqrt(), total)
