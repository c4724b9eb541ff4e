"""Whether a mesh is what its maker promised: closed, oriented, of a known topology and volume."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def edge_numbers(edges: Int64[Tensor, "n 2"]) -> Int64[Tensor, " n"]:
    """A number for each edge, its own, in the order of edges: sorted faster than rows are."""
    most = int(edges.max()) + 1 if len(edges) else 1
    return edges[:, 0] * most + edges[:, 1]


def _directed_edges(faces: Int64[Tensor, "f 3"]) -> Int64[Tensor, "sides 2"]:
    return torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])


def is_closed_and_oriented(faces: Int64[Tensor, "f 3"]) -> bool:
    """Whether every edge has two faces that run along it in opposite directions.

    So there is no hole, no edge with three or more faces, and neighbours agree on the outside.
    """
    edges = _directed_edges(faces)
    distinct = edge_numbers(edges).unique()
    back = edge_numbers(edges.flip(1)).unique()
    return len(distinct) == len(edges) and torch.equal(distinct, back)


def euler_characteristic(faces: Int64[Tensor, "f 3"]) -> int:
    """Vertices in use - edges + faces: 2 a closed sphere, 0 a torus, summed over components."""
    edges = edge_numbers(_directed_edges(faces).sort(1).values).unique()
    return len(faces.unique()) - len(edges) + len(faces)


def enclosed_volume(vertices: Float[Tensor, "v 3"], faces: Int64[Tensor, "f 3"]) -> float:
    """Volume inside a closed surface; negative where its faces look inward."""
    if not len(faces):
        return 0.0
    # About the mesh's own middle: far from the origin the tetrahedra's sum would lose its digits.
    middle = vertices.double().mean(0)
    a, b, c = (vertices.double() - middle)[faces].unbind(1)
    return float((a * torch.linalg.cross(b, c)).sum() / 6)
