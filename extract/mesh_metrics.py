"""How close a mesh comes to the true one, by samples of both surfaces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn.functional import normalize

from polyfield.cuda.errors import InputError
from polyfield.extract.mesh import Mesh
from polyfield.extract.neighbours import nearest

SAMPLES = 100_000  # of each surface, unless told otherwise


class SurfaceSamples(NamedTuple):
    """Points spread over a surface, and the unit outward normal of the face under each."""

    points: Float64[Tensor, "n 3"]
    normals: Float64[Tensor, "n 3"]


class FScore(NamedTuple):
    """Share of the mesh near the truth, of the truth near the mesh, and their harmonic mean."""

    precision: float
    recall: float
    f_score: float


@dataclass(frozen=True)
class MeshScore:
    """What compare_meshes measured, with what it depends on. Lengths in the meshes' own unit."""

    chamfer_l1: float
    precision: float
    recall: float
    f_score: float
    normal_consistency: float
    threshold: float
    samples: int
    chamfer_floor: float
    """About the Chamfer distance between two samplings of one surface: less cannot be told."""


@dataclass(frozen=True, eq=False)
class SurfaceSampler:
    """A surface made ready to draw points from, again and again."""

    corners: Float64[Tensor, "f 3 3"]
    normals: Float64[Tensor, "f 3"]
    running: Float64[Tensor, " f"]
    """Area of all faces up to each."""

    @classmethod
    def of(cls, mesh: Mesh) -> SurfaceSampler:
        """Raises InputError for a mesh without any area."""
        vectors = mesh.face_vectors()
        area = vectors.norm(dim=1)
        if not len(area) or not 0 < float(area.sum()) < torch.inf:
            raise InputError(
                "sample_surface", f"{len(area)} faces", "a mesh with a positive, finite area"
            )
        corners = mesh.vertices.double()[mesh.faces]
        return cls(corners, normalize(vectors, dim=1, eps=1e-60), area.cumsum(0))

    def sample(self, count: int, seed: int) -> SurfaceSamples:
        """Points uniform over the area, one in each of `count` equal shares of it."""
        generator = torch.Generator().manual_seed(seed)
        device = self.running.device
        draw = torch.rand(3, count, generator=generator, dtype=torch.float64).to(device)
        share = (torch.arange(count, device=device) + draw[0]) / count * self.running[-1]
        face = torch.searchsorted(self.running, share, right=True).clamp(max=len(self.normals) - 1)
        # The square root spreads points evenly from a corner to the opposite side.
        root, v = draw[1].sqrt(), draw[2]
        weights = torch.stack([1 - root, root * (1 - v), root * v], 1)
        points = (self.corners[face] * weights[..., None]).sum(1)
        return SurfaceSamples(points, self.normals[face])


def sample_surface(mesh: Mesh, count: int = SAMPLES, seed: int = 0) -> SurfaceSamples:
    """Points uniform over the area, with face normals; a function of mesh, count and seed.

    One point in each of `count` equal shares of the area. Raises InputError for a mesh without any.
    """
    return SurfaceSampler.of(mesh).sample(count, seed)


def f_score(
    mesh: Mesh, truth: Mesh, threshold: float, count: int = SAMPLES, seed: int = 0
) -> FScore:
    """Precision, recall and F-score at a threshold, in the meshes' unit, from `count` samples each.

    Precision is the share of the mesh's samples with a sample of the truth closer than the
    threshold, recall the same the other way. A mesh without faces scores 0. Raises InputError for a
    threshold that is not positive or a truth without area.
    """
    if not threshold > 0:
        raise InputError("f_score: threshold", str(threshold), "a positive length")
    theirs = sample_surface(truth, count, seed + 1).points
    if not len(mesh.faces):
        return FScore(0.0, 0.0, 0.0)
    ours = sample_surface(mesh, count, seed).points
    return _f_score(
        nearest(ours, theirs, threshold).distance,
        nearest(theirs, ours, threshold).distance,
        threshold,
    )


def compare_meshes(
    mesh: Mesh, truth: Mesh, threshold: float, count: int = SAMPLES, seed: int = 0
) -> MeshScore:
    """Chamfer-L1, F-score and normal consistency from `count` samples of each surface.

    Chamfer-L1 is the mean of both directions' mean distances (not their sum). Normal consistency is
    the mean of |n . n'| over nearest samples, both directions averaged, from face normals. Raises
    InputError as sample_surface does for either mesh.
    """
    return compare_at(mesh, truth, (threshold,), count, seed)[0]


def compare_at(
    mesh: Mesh,
    truth: Mesh,
    thresholds: tuple[float, ...],
    count: int = SAMPLES,
    seed: int = 0,
) -> tuple[MeshScore, ...]:
    """As `compare_meshes`, at several thresholds of the F-score: neighbours are found once."""
    for threshold in thresholds:
        if not threshold > 0:
            raise InputError("compare_meshes: threshold", str(threshold), "a positive length")
    ours, theirs = sample_surface(mesh, count, seed), sample_surface(truth, count, seed + 1)
    to_truth, to_mesh = nearest(ours.points, theirs.points), nearest(theirs.points, ours.points)
    agreement = [
        float((a.normals * b.normals[found.row]).sum(1).abs().mean())
        for a, b, found in ((ours, theirs, to_truth), (theirs, ours, to_mesh))
    ]
    area = float(truth.face_vectors().norm(dim=1).sum())
    return tuple(
        MeshScore(
            chamfer_l1=float(to_truth.distance.mean() + to_mesh.distance.mean()) / 2,
            **_f_score(to_truth.distance, to_mesh.distance, threshold)._asdict(),
            normal_consistency=sum(agreement) / 2,
            threshold=threshold,
            samples=count,
            chamfer_floor=0.5 * (area / count) ** 0.5,
        )
        for threshold in thresholds
    )


def _f_score(
    to_truth: Float[Tensor, " n"], to_mesh: Float[Tensor, " m"], threshold: float
) -> FScore:
    precision = float((to_truth < threshold).double().mean())
    recall = float((to_mesh < threshold).double().mean())
    total = precision + recall
    return FScore(precision, recall, 2 * precision * recall / total if total else 0.0)
