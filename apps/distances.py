"""Distances to a surface, or its inside, as a signal, and how well a field knows them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, normalize

from polyfield.apps.fit_options import Target
from polyfield.apps.formats.mesh_files import read_mesh
from polyfield.apps.formats.point_ply import has_faces, read_points
from polyfield.cuda.errors import InputError
from polyfield.extract.mesh import Mesh
from polyfield.extract.mesh_metrics import SurfaceSamples
from polyfield.extract.shapes import CloudShape, MeshShape, Shape
from polyfield.fields.similarity import Similarity
from polyfield.render.occupancy import step_generator

SIDE = 0.9  # of the unit cube, that the mesh's longest side takes
POOL, PARTS = 3 << 16, 3  # points whose distances are known, and parts that they come in
POOL_STEPS = 512  # after which a part of them gives way to others
NEAR = (0.0025, 0.025)  # standard deviations of points about the surface
SOFT = 0.005  # a distance below which errors count as if it were that large
APART, SLOPES = 0.001, 0.5  # of points that a slope is seen between; weight of its error
WIDER = 0.05  # than the mesh's box, on each side, that solids are compared in
RAMP = 0.004  # how far it is from the middle of an occupancy to 73 % of being inside
PLACES = 1 << 18  # points of the surface that kernels are placed by
WATCHED, MEASURED = 1 << 14, 1 << 17  # points of a figure, while a field learns and at its end
_HELD_OUT = 2**40  # the stream of random numbers that no step uses


@dataclass(frozen=True)
class DistanceScore:
    """How well a field knows the distances to a mesh. Lengths in the mesh's own unit."""

    overlap: float | None
    """Of both solids in the mesh's box and 5 % more, intersection over union; None of distances
    without a sign."""
    mean_error: float | None
    """Of distances, at points of the unit cube; None of an occupancy, which has none."""
    mean_error_near: float | None
    """At points about the surface, of standard deviation a hundredth of its longest side."""
    normal_degrees: float
    """Mean angle between the field's slope and the face's normal, at points of the surface; without
    a sign, between its slope and the true one's, half a hundredth of the side about the surface."""


