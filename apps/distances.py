"""Signed distances to a mesh as a signal, and how well a field knows them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn.functional import normalize

from polyfield.apps.formats.mesh_files import read_mesh
from polyfield.cuda.errors import InputError, MissingExtraError
from polyfield.extract.mesh import Mesh
from polyfield.extract.mesh_metrics import SurfaceSamples, sample_surface
from polyfield.fields.similarity import Similarity
from polyfield.render.occupancy import step_generator

SIDE = 0.9  # of the unit cube, that the mesh's longest side takes
POOL = 3 << 16  # points whose distances are found at once
POOL_STEPS = 512  # after which others are found
NEAR = (0.0025, 0.025)  # standard deviations of points about the surface
SOFT = 0.005  # a distance below which errors count as if it were that large
APART, SLOPES = 0.001, 0.2  # of points that a slope is seen between; weight of its error
PLACES = 1 << 18  # points of the surface that kernels are placed by
WATCHED, MEASURED = 1 << 14, 1 << 17  # points of a figure, while a field learns and at its end
_HELD_OUT = 2**40  # the stream of random numbers that no step uses


@dataclass(frozen=True)
class DistanceScore:
    """How well a field knows the distances to a mesh. Lengths in the mesh's own unit."""

    overlap: float
    """Of both solids in the mesh's box, intersection over union."""
    mean_error: float
    """Of distances, at points of the unit cube."""
    mean_error_near: float
    """At points about the surface, of standard deviation a hundredth of its longest side."""
    normal_degrees: float
    """Mean angle between the field's slope and the face's normal, at points of the surface."""


