"""The demo's solids: each is a core (point, segment, circle, disc, box) grown by a ball.

That one form gives the exact distance, the normal, the exact surface mesh and a quick ray
intersection. World z is up; every solid touches the ground in a single point, so that no surface is
hidden and the surface of the whole scene is the solids' surfaces together.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

Nearest = Callable[[Tensor], Tensor]  # points [n, 3] -> nearest points of the core [n, 3]
Paint = Callable[[Tensor], Tensor]  # points [n, 3] -> linear RGB albedo [n, 3]
Surface = tuple[Tensor, Tensor]  # vertices [v, 3] float64, faces [f, 3] int64


def dot(a: Float[Tensor, "n 3"], b: Float[Tensor, "*n 3"]) -> Float[Tensor, " n"]:
    """Scalar product row by row. As a matrix product it takes a third of the time of a sum."""
    return (a * b) @ a.new_ones(3)


@dataclass(frozen=True, eq=False)
class Solid:
    """All points within `radius` of a core that `nearest` describes in the solid's own frame.

    world = rotation @ own + position; reach is the radius of a sphere around position that holds
    the solid. convex promises a convex core. gloss is the share of light that is mirrored head-on.
    """

    name: str
    nearest: Nearest
    radius: float
    reach: float
    convex: bool
    position: Float[Tensor, " 3"]
    rotation: Float[Tensor, "3 3"]
    paint: Paint
    surface: Surface
    gloss: float = 0.0

    def to_own(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """World points in the solid's frame, in their own dtype."""
        return (points - self.position.to(points.dtype)) @ self.rotation.to(points.dtype)

    def own_gap(
        self, own: Float[Tensor, "n 3"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 3"]]:
        """Signed distance of points of the solid's frame and its gradient (unit, outwards) there.

        Negative inside; exact wherever it is above -radius.
        """
        away = own - self.nearest(own)
        length = dot(away, away).sqrt()
        return length - self.radius, away / length.clamp(min=1e-12)[:, None]

    def distance(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """Signed distance of world points, as `own_gap` has it."""
        return self.own_gap(self.to_own(points))[0]

    def normal(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Unit outward normal of the distance's level through world points."""
        return self.own_gap(self.to_own(points))[1] @ self.rotation.T.to(points.dtype)

    def albedo(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Linear RGB reflectance in [0, 1] of world points on the surface."""
        return self.paint(self.to_own(points))

    def mesh(self) -> Surface:
        """The exact surface in the world: vertices on it, faces counter-clockwise from outside."""
        vertices, faces = self.surface
        return vertices @ self.rotation.T.double() + self.position.double(), faces


# Cores. Each function maps points to the core's nearest point.


def to_point(points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """The origin: grown, a ball."""
    return torch.zeros_like(points)


def to_segment(half: float) -> Nearest:
    """The segment |z| <= half of the z axis: grown, a capsule."""

    def nearest(points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        kept = torch.zeros_like(points)
        kept[:, 2] = points[:, 2].clamp(-half, half)
        return kept

    return nearest


def to_disc(radius: float) -> Nearest:
    """The flat disc z = 0: grown, a slab with a round rim."""

    def nearest(points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        flat = points * points.new_tensor([1.0, 1.0, 0.0])
        return flat * (radius / dot(flat, flat).sqrt()[:, None].clamp(min=radius))

    return nearest


def to_circle(radius: float) -> Nearest:
    """The circle in the plane z = 0: grown, a torus."""

    def nearest(points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        flat = points * points.new_tensor([1.0, 1.0, 0.0])
        return flat * (radius / dot(flat, flat).sqrt()[:, None].clamp(min=1e-12))

    return nearest


def to_box(half: float) -> Nearest:
    """The cube |x|, |y|, |z| <= half: grown, a cube with round edges."""
    return lambda points: points.clamp(-half, half)


# Surfaces. Curved ones are cut so finely that a chord leaves the surface by less than 2e-4.


def turned(profile: Float[Tensor, "k 2"], segments: int, ring: bool = False) -> Surface:
    """The surface of revolution of a profile of (distance from the z axis, z) in the own frame.

    An open profile runs from a point of the axis below to one above, outside on its right hand;
    a ring's is closed, counter-clockwise, and stays off the axis.
    """
    angle = torch.arange(segments).double() * (2 * math.pi / segments)
    inner = profile if ring else profile[1:-1]
    x, y = inner[:, :1] * angle.cos(), inner[:, :1] * angle.sin()
    vertices = torch.stack([x, y, inner[:, 1:].expand_as(x)], 2).reshape(-1, 3)
    rows = len(inner)
    low = torch.arange(rows if ring else rows - 1)
    high = (low + 1) % rows
    here, there = torch.arange(segments), (torch.arange(segments) + 1) % segments

    def corner(row: Tensor, column: Tensor) -> Tensor:
        return (row[:, None] * segments + column[None, :]).reshape(-1)

    a, b, c, d = (corner(r, s) for r in (low, high) for s in (here, there))
    faces = [torch.stack([a, b, d], 1), torch.stack([a, d, c], 1)]
    if not ring:
        bottom, top = len(vertices), len(vertices) + 1
        vertices = torch.cat([vertices, profile.new_tensor([[0, 0, 1]]) * profile[[0, -1], 1:]])
        last = (rows - 1) * segments
        faces.append(torch.stack([torch.full_like(here, bottom), there, here], 1))
        faces.append(torch.stack([torch.full_like(here, top), last + here, last + there], 1))
    return vertices, torch.cat(faces)


def arc(radius: float, start: float, stop: float, steps: int) -> Float[Tensor, "k 2"]:
    """Points of a circle around the origin of (distance, z), degrees from the first axis."""
    angle = torch.linspace(math.radians(start), math.radians(stop), steps + 1).double()
    return radius * torch.stack([angle.cos(), angle.sin()], 1)


def ball_surface(radius: float, steps: int = 72) -> Surface:
    """A sphere around the origin."""
    return turned(_on_axis(arc(radius, -90.0, 90.0, steps)), 2 * steps)


def capsule_surface(radius: float, half: float) -> Surface:
    """A capsule along z: half is that of its segment."""
    lower = arc(radius, -90.0, 0.0, 24) - torch.tensor([0, half]).double()
    upper = arc(radius, 0.0, 90.0, 24) + torch.tensor([0, half]).double()
    side = _between(lower[-1], upper[0], 24)
    return turned(_on_axis(torch.cat([lower, side, upper])), 96)


def slab_surface(radius: float, disc: float) -> Surface:
    """A slab with round rim, 2 * radius thick, around a disc in the plane z = 0."""
    rim = arc(radius, -90.0, 90.0, 20) + torch.tensor([disc, 0]).double()
    under = _between(torch.tensor([0, -radius]).double(), rim[0], 40)
    over = _between(rim[-1], torch.tensor([0, radius]).double(), 40)
    axis = torch.tensor([[0, -radius], [0, radius]]).double()
    return turned(torch.cat([axis[:1], under, rim, over, axis[1:]]), 240)


def torus_surface(radius: float, circle: float) -> Surface:
    """A torus around a circle in the plane z = 0."""
    profile = arc(radius, 0.0, 360.0, 60)[:-1] + torch.tensor([circle, 0]).double()
    return turned(profile, 180, ring=True)


def cube_surface(radius: float, half: float) -> Surface:
    """A cube with round edges: half is that of the core, radius that of the edges."""
    # Coordinates along an edge of the outer cube, dense where it is round. tan: even arcs.
    bend = radius * torch.linspace(0, math.pi / 4, 9).double().tan()
    flat = torch.linspace(-half, half, 13).double()[1:-1]
    grid = torch.cat([-(half + bend).flip(0), flat, half + bend])
    n = len(grid)
    i, j = (t.reshape(-1) for t in torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij"))
    cells = ((i < n - 1) & (j < n - 1)).nonzero()[:, 0]
    quads = torch.stack([cells, cells + n, cells + n + 1, cells + 1], 1)
    lattice: list[Tensor] = []
    faces: list[Tensor] = []
    for axis in range(3):
        for end in (0, n - 1):
            points = torch.empty(n * n, 3, dtype=torch.int64)
            points[:, axis], points[:, (axis + 1) % 3], points[:, (axis + 2) % 3] = end, i, j
            around = quads if end else quads.flip(1)
            faces.append(around[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3) + n * n * len(lattice))
            lattice.append(points)
    # Sides share their edges: equal lattice points become one vertex, without any tolerance.
    unique, index = torch.unique(torch.cat(lattice), dim=0, return_inverse=True)
    outer = grid[unique]
    core = outer.clamp(-half, half)
    return core + radius * normalize(outer - core, dim=1), index[torch.cat(faces)]


def _between(
    start: Float[Tensor, " 2"], stop: Float[Tensor, " 2"], steps: int
) -> Float[Tensor, "k 2"]:
    """Points strictly between two points of a profile."""
    at = torch.arange(1, steps).double()[:, None] / steps
    return start + at * (stop - start)


def _on_axis(profile: Float[Tensor, "k 2"]) -> Float[Tensor, "k 2"]:
    """The profile with its ends exactly on the axis, where the cosine of 90 degrees is not zero."""
    profile = profile.clone()
    profile[[0, -1], 0] = 0
    return profile


def merged(surfaces: list[Surface]) -> tuple[Float[Tensor, "v 3"], Int[Tensor, "f 3"]]:
    """Several closed surfaces as one list of vertices and faces."""
    starts = torch.tensor([0, *(len(vertices) for vertices, _ in surfaces)]).cumsum(0)
    faces = [faces + start for (_, faces), start in zip(surfaces, starts[:-1], strict=True)]
    return torch.cat([vertices for vertices, _ in surfaces]), torch.cat(faces)
