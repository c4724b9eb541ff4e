"""What a trained field knows at points of space, for one that learns from it there."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from polyfield.apps.settings import Settings
from polyfield.apps.shown import Shown
from polyfield.apps.trained import Trained
from polyfield.apps.trained_splats import TrainedSplats
from polyfield.fields.field import RadianceField, SurfaceField
from polyfield.fields.splat_field import SplatField
from polyfield.render.occupancy import OccupancyGrid
from polyfield.render.splat_grid import splat_grid
from polyfield.render.splats import DILATION


@dataclass(frozen=True)
class PointTeacher:
    """A field that is asked at points of the unit cube, and where there may be something."""

    field: RadianceField
    grid: OccupancyGrid
    hides_off_cells: bool
    """Views pass over the cells that are off, whatever the field has there."""
    costly: bool
    """It takes long to ask."""


def point_teacher(teacher: Shown, student: Settings) -> PointTeacher | None:
    """What a field teaches at points; None for a surface, whose density depends on the ray.

    Gaussians teach the density that rays would see them by, each blurred as on the photographs they
    learned from, with a grid such as the student's.
    """
    if isinstance(teacher, Trained):
        if isinstance(teacher.field, SurfaceField):
            return None
        return PointTeacher(
            teacher.field, teacher.grid, teacher.guide is teacher.grid, teacher.field.costly
        )
    if not isinstance(teacher, TrainedSplats):
        return None
    field = SplatField(teacher.gaussians, DILATION**0.5 * pixel_width(teacher.settings))
    sizes = student.grid_levels, student.grid_resolution, student.sampling.step
    return PointTeacher(field, splat_grid(field, *sizes, student.seed), False, costly=True)


def pixel_width(settings: Settings) -> float:
    """Of the photographs of a run, in the middle of its scene: in sides of the unit cube."""
    position = torch.tensor(settings.orbit["camera_to_world"])[:, :, 3]
    return float((position - 0.5).norm(dim=1).median()) / float(max(settings.orbit["focal"]))