class DistanceSource:
    """Signed distances to a mesh in the unit cube, negative inside: what a field learns.

    A quarter of each batch lies on the surface, a quarter APART beside these in any direction, a
    third about the surface at two ranges, the rest anywhere. Distances are exact, but beside the
    surface, where the plane of its face tells them; inside is where the generalised winding number
    is above a half, so that holes do not matter. Errors are taken relative to the distance; from
    points on the surface to those beside them it is the slope whose error counts, which values do
    not show. Raises MissingExtraError where the package that finds distances is absent.
    """

    pace = 0.04  # faster, the slope of a field is noise that its values do not show

    def __init__(self, mesh: Mesh, to_field: Similarity, seed: int):
        self.to_field, self.seed = to_field, seed
        self.mesh = mesh.transformed(to_field)
        self.igl = _package()
        self.vertices = self.mesh.vertices.double().numpy()
        self.faces = self.mesh.faces.numpy()
        self.pool: tuple[int, Tensor, Tensor] | None = None
        self.watched: tuple[Tensor, Tensor] | None = None

    @property
    def sides(self) -> tuple[float, float, float]:
        """Of the mesh's box in the unit cube."""
        vertices = self.mesh.vertices[self.mesh.faces.reshape(-1).unique()]
        x, y, z = (vertices.amax(0) - vertices.amin(0)).tolist()
        return x, y, z

    def batch(self, step: int, count: int) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 1"]]:
        """See Source."""
        number = step // POOL_STEPS
        if self.pool is None or self.pool[0] != number:
            self.pool = number, *self._pool(number)
        _, points, distances = self.pool
        random = step_generator(self.seed, step)
        on = count // 4
        chosen = torch.randint(len(points), (count - 2 * on,), generator=random)
        samples = self._samples(on, step)
        surface = samples.points.float()
        way = normalize(torch.randn(on, 3, generator=random), dim=1)
        beside = (surface + APART * way).clamp(0, 1)
        rise = (samples.normals.float() * (beside - surface)).sum(1)
        x = torch.cat([surface, beside, points[chosen]])
        return x, torch.cat([torch.zeros(on), rise, distances[chosen]])[:, None]

    def error(self, found: Float[Tensor, "n 1"], wanted: Float[Tensor, "n 1"]) -> Tensor:
        """The mean of errors over distances, and of slopes at the surface; of whole batches.

        Source, of the first: Instant-NGP (arXiv:2201.05989), section 5.
        """
        off, on = found - wanted, len(found) // 4
        relative = off.abs() / (wanted.abs() + SOFT)
        slopes = (off[on : 2 * on] - off[:on]).abs().mean() / APART
        return torch.cat([relative[:on], relative[2 * on :]]).mean() + SLOPES * slopes

    def variation(self, generator: Generator) -> tuple[Float[Tensor, "n 3"], Float[Tensor, " n"]]:
        """Points of the surface, all alike: near it distances have their detail."""
        return self._surface(PLACES, _HELD_OUT + 1).float(), torch.ones(PLACES)

    def watch(self, value: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The mean error about the surface, in parts of the mesh's longest side."""
        if self.watched is None:
            points = self._about(WATCHED, SIDE / 100)
            self.watched = points, self.distance(points)
        points, truth = self.watched
        return {"error": float((value(points)[:, 0] - truth).abs().mean()) / SIDE}

    def measure(
        self,
        value: Callable[[Tensor], Tensor],
        slope: Callable[[Tensor], Tensor],
        count: int = MEASURED,
    ) -> DistanceScore:
        """Figures of a field, at points that it did not learn from. slope: its gradient."""
        random = step_generator(self.seed, _HELD_OUT + 2)
        anywhere = torch.rand(count, 3, generator=random)
        truth, near = self.distance(anywhere), self._about(count, SIDE / 100)
        low, high = self.mesh.vertices.amin(0), self.mesh.vertices.amax(0)
        boxed = low + torch.rand(count, 3, generator=random) * (high - low)
        solid, found = self.distance(boxed) < 0, value(boxed)[:, 0] < 0
        surface = sample_surface(self.mesh, count, _HELD_OUT + 3)
        towards = normalize(slope(surface.points.float()).double(), dim=1)
        cosine = (towards * surface.normals).sum(1).clamp(-1, 1)
        scale = self.to_field.scale
        return DistanceScore(
            overlap=float((solid & found).sum()) / max(1, int((solid | found).sum())),
            mean_error=float((value(anywhere)[:, 0] - truth).abs().mean()) / scale,
            mean_error_near=float((value(near)[:, 0] - self.distance(near)).abs().mean()) / scale,
            normal_degrees=float(torch.rad2deg(cosine.arccos()).mean()),
        )

    def distance(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """Signed distances in the unit cube, exact but for their sign where the mesh has holes."""
        kind = self.igl.SIGNED_DISTANCE_TYPE_FAST_WINDING_NUMBER
        found = self.igl.signed_distance(
            points.double().numpy(), self.vertices, self.faces, sign_type=kind
        )
        return torch.from_numpy(np.asarray(found[0])).float()

    def _pool(self, number: int) -> tuple[Tensor, Tensor]:
        random = step_generator(self.seed, _HELD_OUT + 4 + number)
        third = POOL // 3
        surface = self._surface(2 * third, _HELD_OUT + 4 + number).float()
        spread = torch.tensor(NEAR).repeat_interleave(third)[:, None]
        about = surface + spread * torch.randn(2 * third, 3, generator=random)
        points = torch.cat([about.clamp(0, 1), torch.rand(POOL - 2 * third, 3, generator=random)])
        return points, self.distance(points)

    def _about(self, count: int, spread: float) -> Tensor:
        random = step_generator(self.seed, _HELD_OUT)
        surface = self._surface(count, _HELD_OUT).float()
        return (surface + spread * torch.randn(count, 3, generator=random)).clamp(0, 1)

    def _surface(self, count: int, stream: int) -> Tensor:
        return self._samples(count, stream).points

    def _samples(self, count: int, stream: int) -> SurfaceSamples:
        return sample_surface(self.mesh, count, (self.seed * 1_000_003 + stream) % 2**63)


def read_distances(path: Path, seed: int) -> DistanceSource:
    """The distances to the mesh of a file. InputError where there is none."""
    mesh = read_mesh(path)
    return DistanceSource(mesh, unit_cube(mesh, str(path)), seed)


def unit_cube(mesh: Mesh, where: str) -> Similarity:
    """Takes the middle of the mesh's box to that of the unit cube, its longest side to SIDE."""
    vertices = mesh.vertices[mesh.faces.reshape(-1).unique()].double()
    low, high = vertices.amin(0), vertices.amax(0)
    side = float((high - low).max())
    if not 0 < side < 1e30:
        raise InputError(where, f"its longest side is {side:g}", "a mesh of some size")
    scale = SIDE / side
    return Similarity(scale, torch.eye(3, dtype=torch.float64), 0.5 - scale * (low + high) / 2)


def _package() -> ModuleType:
    try:
        import igl
    except ImportError as error:
        purpose = "Learning the distances to a mesh"
        raise MissingExtraError("libigl", "surfaces", purpose) from error
    return igl