class DistanceSource:
    """What a field learns of a surface in the unit cube: distances, negative inside; or the inside.

    A quarter of each batch lies on the surface, a quarter APART beside these in any direction, a
    third about the surface at two ranges, the rest anywhere. Distances are exact, but beside the
    surface, where the plane of its face tells them; inside is where the generalised winding number
    is above a half, so that holes do not matter. Errors are taken relative to the distance; from
    points on the surface to those beside them it is the slope whose error counts, which values do
    not show. As `udf` distances lose their sign; as `occupancy` 1 is learned inside, 0 outside, and
    a steep ramp between (a step has no slope that a normal could be read from), of points about the
    surface and anywhere, by cross-entropy. shape: in the unit cube, where to_field takes it.
    """

    pace = 0.1  # faster, the slope of a field is noise that its values do not show

    def __init__(self, shape: Shape, to_field: Similarity, seed: int, target: Target = "sdf"):
        self.shape, self.to_field, self.seed, self.target = shape, to_field, seed, target
        self.parts: dict[int, tuple[int, Tensor, Tensor, Tensor]] = {}
        self.pool: tuple[int, Tensor, Tensor, Tensor] | None = None
        self.watched: tuple[Tensor, Tensor] | None = None

    @property
    def sides(self) -> tuple[float, float, float]:
        """Of the surface's box in the unit cube."""
        x, y, z = (self.shape.high - self.shape.low).tolist()
        return x, y, z

    def batch(self, step: int, count: int) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 1"]]:
        """See Source."""
        number = step // POOL_STEPS
        if self.pool is None or self.pool[0] != number:
            self.pool = number, *self._pool(number)
        _, points, distances, slopes = self.pool
        random = step_generator(self.seed, step)
        if self.target == "occupancy":
            chosen = torch.randint(len(points), (count,), generator=random)
            return points[chosen], self._true(distances[chosen])[:, None]
        pairs = count // 4
        on = pairs if self.target == "sdf" else pairs // 2
        samples = self._samples(on, step)
        chosen = torch.randint(len(points), (count - pairs - on,), generator=random)
        some = chosen[: pairs - on]
        ends = torch.cat([samples.points.float(), points[some]])
        slope = torch.cat([samples.normals.float(), slopes[some]])
        far = torch.cat([torch.zeros(on), distances[some]])
        way = normalize(torch.randn(pairs, 3, generator=random), dim=1)
        beside = (ends + APART * way).clamp(0, 1)
        rise = (slope * (beside - ends)).sum(1)
        others = chosen[pairs - on :]
        x = torch.cat([ends, beside, points[others]])
        wanted = torch.cat([far, far + rise, distances[others]])[:, None]
        return x, wanted if self.target == "sdf" else wanted.abs()

    def error(self, found: Float[Tensor, "n 1"], wanted: Float[Tensor, "n 1"]) -> Tensor:
        """The mean of errors over distances, and of slopes at the surface; of whole batches.

        Of an occupancy, whose logit is found, the cross-entropy.
        Source, of the first: Instant-NGP (arXiv:2201.05989), section 5.
        """
        if self.target == "occupancy":
            return binary_cross_entropy_with_logits(found, wanted)
        off, on = found - wanted, len(found) // 4
        relative = off.abs() / (wanted.abs() + SOFT)
        slopes = (off[on : 2 * on] - off[:on]).abs().mean() / APART
        return torch.cat([relative[:on], relative[2 * on :]]).mean() + SLOPES * slopes

    def variation(self, generator: Generator) -> tuple[Float[Tensor, "n 3"], Float[Tensor, " n"]]:
        """Points of the surface, all alike: near it distances have their detail."""
        return self._surface(PLACES, _HELD_OUT + 1).float(), torch.ones(PLACES)

    def watch(self, value: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The mean error about the surface, in parts of the mesh's longest side, or of 1."""
        if self.watched is None:
            points = self._about(WATCHED, SIDE / 100)
            self.watched = points, self._true(self.distance(points))
        points, truth = self.watched
        found = value(points)[:, 0]
        if self.target == "occupancy":
            return {"error": float((found.sigmoid() - truth).abs().mean())}
        return {"error": float((found - truth).abs().mean()) / SIDE}

    def measure(
        self,
        value: Callable[[Tensor], Tensor],
        slope: Callable[[Tensor], Tensor],
        count: int,
    ) -> DistanceScore:
        """Figures of a field, at points that it did not learn from. slope: its gradient."""
        random = step_generator(self.seed, _HELD_OUT + 2)
        anywhere = torch.rand(count, 3, generator=random)
        near = self._about(count, SIDE / 100)
        low, high = self.shape.low, self.shape.high
        margin = WIDER * (high - low)
        boxed = low - margin + torch.rand(count, 3, generator=random) * (high - low + 2 * margin)
        error = error_near = overlap = None
        if self.target != "occupancy":
            error, error_near = (self._mean_error(value, points) for points in (anywhere, near))
        if self.target != "udf":
            solid, found = self.distance(boxed) < 0, value(boxed)[:, 0]
            filled = found < 0 if self.target == "sdf" else found > 0
            overlap = float((solid & filled).sum()) / max(1, int((solid | filled).sum()))
        surface = self.shape.sample(count, _HELD_OUT + 3)
        points, normals = surface.points.float(), surface.normals
        if self.target == "udf":
            points = self._about(count, SIDE / 200)
            normals = self._distance(points)[1].double()
        towards = normalize(slope(points).double(), dim=1)
        cosine = (towards * normals).sum(1).clamp(-1, 1)
        cosine = -cosine if self.target == "occupancy" else cosine
        degrees = float(torch.rad2deg(cosine.arccos()).mean())
        return DistanceScore(overlap, error, error_near, degrees)

    def distance(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """Exact distances in the unit cube, below 0 inside; as `udf` without a sign."""
        return self._distance(points)[0]

    def _distance(self, points: Tensor) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 3"]]:
        """And their slopes."""
        where = points.double()
        distance, slope = self.shape.distance(where)
        if self.target != "udf":
            sign = torch.where(self.shape.inside(where), -1.0, 1.0)
            distance, slope = sign * distance, sign[:, None] * slope
        return distance.float(), slope.float()

    def _true(self, distance: Tensor) -> Tensor:
        """What is learned where the distance is that."""
        return (-distance / RAMP).sigmoid() if self.target == "occupancy" else distance

    def _mean_error(self, value: Callable[[Tensor], Tensor], points: Tensor) -> float:
        off = value(points)[:, 0] - self._true(self.distance(points))
        return float(off.abs().mean()) / self.to_field.scale

    def _pool(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Points, distances and slopes after `number` changes, whatever was asked for before."""
        for part in range(PARTS):
            latest = number - (number - part) % PARTS  # below 0: one that is there from the start
            if part not in self.parts or self.parts[part][0] != latest:
                self.parts[part] = latest, *self._drawn(latest + PARTS)
        _, points, distances, slopes = zip(*self.parts.values(), strict=True)
        return torch.cat(points), torch.cat(distances), torch.cat(slopes)

    def _drawn(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """A part of the pool: two thirds about the surface, the rest anywhere."""
        random = step_generator(self.seed, _HELD_OUT + 4 + number)
        third = POOL // PARTS // 3
        surface = self._surface(2 * third, _HELD_OUT + 4 + number).float()
        spread = torch.tensor(NEAR).repeat_interleave(third)[:, None]
        about = surface + spread * torch.randn(2 * third, 3, generator=random)
        anywhere = torch.rand(POOL // PARTS - 2 * third, 3, generator=random)
        points = torch.cat([about.clamp(0, 1), anywhere])
        return points, *self._distance(points)

    def _about(self, count: int, spread: float) -> Tensor:
        random = step_generator(self.seed, _HELD_OUT)
        surface = self._surface(count, _HELD_OUT).float()
        return (surface + spread * torch.randn(count, 3, generator=random)).clamp(0, 1)

    def _surface(self, count: int, stream: int) -> Tensor:
        return self._samples(count, stream).points

    def _samples(self, count: int, stream: int) -> SurfaceSamples:
        return self.shape.sample(count, (self.seed * 1_000_003 + stream) % 2**63)


def read_distances(path: Path, seed: int, target: Target = "sdf") -> DistanceSource:
    """The distances to the mesh of a file, or to its points where a .ply has no faces.

    InputError where there is neither, and for points without normals that are to have an inside.
    """
    if path.suffix.lower() == ".ply" and (cloud := _cloud(path)) is not None:
        points, normals = cloud
        to_field = unit_cube(points, str(path))
        if normals is None and target != "udf":
            got = f"{len(points):,} points without normals"
            raise InputError(str(path), got, "normals, which tell the inside", "Learn --as udf.")
        shape: Shape = CloudShape.of(to_field.apply(points), normals)
        return DistanceSource(shape, to_field, seed, target)
    return of_mesh(read_mesh(path), seed, target, str(path))


def of_mesh(mesh: Mesh, seed: int, target: Target = "sdf", where: str = "a mesh") -> DistanceSource:
    """The distances to a mesh. InputError, beginning with `where`, for one without size."""
    to_field = unit_cube(mesh.vertices[mesh.faces.reshape(-1).unique()], where)
    return DistanceSource(MeshShape(mesh.transformed(to_field)), to_field, seed, target)


def unit_cube(points: Float[Tensor, "n 3"], where: str) -> Similarity:
    """Takes the middle of the points' box to that of the unit cube, its longest side to SIDE."""
    points = points.double()
    low, high = points.amin(0), points.amax(0)
    side = float((high - low).max())
    if not 0 < side < 1e30:
        raise InputError(where, f"its longest side is {side:g}", "a surface of some size")
    scale = SIDE / side
    return Similarity(scale, torch.eye(3, dtype=torch.float64), 0.5 - scale * (low + high) / 2)


def _cloud(path: Path) -> tuple[Tensor, Tensor | None] | None:
    """Points and their normals, of a PLY without faces; None of another file."""
    if has_faces(path):
        return None
    found = read_points(path, str(path), normals=True)
    return found.position, found.normal
