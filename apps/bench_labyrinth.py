"""How long a large sparse surface takes, and how much memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from time import perf_counter

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.apps.memory import peak_resident_bytes
from polyfield.extract.marching_cubes import distance_mesh
from polyfield.extract.mesh_checks import edge_numbers

SIDE = 1024
STEEPEST = 1.16  # a little above 2 / sqrt(3)
SECONDS, BYTES = 60.0, 2e9  # what it may take


@dataclass(frozen=True)
class LargeSurface:
    """The labyrinth, cut once."""

    cells: int
    """A side of the lattice."""
    points: int
    """That the field was asked for."""
    seconds: float
    peak_bytes: int
    """Resident memory of this process, at most, until the mesh was there."""
    vertices: int
    faces: int
    open_edges: int
    """With one face."""
    crowded_edges: int
    """With more than two."""
    within: bool
    """60 s, 2 GB, and no open edge."""


def labyrinth(x: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
    """A gyroid of four periods a side of the unit cube, in a ball: below 0 inside.

    In sides of the cube; it changes by at most 2 / sqrt(3).
    """
    p = 2 * x - 1
    k = 4 * math.pi
    sine, cosine = torch.sin(k * p), torch.cos(k * p)
    gyroid = (sine * cosine.roll(-1, 1)).sum(1) / (1.5 * k)
    return torch.maximum(p.norm(dim=1) - 0.9, gyroid) / 2


def cut_labyrinth(cells: int = SIDE) -> LargeSurface:
    """Block by block, where it may run. Prints nothing."""
    asked = 0

    def counted(x: Tensor) -> Tensor:
        nonlocal asked
        asked += len(x)
        return labyrinth(x)

    begin = perf_counter()
    mesh = distance_mesh(counted, cells, STEEPEST)
    seconds, peak = perf_counter() - begin, peak_resident_bytes()
    faces = mesh.faces
    ends = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).sort(1).values
    count = edge_numbers(ends).unique(return_counts=True)[1]
    opened = int((count == 1).sum())
    return LargeSurface(
        cells=cells,
        points=asked,
        seconds=seconds,
        peak_bytes=peak,
        vertices=len(mesh.vertices),
        faces=len(faces),
        open_edges=opened,
        crowded_edges=int((count > 2).sum()),
        within=seconds <= SECONDS and peak <= BYTES and opened == 0,
    )


def labyrinth_summary(row: dict) -> str:
    """For the terminal."""
    verdict = "within" if row["within"] else "NOT WITHIN"
    return (
        f"a labyrinth in a ball, {row['cells']:,} cells a side: {row['seconds']:.1f} s, "
        f"{row['peak_bytes'] / 1e9:.2f} GB at most ({verdict} {SECONDS:g} s and "
        f"{BYTES / 1e9:g} GB), {row['points']:,} points asked for; {row['vertices']:,} vertices, "
        f"{row['faces']:,} faces, {row['open_edges']:,} open edges, "
        f"{row['crowded_edges']:,} with more than two faces"
    )
