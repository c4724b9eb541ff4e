"""Training a field on what another one knows: at points of space first, then by views of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from polyfield.apps.point_teacher import PointTeacher
from polyfield.apps.radiance_task import RadianceTask
from polyfield.cuda.occupancy import cell_points
from polyfield.fields.field import AdaptiveEncoding, Gradual
from polyfield.fields.radiance import take_colors
from polyfield.render.heavy_points import HeavyPoints, heavy_points
from polyfield.render.matter import matter
from polyfield.render.occupancy import step_generator
from polyfield.render.point_losses import Said, ask, feature_error, point_error

POINTS = 1 << 14  # in a step, at most
POOL = 1 << 20  # that a teacher is asked about once, where it takes long
HEAVY, ABOUT = 0.5, 0.25  # of the points, on what views show and in cells that are on
SPREAD = 1.5  # samples' lengths, that the former lie before and behind it


@dataclass(frozen=True)
class Stages:
    """The number of the step before which each stage ends: features, then densities and colours."""

    features: int
    points: int


class DistillTask:
    """What `RadianceTask` does with a teacher's views, after two stages at points of space.

    In the first log-densities and features are the teacher's, where both fields make colours of
    features by networks alike: then the student begins with the teacher's. In the second
    log-densities and colours are. Half of the points lie on what views show, a quarter in cells
    that are on, the others anywhere: what nothing is said about is soon full of fog. Kernels that
    are to be placed are placed where the teacher varies, and cells that it has found empty begin as
    empty. A step's points are a function of (seed, step).
    Source: PVD (arXiv:2211.15977), stages 1 to 3; features count until stage 2 as in stage 1.
    """

    def __init__(self, task: RadianceTask, teacher: PointTeacher, stages: Stages):
        self.task, self.teacher, self.stages, self.trained = task, teacher, stages, task.trained
        grid, known = task.trained.grid, teacher.grid
        if grid.values.shape == known.values.shape:
            grid.values, grid.bits = known.values.clone(), known.bits.clone()
        for _, part in task.trained.field.named_modules():
            if isinstance(part, AdaptiveEncoding) and part.settles_at >= 0:
                part.settles_at = 0  # the teacher knows where, from the first step on
        alike = take_colors(task.trained.field, teacher.field)
        self.feature_steps = stages.features if alike and not teacher.costly else 0
        self.heavy: HeavyPoints | None = None
        self.pool: Said | None = None

    @property
    def offered(self) -> set[int]:
        """The frames that batches drew from so far."""
        return self.task.offered

    def step(self, step: int, rate: float, planned: int | None = None) -> dict[str, float]:
        """One optimisation step, see `task.Task`."""
        if step >= self.stages.points:
            if step == self.stages.points:
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
        said = self._said(step, min(POINTS, settings.samples_per_step))
        error = feature_error if step < self.feature_steps else point_error
        loss = error(field, said, settings.sampling.step)
        loss.backward()
        finite = bool(loss.isfinite()) and all(each.finite() for each in optimisers)
        if finite:
            for optimiser in optimisers:
                optimiser.step(step, rate)
        count = float(len(said.x))
        found = {"loss": float(loss.detach()), "samples": count, "marched": count}
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

    def _said(self, step: int, count: int) -> Said:
        """What the teacher says of a step's points; of one that it takes long to ask, of some of
        those that it was asked about before the first step."""
        if not self.teacher.costly:
            return self._ask(self._points(step, count), step < self.feature_steps)
        if self.pool is None:
            points = self._points(0, POOL)
            parts = zip(*(part.split(POINTS) for part in points), strict=True)
            said = [self._ask(HeavyPoints(*part), features=False) for part in parts]
            self.pool = Said(*(torch.cat(part) for part in zip(*said, strict=True)))
        random = step_generator(self.trained.settings.seed, step)
        rows = torch.randint(POOL, (count,), generator=random).to(self.pool.x.device)
        return Said(*(part[rows] for part in self.pool))

    def _ask(self, points: HeavyPoints, features: bool) -> Said:
        there = torch.ones_like(points.x[:, 0], dtype=torch.bool)
        if self.teacher.hides_off_cells:
            there = self.teacher.grid.holds(points.x)
        return ask(self.teacher.field, *points, there, features=features)

    def _points(self, step: int, count: int) -> HeavyPoints:
        """Points of space, and ways to look at them."""
        grid, settings = self.teacher.grid, self.trained.settings
        if self.heavy is None:
            cameras, frames = self.task.cameras, self.task.frames
            self.heavy = heavy_points(
                self.teacher.field, grid, cameras, frames, settings.sampling, settings.seed
            )
        random, device = step_generator(settings.seed, step), grid.bits.device
        shown = int(HEAVY * count) if len(self.heavy.x) else 0
        chosen = torch.randint(max(1, len(self.heavy.x)), (shown,), generator=random).to(device)
        off = SPREAD * settings.sampling.step * torch.randn(shown, 1, generator=random).to(device)
        ways = self.heavy.directions[chosen]
        near = (self.heavy.x[chosen] + off * ways).clamp(0, 1)
        bits = grid.bits.long()[:, None] >> torch.arange(8, device=device) & 1
        on = torch.nonzero(bits.view(-1))[:, 0]
        cells = torch.randint(8 * len(grid.bits), (count - shown,), generator=random).to(device)
        if len(on):
            about = min(int(ABOUT * count), len(cells))
            cells[:about] = on[torch.randint(len(on), (about,), generator=random).to(device)]
        rest = cell_points(grid.levels, grid.resolution, cells.int(), settings.seed, step)
        any_way = torch.randn(len(rest), 3, generator=random).to(device)
        any_way = torch.nn.functional.normalize(any_way, dim=1)
        return HeavyPoints(torch.cat([near, rest]), torch.cat([ways, any_way]))

    def validate(self, step: int) -> dict[str, float]:
        """As the views' task does."""
        return self.task.validate(step)

    def state(self) -> tuple[dict[str, Tensor], dict]:
        """Everything a step depends on, the teacher left aside."""
        return self.task.state()

    def restore(self, tensors: dict[str, Tensor], values: dict) -> None:
        """Take on a state that `state` returned. InputError for what is none of this field's."""
        self.task.restore(tensors, values)
