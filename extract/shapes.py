"""Surfaces that know how far points are from them, and which lie inside: triangles, or points."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor
from torch.nn.functional import normalize

from polyfield.cuda.errors import InputError, MissingExtraError
from polyfield.cuda.nearest import CenterTree, center_tree, nearest
from polyfield.extract.mesh import Mesh
from polyfield.extract.mesh_metrics import SurfaceSampler, SurfaceSamples

INSIDE = 0.5  # of the winding number, above which a point is
RIM = 12  # neighbours whose plane a point without a normal lies in
NEAREST = 6  # discs that may be the nearest
COVERED = 1.6  # radii that a disc reaches: points strewn at random leave gaps between the others
LEAST_POINTS = 64
PIECE = 1 << 15  # points at once


@runtime_checkable
class Shape(Protocol):
    """A surface as fields learn it, in the unit cube."""

    @property
    def low(self) -> Float[Tensor, " 3"]:
        """Corner of its box."""
        ...

    @property
    def high(self) -> Float[Tensor, " 3"]:
        """The other corner."""
        ...

    @property
    def area(self) -> float:
        """Of all of it."""
        ...

    def sample(self, count: int, seed: int) -> SurfaceSamples:
        """Points uniform over it, with unit normals; a function of count and seed."""
        ...

    def distance(
        self, x: Float64[Tensor, "n 3"]
    ) -> tuple[Float64[Tensor, " n"], Float64[Tensor, "n 3"]]:
        """How far points are from it, at least 0, and the unit vectors away from it."""
        ...

    def inside(self, x: Float64[Tensor, "n 3"]) -> Bool[Tensor, " n"]:
        """Where the generalised winding number is above a half."""
        ...


class MeshShape:
    """The triangles of a mesh. Raises MissingExtraError without the package that knows them."""

    def __init__(self, mesh: Mesh):
        self.igl = libigl("Learning the distances to a mesh")
        self.mesh, self.sampler = mesh, SurfaceSampler.of(mesh)
        self.arrays = mesh.vertices.double().numpy(), mesh.faces.numpy()
        corners = mesh.vertices[mesh.faces.reshape(-1).unique()]
        self.low, self.high = corners.amin(0), corners.amax(0)
        self.area = float(self.sampler.running[-1])

    def sample(self, count: int, seed: int) -> SurfaceSamples:
        """See Shape."""
        return self.sampler.sample(count, seed)

    def distance(
        self, x: Float64[Tensor, "n 3"]
    ) -> tuple[Float64[Tensor, " n"], Float64[Tensor, "n 3"]]:
        """Exact."""
        # libigl's signed distance is multiplied by 1 - 2 |winding number|: wrong beside holes.
        found = self.igl.point_mesh_squared_distance(x.numpy(), *self.arrays)[2]
        away = x - torch.from_numpy(found)
        return away.norm(dim=1), normalize(away, dim=1, eps=1e-60)

    def inside(self, x: Float64[Tensor, "n 3"]) -> Bool[Tensor, " n"]:
        """Of a mesh with holes as of one without; turned inside out as well."""
        winding = torch.from_numpy(self.igl.fast_winding_number(*self.arrays, x.numpy()))
        return winding.abs() > INSIDE


@dataclass(frozen=True, eq=False)
class CloudShape:
    """Points as small discs in their tangent planes, which together cover the surface."""

    points: Float64[Tensor, "n 3"]
    normals: Float64[Tensor, "n 3"]
    radius: Float64[Tensor, " n"]
    oriented: bool
    """Normals point out; if not, either way, and nothing is known to be inside."""

    @classmethod
    def of(
        cls, points: Float64[Tensor, "n 3"], normals: Float64[Tensor, "n 3"] | None
    ) -> CloudShape:
        """Discs as wide as points lie apart; without normals, in the planes of neighbours.

        Raises InputError for too few points, and for normals without direction.
        """
        if len(points) < LEAST_POINTS:
            raise InputError("a cloud", f"{len(points)} points", f"at least {LEAST_POINTS}")
        tree = center_tree(points.float())
        parts = [_neighbourhood(part, points, tree) for part in points.split(PIECE)]
        radius, planes = (torch.cat(each) for each in zip(*parts, strict=True))
        if normals is None:
            return cls(points, planes, radius, False)
        length = normals.norm(dim=1, keepdim=True)
        if not bool((length > 0).all() & length.isfinite().all()):
            raise InputError("a cloud", "normals without direction", "unit normals, or none")
        return cls(points, normals / length, radius, True)

    @cached_property
    def tree(self) -> CenterTree:
        """Of the points: what makes the nearest quick to find."""
        return center_tree(self.points.float())

    @property
    def low(self) -> Float[Tensor, " 3"]:
        """Of the points."""
        return self.points.amin(0).float()

    @property
    def high(self) -> Float[Tensor, " 3"]:
        """Of the points."""
        return self.points.amax(0).float()

    @property
    def area(self) -> float:
        """Of all discs."""
        return float(torch.pi * self.radius.square().sum())

    def sample(self, count: int, seed: int) -> SurfaceSamples:
        """Points of discs, by their areas."""
        random = torch.Generator().manual_seed(seed)
        running = self.radius.square().cumsum(0)
        draw = torch.rand(2, count, generator=random, dtype=torch.float64)
        share = (torch.arange(count) + draw[0]) / count * running[-1]
        row = torch.searchsorted(running, share, right=True).clamp(max=len(running) - 1)
        normal = self.normals[row]
        way = torch.randn(count, 3, generator=random, dtype=torch.float64)
        way = normalize(way - (way * normal).sum(1, keepdim=True) * normal, dim=1)
        off = (self.radius[row] * draw[1].sqrt())[:, None] * way
        return SurfaceSamples(self.points[row] + off, normal)

    def distance(
        self, x: Float64[Tensor, "n 3"]
    ) -> tuple[Float64[Tensor, " n"], Float64[Tensor, "n 3"]]:
        """To the nearest of the discs about the nearest points."""
        parts = [self._distance(part) for part in x.split(PIECE)]
        distance, slope = (torch.cat(each) for each in zip(*parts, strict=True))
        return distance, slope

    def inside(self, x: Float64[Tensor, "n 3"]) -> Bool[Tensor, " n"]:
        """By discs in place of triangles. InputError without normals."""
        if not self.oriented:
            got = "points without normals"
            raise InputError("a cloud", got, "normals, which tell the inside", "Learn --as udf.")
        igl = libigl("What is inside of points")
        areas = torch.pi * self.radius.square()
        winding = igl.fast_winding_number(
            self.points.numpy(), self.normals.numpy(), areas.numpy(), x.numpy()
        )
        return torch.from_numpy(winding) > INSIDE

    def _distance(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rows = nearest(x.float(), self.tree, NEAREST).long()
        away = x[:, None] - self.points[rows]
        normal = self.normals[rows]
        height = (away * normal).sum(2, keepdim=True)
        across = away - height * normal
        aside = across.norm(dim=2, keepdim=True)
        beyond = (aside - COVERED * self.radius[rows][..., None]).clamp_min(0)
        vectors = height * normal + beyond * across / aside.clamp_min(1e-30)
        distance, best = vectors.norm(dim=2).min(1)
        chosen = vectors[torch.arange(len(x)), best]
        return distance, normalize(chosen, dim=1, eps=1e-60)


def _neighbourhood(
    some: Tensor, points: Tensor, tree: CenterTree
) -> tuple[Float64[Tensor, " n"], Float64[Tensor, "n 3"]]:
    """Of some of the points: the radius of a disc, and the normal of the plane of neighbours."""
    around = points[nearest(some.float(), tree, RIM + 1).long()] - some[:, None]
    # A disc's share of the area that its neighbours fill.
    radius = around.norm(dim=2).amax(1) / RIM**0.5
    _, axes = torch.linalg.eigh(around.mT @ around)
    return radius.clamp_min(1e-9), axes[:, :, 0]


def libigl(purpose: str) -> ModuleType:
    """The package that knows meshes. Raises MissingExtraError, which names the purpose."""
    try:
        import igl
    except ImportError as error:
        raise MissingExtraError("libigl", "surfaces", purpose) from error
    return igl
